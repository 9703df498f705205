# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · Dense and hybrid retrieval
#
# **Question.** BM25 misses what is said in other words. Vectors miss the exact word. How can two lists with different
# scales become one?
#
# `data -> memory -> retrieval -> rollout -> reward -> update -> evaluation`
# `                  ^^^^^^^^^`

# %%
import inspect
import os

import matplotlib.pyplot as plt
import numpy as np

from mrrec_mini import hybrid
from mrrec_mini.dense import LSA, cosine, embed
from mrrec_mini.hybrid import HybridConfig, HybridIndex, TextSpace, minmax

SMALL = os.environ.get("MRREC_SMALL") == "1"  # nothing here is large

# %% [markdown]
# ## The formulas
#
# The hybrid score of a row $x$ (one text in the index) for a question $q$ is a weighted sum of two lists, each
# brought to a common scale by $f$:
#
# $$\text{score}(q, x) = w\, f(\text{bm25})(x) + (1 - w)\, f(\cos)(x)$$
#
# | symbol | here | what it is | file |
# | --- | --- | --- | --- |
# | $w$ | `bm25_weight` = .7 | the weight of BM25 | `hybrid.HybridConfig` |
# | $f$ | `fusion="minmax"` | $(s - \min s) / (\max s - \min s)$ over the scores $s$ of one list; 0 for a constant list | `hybrid.minmax` |
# | $f$ | `fusion="rrf"` | $1 / (60 + \text{rank})$, the rank within one list | `hybrid.reciprocal_rank` |
# | $\cos$ | `cosine` | dot product of unit vectors | `dense.cosine` |
#
# ## Vectors from the company that words keep
#
# An *LSA* (latent semantic analysis) counts which words occur in which texts, and keeps the strongest directions of
# that table. Two words that occur beside the same words get similar vectors, even if they never occur together. This
# needs no language model and no download.

# %%
said = [
    "cheap budget mug",
    "budget price mug",
    "cheap price lamp",
    "budget lamp",
    "luxury lavish tent",
    "lavish exclusive tent",
    "luxury exclusive bag",
] * 3
lsa = LSA(dims=3, seed=0).fit(said)
looked = ["budget", "cheap", "luxury", "lavish"]
near = cosine(embed(lsa, looked), embed(lsa, looked))
print(near.round(2))
assert near[0, 1] > 0.5 > near[0, 2]

# %% [markdown]
# `budget` and `cheap` are near each other, `budget` and `luxury` are not. **By hand**: the cosine of the unit vectors
# $(1, 0)$ and $(.6, .8)$ is $1 \cdot .6 + 0 \cdot .8 = .6$.
#
# ## A question that each list alone gets wrong
#
# There are four memories. The person asks for a "cheap red mug". The right line is the first: it says "red" and
# "mug", and it says "cheap" in other words.

# %%
memories = ["mug color red inexpensive", "red budget", "price lamp size scarlet", "red mug tent"]
ids = ["m1", "m2", "m3", "m4"]
corpus = [
    *("mug price budget", "mug price cheap", "lamp price budget", "lamp price cheap", "budget cheap inexpensive price"),
    *("mug color red", "mug red scarlet", "tent size giant", "tent color scarlet", "lamp color red"),
    *("tent luxury lavish price", "lamp luxury price", "tent red tent giant"),
] * 2


def ask(text, weight):
    """The hits of one question, best first; `weight` is the weight of BM25."""
    space = TextSpace.fit(corpus, HybridConfig(dims=4, bm25_weight=weight))
    return HybridIndex(ids, memories, space).search(text, 4)


def show(hits):
    """Print one line per hit: id, text, both scores and the fused one."""
    for hit in hits:
        text = memories[ids.index(hit.id)]
        print(f"{hit.id}  {text:27} bm25 {hit.bm25:5.2f}  dense {hit.dense:5.2f}  fused {hit.score:5.2f}")


# %% [markdown]
# **Predict.** Which line does BM25 put first? Which line do the vectors put first?

# %%
print("words alone")
show(ask("cheap red mug", 1.0))
print("vectors alone")
show(ask("cheap red mug", 0.0))

# %% [markdown]
# BM25 finds two of the three words in `m1` and in `m4`. `m4` is shorter, so a tent wins. The vectors know that `budget`
# is like `cheap`, so they prefer `m2`, which is red and cheap; they do not notice that it is no mug. Each list makes a
# mistake of its own:

# %%
print("both, half each")
show(ask("cheap red mug", 0.5))
first = {weight: ask("cheap red mug", weight)[0].id for weight in (1.0, 0.0, 0.5)}
print(first)
assert first == {1.0: "m4", 0.0: "m2", 0.5: "m1"}

