"""Reproduce every table and figure of the paper at our scale, with a verdict on each of the paper's claims.

Flow: after everything else. An exhibit is a table or figure; its function reads the results of `jobs` and returns its
rows and claims. `reproduce` runs the jobs that have no result yet, then writes JSON, Markdown and pictures.

    table1  which arm recommends best       fig3  what each part brings      table2  levels of local memory
    table3  does retrieved memory help      table4  what memory costs        fig4  a plain start and a taught one
    fig5  retrievers                        fig6  memories per call          fig7  a worked episode

Equations: none of its own; Recall and nDCG are those of `metrics`, MPC and MRC those of `counterfactual`.

Verdicts. A claim "A above B" holds if the 95 % interval of the paired difference lies above 0. Otherwise it does not
hold, and the reason says whether the difference is below 0 or cannot be told from 0. Decoding is greedy, all items are
ranked, and the queries are those of unseen users on familiar categories. The intervals are those of `evaluate`.

Beside its verdict, each claim has a kind, which says what the verdict is worth (see `WORTH`), and the reasons for both.
The kind may differ between the synthetic shop, where we decided who can know what, and other data.

Departures from the paper: those of `jobs`. "Taught start" is the warm start.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mrrec_mini.app.jobs import KS, LEVELS, RETRIEVERS, UNKNOWN, Plan, other_code, run_jobs, with_needs
from mrrec_mini.data import DataError, printable, shorten
from mrrec_mini.evaluate import Row, difference, interval, means, ndcg_10, prior_instead
from mrrec_mini.files import replacing_file, write_text
from mrrec_mini.recipe import Say, quiet
from mrrec_mini.rivals import RIVALS

REPRODUCTION = "reproduction.json"
HOLDS, FAILS, NOT_COMPARABLE = "holds", "does not hold", "not comparable"
TESTED, BUILT, FOREIGN = "tested", "true by construction", "out of distribution"
WORTH = {  # kind -> what its verdicts are worth
    TESTED: "the verdict could have come out otherwise",
    BUILT: "how we made the shop, or the script that is imitated, decides the verdict",
    FOREIGN: "an arm gets input that it was never trained on",
    NOT_COMPARABLE: "we cannot test the claim at our scale",
}
MEMORIES = ("no memory", "naive memory", "static memory")
REC_R1 = dict(zip(MEMORIES, ("rec_r1", "rec_r1_naive", "rec_r1_static"), strict=True))  # memory -> job
PUBLISHED = {  # the paper's nDCG@10 in Table 1, and the model that has it if the name of the arm does not say so
    **{"Rec-R1, no memory": ".071", "Rec-R1, naive memory": ".075", "Rec-R1, static memory": ".069"},
    "BLaIR, no memory": ".040",
    "policy without learning, no memory": ".065 (Qwen2.5-3B)",
    "policy without learning, naive memory": ".072 (GPT-4o)",
    "policy without learning, static memory": ".065 (GPT-4o)",
}
NEEDED = {  # exhibit -> the jobs that it reads
    "table1": ("references", "blair", *REC_R1.values(), "given_memory", "start", "grpo", "script", *RIVALS),
    "fig3": ("grpo", "no_global", "no_local", "start"),
    "table2": ("grpo", "no_local", *LEVELS),
    "table3": ("contributions", "evidence"),
    "table4": ("references", "grpo", "costs"),
    "fig4": ("grpo", "plain_start"),
    "fig5": ("retrievers",),
    "fig6": tuple(f"k_{k}" for k in KS),
    "fig7": ("worked_episode",),
}
SIMPLE = (
    *("popularity", "neighbours", "popularity_in_category", "neighbours_in_category"),
    *("query_popularity", "query_prior", "BM25 of the query", "dense, of the query"),
)
SCRIPTS = ("best_own_text", "script_filter", "script_lookups", "best_script", "teacher")
PRIOR = ", with the prior"  # ends the name of an arm whose score has the prior as well (real data)
EXHIBITS = tuple(NEEDED)
QUALITY = ("arm", "nDCG@10", "95 %", "nDCG@100", "recall@10", "recall@100", "calls", "memory tokens")


# --- what an exhibit is made of --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, the published number, our number, the verdict, and what the verdict is worth."""

    text: str
    published: str
    ours: str
    interval: list[float] | None  # [low, high], in most claims of a paired difference; if None, `why` has the reason
    seeds: int
    verdict: str  # HOLDS, FAILS or NOT_COMPARABLE
    kind: str  # a key of WORTH; NOT_COMPARABLE if the verdict is
    why: str  # of the verdict, of the kind, and of a missing interval


