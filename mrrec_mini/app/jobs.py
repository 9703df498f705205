"""The training and evaluation jobs behind the paper's tables and figures; each runs for one seed and saves a result.

Flow: before `reproduce`, which reads the results. A job is a function of a `SeedContext` (the shops and the recipe of
one seed). Its result is saved as soon as the job is done. So an interrupted reproduction resumes where it stopped, and
a job that several tables need runs once. Equations: none of its own; MPC and MRC are those of `counterfactual`.

Departures from the paper. Small policies made from scratch stand in for its language models; no published weights are
run. BLaIR with memory encodes the query followed by the memory; Rec-R1 with memory is trained with the memory in its
prompt. A policy with naive or static memory still calls a tool, but the tool ignores the search text: it returns the
latest records (naive) or the profile (static), a few lines per call, because the policy has learned to read memory in
this form only. A policy without memory may not call the tool; its prompt still holds global memory, because the policy
was trained with global memory. For each seed, all policies with one level of memory begin with the same warm start. A
policy that reads another number of memories per call has its own warm start, because the teacher reads as many. The
retrievers are changed without training the policy again.

Baselines are tuned, which the paper does not report. For each seed, `tuned` tries a few settings on validation users
and the chosen one is evaluated on test users. The learning rates of BLaIR and Rec-R1 are tried with a third of the
steps. `popularity`, `neighbours`, BM25 and dense search of the query have nothing to tune.

Guessed: the plain start (Fig. 4) is trained on the texts of items, of train users' queries and of these users'
memories, for as many batches as the warm start.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from mrrec_mini.app.counterfactual import Withheld, contribution, place, profile_of
from mrrec_mini.app.demo import open_data, worked_episode
from mrrec_mini.app.processes import run_tasks
from mrrec_mini.chat_grammar import grammar_of
from mrrec_mini.data import INTERACTIONS, ITEMS, META, QUERIES, DataError, Dataset, Split
from mrrec_mini.datatypes import Episode, MemoryEntry, Query
from mrrec_mini.environment import Environment, item_text
from mrrec_mini.evaluate import (
    GREEDY,
    EvalSet,
    Row,
    actor_rows,
    episode_rows,
    eval_sets,
    means,
    memory_rows,
    play_greedily,
    reference_rows,
    system_rows,
)
from mrrec_mini.evidence import citations
from mrrec_mini.files import code_version, locked, write_text
from mrrec_mini.grammar import CONTROL
from mrrec_mini.hybrid import HybridIndex, TextSpace
from mrrec_mini.imitation import warm_start
from mrrec_mini.item_index import ItemIndex
from mrrec_mini.memory import Memory
from mrrec_mini.models.causal_lm import load_causal_lm, make_causal_lm, save_causal_lm
from mrrec_mini.recipe import (
    Recipe,
    Say,
    chosen_recipe,
    copying_policy,
    imitate,
    make_tokenizer,
    prepare,
    quiet,
    start_policy,
)
from mrrec_mini.rivals import RIVALS, Contest, ImitationClock, train_rival
from mrrec_mini.rollout import LMActor
from mrrec_mini.scripts import best_untold
from mrrec_mini.systems import System
from mrrec_mini.systems.blair import Blair, BlairConfig
from mrrec_mini.systems.query_text import bm25_query, dense_query
from mrrec_mini.systems.rec_r1 import Lines, RecR1, RecR1Config
from mrrec_mini.train import Trainer, train

LEVELS = ("record", "pattern", "profile")
RETRIEVERS = {  # Fig. 5: name -> changed fields of HybridConfig; all search the same rows
    "BM25": {"dense": "none"},
    "dense (LSA)": {"bm25_weight": 0.0},
    "both, min-max": {},
    "both, RRF": {"fusion": "rrf", "bm25_weight": 0.5},
}
KS = (1, 2, 3, 4, 5)  # Fig. 6: memories per call
FIRST_SEED = 20  # choices were made with seeds 0 to 3: no seed from here on was used for one
COUNTS = (1, 3, 10)  # the numbers of memory lines that are tried: the latest records, or the strongest profile lines
BLAIR_RATES = (1e-3, 3e-3, 1e-2)  # the learning rates that are tried
REC_R1_RATES = (3e-4, 1e-3)
UNKNOWN = "unknown"  # the code version of a result that was saved before results had one
GIVEN = {"naive": "record", "static": "profile"}  # kind of given memory -> level of its entries


@dataclass(frozen=True)
class Plan:
    """What is reproduced, and where the results are saved."""

    out: Path = Path("reproduction")
    data: Path | None = None  # None: the synthetic shop of each seed
    seeds: tuple[int, ...] = tuple(range(FIRST_SEED, FIRST_SEED + 5))
    fast: bool = False  # toy sizes: shows that the code runs; the numbers mean nothing

    @cached_property
    def digest(self) -> str | None:
        """Return the sha256 of the data set's files, to notice changed data. None: the synthetic shop."""
        if self.data is None:
            return None
        digest = hashlib.sha256()
        for path in (self.data / name for name in (ITEMS, INTERACTIONS, QUERIES, META)):
            digest.update(path.read_bytes() if path.is_file() else b"")  # loading reports a missing file
        return digest.hexdigest()

    def result_path(self, job: str, seed: int) -> Path:
        """Return the path of a job's result. A hash of data, `fast` and recipe names the folder.

        Not of the code, or a new comment would discard hours of work; the result says which code made it.
        """
        made_of = [self.digest, self.fast, asdict(chosen_recipe(self.fast))]
        name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:8]
        return self.out / "jobs" / name / f"{job}-{seed}.json"


