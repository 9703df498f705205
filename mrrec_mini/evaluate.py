"""Every arm on the same queries: one row a query, then means, intervals and paired differences.

Flow: after training. A `EvalSet` holds what the arms of one comparison share. `reference_rows` runs the arms that need
no policy, `policy_rows` a language model (greedy and sampled); `report_dict` turns rows into the numbers of an
evaluation, `arms_table` shows them. Rows are plain: they can be sent between processes and joined over
seeds. The arms, in the order in which they are compared, each with the one before it:

    popularity             what most train users took before the query; like the next, it reads no text at all
    neighbours             what the people took besides who took this person's things (item-item neighbours)
    bm25_query             the words of the query, nothing else; this one and the next three are run by hand, see below
    dense_query            its vector, nothing else
    blair                  a text encoder taught by reviews which item they are about, asked the query
    rec_r1                 a policy that learned to rewrite the query for BM25, without memory
    query_only             the profile is the query
    naive_memory           query + this user's latest records (the paper's "naive": recent history)
    static_memory          query + all lines of the user profile (the paper's "static": a summary)
    teacher                the script that the warm start imitates
    warm_start             the policy before reinforcement
    warm_start_all_calls   the same, forced to use every search: the gain of searching more, not of searching well
    reinforce              the policy after REINFORCE
    grpo_no_global         the policy after GRPO without global memory (fig. 3)
    grpo_no_local          ... without local memory (fig. 3)
    grpo                   ... with both
    expert                 the script that looks up what matters; needs `Query.truth`, as does
    oracle                 the profile of a perfect reasoner: the ceiling

Equations: those of `metrics`: Recall and nDCG at 10, 100, 1000 over the whole pool (sec. 4). A query without an answer
counts 0 and stays in the mean.

`popularity` and `neighbours` are `systems`: they know who took what and when, put last what a person never takes again,
and are given no words, so their memory tokens are 0. The other arms rank by text alone. Where people repeat each other
the two are hard to beat; in the synthetic shop, where they do not, they are near chance. The other `systems` read the
query and know nobody; `reference_rows` leaves them out, since two of them take minutes to train:
`system_rows(eval_set, "blair", Blair(BlairConfig(seed=eval_set.seed)))`, and so for "rec_r1"
`RecR1(RecR1Config(seed=...))`, "bm25_query" `bm25_query()`, "dense_query" `dense_query()`.

Departures: in the paper a language model turns naive and static memory into a profile; here the lines are appended to
the query as they are (an extractive profile), since the small policy was never shown such a prompt. Intervals and
`warm_start_all_calls` are ours.

Guessed: what Table 4 counts as memory tokens. Here: all tokens of memory that an arm is given, global lines and
retrieved local entries, with their markers, in the policy's own tokenizer.

What is drawn at random is a query of a data set: rows of one query from several seeds are resampled together. Synthetic
shops of different seeds are different data sets, so there every row is its own cluster. An interval does not cover the
spread between training seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from transformers import PreTrainedModel

from mrrec_mini.data import Dataset
from mrrec_mini.datatypes import Episode, MemoryEntry, Query
from mrrec_mini.environment import Environment, aspect_names
from mrrec_mini.grammar import Grammar
from mrrec_mini.memory import plain
from mrrec_mini.metrics import MISSING, bootstrap_interval, ndcg_at_k, recall_at_k, target_ranks
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import Actor, LMActor, RolloutConfig, ScriptActor
from mrrec_mini.scripts import TeacherConfig, expert, teacher
from mrrec_mini.systems import System
from mrrec_mini.systems.neighbours import Neighbours
from mrrec_mini.systems.popularity import Popularity
from mrrec_mini.world import oracle_profile

ARMS = (
    *("popularity", "neighbours", "bm25_query", "dense_query", "blair", "rec_r1"),
    *("query_only", "naive_memory", "static_memory", "teacher", "warm_start", "warm_start_all_calls"),
    *("reinforce", "grpo_no_global", "grpo_no_local", "grpo", "expert", "oracle"),
)
PARTS = ("test", "held", "validation")
CUTOFFS = (10, 100, 1000)
GREEDY, SAMPLED, NO_POLICY = "greedy", "sampled", ""


@dataclass(frozen=True)
class Row:
    """One query answered by one arm."""

    arm: str  # one of ARMS
    mode: str  # "greedy" | "sampled"; "" for an arm without a policy
    part: str  # one of PARTS; "held": test users, categories that no training query named
    seed: int  # of the run
    source: str  # the data set that the query is from; runs of several seeds may share it
    query: str  # its id
    rank: int | None  # of the target in the whole pool, from 1; None: no answer
    format: float  # 1.0: the answer parsed
    calls: int  # memory calls made
    memory_tokens: int  # tokens of memory given to the arm
    asked: int | None = None  # aspects looked up; None where truth is unknown or the arm cannot look up
    right: int | None = None  # ... that matter
    matter: int | None = None  # aspects that matter


@dataclass(frozen=True)
class EvalSet:
    """What the arms of one comparison share: who asks what, and under which rules it is answered."""

    environment: Environment
    grammar: Grammar
    rules: RolloutConfig
    part: str
    seed: int
    queries: tuple[Query, ...]
    latest: int = 3  # records that naive_memory appends
    batch: int = 256  # episodes played at a time: bounds the memory of the KV cache

    @cached_property
    def aspects(self) -> list[str]:
        """Every aspect that an item of the data set can have, as memory writes it."""
        return aspect_names(self.environment.dataset)


def eval_sets(environment: Environment, grammar: Grammar, rules: RolloutConfig, seed: int) -> list[EvalSet]:
    """Test users on familiar categories ("test") and on held-out ones ("held", where there are any)."""
    queries = {"test": environment.split.test_queries, "held": environment.split.held_queries}
    return [EvalSet(environment, grammar, rules, part, seed, asked) for part, asked in queries.items() if asked]


def reference_rows(eval_set: EvalSet, rng: np.random.Generator, teaching: TeacherConfig | None = None) -> list[Row]:
    """The arms without a policy; expert and oracle only where every query has a known truth. `rng`: the teacher's."""
    memory, queries = eval_set.environment.memory, eval_set.queries
    teaching = teaching or TeacherConfig()
    latest = [[e for e in memory.entries(q) if e.level == "record"][: eval_set.latest] for q in queries]
    profile = [[e for e in memory.entries(q) if e.level == "profile"] for q in queries]
    rows = system_rows(eval_set, "popularity", Popularity())
    rows += system_rows(eval_set, "neighbours", Neighbours())
    rows += appended_rows(eval_set, "query_only", [[]] * len(queries))
    rows += appended_rows(eval_set, "naive_memory", latest)
    rows += appended_rows(eval_set, "static_memory", profile)
    script = teacher(eval_set.grammar, teaching, rng, eval_set.aspects, eval_set.rules.max_calls)
    rows += episode_rows(eval_set, "teacher", NO_POLICY, play(eval_set, ScriptActor(script)))
    if all(query.truth is not None for query in queries):
        rows += episode_rows(eval_set, "expert", NO_POLICY, play(eval_set, ScriptActor(expert(eval_set.grammar))))
        rows += profile_rows(eval_set, "oracle", [oracle_profile(query) for query in queries], [0] * len(queries))
    return rows


