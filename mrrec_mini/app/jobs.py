"""The jobs behind the paper's exhibits: each trains or evaluates one policy for one seed and saves its result.

Flow: before `reproduce`, which reads the results. A job is a function of a `SeedContext` (the shops and the recipe of
one seed). Its result is saved as soon as it is done, so an interrupted reproduction resumes where it stopped, and
exhibits share the jobs they have in common. Equations: none of its own; MPC and MRC are those of `counterfactual`.

Departures from the paper. Small policies made from scratch stand in for its language models; no published weights are
run. BLaIR with memory gets the query followed by the memory; Rec-R1 with memory is trained with it in its prompt. A
policy with naive or static memory has another memory tool: whatever it searches for, the tool returns the latest
records or the profile, a few lines per call. The policy has learned to read given memory in this form only. Without
memory it may not call the tool; global memory stays in the prompt, because the policy was taught with it. The policies
with one level of memory learn from one warm start per seed. Retrievers and numbers of memories are changed without
training the policy again.

Guessed: the plain start (Fig. 4) reads items, train users' queries and their memories, for as many batches as the warm
start.
"""

from __future__ import annotations

import hashlib
import json
import time
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
from mrrec_mini.data import INTERACTIONS, ITEMS, META, QUERIES, Dataset, Split
from mrrec_mini.datatypes import Episode, MemoryEntry, Query
from mrrec_mini.environment import Environment, item_text
from mrrec_mini.evaluate import (
    GREEDY,
    EvalSet,
    Row,
    appended_rows,
    episode_rows,
    eval_sets,
    play_greedily,
    reference_rows,
    system_rows,
)
from mrrec_mini.files import write_text
from mrrec_mini.grammar import CONTROL
from mrrec_mini.hybrid import HybridIndex, TextSpace
from mrrec_mini.imitation import warm_start
from mrrec_mini.memory import Memory
from mrrec_mini.models.causal_lm import load_causal_lm, make_causal_lm, save_causal_lm
from mrrec_mini.recipe import Recipe, Say, chosen_recipe, make_tokenizer, prepare, quiet, start_policy
from mrrec_mini.systems import System
from mrrec_mini.systems.blair import Blair, BlairConfig
from mrrec_mini.systems.query_text import bm25_query, dense_query
from mrrec_mini.systems.rec_r1 import Lines, RecR1, RecR1Config
from mrrec_mini.train import Trainer, train

LEVELS = ("record", "pattern", "profile")
RETRIEVERS = {  # Fig. 5: changes to the text space; all of them search the same rows
    "BM25": {"dense": "none"},
    "dense (LSA)": {"bm25_weight": 0.0},
    "both, min-max": {},
    "both, RRF": {"fusion": "rrf", "bm25_weight": 0.5},
}
KS = (1, 2, 3, 4, 5)
GIVEN = {"naive": "record", "static": "profile"}  # kind of given memory -> level of its entries


@dataclass(frozen=True)
class Plan:
    """What is reproduced, and where the results are saved."""

    out: Path = Path("reproduction")
    data: Path | None = None  # None: the synthetic shop of each seed
    seeds: tuple[int, ...] = (0, 1, 2)
    fast: bool = False  # toy sizes: shows that the code runs; the numbers mean nothing

    @cached_property
    def digest(self) -> str | None:
        """sha256 of the data set's files, so that new data under an old name is noticed. None: the synthetic shop."""
        if self.data is None:
            return None
        digest = hashlib.sha256()
        for path in (self.data / name for name in (ITEMS, INTERACTIONS, QUERIES, META)):
            digest.update(path.read_bytes() if path.is_file() else b"")  # loading reports a missing file
        return digest.hexdigest()

    def result_path(self, job: str, seed: int) -> Path:
        """The file of a job's result. Its folder's name depends on all that the result depends on, except the code."""
        made_of = [self.digest, self.fast, asdict(chosen_recipe(self.fast))]
        name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:8]
        return self.out / "jobs" / name / f"{job}-{seed}.json"


