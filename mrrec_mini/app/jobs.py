"""What the exhibits of the paper are made from: one policy, or one evaluation, of one seed at a time.

Flow: before `reproduce`, which reads what is found here. A job is a function of a `SeedContext` (a seed's shops and
recipe); it runs in a process of its own on one thread, and what it found is kept in a file as soon as it is done. So an
interrupted reproduction goes on where it stopped, and exhibits share what they have in common.

Equations: none of its own; MPC and MRC of `counterfactual`.

Departures from the paper. Small policies made from scratch stand for its language models; nobody's published weights
are run. BLaIR with memory is asked the query followed by it, Rec-R1 learns with it in its prompt. A language model with
naive or static memory is here the policy whose memory tool answers, whatever it is asked, with the latest records or
with the profile, a few lines a call: the only form of given memory that it has learned to read. Without memory it may
not call; global memory stays in the prompt, which it was taught with. Levels of memory set out from one warm start a
seed and learn with each level alone; retrievers and numbers of memories are changed under the learned policy without
training it again.

Guessed: the plain start (Fig. 4) reads items, train users' queries and their memories, for as many batches as the warm
start has.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from mrrec_mini.app.counterfactual import Withheld, effect, item_contribution, profile_contribution
from mrrec_mini.app.demo import open_data
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
    play,
    reference_rows,
    system_rows,
)
from mrrec_mini.grammar import CONTROL
from mrrec_mini.hybrid import HybridIndex, TextSpace
from mrrec_mini.imitation import warm_start
from mrrec_mini.memory import Memory
from mrrec_mini.models.causal_lm import load_causal_lm, make_causal_lm, save_causal_lm
from mrrec_mini.recipe import Recipe, Say, chosen_recipe, make_tokenizer, prepare, quiet, start_policy
from mrrec_mini.rollout import LMActor, rollout
from mrrec_mini.systems import System
from mrrec_mini.systems.blair import Blair, BlairConfig
from mrrec_mini.systems.query_text import bm25_query, dense_query
from mrrec_mini.systems.rec_r1 import Lines, RecR1, RecR1Config
from mrrec_mini.train import Trainer, train

LEVELS = ("record", "pattern", "profile")
RETRIEVERS = {  # Fig. 5; all of them ask the same rows
    "BM25": {"dense": "none"},
    "dense (LSA)": {"bm25_weight": 0.0},
    "both, min-max": {},
    "both, RRF": {"fusion": "rrf", "bm25_weight": 0.5},
}
KS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Plan:
    """What is reproduced, and where it is kept."""

    out: Path = Path("reproduction")
    data: Path | None = None  # None: the synthetic shop of each seed
    seeds: tuple[int, ...] = (0, 1, 2)
    fast: bool = False  # toy sizes: the code runs, the numbers say nothing

    @property
    def recipe(self) -> Recipe:
        return chosen_recipe(self.fast)

    @cached_property
    def digest(self) -> str | None:
        """sha256 of the data set's files: made anew under the same name, it is another. None: the synthetic shop."""
        if self.data is None:
            return None
        digest = hashlib.sha256()
        for path in (self.data / name for name in (ITEMS, INTERACTIONS, QUERIES, META)):
            digest.update(path.read_bytes() if path.is_file() else b"")  # whoever loads it says what is missing
        return digest.hexdigest()

    def kept(self, job: str, seed: int) -> Path:
        """Where a job's finding is, under a name made of all that it depends on but the code."""
        made_of = [self.digest, self.fast, asdict(self.recipe)]
        name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:8]
        return self.out / "jobs" / name / f"{job}-{seed}.json"

    def policy(self, name: str, seed: int) -> Path:
        return self.kept(name, seed).with_suffix("")


# --- jobs ------------------------------------------------------------------------------------------------------------


