"""Compare a GRPO step of this package with one of TRL's GRPOTrainer: CPU seconds, memory, gradients.

    python -m benchmarks.grpo_vs_trl [--fast] [--json]          needs TRL: pip install -e '.[trl]'
    python -m benchmarks.grpo_vs_trl --bf16                     ours in bf16 against ours in fp32

Both sides have the same weights, prompts (equal ids, tool schema included), group size, tool and tool answers, tokens
per turn, temperature, micro-batch, AdamW, loss (token mean, no KL, no sigma), fp32 and one thread. Neither side
suppresses a stop token. They sample different tokens by chance, so the ratios are of CPU seconds per sampled token.

    single turn   a chat prompt of about 80 tokens, 64 new tokens, untrained weights
    multi-turn    a request with a tool's schema, two look-ups in the user's memory, an answer; the model has
                  learned in some supervised steps to call the tool

The arms are separate processes that take turns making steps; the first step is dropped. In the table, `rollout` is the
time until the advantages are computed, and `update` is the rest of the step. Before timing, `prove` compares the two
sides: prompt ids, tool-answer ids, and the gradient of the loss on one batch of episodes.

Our side uses the package's `rollout`, `LMActor`, `to_batch`, `token_logprobs`, `group_advantages` and `grpo_loss`. Two
parts are written for this file only: `ChatGrammar`, which uses the same chat template as TRL, and a toy memory.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks.common import (
    QUIET,
    ROOT,
    VOCABULARY,
    answers,
    asked,
    at_most,
    claim,
    document,
    finish,
    fresh_model,
    in_turns,
    median,
    peak_megabytes,
    show,
)
from mrrec_mini.datatypes import Episode, MemoryEntry, Query
from mrrec_mini.grammar import Final, Malformed, Search, Turn

HERE = "benchmarks.grpo_vs_trl"
TARGETS = {"single": 2.0, "multi": 3.0}  # CPU seconds of TRL / ours


@dataclass(frozen=True)
class Task:
    """One row of the table."""

    size: str  # of the model, a key of common.SIZES
    calls: int  # look-ups; 0: single turn without a tool
    prompts: int  # per step
    new_tokens: int  # at most so many per turn
    temperature: float
    steps: int = 4  # the first is dropped
    group: int = 8
    micro: int = 64  # rows of a micro-batch
    warm_steps: int = 0  # supervised steps before the measurement

    @property
    def kind(self) -> str:
        return "multi" if self.calls else "single"

    @property
    def rows(self) -> int:
        return self.prompts * self.group

    @property
    def parts(self) -> int:
        return max(1, self.rows // self.micro)


FULL = (
    Task("1M", calls=0, prompts=64, new_tokens=64, temperature=1.0),
    Task("10M", calls=0, prompts=16, new_tokens=64, temperature=1.0),
    Task("1M", calls=2, prompts=8, new_tokens=48, temperature=0.7, warm_steps=80),
    Task("10M", calls=2, prompts=4, new_tokens=48, temperature=0.7, warm_steps=40, micro=32),
)
FAST = (
    Task("1M", calls=0, prompts=8, new_tokens=64, temperature=1.0, steps=3),
    Task("1M", calls=2, prompts=4, new_tokens=48, temperature=0.7, steps=3, micro=32, warm_steps=60),
)
LOSS = {"sigma": "none", "length": "token", "clip": (0.2, 0.28)}  # `make_trainer` has TRL's names for them


# --- the world: people, facts, a tool --------------------------------------------------------------------------------

ASPECTS = ("colour", "size", "material", "price", "brand", "weight", "style", "finish")
VALUES = ("red", "blue", "small", "large", "wood", "steel", "cheap", "fine", "light", "plain", "soft", "matt")
ITEMS = ("mug", "lamp", "tent", "chair", "desk", "jacket", "bag", "clock", "knife", "pillow", "rug", "bottle")
USES = ("hiking", "travel", "winter", "work", "a gift", "the kitchen", "the garden", "a small room")
WORDS = tuple(
    a + b + c for a in ("ba", "ko", "mi", "ru", "te", "vo") for b in "lnrst" for c in ("an", "el", "op", "ud")
)


def look_up(facts: dict, user: str, aspect: str) -> str:
    """Return the tool's answer; both sides call this function."""
    return facts.get(user, {}).get(aspect, "nothing is known")