# --- jobs ------------------------------------------------------------------------------------------------------------


@dataclass
class SeedContext:
    """What the jobs of one seed share. `environments[0]` is the shop, the others are its siblings for training."""

    plan: Plan
    seed: int
    recipe: Recipe
    environments: list[Environment]

    @property
    def shop(self) -> Environment:
        return self.environments[0]

    def policy_path(self, job: str) -> Path:
        """The folder of the policy that a job trained."""
        return self.plan.result_path(job, self.seed).with_suffix("")

    def load(self, job: str):
        """Load the (model, tokenizer) that a job saved."""
        return load_causal_lm(str(self.policy_path(job)), CONTROL)

    def eval_set(self, tokenizer, environment: Environment | None = None, **rules) -> EvalSet:
        """Test users' queries on familiar categories, under the recipe's rollout rules with `rules` changed."""
        own = replace(self.recipe.train.rules, **rules)
        return eval_sets(environment or self.shop, grammar_of(tokenizer), own, self.seed)[0]


def trained(context: SeedContext, model, tokenizer, arm: str) -> dict:
    """Train `model` in place and evaluate it greedily: its rows and its learning curve."""
    log = train(Trainer(model, tokenizer, context.environments, context.recipe.train))
    names = ("reward", "rewards/format/mean", "calls/mean", "entropy")
    curve = [{name: line[name] for name in names if name in line} for line in log]
    return {"rows": greedy_rows(context.eval_set(tokenizer), model, arm), "curve": curve}


def greedy_rows(eval_set: EvalSet, model: PreTrainedModel, arm: str) -> list[Row]:
    """Evaluate a policy greedily: one row per query."""
    return episode_rows(eval_set, arm, GREEDY, play_greedily(eval_set, model))


def start(context: SeedContext) -> dict:
    """The warm start: the policy that most other jobs begin with."""
    model, tokenizer = start_policy(context.environments, context.recipe, context.seed)
    save_causal_lm(context.policy_path("start"), model, tokenizer)
    return {"rows": greedy_rows(context.eval_set(tokenizer), model, "policy without learning")}


def grpo(context: SeedContext) -> dict:
    """MR.Rec itself: the warm start, trained by GRPO."""
    model, tokenizer = context.load("start")
    result = trained(context, model, tokenizer, "MR.Rec")
    save_causal_lm(context.policy_path("grpo"), model, tokenizer)
    return result


def ablated(context: SeedContext, **rules: int) -> dict:
    """MR.Rec with other rollout rules, in the warm start as well as in training (Fig. 3)."""
    context = replace(context, recipe=context.recipe.ablated(**rules))
    model, tokenizer = start_policy(context.environments, context.recipe, context.seed)
    return trained(context, model, tokenizer, "ablated")


def one_level(context: SeedContext, name: str) -> dict:
    """MR.Rec trained with one level of local memory only (Table 2)."""
    model, tokenizer = context.load("start")
    environments = [with_levels(environment, (name,)) for environment in context.environments]
    return trained(replace(context, environments=environments), model, tokenizer, name)


def with_levels(environment: Environment, levels: tuple[str, ...]) -> Environment:
    memory = environment.memory
    return replace(environment, memory=replace(memory, config=replace(memory.config, levels=levels)))


def given_memory(context: SeedContext) -> dict:
    """Table 1: the warm start and MR.Rec's policy without memory, and with memory that ignores their search texts."""
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
    """A memory whose tool returns a query's `given_entries` in order, k per call, whatever the search text is.

    Use a fresh one per rollout: it remembers how far each query has read.
    """

    memory: Memory
    kind: str  # a key of GIVEN
    places: dict[str, int] = field(default_factory=dict)  # id of a query -> the place of its next entry

    def search_global(self, text: str, k: int) -> tuple[MemoryEntry, ...]:
        return self.memory.search_global(text, k)

    def search_many(self, searches: Sequence[tuple[Query, str]], k: int) -> list[tuple[MemoryEntry, ...]]:
        replies = []
        for query, _ in searches:
            start = self.places.get(query.id, 0)
            replies.append(tuple(given_entries(self.memory, query, self.kind)[start : start + k]))
            self.places[query.id] = start + k
        return replies


