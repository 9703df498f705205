"""Reproduce every table and figure of the paper at our scale, with a verdict on each of the paper's claims.

Flow: after everything else. An exhibit is a table or figure; its function reads the results of `jobs` and returns its
rows and claims. `reproduce` runs the jobs that have no result yet, then writes JSON, Markdown and pictures.

    table1  which arm recommends best       fig3  what each part brings      table2  levels of local memory
    table3  does retrieved memory help      table4  what memory costs        fig4  a plain start and a taught one
    fig5  retrievers                        fig6  memories per call          fig7  a worked episode

Equations: none of its own; Recall and nDCG are those of `metrics`, MPC and MRC those of `counterfactual`.

Verdicts. A claim "A above B" holds if the 95 % interval of the paired difference lies above 0. Otherwise it does not
hold, and the reason says whether the difference is below 0 or cannot be told from 0. A claim that we cannot test at our
scale (e.g. about an LLM judge or the hours of a large model) is "not comparable", with the reason. Decoding is greedy,
all items are ranked, and the queries are those of unseen users on familiar categories. The intervals resample
seeds and users (see `evaluate`), so the intervals of one seed do not include the variation between seeds.

Departures from the paper: those of `jobs`. "Taught start" is the warm start.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mrrec_mini.app.jobs import KS, LEVELS, RETRIEVERS, Plan, run_jobs, with_needs
from mrrec_mini.data import DataError, printable, shorten
from mrrec_mini.evaluate import Row, difference, interval, means, ndcg_10
from mrrec_mini.files import replacing_file, write_text
from mrrec_mini.recipe import Say, quiet

REPRODUCTION = "reproduction.json"
HOLDS, FAILS, NOT_COMPARABLE = "holds", "does not hold", "not comparable"
KINDS = ("no memory", "naive memory", "static memory")
REC_R1 = dict(zip(KINDS, ("rec_r1", "rec_r1_naive", "rec_r1_static"), strict=True))  # kind -> job
PUBLISHED = {  # the paper's nDCG@10 in Table 1; "policy without learning" is Qwen2.5-3B, with memory GPT-4o
    **{"Rec-R1, no memory": ".071", "Rec-R1, naive memory": ".075", "Rec-R1, static memory": ".069"},
    "BLaIR, no memory": ".040",
    "policy without learning, no memory": ".065",
    "policy without learning, naive memory": ".072",
    "policy without learning, static memory": ".065",
}
NEEDED = {  # exhibit -> the jobs that it reads
    "table1": ("references", "blair", *REC_R1.values(), "given_memory", "start", "grpo"),
    "fig3": ("grpo", "no_global", "no_local", "start"),
    "table2": ("grpo", "no_local", *LEVELS),
    "table3": ("contributions",),
    "table4": ("references", "grpo", "costs"),
    "fig4": ("grpo", "plain_start"),
    "fig5": ("retrievers",),
    "fig6": ("memories_per_call",),
    "fig7": ("worked_episode",),
}
EXHIBITS = tuple(NEEDED)
QUALITY = ("arm", "nDCG@10", "95 %", "nDCG@100", "recall@10", "recall@100", "calls", "memory tokens")


# --- what an exhibit is made of --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, the published number, our number, and the verdict."""

    text: str
    published: str
    ours: str
    interval: list[float] | None  # [low, high] of the difference; None if the claim is not about a paired difference
    seeds: int
    verdict: str  # HOLDS, FAILS or NOT_COMPARABLE
    why: str = ""


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