@dataclass(frozen=True)
class Exhibit:
    """One table or figure. Most figures have bars or curves."""

    title: str
    head: tuple[str, ...]
    rows: list[list]
    claims: list[Claim]
    note: str = ""
    bars: tuple[tuple[str, float, list[float] | None], ...] = ()  # (label, height, interval)
    curves: tuple[tuple[str, list[float]], ...] = ()  # (label, one value per step or per k)
    axes: tuple[str, str] = ("", "")


Arms = dict[str, list[Row]]  # name of an arm -> its rows
Worth = tuple[str, str]  # what a verdict is worth: a key of WORTH, and why it is of this kind
FAIR = (TESTED, "both arms read memory")
OPEN = (TESTED, "nothing decides it in advance")


class Results:
    """Reads the saved results of a plan's jobs, all seeds together, and makes table rows and claims from them."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.code: set[str] = set()  # the versions of the code that made the results which were read

    def load(self, job: str) -> list[dict]:
        """Return the results of a job, one per seed."""
        paths = [self.plan.result_path(job, seed) for seed in self.plan.seeds]
        results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        self.code.update(result.get("code", UNKNOWN) for result in results)
        return results

    def rows(self, job: str, arm: str | None = None) -> list[Row]:
        """Return the test rows of a job: those of `arm`, or of all arms if it is None."""
        rows = [Row(**row) for result in self.load(job) for row in result["rows"]]
        return [row for row in rows if row.part == "test" and (arm is None or row.arm == arm)]

    def quality(self, name: str, rows: Sequence[Row]) -> list[str]:
        """Return one row of a table whose columns are QUALITY."""
        mean, bounds = means(rows), interval_of({row: ndcg_10(row) for row in rows}, name)
        values = [f"{mean[key]:.3f}" for key in ("ndcg@100", "recall@10", "recall@100")]
        values += [f"{mean['calls']:.1f}", f"{mean['memory_tokens']:.0f}"]
        return [name, f"{mean['ndcg@10']:.3f}", spread(bounds), *values]

    def table(self, arms: Arms) -> list[list[str]]:
        return [self.quality(name, rows) for name, rows in arms.items()]

    def bars(self, arms: Arms) -> tuple:
        values = {name: {row: ndcg_10(row) for row in rows} for name, rows in arms.items()}
        return tuple((name, average([*v.values()]), interval_of(v, name)) for name, v in values.items())

    def tuned(self, *jobs: str) -> str:
        """Return a sentence with the settings that these jobs tried, and how many seeds chose each."""
        found: dict[str, list[dict]] = {}
        for result in (result for job in jobs for result in self.load(job)):
            for arm, choice in result["tuned"].items():
                found.setdefault(arm, []).append(choice)
        parts = []
        for arm, choices in found.items():
            chosen = [str(choice["chosen"]) for choice in choices]
            tried = {value: average([choice["tried"][value] for choice in choices]) for value in choices[0]["tried"]}
            parts.append(f"{arm} " + ", ".join(f"{v} ({mean:.3f}, {chosen.count(v)})" for v, mean in tried.items()))
        return "; ".join(parts)

    # --- claims ------------------------------------------------------------------------------------------------------

    def above(self, text: str, published: str, new: Sequence[Row], old: Sequence[Row], worth: Worth = FAIR) -> Claim:
        """Return the claim that `new` has a higher nDCG@10 than `old`, with its verdict."""
        gain = difference(new, old, (text,))
        ours = f"{means(new)['ndcg@10']:.3f} against {means(old)['ndcg@10']:.3f}, {gain['ndcg@10']:+.3f}"
        return self.judged(text, published, ours, gain["interval"], worth)

    def judged(
        self, text: str, published: str, ours: str, bounds: list[float] | None, worth: Worth, least: float = 0.0
    ) -> Claim:
        """Return a claim that holds if the interval `bounds` lies above `least`."""
        low, high = bounds or (-np.inf, np.inf)
        reason = "" if low > least else "it is below" if high < least else f"it cannot be told from {least:g}"
        reason = reason if bounds else "no interval: fewer than two users"
        return self.claim(text, published, ours, low > least, worth, reason, bounds)

    def every_run(self, text: str, published: str, ours: str, runs: Sequence[bool], worth: Worth) -> Claim:
        """Return a claim about a number that each run has once; it holds if it holds in every run."""
        reason = f"no interval: one number per run, {sum(runs)} of {len(runs)} runs agree"
        return self.claim(text, published, ours, all(runs), worth, reason)

    def not_comparable(self, text: str, published: str, ours: str, why: str) -> Claim:
        return self.claim(text, published, ours, False, (NOT_COMPARABLE, why), "no verdict, so no interval")

    def claim(self, text: str, published: str, ours: str, holds: bool, worth: Worth, reason: str, bounds=None) -> Claim:
        """Return a claim with its verdict, which is NOT_COMPARABLE if its kind is."""
        kind, why = worth
        verdict = NOT_COMPARABLE if kind == NOT_COMPARABLE else HOLDS if holds else FAILS
        told = f"{reason}; {why}" if reason else why
        return Claim(text, published, ours, bounds, len(self.plan.seeds), verdict, kind, told)

    def built(self, why: str, otherwise: Worth = OPEN) -> Worth:
        """Return BUILT with its reason for the synthetic shop, and `otherwise` for other data."""
        return (BUILT, why) if self.plan.data is None else otherwise

    def citations(self) -> dict[str, float]:
        """Return precision and recall of the cited memories, against those from which the profiles were copied."""
        every = [one for result in self.load("evidence") for one in result["citations"]]
        cited, copied, both = (sum(one[name] for one in every) for name in ("cited", "copied", "both"))
        return {"precision": both / max(cited, 1), "recall": both / max(copied, 1)}

    def against(self, arm: str) -> Worth:
        """Return what the verdict "MR.Rec above `arm`" is worth: it depends on what the arm can know."""
        if arm in ("popularity", "neighbours"):
            return self.built("it ignores the query, which names the category")
        if arm in SIMPLE[2:6]:  # the others of SIMPLE: see above and below
            return OPEN
        if arm in ("BM25 of the query", "dense, of the query") or arm.endswith("no memory"):
            untrained = FOREIGN, "the policy was trained to look up before it answers"
            why = "it reads no local memory, and a query does not say all that its user prefers"
            return self.built(why, untrained if arm == "MR.Rec's policy, no memory" else OPEN)
        if arm.startswith("BLaIR"):
            return FOREIGN, "it was never trained on queries with lines of memory"
        if "policy" in arm and arm.endswith(MEMORIES):
            return FOREIGN, "the policy was never trained with memory that it did not ask for"
        return FAIR


def spread(bounds: Sequence[float] | None) -> str:
    return f"{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else "-"


def interval_of(values: dict[Row, float], about: str) -> list[float] | None:
    """Return the 95 % interval of the mean of `values`, or None for fewer than two users. `about` names the mean."""
    return interval([*values.values()], [*values], (about,))


def average(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


# --- the exhibits ----------------------------------------------------------------------------------------------------


def table1(results: Results) -> Exhibit:
    """Table 1: every arm, from the simplest to MR.Rec, then the upper bounds. On real data, some have the prior too."""
    arms = table1_arms(results)
    ours = arms["MR.Rec"]
    others = {name: rows for name, rows in arms.items() if name not in ("MR.Rec", "MR.Rec" + PRIOR) and name[0] != "("}
    best = max(others, key=lambda name: means(others[name])["ndcg@10"])
    text = f"MR.Rec above the best other arm ({best}), nDCG@10"
    published = ".084 against .075 (Rec-R1, naive memory)"
    claims = [results.above(text, published, ours, others[best], results.against(best))]
    for name, published in PUBLISHED.items():
        text, published = f"MR.Rec above {name}", f".084 against {published}"
        claims.append(results.above(text, published, ours, arms[name], results.against(name)))
    for name in ("popularity_in_category", "best_own_text", "best_script", *RIVALS[:-1]):
        if name in arms:
            claims.append(results.above(f"MR.Rec above {name}", "-", ours, arms[name], results.against(name)))
    if with_prior := arms.get("MR.Rec" + PRIOR):
        for name in ("query_prior", "best_own_text" + PRIOR):
            text = f"MR.Rec{PRIOR}, above {name}"
            claims.append(results.above(text, "-", with_prior, arms[name], results.against(name)))
    published = "N@10 .084, N@100 .113, R@10 .122, R@100 .270"
    why = "another pool (a few thousand items instead of a million), other queries, other models"
    claims.append(results.not_comparable("absolute numbers", published, results.quality("", ours)[1], why))
    note = (
        "In parentheses: upper bounds that know what matters to the user; they do not compete. Settings that were "
        "tried, with the mean nDCG@10 on validation users and the number of seeds that chose it: "
        f"{results.tuned('references', 'blair', *REC_R1.values())}. Learning rates (below 1) were tried with a third "
        "of the training steps, other numbers count lines of memory. popularity, neighbours, BM25 and dense search of "
        "the query have nothing to tune."
    )
    return Exhibit("Table 1: which arm recommends best", QUALITY, results.table(arms), claims, note)


def table1_arms(results: Results) -> Arms:
    """Return {name: rows} of the arms in Table 1 that were run. Upper bounds have names in parentheses."""
    references = lambda name: results.rows("references", name)  # noqa: E731
    arms = {name: references(name) for name in SIMPLE}
    arms |= {f"BLaIR, {memory}": results.rows("blair", f"BLaIR, {memory}") for memory in MEMORIES}
    arms |= {f"Rec-R1, {memory}": results.rows(job) for memory, job in REC_R1.items()}
    arms |= {name: references(name) for name in ("query + latest records", "query + profile")}
    for policy in ("policy without learning", "MR.Rec's policy"):
        arms |= {f"{policy}, {memory}": results.rows("given_memory", f"{policy}, {memory}") for memory in MEMORIES}
    arms |= {name: references(name) for name in SCRIPTS} | {name: results.rows(name) for name in RIVALS}
    arms |= {"policy without learning, own look-ups": results.rows("start"), "MR.Rec": results.rows("grpo")}
    arms |= {name + PRIOR: prior_instead(arms[name]) for name in ("best_own_text", "MR.Rec")}
    arms |= {f"({name})": references(name) for name in ("expert", "oracle")}
    return {name: rows for name, rows in arms.items() if rows}


def fig3(results: Results) -> Exhibit:
    """Fig. 3: MR.Rec, and MR.Rec without one of its parts."""
    removed = {  # name -> (job, what the verdict is worth)
        "without global memory": (
            "no_global",
            results.built("nothing else says what matters, and the shops it trains in differ"),
        ),
        "without local memory": ("no_local", results.built("a query does not say all that its user prefers")),
        "without RL": ("start", (TESTED, "both read the same memory; only training differs")),
    }
    arms = {"MR.Rec": results.rows("grpo")} | {name: results.rows(job) for name, (job, _) in removed.items()}
    full, published = arms["MR.Rec"], "every removal hurts"
    claims = [
        results.above(f"MR.Rec above MR.Rec {name}", published, full, arms[name], worth)
        for name, (_, worth) in removed.items()
    ]
    ours = ", ".join(f"{name} {means(rows)['ndcg@10']:.3f}" for name, rows in arms.items())
    why = "what RL adds depends on how good we made the script that is imitated before it"
    claims.append(results.not_comparable("removing RL hurts most", "RL most", ours, why))
    title = "Fig. 3: what each part brings"
    return Exhibit(title, QUALITY, results.table(arms), claims, "", results.bars(arms), axes=("", "nDCG@10"))


def table2(results: Results) -> Exhibit:
    """Table 2: MR.Rec with one level of local memory, with none, and with all."""
    arms = {"none": results.rows("no_local"), **{name: results.rows(name) for name in LEVELS}}
    arms["all"] = results.rows("grpo")
    published = {"none": ".069", "record": ".079", "pattern": ".079", "profile": ".080", "all": ".084"}
    stated = results.built("its lines state what the user prefers, and the query does not say all of it")
    raw = TESTED, "records have the attributes of what was bought: preferences must be read from several"
    fair = TESTED, "each level can be read to the same preferences"
    pairs = [(f"{name} above none", name, "none", raw if name == "record" else stated) for name in (*LEVELS, "all")]
    pairs += [(f"all levels above {name} alone", "all", name, fair) for name in LEVELS]
    claims = [
        results.above(text, f"{published[new]} against {published[old]}", arms[new], arms[old], worth)
        for text, new, old, worth in pairs
    ]
    note = "`none` was warm-started and trained without a memory tool; the others share one warm start per seed."
    return Exhibit("Table 2: levels of local memory", QUALITY, results.table(arms), claims, note)


def table3(results: Results) -> Exhibit:
    """Table 3: how often retrieved memories share keywords with profile and item, and what changes without them."""
    overlap, removed = contributions(results)
    share = {  # (kind, name) -> {row: value}, the rows that have a value
        (kind, name): {one["row"]: one[name] for one in overlap if one["kind"] == kind and one[name] is not None}
        for kind in ("global", "local")
        for name in ("mpc", "mrc")
    }
    mean = {key: average([*values.values()]) for key, values in share.items()}
    rows = [[f"{kind}: {name.upper()}, keywords", f"{value:.3f}", "", ""] for (kind, name), value in mean.items()]
    changed = {kind: average([one["profile_changed"] for one in changes]) for kind, changes in removed.items()}
    for kind, changes in removed.items():
        if changes:
            better = average([one["rank_after"] < one["rank_before"] for one in changes])
            worse = average([one["rank_after"] > one["rank_before"] for one in changes])
            rows.append([f"removed: {kind} ({len(changes)})", f"{changed[kind]:.3f}", f"{worse:.3f}", f"{better:.3f}"])

    counts = results.citations()
    rows += [[f"citations: {name}", f"{value:.3f}", "", ""] for name, value in counts.items()]
    mpc, mrc = share["local", "mpc"], share["local", "mrc"]
    less = {row: mpc[row] - mrc[row] for row in mpc if row in mrc}
    named, other = (changes_per_row(removed[kind]) for kind in ("named as evidence", "retrieved, not named"))
    more = {row: named[row] - other[row] for row in named if row in other}
    spans = [interval_of(gains, name) for name, gains in (("MPC", mpc), ("MPC - MRC", less), ("evidence", more))]
    copied = BUILT, "the script that is imitated copies memory into the profile; 0.5 is our criterion"
    items = TESTED, "memory is not written to match the item"
    cited = TESTED, "no reward asks for right evidence; the interval is that of the difference within a query"
    often = "withholding a memory changes the profile more often if it was named as evidence"
    ours = [f"{mean['local', name]:.2f}" for name in ("mpc", "mrc")]
    both = f"{mean['global', 'mpc']:.2f} and {mean['global', 'mrc']:.2f}"
    evidence = f"{changed['named as evidence']:.2f} against {changed['retrieved, not named']:.2f}"
    lines = "here a line is a category and the name of an aspect, in the paper it is a description"
    judge = "no LLM judge is run; the counterfactual replaces it"
    claims = [
        results.judged("local memory shares keywords with the profile (MPC)", ".94", ours[0], spans[0], copied, 0.5),
        results.judged("... and less with the right item (MRC)", ".47", ours[1], spans[1], items),
        results.not_comparable("global memory: MPC and MRC", ".96 and .90", both, lines),
        results.not_comparable("a judge agrees", "similar", "-", judge),
        results.judged(often, "-", evidence, spans[2], cited),
    ]
    head = ("", "value, or share of changed profiles", "target falls", "target rises")
    return Exhibit("Table 3: does memory contribute?", head, rows, claims)


def contributions(results: Results) -> tuple[list[dict], dict[str, list[dict]]]:
    """Return (overlap, removed) of the job "contributions", all seeds together; each dict gets its query's `row`."""
    overlap, removed = [], {}
    for part in results.load("contributions"):
        rows = {row["query"]: Row(**row) for row in part["rows"]}
        overlap += [{**one, "row": rows[one["query"]]} for one in part["overlap"]]
        for kind, changes in part["removed"].items():
            removed.setdefault(kind, []).extend({**one, "row": rows[one["query"]]} for one in changes)
    return overlap, removed