def policy_rows(
    eval_set: EvalSet, arm: str, model: PreTrainedModel, generator: torch.Generator, all_calls: bool = False
) -> list[Row]:
    """A language model, greedy and then sampled (temperature 1, drawn from `generator`).

    Ablations are eval_sets with other rules: `global_k` 0 has no global memory, `max_calls` 0 no local one.
    """
    greedy = play(eval_set, LMActor(model, eval_set.grammar, None, 0.0), all_calls)
    sampled = play(eval_set, LMActor(model, eval_set.grammar, generator, 1.0), all_calls)
    return episode_rows(eval_set, arm, GREEDY, greedy) + episode_rows(eval_set, arm, SAMPLED, sampled)


def play(eval_set: EvalSet, actor: Actor, all_calls: bool = False) -> list[Episode]:
    """One scored episode a query of the eval_set, in order. The reward's weights play no part in what is reported."""
    episodes = []
    for start in range(0, len(eval_set.queries), eval_set.batch):
        queries = eval_set.queries[start : start + eval_set.batch]
        episodes += eval_set.environment.play(
            actor, queries, eval_set.grammar, eval_set.rules, RewardConfig(), all_calls
        )
    return episodes


def episode_rows(eval_set: EvalSet, arm: str, mode: str, episodes: Sequence[Episode]) -> list[Row]:
    """A row for each scored episode."""
    rows = []
    for episode in episodes:
        rank = episode.rewards["rank"]
        rows.append(
            Row(
                **_place(eval_set, arm, mode, episode.query),
                rank=int(rank) if np.isfinite(rank) else None,
                format=episode.rewards["format"],
                calls=len(episode.calls),
                memory_tokens=memory_tokens(episode, eval_set.grammar),
                **aspect_counts(episode, eval_set.aspects),
            )
        )
    return rows