# --- jobs ------------------------------------------------------------------------------------------------------------


@dataclass
class SeedContext:
    """What the jobs of one seed share. `environments[0]` is the shop; its siblings follow, more shops to train in."""

    plan: Plan
    seed: int
    recipe: Recipe
    environments: list[Environment]

    @property
    def shop(self) -> Environment:
        return self.environments[0]

    def policy_path(self, job: str) -> Path:
        """Return the folder of the policy that a job trained."""
        return self.plan.result_path(job, self.seed).with_suffix("")

    def result(self, job: str) -> dict:
        """Return the saved result of a job of this seed."""
        return json.loads(self.plan.result_path(job, self.seed).read_text(encoding="utf-8"))

    def load(self, job: str):
        """Load the (model, tokenizer) that a job saved."""
        return load_causal_lm(str(self.policy_path(job)), CONTROL)

    def eval_set(self, tokenizer, environment: Environment | None = None, **rules) -> EvalSet:
        """Return the test users' queries on familiar categories; `rules` overrides rollout rules of the recipe."""
        own = replace(self.recipe.train.rules, **rules)
        return eval_sets(environment or self.shop, grammar_of(tokenizer), own, self.seed)[0]

    def validation_set(self, tokenizer) -> EvalSet:
        """Return the validation users' queries on familiar categories. Raises DataError if there are none."""
        queries = self.shop.split.validation_queries
        if not queries:
            raise DataError("no validation user has a query, so the baselines cannot be tuned; add users or queries")
        return replace(self.eval_set(tokenizer), part="validation", queries=queries)


def trained(context: SeedContext, model, tokenizer, arm: str) -> dict:
    """Train `model` in place, evaluate it greedily, and return its rows and its learning curve."""
    started = time.process_time()
    log = train(Trainer(model, tokenizer, context.environments, context.recipe.train))
    seconds = time.process_time() - started
    names = ("reward", "rewards/format/mean", "calls/mean", "entropy")
    curve = [{name: line[name] for name in names if name in line} for line in log]
    return {"rows": greedy_rows(context.eval_set(tokenizer), model, arm), "curve": curve, "cpu_seconds": seconds}


def greedy_rows(eval_set: EvalSet, model: PreTrainedModel, arm: str) -> list[Row]:
    """Evaluate a policy with greedy decoding and return one row per query, on real data with the prior too."""
    return actor_rows(eval_set, arm, GREEDY, LMActor(model, eval_set.grammar, None, 0.0))


def start(context: SeedContext) -> dict:
    """Train, save and evaluate the warm start, from which most other jobs begin."""
    model, tokenizer = copying_policy(context.environments, context.recipe, context.seed)
    save_causal_lm(context.policy_path("copying"), model, tokenizer)
    clock = ImitationClock()
    imitate(model, tokenizer, context.environments, context.recipe, context.seed, clock)
    save_causal_lm(context.policy_path("start"), model, tokenizer)
    rows = greedy_rows(context.eval_set(tokenizer), model, "policy without learning")
    return {"rows": rows, "cpu_seconds": clock.seconds}


