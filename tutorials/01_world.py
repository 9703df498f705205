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
# **Question.** How can we tell whether a recommender that *reasons* about a person reasons well, if nobody knows what
# the person wanted? With real data we cannot. So the package starts with a synthetic shop in which the answer is
# known.
#
# `data -> memory -> retrieval -> rollout -> reward -> update -> evaluation`
# ` ^^^^`

# %%
import inspect
import os
from collections import Counter
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

from mrrec_mini.environment import Environment
from mrrec_mini.metrics import ndcg_at_k
from mrrec_mini.summarize import CERTAINTY, ExtractiveSummarizer
from mrrec_mini.world import (
    ASPECTS,
    CATEGORIES,
    EASY,
    USES,
    WorldConfig,
    make_world,
    oracle_profile,
    preferences,
    relevant_aspects,
)

SMALL = os.environ.get("MRREC_SMALL") == "1"  # the size at which CI runs this
CONFIG = replace(EASY, users=60 if SMALL else 200, items=600 if SMALL else 3000, categories=12, held=3, seed=0)
shop = make_world(CONFIG)
print(shop.counts())

# %% [markdown]
# This is the *easy* shop (`EASY`). The default shop is harder; the end of this notebook shows in which ways.
#
# ## What a data set is
#
# | paper | here | what it is | file |
# | --- | --- | --- | --- |
# | $U$, $I$ | `dataset.users`, `dataset.items` | the people and the items | `data.py` |
# | $H_u$ | `dataset.history(query)` | what user $u$ did, oldest first, *strictly before* the query | `datatypes.Interaction` |
# | $q_u$ | `Query.text` | an underspecified wish | `datatypes.Query` |
# | $i^+$ | `Query.target` | the item that the user then took; only the reward and the metrics may read it | `datatypes.Query` |
# | - | `Query.truth` | {aspect: value}: the values that the user wants for the aspects (price, material, ...) that matter; known only in this shop | `world.py` |

# %%
query = shop.queries[0]
print("asks    ", query.text)
print("took    ", shop.items[query.target].title)
print("truth   ", dict(query.truth))
for past in shop.history(query)[-3:]:
    print("earlier ", shop.items[past.item].title, "|", past.rating, "|", past.review)

# %% [markdown]
# The query names a category and a use. It does not say which of the suitable items this person wants. The history may
# say it.
#
# ## By hand: how much a query leaves open
#
# A category holds $n$ items, and about 70 % of them suit a given use (`suits`). If we know only the wish, the target
# is one of $0.7 n$ items in random order, so its expected rank is about $(0.7 n + 1) / 2$. If we also know one value
# out of five, the expected rank is a fifth of that.
#
# **Predict.** This shop has 12 categories. About how many items fit the words of the query? And how many still fit
# once the three values in `truth` are known (each aspect has five values)?

# %%
kind = shop.category(query.target)
in_category = [item for item in shop.items.values() if item.category[-1] == kind]
use = query.text.split()[-1]
suits = [item for item in in_category if use in str(item.attributes) or use in item.description]
wanted = [i for i in suits if all(value in i.attributes[aspect] for aspect, value in query.truth.items())]
print(
    len(in_category), "items of the category,", len(suits), "suit the use,", len(wanted), "also hold every wanted value"
)

# %% [markdown]
# Knowing three values divides what is left by about $5^3 = 125$. This is why memory matters here: the query says
# little and the history says a lot.
#
# ## The map: what a category cares about
#
# Each category cares about three aspects out of ten, for whatever use the item is bought. This map is the same for
# everybody. It is what *global* memory can learn.

# %%
names, kinds = list(ASPECTS), CATEGORIES[: CONFIG.categories]
cares = np.zeros((CONFIG.categories, len(names)))
for row, by_use in zip(cares, relevant_aspects(CONFIG), strict=True):
    row[by_use[0]] = 1  # the first use stands for all
plt.figure(figsize=(6, 3.4))
plt.imshow(cares, cmap="Greys")
plt.xticks(range(len(names)), names, rotation=60)
plt.yticks(range(len(kinds)), kinds)
plt.title("black: this category cares about this aspect")
plt.show()
assert (cares.sum(1) == CONFIG.relevant).all()

# %% [markdown]
# For each aspect, a *person* wants the same value in every category, apart from about a tenth of exceptions. This is
# what *local* memory (the memory of one person) can learn.

# %%
wants = preferences(CONFIG, 0)[-1]  # (categories, aspects): the number of the value wanted at the time of the queries
usual = [Counter(column).most_common(1)[0][0] for column in wants.T.tolist()]
share = float((wants == np.array(usual)).mean())
print(f"user 0 wants the usual value in {share:.0%} of the (category, aspect) pairs")
assert 0.75 < share <= 1