def changes_per_row(changes: Sequence[dict]) -> dict[Row, float]:
    """Return for each row the share of its withheld memories without which the profile changed."""
    found: dict[Row, list[bool]] = {}
    for one in changes:
        found.setdefault(one["row"], []).append(one["profile_changed"])
    return {row: average(values) for row, values in found.items()}


def table4(results: Results) -> Exhibit:
    """Table 4: recall per memory token, and the cost of building memory."""
    arms = {
        "MR.Rec": results.rows("grpo"),
        "ten latest records": results.rows("references", "ten latest records"),
        "static profile": results.rows("references", "static_memory"),
    }
    lines, worth = [], {}
    for name, rows in arms.items():
        mean, worth[name] = means(rows), average([*recall_per_token(rows).values()])
        lines.append([name, f"{mean['recall@100']:.3f}", f"{mean['memory_tokens']:.0f}", f"{worth[name]:.3f}"])
    cost = {key: sum(part[key] for part in results.load("costs")) for key in ("global_s", "global", "local_s", "local")}
    lines.append(["index: global entries, CPU s", cost["global"], "", f"{cost['global_s']:.1f}"])
    lines.append(["index: local entries, CPU s", cost["local"], "", f"{cost['local_s']:.1f}"])
    ours = ", ".join(f"{name} {value:.2f}" for name, value in worth.items())
    best = max((name for name in worth if name != "MR.Rec"), key=worth.get)
    other = recall_per_token(arms[best])
    keys = {(row.seed, row.query): value for row, value in other.items()}
    gains = {row: value - keys[row.seed, row.query] for row, value in recall_per_token(arms["MR.Rec"]).items()}
    text, published = "most recall@100 per 100 memory tokens", ".299 at 95 tokens, .092 and .053"
    fair = TESTED, "all three read the same memory; of a ratio, the interval is that of its linear approximation"
    spent = f"{cost['global_s'] + cost['local_s']:.0f} CPU s for {cost['global'] + cost['local']:,} entries"
    why = "an extractive summarizer here, a large language model in the paper"
    claims = [
        results.judged(text, published, ours, interval_of(gains, text), fair),
        results.not_comparable("cost of the index", "2,435 s for 75,000 entries", spent, why),
    ]
    head = ("arm", "recall@100", "memory tokens", "recall per 100 tokens")
    return Exhibit("Table 4: what memory costs", head, lines, claims)