@dataclass
class SeedContext:
    """What the jobs of one seed work with."""

    plan: Plan
    seed: int
    recipe: Recipe
    environments: list[Environment]

    @classmethod
    def for_seed(cls, plan: Plan, seed: int) -> SeedContext:
        recipe = replace(plan.recipe, train=replace(plan.recipe.train, seed=seed))
        return cls(plan, seed, recipe, prepare(open_data(plan.data, seed, plan.fast)[0], recipe, seed))

    @property
    def shop(self) -> Environment:
        return self.environments[0]

    def load(self, name: str):
        """(model, tokenizer) of an earlier job."""
        return load_causal_lm(str(self.plan.policy(name, self.seed)), CONTROL)

    def save(self, name: str, model, tokenizer) -> None:
        save_causal_lm(self.plan.policy(name, self.seed), model, tokenizer)

    def eval_set(self, tokenizer, environment: Environment | None = None, **rules) -> EvalSet:
        """Test users' queries on familiar categories, under the recipe's rules of play but for `rules`."""
        own = replace(self.recipe.train.rules, **rules)
        return eval_sets(environment or self.shop, grammar_of(tokenizer), own, self.seed)[0]


def learned(
    context: SeedContext, model, tokenizer, recipe: Recipe, environments: Sequence[Environment], arm: str
) -> dict:
    """Train, answer greedily: rows, the curve, and what it cost. The model is changed."""
    started = time.process_time()
    log = train(Trainer(model, tokenizer, environments, recipe.train))
    spent = time.process_time() - started
    eval_set = eval_sets(environments[0], grammar_of(tokenizer), recipe.train.rules, context.seed)[0]
    names = ("reward", "rewards/format/mean", "calls/mean", "entropy")
    curve = [{name: line[name] for name in names if name in line} for line in log]
    return {"rows": answered(eval_set, model, arm), "curve": curve, "cpu_seconds": spent}


def answered(eval_set: EvalSet, model, arm: str, all_calls: bool = False) -> list[dict]:
    """Greedy rows of a policy."""
    episodes = play(eval_set, LMActor(model, eval_set.grammar, None, 0.0), all_calls)
    return [asdict(row) for row in episode_rows(eval_set, arm, GREEDY, episodes)]


def start(context: SeedContext) -> dict:
    """The taught policy: the warm start that most jobs set out from."""
    started = time.process_time()
    model, tokenizer = start_policy(context.environments, context.recipe, context.seed)
    context.save("start", model, tokenizer)
    found = answered(context.eval_set(tokenizer), model, "policy without learning")
    return {"rows": found, "cpu_seconds": time.process_time() - started}


def grpo(context: SeedContext) -> dict:
    """MR.Rec."""
    model, tokenizer = context.load("start")
    found = learned(context, model, tokenizer, context.recipe, context.environments, "MR.Rec")
    context.save("grpo", model, tokenizer)
    return found


def ablated(**rules: int) -> Callable[[SeedContext], dict]:
    """MR.Rec that was taught and trained under other rules."""

    def job(context: SeedContext) -> dict:
        recipe = context.recipe.ablated(**rules)
        model, tokenizer = start_policy(context.environments, recipe, context.seed)
        return learned(context, model, tokenizer, recipe, context.environments, "ablated")

    return job


def level(name: str) -> Callable[[SeedContext], dict]:
    """MR.Rec that learned with one level of local memory alone."""

    def job(context: SeedContext) -> dict:
        environments = [with_levels(environment, (name,)) for environment in context.environments]
        model, tokenizer = context.load("start")
        return learned(context, model, tokenizer, context.recipe, environments, name)

    return job


def with_levels(environment: Environment, levels: tuple[str, ...]) -> Environment:
    memory = environment.memory
    return replace(environment, memory=replace(memory, config=replace(memory.config, levels=levels)))