class MemoryTool:
    """TRL's environment for one episode. `search_memory` is the tool; the prompt's schema comes from its docstring."""

    def __init__(self, facts: dict):
        self._facts = facts

    def reset(self, user: str, **row) -> None:
        self._user = user

    def search_memory(self, aspect: str) -> str:
        """
        Look up what this person likes.

        Args:
            aspect: What to look up, for example colour or size.
        """
        return look_up(self._facts, self._user, aspect)


class ToyMemory:
    """The same memory for our `rollout`, with the two methods of `Memory` that `rollout` calls."""

    def __init__(self, facts: dict):
        self.facts = facts

    def search_global(self, text: str, k: int) -> tuple[MemoryEntry, ...]:
        return ()

    def search_many(self, asked: Sequence[tuple[Query, str]], k: int) -> list[tuple[MemoryEntry, ...]]:
        return [
            (MemoryEntry(f"{query.user}/{aspect}", query.user, "record", look_up(self.facts, query.user, aspect)),)
            for query, aspect in asked
        ]


class ChatGrammar:
    """Has the interface of `grammar.Grammar`, but uses TRL's chat template, so that both arms see the same ids."""

    def __init__(self, tokenizer, template: str, tools: list[Callable] | None):
        self.tokenizer, self.template, self.tools = tokenizer, template, tools
        self.stop = (tokenizer.eos_token_id,)
        self.opens, self.closes = tokenizer.convert_tokens_to_ids(["<tool_call>", "</tool_call>"])
        self._prompts: dict[str, list[int]] = {}  # a cache, because a group shares its prompt

    def prompt(self, query_text: str, global_entries: Sequence[MemoryEntry]) -> list[int]:
        if query_text not in self._prompts:
            self._prompts[query_text] = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": query_text}],
                tools=self.tools,
                chat_template=self.template,
                add_generation_prompt=True,
                return_dict=False,
            )
        return list(self._prompts[query_text])

    def reply(self, entries: Sequence[MemoryEntry], first: int) -> list[int]:
        found = "\n".join(entry.text for entry in entries)
        return self._ids(
            f"\n<|im_start|>user\n<tool_response>\n{found}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
        )

    def write_search(self, aspect: str) -> list[int]:
        call = json.dumps({"name": "search_memory", "arguments": {"aspect": aspect}})
        return self._ids(f"<tool_call>\n{call}\n</tool_call><|im_end|>")

    def write_final(self, profile: str) -> list[int]:
        return self._ids(f"{profile}<|im_end|>")

    def parse(self, ids: Sequence[int], shown: int) -> Turn:
        ids = list(ids)
        if not ids or ids[-1] not in self.stop:
            return Malformed("a turn did not stop")
        if self.opens not in ids:
            return Final("", self.tokenizer.decode(ids[:-1]), ())
        start = ids.index(self.opens)
        end = ids.index(self.closes, start) if self.closes in ids[start:] else len(ids)
        try:
            call = json.loads(self.tokenizer.decode(ids[start + 1 : end]))
            return Search("", str(call["arguments"]["aspect"]))
        except (ValueError, TypeError, KeyError):
            return Malformed("a malformed call")

    def _ids(self, text: str) -> list[int]:
        # template and content in one string, as TRL does, for equal ids; the package tokenises them separately
        return self.tokenizer.encode(text, add_special_tokens=False)


def variety(tokens: Sequence[int]) -> float:
    """Return the share of distinct tokens: a reward that differs between episodes. `tokens` follow the prompt."""
    return len(set(tokens)) / max(1, len(tokens))


# --- preparation: one folder per task, read by every arm -------------------------------------------------------------