def given_entries(memory: Memory, query: Query, kind: str) -> list[MemoryEntry]:
    """The user's latest records (naive memory) or profile lines (static memory), 10 at most."""
    return [entry for entry in memory.entries(query) if entry.level == GIVEN[kind]][:10]


def given_lines(memory: Memory) -> dict[str, Lines]:
    """{kind: the texts of a query's `given_entries`}, for systems that take text."""
    return {kind: lambda q, kind=kind: [entry.text for entry in given_entries(memory, q, kind)] for kind in GIVEN}


def references(context: SeedContext) -> dict:
    """The arms without a policy: systems, the query alone, memory appended to the query (Table 1)."""
    _, tokenizer = context.load("start")
    eval_set = context.eval_set(tokenizer)
    rows = reference_rows(eval_set, np.random.default_rng([context.seed, 3]), context.recipe.teacher)
    latest = [given_entries(context.shop.memory, query, "naive") for query in eval_set.queries]
    rows += appended_rows(eval_set, "ten latest records", latest)
    rows += system_rows(eval_set, "BM25 of the query", bm25_query())
    rows += system_rows(eval_set, "dense, of the query", dense_query())
    return {"rows": rows}


def blair(context: SeedContext) -> dict:
    """BLaIR: a text encoder trained on reviews that encodes the query, or the query followed by memory (Table 1)."""
    _, tokenizer = context.load("start")
    eval_set = context.eval_set(tokenizer)
    system = Blair(BlairConfig(seed=context.seed, steps=3 if context.plan.fast else BlairConfig.steps))
    rows = system_rows(eval_set, "BLaIR, no memory", system)
    for kind, lines in given_lines(context.shop.memory).items():
        rows += rows_with_memory(eval_set, f"BLaIR, {kind} memory", Appended(system, lines), lines)
    return {"rows": rows}


def rec_r1(context: SeedContext, kind: str) -> dict:
    """Rec-R1: a policy that learns to rewrite the query, with no, naive or static memory in its prompt (Table 1)."""
    _, tokenizer = context.load("start")
    eval_set, config = context.eval_set(tokenizer), RecR1Config(seed=context.seed)
    if context.plan.fast:
        config = replace(config, steps=1, requests=2, group=2, traces=20, warm=context.recipe.warm)
    lines = given_lines(context.shop.memory).get(kind, lambda query: ())
    return {"rows": rows_with_memory(eval_set, f"Rec-R1, {kind} memory", RecR1(config, lines), lines)}


def rows_with_memory(eval_set: EvalSet, arm: str, system: System, lines: Lines) -> list[Row]:
    """Rows of a system that reads each query's lines; `memory_tokens` counts the tokens of the lines."""
    encode = eval_set.grammar.tokenizer.encode
    given = {query.id: len(encode(" ".join(lines(query)))) for query in eval_set.queries}
    return [replace(row, memory_tokens=given[row.query]) for row in system_rows(eval_set, arm, system)]


@dataclass(frozen=True)
class Appended:
    """A fitted system that ranks for the query followed by lines of memory."""

    system: System
    lines: Lines

    def fit(self, dataset: Dataset, split: Split) -> Appended:
        return self

    def rank(self, query: Query, candidates: Sequence[str]) -> np.ndarray:
        return self.system.rank(replace(query, text=" ".join([query.text, *self.lines(query)])), candidates)


def plain_start(context: SeedContext) -> dict:
    """MR.Rec trained from a policy that has seen plain texts but never an episode (Fig. 4)."""
    environments, recipe = context.environments, context.recipe
    tokenizer = make_tokenizer(environments, recipe.max_words)
    model = make_causal_lm(len(tokenizer), recipe.model, torch.Generator().manual_seed(context.seed))
    texts = [text for environment in environments for text in plain_texts(environment)]
    pages = [as_page(ids) for ids in map(tokenizer.encode, texts) if len(ids) > 1]
    warm_start(model, tokenizer, pages, recipe.warm, np.random.default_rng(context.seed))
    return trained(context, model, tokenizer, "plain start")


