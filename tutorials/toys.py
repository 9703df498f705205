"""A small game that shows in seconds whether a policy learns *when* to look up; its best reward is known.

Half of the queries say what is wanted ("mug red"). The other half do not ("mug any"), and only the person's memory
knows the answer. A right answer earns 1, and a look-up costs .4. So the best policy looks up in exactly half of the
queries, and earns

    1/2 x 1 + 1/2 x (1 - .4) = .8

The policy starts by imitating a teacher. The teacher repeats the query, tosses a coin to decide whether to look up
(whatever the query says), and answers with a value that it has read, or with a random value if it has read none. It
earns 1/2 (1/2 x 1 + 1/2 x .6) + 1/2 (1/2 x .25 + 1/2 x .6) = .6125. A policy that always looks up earns .6, and one
that never does earns .625, so neither shortcut is worth taking.

The notebooks 05, 07, 08 and 12 and the slow tests of learning play this game. Only the task is defined here; grammar,
rollout, sampler and training loop are the package's own.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from mrrec_mini.datatypes import MemoryEntry, Query
from mrrec_mini.grammar import CONTROL, Grammar
from mrrec_mini.imitation import WarmStartConfig, warm_start
from mrrec_mini.models.causal_lm import CausalLMConfig, WordTokenizer, make_causal_lm
from mrrec_mini.reward import RewardConfig, total_reward
from mrrec_mini.rollout import LMActor, RolloutConfig, ScriptActor, rollout
from mrrec_mini.train import TrainConfig

THINGS, VALUES = ("mug", "lamp", "bag"), ("red", "blue", "green", "black")
TOKENIZER = WordTokenizer(CONTROL, (*THINGS, *VALUES, "any"))
GRAMMAR = Grammar(TOKENIZER)
RULES = RolloutConfig(max_calls=1, memory_k=1, global_k=0, turn_tokens=10)
REWARD = RewardConfig(format=0.0, recommendation=1.0, memory=0.0, call_cost=0.4)
BEST, TEACHERS = 0.8, 0.6125
CONFIG = TrainConfig(
    steps=80,
    prompts_per_step=12,
    group=8,
    learning_rate=2e-3,
    micro_batches=1,
    rules=RULES,
    reward=REWARD,
)


class Notes:
    """A memory with one line per person and thing: `mug red`. A search finds the person's line about a thing."""

    def __init__(self, taste: dict[tuple[str, str], str]):
        self.taste = taste

    def search_global(self, text: str, k: int) -> tuple[MemoryEntry, ...]:
        return ()

    def search_many(self, asked, k: int) -> list[tuple[MemoryEntry, ...]]:
        return [self._search(query.user, text.split()) for query, text in asked]

    def _search(self, user: str, words: list[str]) -> tuple[MemoryEntry, ...]:
        thing = next((word for word in words if word in THINGS), None)
        if thing is None:
            return ()
        return (MemoryEntry(f"{user}/{thing}", user, "pattern", f"{thing} {self.taste[user, thing]}"),)


@dataclass(frozen=True)
class Task:
    """People, their notes and their queries; takes the place of an `Environment`."""

    memory: Notes
    train_queries: tuple[Query, ...]
    test_queries: tuple[Query, ...]
    items: None = None  # there are no items to search: the profile is the answer

    @classmethod
    def make(cls, seed: int, people: int = 60) -> "Task":
        rng = np.random.default_rng(seed)
        taste = {(f"u{n}", thing): str(rng.choice(VALUES)) for n in range(people) for thing in THINGS}
        queries = [
            Query(f"{user} {thing} {said}", user, f"{thing} {said}", value, 0)
            for (user, thing), value in taste.items()
            for said in (value, "any")
        ]
        cut = 2 * len(THINGS) * (people // 2)
        return cls(Notes(taste), tuple(queries[:cut]), tuple(queries[cut:]))

    @property
    def split(self):
        return self

    def play(self, actor, queries, grammar, rules, reward):
        return [scored(e, reward) for e in rollout(actor, queries, self.memory, grammar, rules)]


def needs_look_up(query: Query) -> bool:
    """Whether only the memory knows what this query wants."""
    return query.text.endswith("any")


def scored(episode, reward: RewardConfig):
    """The episode with its reward: 1 if its profile is exactly the wanted word, minus the cost of its look-up."""
    hit = float(episode.answer is not None and episode.answer.profile == episode.query.target)
    terms = {"format": float(episode.answer is not None), "recommendation": hit, "memory": float(bool(episode.calls))}
    total = total_reward(terms, reward, len(episode.calls))
    return replace(episode, rewards={**terms, "rank": 1.0 if hit else float("inf")}, reward=total)


def coin_flip_teacher(rng: np.random.Generator):
    """A teacher that repeats the query, looks up or not by a coin toss, and answers with the last value it has read."""

    def make(state):
        looks_up = rng.random() < 0.5

        def script(state):
            if looks_up and not state.calls:
                return GRAMMAR.write_search(state.query.text, state.query.text.split()[0])
            read = [*state.query.text.split(), *(word for entry in state.shown for word in entry.text.split())]
            known = [word for word in read if word in VALUES]
            return GRAMMAR.write_final(state.query.text, known[-1] if known else str(rng.choice(VALUES)), ())

        return script

    return make


def warm_policy(task: Task, seed: int, steps: int = 200):
    """A tiny Llama, trained to imitate the teacher."""
    rng = np.random.default_rng([seed, 1])
    queries = [task.train_queries[i] for i in rng.integers(0, len(task.train_queries), 600)]
    traces = task.play(ScriptActor(coin_flip_teacher(rng)), queries, GRAMMAR, RULES, REWARD)
    shape = CausalLMConfig(width=32, layers=2, heads=2, feed_forward=64, context=64)
    model = make_causal_lm(len(TOKENIZER), shape, torch.Generator().manual_seed(seed))
    warm_start(model, TOKENIZER, traces, WarmStartConfig(steps=steps, learning_rate=1e-2, scrambled=0.0), rng)
    return model


@dataclass(frozen=True)
class Report:
    """How a policy does with people that it has never met; it samples its answers (not greedy)."""

    reward: float
    calls_needed: float  # look-ups per query that needs one
    calls_idle: float  # look-ups per query that needs none

    def __str__(self) -> str:
        look_ups = f"{self.calls_needed:.2f} where needed, {self.calls_idle:.2f} where not"
        return f"reward {self.reward:.3f} (best {BEST}), look-ups per query: {look_ups}"


def report(model, task: Task) -> Report:
    """Let the model play every test query four times."""
    actor = LMActor(model, GRAMMAR, torch.Generator().manual_seed(99))
    episodes = task.play(actor, task.test_queries * 4, GRAMMAR, RULES, REWARD)
    calls = [[len(e.calls) for e in episodes if needs_look_up(e.query) == needed] for needed in (True, False)]
    return Report(float(np.mean([e.reward for e in episodes])), *(float(np.mean(c)) for c in calls))