def recall_per_token(rows: Sequence[Row]) -> dict[Row, float]:
    """Return a number per row; their mean is R = 100 x mean recall@100 / mean memory tokens.

    The number of a row is R + (its 100 x recall@100 - R x its tokens) / mean tokens, the linear approximation of R.
    """
    recall = 100.0 * np.array([row.rank is not None and row.rank <= 100 for row in rows])
    tokens = np.array([row.memory_tokens for row in rows], dtype=float)
    ratio = recall.mean() / tokens.mean() if tokens.any() else np.nan
    return dict(zip(rows, ratio + (recall - ratio * tokens) / tokens.mean(), strict=True))


def fig4(results: Results) -> Exhibit:
    """Fig. 4: the learning curves of a warm start and of a plain start."""
    # start -> {column: mean over seeds for each step}, and {column: mean over the last five steps for each seed}
    mean, last = {}, {}
    for name, job in {"taught start": "grpo", "plain-text start": "plain_start"}.items():
        curves = [part["curve"] for part in results.load(job)]
        columns = curves[0][0]
        values = {key: np.array([[line[key] for line in one] for one in curves]) for key in columns}  # (seeds, steps)
        mean[name] = {key: value.mean(axis=0) for key, value in values.items()}
        last[name] = {key: value[:, -5:].mean(axis=1) for key, value in values.items()}
    rows = []
    for name, end in last.items():
        rewards = [f"{mean[name]['reward'][at]:.2f}" for at in (0, -1)]
        rows.append([name, *rewards, *(f"{end[key].mean():.2f}" for key in ("rewards/format/mean", "calls/mean"))])
    plain, taught = last["plain-text start"], last["taught start"]
    form, calls = plain["rewards/format/mean"], plain["calls/mean"]
    why = "our plain start has never read a control token that ends a turn; the paper's is a language model"
    never, ours = f"{calls.mean():.2f} calls per episode", f"{taught['reward'].mean():.2f} against "
    ours += f"{plain['reward'].mean():.2f}"
    silent = BUILT, "our plain start cannot write an answer, so no reward tells it anything"
    text, higher = "... but never learns to call memory", "the taught start ends at a higher reward"
    claims = [
        results.not_comparable("a plain start learns the format", "yes", f"{form.mean():.2f}", why),
        results.every_run(text, "no calls", never, calls <= 0.1, silent),
        results.every_run(higher, "yes", ours, taught["reward"] > plain["reward"], silent),
    ]
    head = ("start", "first reward", "last reward", "last format", "last calls")
    lines = tuple((name, columns["reward"].tolist()) for name, columns in mean.items())
    return Exhibit("Fig. 4: a plain start and a taught one", head, rows, claims, "", (), lines, ("step", "reward"))


