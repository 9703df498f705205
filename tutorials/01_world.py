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
# # 01 · The world and its known answers
#
# **Question.** How can one tell whether a recommender that *reasons* about a person reasons well, when nobody knows
# what the person wanted? On real data one cannot. So the first thing that the package makes is a shop in which the
# answer is known.
#
# `data -> memory -> retrieval -> rollout -> reward -> update -> evaluation`
# ` ^^^^`

# %%
import inspect
import os
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np

from mrrec_mini.environment import Environment
from mrrec_mini.metrics import ndcg_at_k
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.world import ASPECTS, CATEGORIES, WorldConfig, category_map, make_world, oracle_profile, preferences

SMALL = os.environ.get("MRREC_SMALL") == "1"  # the size at which CI runs this
CONFIG = WorldConfig(users=60 if SMALL else 200, items=600 if SMALL else 3000, categories=12, held=3, seed=0)
shop = make_world(CONFIG)
print(shop.counts())

# %% [markdown]
# ## What a data set is
#
# | paper | here | what it is | file |
# | --- | --- | --- | --- |
# | $U$, $I$ | `dataset.users`, `dataset.items` | people and things | `data.py` |
# | $H_u$ | `dataset.history(query)` | what a user did, oldest first, *strictly before* the query | `records.Interaction` |
# | $q_u$ | `Query.text` | an underspecified wish | `records.Query` |
# | $i^+$ | `Query.target` | what the user then took; only reward and metrics may look | `records.Query` |
# | - | `Query.truth` | the values that the person wants, known only here | `world.py` |

# %%
query = shop.queries[0]
print("asks    ", query.text)
print("took    ", shop.items[query.target].title)
print("truth   ", dict(query.truth))
for met in shop.history(query)[-3:]:
    print("earlier ", shop.items[met.item].title, "|", met.rating, "|", met.review)

# %% [markdown]
# The query names a category and a use. Everything that tells one item of that category from another is left out: it
# stands in the history, or nowhere.
#
# ## By hand: how much a query leaves open
#
# A category holds $n$ items, and a use suits about 70 % of them (`suits`). If the wish is all one knows, the target is
# one of
# $0.7 n$ items, in random order: its expected rank is about $(0.7 n + 1) / 2$. With one of five values known it is a fifth of that.
#
# **Predict.** This shop has 12 categories. About how many items fit the words of the query? And how many still fit
# once the three values in `truth` are known (each aspect has five values)?

# %%
kind = shop.category(query.target)
shelf = [item for item in shop.items.values() if item.category[-1] == kind]
use = query.text.split()[-1]
suits = [item for item in shelf if use in str(item.attributes) or use in item.description]
wanted = [i for i in suits if all(value in i.attributes[aspect] for aspect, value in query.truth.items())]
print(len(shelf), "items of the category,", len(suits), "suit the use,", len(wanted), "also hold every wanted value")

# %% [markdown]
# Knowing three values divides what is left by about $5^3 = 125$. That is the whole point of memory here: the query is
# worth little, the person's history a lot.
#
# ## The map: what a category cares about
#
# Each category cares about three aspects of ten. The map is the same for everybody: this is what *global* memory can
# learn.

# %%
names, kinds = list(ASPECTS), CATEGORIES[: CONFIG.categories]
cares = np.zeros((CONFIG.categories, len(names)))
cares[np.arange(CONFIG.categories)[:, None], category_map(CONFIG)] = 1  # (categories, aspects)
plt.figure(figsize=(6, 3.4))
plt.imshow(cares, cmap="Greys")
plt.xticks(range(len(names)), names, rotation=60)
plt.yticks(range(len(kinds)), kinds)
plt.title("black: this category cares about this aspect")
plt.show()
assert (cares.sum(1) == CONFIG.relevant).all()

# %% [markdown]
# What a *person* wants of each aspect is the same in every category, but for a tenth of exceptions: this is what
# *local* memory can learn.

