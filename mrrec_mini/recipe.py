"""The default recipe: from a data set to environments, a warm-started policy and a run folder.

Flow: says once, for `mrrec train`, `mrrec demo` and the tutorials, which sizes and rates are used and in which order:
split the users, build memory and indexes (and, for the synthetic shop, sibling shops with other category-aspect maps
to train in), train the tokenizer on what train users' memories say, drill copying, imitate the teacher, then `train`.

Every number is in `Recipe` and was measured on a CPU, on the synthetic shop, with validation users. `seed` decides
the split and every draw; the default data set is the shop of that seed. `CHAT` is the recipe for a chat model, which
starts from what it was taught elsewhere, as the paper's does. Departure from the paper: warm start and
several shops; the paper starts from an instruct model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from mrrec_mini.chat_grammar import ChatGrammar, grammar_of
from mrrec_mini.data import DataError, Dataset, Split, shorten
from mrrec_mini.datatypes import Episode
from mrrec_mini.environment import Environment, aspect_names
from mrrec_mini.grammar import CONTROL, Grammar
from mrrec_mini.grpo import GRPOConfig
from mrrec_mini.imitation import WarmStartConfig, copy_drill, warm_start
from mrrec_mini.models.causal_lm import CausalLMConfig, WordTokenizer, load_causal_lm, make_causal_lm, with_lora
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import RolloutConfig, ScriptActor
from mrrec_mini.scripts import TeacherConfig, teacher
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.train import TrainConfig
from mrrec_mini.world import WorldConfig, make_world, sibling

Say = Callable[[str, int, int, str], None]  # phase, steps done, steps in all, a note


def quiet(phase: str, done: int, total: int, note: str) -> None:
    """A `Say` that says nothing."""


@dataclass(frozen=True)
class Recipe:
    """What a run is made of."""

    shares: tuple[float, float, float] = (0.6, 0.1, 0.3)  # of users: train, validation, test
    siblings: int = 3  # further shops to train in, for a synthetic data set
    sibling_users: int = 120
    traces: int = 4000  # episodes of the teacher
    max_words: int = 4000  # of the tokenizer
    model: CausalLMConfig = field(default_factory=CausalLMConfig)
    chat_model: str | None = None  # a folder or hub name, instead of a tiny model made from scratch
    lora: int = 0  # rank of the adapters that are trained in its place; 0: the whole model is trained
    watched: int | None = None  # validation queries that are answered while training; None: all
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    warm: WarmStartConfig = field(default_factory=WarmStartConfig)
    # constrained: free decoding lost the third look-up on one seed of three before it had learned what it is good for
    train: TrainConfig = field(default_factory=lambda: TrainConfig(rules=RolloutConfig(constrained=True)))

    def ablated(self, **rules: int) -> Recipe:
        """The same recipe under other rules of play, e.g. `global_k=0`."""
        return replace(self, train=replace(self.train, rules=replace(self.train.rules, **rules)))


FAST_WORLD = WorldConfig(users=80, items=500, categories=8, held=2, history=12, queries=3)
FAST = Recipe(
    siblings=1,
    sibling_users=40,
    traces=400,
    warm=WarmStartConfig(drill_steps=20, drill_goal=0.0, steps=20),
    train=TrainConfig(steps=3, prompts_per_step=4, group=4, evaluate_every=3, checkpoint_every=3),
)


# For a chat model on a laptop: it can do the task a little from the worked examples alone, so nothing is imitated
# before it is reinforced. A step of 18 episodes with SmolLM2-135M takes 37 CPU seconds in bf16, and 8 GB.
CHAT = Recipe(
    siblings=0,
    watched=8,
    warm=WarmStartConfig(drill_steps=0, steps=0, scrambled=0.0),
    train=TrainConfig(
        steps=30,
        prompts_per_step=3,
        group=6,
        learning_rate=3e-5,
        micro_batches=1,  # whole groups: their prompt is computed once
        evaluate_every=30,
        checkpoint_every=15,
        rules=RolloutConfig(max_calls=1, memory_k=3, global_k=4, turn_tokens=36),
    ),
)
CHAT_FAST = replace(
    CHAT,
    watched=1,
    train=replace(
        CHAT.train,
        **dict(steps=1, prompts_per_step=1, group=2, evaluate_every=1),
        rules=replace(CHAT.train.rules, turn_tokens=4),
    ),
)


def chosen_recipe(fast: bool = False, chat_model: str | None = None, lora: int = 0, bf16: bool = False) -> Recipe:
    """The default recipe, or the one for a chat model; `fast`: at toy sizes. ValueError: adapters of nothing."""
    if chat_model is None:
        if lora:
            raise ValueError("adapters need a model to be put on: give --model too")
        recipe = FAST if fast else Recipe()
    else:
        place = str(Path(chat_model).resolve()) if Path(chat_model).is_dir() else chat_model
        recipe = replace(CHAT_FAST if fast else CHAT, chat_model=place, lora=lora)
    return replace(recipe, train=replace(recipe.train, precision="bfloat16" if bf16 else "float32"))


def prepare(dataset: Dataset, recipe: Recipe, seed: int, say: Say = quiet) -> list[Environment]:
    """The data set's environment, first, and those of its sibling shops, where it is a synthetic shop."""
    total = 1 + (recipe.siblings if "world" in dataset.meta else 0)
    say("memory", 0, total, "")
    split = dataset.split(seed, *recipe.shares)
    rng = np.random.default_rng([seed, 1])
    environments = [Environment.build(dataset, split, ExtractiveSummarizer(), rng)]
    say("memory", 1, total, "")
    for number in range(1, total):
        shop = make_world(sibling(WorldConfig(**dataset.meta["world"]), number, recipe.sibling_users))
        environments.append(Environment.build(shop, all_train(shop), ExtractiveSummarizer(), rng))
        say("memory", 1 + number, total, "")
    return environments