def grpo(context: SeedContext) -> dict:
    """Train MR.Rec (the warm start, trained further by GRPO), save it and evaluate it."""
    model, tokenizer = context.load("start")
    result = trained(context, model, tokenizer, "MR.Rec")
    save_causal_lm(context.policy_path("grpo"), model, tokenizer)
    return result


def script(context: SeedContext) -> dict:
    """Choose the best untold script on validation users."""
    _, tokenizer = context.load("start")
    best, tried = best_untold(context.shop, grammar_of(tokenizer), context.recipe.train.rules)
    return {"rows": [], "chosen": best, "tried": tried}


def rival(context: SeedContext, arm: str) -> dict:
    """Train and evaluate one of GRPO's rivals (Table 1). The clone is saved, because grpo_from_clone starts from it."""
    (copying, tokenizer), (warm, _) = context.load("copying"), context.load("start")
    seconds = {job: context.result(job)["cpu_seconds"] for job in ("start", "grpo")}
    contest = Contest(
        context.environments,
        context.recipe,
        context.seed,
        tokenizer,
        copying,
        warm,
        script=context.result("script")["chosen"],
        budget=1 + seconds["grpo"] / seconds["start"],
    )
    model = train_rival(arm, contest, clone=context.load("clone")[0] if arm == "grpo_from_clone" else None)
    if arm == "clone":
        save_causal_lm(context.policy_path("clone"), model, tokenizer)
    return {"rows": greedy_rows(context.eval_set(tokenizer), model, arm)}


def ablated(context: SeedContext, **rules: int) -> dict:
    """Train and evaluate MR.Rec with other rollout rules, which also apply to its warm start (Fig. 3 and 6)."""
    context = replace(context, recipe=context.recipe.ablated(**rules))
    model, tokenizer = start_policy(context.environments, context.recipe, context.seed)
    return trained(context, model, tokenizer, "ablated")


def with_k(context: SeedContext, k: int) -> dict:
    """Train and evaluate MR.Rec with `k` memories per call (Fig. 6). The recipe's own k is the job "grpo"."""
    own = context.recipe.train.rules.memory_k
    return context.result("grpo") if k == own else ablated(context, memory_k=k)


def one_level(context: SeedContext, name: str) -> dict:
    """Train and evaluate MR.Rec with only one level of local memory, called `name` (Table 2)."""
    model, tokenizer = context.load("start")
    environments = [with_levels(environment, (name,)) for environment in context.environments]
    return trained(replace(context, environments=environments), model, tokenizer, name)


def with_levels(environment: Environment, levels: tuple[str, ...]) -> Environment:
    memory = environment.memory
    return replace(environment, memory=replace(memory, config=replace(memory.config, levels=levels)))


def given_memory(context: SeedContext) -> dict:
    """Evaluate the warm start and MR.Rec's policy without memory, and with a `GivenMemory` of each kind (Table 1)."""
    rows = []
    for name, arm in (("start", "policy without learning"), ("grpo", "MR.Rec's policy")):
        model, tokenizer = context.load(name)
        rows += greedy_rows(context.eval_set(tokenizer, max_calls=0), model, f"{arm}, no memory")
        for kind in GIVEN:
            shop = replace(context.shop, memory=GivenMemory(context.shop.memory, kind))
            rows += greedy_rows(context.eval_set(tokenizer, shop), model, f"{arm}, {kind} memory")
    return {"rows": rows}


@dataclass(frozen=True)
class GivenMemory:
    """A memory that ignores the search text: each call returns the next k of the query's `given_entries`.

    Use a new GivenMemory for each rollout, because it remembers which entries each query has received.
    """

    memory: Memory
    kind: str  # a key of GIVEN
    places: dict[str, int] = field(default_factory=dict)  # id of a query -> position of its next entry

    def search_global(self, text: str, k: int) -> tuple[MemoryEntry, ...]:
        return self.memory.search_global(text, k)

    def search_many(self, searches: Sequence[tuple[Query, str]], k: int) -> list[tuple[MemoryEntry, ...]]:
        replies = []
        for query, _ in searches:
            start = self.places.get(query.id, 0)
            replies.append(tuple(given_entries(self.memory, query, self.kind)[start : start + k]))
            self.places[query.id] = start + k
        return replies


def given_entries(memory: Memory, query: Query, kind: str, count: int = 10) -> list[MemoryEntry]:
    """Return the user's latest records (naive memory) or strongest profile lines (static memory), at most `count`.

    Another kind has no entries.
    """
    return [entry for entry in memory.entries(query) if entry.level == GIVEN.get(kind)][:count]