def prepare(task: Task, folder: Path) -> None:
    """Write the task, its facts and requests, chat template, tokenizer and weights to `folder`."""
    import torch

    # 1. people, facts and requests
    rng = random.Random(0)
    facts = {f"user{u}": {a: f"{rng.choice(VALUES)} and {rng.choice(VALUES)}" for a in ASPECTS} for u in range(32)}
    texts = [_request(task, rng) for _ in range(task.prompts * task.steps)]
    rows = [{"text": text, "user": f"user{i % 32}"} for i, text in enumerate(texts)]
    (folder / "task.json").write_text(json.dumps({"task": asdict(task), "facts": facts, "rows": rows}), "utf-8")
    # 2. template and tokenizer
    shutil.copyfile(_trl_templates() / "qwen3_training.jinja", folder / "template.jinja")
    _tokenizer(rng, facts).save_pretrained(folder / "tokenizer")
    # 3. weights, after the supervised steps
    world = World(folder)
    model = fresh_model(task.size)
    model.config.eos_token_id = model.generation_config.eos_token_id = world.grammar.stop[0]
    if task.warm_steps:
        torch.manual_seed(0)
        print(f"{task.kind} {task.size}: last loss of {task.warm_steps} supervised steps", warm(model, world, rng))
    model.save_pretrained(folder / "model")


def _request(task: Task, rng: random.Random) -> str:
    if task.calls:
        return f"Find a {rng.choice(ITEMS)} for {rng.choice(USES)}, {rng.choice(WORDS)} {rng.choice(WORDS)}."
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(62, 78)))


def _trl_templates() -> Path:
    found = find_spec("trl")
    if found is None:
        raise SystemExit("this benchmark needs TRL: pip install -e '.[trl]'")
    return Path(found.submodule_search_locations[0]) / "chat_templates"


