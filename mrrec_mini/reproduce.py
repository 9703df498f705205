"""Each table and figure of the paper at our scale, and for each of its claims whether it holds here.

Flow: after everything else. Work is cut into jobs (one policy, or one evaluation, of one seed); a job is a process of
one thread, and what it found is kept in a file as soon as it is done, so that an interrupted reproduction goes on where
it stopped and exhibits share what they have in common. An exhibit reads jobs and says rows and claims.

    table1  which arm recommends best       fig3  what each part brings      table2  levels of local memory
    table3  does what is retrieved help     table4  what memory costs        fig4  a plain start and a taught one
    fig5  retrievers                        fig6  memories a call            fig7  a worked episode

Equations: none of its own; Recall and nDCG of `metrics`, MPC and MRC of `counterfactual`.

Verdicts. A claim "A above B" holds where the 95 % interval of the paired difference lies above 0; else it does not
hold, and the reason says whether the difference is below 0 or cannot be told from it. Where our scale has no
counterpart (a judge, hours of a large model) it is "not comparable", with the reason. Greedy decoding, the whole pool
ranked, queries of unseen users on familiar categories; intervals are over queries drawn anew and do not cover the
spread of seeds.

Departures from the paper. Small policies made from scratch stand for its language models; nobody's published weights
are run. A language model with naive or static memory is here the policy whose memory tool answers, whatever it is
asked, with the latest records or with the profile: the only form of given memory that it has learned to read. Table 2
sets out from one warm start a seed and learns with each level alone; Fig. 5 and 6 change the retriever under the
learned policy without training it again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from mrrec_mini.chat import grammar_of
from mrrec_mini.counterfactual import Withheld, effect, item_contribution, profile_contribution
from mrrec_mini.data import printable
from mrrec_mini.demo import open_data
from mrrec_mini.environment import Environment, item_text
from mrrec_mini.evaluate import (
    GREEDY,
    Bench,
    Row,
    appended_rows,
    benches,
    difference,
    episode_rows,
    interval,
    means,
    ndcg_10,
    play,
    reference_rows,
    system_rows,
)
from mrrec_mini.hybrid import HybridIndex, TextSpace
from mrrec_mini.memory import Memory
from mrrec_mini.models.causal_lm import load_causal_lm, make_causal_lm, save_causal_lm
from mrrec_mini.prompts import CONTROL
from mrrec_mini.recipe import Recipe, Say, chosen_recipe, make_tokenizer, prepare, quiet, start_policy
from mrrec_mini.records import Episode, MemoryEntry, Query
from mrrec_mini.rollout import LMActor, rollout
from mrrec_mini.systems.blair import Blair, BlairConfig
from mrrec_mini.systems.query_text import bm25_query, dense_query
from mrrec_mini.systems.rec_r1 import RecR1, RecR1Config
from mrrec_mini.train import Trainer, train
from mrrec_mini.warmstart import warm_start

EXHIBITS = ("table1", "fig3", "table2", "table3", "table4", "fig4", "fig5", "fig6", "fig7")
HOLDS, FAILS, NOT_COMPARABLE = "holds", "does not hold", "not comparable"
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

    out: Path
    data: Path | None = None  # None: the synthetic shop of each seed
    seeds: tuple[int, ...] = (0, 1, 2)
    fast: bool = False  # toy sizes: the code runs, the numbers say nothing

    @property
    def recipe(self) -> Recipe:
        return chosen_recipe(self.fast)

    def kept(self, job: str, seed: int) -> Path:
        """Where a job's finding is, under a name made of all that it depends on but the code."""
        made_of = [str(self.data and self.data.resolve()), self.fast, asdict(self.recipe)]
        name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:8]
        return self.out / "jobs" / name / f"{job}-{seed}.json"

    def policy(self, name: str, seed: int) -> Path:
        return self.kept(name, seed).with_suffix("")


# --- jobs ------------------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """What the jobs of one seed work with."""

    plan: Plan
    seed: int
    recipe: Recipe
    environments: list[Environment]

    @classmethod
    def of(cls, plan: Plan, seed: int) -> Stage:
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

    def bench(self, tokenizer, environment: Environment | None = None, **rules) -> Bench:
        """Test users' queries on familiar categories, under the recipe's rules of play but for `rules`."""
        own = replace(self.recipe.train.rules, **rules)
        return benches(environment or self.shop, grammar_of(tokenizer), own, self.seed)[0]


def learned(stage: Stage, model, tokenizer, recipe: Recipe, environments: Sequence[Environment], arm: str) -> dict:
    """Train, answer greedily: rows, the curve, and what it cost. The model is changed."""
    started = time.process_time()
    log = train(Trainer(model, tokenizer, environments, recipe.train))
    spent = time.process_time() - started
    bench = benches(environments[0], grammar_of(tokenizer), recipe.train.rules, stage.seed)[0]
    names = ("reward", "rewards/format/mean", "calls/mean", "entropy")
    curve = [{name: line[name] for name in names if name in line} for line in log]
    return {"rows": answered(bench, model, arm), "curve": curve, "cpu_seconds": spent}


