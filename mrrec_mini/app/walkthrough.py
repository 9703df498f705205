"""A tour in the terminal: it follows one user and one query through every stage and shows what each stage returns.

Flow: after all other stages. `mrrec walkthrough` prints the tour step by step; notebook 00 visits the same stages and
lets you try things. The shop (`SHOP`, an easy one) and the training (`LESSON`) are small: the tour takes about 50
seconds on one core. Notebook 10 measures what so little training achieves.

Equations: none of its own. Departure: the teacher of `LESSON` is weaker than the teacher of the default recipe, so that
a few training steps make a difference. The query was not chosen for its result: it is the first test query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from mrrec_mini.app.terminal import curve, print_transcript
from mrrec_mini.chat_grammar import grammar_of
from mrrec_mini.data import printable
from mrrec_mini.datatypes import Episode, Query
from mrrec_mini.environment import Environment
from mrrec_mini.evaluate import GREEDY, SAMPLED, EvalSet, Row, difference, eval_sets, means, play_greedily, policy_rows
from mrrec_mini.grpo import group_advantages, grpo_loss
from mrrec_mini.imitation import WarmStartConfig
from mrrec_mini.models.causal_lm import CausalLMConfig
from mrrec_mini.recipe import FAST, Recipe, Say, prepare, quiet, start_policy
from mrrec_mini.reinforce import to_batch, token_logprobs
from mrrec_mini.rollout import LMActor, RolloutConfig
from mrrec_mini.scripts import TeacherConfig, lookup_text
from mrrec_mini.train import TrainConfig, Trainer, train
from mrrec_mini.world import EASY, WorldConfig, make_world

SHOP = replace(EASY, users=90, items=600, categories=8, held=2)
RULES = RolloutConfig(constrained=True)
LESSON = Recipe(
    siblings=1,
    sibling_users=60,
    traces=1200,
    model=CausalLMConfig(),  # two heads are enough where no query states a value
    teacher=TeacherConfig(stop=(0.3, 0.3, 0.2, 0.2), on_topic=0.5, believe=0.4),
    warm=WarmStartConfig(drill_steps=250, drill_batch=32, steps=350, batch=16),
    train=TrainConfig(
        steps=40, prompts_per_step=12, group=8, micro_batches=2, learning_rate=6e-4, evaluate_every=40, rules=RULES
    ),
)
TINY_SHOP = replace(SHOP, users=24, items=120, categories=5, held=1, history=8, queries=3)  # just to run the code
TINY_LESSON = replace(FAST, sibling_users=10, traces=60, train=replace(FAST.train, steps=2, rules=RULES))


@dataclass
class Tour:
    """The objects that the tour shows. Each object is made when it is first used."""

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
        """The first test query. Nothing was learned from test users."""
        return self.environment.split.test_queries[0]

    @cached_property
    def start(self):
        """(model, tokenizer) after the warm start."""
        torch.set_num_threads(1)
        return start_policy(self.environments, self.recipe, self.seed, self.say)

    @cached_property
    def eval_set(self) -> EvalSet:
        return eval_sets(self.environment, grammar_of(self.start[1]), self.recipe.train.rules, self.seed)[0]

    @cached_property
    def group(self) -> list[Episode]:
        """G episodes of the query (G = `config.group`), sampled as in training."""
        config, grammar = self.recipe.train, self.eval_set.grammar
        actor = LMActor(self.start[0], grammar, torch.Generator().manual_seed(self.seed), 1.0)
        return self.environment.play(actor, [self.query] * config.group, grammar, config.rules, config.reward)

    @cached_property
    def learned(self):
        """(the model after GRPO, the training log with one entry per step)."""
        model, tokenizer = deepcopy(self.start[0]), self.start[1]
        config = replace(self.recipe.train, seed=self.seed)
        trainer = Trainer(model, tokenizer, self.environments, config)
        return model, train(trainer, report=lambda line: self.say("learn", line["step"], config.steps, ""))

    @cached_property
    def before(self) -> list[Episode]:
        """Greedy episodes before training, one per test query."""
        return play_greedily(self.eval_set, self.start[0])

    @cached_property
    def after(self) -> list[Episode]:
        return play_greedily(self.eval_set, self.learned[0])

    def rows(self, arm: str, model) -> dict[str, list[Row]]:
        """Return {GREEDY: rows, SAMPLED: rows}, one row per test query. Every model samples with the same seed."""
        rows = policy_rows(self.eval_set, arm, model, torch.Generator().manual_seed(self.seed))
        return {mode: [row for row in rows if row.mode == mode] for mode in (GREEDY, SAMPLED)}


@dataclass(frozen=True)
class Step:
    """One step of the tour: a short explanation, the names of the code files, and a function that shows the objects."""

    title: str
    text: str
    files: str
    show: Callable[[Console], None]


def lines(*texts: str) -> Callable[[Console], None]:
    """Return a function that prints the texts, one per line. Control characters are escaped."""
    shown = Text("\n".join(printable(text) for text in texts))
    return lambda console: console.print(shown)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Callable[[Console], None]:
    """Return a function that prints a table. Control characters in the cells are escaped."""
    columns = [Column(Text(printable(name)), overflow="fold") for name in head]
    grid = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        grid.add_row(*(Text(printable(str(cell))) for cell in row))
    return lambda console: console.print(grid)


def gain(before: Sequence[Row], after: Sequence[Row], mode: str) -> tuple[str, ...]:
    """Return nDCG@10 before and after training, the mean difference, its interval, and what the interval says."""
    found = difference(after, before, ("difference", "grpo", "warm_start", mode, "test"))
    low, high = found["interval"] or (-np.inf, np.inf)
    verdict = "above 0" if low > 0 else "may be 0" if high >= 0 else "below 0"
    old, new = (f"{means(rows)['ndcg@10']:.3f}" for rows in (before, after))
    return old, new, f"{found['ndcg@10']:+.3f}", f"{low:+.3f} to {high:+.3f}", verdict


# --- the stages ------------------------------------------------------------------------------------------------------


def data(tour: Tour) -> Iterator[Step]:
    query, dataset = tour.query, tour.environment.dataset
    yield Step(
        "a query",
        "A query names a category and a use. It does not say what else the user wants. In this synthetic shop we know "
        "what the user wants (`truth`), but the policy never sees the truth.",
        "datatypes.py, world.py",
        lines(f"{query.user} asks: {query.text}", f"truth: {dict(query.truth or {})}"),
    )
    history = dataset.history(query)
    latest = [(dataset.items[m.item].title, f"{m.rating:g}", m.review) for m in history[-3:]]
    yield Step(
        "a history",
        f"The user made {len(history)} purchases before this query. These are the last three.",
        "data.py",
        table(("item", "rating", "review"), latest),
    )


def memory(tour: Tour) -> Iterator[Step]:
    entries = tour.environment.memory.entries(tour.query)
    levels = [[entry for entry in entries if entry.level == level] for level in ("record", "pattern", "profile")]
    picked = [entry for level in levels for entry in level[:3]]
    yield Step(
        "local memory (eq. 1, 4, 5)",
        f"Local memory has {len(entries)} entries, all about this user. It has three levels: records, patterns and "
        "profile. Each level summarizes the level before. Here no language model writes the summaries: the code "
        "counts which item attributes the user liked. The table shows up to three entries per level.",
        "memory.py, summarize.py",
        table(("level", "text", "built from"), [(e.level, e.text, f"{len(e.rests_on)} record(s)") for e in picked]),
    )
    shared = tour.environment.memory.search_global(tour.query.text, tour.recipe.train.rules.global_k)
    yield Step(
        "global memory (eq. 6)",
        "Global memory says which aspects matter in a category. It is learned from other users, but it names no user. "
        "The policy finds these lines in its prompt.",
        "memory.py",
        table(("line", "number of users behind it"), [(e.text, e.support) for e in shared]),
    )


def retrieval(tour: Tour) -> Iterator[Step]:
    first = tour.environment.memory.search_global(tour.query.text, 1)
    text = lookup_text(first[0]) if first else tour.query.text
    hits = tour.environment.memory.local(tour.query).find(text, 5)
    yield Step(
        f'the memory tool, searching for "{text}" (eq. 8)',
        "Every entry gets two scores. BM25 scores the words that the entry shares with the search text; dense compares "
        "text vectors. Each list of scores is scaled to 0..1. The fused score is .7 x BM25 + .3 x dense.",
        "bm25.py, dense.py, hybrid.py",
        table(
            ("memory", "BM25", "dense", "fused"),
            [(e.text, f"{h.bm25:.2f}", f"{h.dense:.2f}", f"{h.score:.2f}") for e, h in hits],
        ),
    )


def rollout(tour: Tour) -> Iterator[Step]:
    episode = tour.before[0]
    written = sum(episode.mask)
    yield Step(
        "an episode (eq. 7 to 9)",
        "The policy is a language model with about 140,000 parameters. So far it has only imitated a teacher. "
        "In an episode, the policy thinks, searches memory, reads the results and answers. It wrote the bold lines; "
        "the dim lines are its input.",
        "grammar.py, sampler.py, rollout.py",
        lambda console: print_transcript(tour.eval_set.grammar.transcript(episode.tokens, episode.mask), console),
    )
    yield Step(
        "who wrote what",
        "The loss covers only the tokens that the policy wrote. A mask has one value per token: 1 if the policy wrote "
        "the token, 0 for the prompt and for memory.",
        "datatypes.py",
        lines(f"{len(episode.tokens)} tokens, {written} of them written by the policy; it ended with: {episode.end}"),
    )


def reward(tour: Tour) -> Iterator[Step]:
    terms = [(e, e.rewards) for e in tour.group]
    rows = [
        (n, len(e.calls), f"{t['rank']:g}", t["format"], f"{t['recommendation']:.2f}", t["memory"], f"{e.reward:.2f}")
        for n, (e, t) in enumerate(terms, start=1)
    ]
    yield Step(
        "the reward (eq. 10)",
        f"The policy plays {len(rows)} episodes of the query, sampled at temperature 1. The reward is r = .1 format + "
        "5 recommendation + .1 memory. For the recommendation term, we search the shop with the profile that the "
        "policy wrote; the higher the item that the user took is ranked, the larger the term.",
        "reward.py, environment.py",
        table(("episode", "searches", "rank", "format", "recommendation", "memory", "r"), rows),
    )


def update(tour: Tour) -> Iterator[Step]:
    batch = to_batch(tour.group, [0] * len(tour.group))
    advantages = group_advantages(batch.rewards, batch.groups, tour.recipe.train.grpo.sigma)
    pairs = enumerate(zip(batch.rewards.tolist(), advantages.tolist(), strict=True), start=1)
    yield Step(
        "the advantages (sec. 3.3)",
        "The advantage of an episode is its reward minus the mean reward of its group. Every token that the policy "
        "wrote in the episode gets this advantage. If all rewards of a group are equal, all advantages are 0 and the "
        "policy learns nothing from the group.",
        "reinforce.py, grpo.py",
        table(("episode", "reward", "advantage"), [(n, f"{r:.2f}", f"{a:+.2f}") for n, (r, a) in pairs]),
    )
    with torch.no_grad():
        logprobs, _ = token_logprobs(tour.start[0], batch.tokens, batch.mask)
    sampled = int(batch.mask.sum())
    config = tour.recipe.train.grpo
    loss = grpo_loss(logprobs, logprobs, advantages, batch.mask, config, len(tour.group), sampled)
    yield Step(
        "the loss (eq. 11)",
        "The policy has not changed since it played these episodes. So the probability ratio (new policy / old policy) "
        "is 1 for every token, and nothing is clipped. The value of the loss tells little; its gradient matters.",
        "grpo.py, train.py",
        lines(f"loss of this group {float(loss):+.4f}, over {sampled} sampled tokens"),
    )
    _, log = tour.learned
    yield Step(
        f"{len(log)} training steps",
        f"In each step, the policy plays {tour.recipe.train.group} episodes for each of "
        f"{tour.recipe.train.prompts_per_step} queries and is updated. The plot shows the mean reward of each step.",
        "train.py",
        lines(*curve([line["reward"] for line in log], width=60).splitlines()),
    )


def evaluation(tour: Tour) -> Iterator[Step]:
    before, after = tour.rows("warm_start", tour.start[0]), tour.rows("grpo", tour.learned[0])
    yield Step(
        "before and after training (nDCG@10)",
        f"All {len(tour.before)} test queries are played before and after training; each profile ranks all items. "
        "We judge the sampled policy (temperature 1), because GRPO trains the sampled policy. The second line shows "
        "the same policy played greedily: it always takes the most likely token. We compare query by query; the mean "
        "difference has a 95 % interval.",
        "metrics.py, evaluate.py",
        table(
            ("played", "before", "after", "difference", "95 % interval", ""),
            [(mode, *gain(before[mode], after[mode], mode)) for mode in (SAMPLED, GREEDY)],
        ),
    )
    old, new = tour.before[0], tour.after[0]
    yield Step(
        "the same query after training",
        "Here the policy plays greedily. The item that the user took was at rank "
        f"{old.rewards['rank']:g} before training; now it is at rank "
        f"{new.rewards['rank']:g}. One query proves little; the interval over all queries is the result.",
        "demo.py, report.py",
        lambda console: print_transcript(tour.eval_set.grammar.transcript(new.tokens, new.mask), console),
    )


SHOWS = {show.__name__: show for show in (data, memory, retrieval, rollout, reward, update, evaluation)}
STAGES = tuple(SHOWS)


def steps(tour: Tour, stage: str | None = None) -> Iterator[tuple[str, Step]]:
    """Yield (stage, step) in order: for all STAGES, or only for `stage`. Raises KeyError for an unknown stage."""
    for name in [stage] if stage else STAGES:
        for step in SHOWS[name](tour):
            yield name, step


def print_step(stage: str, step: Step, console: Console) -> None:
    """Print the names of all stages, with `stage` marked; then the title, text, objects and code files of the step."""
    way = Text(" > ").join(Text(name, "bold reverse" if name == stage else "dim") for name in STAGES)
    console.print()
    console.print(way)
    console.print(Text(printable(step.title), "bold"))
    console.print(Text(printable(step.text)))
    step.show(console)
    console.print(Text(f"code: {step.files}", "dim"))
