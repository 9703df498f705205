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
# # 11 · Real data
#
# **Question.** What changes when people are real? Nobody knows what they wanted, the files are dirty, and the
# simplest arms are hard to beat.
#
# `data -> memory -> retrieval -> rollout -> reward -> update -> evaluation`
# ` ^^^^`
#
# Nothing is downloaded here. The shop of notebook 01 is written in Amazon's format, with the dirt that real files
# have, and the package's importer reads it back.

# %%
import gzip
import inspect
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np

from mrrec_mini.data import DataError, Dataset
from mrrec_mini.environment import Environment
from mrrec_mini.metrics import bootstrap_interval, ndcg_at_k
from mrrec_mini.sources import cleaning
from mrrec_mini.sources.amazon import import_amazon
from mrrec_mini.sources.cleaning import Rejects
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.world import EASY, make_world

SMALL = os.environ.get("MRREC_SMALL") == "1"
shop = make_world(
    replace(EASY, users=40 if SMALL else 150, items=200 if SMALL else 800, categories=6, held=1, history=6, seed=4)
)
folder = TemporaryDirectory()
here = Path(folder.name)

# %% [markdown]
# ## What a line of Amazon Reviews 2018 looks like
#
# | there | here | what it is |
# | --- | --- | --- |
# | `reviewerID` | `Interaction.user` | a person |
# | `asin` | `Interaction.item` | an item |
# | `overall` | `Interaction.rating` | 1 to 5 |
# | `unixReviewTime` | `Interaction.time` | in seconds, but exact only to the *day* |
# | `reviewText` | `Interaction.review` | what was said |
#
# Such a file holds no queries. The importer makes one from each person's last purchase: one core item and one core
# use (sec. 4 of the paper). That purchase is the target.


# %%
by_user = {}
for interaction in sorted(shop.interactions, key=lambda interaction: interaction.time):
    by_user.setdefault(interaction.user, []).append(interaction)
# one purchase per day, by somebody who reviews what arrives
days = {
    user: [replace(interaction, time=1_600_000_000 + 86_400 * n) for n, interaction in enumerate(own)]
    for user, own in by_user.items()
}


def review_line(interaction):
    """One interaction as Amazon writes it."""
    row = {
        "reviewerID": interaction.user,
        "asin": interaction.item,
        "overall": interaction.rating,
        "unixReviewTime": interaction.time,
        "reviewText": interaction.review,
    }
    return json.dumps(row)


def item_line(item):
    """One item's metadata as Amazon writes it."""
    lines = [f"{aspect}: {' '.join(values)}" for aspect, values in item.attributes.items()]
    return json.dumps({"asin": item.id, "title": item.title, "category": list(item.category), "description": lines})


# %%
lines = [review_line(interaction) for own in days.values() for interaction in own]
print(lines[0][:150])

# %% [markdown]
# ## Dirt
#
# Here are five things that real files are full of.
#
# **Predict.** Which of them would raise an error in a careless importer, and which would silently change the result?

# %%
ann, bob, eve = sorted(days)[:3]
last = {user: own[-1] for user, own in days.items()}
new = next(item for item in shop.items if item not in {interaction.item for interaction in days[ann]})
same_day = json.loads(review_line(last[ann])) | {"asin": new, "reviewText": "the same day"}
copied = json.loads(review_line(last[bob])) | {"unixReviewTime": last[bob].time - 9 * 86400, "asin": last[eve].item}
shouted = json.loads(review_line(last[eve])) | {"unixReviewTime": last[eve].time - 9 * 86400, "asin": last[bob].item}
shouted["reviewText"] = "  " + last[eve].review.upper()

# %%
dirty = [*lines, json.dumps(same_day), json.dumps(copied), json.dumps(shouted), lines[0]]
dirty.append(json.dumps(json.loads(lines[0]) | {"overall": 7}))
with gzip.open(here / "reviews.json.gz", "wt") as file:
    file.write("\n".join(dirty) + "\n")
(here / "meta.json").write_text("\n".join(map(item_line, shop.items.values())) + "\n", encoding="utf-8")

# %%
imported = import_amazon(here / "reviews.json.gz", here / "meta.json")
for step in imported.meta["cleaning"]:
    if step["dropped"]:
        print(f"dropped {step['dropped']:3}, kept {step['kept']:4}: {step['step']}")
print(imported.counts())

# %% [markdown]
# A careless importer would accept all five without an error:
#
# - *Two reviews on a person's last day.* Which was last? The times are exact only to the day, so the person gets no
#   query.
# - *A last review that repeats an earlier one word for word.* The text gives the target away.
# - *The target's review in capitals, written earlier.* This is the same leak in another spelling, and it is removed.
# - *The same review twice.* One purchase would count double.
# - *A rating of 7.*
#
# Every step is counted, and the counts stay with the data set (`meta["cleaning"]`). So two people can see whether
# they use the same data.
#
# ## A line that cannot be read
#
# By default, the first such line ends the import. The error names the file, the line and what is wrong. `--skip-bad`
# leaves such lines out and lists them:

# %%
(here / "cut.json").write_text("\n".join([*lines[:40], lines[40][:30], *lines[41:]]) + "\n", encoding="utf-8")
try:
    import_amazon(here / "cut.json", here / "meta.json")
except DataError as error:
    print(str(error).replace(str(here), "..."))