def plain_texts(environment: Environment) -> list[str]:
    """The texts of a plain start: items, train users' queries, and their memories."""
    memory, queries = environment.memory, environment.split.train_queries
    items = [item_text(item) for item in environment.dataset.items.values()]
    return [*items, *(q.text for q in queries), *(entry.text for q in queries for entry in memory.entries(q))]


def as_page(ids: Sequence[int]) -> Episode:
    """The first 48 tokens of a text as an episode for `warm_start`: all but the first count as written."""
    ids = tuple(ids[:48])
    mask = (0, *[1] * (len(ids) - 1))
    return Episode(Query("", "", "", "", 0), ids, mask, (0.0,) * len(ids), (), None, "answer", ())


def retrievers(context: SeedContext) -> dict:
    """MR.Rec's policy with other retrievers for its memory, and for its items (Fig. 5)."""
    model, tokenizer = context.load("grpo")
    shop, rows = context.shop, []
    pool = list(shop.dataset.items)
    texts = [item_text(item) for item in shop.dataset.items.values()]
    for name, how in RETRIEVERS.items():
        memory = replace(shop.memory, space=changed(shop.memory.space, **how))
        index = HybridIndex(pool, texts, changed(shop.items.space, **how))
        for part, own in (("memory", replace(shop, memory=memory)), ("items", replace(shop, items=index))):
            rows += greedy_rows(context.eval_set(tokenizer, own), model, f"{part}: {name}")
    return {"rows": rows}


def changed(space: TextSpace, **how) -> TextSpace:
    """The same word statistics with another configuration."""
    config = replace(space.config, **how)
    return TextSpace(config, space.stats, None if config.dense == "none" else space.embedder)


def memories_per_call(context: SeedContext) -> dict:
    """MR.Rec's policy with 1 to 5 memories per call (Fig. 6)."""
    model, tokenizer = context.load("grpo")
    sets = {k: context.eval_set(tokenizer, memory_k=k) for k in KS}
    return {"rows": [row for k, eval_set in sets.items() for row in greedy_rows(eval_set, model, f"k = {k}")]}


def contributions(context: SeedContext) -> dict:
    """Table 3: MPC and MRC of each greedy episode, and what changes when one of its memories is withheld."""
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
    return {"overlap": overlap, "removed": removed}


def retrieved(episode: Episode) -> list[MemoryEntry]:
    """The entries that the memory tool returned, without repetitions."""
    return list({entry.id: entry for call in episode.calls for entry in call.entries}.values())


def removals(eval_set: EvalSet, model: PreTrainedModel, pairs: Sequence[tuple[Episode, MemoryEntry]]) -> list[dict]:
    """Play each episode again without one of its memories. Returns one `change` per pair."""
    # a query may come several times, with another entry withheld each time: give each its own id
    queries = [replace(episode.query, id=f"{n}/{episode.query.id}") for n, (episode, _) in enumerate(pairs)]
    withheld = {query.id: {entry.id} for query, (_, entry) in zip(queries, pairs, strict=True)}
    shop = replace(eval_set.environment, memory=Withheld(eval_set.environment.memory, withheld))
    again = play_greedily(replace(eval_set, environment=shop, queries=tuple(queries)), model)
    return [change(eval_set, before, after) for (before, _), after in zip(pairs, again, strict=True)]


def change(eval_set: EvalSet, before: Episode, after: Episode) -> dict:
    """Whether the profile changed, and the target's rank before and after."""
    was, now, items, target = profile_of(before), profile_of(after), eval_set.environment.items, before.query.target
    ranks = {"rank_before": place(items, was, target), "rank_after": place(items, now, target)}
    return {"query": before.query.id, "profile_changed": was != now, **ranks}