def fig5(results: Results) -> Exhibit:
    """Fig. 5: other retrievers for memory and for items."""
    names = [f"{part}: {name}" for part in ("memory", "items") for name in RETRIEVERS]
    arms = {name: results.rows("retrievers", name) for name in names}
    worth = {
        "memory": (FOREIGN, "the policy was trained with both retrievers together; dense is LSA"),
        "items": (TESTED, "both search for the same profiles; dense is LSA"),
    }
    claims = [
        results.above(
            f"{part}: dense above BM25", "dense beats BM25", arms[f"{part}: dense (LSA)"], arms[f"{part}: BM25"], kind
        )
        for part, kind in worth.items()
    ]
    why = "no large encoder is run; benchmarks/quality.py has MiniLM and a static table"
    claims.append(results.not_comparable("Qwen3-Embedding above BGE-M3", "yes", "-", why))
    table, bars = results.table(arms), results.bars(arms)
    return Exhibit("Fig. 5: retrievers", QUALITY, table, claims, "", bars, axes=("", "nDCG@10"))


def fig6(results: Results) -> Exhibit:
    """Fig. 6: policies trained with 1 to 5 memories per call."""
    arms = {k: results.rows(f"k_{k}") for k in KS}
    mean = {k: means(rows)["ndcg@10"] for k, rows in arms.items()}
    best = max((k for k in KS if k != 3), key=mean.get)
    trained = TESTED, "each k has its own warm start and training"
    texts = {
        f"three memories per call are best (next: k = {best})": best,
        "k = 3 above k = 1": 1,
        "k = 3 above k = 5": 5,
    }
    claims = [results.above(text, "k = 3", arms[3], arms[k], trained) for text, k in texts.items()]
    rows = results.table({f"k = {k}": rows for k, rows in arms.items()})
    line = (("MR.Rec", list(mean.values())),)
    return Exhibit("Fig. 6: memories per call", QUALITY, rows, claims, "", (), line, ("memories per call", "nDCG@10"))