def given_memory(context: SeedContext) -> dict:
    """The policy without learning, and MR.Rec's, when the memory is given and not looked up."""
    rows = []
    for name, arm in (("start", "policy without learning"), ("grpo", "MR.Rec's policy")):
        model, tokenizer = context.load(name)
        rows += answered(context.eval_set(tokenizer, max_calls=0), model, f"{arm}, no memory")
        for kind, entries_of in (("naive", latest_records), ("static", profile_lines)):
            memory = GivenMemory(context.shop.memory, entries_of)
            eval_set = context.eval_set(tokenizer, replace(context.shop, memory=memory))
            rows += answered(eval_set, model, f"{arm}, {kind} memory")
    return {"rows": rows}


@dataclass(frozen=True)
class GivenMemory:
    """A memory whose tool gives a query's entries in a fixed order, k a call, whatever it is asked. For one play."""

    memory: Memory
    entries_of: Callable[[Memory, Query], Sequence[MemoryEntry]]
    told: dict[str, int] = field(default_factory=dict)  # id of a query -> entries it was given

    def search_global(self, text: str, k: int) -> tuple[MemoryEntry, ...]:
        return self.memory.search_global(text, k)

    def search_many(self, asked: Sequence[tuple[Query, str]], k: int) -> list[tuple[MemoryEntry, ...]]:
        found = []
        for query, _ in asked:
            start = self.told.get(query.id, 0)
            found.append(tuple(self.entries_of(self.memory, query)[start : start + k]))
            self.told[query.id] = start + k
        return found


def latest_records(memory: Memory, query: Query) -> list[MemoryEntry]:
    return [entry for entry in memory.entries(query) if entry.level == "record"][:10]


def profile_lines(memory: Memory, query: Query) -> list[MemoryEntry]:
    return [entry for entry in memory.entries(query) if entry.level == "profile"][:10]


def references(context: SeedContext) -> dict:
    """Arms that learn nothing or little: systems, the query alone, memory appended to the query."""
    _, tokenizer = context.load("start")
    eval_set = context.eval_set(tokenizer)
    rows = reference_rows(eval_set, np.random.default_rng([context.seed, 3]), context.recipe.teacher)
    latest = [latest_records(context.shop.memory, query) for query in eval_set.queries]
    rows += appended_rows(eval_set, "ten latest records", latest)
    rows += system_rows(eval_set, "BM25 of the query", bm25_query())
    rows += system_rows(eval_set, "dense, of the query", dense_query())
    return {"rows": [asdict(row) for row in rows]}


def blair(context: SeedContext) -> dict:
    """A text encoder taught by reviews, asked by the query, and by the query followed by memory."""
    _, tokenizer = context.load("start")
    eval_set = context.eval_set(tokenizer)
    system = Blair(BlairConfig(seed=context.seed, steps=3 if context.plan.fast else BlairConfig.steps))
    rows = system_rows(eval_set, "BLaIR, no memory", system)
    for kind, lines in given_lines(context.shop.memory).items():
        rows += with_tokens(eval_set, system_rows(eval_set, f"BLaIR, {kind} memory", Appended(system, lines)), lines)
    return {"rows": [asdict(row) for row in rows]}


def rec_r1(kind: str) -> Callable[[SeedContext], dict]:
    """A query rewritten by reinforcement, with no memory or a kind of given memory in the prompt."""

    def job(context: SeedContext) -> dict:
        _, tokenizer = context.load("start")
        eval_set, config = context.eval_set(tokenizer), RecR1Config(seed=context.seed)
        if context.plan.fast:
            config = replace(config, steps=1, requests=2, group=2, traces=20, warm=context.recipe.warm)
        lines = given_lines(context.shop.memory).get(kind, lambda query: ())
        rows = system_rows(eval_set, f"Rec-R1, {kind} memory", RecR1(config, lines))
        return {"rows": [asdict(row) for row in with_tokens(eval_set, rows, lines)]}

    return job


def given_lines(memory: Memory) -> dict[str, Lines]:
    """The memory that a system is given without asking for it: the latest records, the profile."""
    return {
        "naive": lambda query: [entry.text for entry in latest_records(memory, query)],
        "static": lambda query: [entry.text for entry in profile_lines(memory, query)],
    }