def _tokenizer(rng: random.Random, facts: dict):
    """Train a byte-level BPE tokenizer. Its chat template is an exact copy of one whose answers TRL can parse."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]
    template = (_trl_templates() / "qwen3.jinja").read_text("utf-8")
    syllables = [a + b for a in "bcdfghklmnprstvw" for b in ("a", "e", "i", "o", "u", "ai", "ou")]
    filler = ["".join(rng.choices(syllables, k=3)) for _ in range(1500)]
    corpus = [template, json.dumps(facts), *_common_texts(), *[" ".join(WORDS)] * 20, " ".join(filler * 2)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, initial_alphabet=alphabet, special_tokens=special, show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=special
    )
    tokenizer.chat_template = template
    return tokenizer


def _common_texts() -> list[str]:
    """Return so many sentences of the toy world that each of their words becomes a token."""
    sentences = [f"Find a {item} for {use}." for item in ITEMS for use in USES]
    facts = [f"{aspect} {value} and {other}," for aspect in ASPECTS for value in VALUES for other in VALUES]
    return [*sentences, *facts, '{"name": "search_memory", "arguments": {"aspect": "colour"}}\nuser\nassistant\nsystem']


class World:
    """The content of a prepared folder, as an arm reads it."""

    def __init__(self, folder: Path):
        from transformers import PreTrainedTokenizerFast

        content = json.loads((folder / "task.json").read_text("utf-8"))
        self.folder, self.task, self.facts = folder, Task(**content["task"]), content["facts"]
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
        tools = [MemoryTool(self.facts).search_memory] if self.task.calls else None
        template = (folder / "template.jinja").read_text("utf-8")
        self.grammar = ChatGrammar(self.tokenizer, template, tools)
        self.queries = [
            Query(f"q{i}", row["user"], row["text"], target="", time=0) for i, row in enumerate(content["rows"])
        ]

    def model(self):
        from transformers import LlamaForCausalLM

        return LlamaForCausalLM.from_pretrained(self.folder / "model", dtype="float32")

    def step(self, number: int) -> list[Query]:
        """Return the queries of a step, each repeated for the episodes of its group."""
        size = self.task.prompts
        return [q for q in self.queries[number * size : (number + 1) * size] for _ in range(self.task.group)]


def warm(model, world: World, rng: random.Random) -> float:
    """Run supervised steps on scripted episodes (look up, then answer with the results). Returns the last loss."""
    import torch

    from mrrec_mini.reinforce import to_batch, token_logprobs

    rate = {"1M": 3e-3, "10M": 1e-3}[world.task.size]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    for _ in range(world.task.warm_steps):
        text = _request(world.task, rng)  # one request per batch, because equal prompts are computed once
        batch = to_batch([scripted(world, text, rng) for _ in range(8)], range(8))
        logprobs, _ = token_logprobs(model, batch.tokens, batch.mask)
        loss = -logprobs.sum() / batch.mask.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def scripted(world: World, text: str, rng: random.Random) -> Episode:
    """Return a correct episode: `task.calls` look-ups, then an answer with their results."""
    grammar, task = world.grammar, world.task
    query = Query("", rng.choice(list(world.facts)), text, target="", time=0)
    tokens = grammar.prompt(query.text, ())
    mask = [0] * len(tokens)
    wanted = rng.sample(ASPECTS, task.calls)
    for aspect in wanted:
        call = grammar.write_search(aspect)
        reply = grammar.reply(ToyMemory(world.facts).search_many([(query, aspect)], 1)[0], 0)
        tokens, mask = [*tokens, *call, *reply], [*mask, *[1] * len(call), *[0] * len(reply)]
    profile = ", ".join(f"{aspect} {look_up(world.facts, query.user, aspect)}" for aspect in wanted)
    final = grammar.write_final(profile)
    tokens, mask = [*tokens, *final], [*mask, *[1] * len(final)]
    return Episode(query, tuple(tokens), tuple(mask), (0.0,) * len(tokens), (), None, "")


# --- ours ------------------------------------------------------------------------------------------------------------


def play(world: World, model, queries: Sequence[Query], seed: int) -> tuple[list[Episode], float]:
    """Play the queries. Returns episodes with rewards, and the CPU seconds of sampling (no tool, parser, records)."""
    import torch

    from mrrec_mini.rollout import LMActor, RolloutConfig, rollout

    spent = 0.0

    class Timed(LMActor):
        def start(self, states):
            self._timed(super().start, states)

        def turn(self, max_new, forbidden, allowed):
            return self._timed(super().turn, max_new, forbidden, allowed)

        def keep(self, rows):
            self._timed(super().keep, rows)

        def read(self, blocks):
            self._timed(super().read, blocks)

        def _timed(self, method, *arguments):
            nonlocal spent
            start = time.process_time()
            try:
                return method(*arguments)
            finally:
                spent += time.process_time() - start

    task = world.task
    actor = Timed(model, world.grammar, torch.Generator().manual_seed(seed), task.temperature)
    rules = RolloutConfig(max_calls=task.calls, memory_k=1, global_k=0, turn_tokens=task.new_tokens)
    episodes = rollout(actor, queries, ToyMemory(world.facts), world.grammar, rules)
    return [replace(e, reward=variety(e.tokens[e.mask.index(1) :])) for e in episodes], spent


def backward(world: World, model, batch, advantages) -> None:
    """Accumulate the gradient of eq. 11 over micro-batches."""
    from mrrec_mini.grpo import GRPOConfig, grpo_loss
    from mrrec_mini.reinforce import rows_by_length, token_logprobs

    config, tokens = GRPOConfig(**LOSS), int(batch.mask.sum())
    for rows in rows_by_length(batch, world.task.parts):
        part = batch.rows(rows)
        logprobs, _ = token_logprobs(model, part.tokens, part.mask, world.task.temperature)
        loss = grpo_loss(logprobs, part.old_logprobs, advantages[rows], part.mask, config, len(batch.tokens), tokens)
        loss.backward()


def our_arm(folder: Path, precision: str) -> None:
    import torch

    from mrrec_mini.grpo import group_advantages
    from mrrec_mini.reinforce import to_batch

    torch.set_num_threads(1)
    world = World(folder)
    model, task = world.model(), world.task
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0)
    groups = [i // task.group for i in range(task.rows)]
    with answers() as answer:
        answer({"idle_mb": peak_megabytes()})
        number = 0
        while asked():
            start = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                episodes, sampling = play(world, model, world.step(number), number)
                batch = to_batch(episodes, groups)
                advantages = group_advantages(batch.rewards, batch.groups, LOSS["sigma"])
                middle = time.process_time()
                backward(world, model, batch, advantages)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            end = time.process_time()
            given = sum(sum(e.mask[e.mask.index(1) :]) - len(e.mask[e.mask.index(1) :]) for e in episodes)
            prompts = {e.query.text: e.mask.index(1) for e in episodes}
            answer(
                {
                    "rollout": middle - start,
                    "sampling": sampling,
                    "update": end - middle,
                    "step": end - start,
                    "prefilled": sum(prompts.values()) - given,
                    "sampled": sum(sum(e.mask) for e in episodes),
                    "calls": sum(len(e.calls) for e in episodes) / len(episodes),
                    "peak_mb": peak_megabytes(),
                }
            )
            number += 1


# --- TRL's -----------------------------------------------------------------------------------------------------------


def make_trainer(world: World, **more):
    """Return TRL's trainer for the task. `trainer.found` collects CPU seconds and token counts of the current step."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    task = world.task

    class Timed(GRPOTrainer):
        found: dict  # of the current step

        def _generate_and_score_completions(self, inputs):
            start = time.process_time()
            out = super()._generate_and_score_completions(inputs)
            self.found["rollout"] += time.process_time() - start
            if task.calls:
                self.found["calls"] = self._metrics["train"]["tools/call_frequency"][-1]
            return out

        def _generate_single_turn(self, prompt_ids, *arguments, **named):
            start = time.process_time()
            ids, logprobs = super()._generate_single_turn(prompt_ids, *arguments, **named)
            self.found["sampling"] += time.process_time() - start
            self.found["prefilled"] += sum(map(len, prompt_ids))
            self.found["sampled"] += sum(map(len, ids))
            return ids, logprobs

    rows = [{"prompt": [{"role": "user", "content": q.text}], "user": q.user} for q in world.queries]
    arguments = {
        "output_dir": str(world.folder / "trl"),
        "per_device_train_batch_size": task.rows // task.parts,
        "gradient_accumulation_steps": task.parts,
        "num_generations": task.group,
        "max_steps": task.steps,
        "temperature": task.temperature,
        "generation_kwargs": {"max_new_tokens": task.new_tokens},
        # this limits the whole completion with all tool answers, so it is large; `max_new_tokens` limits a turn
        "max_completion_length": task.new_tokens if not task.calls else 1024,
        "max_tool_calling_iterations": task.calls or None,
        "loss_type": "dapo",
        "scale_rewards": "none",
        "beta": 0.0,
        "epsilon": LOSS["clip"][0],
        "epsilon_high": LOSS["clip"][1],
        "optim": "adamw_torch",
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
        "shuffle_dataset": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return Timed(
        model=world.model(),
        reward_funcs=lambda completion_ids, **_: [variety(ids) for ids in completion_ids],
        args=GRPOConfig(**arguments | more),
        train_dataset=Dataset.from_list(rows),
        processing_class=world.tokenizer,
        environment_factory=(lambda: MemoryTool(world.facts)) if task.calls else None,
    )


def trl_arm(folder: Path, lean: bool) -> None:
    """Run TRL's side. `lean` skips TRL's logging, and its entropy by a patch, because TRL has no option for that."""
    import torch
    from transformers import TrainerCallback

    torch.set_num_threads(1)
    trainer = make_trainer(World(folder), **({"logging_strategy": "no"} if lean else {}))
    if lean:
        _without_entropy(trainer)

    with answers() as answer:

        class Turns(TrainerCallback):
            def on_train_begin(self, *_, **__):
                answer({"idle_mb": peak_megabytes()})

            def on_step_begin(self, *_, **__):
                if not asked():
                    raise SystemExit("no further step was requested")
                trainer.found = dict.fromkeys(("rollout", "sampling", "prefilled", "sampled", "calls"), 0)
                self.start = time.process_time()

            def on_step_end(self, *_, **__):
                step = time.process_time() - self.start
                update = step - trainer.found["rollout"]
                answer({**trainer.found, "update": update, "step": step, "peak_mb": peak_megabytes()})

        trainer.add_callback(Turns())
        trainer.train()


def _without_entropy(trainer) -> None:
    import torch
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(trainer.model, temperature=trainer.temperature, outputs=("log_probs",))
    scores = trainer._get_per_token_logps_and_entropies

    def without(*arguments, **named):
        logprobs, _, extra = scores(*arguments, **named | {"compute_entropy": False})
        return logprobs, torch.zeros_like(logprobs), extra

    trainer._get_per_token_logps_and_entropies = without


# --- proof that both compute the same --------------------------------------------------------------------------------


def prove(folder: Path) -> None:
    """Print how the two sides differ in prompt ids, tool-answer ids, and the gradient on one batch of episodes."""
    import torch

    from mrrec_mini.grpo import group_advantages
    from mrrec_mini.reinforce import to_batch

    torch.set_num_threads(1)
    world = World(folder)
    world.task = replace(world.task, prompts=2, micro=2 * world.task.group)
    with answers() as answer:
        trainer = make_trainer(world)
        model = world.model()
        episodes, _ = play(world, model, world.step(0), 0)
        batch = to_batch(episodes, [i // world.task.group for i in range(len(episodes))])
        advantages = group_advantages(batch.rewards, batch.groups, LOSS["sigma"])
        backward(world, model, batch, advantages)
        theirs = _trl_gradient(trainer, world, episodes, advantages)
        ours = {name: p.grad for name, p in model.named_parameters()}
        answer(
            {
                "same_ids": _same_ids(world, trainer),
                "gradient_difference": max(float((ours[n] - theirs[n]).abs().max()) for n in ours),
                "largest_gradient": max(float(g.abs().max()) for g in ours.values()),
                "masked_tokens": sum(len(e.mask) - e.mask.index(1) - sum(e.mask) for e in episodes),
            }
        )


def _trl_gradient(trainer, world: World, episodes: Sequence[Episode], advantages) -> dict:
    """Return the gradient of TRL's loss on our episodes: prompts padded on the left, completions on the right."""
    import torch
    from trl.trainer.utils import pad

    starts = [e.mask.index(1) for e in episodes]

    def cut(field: str, side: str) -> list:
        rows = [getattr(e, field) for e in episodes]
        return [row[:s] if side == "left" else row[s:] for row, s in zip(rows, starts, strict=True)]

    def block(field: str, side: str, dtype=torch.long):
        rows = [torch.tensor(row, dtype=dtype) for row in cut(field, side)]
        return pad(rows, padding_value=0, padding_side=side)

    def ones(side: str):
        rows = [torch.ones(len(row), dtype=torch.long) for row in cut("tokens", side)]
        return pad(rows, padding_value=0, padding_side=side)

    inputs = {
        "prompt_ids": block("tokens", "left"),
        "prompt_mask": ones("left"),
        "completion_ids": block("tokens", "right"),
        "completion_mask": ones("right"),
        "tool_mask": block("mask", "right"),
        "old_per_token_logps": block("logprobs", "right", torch.float32),
        "advantages": advantages,
        "num_items_in_batch": torch.tensor(sum(sum(e.mask) for e in episodes)),
    }
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation = 1
    trainer._compute_loss(trainer.model, inputs).backward()
    return {name: p.grad for name, p in trainer.model.named_parameters()}


def _same_ids(world: World, trainer) -> bool:
    """Return whether both sides turn every request and every tool answer into the same ids."""
    trainer._batch_environments = [None] * len(world.queries)
    theirs, _, _ = trainer._tokenize_prompts([[{"role": "user", "content": q.text}] for q in world.queries])
    same = [list(t) == world.grammar.prompt(q.text, ()) for t, q in zip(theirs, world.queries, strict=True)]
    if world.task.calls:
        for query in world.queries:
            for aspect in (*ASPECTS, "unheard of"):
                entries = ToyMemory(world.facts).search_many([(query, aspect)], 1)[0]
                message = {"role": "tool", "name": "search_memory", "content": entries[0].text}
                same.append(trainer._get_tool_suffix_ids([message]) == world.grammar.reply(entries, 0))
    return all(same)


# --- the comparison --------------------------------------------------------------------------------------------------


def per_token(steps: Sequence[dict], key: str) -> float:
    """Return the CPU seconds per sampled token: the median over all steps but the first."""
    return median([{key: s[key] / s["sampled"]} for s in steps], key)


def compare(found: dict[str, list[dict]], one: str, other: str) -> dict:
    """Return the ratios `one` / `other` of CPU seconds per sampled token, and of peak memory."""
    ratios = {key: per_token(found[one], key) / per_token(found[other], key) for key in ("rollout", "update", "step")}
    peaks = {name: max(s["peak_mb"] for s in found[name]) for name in (one, other)}
    return {**ratios, "memory": peaks[one] / peaks[other]}


def judge(results: Sequence[dict]) -> list[dict]:
    """Return two claims per task: the CPU ratio, and equal gradients. Raises RuntimeError if the ids differ."""
    claims = []
    for r in results:
        kind, size = r["kind"], r["task"]["size"]
        claims.append(claim(f"{kind} turn, {size}: CPU of a TRL step / ours", r["ratio"]["step"], TARGETS[kind]))
        difference = r["proof"]["gradient_difference"]
        claims.append(at_most(f"{kind} turn, {size}: largest difference of the gradients", difference, 1e-5))
        if not r["proof"]["same_ids"]:
            raise RuntimeError(f"{kind} turn, {size}: the arms do not see the same ids, so nothing was compared")
    return claims


def _child(part: str, folder: Path, *more: str) -> list[str]:
    return [HERE, "--child", part, "--folder", str(folder), *more]


def _wait(command: list[str]) -> str:
    import os

    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, **QUIET},
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])} failed with {done.returncode}; its last messages are above")
    return done.stdout


