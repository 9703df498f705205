"""Tables that show an evaluation in a terminal 80 columns wide.

Flow: after `evaluate`: `mrrec demo` and `mrrec evaluate` print its `report_dict` with these tables. Each table has one
line per arm. The first table shows how well each arm ranks, the second, on real data, how well with the item prior
(`prior`), whose weights were tuned for each arm on validation users, the last what each arm did. Equations: none.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE
from rich.console import Group as Tables
from rich.table import Table

from mrrec_mini.evaluate import SAMPLED


def arms_table(arms: Mapping[str, Mapping]) -> Tables:
    """Return the result of `report_dict` as tables: quality (also with the prior, held out, if tried), behaviour."""
    tables = [quality_table(arms, "nDCG@10 over the whole pool, unseen users, 95 % interval")]
    if prior := {arm: numbers["with_prior"] for arm, numbers in arms.items() if "with_prior" in numbers}:
        tables.append(quality_table(prior, "the same, with the item prior in the score"))
    if held := {arm: numbers["held"] for arm, numbers in arms.items() if "held" in numbers}:
        tables.append(quality_table(held, "the same, in categories that no training query named"))
    spaced = [part for table in (*tables, behaviour_table(arms)) for part in (table, "")]
    return Tables(*spaced[:-1])


def quality_table(arms: Mapping[str, Mapping], title: str) -> Table:
    """Return a table: nDCG@10 (a policy plays greedily), nDCG@10 when sampled, and greedy GRPO minus the arm.

    A column in which no arm has a value is left out.
    """
    columns = {
        "nDCG@10": [with_interval(numbers) for numbers in arms.values()],
        "sampled": [with_interval(numbers.get(SAMPLED)) for numbers in arms.values()],
        "grpo minus it": [with_interval(numbers.get("grpo_minus"), "+") for numbers in arms.values()],
    }
    columns = {name: cells for name, cells in columns.items() if set(cells) != {"-"}}
    table = plain_table(title, *columns)
    for row in zip(arms, *columns.values(), strict=True):
        table.add_row(*row)
    return table


def behaviour_table(arms: Mapping[str, Mapping]) -> Table:
    """Return a table of what each arm did. A policy was played greedily."""
    table = plain_table("what they did", "recall@10", "format", "calls", "memory tokens", "right aspects")
    forms = {"recall@10": ".3f", "format": ".2f", "calls": ".1f", "memory_tokens": ".0f"}
    for arm, numbers in arms.items():
        cells = ["-" if numbers.get(name) is None else f"{numbers[name]:{form}}" for name, form in forms.items()]
        right, matter = numbers.get("aspects_right"), numbers.get("aspects_that_matter")
        table.add_row(arm, *cells, "-" if None in (right, matter) else f"{right:.1f} of {matter:.1f}")
    return table


def plain_table(title: str, *names: str) -> Table:
    """Return an empty table without a frame. It has one column for the arm and one per name, two spaces apart."""
    plain = {"box": SIMPLE, "show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0)}
    table = Table(title=title, title_justify="left", min_width=len(title), **plain)  # the title stays on one line
    table.add_column("arm", overflow="fold")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    return table


def with_interval(numbers: Mapping | None, sign: str = "") -> str:
    """Return `0.412 0.388..0.437`, or with `sign` "+" (a difference) `+.012 -.003..+.027`; "-" if there is no value."""
    if not numbers or "ndcg@10" not in numbers:
        return "-"
    values = [numbers["ndcg@10"], *(numbers["interval"] or ())]
    texts = [f"{value:{sign}.3f}" for value in values]
    if sign:
        texts = [text.replace("0.", ".", 1)[:5] for text in texts]  # +.123 and +1.00: all have the same width
    return " ".join([texts[0], "..".join(texts[1:])]).strip()