def fig7(results: Results) -> Exhibit:
    """Fig. 7: a worked episode, turn by turn."""
    one = results.load("worked_episode")[0]
    rows = [["query", one["query"]], *one["transcript"], ["profile", one["profile"]]]
    rows += [["memory" + (" (evidence)" if m["id"] in one["evidence"] else ""), m["text"]] for m in one["memories"]]
    rows += [["wanted", f"{one['wanted']}, at rank {one['rank']:.0f}"]]
    rows += [["recommended", title] for title in one["items"]]
    note = (
        "Chosen by rule: of the first seed's test queries with the most calls, the one whose target ranks best. It "
        "shows how an episode looks when it goes well, not how often it does."
    )
    return Exhibit("Fig. 7: a worked episode", ("", ""), rows, [], note)


MAKERS = dict(zip(EXHIBITS, (table1, fig3, table2, table3, table4, fig4, fig5, fig6, fig7), strict=True))


# --- running and writing ---------------------------------------------------------------------------------------------


def reproduce(plan: Plan, exhibits: Sequence[str] = EXHIBITS, workers: int = 1, say: Say = quiet) -> dict:
    """Run the missing jobs, then write reproduction.json, REPRODUCTION.md and one PNG per figure to `plan.out`.

    Returns the content of the JSON. Exhibits that an earlier call made are kept if its plan was the same and dropped if
    not (see `another_plan`); saved results of jobs are always kept. Raises DataError if another program wrote the
    existing reproduction.json.
    """
    run_jobs(plan, with_needs(job for name in exhibits for job in NEEDED[name]), workers, say)
    kept = {} if another_plan(plan) else _document(plan.out).get("exhibits", {})
    document = {**_about(plan), "exhibits": kept}
    for name in exhibits:
        results = Results(plan)
        exhibit = MAKERS[name](results)
        document["exhibits"][name] = {
            "title": exhibit.title,
            "head": list(exhibit.head),
            "rows": exhibit.rows,
            "note": exhibit.note,
            "claims": [asdict(claim) for claim in exhibit.claims],
            "picture": draw(exhibit, plan.out / f"{name}.png"),
            "code": sorted(results.code),
        }
    document["exhibits"] = {name: document["exhibits"][name] for name in EXHIBITS if name in document["exhibits"]}
    write_text(plan.out / REPRODUCTION, json.dumps(document, indent=1) + "\n")
    write_text(plan.out / "REPRODUCTION.md", as_markdown(document))
    return document