def with_tokens(eval_set: EvalSet, rows: Sequence[Row], lines: Lines) -> list[Row]:
    """The same rows with the memory tokens that each query was given."""
    encode = eval_set.grammar.tokenizer.encode
    given = {query.id: len(encode(" ".join(lines(query)))) for query in eval_set.queries}
    return [replace(row, memory_tokens=given[row.query]) for row in rows]


@dataclass(frozen=True)
class Appended:
    """A fitted system that is asked the query followed by lines of memory."""

    system: System
    lines: Lines

    def fit(self, dataset: Dataset, split: Split) -> Appended:
        return self

    def rank(self, query: Query, candidates: Sequence[str]) -> np.ndarray:
        return self.system.rank(replace(query, text=" ".join([query.text, *self.lines(query)])), candidates)


def plain_start(context: SeedContext) -> dict:
    """A policy that has read texts but never an episode, and then learns as MR.Rec does (Fig. 4)."""
    environments, recipe = context.environments, context.recipe
    tokenizer = make_tokenizer(environments, recipe.max_words)
    model = make_causal_lm(len(tokenizer), recipe.model, torch.Generator().manual_seed(context.seed))
    texts = [text for environment in environments for text in plain_texts(environment)]
    pages = [as_page(tokenizer.encode(text)) for text in texts]
    warm_start(model, tokenizer, [page for page in pages if page], recipe.warm, np.random.default_rng(context.seed))
    return learned(context, model, tokenizer, recipe, environments, "plain start")


def plain_texts(environment: Environment) -> list[str]:
    """What there is to read: items, train users' queries, and their memories."""
    memory, queries = environment.memory, environment.split.train_queries
    items = [item_text(item) for item in environment.dataset.items.values()]
    return [*items, *(q.text for q in queries), *(entry.text for q in queries for entry in memory.entries(q))]


def as_page(ids: Sequence[int], longest: int = 48) -> Episode | None:
    """A text as the warm start reads it: every token but the first is written by the teacher."""
    ids = tuple(ids[:longest])
    mask = (0, *[1] * (len(ids) - 1))
    nobody = Query("", "", "", "", 0)
    return Episode(nobody, ids, mask, (0.0,) * len(ids), (), None, "answer", ()) if len(ids) > 1 else None


def retrievers(context: SeedContext) -> dict:
    """MR.Rec's policy with other retrievers under its memory and its items (Fig. 5)."""
    model, tokenizer = context.load("grpo")
    shop, rows = context.shop, []
    pool = list(shop.dataset.items)
    texts = [item_text(item) for item in shop.dataset.items.values()]
    for name, how in RETRIEVERS.items():
        memory = replace(shop.memory, space=changed(shop.memory.space, **how))
        index = HybridIndex(pool, texts, changed(shop.items.space, **how))
        for part, own in (("memory", replace(shop, memory=memory)), ("items", replace(shop, items=index))):
            rows += answered(context.eval_set(tokenizer, own), model, f"{part}: {name}")
    return {"rows": rows}


def changed(space: TextSpace, **how) -> TextSpace:
    """The same statistics under another configuration."""
    config = replace(space.config, **how)
    return TextSpace(config, space.stats, None if config.dense == "none" else space.embedder)


def memories_a_call(context: SeedContext) -> dict:
    """MR.Rec's policy with 1 to 5 memories a call (Fig. 6)."""
    model, tokenizer = context.load("grpo")
    return {"rows": [row for k in KS for row in answered(context.eval_set(tokenizer, memory_k=k), model, f"k = {k}")]}


