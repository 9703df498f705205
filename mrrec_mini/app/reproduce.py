"""Each table and figure of the paper at our scale, and for each of its claims whether it holds here.

Flow: after everything else. An exhibit is a function that reads what the jobs of `jobs` found and says rows and
claims; `reproduce` runs the jobs that are missing and writes JSON, Markdown and pictures.

    table1  which arm recommends best       fig3  what each part brings      table2  levels of local memory
    table3  does what is retrieved help     table4  what memory costs        fig4  a plain start and a taught one
    fig5  retrievers                        fig6  memories a call            fig7  a worked episode

Equations: none of its own; Recall and nDCG of `metrics`, MPC and MRC of `counterfactual`.

Verdicts. A claim "A above B" holds where the 95 % interval of the paired difference lies above 0; else it does not
hold, and the reason says whether the difference is below 0 or cannot be told from it. Where our scale has no
counterpart (a judge, hours of a large model) it is "not comparable", with the reason. Greedy decoding, the whole pool
ranked, queries of unseen users on familiar categories; intervals are over queries drawn anew and do not cover the
spread of seeds.

Departures from the paper: those of `jobs`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mrrec_mini.app.jobs import KS, LEVELS, RETRIEVERS, Plan, run_jobs, with_needs
from mrrec_mini.data import DataError, printable, shorten
from mrrec_mini.evaluate import Row, difference, interval, means, ndcg_10
from mrrec_mini.recipe import Say, quiet

EXHIBITS = ("table1", "fig3", "table2", "table3", "table4", "fig4", "fig5", "fig6", "fig7")
REPRODUCTION = "reproduction.json"
HOLDS, FAILS, NOT_COMPARABLE = "holds", "does not hold", "not comparable"
KINDS = ("no memory", "naive memory", "static memory")
REC_R1 = dict(zip(KINDS, ("rec_r1", "rec_r1_naive", "rec_r1_static"), strict=True))
PUBLISHED = {  # nDCG@10, Table 1; "a model as it is": Qwen2.5-3B, and GPT-4o where it has memory
    **{"Rec-R1, no memory": ".071", "Rec-R1, naive memory": ".075", "Rec-R1, static memory": ".069"},
    "BLaIR, no memory": ".040",
    "policy without learning, no memory": ".065",
    "policy without learning, naive memory": ".072",
    "policy without learning, static memory": ".065",
}
NEEDED = {
    "table1": ("references", "blair", *REC_R1.values(), "given_memory", "start", "grpo"),
    "fig3": ("grpo", "no_global", "no_local", "start"),
    "table2": ("grpo", "no_local", *LEVELS),
    "table3": ("contributions",),
    "table4": ("references", "grpo", "costs"),
    "fig4": ("grpo", "plain_start"),
    "fig5": ("retrievers",),
    "fig6": ("memories_a_call",),
    "fig7": ("worked_episode",),
}


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
        **{f"BLaIR, {kind}": found.rows("blair", f"BLaIR, {kind}") for kind in KINDS},
        **{f"Rec-R1, {kind}": found.rows(job) for kind, job in REC_R1.items()},
        "query + latest records": found.rows("references", "naive_memory"),
        "query + profile": found.rows("references", "static_memory"),
    }
    for who in ("policy without learning", "MR.Rec's policy"):
        for kind in KINDS:
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
        *(
            found.above(f"MR.Rec above {name}", f".084 against {published}", ours, arms[name])
            for name, published in PUBLISHED.items()
        ),
    ]
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
        found.said(
            "a plain start learns the format",
            "yes",
            f"{plain['rewards/format/mean']:.2f}",
            plain["rewards/format/mean"] >= 0.9,
            "it has read words and never a sign that ends a turn; without an answer there is no reward to learn from",
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
            "three memories a call are best",
            "k = 3",
            f"k = {best} ({mean[best]:.3f}; k = 3: {mean[3]:.3f})",
            best == 3,
            "the policy learned with 3, which speaks for it" if best == 3 else f"k = {best} is higher here",
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

    What was reproduced before with the same plan stays in the document; that of another plan is replaced
    (`another_plan`), and can be made again from the findings that are kept. Returns it.
    """
    run_jobs(plan, with_needs(job for name in exhibits for job in NEEDED[name]), workers, say)
    found = Findings(plan)
    before, about = _document(plan.out), _about(plan)
    document = {**about, "exhibits": before["exhibits"] if _of_one_plan(before, about) else {}}
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
    write_whole(plan.out / REPRODUCTION, json.dumps(document, indent=1) + "\n")
    write_whole(plan.out / "REPRODUCTION.md", as_markdown(document))
    return document


def another_plan(plan: Plan) -> str | None:
    """The command that made what is in `plan.out`, where that is of another plan and will be replaced."""
    before = _document(plan.out)
    if not before or _of_one_plan(before, _about(plan)):
        return None
    return before.get("command", "mrrec reproduce, an older version")


def _of_one_plan(before: dict, about: dict) -> bool:
    return all(before.get(name) == about[name] for name in about if name != "command")  # wherever it was written


def _about(plan: Plan) -> dict:
    """What a document is of: only exhibits of one plan stand together."""
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
    """What was reproduced before; empty where nothing was. DataError: the file is none of ours."""
    path = out / REPRODUCTION
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {**found, "exhibits": {**found["exhibits"]}} if found else {}
    except (ValueError, LookupError, TypeError) as error:
        what = f"not what `mrrec reproduce` writes ({shorten(str(error))}); move it away, or give another --out"
        raise DataError.at(path, None, None, what) from None


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
            end = bounds[1] if bounds else height
            axes.annotate(f"{height:.3f}", (end, row), (4, 0), textcoords="offset points", va="center")
        axes.margins(x=0.12)
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
    claims = [claim for exhibit in document["exhibits"].values() for claim in exhibit["claims"]]
    hold, fail, other = (sum(c["verdict"] == v for c in claims) for v in (HOLDS, FAILS, NOT_COMPARABLE))
    lines = [
        "# The paper's tables and figures, at our scale",
        "",
        f"`{document['command']}`: data {data}, seeds {seeds}.",
        f"Of {len(claims)} claims {hold} hold, {fail} do not hold, {other} are not comparable.",
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
