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
# # 09 · Evaluation: ranks, metrics, intervals
#
# **Question.** Arm A has an nDCG@10 of .43, arm B of .41. (An *arm* is one of the systems that we compare.) Is A
# better? And would it still be better if we ranked the target against 99 random items instead of all items?
#
# `data -> memory -> retrieval -> rollout -> reward -> update -> evaluation`
# `                                                             ^^^^^^^^^^`

# %%
import inspect
import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import ndcg_score

from mrrec_mini.metrics import (
    MISSING,
    bootstrap_interval,
    mrr_at_k,
    ndcg_at_k,
    paired_interval,
    target_ranks,
)

SMALL = os.environ.get("MRREC_SMALL") == "1"
rng = np.random.default_rng(0)

# %% [markdown]
# ## Ranks, then metrics
#
# | symbol | here | what it is | file |
# | --- | --- | --- | --- |
# | rank | `target_ranks(scores, targets)` | place of the target among *all* items, from 1; on a tie the smaller id comes first | `metrics.py` |
# | Recall@k | `recall_at_k` | 1 if rank ≤ k, else 0 | `metrics.py` |
# | nDCG@k | `ndcg_at_k` | $1 / \log_2(\text{rank} + 1)$ if rank ≤ k, else 0 | `metrics.py` |
# | MRR@k | `mrr_at_k` | $1 / \text{rank}$ if rank ≤ k, else 0 | `metrics.py` |
#
# **By hand.** The scores are (.2, .9, .5, .9) and the target is the last item. No item scores higher, and one item
# with the same score stands earlier. So the rank is 2, nDCG@10 is $1/\log_2 3 = .631$, and MRR is .5.

# %%
ranks = target_ranks([[0.2, 0.9, 0.5, 0.9]], [3])
print(ranks, ndcg_at_k(ranks, 10).round(3), mrr_at_k(ranks, 10))
assert ranks[0] == 2
print(inspect.getsource(ndcg_at_k))

# %% [markdown]
# A second opinion from scikit-learn, on the same ranking without ties:

# %%
scores, relevant = np.array([[0.2, 0.9, 0.5, 0.8]]), np.array([[0, 0, 0, 1]])
theirs = ndcg_score(relevant, scores, k=10)
ours = float(ndcg_at_k(target_ranks(scores, [3]), 10)[0])
print(round(theirs, 6), round(ours, 6))
assert abs(theirs - ours) < 1e-12

# %% [markdown]
# **Predict.** A query whose answer did not parse has no ranking. What is it worth, and does it stay in the mean?

# %%
print(ndcg_at_k([1, 2, MISSING], 10).round(3), "mean", ndcg_at_k([1, 2, MISSING], 10).mean().round(3))

# %% [markdown]
# It is worth 0, and it stays. Leaving out failures is the cheapest way to a better number.
#
# ## How sampled candidates flip a winner
#
# Ranking all items is slow, so many papers rank the target against 99 random other items.
#
# **Predict.** A always puts the target at rank 100 of 10,000 items. B puts it at rank 1 in a tenth of the queries and
# at rank 5,000 in the rest. Which has the higher nDCG@10 over all items? And which against 99 sampled items?

# %%
pool, queries = 10_000, 400 if SMALL else 4_000
full = {"A": np.full(queries, 100), "B": np.where(np.arange(queries) % 10 == 0, 1, 5000)}


def sampled(ranks, negatives=99):
    """Ranks among `negatives` random other items: draw how many of the better-ranked items are among them."""
    return 1 + np.random.default_rng(1).hypergeometric(ranks - 1, pool - ranks, negatives)


rows = {name: (ndcg_at_k(r, 10).mean(), ndcg_at_k(sampled(r), 10).mean()) for name, r in full.items()}
for name, (whole, few) in rows.items():
    print(f"{name}: all items {whole:.3f}   99 sampled {few:.3f}")
assert rows["B"][0] > rows["A"][0] and rows["A"][1] > rows["B"][1]

# %%
plt.figure(figsize=(6, 3))
counts = np.unique(np.geomspace(9, pool - 1, 14).astype(int))
for name, r in full.items():
    plt.semilogx(counts, [ndcg_at_k(sampled(r, n), 10).mean() for n in counts], marker="o", label=name)
plt.xlabel("sampled negatives (rightmost: all items)")
plt.ylabel("nDCG@10")
plt.legend()
plt.show()

# %% [markdown]
# The winner changes. Rank 100 of 10,000 becomes rank 1 or 2 of a hundred, and gets nearly full marks. For a person
# who sees ten items it is worth nothing. In this project all arms always rank the whole pool.
#
# ## Intervals: is A better than B?
#
# The test queries are a sample. We draw from them again, with replacement, a few thousand times. The middle 95 % of
# the means is the percentile bootstrap interval.