class Results:
    """Reads the saved results of a plan's jobs, all seeds together, and makes table rows and claims from them."""

    def __init__(self, plan: Plan):
        self.plan = plan

    def load(self, job: str) -> list[dict]:
        """Return the results of a job, one per seed."""
        return [json.loads(self.plan.result_path(job, seed).read_text(encoding="utf-8")) for seed in self.plan.seeds]

    def rows(self, job: str, arm: str | None = None) -> list[Row]:
        """Return the test rows of a job: those of `arm`, or of all arms if it is None."""
        rows = [Row(**row) for result in self.load(job) for row in result["rows"]]
        return [row for row in rows if row.part == "test" and (arm is None or row.arm == arm)]

    def interval(self, rows: Sequence[Row]) -> list[float] | None:
        """Return the 95 % interval of the mean nDCG@10 of an arm, or None for fewer than two users."""
        return interval([ndcg_10(row) for row in rows], rows, ("mean", rows[0].arm))

    def quality(self, name: str, rows: Sequence[Row]) -> list[str]:
        """Return one row of a table whose columns are QUALITY."""
        mean, bounds = means(rows), self.interval(rows)
        values = [f"{mean[key]:.3f}" for key in ("ndcg@100", "recall@10", "recall@100")]
        values += [f"{mean['calls']:.1f}", f"{mean['memory_tokens']:.0f}"]
        return [name, f"{mean['ndcg@10']:.3f}", spread(bounds), *values]

    def table(self, arms: Arms) -> list[list[str]]:
        return [self.quality(name, rows) for name, rows in arms.items()]

    def bars(self, arms: Arms) -> tuple:
        return tuple((name, means(rows)["ndcg@10"], self.interval(rows)) for name, rows in arms.items())

    def above(self, text: str, published: str, new: Sequence[Row], old: Sequence[Row]) -> Claim:
        """Return the claim that `new` has a higher nDCG@10 than `old`, with its verdict."""
        gain = difference(new, old, ("difference", new[0].arm, old[0].arm))
        low, high = gain["interval"] or (-np.inf, np.inf)
        verdict = HOLDS if low > 0 else FAILS
        why = "" if low > 0 else "it is below" if high < 0 else "the difference cannot be told from 0"
        ours = f"{means(new)['ndcg@10']:.3f} against {means(old)['ndcg@10']:.3f}, {gain['ndcg@10']:+.3f}"
        return Claim(text, published, ours, gain["interval"], len(self.plan.seeds), verdict, why)

    def claim(self, text: str, published: str, ours: str, holds: bool | None, why: str = "") -> Claim:
        """Return a claim that is not about a paired difference. If `holds` is None, the claim is not comparable."""
        verdict = {True: HOLDS, False: FAILS, None: NOT_COMPARABLE}[holds]
        return Claim(text, published, ours, None, len(self.plan.seeds), verdict, why)


def spread(bounds: Sequence[float] | None) -> str:
    return f"{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else "-"