def answered(bench: Bench, model, arm: str, all_calls: bool = False) -> list[dict]:
    """Greedy rows of a policy."""
    episodes = play(bench, LMActor(model, bench.grammar, None, 0.0), all_calls)
    return [asdict(row) for row in episode_rows(bench, arm, GREEDY, episodes)]


def start(stage: Stage) -> dict:
    """The taught policy: the warm start that most jobs set out from."""
    started = time.process_time()
    model, tokenizer = start_policy(stage.environments, stage.recipe, stage.seed)
    stage.save("start", model, tokenizer)
    found = answered(stage.bench(tokenizer), model, "policy without learning")
    return {"rows": found, "cpu_seconds": time.process_time() - started}


def grpo(stage: Stage) -> dict:
    """MR.Rec."""
    model, tokenizer = stage.load("start")
    found = learned(stage, model, tokenizer, stage.recipe, stage.environments, "MR.Rec")
    stage.save("grpo", model, tokenizer)
    return found


def ablated(**rules: int) -> Callable[[Stage], dict]:
    """MR.Rec that was taught and trained under other rules."""

    def job(stage: Stage) -> dict:
        recipe = stage.recipe.ablated(**rules)
        model, tokenizer = start_policy(stage.environments, recipe, stage.seed)
        return learned(stage, model, tokenizer, recipe, stage.environments, "ablated")

    return job


def level(name: str) -> Callable[[Stage], dict]:
    """MR.Rec that learned with one level of local memory alone."""

    def job(stage: Stage) -> dict:
        environments = [with_levels(environment, (name,)) for environment in stage.environments]
        model, tokenizer = stage.load("start")
        return learned(stage, model, tokenizer, stage.recipe, environments, name)

    return job


def with_levels(environment: Environment, levels: tuple[str, ...]) -> Environment:
    memory = environment.memory
    return replace(environment, memory=replace(memory, config=replace(memory.config, levels=levels)))


def given_memory(stage: Stage) -> dict:
    """The policy without learning, and MR.Rec's, when the memory is given and not looked up."""
    rows = []
    for name, arm in (("start", "policy without learning"), ("grpo", "MR.Rec's policy")):
        model, tokenizer = stage.load(name)
        bare = stage.bench(tokenizer, max_calls=0, global_k=0)
        rows += answered(bare, model, f"{arm}, no memory")
        for kind, entries_of in (("naive", latest_records), ("static", profile_lines)):
            memory = GivenMemory(stage.shop.memory, entries_of)
            bench = stage.bench(tokenizer, replace(stage.shop, memory=memory), max_calls=1, global_k=0)
            rows += answered(bench, model, f"{arm}, {kind} memory", all_calls=True)
    return {"rows": rows}


@dataclass(frozen=True)
class GivenMemory:
    """A memory whose tool gives the same entries, whatever it is asked."""

    memory: Memory
    entries_of: Callable[[Memory, Query], Sequence[MemoryEntry]]

    def search_global(self, text: str, k: int) -> tuple[MemoryEntry, ...]:
        return self.memory.search_global(text, k)

    def search_many(self, asked: Sequence[tuple[Query, str]], k: int) -> list[tuple[MemoryEntry, ...]]:
        return [tuple(self.entries_of(self.memory, query)) for query, _ in asked]


def latest_records(memory: Memory, query: Query) -> list[MemoryEntry]:
    return [entry for entry in memory.entries(query) if entry.level == "record"][:10]


def profile_lines(memory: Memory, query: Query) -> list[MemoryEntry]:
    return [entry for entry in memory.entries(query) if entry.level == "profile"][:10]


def references(stage: Stage) -> dict:
    """Arms that learn nothing or little: systems, the query alone, memory appended to the query."""
    _, tokenizer = stage.load("start")
    bench = stage.bench(tokenizer)
    rows = reference_rows(bench, np.random.default_rng([stage.seed, 3]), stage.recipe.teacher)
    latest = [latest_records(stage.shop.memory, query) for query in bench.queries]
    rows += appended_rows(bench, "ten latest records", latest)
    rows += system_rows(bench, "BM25 of the query", bm25_query())
    rows += system_rows(bench, "dense, of the query", dense_query())
    return {"rows": [asdict(row) for row in rows]}


def blair(stage: Stage) -> dict:
    """A text encoder taught by reviews."""
    _, tokenizer = stage.load("start")
    system = Blair(BlairConfig(seed=stage.seed, steps=3 if stage.plan.fast else BlairConfig.steps))
    return {"rows": [asdict(row) for row in system_rows(stage.bench(tokenizer), "BLaIR", system)]}


def rec_r1(stage: Stage) -> dict:
    """A query rewritten by reinforcement, without memory."""
    _, tokenizer = stage.load("start")
    config = RecR1Config(seed=stage.seed)
    if stage.plan.fast:
        config = replace(config, steps=1, requests=2, group=2, traces=20, warm=stage.recipe.warm)
    system = RecR1(config)
    return {"rows": [asdict(row) for row in system_rows(stage.bench(tokenizer), "Rec-R1", system)]}