# %%
easy = rng.random(150)  # how easy each query is, for both arms
a = np.clip(easy + 0.04 + 0.05 * rng.standard_normal(150), 0, 1)
b = np.clip(easy + 0.05 * rng.standard_normal(150), 0, 1)
for name, values in (("A", a), ("B", b)):
    low, high = bootstrap_interval(values, np.random.default_rng(0))[1:3]
    print(f"{name} {values.mean():.3f}, 95 % {low:.3f} to {high:.3f}")

# %% [markdown]
# **Predict.** The intervals overlap almost entirely. Can we still say that A is better?

# %%
found = paired_interval(a, b, np.random.default_rng(0))
print(f"A - B {np.mean(a - b):+.3f}, 95 % {found.low:+.3f} to {found.high:+.3f}")
assert found.low > 0

# %% [markdown]
# Yes: both answered the *same* queries, and a hard query is hard for both. Pairing (subtracting query by query) removes
# this common part. If the interval of the difference lies above 0, A is better. If it holds 0, we cannot tell;
# this does *not* mean that they are equal.

# %%
plt.figure(figsize=(6, 2))
for row, (_, values) in enumerate((("A", a), ("B", b))):
    low, high = bootstrap_interval(values, np.random.default_rng(0))[1:3]
    plt.plot([low, high], [row, row], "k")
    plt.plot(values.mean(), row, "o")
plt.plot([0.5 + found.low, 0.5 + found.high], [2, 2], "k")
plt.plot(0.5 + np.mean(a - b), 2, "o")
plt.axvline(0.5, color="grey", linestyle=":")
plt.yticks([0, 1, 2], ["A", "B", "A - B, shifted by .5"])
plt.xlabel("nDCG@10")
plt.show()

# %% [markdown]
# ## How many queries do we need?
#
# The width of the interval shrinks like $1/\sqrt{n}$ with the number of queries $n$.
#
# **Predict.** To see a difference half as large, how many times as many queries do we need?

# %%
for n in (50, 200, 800):
    values = np.random.default_rng(2).normal(0.02, 0.07, n)
    low, high = bootstrap_interval(values, np.random.default_rng(0))[1:3]
    print(f"{n:4} queries: width {high - low:.3f}")

# %% [markdown]
# Four times. With 144 queries (a real data set of notebook 11) a difference of .02 cannot be seen, whatever the
# method.
#
# ## What breaks it
#
# **Seeds are not queries.** If three training seeds answer the *same* 100 queries, those are 100 draws, not 300. If
# we treat them as 300, the interval is too narrow by $\sqrt3$. So all rows of one query are drawn together
# (`clusters`).

# %%
one = rng.normal(0.02, 0.1, 100)
thrice = np.tile(one, 3)
naive = bootstrap_interval(thrice, np.random.default_rng(0))
right = bootstrap_interval(thrice, np.random.default_rng(0), clusters=np.tile(np.arange(100), 3))
print(f"as 300 queries {naive.high - naive.low:.4f}, as 100 {right.high - right.low:.4f}")
assert 1.5 < (right.high - right.low) / (naive.high - naive.low) < 2

# %% [markdown]
# **A metric that is chosen afterwards.** Of twenty metrics, one will probably show a "significant" difference between
# equal arms. Name the one that counts before you look. Here it is nDCG@10 with full ranking and greedy decoding.

# %%
lucky = 0
for trial in range(20 if SMALL else 100):
    draws = np.random.default_rng(trial).standard_normal((20, 60)) * 0.1  # 20 metrics, no difference at all
    half = 1.96 * draws.std(1) / np.sqrt(60)
    lucky += bool((np.abs(draws.mean(1)) > half).any())
print(f"{lucky} of {trial + 1} comparisons of equal arms find a 'significant' metric among twenty")
assert lucky / (trial + 1) > 0.4

# %% [markdown]
# ## Summary
#
# - Rank over the whole pool, break ties by a rule, and count a missing answer as 0.
# - Sampled candidates can flip a winner.
# - Compare on the same queries, pair, and give an interval. If the interval holds 0, you cannot tell.
# - Draw whole queries: the rows of one query, one per seed, belong together.
#
# ## Exercises
#
# | name | kind | command | minutes | you will have learned |
# | --- | --- | --- | --- | --- |
# | `ndcg_at_k` | fill in | `make exercise EX=ndcg_at_k` | 10 | ranks from 1, and what counts beyond k |
# | `paired_interval` | fill in | `make exercise EX=paired_interval` | 20 | the bootstrap, by hand |
# | `sampled_metrics` | predict, then run | `make exercise EX=sampled_metrics` | 15 | when a sample of candidates misleads |
# | `my_system` | write a system | `make exercise EX=my_system` | 45 | the contract of every recommender here |