def average(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


# --- the exhibits ----------------------------------------------------------------------------------------------------


def table1(results: Results) -> Exhibit:
    """Table 1: every arm, from the simplest to MR.Rec, then the upper bounds."""
    arms = table1_arms(results)
    ours = arms["MR.Rec"]
    others = {name: rows for name, rows in arms.items() if name != "MR.Rec" and not name.startswith("(")}
    best = max(others, key=lambda name: means(others[name])["ndcg@10"])
    text = f"MR.Rec above the best other arm ({best}), nDCG@10"
    claims = [results.above(text, ".084 against .075", ours, others[best])]
    for name, published in PUBLISHED.items():
        claims.append(results.above(f"MR.Rec above {name}", f".084 against {published}", ours, arms[name]))
    published = "N@10 .084, N@100 .113, R@10 .122, R@100 .270"
    why = "another pool (a few thousand items instead of a million), other queries, other models"
    claims.append(results.claim("absolute numbers", published, results.quality("", ours)[1], None, why))
    note = "In parentheses: upper bounds that know what matters to the user; they do not compete."
    return Exhibit("Table 1: which arm recommends best", QUALITY, results.table(arms), claims, note)


def table1_arms(results: Results) -> Arms:
    """Return {name: rows} of Table 1. Upper bounds have names in parentheses; they exist if the truth is known."""
    references = lambda name: results.rows("references", name)  # noqa: E731
    arms = {name: references(name) for name in ("popularity", "neighbours", "BM25 of the query", "dense, of the query")}
    arms |= {f"BLaIR, {kind}": results.rows("blair", f"BLaIR, {kind}") for kind in KINDS}
    arms |= {f"Rec-R1, {kind}": results.rows(job) for kind, job in REC_R1.items()}
    arms |= {"query + latest records": references("naive_memory"), "query + profile": references("static_memory")}
    for policy in ("policy without learning", "MR.Rec's policy"):
        arms |= {f"{policy}, {kind}": results.rows("given_memory", f"{policy}, {kind}") for kind in KINDS}
    arms |= {"policy without learning, own look-ups": results.rows("start"), "MR.Rec": results.rows("grpo")}
    bounds = {f"({name})": references(name) for name in ("expert", "oracle")}
    return arms | {name: rows for name, rows in bounds.items() if rows}


def fig3(results: Results) -> Exhibit:
    """Fig. 3: MR.Rec, and MR.Rec without one of its parts."""
    removed = {"without global memory": "no_global", "without local memory": "no_local", "without RL": "start"}
    arms = {name: results.rows(job) for name, job in {"MR.Rec": "grpo", **removed}.items()}
    full, published = arms["MR.Rec"], "every removal hurts"
    claims = [results.above(f"MR.Rec above MR.Rec {name}", published, full, arms[name]) for name in removed]
    mean = {name: means(rows)["ndcg@10"] for name, rows in arms.items()}
    lowest = min(mean, key=mean.get)
    ours, why = ", ".join(f"{name} {value:.3f}" for name, value in mean.items()), f"{lowest} is lowest"
    claims.append(results.claim("removing RL hurts most", "RL most", ours, lowest == "without RL", why))
    title = "Fig. 3: what each part brings"
    return Exhibit(title, QUALITY, results.table(arms), claims, "", results.bars(arms), axes=("", "nDCG@10"))


def table2(results: Results) -> Exhibit:
    """Table 2: MR.Rec with one level of local memory, with none, and with all."""
    arms = {"none": results.rows("no_local"), **{name: results.rows(name) for name in LEVELS}}
    arms["all"] = results.rows("grpo")
    published = {"none": ".069", "record": ".079", "pattern": ".079", "profile": ".080", "all": ".084"}
    pairs = [(f"{name} above none", name, "none") for name in (*LEVELS, "all")]
    pairs += [(f"all levels above {name} alone", "all", name) for name in LEVELS]
    claims = [
        results.above(text, f"{published[new]} against {published[old]}", arms[new], arms[old])
        for text, new, old in pairs
    ]
    note = "`none` was warm-started and trained without a memory tool; the others share one warm start per seed."
    return Exhibit("Table 2: levels of local memory", QUALITY, results.table(arms), claims, note)


def table3(results: Results) -> Exhibit:
    """Table 3: how often retrieved memories share keywords with profile and item, and what changes without them."""
    parts = results.load("contributions")
    overlap = [one for part in parts for one in part["overlap"]]
    removed = {kind: [one for part in parts for one in part["removed"][kind]] for kind in parts[0]["removed"]}
    share = {  # mean over the episodes that have a value
        (kind, name): average([one[name] for one in overlap if one["kind"] == kind and one[name] is not None])
        for kind in ("global", "local")
        for name in ("mpc", "mrc")
    }
    rows = [[f"{kind}: {name.upper()}, keywords", f"{value:.3f}", "", ""] for (kind, name), value in share.items()]
    changed = {kind: average([one["profile_changed"] for one in changes]) for kind, changes in removed.items()}
    for kind, changes in removed.items():
        if changes:
            better = average([one["rank_after"] < one["rank_before"] for one in changes])
            worse = average([one["rank_after"] > one["rank_before"] for one in changes])
            rows.append([f"removed: {kind} ({len(changes)})", f"{changed[kind]:.3f}", f"{worse:.3f}", f"{better:.3f}"])

    mpc, mrc = share["local", "mpc"], share["local", "mrc"]
    both = f"{share['global', 'mpc']:.2f} and {share['global', 'mrc']:.2f}"
    why = "here a line is a category and the name of an aspect, in the paper it is a description"
    criterion = "our criterion: 0.5 or more"
    judge = "no LLM judge is run; the counterfactual replaces it"
    often = "withholding a memory changes the profile more often if it was named as evidence"
    named, other = changed["named as evidence"], changed["retrieved, not named"]
    claims = [
        ("local memory shares keywords with the profile (MPC)", ".94", f"{mpc:.2f}", mpc >= 0.5, criterion),
        ("... and less with the right item (MRC)", ".47", f"{mrc:.2f}", mrc < mpc),
        ("global memory: MPC and MRC", ".96 and .90", both, None, why),
        ("a judge agrees", "similar", "-", None, judge),
        (often, "-", f"{named:.2f} against {other:.2f}", named > other),
    ]
    head = ("", "value, or share of changed profiles", "target falls", "target rises")
    return Exhibit("Table 3: does memory contribute?", head, rows, [results.claim(*claim) for claim in claims])


def table4(results: Results) -> Exhibit:
    """Table 4: recall per memory token, and the cost of building memory."""
    arms = {
        "MR.Rec": results.rows("grpo"),
        "ten latest records": results.rows("references", "ten latest records"),
        "static profile": results.rows("references", "static_memory"),
    }
    lines, worth = [], {}
    for name, rows in arms.items():
        mean = means(rows)
        worth[name] = 100 * mean["recall@100"] / mean["memory_tokens"] if mean["memory_tokens"] else float("nan")
        lines.append([name, f"{mean['recall@100']:.3f}", f"{mean['memory_tokens']:.0f}", f"{worth[name]:.3f}"])
    cost = {key: sum(part[key] for part in results.load("costs")) for key in ("global_s", "global", "local_s", "local")}
    lines.append(["index: global entries, CPU s", cost["global"], "", f"{cost['global_s']:.1f}"])
    lines.append(["index: local entries, CPU s", cost["local"], "", f"{cost['local_s']:.1f}"])
    ours = ", ".join(f"{name} {value:.2f}" for name, value in worth.items())
    best = worth["MR.Rec"] == max(worth.values())
    spent = f"{cost['global_s'] + cost['local_s']:.0f} CPU s for {cost['global'] + cost['local']:,} entries"
    why = "an extractive summarizer here, a large language model in the paper"
    claims = [
        results.claim("most recall@100 per 100 memory tokens", ".299 at 95 tokens, .092 and .053", ours, best),
        results.claim("cost of the index", "2,435 s for 75,000 entries", spent, None, why),
    ]
    head = ("arm", "recall@100", "memory tokens", "recall per 100 tokens")
    return Exhibit("Table 4: what memory costs", head, lines, claims)


def fig4(results: Results) -> Exhibit:
    """Fig. 4: the learning curves of a warm start and of a plain start."""
    mean, last = {}, {}  # start -> {column: mean over seeds for each step}, and over the last five steps
    for name, job in {"taught start": "grpo", "plain-text start": "plain_start"}.items():
        curves = [part["curve"] for part in results.load(job)]
        columns = curves[0][0]
        mean[name] = {key: np.mean([[line[key] for line in one] for one in curves], axis=0) for key in columns}
        last[name] = {key: float(values[-5:].mean()) for key, values in mean[name].items()}
    rows = []
    for name, end in last.items():
        rewards = [f"{mean[name]['reward'][at]:.2f}" for at in (0, -1)]
        rows.append([name, *rewards, f"{end['rewards/format/mean']:.2f}", f"{end['calls/mean']:.2f}"])
    plain, taught = last["plain-text start"], last["taught start"]
    form, calls = plain["rewards/format/mean"], plain["calls/mean"]
    why = "it has never read a control token that ends a turn; without an answer there is no reward to learn from"
    never, ours = f"{calls:.2f} calls per episode", f"{taught['reward']:.2f} against {plain['reward']:.2f}"
    claims = [
        results.claim("a plain start learns the format", "yes", f"{form:.2f}", form >= 0.9, why),
        results.claim("... but never learns to call memory", "no calls", never, calls <= 0.1),
        results.claim("the taught start ends at a higher reward", "yes", ours, taught["reward"] > plain["reward"]),
    ]
    head = ("start", "first reward", "last reward", "last format", "last calls")
    lines = tuple((name, columns["reward"].tolist()) for name, columns in mean.items())
    return Exhibit("Fig. 4: a plain start and a taught one", head, rows, claims, "", (), lines, ("step", "reward"))


def fig5(results: Results) -> Exhibit:
    """Fig. 5: other retrievers for memory and for items."""
    parts = ("memory", "items")
    names = [f"{part}: {name}" for part in parts for name in RETRIEVERS]
    arms = {name: results.rows("retrievers", name) for name in names}
    pairs = {part: (arms[f"{part}: dense (LSA)"], arms[f"{part}: BM25"]) for part in parts}
    claims = [results.above(f"{part}: dense above BM25", "dense beats BM25", *pairs[part]) for part in parts]
    why = "no large encoder is run; benchmarks/quality.py has MiniLM and a static table"
    claims.append(results.claim("Qwen3-Embedding above BGE-M3", "yes", "-", None, why))
    table, bars = results.table(arms), results.bars(arms)
    return Exhibit("Fig. 5: retrievers", QUALITY, table, claims, "", bars, axes=("", "nDCG@10"))


def fig6(results: Results) -> Exhibit:
    """Fig. 6: the trained policy with 1 to 5 memories per call."""
    arms = {k: results.rows("memories_per_call", f"k = {k}") for k in KS}
    mean = {k: means(rows)["ndcg@10"] for k, rows in arms.items()}
    best = max(mean, key=mean.get)
    ours = f"k = {best} ({mean[best]:.3f}; k = 3: {mean[3]:.3f})"
    why = "the policy was trained with k = 3, which favours it" if best == 3 else f"k = {best} is higher here"
    claims = [
        results.claim("three memories per call are best", "k = 3", ours, best == 3, why),
        results.above("k = 3 above k = 1", "yes", arms[3], arms[1]),
        results.above("k = 3 above k = 5", "yes", arms[3], arms[5]),
    ]
    rows = results.table({f"k = {k}": rows for k, rows in arms.items()})
    note = "The policy was trained with k = 3; the other numbers of memories are only evaluated."
    line = (("MR.Rec", list(mean.values())),)
    return Exhibit("Fig. 6: memories per call", QUALITY, rows, claims, note, (), line, ("memories per call", "nDCG@10"))


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
    results = Results(plan)
    kept = {} if another_plan(plan) else _document(plan.out).get("exhibits", {})
    document = {**_about(plan), "exhibits": kept}
    for name in exhibits:
        exhibit = MAKERS[name](results)
        document["exhibits"][name] = {
            "title": exhibit.title,
            "head": list(exhibit.head),
            "rows": exhibit.rows,
            "note": exhibit.note,
            "claims": [asdict(claim) for claim in exhibit.claims],
            "picture": draw(exhibit, plan.out / f"{name}.png"),
        }
    document["exhibits"] = {name: document["exhibits"][name] for name in EXHIBITS if name in document["exhibits"]}
    write_text(plan.out / REPRODUCTION, json.dumps(document, indent=1) + "\n")
    write_text(plan.out / "REPRODUCTION.md", as_markdown(document))
    return document


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
    verdicts = [claim["verdict"] for exhibit in document["exhibits"].values() for claim in exhibit["claims"]]
    hold, fail, other = (verdicts.count(verdict) for verdict in (HOLDS, FAILS, NOT_COMPARABLE))
    lines = [
        "# The paper's tables and figures, at our scale",
        "",
        f"`{document['command']}`: data {data}, seeds {seeds}.",
        f"Of {len(verdicts)} claims, {hold} hold, {fail} do not hold, and {other} are not comparable.",
        "Decoding is greedy, the whole pool is ranked, and all users are unseen in training. The 95 % intervals are "
        "bootstraps; those of differences are paired.",
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
            head = ("claim", "published", "ours", "95 %", "seeds", "verdict", "why")  # the fields of `Claim`
            shown = [{**c, "interval": spread(c["interval"]), "verdict": f"**{c['verdict']}**"} for c in claims]
            lines += ["", *table_lines(head, [list(claim.values()) for claim in shown])]
    return "\n".join(lines) + "\n"


def table_lines(head: Sequence[str], rows: Sequence[Sequence]) -> list[str]:
    """Return the lines of a Markdown table. The texts are escaped, so that no text can leave its cell."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell(value) for value in line) + " |" for line in lines]


def cell(value: object) -> str:
    text = printable(str(value)).replace("|", "\\|")
    return text.replace("<", "&lt;").replace("\n", " ")
