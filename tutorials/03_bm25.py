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
# # 03 · BM25 by hand
#
# **Question.** Which of a person's memories share words with a question? A rare word should count more than a common
# one, and a word that is said five times should not count five times as much.
#
# `data -> memory -> retrieval -> rollout -> reward -> update -> evaluation`
# `                  ^^^^^^^^^`

# %%
import inspect
import math
import os

import matplotlib.pyplot as plt
import numpy as np
from rank_bm25 import BM25Okapi

from mrrec_mini.bm25 import BM25, BM25Stats, RankBM25, idf_lucene, idf_okapi, term_part, words

SMALL = os.environ.get("MRREC_SMALL") == "1"  # nothing here is large

# %% [markdown]
# ## The formula
#
# The score of a text $d$ for a question $q$ is a sum over the words $t$ of the question:
#
# $$\text{score}(q, d) = \sum_{t \in q} \underbrace{\log\left(1 + \frac{N - df + 1/2}{df + 1/2}\right)}_{\text{idf}(t)} \cdot
# \underbrace{\frac{tf\,(k_1 + 1)}{tf + k_1 (1 - b + b\,|d| / avgdl)}}_{\text{term part}}$$
#
# | symbol | here | what it is | file |
# | --- | --- | --- | --- |
# | $N$ | `n` | number of texts | `bm25.py` |
# | $df$ | `df` | number of texts that hold the word $t$ | `bm25.idf_lucene` |
# | $tf$ | `tf` | how often $t$ occurs in this text $d$ | `bm25.term_part` |
# | $\vert d\vert$, $avgdl$ | `length`, `avgdl` | number of words in this text, and in the average text | `bm25.BM25Stats` |
# | $k_1$ | `k1` = 1.5 | how slowly repeats saturate | `BM25` |
# | $b$ | `b` = .75 | how strongly length is discounted | `BM25` |
#
# The idf (inverse document frequency) says how rare a word is. The term part says how much this text is about it.
#
# ## Three memories, one question
#
# (Real lines also hold a count and a quarter, as in `mug price luxury 2 2020q4`. They are left out here to keep the
# arithmetic short.)

# %%
memories = ["mug price luxury", "overall price fair", "mug color red red red"]
question = "mug price"
print([words(text) for text in memories])

# %% [markdown]
# By hand. $N = 3$; `mug` occurs in two texts and so does `price`:
# $\text{idf} = \log(1 + 1.5 / 2.5) = \log 1.6 = .470$ for both. The texts have 3, 3 and 5 words, so $avgdl = 11/3$.
# For a text of 3 words with $tf = 1$ the term part is
# $2.5 / (1 + 1.5\,(.25 + .75 \cdot 9/11)) = 2.5 / 2.295 = 1.089$. For the text of 5 words it is
# $2.5 / (1 + 1.5\,(.25 + .75 \cdot 15/11)) = 2.5 / 2.909 = .859$.
#
# **Predict.** What are the three scores, from these numbers?

# %%
stats = BM25Stats.fit(memories)
index = BM25(memories, stats)
print(index.scores(question).round(3))
idf = math.log(1.6)
by_hand = [2 * idf * 2.5 / 2.2954545, idf * 2.5 / 2.2954545, idf * 2.5 / 2.9090909]
assert np.allclose(index.scores(question), by_hand)

# %% [markdown]
# The first text holds both words and the others hold one each; the long text is discounted. `red` occurs three times,
# but this plays no part because nobody asked for it.
#
# ## The two parts, each a function of its own

# %%
print(inspect.getsource(idf_lucene))
print(inspect.getsource(term_part))

# %% [markdown]
# **Predict.** One word occurs in 1 of 1000 texts, another in 500 of them. How many times as much is the rare word
# worth? And what is it worth if a text of average length says a word ten times, compared with once?

# %%
print("idf", round(idf_lucene(1000, 1), 2), "against", round(idf_lucene(1000, 500), 2))
ten, once = term_part(10, 10, 10, 1.5, 0.75), term_part(1, 10, 10, 1.5, 0.75)
print("tf 10 is worth", round(ten / once, 2), "times tf 1")
assert round(ten / once, 2) == 2.17 and ten < 2.5 == 1.5 + 1

