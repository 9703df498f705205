"""The default recipe: all settings to make environments and a warm-started policy from a data set.

Flow: `prepare` splits the users and builds memory and indexes. For a synthetic shop, it also makes sibling shops, which
are only for training: there, other aspects matter for a category. Then `start_policy` trains the tokenizer on the
memories of train users, and the model first in copying words, then on the teacher's episodes. After that, `train`
reinforces the policy, and a run folder keeps the result (see `run`).

The numbers of `Recipe` were chosen by experiments on a CPU, on the synthetic shops of seeds 0 and 1. `seed` sets
the split and all random draws. Departures: the paper has no warm start and no sibling shops; it starts from an instruct
model, as the recipe `CHAT` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from mrrec_mini.chat_grammar import ChatGrammar, grammar_of
from mrrec_mini.data import DataError, Dataset, Split, shorten
from mrrec_mini.datatypes import Episode
from mrrec_mini.earlier_queries import with_earlier_queries
from mrrec_mini.environment import Environment, memory_settings
from mrrec_mini.filtered import best_traces
from mrrec_mini.grammar import CONTROL, Grammar
from mrrec_mini.grpo import GRPOConfig
from mrrec_mini.imitation import WarmStartConfig, copy_drill, warm_start
from mrrec_mini.memory import PEOPLE, plain
from mrrec_mini.models.causal_lm import WORD, CausalLMConfig, WordTokenizer, load_causal_lm, make_causal_lm, with_lora
from mrrec_mini.playable import require_playable
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import RolloutConfig, ScriptActor
from mrrec_mini.scripts import ScriptConfig, TeacherConfig, teacher, untold
from mrrec_mini.train import TrainConfig
from mrrec_mini.world import WorldConfig, config_of, make_world, sibling

Say = Callable[[str, int, int, str], None]  # reports progress: name of the phase, steps done, all steps, a note


def quiet(phase: str, done: int, total: int, note: str) -> None:
    """A `Say` that reports nothing."""


# For a tiny policy. Constrained: with free decoding, one seed of three lost its third look-up. Two memories per call:
# the line that was asked for and one more. A look-up costs a fiftieth of what a halving of the target's rank pays. The
# KL keeps the choice between two kinds of look-ups open until Muon has told the aspects apart (see benchmarks/LOG.md).
TINY_TRAIN = TrainConfig(
    steps=160,
    learning_rate=1e-4,
    matrix_rate=6e-3,
    grpo=GRPOConfig(beta=0.1),
    rules=RolloutConfig(memory_k=2, global_k=8, constrained=True),
    reward=RewardConfig(shape="log_rank", call_cost=0.02),
)


@dataclass(frozen=True)
class Recipe:
    """All settings of a training run."""

    shares: tuple[float, float, float] = (0.6, 0.1, 0.3)  # of users: train, validation, test
    siblings: int = 3  # number of additional shops to train in; only if the data set is synthetic
    sibling_users: int = 120  # in each of them
    traces: int = 4000  # number of the teacher's episodes to imitate
    max_words: int = 10_000  # in the tokenizer's vocabulary; the synthetic shop has about 300
    model: CausalLMConfig = field(default_factory=lambda: CausalLMConfig(heads=4, free_heads=1))
    chat_model: str | None = None  # a folder or hub name; None: a tiny model with random weights (`model`)
    lora: int = 0  # rank of the LoRA adapters; 0: no adapters, the whole model is trained
    watched: int | None = None  # number of validation queries for the evaluations during training; None: all
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    warm: WarmStartConfig = field(default_factory=WarmStartConfig)
    train: TrainConfig = field(default_factory=lambda: TINY_TRAIN)

    def ablated(self, **rules: int) -> Recipe:
        """Return the same recipe with other rollout rules, e.g. `global_k=0`."""
        return replace(self, train=replace(self.train, rules=replace(self.train.rules, **rules)))

    def longer(self) -> Recipe:
        """Return a tiny policy's recipe with four times the imitation, 2.5 times the reinforcement: nine CPU minutes.

        Most imitated traces are scrambled, so the policy reads global memory and knows less of it by heart.
        """
        warm = replace(self.warm, steps=4 * self.warm.steps, scrambled=0.6)
        train = replace(self.train, steps=5 * self.train.steps // 2, learning_rate=3e-4)
        return replace(self, traces=2 * self.traces, warm=warm, train=train)

    def with_seed(self, seed: int) -> Recipe:
        """Return the same recipe with another seed for the random draws of `train`."""
        return replace(self, train=replace(self.train, seed=seed))


FAST_WORLD = WorldConfig(users=80, items=500, categories=8, uses=2, held=2, held_pairs=2, history=12, queries=3)
FAST = Recipe(
    siblings=1,
    sibling_users=40,
    traces=400,
    warm=WarmStartConfig(drill_steps=20, drill_goal=0.0, steps=20),
    train=TrainConfig(steps=3, matrix_rate=6e-3, prompts_per_step=4, group=4, evaluate_every=3, checkpoint_every=3),
)


# For a chat model on a laptop. The examples in the prompt already teach the model the task a little, so the recipe has
# no imitation. A step of 18 episodes with SmolLM2-135M takes 37 CPU seconds in bf16, and 8 GB of memory.
CHAT = Recipe(
    siblings=0,
    watched=8,
    warm=WarmStartConfig(drill_steps=0, steps=0, scrambled=0.0),
    train=TrainConfig(
        steps=30,
        prompts_per_step=3,
        group=6,
        learning_rate=3e-5,
        micro_batches=1,  # the groups stay whole, so that the prompt of a group is processed only once
        evaluate_every=30,
        checkpoint_every=15,
        rules=RolloutConfig(max_calls=1, memory_k=3, global_k=4, turn_tokens=36),
    ),
)
ONE_STEP = dict(steps=1, prompts_per_step=1, group=2, evaluate_every=1, rules=replace(CHAT.train.rules, turn_tokens=4))
CHAT_FAST = replace(CHAT, watched=1, train=replace(CHAT.train, **ONE_STEP))


def chosen_recipe(
    fast: bool = False, chat_model: str | None = None, lora: int = 0, bf16: bool = False, long: bool = False
) -> Recipe:
    """Return the recipe for a tiny model, or for `chat_model`. `fast` makes all sizes tiny, `bf16` sets the precision.

    Raises ValueError if `lora` is given without a chat model, or `long` with one.
    """
    if chat_model is None:
        if lora:
            raise ValueError("adapters need a chat model: give --model too")
        recipe = FAST if fast else Recipe()
        recipe = recipe.longer() if long else recipe
    elif long:
        raise ValueError("--long is for the tiny model; for a chat model, give --steps")
    else:
        place = str(Path(chat_model).resolve()) if Path(chat_model).is_dir() else chat_model
        recipe = replace(CHAT_FAST if fast else CHAT, chat_model=place, lora=lora)
    return replace(recipe, train=replace(recipe.train, precision="bfloat16" if bf16 else "float32"))


def prepare(
    dataset: Dataset, recipe: Recipe, seed: int, say: Say = quiet, split: Split | None = None
) -> list[Environment]:
    """Return the environment of the data set, followed by those of its sibling shops if it is a synthetic shop.

    On real data, earlier purchases of train users are training queries too (`earlier_queries`). `split`: that of a run
    that exists; None: draw it by `seed`.
    """
    total = 1 + (recipe.siblings if dataset.synthetic else 0)
    shop, split, rng = dataset, split or dataset.split(seed, *recipe.shares), np.random.default_rng([seed, 1])
    if not dataset.synthetic:
        split = with_earlier_queries(dataset, split)
    summarizer, memory = memory_settings(dataset)
    environments: list[Environment] = []
    for number in range(total):
        say("memory", number, total, "")
        if number:
            shop = make_world(sibling(config_of(dataset), number, recipe.sibling_users))
            split = shop.split(0, 1.0, 0.0, 0.0)  # all are train users; queries for held-out categories are not used
        environments.append(Environment.build(shop, split, summarizer, rng, memory))
    say("memory", total, total, "")
    return environments


def make_tokenizer(environments: Sequence[Environment], max_words: int) -> WordTokenizer:
    """Make a tokenizer of the most frequent words in train users' queries and memories and in the global memory.

    On real data, it also knows the words of all titles, which are public: other people's memories will state them. Any
    other word that fewer than `PEOPLE` train users have is left out: every checkpoint holds the words, and the policy
    could write a person's own word for somebody else.
    """

    def texts() -> Iterator[tuple[object, str]]:
        """Yield (person, text); None: the text is about nobody or about several people."""
        for number, env in enumerate(environments):
            if not env.dataset.synthetic:
                for item in env.dataset.items.values():
                    yield from [(None, plain(item.title))] * 2  # a word that occurs once in all is not kept
            yield from ((None, entry.text) for entry in env.memory.global_entries)
            for query in env.split.train_queries:
                person = number, query.user
                yield person, query.text
                yield from ((person, entry.text) for entry in env.memory.entries(query))
                yield from ((None, entry.text) for entry in env.memory.others_lines(query))

    people: dict[str, set[object]] = {}
    for person, text in texts():
        for word in WORD.findall(text):
            people.setdefault(word, set()).add(person)
    counts = {f"{x}{number}" for number in range(100) for x in ("", "x")}  # memory itself writes numbers of records
    rare = {word for word, having in people.items() if len(having) < PEOPLE and None not in having} - counts
    common = (" ".join(word for word in WORD.findall(text) if word not in rare) for _, text in texts())
    return WordTokenizer.train(common, CONTROL, max_words)


def script_traces(
    environments: Sequence[Environment],
    grammar: Grammar,
    recipe: Recipe,
    rng: np.random.Generator,
    script: ScriptConfig | None = None,
    tries: int = 1,
) -> list[Episode]:
    """Play about `recipe.traces` training queries, equally many per environment; return the episodes with an answer.

    The teacher plays, or an untold `script`. Each query is played `tries` times, and the best episode is kept.
    """
    rules = recipe.train.rules
    traces: list[Episode] = []
    for env in environments:
        if script:
            make_script = untold(grammar, script, rules.max_calls)
        else:
            make_script = teacher(grammar, recipe.teacher, rng, env.aspects, rules.max_calls, bool(env.memory.others))
        queries = [env.split.train_queries[i] for i in _draw(env, recipe.traces // len(environments), rng)]
        traces += best_traces(env, ScriptActor(make_script), queries, grammar, rules, recipe.train.reward, tries)
    return traces


def _draw(env: Environment, size: int, rng: np.random.Generator) -> list[int]:
    """Draw `size` indices of training queries in random order, each query about equally often."""
    n = len(env.split.train_queries)
    return np.concatenate([rng.permutation(n) for _ in range(-(-size // n))])[:size].tolist()


def start_policy(
    environments: Sequence[Environment],
    recipe: Recipe,
    seed: int,
    say: Say = quiet,
    device: str = "cpu",
):
    """Return (model on `device`, tokenizer): a chat model, or a tiny one that imitates the teacher.

    Raises DataError if an environment has no training query, or the chat model cannot be used.
    """
    model, tokenizer = copying_policy(environments, recipe, seed, say, device)
    return imitate(model, tokenizer, environments, recipe, seed, say), tokenizer


def require_train_queries(environments: Sequence[Environment]) -> None:
    """Raise DataError unless every environment has a training query."""
    if not all(env.split.train_queries for env in environments):
        raise DataError("no train user has a query outside the held categories; add users or queries")


def copying_policy(environments: Sequence[Environment], recipe: Recipe, seed: int, say: Say = quiet, device="cpu"):
    """Return (model on `device`, tokenizer): a chat model, or a tiny one that is trained to copy and nothing else.

    Raises the errors of `start_policy`.
    """
    require_train_queries(environments)
    if recipe.chat_model:
        model, tokenizer = load_chat_model(recipe.chat_model)
        model = model.to(device)
        require_playable(model, grammar_of(tokenizer), recipe.train.rules)
        if recipe.lora:
            base = torch.bfloat16 if recipe.train.precision == "bfloat16" else torch.float32
            model = with_lora(model, recipe.lora, torch.Generator().manual_seed(seed), base)
        return model.to(device), tokenizer  # adapters are made on the CPU
    tokenizer, warm = make_tokenizer(environments, recipe.max_words), recipe.warm
    model = make_causal_lm(len(tokenizer), recipe.model, torch.Generator().manual_seed(seed)).to(device)
    note = lambda step, skill: say("copy drill", step, warm.drill_steps, f"right {skill:.2f}")  # noqa: E731
    copy_drill(model, tokenizer, warm, np.random.default_rng([seed, 2]), note)
    return model, tokenizer


def imitate(
    model,
    tokenizer,
    environments: Sequence[Environment],
    recipe: Recipe,
    seed: int,
    say: Say = quiet,
    script: ScriptConfig | None = None,
    tries: int = 1,
):
    """Train `model` in place on `script_traces` for `recipe.warm.steps` steps, and return it. 0 steps: do nothing."""
    warm, rng = recipe.warm, np.random.default_rng([seed, 4])
    if not (recipe.chat_model or environments[0].dataset.synthetic):
        warm = warm.for_rare_words()
    if warm.steps:
        traces = script_traces(environments, grammar_of(tokenizer), recipe, rng, script, tries)
        if not traces:
            limit = recipe.train.rules.turn_tokens
            raise DataError(f"no query fits into an answer of {limit} tokens (turn_tokens); shorten the queries")
        note = lambda step, loss: say("warm start", step, warm.steps, f"loss {loss:.2f}")  # noqa: E731
        warm_start(model, tokenizer, traces, warm, rng, note)
    return model


def load_chat_model(name: str):
    """Return (model, tokenizer) from a folder or a hub name. Raises DataError if this is not a usable chat model."""
    try:
        model, tokenizer = load_causal_lm(name, CONTROL)
        ChatGrammar(tokenizer)
    except (FileNotFoundError, ModuleNotFoundError):
        raise
    except Exception as error:  # the libraries raise many kinds of errors for a folder without a chat model
        raise DataError(f"{name}: not a chat model that can be used ({shorten(str(error), 200)})") from error
    return model, tokenizer
