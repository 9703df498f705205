"""A tour in the terminal: one person, one query, through every stage, with the objects that pass between them.

Flow: after everything else; it calls the stages in order and shows what came out. `mrrec walkthrough` prints it step by
step, notebook 00 does the same with room to try things. The shop is small (`SHOP`) and so is what is learned in it
(`LESSON`, about 50 seconds of one core); notebook 10 looks at what that is worth.

Equations: none of its own. Departures: the lesson's teacher is weaker than the default recipe's, so that something is
left to be learned in so few steps. Nothing here is chosen by how well it goes: the query is the first test query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mrrec_mini.app.terminal import curve, print_transcript
from mrrec_mini.chat_grammar import grammar_of
from mrrec_mini.data import printable
from mrrec_mini.datatypes import Episode, Query
from mrrec_mini.environment import Environment
from mrrec_mini.evaluate import GREEDY, EvalSet, Row, difference, episode_rows, eval_sets, means, play
from mrrec_mini.grpo import group_advantages, grpo_loss
from mrrec_mini.imitation import WarmStartConfig
from mrrec_mini.recipe import FAST, Recipe, Say, prepare, quiet, start_policy
from mrrec_mini.reinforce import to_batch, token_logprobs
from mrrec_mini.rollout import LMActor, RolloutConfig
from mrrec_mini.scripts import TeacherConfig
from mrrec_mini.train import TrainConfig, Trainer, train
from mrrec_mini.world import WorldConfig, make_world

STAGES = ("data", "memory", "retrieval", "rollout", "reward", "update", "evaluation")
SHOP = WorldConfig(users=90, items=600, categories=8, held=2, history=14, queries=5)
LESSON = Recipe(
    siblings=1,
    sibling_users=60,
    traces=1200,
    teacher=TeacherConfig(stop=(0.3, 0.3, 0.2, 0.2), on_topic=0.5, believe=0.4),
    warm=WarmStartConfig(drill_steps=250, drill_batch=32, steps=350, batch=16),
    train=TrainConfig(
        steps=40,
        prompts_per_step=12,
        group=8,
        micro_batches=2,
        learning_rate=6e-4,
        evaluate_every=40,
        rules=RolloutConfig(constrained=True),
    ),
)
TINY_SHOP = replace(SHOP, users=24, items=120, categories=5, held=1, history=8, queries=3)  # the code runs, no more
TINY_LESSON = replace(FAST, sibling_users=10, traces=60, train=replace(FAST.train, steps=2, rules=LESSON.train.rules))


@dataclass
class Tour:
    """What is looked at, each made when it is first asked for."""

    seed: int = 0
    shop: WorldConfig = SHOP
    recipe: Recipe = LESSON
    say: Say = field(default=quiet, repr=False)

    @cached_property
    def environments(self) -> list[Environment]:
        return prepare(make_world(replace(self.shop, seed=self.seed)), self.recipe, self.seed, self.say)

    @property
    def environment(self) -> Environment:
        return self.environments[0]

    @cached_property
    def query(self) -> Query:
        """The first test query: somebody whom nothing was learned from."""
        return self.environment.split.test_queries[0]

    @cached_property
    def start(self):
        """(model, tokenizer) that has imitated a teacher, and nothing else."""
        torch.set_num_threads(1)
        return start_policy(self.environments, self.recipe, self.seed, self.say)

    @cached_property
    def eval_set(self) -> EvalSet:
        return eval_sets(self.environment, grammar_of(self.start[1]), self.recipe.train.rules, self.seed)[0]

    @cached_property
    def group(self) -> list[Episode]:
        """G sampled episodes of the query, as training would play them."""
        model, _ = self.start
        rules, reward = self.recipe.train.rules, self.recipe.train.reward
        actor = LMActor(model, self.eval_set.grammar, torch.Generator().manual_seed(self.seed), 1.0)
        return self.environment.play(
            actor, [self.query] * self.recipe.train.group, self.eval_set.grammar, rules, reward
        )

    @cached_property
    def learned(self):
        """(the model after GRPO, one line of the log a step)."""
        model, tokenizer = deepcopy(self.start[0]), self.start[1]
        config = replace(self.recipe.train, seed=self.seed)
        trainer = Trainer(model, tokenizer, self.environments, config)
        log = train(trainer, report=lambda line: self.say("learn", line["step"], config.steps, ""))
        return model, log

    def answers(self, model) -> list[Episode]:
        """A model's greedy episodes of all test queries."""
        return play(self.eval_set, LMActor(model, self.eval_set.grammar, None, 0.0))

    @cached_property
    def before(self) -> list[Episode]:
        return self.answers(self.start[0])

    @cached_property
    def after(self) -> list[Episode]:
        return self.answers(self.learned[0])

    def rows(self, arm: str, episodes: Sequence[Episode]) -> list[Row]:
        return episode_rows(self.eval_set, arm, GREEDY, episodes)


