"""The tables of an evaluation: one line per arm, 80 columns, and "-" for what was not run."""

import io

from rich.console import Console

from mrrec_mini.app.tables import arms_table


def shown(arms, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(arms_table(arms))
    return console.file.getvalue()


def numbers(**more) -> dict:
    return {"ndcg@10": 0.5, "interval": [0.4, 0.6], "recall@10": 0.7, "format": 1.0, "calls": 0.0, **more}


def test_each_arm_has_a_line():
    text = shown({"query_only": numbers(), "grpo": numbers(aspects_right=2.0, aspects_that_matter=3.0)})
    assert "\nquery_only " in text and "\ngrpo " in text
    assert "2.0 of 3.0" in text and "0.500 0.400..0.600" in text


def test_what_was_not_run_is_a_dash():
    """Only sampled, only on held-out categories, no interval, nothing at all."""
    assert "grpo" in shown({"grpo": {"sampled": numbers()}})
    assert "oracle" in shown({"oracle": {"held": numbers(interval=None)}})
    assert shown({})


def test_with_the_prior_there_is_a_second_table_and_an_empty_column_is_left_out():
    """An arm that was not tried with the prior is not in the second table."""
    text = shown({"popularity": numbers(), "query_only": numbers(with_prior=numbers(**{"ndcg@10": 0.7}))})
    first, second = text.split("with the item prior in the score")
    second, third = second.split("what they did")
    assert "popularity" in first and "popularity" not in second and "popularity" in third
    assert "0.500 0.400..0.600" in first and "0.700 0.400..0.600" in second
    assert (
        "sampled" not in text and "grpo minus it" not in text and "with the item prior" not in shown({"a": numbers()})
    )


def test_the_widest_numbers_fit():
    """Every cell at its widest: the longest arm, with intervals and a negative difference everywhere."""
    widest = {"ndcg@10": 0.123, "interval": [0.123, 0.456]}
    widest |= {"grpo_minus": {"ndcg@10": -0.123, "interval": [-0.456, -0.123]}}
    widest |= {"recall@10": 1.0, "format": 1.0, "calls": 3.0, "memory_tokens": 1234.0}
    widest |= {"aspects_right": 10.0, "aspects_that_matter": 10.0}
    part = widest | {"sampled": widest}
    text = shown({"warm_start_all_calls": part | {"held": part}})
    assert text.count("0.123 0.123..0.456") == 4 and text.count("-.123 -.456..-.123") == 2
    assert "10.0 of 10.0" in text and max(map(len, text.split("\n"))) <= 80