# %%
rejects = Rejects()
kept = import_amazon(here / "cut.json", here / "meta.json", rejects=rejects)
[row] = next(iter(rejects.files().values()))
print("left out:", row["line"], "|", row["reason"][:60])
assert row["line"] == 41

# %% [markdown]
# ## By hand: a leak that no program notices
#
# A person wrote three reviews: "great", "arrived late", "great". The last one is about the target. The memory of the
# first purchase says `great`. Does this give the target away? It does to a text encoder, because the review of the target
# is *identical* to a review in memory. The rule drops earlier reviews that equal the target's review, ignoring case and
# spacing:

# %%
print(inspect.getsource(cleaning.folded))
folded = [cleaning.folded(text) for text in ("Great  product!", "great product!", "great products!")]
print(folded)
assert folded[0] == folded[1] != folded[2]

# %% [markdown]
# ## Nobody knows the answer
#
# Imported data has no `truth`, so there is no oracle, no expert and no ceiling. But we can compare with simple arms.
#
# **Predict.** Which arm is strongest on real magazine subscriptions: the query alone, a person's profile, or what
# *other* people took who share purchases with this person?
#
# `docs/real_data.md` holds what was measured on real data, with the commands. We read the numbers from there instead
# of typing them again:

# %%
page = Path("../docs/real_data.md").read_text(encoding="utf-8")


def measured(command):
    """{arm: (nDCG@10, low, high)} from the table that follows a command in `docs/real_data.md`."""
    table = page.split(command)[1].split("| --- |", 1)[1].split("\n\n")[0]
    row = r"\| `(\w+)` \| ([\d.]+) \(([\d.]+)–([\d.]+)\)"
    return {name: tuple(map(float, numbers)) for name, *numbers in re.findall(row, table)}


# %%
magazine = measured("mrrec demo --data data/magazine --seeds 3")
films = measured("mrrec demo --data data/ml-100k --seeds 3")
fig, axes = plt.subplots(1, 2, figsize=(10, 3.2))
for axis, (title, table) in zip(axes, (("Magazine Subscriptions", magazine), ("MovieLens-100k", films)), strict=True):
    for place, (low, high) in enumerate([bounds for _, *bounds in table.values()]):
        axis.plot([low, high], [place, place], color="black")
    axis.plot([mean for mean, *_ in table.values()], range(len(table)), "o", color="#4477aa")
    axis.set_yticks(range(len(table)), list(table))
    axis.set(title=title, xlabel="nDCG@10, 95 % interval")
plt.tight_layout()
plt.show()
print("strongest:", max(magazine, key=lambda arm: magazine[arm][0]), "and", max(films, key=lambda arm: films[arm][0]))
assert magazine["neighbours"][0] > magazine["grpo"][0] and films["neighbours"][0] > films["grpo"][0]

# %% [markdown]
# `neighbours` reads no text at all. It ranks what people with the same purchases also took. What somebody reads next is
# in *other people's histories*, and a policy that searches only this person's memory cannot see them. No interval shows
# a gain of MR.Rec on magazines, and `docs/real_data.md` says so. A method that works in a shop made for it does not
# necessarily work elsewhere.
#
# ## Intervals are wide
#
# Magazine has 144 test queries.
#
# **Predict.** How wide is a 95 % interval of nDCG@10 around .05, if only one query in ten scores at all?

# %%
rng = np.random.default_rng(0)
values = np.where(rng.random(144) < 0.1, ndcg_at_k(rng.integers(1, 11, 144), 10), 0.0)
found = bootstrap_interval(values, rng)
print(f"mean {found.mean:.3f}, 95 % {found.low:.3f} to {found.high:.3f}")
assert found.high - found.low > 0.03

# %% [markdown]
# It is as wide as the mean itself. A difference of .053 against .047 on such data is noise.
#
# ## The imported data set runs like any other

# %%
split = imported.split(0, 0.6, 0.1, 0.3)
env = Environment.build(imported, split, ExtractiveSummarizer(), np.random.default_rng(0))
query = split.test_queries[0]

# %%
print(query.text, "->", imported.items[query.target].title, "| truth:", query.truth)
print([entry.text for entry in env.memory.entries(query)][:3])
assert all(interaction.time < query.time for interaction in imported.history(query))
Dataset.load(imported.save(here / "shop"))
folder.cleanup()

# %% [markdown]
# ## What breaks it
#
# - *Sorting by time alone* if times are exact only to the day: the order within a day is invented.
# - *Filtering by popularity before the split*: the filter sees the test purchases.
# - *A random split of interactions*: a person's later purchases explain the earlier ones.
# - *Comparing with a weak baseline only*: nobody ran the arm that reads no text, so nobody saw that it wins.
#
# ## Summary
#
# - An importer is a list of named steps, each of them counted. The order of the steps is part of the data set.
# - Leaks come from equal texts in other spellings, from purchases on the same day, and from splits by row.
# - Without truth there is no ceiling. Run simple, strong arms beside yours, and give intervals.
# - A negative result is a result.
#
# ## Exercises
#
# | name | kind | command | minutes | you will have learned |
# | --- | --- | --- | --- | --- |
# | `repeated_review` | fill in | `make exercise EX=repeated_review` | 15 | how a text gives the target away |
# | `last_purchase` | fill in | `make exercise EX=last_purchase` | 20 | when we can be sure which purchase was last |