def all_train(dataset: Dataset) -> Split:
    """Every user trains; queries of held-out categories are dropped."""
    return dataset.split(0, 1.0, 0.0, 0.0)


def make_tokenizer(environments: Sequence[Environment], max_words: int) -> WordTokenizer:
    """Frequent words of what train users' queries and memories say, and of the global memory."""

    def texts():
        for env in environments:
            yield from (entry.text for entry in env.memory.global_entries)
            for query in env.split.train_queries:
                yield query.text
                yield from (entry.text for entry in env.memory.entries(query))

    return WordTokenizer.train(texts(), CONTROL, max_words)


def teacher_traces(
    environments: Sequence[Environment], grammar: Grammar, recipe: Recipe, rng: np.random.Generator
) -> list[Episode]:
    """`recipe.traces` episodes of the teacher on training queries, the environments in equal parts."""
    rules = recipe.train.rules
    traces: list[Episode] = []
    for env in environments:
        make_script = teacher(grammar, recipe.teacher, rng, aspect_names(env.dataset), rules.max_calls)
        queries = [env.split.train_queries[i] for i in _draw(env, recipe.traces // len(environments), rng)]
        traces += env.play(ScriptActor(make_script), queries, grammar, rules, recipe.train.reward)
    return [trace for trace in traces if trace.answer is not None]


def _draw(env: Environment, size: int, rng: np.random.Generator) -> list[int]:
    """Indices of training queries: each as often as any other, in random order."""
    n = len(env.split.train_queries)
    return np.concatenate([rng.permutation(n) for _ in range(-(-size // n))])[:size].tolist()


def start_policy(environments: Sequence[Environment], recipe: Recipe, seed: int, say: Say = quiet, device: str = "cpu"):
    """A policy that knows the grammar and how to copy, and little else: (model on `device`, tokenizer). DataError where
    there is nothing to learn from, or the chat model cannot be used.
    """
    if not all(env.split.train_queries for env in environments):
        raise DataError("no train user has a query outside the held categories; add users or queries")
    rng = np.random.default_rng([seed, 2])
    warm = recipe.warm
    if recipe.chat_model:
        model, tokenizer = chat_policy(recipe, seed)
        model.to(device)
    else:
        tokenizer = make_tokenizer(environments, recipe.max_words)
        model = make_causal_lm(len(tokenizer), recipe.model, torch.Generator().manual_seed(seed)).to(device)
        note = lambda step, skill: say("copy drill", step, warm.drill_steps, f"right {skill:.2f}")  # noqa: E731
        copy_drill(model, tokenizer, warm, rng, note)
    if not warm.steps:
        return model, tokenizer
    traces = teacher_traces(environments, grammar_of(tokenizer), recipe, rng)
    if not traces:
        limit = recipe.train.rules.turn_tokens
        raise DataError(f"no query fits into an answer of {limit} tokens (turn_tokens); shorten the queries")
    warm_start(
        model, tokenizer, traces, warm, rng, lambda step, loss: say("warm start", step, warm.steps, f"loss {loss:.2f}")
    )
    return model, tokenizer


def chat_policy(recipe: Recipe, seed: int):
    """The chat model of a recipe, with adapters if it has them: (model, tokenizer). DataError where it is none."""
    model, tokenizer = load_chat_model(str(recipe.chat_model))
    if recipe.lora:
        base = torch.bfloat16 if recipe.train.precision == "bfloat16" else torch.float32
        model = with_lora(model, recipe.lora, torch.Generator().manual_seed(seed), base)
    return model, tokenizer


def load_chat_model(name: str):
    """(model, tokenizer) of a folder or a hub name. DataError where it is no chat model that can be used."""
    try:
        model, tokenizer = load_causal_lm(name, CONTROL)
        ChatGrammar(tokenizer)
    except (FileNotFoundError, ModuleNotFoundError):
        raise
    except Exception as error:  # whatever a reader says of a folder that is none of its own
        raise DataError(f"{name}: not a chat model that can be used ({shorten(str(error), 200)})") from error
    return model, tokenizer


def check_device(name: str) -> None:
    """ValueError unless torch can compute there, in float64 too (the sampler adds up probabilities in it)."""
    try:
        torch.zeros(1, dtype=torch.float64, device=name).item()
    except (RuntimeError, AssertionError, TypeError) as error:  # torch has one for each kind of absence
        reason = shorten(str(error).partition("\n")[0], 120)
        raise ValueError(
            f"torch cannot compute on device {shorten(name)} here ({reason}); leave --device out"
        ) from None


# ------------------------------------------------------------------------------------------------------ a run folder


def write_config(
    run: Path, recipe: Recipe, seed: int, data: Path | None, world: WorldConfig | None, formulas: str | None = None
) -> None:
    """config.json: all that is needed to make the run's environments again. `formulas`: sha256 of a learner's own."""
    run.mkdir(parents=True, exist_ok=True)
    content = {
        "seed": seed,
        "data": str(data.resolve()) if data else None,
        "world": asdict(world) if world else None,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "formulas": formulas,
        "recipe": asdict(recipe),
    }
    (run / "config.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_config(run: Path) -> tuple[Recipe, int, Dataset]:
    """The recipe, the seed and the data set of a run. FileNotFoundError where there is no run, DataError for another's
    config.json."""
    path = run / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{run} is not a run: it has no config.json; `mrrec train --data DIR --run {run}` makes one"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        recipe, seed = recipe_from(content["recipe"]), int(content["seed"])
        folder = Path(content["data"]) if content["data"] else None
        world = None if folder else WorldConfig(**content["world"])
    except (ValueError, LookupError, TypeError) as error:
        what = f"not what `mrrec train` writes ({shorten(str(error))}); make the run again in another folder"
        raise DataError.at(path, None, None, what) from None
    return recipe, seed, make_world(world) if world else Dataset.load(folder)


def recipe_from(content: dict) -> Recipe:
    """The recipe that `dataclasses.asdict` turned into `content`, after a trip through JSON."""
    content, train = dict(content), dict(content["train"])
    train["grpo"] = GRPOConfig(**{**train["grpo"], "clip": tuple(train["grpo"]["clip"])})
    train["rules"], train["reward"] = RolloutConfig(**train["rules"]), RewardConfig(**train["reward"])
    teaching = {**content["teacher"], "stop": tuple(content["teacher"]["stop"])}
    content |= {
        "shares": tuple(content["shares"]),
        "model": CausalLMConfig(**content["model"]),
        "teacher": TeacherConfig(**teaching),
        "warm": WarmStartConfig(**content["warm"]),
        "train": TrainConfig(**train),
    }
    return Recipe(**content)