def system_rows(eval_set: EvalSet, arm: str, system: System) -> list[Row]:
    """A row for each query: the system learns from the split's train users and scores the whole pool, not knowing
    the target. Ties go to the smaller id, as in the item index. Raises ValueError for a score that is NaN.
    """
    dataset = eval_set.environment.dataset
    pool = sorted(dataset.items)
    place = {item: n for n, item in enumerate(pool)}
    system = system.fit(dataset, eval_set.environment.split)
    # a query at a time: (queries, items) at once would not fit for a large shop
    ranks = [
        target_ranks([system.rank(replace(query, target="", truth=None), pool)], [place[query.target]])[0]
        for query in eval_set.queries
    ]
    return ranked_rows(eval_set, arm, ranks, [0] * len(ranks))


def appended_rows(eval_set: EvalSet, arm: str, memories: Sequence[Sequence[MemoryEntry]]) -> list[Row]:
    """A row for each query: the profile is the query followed by these memories, word for word."""
    texts = [" ".join(entry.text for entry in entries) for entries in memories]
    profiles = [f"{query.text} {text}".strip() for query, text in zip(eval_set.queries, texts, strict=True)]
    return profile_rows(eval_set, arm, profiles, [len(eval_set.grammar.tokenizer.encode(text)) for text in texts])


def profile_rows(eval_set: EvalSet, arm: str, profiles: Sequence[str], tokens: Sequence[int]) -> list[Row]:
    """A row for each query of an arm that writes a profile without playing an episode."""
    ranks = eval_set.environment.items.ranks(profiles, [query.target for query in eval_set.queries])
    return ranked_rows(eval_set, arm, ranks, tokens)


def ranked_rows(eval_set: EvalSet, arm: str, ranks: Sequence[int], tokens: Sequence[int]) -> list[Row]:
    """A row for each query of an arm without a policy: it always answers, and calls nothing."""
    return [
        Row(**_place(eval_set, arm, NO_POLICY, query), rank=int(rank), format=1.0, calls=0, memory_tokens=count)
        for query, rank, count in zip(eval_set.queries, ranks, tokens, strict=True)
    ]


def _place(eval_set: EvalSet, arm: str, mode: str, query: Query) -> dict:
    source = source_of(eval_set.environment.dataset)
    return dict(arm=arm, mode=mode, part=eval_set.part, seed=eval_set.seed, source=source, query=query.id)


def source_of(dataset: Dataset) -> str:
    """The name of a data set; of a synthetic shop also its seeds: shops of two seeds have other people in them."""
    name = str(dataset.meta.get("name", ""))
    world = dataset.meta.get("world")
    return f"{name} {world['seed']}.{world['map_seed']}" if world else name


def memory_tokens(episode: Episode, grammar: Grammar) -> int:
    """Tokens that the policy was given beyond the bare query: global lines and replies of the memory tool."""
    return episode.mask.count(0) - len(grammar.prompt(episode.query.text, ()))


def aspect_counts(episode: Episode, names: Iterable[str]) -> dict[str, int]:
    """How many aspects the calls named, how many of them matter, and how many matter. {} where truth is unknown."""
    if episode.query.truth is None:
        return {}
    matter = {plain(aspect) for aspect in episode.query.truth}
    asked = {name for call in episode.calls for name in names if names_aspect(call.text, name)}
    return {"asked": len(asked), "right": len(asked & matter), "matter": len(matter)}


def names_aspect(text: str, name: str) -> bool:
    """Whether the words of an aspect's name stand in `text`, in a row and whole: `sizes` does not name `size`."""
    return bool(name) and f" {name} " in f" {plain(text)} "


Group = tuple[str, str, str]  # arm, mode, part


def summary(rows: Sequence[Row], rng: np.random.Generator) -> dict[Group, dict]:
    """{(arm, mode, part): means, interval, difference to the arm before}, arms in their fixed order.

    `interval` is the 95 % bootstrap interval of nDCG@10. `difference` is {"to", "ndcg@10", "interval"}, paired by
    (seed, query), against the nearest arm before that answered the same part: in the same mode where it has it, else
    greedy or without a policy. None stands for what is not defined.
    Raises ValueError for an unknown arm or part, and for two rows of one arm on one query of one seed.
    """
    groups = grouped(rows)
    found = {}
    for (arm, mode, part), answered in groups.items():
        result = means(answered)
        result["interval"] = interval([ndcg_10(row) for row in answered], answered, rng)
        before = arm_before(groups, arm, part)
        result["difference"] = before and difference(answered, before, rows_in_mode(groups, before, mode, part), rng)
        found[arm, mode, part] = result
    return found