# %%
tf = np.arange(0, 21)
fig, axes = plt.subplots(1, 2, figsize=(9, 3))
for k1 in (0, 0.5, 1.5, 5):
    axes[0].plot(tf, term_part(tf, 10, 10, k1, 0.75) if k1 else (tf > 0) * 1.0, label=f"k1 = {k1}")
axes[0].set(xlabel="tf", ylabel="term part", title="repeats saturate")
length = np.arange(1, 41)
for b in (0, 0.5, 0.75, 1):
    axes[1].plot(length, term_part(1, length, 10, 1.5, b), label=f"b = {b}")
axes[1].set(xlabel="words of the text (average 10)", title="long texts are discounted")
for axis in axes:
    axis.legend()
plt.show()

# %% [markdown]
# With $k_1 = 0$ only the presence of a word counts. With $b = 0$ length plays no part. With $b = 1$ a text of twice
# the length needs twice the repeats for the same term part.
#
# ## A second opinion
#
# `rank-bm25` is an independent implementation. If ours uses the same idf (`okapi`), both give the same numbers to the
# last bit.

# %%
texts = [*memories, "lamp price budget", "tent size giant for hiking", "knife weight light"]
ours = BM25(texts, BM25Stats.fit(texts, "okapi"))
theirs = BM25Okapi([words(text) for text in texts])
for asked in ("mug price", "hiking", "price price mug", "nothing of this"):
    assert (ours.scores(asked) == theirs.get_scores(words(asked))).all()
print("equal")

# %% [markdown]
# ## What breaks it: a person who has said little
#
# The okapi idf is $\log\frac{N - df + 1/2}{df + 1/2}$. It is below zero for a word that more than half of the texts
# hold.
#
# **Predict.** A person's memory holds *one* line, `mug price luxury`, and the question is `mug price`. Which score
# does rank-bm25 give to this line, the only right one?

# %%
one = ["mug price luxury"]
print(
    "rank-bm25:",
    RankBM25(one).scores("mug price").round(3),
    " ours:",
    BM25(one, BM25Stats.fit(one)).scores("mug price").round(3),
)
two = ["mug price luxury", "lamp color red"]
print("rank-bm25:", RankBM25(two).scores("mug price"), "idf of a word in one of two:", idf_okapi(2, 1))
assert RankBM25(one).scores("mug price")[0] < 0 and (RankBM25(two).scores("mug price") == 0).all()

# %% [markdown]
# The right line scores *below zero*, or the same as the wrong line. Small memories are the normal case here. So the
# default idf is the one that cannot go below zero, and its counts come from the texts of all train users (`BM25Stats`
# is fitted once and shared), not from the few lines of one person.

# %%
many = BM25Stats.fit(["mug price luxury"] + ["overall price fair"] * 50 + ["mug color red"] * 5)
print({word: round(many.idf[word], 2) for word in ("mug", "price", "luxury")})
scores = BM25(two, many).scores("mug price")
assert scores[0] > 0 == scores[1]

# %% [markdown]
# **Words are not meanings.** `cheap` and `budget` are different words, so BM25 gives 0. The next notebook deals with
# this.

# %%
print(BM25(["mug price budget"], many).scores("something cheap"))

# %% [markdown]
# ## Summary
#
# - The score is a sum of idf × term part over the words of the question. Each part is a short function that can be
#   checked by hand.
# - Repeats saturate (`k1`), length is discounted (`b`), and rare words count more (idf).
# - The classic idf goes below zero, which ruins memories of one or two lines. The default here cannot, and it counts
#   over the texts of all train users.
# - BM25 knows words, not meanings.
#
# ## Exercises
#
# | name | kind | command | minutes | you will have learned |
# | --- | --- | --- | --- | --- |
# | `bm25_idf` | fill in | `make exercise EX=bm25_idf` | 10 | why a word in every text is worth little, but never less than zero |
# | `bm25_tf` | fill in | `make exercise EX=bm25_tf` | 10 | what `k1` and `b` do |
# | `predict_scores` | predict, then run | `make exercise EX=predict_scores` | 10 | how to see a ranking before it is computed |