@dataclass(frozen=True)
class Step:
    """One thing to look at: what it is, in a sentence or two, where its code stands, and how to show it."""

    title: str
    says: str
    file: str
    show: Callable[[Console], None]


def lines(*texts: str) -> Callable[[Console], None]:
    """Texts, one a line; what people wrote cannot act."""
    return lambda console: [console.print(Text(printable(text)), highlight=False) for text in texts] and None


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Callable[[Console], None]:
    def show(console: Console) -> None:
        made = Table(box=None, pad_edge=False)
        for name in head:
            made.add_column(Text(printable(name)), overflow="fold")
        for row in rows:
            made.add_row(*(Text(printable(str(cell))) for cell in row))
        console.print(made)

    return show


# --- the stages ------------------------------------------------------------------------------------------------------


def data(tour: Tour) -> Iterator[Step]:
    query, dataset = tour.query, tour.environment.dataset
    yield Step(
        "a wish",
        "A query names a category and a use, and leaves the rest open. What the person really wants (`truth`) is known "
        "in this shop, and shown to nobody.",
        "datatypes.py, world.py",
        lines(f"{query.user} asks: {query.text}", f"truth: {dict(query.truth or {})}"),
    )
    met = dataset.history(query)
    yield Step(
        "a history",
        f"What the person did strictly before: {len(met)} purchases. These are the last three.",
        "data.py",
        table(
            ("item", "rating", "review"), [(dataset.items[m.item].title, f"{m.rating:g}", m.review) for m in met[-3:]]
        ),
    )


def memory(tour: Tour) -> Iterator[Step]:
    held = tour.environment.memory.entries(tour.query)
    some = [entry for level in ("record", "pattern", "profile") for entry in held if entry.level == level]
    picked = [e for level in ("record", "pattern", "profile") for e in [x for x in some if x.level == level][:3]]
    yield Step(
        "local memory (eq. 1, 4, 5)",
        f"Three levels, each made from the one before: {len(held)} entries of this person alone, written by counting "
        "(extractive, no LM). Three of each:",
        "memory.py, summarize.py",
        table(("level", "text", "rests on"), [(e.level, e.text, f"{len(e.rests_on)} record(s)") for e in picked]),
    )
    shown = tour.environment.memory.search_global(tour.query.text, tour.recipe.train.rules.global_k)
    yield Step(
        "global memory (eq. 6)",
        "What decides in a category, learned from train users and about nobody. These lines go into the prompt.",
        "memory.py",
        table(("line", "people behind it"), [(e.text, e.support) for e in shown]),
    )


def retrieval(tour: Tour) -> Iterator[Step]:
    first = tour.environment.memory.search_global(tour.query.text, 1)
    asked = first[0].text if first else tour.query.text
    found = tour.environment.memory.local(tour.query).find_many([asked], 5)[0]
    yield Step(
        f'the memory tool, asked for "{asked}" (eq. 8)',
        "Two lists of the same entries: words in common (BM25) and vectors (dense). Each is stretched to 0..1, then "
        "they are added, .7 and .3.",
        "bm25.py, dense.py, hybrid.py",
        table(
            ("memory", "BM25", "dense", "fused"),
            [(e.text, f"{h.bm25:.2f}", f"{h.dense:.2f}", f"{h.score:.2f}") for e, h in found],
        ),
    )


def rollout(tour: Tour) -> Iterator[Step]:
    episode = next(e for e in tour.before if e.query.id == tour.query.id)
    written = sum(episode.mask)
    yield Step(
        "an episode (eq. 7 to 9)",
        "A language model of some 140,000 parameters, which has only imitated a teacher so far, plays the query. It "
        "thinks, searches, reads and answers; dim is what it was given, the rest it wrote.",
        "grammar.py, sampler.py, rollout.py",
        lambda console: print_transcript(tour.eval_set.grammar.transcript(episode.tokens, episode.mask), console),
    )
    yield Step(
        "who wrote what",
        "Only sampled tokens can be praised or blamed: the mask is 1 there, and 0 for prompt and memory.",
        "datatypes.py",
        lines(f"{len(episode.tokens)} tokens, {written} of them written by the policy; it ended: {episode.end}"),
    )