def grouped(rows: Sequence[Row]) -> dict[Group, list[Row]]:
    """Rows by (arm, mode, part), arms in their fixed order."""
    strange = {row.arm for row in rows} - set(ARMS) | {row.part for row in rows} - set(PARTS)
    if strange:
        raise ValueError(f"no such arm or part: {', '.join(sorted(strange))}")
    groups: dict[Group, list[Row]] = {}
    # also by seed and query: processes finish in any order, and intervals must not depend on it
    for row in sorted(rows, key=lambda r: (ARMS.index(r.arm), PARTS.index(r.part), r.mode, r.seed, r.query)):
        groups.setdefault((row.arm, row.mode, row.part), []).append(row)
    for group, answered in groups.items():
        if len({(row.seed, row.query) for row in answered}) < len(answered):
            raise ValueError(f"{' '.join(group)}: two rows answer one query of one seed")
    return groups


def means(rows: Sequence[Row]) -> dict:
    """Means over the rows of one group; None where no row has the number."""
    ranks = [_rank(row) for row in rows]
    result: dict = {f"ndcg@{k}": float(ndcg_at_k(ranks, k).mean()) for k in CUTOFFS}
    result |= {f"recall@{k}": float(recall_at_k(ranks, k).mean()) for k in CUTOFFS}
    return result | {
        "format": _mean(row.format for row in rows),
        "calls": _mean(row.calls for row in rows),
        "memory_tokens": _mean(row.memory_tokens for row in rows),
        "aspect_precision": _mean(row.right / row.asked for row in rows if row.asked),
        "aspect_recall": _mean(row.right / row.matter for row in rows if row.matter),
        "aspects_right": _mean(row.right for row in rows if row.matter),
        "aspects_that_matter": _mean(row.matter for row in rows if row.matter),
        "queries": len(rows),
    }


def difference(new: Sequence[Row], before: str, old: Sequence[Row], rng: np.random.Generator) -> dict | None:
    """nDCG@10 of `new` minus that of `old`, over the (seed, query) pairs that both answered; None if there are none."""
    known = {(row.seed, row.query): ndcg_10(row) for row in old}
    shared = [row for row in new if (row.seed, row.query) in known]
    if not shared:
        return None
    gains = [ndcg_10(row) - known[row.seed, row.query] for row in shared]
    return {"to": before, "ndcg@10": float(np.mean(gains)), "interval": interval(gains, shared, rng)}


def interval(values: Sequence[float], rows: Sequence[Row], rng: np.random.Generator) -> list[float] | None:
    """[low, high], 95 %, rows of one query drawn together; None for fewer than two queries."""
    numbers: dict[tuple[str, str], int] = {}
    clusters = [numbers.setdefault((row.source, row.query), len(numbers)) for row in rows]
    if len(numbers) < 2:
        return None
    found = bootstrap_interval(values, rng, clusters=clusters)
    return [found.low, found.high]


def arm_before(groups: Mapping[Group, Sequence[Row]], arm: str, part: str) -> str | None:
    """The nearest arm before this one, in the fixed order, that answered this part."""
    ran = {name for name, _, where in groups if where == part}
    return next((name for name in reversed(ARMS[: ARMS.index(arm)]) if name in ran), None)


def rows_in_mode(groups: Mapping[Group, Sequence[Row]], arm: str, mode: str, part: str) -> Sequence[Row]:
    """The arm's rows in this mode if it has them, else greedy, else those without a policy, else sampled."""
    modes = (mode, GREEDY, NO_POLICY, SAMPLED)
    return next(groups[arm, m, part] for m in modes if (arm, m, part) in groups)


def ndcg_10(row: Row) -> float:
    return float(ndcg_at_k([_rank(row)], 10)[0])


def _rank(row: Row) -> float:
    return MISSING if row.rank is None else row.rank


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return float(np.mean(values)) if values else None


def report_dict(rows: Sequence[Row], rng: np.random.Generator) -> dict[str, dict]:
    """{arm: {"ndcg@10", "recall@10", "interval", ..., "sampled": {...}, "held": {..., "sampled": {...}}}}: strict JSON.

    The arm's own numbers are those of the test part, greedy for a policy; `sampled`, `held` and `validation` are there
    where they were run.
    """
    arms: dict[str, dict] = {}
    for (arm, mode, part), numbers in summary(rows, rng).items():
        place = arms.setdefault(arm, {})
        if part != "test":
            place = place.setdefault(part, {})
        if mode == SAMPLED:
            place[SAMPLED] = numbers
        else:
            place |= numbers
    return arms
