"""The check of `term_part`."""

from adapters import expect


def check(answer) -> None:
    for tf, length, avgdl, k1, b, wanted, because in (
        (1, 10, 10, 1.5, 0.75, 1.0, "2.5 / 2.5"),
        (2, 10, 10, 1.5, 0.75, 10 / 7, "5 / 3.5"),
        (1, 20, 10, 1.5, 0.75, 2.5 / 3.625, "2.5 / (1 + 1.5 (.25 + .75 x 2))"),
        (1, 20, 10, 1.5, 0.0, 1.0, "b = 0: length plays no part"),
        (3, 5, 10, 2.0, 1.0, 2.25, "9 / (3 + 2 x .5)"),
        (0, 10, 10, 1.5, 0.75, 0.0, "the word does not occur"),
        (7, 10, 10, 0.0, 0.75, 1.0, "k1 = 0: only presence counts"),
    ):
        asked = f"term_part(tf={tf}, length={length}, avgdl={avgdl}, k1={k1}, b={b})"
        expect(answer.term_part(tf, length, avgdl, k1, b), wanted, asked, because, "k1 multiplies the whole bracket.")


WRONG = {
    "b and 1 - b exchanged": {"term_part": lambda tf, n, a, k1, b: tf * (k1 + 1) / (tf + k1 * (b + (1 - b) * n / a))},
    "length forgotten": {"term_part": lambda tf, n, a, k1, b: tf * (k1 + 1) / (tf + k1)},
    "k1 + 1 forgotten": {"term_part": lambda tf, n, a, k1, b: tf / (tf + k1 * (1 - b + b * n / a)) if tf else 0.0},
    "average over length": {"term_part": lambda tf, n, a, k1, b: tf * (k1 + 1) / (tf + k1 * (1 - b + b * a / n))},
    "no saturation": {"term_part": lambda tf, n, a, k1, b: tf},
}