# %% [markdown]
# ## The ceiling
#
# `oracle_profile` writes down what a perfect reasoner would write: the wish and the true values. No policy can hope to
# do better than to search the items with that text. The result is still *below* 1.

# %%
print(inspect.getsource(oracle_profile))
print(oracle_profile(query))

# %% [markdown]
# **Predict.** At which rank is the target, in the median, if we search with the query alone? And if we search with the
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
# Why not 1? A target may go against a preference: it follows each of the three with probability .95 (`follow_target`).
# And several items share all wanted values, so chance decides between them. So a result of .5 in this shop is more than
# half of what is possible; compare it with the oracle.
#
# ## Who is in which part
#
# We split people, not queries: nobody is in both training and test. Moreover, no training query names the last few
# categories. Only the `held` queries name them. They test whether what the policy learned carries over to new
# categories.

# %%
parts = [split.train, split.validation, split.test]
held = {shop.category(q.target) for q in split.held_queries}
print([len(part) for part in parts], "users; held categories:", sorted(held))
assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
assert held and not held & {shop.category(q.target) for q in (*split.train_queries, *split.test_queries)}

# %% [markdown]
# ## What breaks it: a leak
#
# The target of a query is an item that the user took. If that one purchase gets into the history, the task becomes easy
# and every measurement is wrong. Here is the leak, made on purpose: a history that ends *at* the query instead of before
# it, and so includes the target.


# %%
def leaking_profile(q):
    """The query and the title of the item that was taken: what a memory gives away if it holds the target."""
    return f"{q.text} {shop.items[q.target].title}"


leak = float(ndcg_at_k(env.items.ranks([leaking_profile(q) for q in asked], targets), 10).mean())
print(f"oracle {quality['oracle']:.2f}, with the leak {leak:.2f}")
assert leak > quality["oracle"] + 0.05
assert all(past.time < q.time for q in asked for past in shop.history(q))

# %% [markdown]
# A number above the oracle's is no triumph. It is a leak: no honest system can beat somebody who knows the truth.
#
# ## A harder shop
#
# One plain rule finds nearly everything in the easy shop: look up the three aspects of the category, and note what the
# person usually takes. Nobody needs reinforcement learning for that. The default shop, `WorldConfig()`, is harder in
# six ways. No single plain rule is right everywhere in it.

# %%
HARD = WorldConfig(users=60 if SMALL else 200, items=600 if SMALL else 3000, categories=12, held=3, seed=0)
hard = make_world(HARD)
split = hard.split(0, 0.6, 0.1, 0.3)
env = Environment.build(hard, split, ExtractiveSummarizer(), np.random.default_rng(0))
asked = list(split.test_queries)

# %% [markdown]
# **1. What matters depends on the use.** Only one aspect matters for the whole category. The other two depend on what
# the item is for.

# %%
matters = [[{names[a] for a in aspects} for aspects in by_use] for by_use in relevant_aspects(HARD)]
for use, aspects in zip(USES, matters[0], strict=False):
    print(f"{kinds[0]} for {use:8}", sorted(aspects))
assert len(set.intersection(*matters[0])) == 1

# %% [markdown]
# **2. Global memory can be wrong, and says how sure it is.** There are fewer purchases for each use than for the whole
# category, so some lines name an aspect that does not matter. Each line begins with `maybe`, `likely` or `surely`.
#
# **Predict.** What share of the lines of each kind is right?


# %%
def is_right(line):
    """Whether the aspect of a global line matters for the line's use, or for all uses if it names none."""
    uses = [n for n, use in enumerate(USES[: HARD.uses]) if use in line.text.split()] or range(HARD.uses)
    return all(line.text.split()[-1] in matters[kinds.index(line.scenario)][n] for n in uses)


of_kinds = [line for line in env.memory.global_entries if line.scenario in kinds]
for word in CERTAINTY:
    right = [is_right(line) for line in of_kinds if line.text.startswith(word)]
    print(f"{word:7} {sum(right):3} of {len(right):3} lines are right")
wrong = [line.text for line in of_kinds if not is_right(line)]
print("wrong, for example:", wrong[:3])
assert wrong and all(line.text.split()[0] in CERTAINTY for line in of_kinds)

# %% [markdown]
# Few lines are wrong in this shop, and few begin with `maybe`. So these numbers do not tell us how well the three words
# fit.
#
# **3. Tastes change.** In some aspects (`drifting`), a person's taste changes once, in the third quarter of the
# history. In the others it stays, but people have whims: a single purchase may go against the usual taste. The
# profile has two lines per aspect: `overall` holds the most frequent value, `lately` the latest.
#
# **Predict.** Which of the two lines is right more often for a drifting aspect, and which for a steady one?