# %% [markdown]
# `m1` is first in neither list, and first in their sum.

# %% [markdown]
# ## Two ways to make one list

# %%
print(inspect.getsource(minmax))
print(inspect.getsource(hybrid.reciprocal_rank))

# %% [markdown]
# **By hand.** BM25 gives (4, 2, 0) and the vectors give (.1, .9, .5). Min-max turns these into (1, .5, 0) and (0, 1,
# .5). With $w = .5$ the sum is (.5, .75, .25). The ranks are 1, 2, 3 and 3, 1, 2. With 60 as the constant, the
# reciprocal ranks add up to $\frac12(\frac1{61} + \frac1{63})$, $\frac12(\frac1{62} + \frac1{61})$ and
# $\frac12(\frac1{63} + \frac1{62})$.
#
# **Predict.** Do both methods put the second row first? Which one keeps the fact that BM25 put the first row *far*
# ahead?

# %%
bm25, dense = np.array([[4.0, 2.0, 0.0]]), np.array([[0.1, 0.9, 0.5]])  # (questions, rows): one question, three rows
[fused] = 0.5 * minmax(bm25) + 0.5 * minmax(dense)
present = np.ones(3, bool)
[by_rank] = 0.5 * hybrid.reciprocal_rank(bm25, present, 60) + 0.5 * hybrid.reciprocal_rank(dense, present, 60)
print(fused, by_rank.round(5))
assert np.allclose(fused, [0.5, 0.75, 0.25])
assert np.allclose(by_rank, [0.5 * (1 / 61 + 1 / 63), 0.5 * (1 / 62 + 1 / 61), 0.5 * (1 / 63 + 1 / 62)])

# %% [markdown]
# Both do. Only min-max keeps distances, so one outlier can press all the other scores together. Ranks forget distances,
# so a list with a clear winner counts no more than a list of near ties. In this package the two lists are not equally
# good, and min-max lost least (`python -m benchmarks.quality`).

# %%
weights = np.linspace(0, 1, 21)
lines = np.array([(w * minmax(bm25) + (1 - w) * minmax(dense))[0] for w in weights])
plt.figure(figsize=(6, 3))
for row in range(3):
    plt.plot(weights, lines[:, row], label=f"row {row + 1}")
plt.xlabel("w, weight of BM25")
plt.ylabel("fused score")
plt.legend()
plt.show()
assert lines[0].argmax() == 1 and lines[-1].argmax() == 0

# %% [markdown]
# ## What breaks it
#
# **A constant list.** If no memory shares a word with the question, BM25 is 0 everywhere. Dividing by the range would
# be 0/0. So min-max of a constant list is 0, and the other list decides.

# %%
print(minmax(np.zeros((1, 3))))
show(ask("lavish", 0.5)[:2])
assert not minmax(np.full((1, 3), 7.0)).any()

# %% [markdown]
# **Scores added as they are.** BM25 can reach 10 or more, a cosine at most 1. If they are added raw, the vectors have
# no influence.

# %%
[raw] = bm25 + dense
print("raw sum puts first: row", raw.argmax() + 1, " fused: row", fused.argmax() + 1)
assert raw.argmax() == 0 and fused.argmax() == 1

# %% [markdown]
# **Ties.** Equal scores need a rule, or results change from run to run. The rule here: higher score first, then
# smaller id first.

# %%
same = HybridIndex(["b", "a"], ["mug price", "mug price"], TextSpace.fit(corpus))
assert [hit.id for hit in same.search("mug", 2)] == ["a", "b"]

# %% [markdown]
# **Unknown words** have no vector and no word in common with any line. Every line scores 0, and the smallest ids come
# back. The tool always returns lines, even if none of them answers the question.

# %%
show(ask("zzz", 0.5)[:2])

# %% [markdown]
# ## Summary
#
# - Dense retrieval is unit vectors and a cosine. Here the vectors come from an LSA; in the paper, from a large
#   encoder.
# - Two lists must be brought to one scale before they are added: by min-max or by rank.
# - The sum can get right a question that each list alone gets wrong, because the two lists make different mistakes.
# - Hybrids fail silently on constant lists, raw sums and ties.
#
# ## Exercises
#
# | name | kind | command | minutes | you will have learned |
# | --- | --- | --- | --- | --- |
# | `min_max_fusion` | fill in | `make exercise EX=min_max_fusion` | 15 | one scale for two lists, and what to do with a constant list |
# | `reciprocal_rank_fusion` | fill in | `make exercise EX=reciprocal_rank_fusion` | 15 | a fusion that forgets distances |
# | `without_dense` | change one thing and measure | `make exercise EX=without_dense` | 20 | what each half is worth, paired by question |