def costs(context: SeedContext) -> dict:
    """Table 4: number of entries and CPU seconds, for global memory and for the test users' local memory."""
    started = time.process_time()
    memory = prepare(context.shop.dataset, replace(context.recipe, siblings=0), context.seed)[0].memory
    built = time.process_time()
    entries = sum(len(memory.entries(query)) for query in context.shop.split.test_queries)
    seconds = {"global_s": built - started, "local_s": time.process_time() - built}
    return {**seconds, "global": len(memory.global_entries), "local": entries}


def best_episode(context: SeedContext) -> dict:
    """Fig. 7: the episode that `worked_episode` chooses among the test queries."""
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


# --- running them ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One job per seed: its function and the jobs it depends on."""

    function: Callable[[SeedContext], dict]
    needs: tuple[str, ...] = ()


JOBS = {  # in the order in which they start: longer ones first, each after the jobs it needs
    "start": Job(start),
    "grpo": Job(grpo, ("start",)),
    "no_global": Job(partial(ablated, global_k=0)),
    "no_local": Job(partial(ablated, max_calls=0)),
    "plain_start": Job(plain_start),
    "rec_r1_naive": Job(partial(rec_r1, kind="naive"), ("start",)),
    "rec_r1_static": Job(partial(rec_r1, kind="static"), ("start",)),
    **{name: Job(partial(one_level, name=name), ("start",)) for name in LEVELS},
    "rec_r1": Job(partial(rec_r1, kind="no"), ("start",)),
    "blair": Job(blair, ("start",)),
    "contributions": Job(contributions, ("grpo",)),
    "references": Job(references, ("start",)),
    "given_memory": Job(given_memory, ("grpo",)),
    "retrievers": Job(retrievers, ("grpo",)),
    "memories_per_call": Job(memories_per_call, ("grpo",)),
    "costs": Job(costs, ("start",)),
    "worked_episode": Job(best_episode, ("grpo",)),
}


@lru_cache(maxsize=1)
def context_of(plan: Plan, seed: int) -> SeedContext:
    """The context of a seed, cached: a process that runs several jobs of a seed builds its shops once."""
    recipe = chosen_recipe(plan.fast).with_seed(seed)
    return SeedContext(plan, seed, recipe, prepare(open_data(plan.data, seed, plan.fast)[0], recipe, seed))


def run_job(plan: Plan, job: tuple[str, int], say: Say = quiet) -> None:
    """Run one job (name, seed) in this process and save its result. `say` is called at its start and at its end."""
    name, seed = job
    say(f"{name} {seed}", 0, 1, "")
    result = JOBS[name].function(context_of(plan, seed))
    write_text(plan.result_path(name, seed), json.dumps(result, default=asdict))  # rows as dictionaries
    say(f"{name} {seed}", 1, 1, "")


def with_needs(names: Iterable[str]) -> list[str]:
    """These jobs and all jobs they depend on, in the order of `JOBS`."""
    needed = set(names)
    while more := {need for name in needed for need in JOBS[name].needs} - needed:
        needed |= more
    return [name for name in JOBS if name in needed]


def run_jobs(plan: Plan, names: Sequence[str], workers: int, say: Say = quiet) -> None:
    """Run every job without a saved result, in the order of `names`. Finished jobs survive Ctrl-C."""
    # 1. the jobs that remain, seed by seed
    todo = [(name, seed) for seed in plan.seeds for name in names if not plan.result_path(name, seed).is_file()]

    # 2. one progress bar for all of them, moved by the start and the end of each
    started, done = [], []

    def show(job: str, ended: int, *_: object) -> None:
        (done if ended else started).append(job)
        say("jobs", len(done), len(todo), ", ".join(job for job in started if job not in done))

    # 3. run each one as soon as the jobs it needs are done
    needs = {(name, seed): [(need, seed) for need in JOBS[name].needs] for name, seed in todo}
    run_tasks(partial(run_job, plan), needs, workers, show)
    say("jobs", len(todo), len(todo), "")