def plain_start(stage: Stage) -> dict:
    """A policy that has read texts but never an episode, and then learns as MR.Rec does (Fig. 4)."""
    environments, recipe = stage.environments, stage.recipe
    tokenizer = make_tokenizer(environments, recipe.max_words)
    model = make_causal_lm(len(tokenizer), recipe.model, torch.Generator().manual_seed(stage.seed))
    texts = [text for environment in environments for text in plain_texts(environment)]
    pages = [as_page(tokenizer.encode(text)) for text in texts]
    warm_start(model, tokenizer, [page for page in pages if page], recipe.warm, np.random.default_rng(stage.seed))
    return learned(stage, model, tokenizer, recipe, environments, "plain start")


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


def retrievers(stage: Stage) -> dict:
    """MR.Rec's policy with other retrievers under its memory and its items (Fig. 5)."""
    model, tokenizer = stage.load("grpo")
    shop, rows = stage.shop, []
    pool = list(shop.dataset.items)
    texts = [item_text(item) for item in shop.dataset.items.values()]
    for name, how in RETRIEVERS.items():
        memory = replace(shop.memory, space=changed(shop.memory.space, **how))
        index = HybridIndex(pool, texts, changed(shop.items.space, **how))
        for part, own in (("memory", replace(shop, memory=memory)), ("items", replace(shop, items=index))):
            rows += answered(stage.bench(tokenizer, own), model, f"{part}: {name}")
    return {"rows": rows}


def changed(space: TextSpace, **how) -> TextSpace:
    """The same statistics under another configuration."""
    config = replace(space.config, **how)
    return TextSpace(config, space.stats, None if config.dense == "none" else space.embedder)


def memories_a_call(stage: Stage) -> dict:
    """MR.Rec's policy with 1 to 5 memories a call (Fig. 6)."""
    model, tokenizer = stage.load("grpo")
    return {"rows": [row for k in KS for row in answered(stage.bench(tokenizer, memory_k=k), model, f"k = {k}")]}


def contributions(stage: Stage) -> dict:
    """Table 3: does retrieved memory share words with the profile and the right item, and what if it were not there."""
    model, tokenizer = stage.load("grpo")
    bench = stage.bench(tokenizer)
    episodes = play(bench, LMActor(model, bench.grammar, None, 0.0))
    shop, found = stage.shop, []
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
    moved = {kind: removals(bench, model, those) for kind, those in effects.items()}
    moved["given, global"] = without_global(bench, model, episodes)
    return {"overlap": found, "removed": moved}


def retrieved(episode: Episode) -> list[MemoryEntry]:
    """What the memory tool returned, each once."""
    return list({entry.id: entry for call in episode.calls for entry in call.entries}.values())


def cited(episode: Episode) -> tuple[str, ...]:
    return episode.answer.evidence if episode.answer else ()


def removals(bench: Bench, model, pairs: Sequence[tuple[Episode, MemoryEntry]]) -> list[dict]:
    """Each episode again without one of its memories: does the profile change, does the target stand elsewhere."""
    found = []
    for start in range(0, len(pairs), bench.batch):
        chunk = pairs[start : start + bench.batch]
        queries = [replace(e.query, id=f"{start + n}/{e.query.id}") for n, (e, _) in enumerate(chunk)]
        held = {query.id: {entry.id} for query, (_, entry) in zip(queries, chunk, strict=True)}
        memory = Withheld(bench.environment.memory, held)
        again = rollout(LMActor(model, bench.grammar, None, 0.0), queries, memory, bench.grammar, bench.rules)
        for (before, entry), after in zip(chunk, again, strict=True):
            found.append(moved_by(bench, before, after, entry.id))
    return found


def without_global(bench: Bench, model, episodes: Sequence[Episode]) -> list[dict]:
    """Each episode again without the global memory."""
    bare = replace(bench, rules=replace(bench.rules, global_k=0))
    again = play(bare, LMActor(model, bench.grammar, None, 0.0))
    return [moved_by(bench, before, after, "global") for before, after in zip(episodes, again, strict=True)]


def moved_by(bench: Bench, before: Episode, after: Episode, what: str) -> dict:
    done = effect(bench.environment.items, before, after, [what], 10, (), before.query.target)
    return {
        "query": before.query.id,
        "profile_changed": done.before.profile != done.after.profile,
        "rank_before": done.before.target,
        "rank_after": done.after.target,
    }


def costs(stage: Stage) -> dict:
    """Table 4: the time of indexing, for as many as there are."""
    dataset, split = stage.shop.dataset, stage.shop.split
    started = time.process_time()
    again = prepare(dataset, replace(stage.recipe, siblings=0), stage.seed)[0].memory
    shared = time.process_time() - started
    started = time.process_time()
    entries = sum(len(again.entries(query)) for query in split.test_queries)
    spent = time.process_time() - started
    return {"global_s": shared, "global": len(again.global_entries), "local_s": spent, "local": entries}