def contributions(context: SeedContext) -> dict:
    """Table 3: does retrieved memory share words with the profile and the right item, and what if it were not there."""
    model, tokenizer = context.load("grpo")
    eval_set = context.eval_set(tokenizer)
    episodes = play(eval_set, LMActor(model, eval_set.grammar, None, 0.0))
    shop, found = context.shop, []
    for episode in episodes:
        profile = episode.answer.profile if episode.answer else ""
        item = item_text(shop.dataset.items[episode.query.target])
        for kind, entries in (("global", episode.global_entries), ("local", retrieved(episode))):
            mpc = profile_contribution(entries, episode.query.text, profile)
            mrc = item_contribution(entries, episode.query.text, item)
            found.append({"kind": kind, "query": episode.query.id, "mpc": mpc, "mrc": mrc})
    named = [(episode, entry) for episode in episodes for entry in retrieved(episode) if entry.id in cited(episode)]
    spared = [
        (episode, entry) for episode in episodes for entry in retrieved(episode) if entry.id not in cited(episode)
    ]
    effects = {"named as evidence": named, "retrieved, not named": spared}
    moved = {kind: removals(eval_set, model, those) for kind, those in effects.items()}
    moved["given, global"] = without_global(eval_set, model, episodes)
    return {"overlap": found, "removed": moved}


def retrieved(episode: Episode) -> list[MemoryEntry]:
    """What the memory tool returned, each once."""
    return list({entry.id: entry for call in episode.calls for entry in call.entries}.values())


def cited(episode: Episode) -> tuple[str, ...]:
    return episode.answer.evidence if episode.answer else ()


def removals(eval_set: EvalSet, model, pairs: Sequence[tuple[Episode, MemoryEntry]]) -> list[dict]:
    """Each episode again without one of its memories: does the profile change, does the target stand elsewhere."""
    found = []
    for start in range(0, len(pairs), eval_set.batch):
        chunk = pairs[start : start + eval_set.batch]
        queries = [replace(e.query, id=f"{start + n}/{e.query.id}") for n, (e, _) in enumerate(chunk)]
        held = {query.id: {entry.id} for query, (_, entry) in zip(queries, chunk, strict=True)}
        memory = Withheld(eval_set.environment.memory, held)
        again = rollout(LMActor(model, eval_set.grammar, None, 0.0), queries, memory, eval_set.grammar, eval_set.rules)
        for (before, entry), after in zip(chunk, again, strict=True):
            found.append(moved_by(eval_set, before, after, entry.id))
    return found


def without_global(eval_set: EvalSet, model, episodes: Sequence[Episode]) -> list[dict]:
    """Each episode again without the global memory."""
    bare = replace(eval_set, rules=replace(eval_set.rules, global_k=0))
    again = play(bare, LMActor(model, eval_set.grammar, None, 0.0))
    return [moved_by(eval_set, before, after, "global") for before, after in zip(episodes, again, strict=True)]


def moved_by(eval_set: EvalSet, before: Episode, after: Episode, what: str) -> dict:
    done = effect(eval_set.environment.items, before, after, [what], 10, (), before.query.target)
    return {
        "query": before.query.id,
        "profile_changed": done.before.profile != done.after.profile,
        "rank_before": done.before.target_place,
        "rank_after": done.after.target_place,
    }


def costs(context: SeedContext) -> dict:
    """Table 4: the time of indexing, for as many as there are."""
    dataset, split = context.shop.dataset, context.shop.split
    started = time.process_time()
    again = prepare(dataset, replace(context.recipe, siblings=0), context.seed)[0].memory
    shared = time.process_time() - started
    started = time.process_time()
    entries = sum(len(again.entries(query)) for query in split.test_queries)
    spent = time.process_time() - started
    return {"global_s": shared, "global": len(again.global_entries), "local_s": spent, "local": entries}


