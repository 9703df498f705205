"""The check of `predict_mask`; the answers are computed with the package's grammar."""

from adapters import expect_predictions

from mrrec_mini.datatypes import MemoryEntry
from mrrec_mini.grammar import CONTROL, Grammar
from mrrec_mini.models.causal_lm import WordTokenizer


def mask() -> list[int]:
    grammar = Grammar(WordTokenizer(CONTROL, ("mug", "for", "hiking", "price", "luxury")))
    line = MemoryEntry("g", None, "global", "mug price")
    given = grammar.prompt("mug for hiking", [line])
    search = grammar.write_search("price", "mug price")
    reply = grammar.reply([MemoryEntry("m", "u", "pattern", "mug price luxury")], 0)
    final = grammar.write_final("luxury", "mug luxury", [0])
    return [0] * len(given) + [1] * len(search) + [0] * len(reply) + [1] * len(final)


def check(answer) -> None:
    written = [n for n, one in enumerate(mask()) if one]
    right = {
        "FIRST_WRITTEN": (written[0], "The prompt is given. It ends with the last line of global memory."),
        "WRITTEN": (len(written), "There are two stretches: from a <think> to </search>, and from a <think> to <end>."),
        "LUXURY": (
            [n for n in (18, 21, 24) if n in written],
            "One of the three came from the tool, and the policy only read it.",
        ),
        "SCORED_BY": (
            19,
            "The column before scores it: the policy attends to its whole context, even to tokens without a loss.",
        ),
        "DIVISOR": (len(written), "The rule counts the sampled tokens; nothing else is in the sum."),
    }
    expect_predictions(answer, right)


WRONG = {
    "the prompt is written": {"FIRST_WRITTEN": 0},
    "memory is written": {"WRITTEN": 20},
    "the same word everywhere": {"LUXURY": [18, 21, 24]},
    "its own column": {"SCORED_BY": 20},
    "all tokens": {"DIVISOR": 28},
}
