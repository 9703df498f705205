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
# **Question.** Which of a person's memories share words with what is asked, if a rare word should count more than a
# common one, and a word said five times not five times as much?
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
# $$\text{score}(q, d) = \sum_{t \in q} \underbrace{\log\left(1 + \frac{N - df + 1/2}{df + 1/2}\right)}_{\text{idf}(t)} \cdot
# \underbrace{\frac{tf\,(k_1 + 1)}{tf + k_1 (1 - b + b\,|d| / avgdl)}}_{\text{term part}}$$
#
# | symbol | here | what it is | file |
# | --- | --- | --- | --- |
# | $N$ | `n` | number of texts | `bm25.py` |
# | $df$ | `df` | texts that hold the word $t$ | `bm25.idf_lucene` |
# | $tf$ | `tf` | how often $t$ stands in this text $d$ | `bm25.term_part` |
# | $\vert d\vert$, $avgdl$ | `length`, `avgdl` | words of this text, of the average one | `bm25.BM25Stats` |
# | $k_1$ | `k1` = 1.5 | how slowly repeats saturate | `BM25` |
# | $b$ | `b` = .75 | how far length is discounted | `BM25` |
#
# ## Three memories, one question

# %%
memories = ["mug price luxury", "overall price fair", "mug color red red red"]
question = "mug price"
print([words(text) for text in memories])

# %% [markdown]
# By hand. $N = 3$; `mug` stands in two texts, `price` in two: $\text{idf} = \log(1 + 1.5 / 2.5) = \log 1.6 = .470$ for
# both. The texts have 3, 3 and 5 words, $avgdl = 11/3$. For a text of 3 words with $tf = 1$ the term part is $2.5 / (1
# + 1.5\,(.25 + .75 \cdot 9/11)) = 2.5 / 2.295 = 1.089$; for the one of 5 words $2.5 / (1 + 1.5\,(.25 + .75 \cdot
# 15/11)) = 2.5 / 2.909 = .859$.
#
# **Predict.** The three scores, from these numbers.

# %%
stats = BM25Stats.fit(memories)
index = BM25(memories, stats)
print(index.scores(question).round(3))
idf = math.log(1.6)
by_hand = [2 * idf * 2.5 / 2.2954545, idf * 2.5 / 2.2954545, idf * 2.5 / 2.9090909]
assert np.allclose(index.scores(question), by_hand)

# %% [markdown]
# The first holds both words, the others one each; the long one is discounted. `red` three times plays no part, since
# nobody asked for it.
#
# ## The two parts, each a function of its own

# %%
print(inspect.getsource(idf_lucene))
print(inspect.getsource(term_part))

# %% [markdown]
# **Predict.** A word that stands in 1 of 1000 texts, and one that stands in 500 of them: how many times as much is the
# rare one worth? And a word said ten times in a text of average length: how many times as much as one said once?

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
# With $k_1 = 0$ a word is there or not. With $b = 0$ length plays no part, with $b = 1$ a text of twice the length
# needs twice the repeats.
#
# ## A second opinion
#
# `rank-bm25` is another's implementation. With its own idf (`okapi`) ours gives the same numbers to the last bit.

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
# The okapi idf is $\log\frac{N - df + 1/2}{df + 1/2}$: below zero for a word that more than half of the texts hold.
#
# **Predict.** A person's memory holds *one* line, `mug price luxury`, and the question is `mug price`. What does
# rank-bm25 give the one right line?

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
# The right line scores *less than nothing*, or as much as the wrong one. Small memories are the normal case here: so
# the default idf is the one that cannot go below zero, and its counts come from all train users' texts (`BM25Stats` is
# fitted once and shared), not from the few lines of one person.

# %%
many = BM25Stats.fit(["mug price luxury"] + ["overall price fair"] * 50 + ["mug color red"] * 5)
print({word: round(many.idf[word], 2) for word in ("mug", "price", "luxury")})
scores = BM25(two, many).scores("mug price")
assert scores[0] > 0 == scores[1]

# %% [markdown]
# **Words are not meanings.** `cheap` and `budget` share no letter, and BM25 gives 0. That is the next notebook.

# %%
print(BM25(["mug price budget"], many).scores("something cheap"))

# %% [markdown]
# ## Summary
#
# - Score = sum over the asked words of idf × term part; each part is a short function, and can be checked by hand.
# - Repeats saturate (`k1`), length is discounted (`b`), rare words count more (idf).
# - The classic idf goes below zero, which ruins memories of one or two lines; the default here cannot, and counts over
#   all users.
# - BM25 knows words, not meanings.
#
# ## Exercises
#
# | name | kind | command | minutes | you will have learned |
# | --- | --- | --- | --- | --- |
# | `bm25_idf` | fill in | `make exercise EX=bm25_idf` | 10 | why a word in every text is worth little, and never less than nothing |
# | `bm25_tf` | fill in | `make exercise EX=bm25_tf` | 10 | what `k1` and `b` do |
# | `predict_scores` | predict, then run | `make exercise EX=predict_scores` | 10 | to see a ranking before it is computed |