# %%
print("drifting:", HARD.drifting)
hits = {(kind, head): [] for kind in ("drifting", "steady") for head in ("overall", "lately")}
for q in asked:
    for entry in env.memory.entries(q):
        head, aspect, value, *_ = entry.text.split()
        if entry.level == "profile" and aspect in q.truth:
            hits["drifting" if aspect in HARD.drifting else "steady", head].append(value == q.truth[aspect])
shares = {key: float(np.mean(found)) for key, found in hits.items()}
plt.figure(figsize=(5, 2.2))
plt.barh([" ".join(key) for key in shares], list(shares.values()), color="#4477aa")
plt.xlabel("share of lines that hold the wanted value")
plt.xlim(0, 1)
plt.show()
print({" ".join(key): round(share, 2) for key, share in shares.items()})
assert shares["drifting", "lately"] > shares["drifting", "overall"]
assert shares["steady", "overall"] > shares["steady", "lately"]

# %% [markdown]
# **4. It can be better to leave an aspect out.** A wrong value is worse than none. So a good policy writes a value only
# if it is right often enough.
#
# **Predict.** How likely must a value be right, so that it is worth writing?


# %%
def quality_of(change):
    """nDCG@10 of the oracle's profiles after `change` of their first aspect and value."""
    texts = [f"{q.text} {change(*next(iter(q.truth.items())))} {' '.join(list(q.truth.values())[1:])}" for q in asked]
    return float(ndcg_at_k(env.items.ranks(texts, [q.target for q in asked]), 10).mean())


def another(aspect, value):
    """Another value of the aspect."""
    values = list(ASPECTS[aspect])
    return values[(values.index(value) + 1) % len(values)]


changes = {"right": lambda aspect, value: value, "left out": lambda aspect, value: "", "wrong": another}
found = {name: quality_of(change) for name, change in changes.items()}
print("the first value is", {name: round(score, 2) for name, score in found.items()})
enough = (found["left out"] - found["wrong"]) / (found["right"] - found["wrong"])
print(f"worth writing if it is right with a probability above {enough:.2f}")
assert found["right"] > found["left out"] > found["wrong"]

# %% [markdown]
# **5. Some queries state a value.** Nobody has to look it up, and `truth` does not hold it.

# %%
stated = [len(q.text.split()) // 2 - 1 for q in hard.queries]  # `mug for hiking` states none, then two words per value
print(
    "share of queries that state 0, 1, 2, ... values:",
    (np.bincount(stated) / len(stated)).round(2),
    "expected:",
    HARD.said,
)
example = hard.queries[int(np.argmax(stated))]
print(example.text, "| left to look up:", dict(example.truth))
assert all(n + len(q.truth) == HARD.relevant for n, q in zip(stated, hard.queries, strict=True))

# %% [markdown]
# **6. Records say what was bought.** A record holds the quarter, the rating, the values that the purchase speaks for,
# and the words of the review, which may name the use.

# %%
record = next(entry for entry in env.memory.entries(asked[0]) if entry.level == "record")
print(record.text)
known = [
    any(f"{aspect} {value}" in entry.text for entry in env.memory.entries(q) if entry.level == "record")
    for q in asked
    for aspect, value in q.truth.items()
]
print(f"{np.mean(known):.0%} of the wanted values stand in some record of the person who asks")
assert np.mean(known) > 0.5

# %% [markdown]
# So a policy in this shop has to decide for each query which lines concern it, whether to trust them, which of two
# values to believe, and when to say nothing. `make demo` lets a policy learn there, beside the best plain rule. The
# other notebooks stay in the easy shop, so that their numbers stay simple.
#
# No synthetic shop can tell us whether people talk like this, how their tastes change, or whether real categories have
# a few deciding aspects. Real data can (notebook 11), but there nobody knows the answer. We need both.
#
# ## Summary
#
# - A query is underspecified by design; the history settles what it leaves open.
# - The shop has a map (category → aspects, the same for all) and preferences (person → values). Global memory can
#   learn the map; local memory can learn the preferences.
# - The oracle is the ceiling, and it is below 1. A result above it means a leak.
# - In the easy shop, one plain rule suffices. In the default shop, what matters depends on the use, global memory is
#   sometimes wrong, tastes change, and a wrong value is worse than none.
# - Users are split, not queries. Held-out categories test what carries over. A history ends strictly before its
#   query.
#
# ## Exercises
#
# | name | kind | command | minutes | you will have learned |
# | --- | --- | --- | --- | --- |
# | `history_before` | fill in | `make exercise EX=history_before` | 10 | what a query may know |
# | `target_in_memory` | silent bug | `make exercise EX=target_in_memory` | 15 | how a leak looks from outside |