# %%
wants = preferences(CONFIG, 0)  # (categories, aspects): number of the value
usual = [Counter(column).most_common(1)[0][0] for column in wants.T.tolist()]
share = float((wants == np.array(usual)).mean())
print(f"user 0 wants the usual value in {share:.0%} of the (category, aspect) pairs")
assert 0.75 < share <= 1

# %% [markdown]
# ## The ceiling
#
# `oracle_profile` writes down what a perfect reasoner would: the wish and the true values. Searching the items with that text is the
# best that any policy can hope for, and it is *below* 1.

# %%
print(inspect.getsource(oracle_profile))
print(oracle_profile(query))

# %% [markdown]
# **Predict.** Where does the target stand, on average, when one searches with the query alone, and where with the
# oracle's profile? nDCG@10 is $1 / \log_2(\text{rank} + 1)$ up to rank 10, else 0 (notebook 09).

# %%
split = shop.split(0, 0.6, 0.1, 0.3)
env = Environment.build(shop, split, ExtractiveSummarizer(), np.random.default_rng(0))
asked = list(split.test_queries)
targets = [q.target for q in asked]
quality = {}
for name, texts in (("query", [q.text for q in asked]), ("oracle", [oracle_profile(q) for q in asked])):
    ranks = env.items.ranks(texts, targets)
    quality[name] = float(ndcg_at_k(ranks, 10).mean())
    print(f"{name:7} median rank {np.median(ranks):5.0f}   nDCG@10 {quality[name]:.2f}")
assert quality["oracle"] > 0.4 and quality["query"] < 0.2

# %% [markdown]
# Why not 1: a target may break a preference (`follow_target` is .95, for each of three values), and several items
# share all wanted values, so that chance decides among them. A result of .5 in this shop is not half of what is
# possible; compare with the oracle.
#
# ## Who is in which part
#
# People, not queries, are split: whoever is tested was never trained on. And the last categories are named by no
# training query, so that `held` queries ask whether something was learned that carries over.

# %%
parts = [split.train, split.validation, split.test]
held = {shop.category(q.target) for q in split.held_queries}
print([len(part) for part in parts], "users; held categories:", sorted(held))
assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
assert held and not held & {shop.category(q.target) for q in (*split.train_queries, *split.test_queries)}

# %% [markdown]
# ## What breaks it: a leak
#
# The target of a query is something the user took. If that one purchase reaches the history, everything is easy, and
# nothing that one measures is true. Here is the leak, on purpose: a history that ends *at* the query instead of before
# it, with the target in it.


# %%
def leaking_profile(q):
    """The query and the title of what was taken: what a memory with the target in it amounts to."""
    return f"{q.text} {shop.items[q.target].title}"


leak = float(ndcg_at_k(env.items.ranks([leaking_profile(q) for q in asked], targets), 10).mean())
print(f"oracle {quality['oracle']:.2f}, with the leak {leak:.2f}")
assert leak > quality["oracle"] + 0.05
assert all(met.time < q.time for q in asked for met in shop.history(q))

# %% [markdown]
# A number above the oracle's is not a triumph. It is a leak: no honest system can beat somebody who knows the truth.
#
# What the shop cannot tell: whether people talk like that, whether tastes are so stable, whether real categories have
# a few deciding aspects. Real data can (notebook 11), but there nobody knows the answer. One needs both.
#
# ## Summary
#
# - A query is underspecified by design; the history settles it.
# - The shop has a map (category → aspects, shared) and preferences (person → values): what global and local memory can
#   learn.
# - The oracle is the ceiling, and it is not 1. Beating it means a leak.
# - Users are split, not queries; held-out categories test what carries over; histories end strictly before the query.
#
# ## Exercises
#
# | name | kind | command | minutes | you will have learned |
# | --- | --- | --- | --- | --- |
# | `history_before` | fill in | `make exercise EX=history_before` | 10 | what a query may know |
# | `target_in_memory` | silent bug | `make exercise EX=target_in_memory` | 15 | how a leak looks from outside |