def reward(tour: Tour) -> Iterator[Step]:
    terms = [(e, e.rewards) for e in tour.group]
    rows = [
        (n, len(e.calls), f"{t['rank']:g}", t["format"], f"{t['recommendation']:.2f}", t["memory"], f"{e.reward:.2f}")
        for n, (e, t) in enumerate(terms, start=1)
    ]
    yield Step(
        "what each was worth (eq. 10)",
        f"The same query, played {len(rows)} times at temperature 1: r = .1 format + 5 recommendation + .1 memory. "
        "Recommendation is where the item that the person took stands when the profile searches the shop.",
        "reward.py, environment.py",
        table(("episode", "searches", "rank", "format", "recommendation", "memory", "r"), rows),
    )


def update(tour: Tour) -> Iterator[Step]:
    batch = to_batch(tour.group, [0] * len(tour.group))
    advantages = group_advantages(batch.rewards, batch.groups, tour.recipe.train.grpo.sigma)
    yield Step(
        "compared with its group (sec. 3.3)",
        "The advantage is an episode's reward minus the group's mean. It is the same for each token that the policy "
        "wrote in that episode; a group whose rewards are all equal teaches nothing.",
        "reinforce.py, grpo.py",
        table(
            ("episode", "reward", "advantage"),
            [
                (n, f"{r:.2f}", f"{a:+.2f}")
                for n, (r, a) in enumerate(zip(batch.rewards.tolist(), advantages.tolist(), strict=True), start=1)
            ],
        ),
    )
    with torch.no_grad():
        logprobs, _ = token_logprobs(tour.start[0], batch.tokens, batch.mask)
    sampled = int(batch.mask.sum())
    config = tour.recipe.train.grpo
    loss = grpo_loss(logprobs, logprobs, advantages, batch.mask, config, len(tour.group), sampled)
    yield Step(
        "the loss (eq. 11)",
        "On fresh episodes the ratio is 1 and the clip sleeps; the value of the loss means nothing, its gradient "
        "everything.",
        "grpo.py, train.py",
        lines(f"loss of this group {float(loss):+.4f}, over {sampled} sampled tokens"),
    )
    _, log = tour.learned
    yield Step(
        f"{len(log)} steps of learning",
        f"{tour.recipe.train.prompts_per_step} queries a step, {tour.recipe.train.group} episodes each. Mean reward by "
        "step:",
        "train.py",
        lines(*curve([line["reward"] for line in log], width=60).splitlines()),
    )


def evaluation(tour: Tour) -> Iterator[Step]:
    before, after = tour.rows("warm_start", tour.before), tour.rows("grpo", tour.after)
    gain = difference(after, "warm_start", before, np.random.default_rng(0))
    low, high = gain["interval"] or (float("nan"), float("nan"))
    verdict = "it is above 0" if low > 0 else "it cannot be told from 0" if high > 0 else "it is below 0"
    yield Step(
        "before and after",
        f"All {len(before)} test queries, greedy, the whole pool ranked. The difference is paired by query, with "
        "a 95 % interval.",
        "metrics.py, evaluate.py",
        lines(
            f"nDCG@10 before {means(before)['ndcg@10']:.3f}, after {means(after)['ndcg@10']:.3f}",
            f"difference {gain['ndcg@10']:+.3f}, {low:+.3f} to {high:+.3f}: {verdict}",
        ),
    )
    one, other = (next(e for e in those if e.query.id == tour.query.id) for those in (tour.before, tour.after))
    yield Step(
        "the same query after learning",
        f"The item that the person took stood at {one.rewards['rank']:g}; now it stands at {other.rewards['rank']:g}. "
        "One query is an anecdote; the interval above is not.",
        "demo.py, report.py",
        lambda console: print_transcript(tour.eval_set.grammar.transcript(other.tokens, other.mask), console),
    )


SHOWS = dict(zip(STAGES, (data, memory, retrieval, rollout, reward, update, evaluation), strict=True))


def steps(tour: Tour, stage: str | None = None) -> Iterator[tuple[str, Step]]:
    """(stage, step) in order; of one stage, where it is named. ValueError: there is no such stage."""
    if stage is not None and stage not in SHOWS:
        raise ValueError(f"no stage is called {stage!r}; there are {', '.join(STAGES)}")
    for name in [stage] if stage else STAGES:
        for step in SHOWS[name](tour):
            yield name, step


def print_step(stage: str, step: Step, console: Console) -> None:
    """The way through the stages with this one marked, what the step says, and what it shows."""
    way = Text(" > ").join(Text(name, "bold reverse" if name == stage else "dim") for name in STAGES)
    console.print()
    console.print(way)
    console.print(Text(printable(step.title), "bold"))
    console.print(Text(printable(step.says)))
    step.show(console)
    console.print(Text(f"code: {step.file}", "dim"))
