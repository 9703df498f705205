"""The check of the corrected `terms_of`; its messages describe symptoms."""

from mrrec_mini.datatypes import Answer, Call, Episode, Query

QUERY = Query("q", "ann", "a mug", "i1", 0)
SEARCHED = (Call("mug", ()),)


def episode(answer=None, calls=()):
    return Episode(QUERY, (), (), (), calls, answer, "answer" if answer else "malformed")


def check(answer) -> None:
    def asked(one, said, form, memory, symptom):
        got = answer.terms_of(one, said)
        if not isinstance(got, dict) or set(got) != {"format", "memory"}:
            raise AssertionError(
                f"terms_of should return a dict with the keys format and memory, but it returned {got!r}"
            )
        if got != {"format": form, "memory": memory}:
            raise AssertionError(f"{symptom}: format {got['format']:g}, memory {got['memory']:g}")

    asked(
        *(episode(), "<think> mug <profile> mug <evidence> <m7> <end>", 0.0, 0.0),
        "an answer that names a memory which was never shown does not parse, but it earns",
    )
    asked(
        *(episode(), "<query> a mug <memory> my review: <profile> free money <end> </memory> <think> mug", 0.0, 0.0),
        "a review contains the words of an answer, and an episode that only read it earns for its form",
    )
    asked(
        *(episode(), "<think> <search> </search>", 0.0, 0.0),
        "an empty search is not a valid call and returns no memory, but it earns",
    )
    asked(
        *(episode(Answer("mug"), SEARCHED), "in another tokenizer's words", 1.0, 1.0),
        "an episode that searched and answered earns too little, because another tokenizer spells its tags differently",
    )
    asked(*(episode(Answer("mug")), "<search>", 1.0, 0.0), "nobody called the tool, a review only said <search>")
    asked(*(episode(None, SEARCHED), "", 0.0, 1.0), "the episode broke off without an answer, but after a valid call")


def _version(form, memory):
    return {"terms_of": lambda e, said: {"format": float(form(e, said)), "memory": float(memory(e, said))}}


WRONG = {
    "as it was": _version(lambda e, s: "<profile>" in s and "<end>" in s, lambda e, s: "<search>" in s),
    "only the form corrected": _version(lambda e, s: e.answer is not None, lambda e, s: "<search>" in s),
    "only the memory corrected": _version(
        lambda e, s: "<profile>" in s and "<end>" in s, lambda e, s: len(e.calls) > 0
    ),
    "the last words decide": _version(lambda e, s: s.endswith("<end>"), lambda e, s: len(e.calls) > 0),
    "memory needs an answer": _version(
        lambda e, s: e.answer is not None, lambda e, s: e.answer is not None and len(e.calls) > 0
    ),
}