def measure(task: Task, bf16: bool, lean: bool) -> dict:
    """Prepare, prove and time one task."""
    with tempfile.TemporaryDirectory(prefix="mrrec-grpo-") as name:
        folder = Path(name)
        (folder / "task.json").write_text(json.dumps(asdict(task)), "utf-8")
        _wait(_child("prepare", folder))
        if bf16:
            arms = {"fp32": _child("ours", folder), "bf16": _child("ours", folder, "--precision", "bfloat16")}
            found = in_turns(arms, task.steps)
            return {"task": asdict(task), "kind": task.kind, "steps": found, "ratio": compare(found, "fp32", "bf16")}
        proof = json.loads(_wait(_child("prove", folder)))
        arms = {"trl": _child("trl", folder), "ours": _child("ours", folder)}
        if lean:
            arms["trl lean"] = _child("trl", folder, "--lean")
        found = in_turns(arms, task.steps)
    return {
        "task": asdict(task),
        "kind": task.kind,
        "proof": proof,
        "steps": found,
        "ratio": compare(found, "trl", "ours"),
        **({"lean": compare(found, "trl lean", "ours")} if lean else {}),
    }


def table(result: dict, file) -> None:
    keys = ("rollout", "sampling", "update", "step", "prefilled", "sampled", "calls")
    rows = [("CPU s, median", *keys, "peak MB")]
    for name, steps in result["steps"].items():
        rows.append((name, *(float(median(steps, key)) for key in keys), float(max(s["peak_mb"] for s in steps))))
    task = result["task"]
    title = f"{result['kind']} turn, {task['size']}, {task['prompts']} prompts x {task['group']}"
    show(title, rows, file)
    ratio = result["ratio"]
    print("  per sampled token: " + ", ".join(f"{k} {v:.2f}x" for k, v in ratio.items()), file=file)
    if "proof" in result:
        print(f"  {result['proof']}", file=file)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="small tasks, 1M model only: about a minute, but noisy")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, tables on stderr")
    parser.add_argument("--bf16", action="store_true", help="ours in bf16 against ours in fp32, without TRL")
    parser.add_argument("--lean", action="store_true", help="a third arm: TRL without its entropy and log")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="float32", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        return child(given)
    _trl_templates()  # fails at once if TRL is missing
    results = []
    for task in FAST if given.fast else FULL:
        results.append(measure(task, given.bf16, given.lean))
        table(results[-1], sys.stderr if given.json else None)
    return finish(document([] if given.bf16 else judge(results), results=results), given.json)


def child(given: argparse.Namespace) -> int:
    """Do the work of a child process, the part named by `--child`."""
    folder = given.folder
    if given.child == "prepare":
        import torch

        torch.set_num_threads(1)
        with answers():  # its output goes to stderr
            prepare(Task(**json.loads((folder / "task.json").read_text("utf-8"))), folder)
    elif given.child == "prove":
        prove(folder)
    elif given.child == "ours":
        our_arm(folder, given.precision)
    else:
        trl_arm(folder, given.lean)
    return 0


if __name__ == "__main__":
    sys.exit(main())