def results_of_other_code(plan: Plan, exhibits: Sequence[str]) -> str:
    """Say how many saved results that these exhibits read were made by other code; "" if none was."""
    codes = other_code(plan, with_needs(job for name in exhibits for job in NEEDED[name]))
    if not codes:
        return ""
    folder, parts = plan.result_path("", 0).parent, ", ".join(f"{count} by {code}" for code, count in codes.items())
    return f"saved results of other code are used ({parts}); to make them again, delete {folder}"


def another_plan(plan: Plan) -> str | None:
    """If `plan.out` holds a report from a different plan, return the command that produced it (the report
    is about to be overwritten). Raises DataError if another program wrote reproduction.json.
    """
    before, about = _document(plan.out), _about(plan)
    # the same plan can have another command, because the command contains the output folder
    same = all(before.get(name) == about[name] for name in about if name != "command")
    return before.get("command", "mrrec reproduce, an older version") if before and not same else None


def _about(plan: Plan) -> dict:
    """Return the first fields of reproduction.json, which describe the plan."""
    words = ["mrrec", "reproduce", "all", "--seeds", str(len(plan.seeds))]
    words += ["--data", str(plan.data)] * bool(plan.data) + ["--out", str(plan.out)] * (plan.out != Plan.out)
    return {
        "command": shlex.join(words + ["--fast"] * plan.fast),
        "data": str(plan.data) if plan.data else "world",
        "data_sha256": plan.digest,
        "seeds": list(plan.seeds),
        "fast": plan.fast,
    }


def _document(out: Path) -> dict:
    """Return the content of reproduction.json in a folder; {} if the file is missing. Raises DataError if `mrrec
    reproduce` did not write the file.
    """
    path = out / REPRODUCTION
    try:
        document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {**document, "exhibits": {**document["exhibits"]}} if document else {}
    except (ValueError, LookupError, TypeError) as error:
        what = f"`mrrec reproduce` did not write this ({shorten(str(error))}); move it away, or give another --out"
        raise DataError.at(path, None, None, what) from None