def given_lines(memory: Memory, kind: str, count: int = 10) -> Lines:
    """Return a function from a query to the texts of its `given_entries`, for systems that take text."""
    return lambda query: [entry.text for entry in given_entries(memory, query, kind, count)]


def tuned(eval_set: EvalSet, values: Sequence[float], rows_of: Callable[[EvalSet, float], list[Row]]) -> dict:
    """Evaluate a baseline with each value of a setting on validation queries; the highest nDCG@10 is chosen.

    Returns {"chosen": value, "tried": {value: nDCG@10}}. Among equals, the first value is chosen.
    """
    tried = {value: means(rows_of(eval_set, value))["ndcg@10"] for value in values}
    return {"chosen": max(tried, key=tried.get), "tried": tried}


def references(context: SeedContext) -> dict:
    """Evaluate the arms without a policy: systems, the query alone, the query followed by memory (Table 1)."""
    _, tokenizer = context.load("start")
    eval_set, validation, tuning = context.eval_set(tokenizer), context.validation_set(tokenizer), {}
    best = context.result("script")["chosen"]
    rows = reference_rows(eval_set, np.random.default_rng([context.seed, 3]), context.recipe.teacher, best)
    rows += followed_by(eval_set, 10, "ten latest records", "naive")
    for arm, kind in (("query + latest records", "naive"), ("query + profile", "static")):
        tuning[arm] = tuned(validation, COUNTS, partial(followed_by, arm=arm, kind=kind))
        rows += followed_by(eval_set, tuning[arm]["chosen"], arm, kind)
    rows += system_rows(eval_set, "BM25 of the query", bm25_query())
    rows += system_rows(eval_set, "dense, of the query", dense_query())
    return {"rows": rows, "tuned": tuning}


def followed_by(eval_set: EvalSet, count: int, arm: str, kind: str) -> list[Row]:
    """Evaluate the query followed by `count` lines of memory."""
    memory = eval_set.environment.memory
    return memory_rows(eval_set, arm, lambda query: given_entries(memory, query, kind, count))