def worked_episode(context: SeedContext) -> dict:
    """Fig. 7, by rule: of the test queries with the most calls, the one whose target comes best; ties to the first."""
    model, tokenizer = context.load("grpo")
    eval_set = context.eval_set(tokenizer)
    episodes = play(eval_set, LMActor(model, eval_set.grammar, None, 0.0))
    best = max(episodes, key=lambda e: (len(e.calls), -e.rewards["rank"]))
    items = context.shop.dataset.items
    profile = best.answer.profile if best.answer else best.query.text
    return {
        "query": best.query.text,
        "user": best.query.user,
        "transcript": eval_set.grammar.transcript(best.tokens, best.mask),
        "profile": profile,
        "memories": [{"id": e.id, "text": e.text, "level": e.level} for e in retrieved(best)],
        "evidence": list(cited(best)),
        "wanted": items[best.query.target].title,
        "rank": best.rewards["rank"],
        "items": [items[hit.id].title for hit in context.shop.items.search(profile, 5)],
    }


@dataclass(frozen=True)
class Job:
    """What has to be found for one seed, and what has to be there before."""

    make: Callable[[SeedContext], dict]
    needs: tuple[str, ...] = ()
    cost: int = 1  # longer ones are begun first


JOBS = {
    "start": Job(start, cost=9),
    "grpo": Job(grpo, ("start",), 8),
    "no_global": Job(ablated(global_k=0), (), 7),
    "no_local": Job(ablated(max_calls=0), (), 7),
    "plain_start": Job(plain_start, (), 6),
    **{name: Job(level(name), ("start",), 5) for name in LEVELS},
    "rec_r1": Job(rec_r1("no"), ("start",), 5),
    "rec_r1_naive": Job(rec_r1("naive"), ("start",), 6),
    "rec_r1_static": Job(rec_r1("static"), ("start",), 6),
    "blair": Job(blair, ("start",), 4),
    "references": Job(references, ("start",)),
    "given_memory": Job(given_memory, ("grpo",)),
    "retrievers": Job(retrievers, ("grpo",)),
    "memories_a_call": Job(memories_a_call, ("grpo",)),
    "contributions": Job(contributions, ("grpo",), 2),
    "costs": Job(costs, ("start",)),
    "worked_episode": Job(worked_episode, ("grpo",)),
}


@lru_cache(maxsize=1)
def context_of(plan: Plan, seed: int) -> SeedContext:
    """A process that does several jobs of a seed makes its shops once."""
    return SeedContext.for_seed(plan, seed)


def run_job(plan: Plan, name: str, seed: int) -> None:
    """One job, in this process, on one thread; its finding is kept whole or not at all."""
    torch.set_num_threads(1)
    path = plan.kept(name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = JOBS[name].make(context_of(plan, seed))
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(path)


def with_needs(names: Iterable[str]) -> list[str]:
    """These jobs and all that they need, in the order of `JOBS`."""
    found = set(names)
    while more := {need for name in found for need in JOBS[name].needs} - found:
        found |= more
    return [name for name in JOBS if name in found]


def run_jobs(plan: Plan, names: Sequence[str], workers: int, say: Say = quiet) -> None:
    """All that is not kept yet. Ctrl-C stops them; those that are done stay done."""
    todo = [(name, seed) for name in names for seed in plan.seeds if not plan.kept(name, seed).is_file()]
    total, done = len(todo), 0
    if workers == 1:
        for name, seed in sorted(todo, key=lambda job: job[1]):
            say("jobs", done, total, f"{name}, seed {seed}")
            run_job(plan, name, seed)
            done += 1
        say("jobs", done, total, "")
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:  # a forked torch can hang
        running = {}
        try:
            while todo or running:
                ready = [job for job in todo if all(plan.kept(need, job[1]).is_file() for need in JOBS[job[0]].needs)]
                for job in sorted(ready, key=lambda job: (job[1], -JOBS[job[0]].cost))[: workers - len(running)]:
                    todo.remove(job)
                    running[pool.submit(run_job, plan, *job)] = job
                say("jobs", done, total, ", ".join(f"{name} {seed}" for name, seed in running.values()))
                for finished in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                    finished.result()
                    del running[finished]
                    done += 1
        except BaseException:
            for process in pool._processes.values():
                process.terminate()
            raise
    say("jobs", done, total, "")