def worked_episode(stage: Stage) -> dict:
    """Fig. 7, by rule: of the test queries with the most calls, the one whose target comes best; ties to the first."""
    model, tokenizer = stage.load("grpo")
    bench = stage.bench(tokenizer)
    episodes = play(bench, LMActor(model, bench.grammar, None, 0.0))
    best = max(episodes, key=lambda e: (len(e.calls), -e.rewards["rank"]))
    items = stage.shop.dataset.items
    profile = best.answer.profile if best.answer else best.query.text
    return {
        "query": best.query.text,
        "user": best.query.user,
        "transcript": bench.grammar.transcript(best.tokens, best.mask),
        "profile": profile,
        "memories": [{"id": e.id, "text": e.text, "level": e.level} for e in retrieved(best)],
        "evidence": list(cited(best)),
        "wanted": items[best.query.target].title,
        "rank": best.rewards["rank"],
        "items": [items[hit.id].title for hit in stage.shop.items.search(profile, 5)],
    }


@dataclass(frozen=True)
class Job:
    """What has to be found for one seed, and what has to be there before."""

    make: Callable[[Stage], dict]
    needs: tuple[str, ...] = ()
    cost: int = 1  # longer ones are begun first


JOBS = {
    "start": Job(start, cost=9),
    "grpo": Job(grpo, ("start",), 8),
    "no_global": Job(ablated(global_k=0), (), 7),
    "no_local": Job(ablated(max_calls=0), (), 7),
    "plain_start": Job(plain_start, (), 6),
    **{name: Job(level(name), ("start",), 5) for name in LEVELS},
    "rec_r1": Job(rec_r1, ("start",), 5),
    "blair": Job(blair, ("start",), 4),
    "references": Job(references, ("start",)),
    "given_memory": Job(given_memory, ("grpo",)),
    "retrievers": Job(retrievers, ("grpo",)),
    "memories_a_call": Job(memories_a_call, ("grpo",)),
    "contributions": Job(contributions, ("grpo",), 2),
    "costs": Job(costs, ("start",)),
    "worked_episode": Job(worked_episode, ("grpo",)),
}
NEEDED = {
    "table1": ("references", "blair", "rec_r1", "given_memory", "start", "grpo"),
    "fig3": ("grpo", "no_global", "no_local", "start"),
    "table2": ("grpo", "no_local", *LEVELS),
    "table3": ("contributions",),
    "table4": ("references", "grpo", "costs"),
    "fig4": ("grpo", "plain_start"),
    "fig5": ("retrievers",),
    "fig6": ("memories_a_call",),
    "fig7": ("worked_episode",),
}


@lru_cache(maxsize=1)
def stage_of(plan: Plan, seed: int) -> Stage:
    """A process that does several jobs of a seed makes its shops once."""
    return Stage.of(plan, seed)


