"""A game that is learned in seconds and whose best reward is known: does a policy learn *when* to look up?

Half of the queries say what is wanted ("mug red"), half do not ("mug any"): then only the person's memory knows. A
look-up costs .4 of what a right answer is worth. So the best policy looks up in exactly one half, and earns

    1/2 x 1 + 1/2 x (1 - .4) = .8

The start imitates a teacher that repeats the query, tosses a coin whether to look up, whatever the query says, and
answers what it has read or, if nothing, anything. It earns 1/2 (1/2 x 1 + 1/2 x .6) + 1/2 (1/2 x .25 + 1/2 x .6) =
.6125. Always to look up earns .6, never .625: neither shortcut is worth taking.

The notebooks 05 to 08 and 12 play it, and so do the slow tests of learning. Everything in it but the task is the
package's own: the grammar, the rollout, the sampler, the loop.
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
    """A memory of one line for each person and thing: `mug red`. It answers what is asked about, of this person."""

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
    """People, their notes and their queries; stands where an `Environment` stands."""

    memory: Notes
    train_queries: tuple[Query, ...]
    test_queries: tuple[Query, ...]
    items: None = None  # nothing is searched: the profile is the answer

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
    return query.text.endswith("any")


def scored(episode, reward: RewardConfig):
    """1 for the wanted word as the whole profile, less what looking up cost."""
    hit = float(episode.answer is not None and episode.answer.profile == episode.query.target)
    terms = {"format": float(episode.answer is not None), "recommendation": hit, "memory": float(bool(episode.calls))}
    total = total_reward(terms, reward, len(episode.calls))
    return replace(episode, rewards={**terms, "rank": 1.0 if hit else float("inf")}, reward=total)


def coin_flip_teacher(rng: np.random.Generator):
    """Repeats the query, tosses a coin whether to look up, answers with the value it has read last, else with any."""

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
    """A tiny Llama that imitates the teacher."""
    rng = np.random.default_rng([seed, 1])
    queries = [task.train_queries[i] for i in rng.integers(0, len(task.train_queries), 600)]
    traces = task.play(ScriptActor(coin_flip_teacher(rng)), queries, GRAMMAR, RULES, REWARD)
    shape = CausalLMConfig(width=32, layers=2, heads=2, feed_forward=64, context=64)
    model = make_causal_lm(len(TOKENIZER), shape, torch.Generator().manual_seed(seed))
    warm_start(model, TOKENIZER, traces, WarmStartConfig(steps=steps, learning_rate=1e-2, scrambled=0.0), rng)
    return model


@dataclass(frozen=True)
class Report:
    """What a policy does with people that it has never met; sampled, not greedy."""

    reward: float
    calls_needed: float  # share of the queries that need a look-up where it looked up
    calls_idle: float  # and of those that need none

    def __str__(self) -> str:
        return f"reward {self.reward:.3f} of {BEST}, calls {self.calls_needed:.2f} needed {self.calls_idle:.2f} idle"


def report(model, task: Task) -> Report:
    actor = LMActor(model, GRAMMAR, torch.Generator().manual_seed(99))
    episodes = task.play(actor, task.test_queries * 4, GRAMMAR, RULES, REWARD)
    calls = [[len(e.calls) for e in episodes if needs_look_up(e.query) == needed] for needed in (True, False)]
    return Report(float(np.mean([e.reward for e in episodes])), *(float(np.mean(c)) for c in calls))