def blair(context: SeedContext) -> dict:
    """Tune and train BLaIR, a text encoder of reviews; evaluate it on queries without and with memory (Table 1)."""
    _, tokenizer = context.load("start")
    eval_set, validation = context.eval_set(tokenizer), context.validation_set(tokenizer)
    config = BlairConfig(seed=context.seed, steps=3 if context.plan.fast else BlairConfig.steps)
    short = replace(config, steps=config.steps // 3)
    # 1. tune the learning rate, and train with it
    rows_of = lambda queries, rate: system_rows(queries, "BLaIR", Blair(replace(short, learning_rate=rate)))  # noqa: E731
    tuning = {"BLaIR": tuned(validation, BLAIR_RATES, rows_of)}
    system = Blair(replace(config, learning_rate=tuning["BLaIR"]["chosen"]))
    rows = system_rows(eval_set, "BLaIR, no memory", system)
    # 2. tune the number of lines that follow the query
    for kind in GIVEN:
        arm = f"BLaIR, {kind} memory"
        with_lines = partial(appended_to, system=system, arm=arm, kind=kind)
        tuning[arm] = tuned(validation, COUNTS, with_lines)
        rows += with_lines(eval_set, tuning[arm]["chosen"])
    return {"rows": rows, "tuned": tuning}


def appended_to(eval_set: EvalSet, count: int, system: System, arm: str, kind: str) -> list[Row]:
    """Evaluate a fitted system on the query followed by `count` lines of memory."""
    lines = given_lines(eval_set.environment.memory, kind, count)
    return rows_with_memory(eval_set, arm, Appended(system, lines), lines)


def rec_r1(context: SeedContext, kind: str) -> dict:
    """Tune, train and evaluate Rec-R1, which rewrites the query, with `kind` of memory in its prompt (Table 1)."""
    _, tokenizer = context.load("start")
    config, arm = RecR1Config(seed=context.seed), f"Rec-R1, {kind} memory"
    if context.plan.fast:
        config = replace(config, steps=3, requests=2, group=2, traces=20, warm=context.recipe.warm, answer_tokens=16)
    lines = given_lines(context.shop.memory, kind)

    def rows_of(eval_set: EvalSet, rate: float, steps: int = config.steps // 3) -> list[Row]:
        system = RecR1(replace(config, learning_rate=rate, steps=steps), lines)
        return rows_with_memory(eval_set, arm, system, lines)

    rate = tuned(context.validation_set(tokenizer), REC_R1_RATES, rows_of)
    return {"rows": rows_of(context.eval_set(tokenizer), rate["chosen"], config.steps), "tuned": {arm: rate}}


def rows_with_memory(eval_set: EvalSet, arm: str, system: System, lines: Lines) -> list[Row]:
    """Evaluate a system that reads lines of memory with each query; `memory_tokens` is the number of their tokens."""
    encode = eval_set.grammar.tokenizer.encode
    given = {query.id: len(encode(" ".join(lines(query)))) for query in eval_set.queries}
    return [replace(row, memory_tokens=given[row.query]) for row in system_rows(eval_set, arm, system)]


@dataclass(frozen=True)
class Appended:
    """A fitted system that receives each query with lines of memory appended to its text."""

    system: System
    lines: Lines

    def fit(self, dataset: Dataset, split: Split) -> Appended:
        return self

    def rank(self, query: Query, candidates: Sequence[str]) -> np.ndarray:
        return self.system.rank(replace(query, text=" ".join([query.text, *self.lines(query)])), candidates)


def plain_start(context: SeedContext) -> dict:
    """Train and evaluate MR.Rec from a start that has read plain texts but never an episode (Fig. 4)."""
    environments, recipe = context.environments, context.recipe
    tokenizer = make_tokenizer(environments, recipe.max_words)
    model = make_causal_lm(len(tokenizer), recipe.model, torch.Generator().manual_seed(context.seed))
    texts = [text for environment in environments for text in plain_texts(environment)]
    pages = [as_page(ids) for ids in map(tokenizer.encode, texts) if len(ids) > 1]
    warm_start(model, tokenizer, pages, recipe.warm, np.random.default_rng(context.seed))
    return trained(context, model, tokenizer, "plain start")


def plain_texts(environment: Environment) -> list[str]:
    """Return the texts that a plain start is trained on: items, train users' queries and their memories."""
    memory, queries = environment.memory, environment.split.train_queries
    items = [item_text(item) for item in environment.dataset.items.values()]
    return [*items, *(q.text for q in queries), *(entry.text for q in queries for entry in memory.entries(q))]


def as_page(ids: Sequence[int]) -> Episode:
    """Return the first 48 tokens of a text as an episode for `warm_start`, which trains on all but the first token."""
    ids = tuple(ids[:48])
    mask = (0, *[1] * (len(ids) - 1))
    return Episode(Query("", "", "", "", 0), ids, mask, (0.0,) * len(ids), (), None, "answer", ())


def retrievers(context: SeedContext) -> dict:
    """Evaluate MR.Rec's policy with other retrievers, first for its memory, then for the items (Fig. 5)."""
    model, tokenizer = context.load("grpo")
    shop, rows = context.shop, []
    pool = list(shop.dataset.items)
    texts = [item_text(item) for item in shop.dataset.items.values()]
    for name, how in RETRIEVERS.items():
        memory = replace(shop.memory, space=changed(shop.memory.space, **how))
        index = ItemIndex.over(HybridIndex(pool, texts, changed(shop.items.space, **how)), shop.items.prior)
        for part, own in (("memory", replace(shop, memory=memory)), ("items", replace(shop, items=index))):
            rows += greedy_rows(context.eval_set(tokenizer, own), model, f"{part}: {name}")
    return {"rows": rows}


def changed(space: TextSpace, **how) -> TextSpace:
    """Return a text space with the same word statistics but `how` changed in its configuration."""
    config = replace(space.config, **how)
    return TextSpace(config, space.stats, None if config.dense == "none" else space.embedder)


def contributions(context: SeedContext) -> dict:
    """Compute MPC and MRC of each greedy episode, and what changes when one of its memories is withheld (Table 3)."""
    model, tokenizer = context.load("grpo")
    eval_set = context.eval_set(tokenizer)
    episodes = play_greedily(eval_set, model)
    unaware = play_greedily(context.eval_set(tokenizer, global_k=0), model)
    overlap, named, other = [], [], []
    for episode in episodes:
        query, answer = episode.query, episode.answer
        profile, evidence = (answer.profile, answer.evidence) if answer else ("", ())
        item = item_text(context.shop.dataset.items[query.target])
        for kind, entries in (("global", episode.global_entries), ("local", retrieved(episode))):
            mpc, mrc = (contribution(entries, query.text, text) for text in (profile, item))
            overlap.append({"kind": kind, "query": query.id, "mpc": mpc, "mrc": mrc})
        for entry in retrieved(episode):
            (named if entry.id in evidence else other).append((episode, entry))
    removed = {
        "named as evidence": removals(eval_set, model, named),
        "retrieved, not named": removals(eval_set, model, other),
        "given, global": [change(eval_set, *pair) for pair in zip(episodes, unaware, strict=True)],
    }
    rows = episode_rows(eval_set, "MR.Rec", GREEDY, episodes)
    return {"rows": rows, "overlap": overlap, "removed": removed}


def retrieved(episode: Episode) -> list[MemoryEntry]:
    """Return the distinct entries that the memory tool returned in an episode."""
    return list({entry.id: entry for call in episode.calls for entry in call.entries}.values())


def removals(eval_set: EvalSet, model: PreTrainedModel, pairs: Sequence[tuple[Episode, MemoryEntry]]) -> list[dict]:
    """Play the episode of each pair again without the pair's memory entry. Returns one `change` per pair."""
    # a query may occur in several pairs, each with another entry withheld: give each copy its own id
    queries = [replace(episode.query, id=f"{n}/{episode.query.id}") for n, (episode, _) in enumerate(pairs)]
    withheld = {query.id: {entry.id} for query, (_, entry) in zip(queries, pairs, strict=True)}
    shop = replace(eval_set.environment, memory=Withheld(eval_set.environment.memory, withheld))
    again = play_greedily(replace(eval_set, environment=shop, queries=tuple(queries)), model)
    return [change(eval_set, before, after) for (before, _), after in zip(pairs, again, strict=True)]


def change(eval_set: EvalSet, before: Episode, after: Episode) -> dict:
    """Return whether the profile changed, and the target's rank before and after."""
    was, now, query, items = profile_of(before), profile_of(after), before.query, eval_set.environment.items
    owned = set(eval_set.environment.dataset.owned(query)) - {query.target}
    rank = lambda profile: place(items, profile, query.target, owned)  # noqa: E731
    return {"query": query.id, "profile_changed": was != now, "rank_before": rank(was), "rank_after": rank(now)}


def costs(context: SeedContext) -> dict:
    """Build global memory and the test users' local memory; return their numbers of entries and CPU time (Table 4)."""
    started = time.process_time()
    memory = prepare(context.shop.dataset, replace(context.recipe, siblings=0), context.seed)[0].memory
    built = time.process_time()
    entries = sum(len(memory.entries(query)) for query in context.shop.split.test_queries)
    seconds = {"global_s": built - started, "local_s": time.process_time() - built}
    return {**seconds, "global": len(memory.global_entries), "local": entries}


def best_episode(context: SeedContext) -> dict:
    """Describe the episode that `worked_episode` chooses among the test queries (Fig. 7)."""
    model, tokenizer = context.load("grpo")
    eval_set = context.eval_set(tokenizer)
    best = worked_episode(eval_set, model)
    items = context.shop.dataset.items
    profile = profile_of(best)
    return {
        "query": best.query.text,
        "user": best.query.user,
        "transcript": eval_set.grammar.transcript(best.tokens, best.mask),
        "profile": profile,
        "memories": [{"id": e.id, "text": e.text, "level": e.level} for e in retrieved(best)],
        "evidence": list(best.answer.evidence) if best.answer else [],
        "wanted": items[best.query.target].title,
        "rank": best.rewards["rank"],
        "items": [items[hit.id].title for hit in context.shop.items.search(profile, 5)],
    }


def evidence(context: SeedContext) -> dict:
    """Count which memories MR.Rec's policy cites, and from which its profiles are copied (Table 3)."""
    model, tokenizer = context.load("grpo")
    episodes = play_greedily(context.eval_set(tokenizer), model)
    found = [{"query": e.query.id, **citations(e, grammar_of(tokenizer))._asdict()} for e in episodes]
    return {"rows": [], "citations": found}


# --- running them ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """The function of a job, which runs once per seed, and the names of the jobs whose results it needs."""

    function: Callable[[SeedContext], dict]
    needs: tuple[str, ...] = ()


JOBS = {  # in the order in which they start: long jobs first, but each job after the jobs it needs
    "start": Job(start),
    "grpo": Job(grpo, ("start",)),
    "no_global": Job(partial(ablated, global_k=0)),
    "no_local": Job(partial(ablated, max_calls=0)),
    **{f"k_{k}": Job(partial(with_k, k=k), ("grpo",)) for k in KS},
    "plain_start": Job(plain_start),
    "rec_r1_naive": Job(partial(rec_r1, kind="naive"), ("start",)),
    "rec_r1_static": Job(partial(rec_r1, kind="static"), ("start",)),
    **{name: Job(partial(one_level, name=name), ("start",)) for name in LEVELS},
    "rec_r1": Job(partial(rec_r1, kind="no"), ("start",)),
    "blair": Job(blair, ("start",)),
    "script": Job(script, ("start",)),
    **{arm: Job(partial(rival, arm=arm), ("grpo", "script")) for arm in RIVALS[:-1]},
    RIVALS[-1]: Job(partial(rival, arm=RIVALS[-1]), ("grpo", "clone")),
    "evidence": Job(evidence, ("grpo",)),
    "contributions": Job(contributions, ("grpo",)),
    "references": Job(references, ("script",)),
    "given_memory": Job(given_memory, ("grpo",)),
    "retrievers": Job(retrievers, ("grpo",)),
    "costs": Job(costs, ("start",)),
    "worked_episode": Job(best_episode, ("grpo",)),
}


@lru_cache(maxsize=1)
def context_of(plan: Plan, seed: int) -> SeedContext:
    """Return the context of a seed. It is cached: a process that runs several jobs of a seed builds the shops once."""
    recipe = chosen_recipe(plan.fast).with_seed(seed)
    return SeedContext(plan, seed, recipe, prepare(open_data(plan.data, seed, plan.fast)[0], recipe, seed))


def run_job(plan: Plan, job: tuple[str, int], say: Say = quiet) -> None:
    """Run one job (name, seed) in this process and save its result. `say` is called at its start and at its end."""
    (name, seed), code = job, code_version()
    say(f"{name} {seed}", 0, 1, "")
    result = {"code": code, **JOBS[name].function(context_of(plan, seed))}
    write_text(plan.result_path(name, seed), json.dumps(result, default=asdict))  # rows as dictionaries
    say(f"{name} {seed}", 1, 1, "")


def other_code(plan: Plan, names: Iterable[str]) -> dict[str, int]:
    """Return {code version: number of saved results of these jobs} for all versions but the present one."""
    paths = [plan.result_path(name, seed) for name in names for seed in plan.seeds]
    codes = Counter(
        json.loads(path.read_text(encoding="utf-8")).get("code", UNKNOWN) for path in paths if path.is_file()
    )
    del codes[code_version()]
    return dict(codes)


def with_needs(names: Iterable[str]) -> list[str]:
    """Return these jobs and all jobs that they depend on, in the order of `JOBS`."""
    needed = set(names)
    while more := {need for name in needed for need in JOBS[name].needs} - needed:
        needed |= more
    return [name for name in JOBS if name in needed]


def run_jobs(plan: Plan, names: Sequence[str], workers: int, say: Say = quiet) -> None:
    """Run every job that has no saved result, in the order of `names`. Ctrl-C keeps the results of finished jobs.

    Raises OSError if another process runs jobs of this plan.
    """
    folder = plan.result_path("", 0).parent
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock", "is making these results; wait until it ends, or choose another folder"):
        _run_jobs(plan, names, workers, say)


def _run_jobs(plan: Plan, names: Sequence[str], workers: int, say: Say) -> None:
    # 1. list the jobs that have no result yet, seed by seed
    todo = [(name, seed) for seed in plan.seeds for name in names if not plan.result_path(name, seed).is_file()]

    # 2. report the progress of all jobs together, whenever a job starts or ends
    started, done = [], []

    def show(job: str, ended: int, *_: object) -> None:
        (done if ended else started).append(job)
        say("jobs", len(done), len(todo), ", ".join(job for job in started if job not in done))

    # 3. run each job as soon as the jobs it needs are done
    needs = {(name, seed): [(need, seed) for need in JOBS[name].needs] for name, seed in todo}
    run_tasks(partial(run_job, plan), needs, workers, show)
    say("jobs", len(todo), len(todo), "")