def run_job(plan: Plan, name: str, seed: int) -> None:
    """One job, in this process, on one thread; its finding is kept whole or not at all."""
    torch.set_num_threads(1)
    path = plan.kept(name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = JOBS[name].make(stage_of(plan, seed))
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(path)


def wanted(exhibits: Iterable[str]) -> list[str]:
    """The jobs of these exhibits and all that they need, in the order of `JOBS`."""
    names = {job for exhibit in exhibits for job in NEEDED[exhibit]}
    while more := {need for name in names for need in JOBS[name].needs} - names:
        names |= more
    return [name for name in JOBS if name in names]


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
                for job in sorted(ready, key=lambda job: -JOBS[job[0]].cost)[: workers - len(running)]:
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


# --- exhibits --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, its number, ours, and whether it holds here."""

    text: str
    published: str
    ours: str
    interval: list[float] | None
    seeds: int
    verdict: str  # HOLDS, FAILS or NOT_COMPARABLE
    why: str = ""


@dataclass(frozen=True)
class Exhibit:
    """One table or figure."""

    title: str
    head: tuple[str, ...]
    rows: list[list]
    claims: list[Claim]
    note: str = ""
    bars: tuple[tuple[str, float, list[float] | None], ...] = ()  # label, height, interval
    curves: tuple[tuple[str, list[float]], ...] = ()  # label, a value for each step or k
    axes: tuple[str, str] = ("", "")


class Findings:
    """What the jobs of a plan found, over its seeds."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.rng = np.random.default_rng(0)

    def of(self, job: str) -> list[dict]:
        """One finding a seed."""
        return [json.loads(self.plan.kept(job, seed).read_text(encoding="utf-8")) for seed in self.plan.seeds]

    def rows(self, job: str, arm: str | None = None) -> list[Row]:
        """Rows of a job on the test part; of one arm, where it made several."""
        rows = [Row(**row) for found in self.of(job) for row in found["rows"]]
        return [row for row in rows if row.part == "test" and (arm is None or row.arm == arm)]

    def interval(self, rows: Sequence[Row]) -> list[float] | None:
        return interval([ndcg_10(row) for row in rows], rows, self.rng)

    def above(self, text: str, published: str, new: Sequence[Row], old: Sequence[Row]) -> Claim:
        """`new` is claimed to be above `old`, by nDCG@10."""
        gain = difference(new, "", old, self.rng)
        low, high = gain["interval"] or (-np.inf, np.inf)
        verdict = HOLDS if low > 0 else FAILS
        why = "" if low > 0 else "it is below" if high < 0 else "the difference cannot be told from 0"
        ours = f"{means(new)['ndcg@10']:.3f} against {means(old)['ndcg@10']:.3f}, {gain['ndcg@10']:+.3f}"
        return Claim(text, published, ours, gain["interval"], len(self.plan.seeds), verdict, why)

    def said(self, text: str, published: str, ours: str, holds: bool, why: str = "") -> Claim:
        """A claim about numbers that have no paired difference."""
        return Claim(text, published, ours, None, len(self.plan.seeds), HOLDS if holds else FAILS, why)

    def incomparable(self, text: str, published: str, ours: str, why: str) -> Claim:
        return Claim(text, published, ours, None, len(self.plan.seeds), NOT_COMPARABLE, why)


QUALITY = ("arm", "nDCG@10", "95 %", "nDCG@100", "recall@10", "recall@100", "calls", "memory tokens")


def quality(found: Findings, name: str, rows: Sequence[Row]) -> list:
    """A line of a table of arms."""
    mean, bounds = means(rows), found.interval(rows)
    shown = [f"{mean[key]:.3f}" for key in ("ndcg@100", "recall@10", "recall@100")]
    return [
        name,
        f"{mean['ndcg@10']:.3f}",
        spread(bounds),
        *shown,
        f"{mean['calls']:.1f}",
        f"{mean['memory_tokens']:.0f}",
    ]


def spread(bounds: Sequence[float] | None) -> str:
    return f"{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else "-"


def bars(found: Findings, arms: dict[str, list[Row]]) -> tuple:
    return tuple((name, means(rows)["ndcg@10"], found.interval(rows)) for name, rows in arms.items())


def table1(found: Findings) -> Exhibit:
    arms = {
        "popularity": found.rows("references", "popularity"),
        "neighbours": found.rows("references", "neighbours"),
        "BM25 of the query": found.rows("references", "BM25 of the query"),
        "dense, of the query": found.rows("references", "dense, of the query"),
        "BLaIR": found.rows("blair"),
        "Rec-R1": found.rows("rec_r1"),
        "query + latest records": found.rows("references", "naive_memory"),
        "query + profile": found.rows("references", "static_memory"),
    }
    for who in ("policy without learning", "MR.Rec's policy"):
        for kind in ("no memory", "naive memory", "static memory"):
            arms[f"{who}, {kind}"] = found.rows("given_memory", f"{who}, {kind}")
    arms["policy without learning, own look-ups"] = found.rows("start")
    arms["MR.Rec"] = ours = found.rows("grpo")
    for name in ("expert", "oracle"):
        if rows := found.rows("references", name):
            arms[f"({name})"] = rows
    others = {name: rows for name, rows in arms.items() if name != "MR.Rec" and not name.startswith("(")}
    best = max(others, key=lambda name: means(others[name])["ndcg@10"])
    claims = [
        found.above(f"MR.Rec above the best other arm ({best}), nDCG@10", ".084 against .075", ours, others[best]),
        found.above("MR.Rec above Rec-R1", ".084 against .071", ours, arms["Rec-R1"]),
        found.above("MR.Rec above BLaIR", ".084 against .040", ours, arms["BLaIR"]),
    ]
    for kind, published in (("no memory", ".065"), ("naive memory", "-"), ("static memory", "-")):
        name = f"policy without learning, {kind}"
        claims.append(
            found.above(f"MR.Rec above a model as it is, {kind}", f".084 against {published}", ours, arms[name])
        )
    claims.append(
        found.incomparable(
            "absolute numbers",
            "N@10 .084, N@100 .113, R@10 .122, R@100 .270",
            quality(found, "", ours)[1],
            "another pool (a few thousand items instead of a million), other queries, other models",
        )
    )
    rows = [quality(found, name, those) for name, those in arms.items()]
    note = "In parentheses: ceilings that know what matters; they are no competitors."
    return Exhibit("Table 1: who recommends best", QUALITY, rows, claims, note)


def fig3(found: Findings) -> Exhibit:
    arms = {
        "MR.Rec": found.rows("grpo"),
        "without global memory": found.rows("no_global"),
        "without local memory": found.rows("no_local"),
        "without RL": found.rows("start"),
    }
    full = arms["MR.Rec"]
    claims = [
        found.above(f"MR.Rec above itself {name}", "every removal hurts", full, rows)
        for name, rows in arms.items()
        if name != "MR.Rec"
    ]
    mean = {name: means(rows)["ndcg@10"] for name, rows in arms.items()}
    worst = min(mean, key=mean.get)
    said = ", ".join(f"{name} {value:.3f}" for name, value in mean.items())
    claims.append(found.said("removing RL hurts most", "RL most", said, worst == "without RL", f"{worst} is lowest"))
    rows = [quality(found, name, those) for name, those in arms.items()]
    return Exhibit("Fig. 3: what each part brings", QUALITY, rows, claims, "", bars(found, arms), axes=("", "nDCG@10"))


def table2(found: Findings) -> Exhibit:
    arms = {"none": found.rows("no_local")}
    arms |= {name: found.rows(name) for name in LEVELS}
    arms["all"] = found.rows("grpo")
    published = {"none": ".069", "record": ".079", "pattern": ".079", "profile": ".080", "all": ".084"}
    claims = [
        found.above(f"{name} above none", f"{published[name]} against .069", arms[name], arms["none"])
        for name in (*LEVELS, "all")
    ]
    claims += [
        found.above(f"all levels above {name} alone", f".084 against {published[name]}", arms["all"], arms[name])
        for name in LEVELS
    ]
    rows = [quality(found, name, those) for name, those in arms.items()]
    note = "`none` was taught and trained without a memory tool; the others learned from one warm start a seed."
    return Exhibit("Table 2: levels of local memory", QUALITY, rows, claims, note)


def table3(found: Findings) -> Exhibit:
    overlap = [one for part in found.of("contributions") for one in part["overlap"]]
    removed: dict[str, list[dict]] = {}
    for part in found.of("contributions"):
        for kind, those in part["removed"].items():
            removed.setdefault(kind, []).extend(those)
    share = {
        (kind, name): average([one[name] for one in overlap if one["kind"] == kind and one[name] is not None])
        for kind in ("global", "local")
        for name in ("mpc", "mrc")
    }
    rows = [[f"{kind}: {name.upper()}, keywords", f"{share[kind, name]:.3f}", "", ""] for kind, name in share]
    for kind, those in removed.items():
        if those:
            better = average([one["rank_after"] < one["rank_before"] for one in those])
            worse = average([one["rank_after"] > one["rank_before"] for one in those])
            changed = average([one["profile_changed"] for one in those])
            rows.append([f"removed: {kind} ({len(those)})", f"{changed:.3f}", f"{worse:.3f}", f"{better:.3f}"])
    moved = {kind: average([one["profile_changed"] for one in those]) for kind, those in removed.items()}
    named, spared = moved["named as evidence"], moved["retrieved, not named"]
    claims = [
        found.said(
            "local memory shares keywords with the profile (MPC)",
            ".94",
            f"{share['local', 'mpc']:.2f}",
            share["local", "mpc"] >= 0.5,
            "half of it or more was asked for",
        ),
        found.said(
            "... and less with the right item (MRC)",
            ".47",
            f"{share['local', 'mrc']:.2f}",
            share["local", "mrc"] < share["local", "mpc"],
        ),
        found.incomparable(
            "global memory: MPC and MRC",
            ".96 and .90",
            f"{share['global', 'mpc']:.2f} and {share['global', 'mrc']:.2f}",
            "a line here is a category and an aspect's name, in the paper a description",
        ),
        found.incomparable("a judge agrees", "similar", "-", "no judge is asked; the counterfactual takes its place"),
        found.said(
            "what is named as evidence matters more than what is not (profile changes without it)",
            "-",
            f"{named:.2f} against {spared:.2f}",
            named > spared,
        ),
    ]
    head = ("", "value; removed: profile changes", "target falls", "target rises")
    return Exhibit("Table 3: does memory contribute", head, rows, claims)


def average(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def table4(found: Findings) -> Exhibit:
    arms = {
        "MR.Rec": found.rows("grpo"),
        "ten latest records": found.rows("references", "ten latest records"),
        "static profile": found.rows("references", "static_memory"),
    }
    rows, worth = [], {}
    for name, those in arms.items():
        mean = means(those)
        worth[name] = 100 * mean["recall@100"] / mean["memory_tokens"] if mean["memory_tokens"] else float("nan")
        rows.append([name, f"{mean['recall@100']:.3f}", f"{mean['memory_tokens']:.0f}", f"{worth[name]:.3f}"])
    cost = {key: sum(part[key] for part in found.of("costs")) for key in ("global_s", "global", "local_s", "local")}
    rows.append(["index: global entries, CPU s", cost["global"], "", f"{cost['global_s']:.1f}"])
    rows.append(["index: local entries, CPU s", cost["local"], "", f"{cost['local_s']:.1f}"])
    said = ", ".join(f"{name} {value:.2f}" for name, value in worth.items())
    claims = [
        found.said(
            "most recall@100 for each 100 memory tokens",
            ".299 at 95 tokens, .092 and .053",
            said,
            worth["MR.Rec"] == max(worth.values()),
        ),
        found.incomparable(
            "cost of the index",
            "2,435 s for 75,000 entries",
            f"{cost['global_s'] + cost['local_s']:.0f} CPU s for {cost['global'] + cost['local']:,} entries",
            "the extractive writer against a large language model",
        ),
    ]
    return Exhibit(
        "Table 4: what memory costs", ("arm", "recall@100", "memory tokens", "recall a 100 tokens"), rows, claims
    )


def fig4(found: Findings) -> Exhibit:
    names = {"taught start": "grpo", "plain-text start": "plain_start"}
    curves = {name: [part["curve"] for part in found.of(job)] for name, job in names.items()}
    mean = {
        name: {key: np.mean([[line[key] for line in one] for one in those], axis=0) for key in those[0][0]}
        for name, those in curves.items()
    }
    last = {name: {key: float(values[-5:].mean()) for key, values in those.items()} for name, those in mean.items()}
    rows = [
        [
            name,
            *(f"{mean[name]['reward'][at]:.2f}" for at in (0, -1)),
            f"{end['rewards/format/mean']:.2f}",
            f"{end['calls/mean']:.2f}",
        ]
        for name, end in last.items()
    ]
    plain = last["plain-text start"]
    claims = [
        found.incomparable(
            "a plain start learns the format",
            "yes",
            f"{plain['rewards/format/mean']:.2f}",
            "the grammar is enforced while decoding, so both have it from the first step",
        )
        if found.plan.recipe.train.rules.constrained
        else found.said(
            "a plain start learns the format",
            "yes",
            f"{plain['rewards/format/mean']:.2f}",
            plain["rewards/format/mean"] >= 0.9,
        ),
        found.said(
            "... but never learns to call memory",
            "no calls",
            f"{plain['calls/mean']:.2f} calls an episode",
            plain["calls/mean"] <= 0.1,
        ),
        found.said(
            "the taught start ends at a higher reward",
            "yes",
            f"{last['taught start']['reward']:.2f} against {plain['reward']:.2f}",
            last["taught start"]["reward"] > plain["reward"],
        ),
    ]
    head = ("start", "reward at first", "at last", "format at last", "calls at last")
    lines = tuple((name, those["reward"].tolist()) for name, those in mean.items())
    return Exhibit("Fig. 4: a plain start and a taught one", head, rows, claims, "", (), lines, ("step", "reward"))


def fig5(found: Findings) -> Exhibit:
    arms = {
        f"{part}: {name}": found.rows("retrievers", f"{part}: {name}")
        for part in ("memory", "items")
        for name in RETRIEVERS
    }
    claims = [
        found.above(
            f"{part}: dense above BM25", "dense beats BM25", arms[f"{part}: dense (LSA)"], arms[f"{part}: BM25"]
        )
        for part in ("memory", "items")
    ]
    claims.append(
        found.incomparable(
            "Qwen3-Embedding above BGE-M3",
            "yes",
            "-",
            "no large encoder is run; benchmarks/quality.py has MiniLM and a static table",
        )
    )
    rows = [quality(found, name, those) for name, those in arms.items()]
    return Exhibit("Fig. 5: retrievers", QUALITY, rows, claims, "", bars(found, arms), axes=("", "nDCG@10"))


def fig6(found: Findings) -> Exhibit:
    arms = {k: found.rows("memories_a_call", f"k = {k}") for k in KS}
    mean = {k: means(rows)["ndcg@10"] for k, rows in arms.items()}
    best = max(mean, key=mean.get)
    claims = [
        found.said(
            "three memories a call are best", "k = 3", f"k = {best} ({mean[best]:.3f}; k = 3: {mean[3]:.3f})", best == 3
        ),
        found.above("k = 3 above k = 1", "yes", arms[3], arms[1]),
        found.above("k = 3 above k = 5", "yes", arms[3], arms[5]),
    ]
    rows = [quality(found, f"k = {k}", those) for k, those in arms.items()]
    note = "The policy learned with k = 3 and is shown other numbers of memories here."
    line = (("MR.Rec", list(mean.values())),)
    return Exhibit("Fig. 6: memories a call", QUALITY, rows, claims, note, (), line, ("memories a call", "nDCG@10"))


def fig7(found: Findings) -> Exhibit:
    one = found.of("worked_episode")[0]
    rows = [["query", one["query"]], *([who, text] for who, text in one["transcript"]), ["profile", one["profile"]]]
    rows += [["memory" + (" (evidence)" if m["id"] in one["evidence"] else ""), m["text"]] for m in one["memories"]]
    rows += [
        ["wanted", f"{one['wanted']}, at rank {one['rank']:.0f}"],
        *(["recommended", title] for title in one["items"]),
    ]
    note = (
        "Chosen by rule: of the first seed's test queries with the most calls, the one whose target comes best. It "
        "shows how an episode looks when it goes well, not how often it does."
    )
    return Exhibit("Fig. 7: a worked episode", ("", ""), rows, [], note)


MAKERS: dict[str, Callable[[Findings], Exhibit]] = {
    **{"table1": table1, "fig3": fig3, "table2": table2, "table3": table3, "table4": table4},
    **{"fig4": fig4, "fig5": fig5, "fig6": fig6, "fig7": fig7},
}


# --- what is written -------------------------------------------------------------------------------------------------


def reproduce(plan: Plan, exhibits: Sequence[str] = EXHIBITS, workers: int = 1, say: Say = quiet) -> dict:
    """Run what is missing, then write reproduction.json, REPRODUCTION.md and a PNG for each figure into `plan.out`.

    What was reproduced before with the same plan stays in the document. Returns it.
    """
    run_jobs(plan, wanted(exhibits), workers, say)
    found = Findings(plan)
    path = plan.out / "reproduction.json"
    about = {"data": str(plan.data) if plan.data else "world", "seeds": list(plan.seeds), "fast": plan.fast}
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    same = {name: before.get(name) for name in about} == about
    document = {**about, "exhibits": dict(before["exhibits"]) if same else {}}
    for name in exhibits:
        exhibit = MAKERS[name](found)
        document["exhibits"][name] = {
            "title": exhibit.title,
            "head": list(exhibit.head),
            "rows": exhibit.rows,
            "note": exhibit.note,
            "claims": [asdict(claim) for claim in exhibit.claims],
            "picture": draw(exhibit, plan.out / f"{name}.png"),
        }
    document["exhibits"] = {name: document["exhibits"][name] for name in EXHIBITS if name in document["exhibits"]}
    write_whole(path, json.dumps(document, indent=1) + "\n")
    write_whole(plan.out / "REPRODUCTION.md", as_markdown(document))
    return document


def write_whole(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def draw(exhibit: Exhibit, path: Path) -> str | None:
    """A PNG of the bars or curves; its name, or None where there is nothing to draw or no matplotlib to draw with."""
    if not exhibit.bars and not exhibit.curves:
        return None
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    if exhibit.bars:
        names = [name for name, _, _ in exhibit.bars]
        heights = [height for _, height, _ in exhibit.bars]
        axes.barh(names, heights, color="#4477aa")
        for row, (_, height, bounds) in enumerate(exhibit.bars):
            if bounds:
                axes.plot(bounds, [row, row], color="black", linewidth=1.5)
            axes.annotate(f"{height:.3f}", (0, row), (4, 0), textcoords="offset points", va="center", color="white")
        axes.invert_yaxis()
        axes.set_xlabel(exhibit.axes[1])
    else:
        for name, values in exhibit.curves:
            axes.plot(range(1, len(values) + 1), values, marker="." if len(values) < 20 else None, label=name)
        axes.set_xlabel(exhibit.axes[0])
        axes.set_ylabel(exhibit.axes[1])
        axes.legend(frameon=False)
    axes.set_title(exhibit.title)
    figure.savefig(path, dpi=110)
    return path.name


def as_markdown(document: dict) -> str:
    """REPRODUCTION.md."""
    data, seeds = document["data"], ", ".join(map(str, document["seeds"]))
    command = f"mrrec reproduce all --seeds {len(document['seeds'])}" + (f" --data {data}" if data != "world" else "")
    command += " --fast" if document["fast"] else ""
    claims = [claim for exhibit in document["exhibits"].values() for claim in exhibit["claims"]]
    counts = ", ".join(f"{sum(c['verdict'] == v for c in claims)} {v}" for v in (HOLDS, FAILS, NOT_COMPARABLE))
    lines = [
        "# The paper's tables and figures, at our scale",
        "",
        f"`{command}`: data {data}, seeds {seeds}. Of {len(claims)} claims: {counts}.",
        "Greedy decoding, whole pool, unseen users; 95 % intervals over queries drawn anew, paired where differences.",
    ]
    if document["fast"]:
        lines += ["", "**Toy sizes: this shows that the code runs. Its numbers say nothing.**"]
    for exhibit in document["exhibits"].values():
        lines += ["", f"## {exhibit['title']}", "", *table_lines(exhibit["head"], exhibit["rows"])]
        if exhibit["note"]:
            lines += ["", exhibit["note"]]
        if exhibit["picture"]:
            lines += ["", f"![{exhibit['title']}]({exhibit['picture']})"]
        if exhibit["claims"]:
            head = ("claim", "published", "ours", "95 %", "seeds", "verdict", "why")
            rows = [
                [
                    c["text"],
                    c["published"],
                    c["ours"],
                    spread(c["interval"]),
                    c["seeds"],
                    f"**{c['verdict']}**",
                    c["why"],
                ]
                for c in exhibit["claims"]
            ]
            lines += ["", *table_lines(head, rows)]
    return "\n".join(lines) + "\n"


def table_lines(head: Sequence[str], rows: Sequence[Sequence]) -> list[str]:
    """A Markdown table; what texts hold cannot end a cell."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell(value) for value in line) + " |" for line in lines]


def cell(value: object) -> str:
    text = printable(str(value)).replace("|", "\\|")
    return text.replace("<", "&lt;").replace("\n", " ")