def draw(exhibit: Exhibit, path: Path) -> str | None:
    """Draw the bars or curves as a PNG and return its file name; None if there are none or matplotlib is missing."""
    if not exhibit.bars and not exhibit.curves:
        return None
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    if exhibit.bars:
        _draw_bars(axes, exhibit)
    else:
        for name, values in exhibit.curves:
            axes.plot(range(1, len(values) + 1), values, marker="." if len(values) < 20 else None, label=name)
        axes.set_xlabel(exhibit.axes[0])
        axes.set_ylabel(exhibit.axes[1])
        axes.legend(frameon=False)
    axes.set_title(exhibit.title)
    with replacing_file(path) as fresh:
        figure.savefig(fresh, dpi=110, format="png")
    return path.name


def _draw_bars(axes, exhibit: Exhibit) -> None:
    names, heights, _ = zip(*exhibit.bars, strict=True)
    axes.barh(names, heights, color="#4477aa")
    for row, (_, height, bounds) in enumerate(exhibit.bars):
        if bounds:
            axes.plot(bounds, [row, row], color="black", linewidth=1.5)
        end = bounds[1] if bounds else height
        axes.annotate(f"{height:.3f}", (end, row), (4, 0), textcoords="offset points", va="center")
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel(exhibit.axes[1])


def as_markdown(document: dict) -> str:
    """Return the text of REPRODUCTION.md."""
    data, seeds = document["data"], ", ".join(map(str, document["seeds"]))
    claims = [claim for exhibit in document["exhibits"].values() for claim in exhibit["claims"]]
    lines = [
        "# The paper's tables and figures, at our scale",
        "",
        f"`{document['command']}`: data {data}, seeds {seeds}. Choices were made on the shops of seeds 0 to 3, their "
        "test users included, and on none of these seeds.",
        code_line(document["exhibits"]),
        summary(claims),
        "Decoding is greedy, the whole pool is ranked, and all users are unseen in training. The 95 % intervals "
        "resample seeds and users; those of differences are paired.",
        "",
        *(f"- **{kind}**: {worth}" for kind, worth in WORTH.items()),
    ]
    if document["fast"]:
        lines += ["", "**Toy sizes: this shows that the code runs. The numbers mean nothing.**"]
    for exhibit in document["exhibits"].values():
        lines += ["", f"## {exhibit['title']}", "", *table_lines(exhibit["head"], exhibit["rows"])]
        if exhibit["note"]:
            lines += ["", exhibit["note"]]
        if exhibit["picture"]:
            lines += ["", f"![{exhibit['title']}]({exhibit['picture']})"]
        if claims := exhibit["claims"]:
            head = ("claim", "published", "ours", "95 %", "seeds", "verdict", "kind", "why")  # the fields of `Claim`
            shown = [{**c, "interval": spread(c["interval"]), "verdict": f"**{c['verdict']}**"} for c in claims]
            lines += ["", *table_lines(head, [list(claim.values()) for claim in shown])]
    return "\n".join(lines) + "\n"


def code_line(exhibits: Mapping[str, Mapping]) -> str:
    """Return a sentence with the version of the code that made the results; with several, which exhibits have which."""
    names: dict[str, list[str]] = {}
    for name, exhibit in exhibits.items():
        for code in exhibit.get("code", [UNKNOWN]):
            names.setdefault(code, []).append(name)
    if len(names) == 1:
        return f"The code version of all results is {next(iter(names))}."
    parts = "; ".join(f"{code} ({', '.join(of)})" for code, of in names.items())
    return f"**These results were made by several versions of the code:** {parts}."


def summary(claims: Sequence[dict]) -> str:
    """Return a sentence with the number of claims of each kind, and how many of them hold."""
    verdicts = {kind: [claim["verdict"] for claim in claims if claim["kind"] == kind] for kind in WORTH}
    parts = [f"{len(found)} are {kind} ({found.count(HOLDS)} hold)" for kind, found in verdicts.items()]
    return f"Of {len(claims)} claims, {', '.join(parts[:-1])}, and {len(verdicts[NOT_COMPARABLE])} are not comparable."


def table_lines(head: Sequence[str], rows: Sequence[Sequence]) -> list[str]:
    """Return the lines of a Markdown table. The texts are escaped, so that no text can leave its cell."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell(value) for value in line) + " |" for line in lines]


def cell(value: object) -> str:
    text = printable(str(value)).replace("|", "\\|")
    return text.replace("<", "&lt;").replace("\n", " ")
