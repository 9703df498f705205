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
# # 00 · The tour
#
# **Question.** Somebody asks for a "backpack for office". What has to happen, from that wish to a list of backpacks,
# so that a language model learns to look into this person's memory first?
#
# `data -> memory -> retrieval -> rollout -> reward -> update -> evaluation`
# ` ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^`
#
# One person, one query, all seven stages, and the actual object that each hands to the next. Everything later in the
# course zooms into one of these prints. `mrrec walkthrough` shows the same in a terminal.

# %%
import inspect
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch

from mrrec_mini import datatypes
from mrrec_mini.app.walkthrough import LESSON, SHOP, TINY_LESSON, TINY_SHOP, Tour
from mrrec_mini.evaluate import difference, means, play
from mrrec_mini.grpo import group_advantages, grpo_loss
from mrrec_mini.metrics import ndcg_at_k
from mrrec_mini.reinforce import to_batch, token_logprobs
from mrrec_mini.reward import recommendation_reward, total_reward
from mrrec_mini.rollout import LMActor

torch.set_num_threads(1)
SMALL = os.environ.get("MRREC_SMALL") == "1"  # the size at which CI runs this
tour = Tour(seed=0, shop=TINY_SHOP, recipe=TINY_LESSON) if SMALL else Tour(seed=0, shop=SHOP, recipe=LESSON)

# %% [markdown]
# ## The wire
#
# Seven records pass between the stages, and nothing else.
#
# | paper | record | stage | file |
# | --- | --- | --- | --- |
# | $i$ | `Item` | data | `datatypes.py` |
# | $H_u$ (sec. 2) | `Interaction` | data | `datatypes.py` |
# | $q_u$ | `Query` | data | `datatypes.py` |
# | $M_u$ (eq. 1), $M_{global}$ (eq. 6) | `MemoryEntry` | memory | `datatypes.py` |
# | eq. 8 | `Call` | rollout | `datatypes.py` |
# | $i^*$ (eq. 9) | `Answer` | rollout | `datatypes.py` |
# | a rollout, $r$ (eq. 10) | `Episode` | rollout, reward | `datatypes.py` |

# %%
print(inspect.getsource(datatypes.Query))

# %% [markdown]
# ## 1. Data: a wish and a history
#
# A query says little on purpose. `target` is what the person then took, `truth` what they want of the aspects that
# matter: no policy ever sees either.

# %%
query = tour.query
print(query)
for met in tour.environment.dataset.history(query)[-3:]:
    print(met)

# %% [markdown]
# → notebook 01: the world and its known answers; notebook 11: real data.
#
# ## 2. Memory: what was written down
#
# Three levels of this person's own, and lines about nobody that say what decides in a category. All of it is
# extractive: counted, not generated.

# %%
entries = tour.environment.memory.entries(query)
for level in ("record", "pattern", "profile"):
    print(next(entry for entry in entries if entry.level == level))
shared = tour.environment.memory.search_global(query.text, 6)
print([entry.text for entry in shared])

# %% [markdown]
# → notebook 02.
#
# ## 3. Retrieval: the memory tool
#
# **Predict.** The tool is asked for the first of those lines. Which of the person's memories comes first: a record, a
# pattern, or the profile?

# %%
asked = shared[0].text if shared else query.text
found = tour.environment.memory.local(query).find_many([asked], 5)[0]
print("asked for:", asked)
for entry, hit in found:
    print(
        f"{hit.score:.2f} = .7 x BM25 ({hit.bm25:5.2f}, stretched) + .3 x dense ({hit.dense:5.2f}, stretched)   {entry.level:8} {entry.text}"
    )

# %% [markdown]
# The pattern of that very category, if there is one: it shares both words. The profile's line comes next; it holds the
# value for categories that the person never bought in.
#
# → notebook 03: BM25 by hand; notebook 04: dense and hybrid.
#
# ## 4. Rollout: a language model plays
#
# A model of some 140,000 parameters that has *imitated* a teacher so far (notebook 05). The teacher searches by
# chance. `shown` was given to it, `policy` it wrote itself.

# %% tags=["written"]
model, tokenizer = tour.start
before = next(episode for episode in tour.before if episode.query.id == query.id)
for who, said in tour.eval_set.grammar.transcript(before.tokens, before.mask):
    print(f"{who:7}", said)
print("mask:", "".join(map(str, before.mask)), "| ended:", before.end, "|", before.answer)

# %% [markdown]
# → notebook 06.
#
# ## 5. Reward: what each episode was worth
#
# Training plays each query G times, at temperature 1. **By hand**: an episode in form, with a call, whose target
# stands at rank 3: $.1 + 5\,(\tfrac{1}{\log_2 4} + \tfrac{1}{\log_2 4}) + .1 = 5.2$.

# %% tags=["learned"]
terms = {"format": 1.0, "recommendation": recommendation_reward(3, tour.recipe.train.reward), "memory": 1.0}
assert abs(total_reward(terms, tour.recipe.train.reward) - 5.2) < 1e-9
for n, episode in enumerate(tour.group):
    told = {name: round(value, 2) for name, value in episode.rewards.items()}
    print(n, told, "r =", round(episode.reward, 2))

# %% [markdown]
# ## 6. Update: compared with its group
#
# **Predict.** Which of these episodes will be praised, and which blamed? Can one that found the target at rank 12 be
# blamed?

# %% tags=["learned"]
batch = to_batch(tour.group, [0] * len(tour.group))
advantages = group_advantages(batch.rewards, batch.groups, "none")
plt.figure(figsize=(6, 2.6))
plt.bar(range(len(advantages)), advantages, color=["#4477aa" if a > 0 else "#cc6677" for a in advantages])
plt.axhline(0, color="black", linewidth=0.8)
plt.xlabel("episode of the group")
plt.ylabel("advantage")
plt.show()
print(advantages.numpy().round(2), "sum", round(float(advantages.sum()), 3))
assert abs(float(advantages.sum())) < 1e-3

# %% [markdown]
# It can: the comparison is with its own group, not with the world. Each token that the policy wrote in an episode gets
# that episode's advantage. On fresh episodes the ratio of eq. 11 is 1, and the loss's value says nothing:

# %% tags=["learned"]
with torch.no_grad():
    logprobs, _ = token_logprobs(model, batch.tokens, batch.mask)
sampled = int(batch.mask.sum())
config = tour.recipe.train.grpo
print(
    f"loss of this group {float(grpo_loss(logprobs, logprobs, advantages, batch.mask, config, len(tour.group), sampled)):+.4f}"
)

# %% [markdown]
# Now the same, for many queries and a few dozen steps:

# %%
_, log = tour.learned
fig, axes = plt.subplots(1, 2, figsize=(9, 2.8))
axes[0].plot([line["reward"] for line in log])
axes[0].set(xlabel="step", ylabel="mean reward")
axes[1].plot([line["calls/mean"] for line in log])
axes[1].set(xlabel="step", ylabel="searches an episode")
plt.tight_layout()
plt.show()

# %% [markdown]
# → notebook 07: REINFORCE; notebook 08: GRPO.
#
# ## 7. Evaluation: was it worth it?
#
# All test queries, greedy, the whole pool ranked; the same queries before and after, so the difference is paired.

# %% tags=["learned"]
old, new = tour.rows("warm_start", tour.before), tour.rows("grpo", tour.after)
gain = difference(new, "warm_start", old, np.random.default_rng(0))
print(f"nDCG@10 before {means(old)['ndcg@10']:.3f}, after {means(new)['ndcg@10']:.3f}")
print("difference", round(gain["ndcg@10"], 3), "95 %", np.round(gain["interval"], 3).tolist())
if not SMALL:
    assert gain["interval"][0] > 0

# %% tags=["written"]
after = next(episode for episode in tour.after if episode.query.id == query.id)
for who, said in tour.eval_set.grammar.transcript(after.tokens, after.mask):
    print(f"{who:7}", said)
print("the target stood at", before.rewards["rank"], "and stands at", after.rewards["rank"])
print("nDCG@10 of this one query:", ndcg_at_k([before.rewards["rank"], after.rewards["rank"]], 10).round(2))

# %% [markdown]
# One query is an anecdote: it may well have become worse. The interval over all of them is not. → notebook 09:
# evaluation; notebook 10: MR.Rec end to end.
#
# ## What breaks it
#
# A policy whose memory is taken away while it plays: the same model, no searches allowed.

# %% tags=["learned"]
blind = replace(tour.eval_set, rules=replace(tour.eval_set.rules, max_calls=0))
alone = play(blind, LMActor(tour.learned[0], tour.eval_set.grammar, None, 0.0))
print("nDCG@10 without searches:", round(means(tour.rows("grpo", alone))["ndcg@10"], 3))

# %% [markdown]
# → notebook 12: a dozen bugs that raise nothing at all.
#
# ## How the course works
#
# - Read a notebook, and *predict* before you run a cell that asks for it. Write the prediction down.
# - `make exercise EX=bm25_idf` lays a stub into `answers/` and, from then on, checks what you wrote there.
#   `tutorials/README.md` lists all exercises.
# - `make test ANSWERS=mine` grades everything: one line an exercise.
# - What you wrote can be *run*: `mrrec train --data DIR --run RUN --with answers/group_advantages.py` trains with it,
#   beside the package's own.
#
# ## Summary
#
# - Data → memory → retrieval → rollout → reward → update → evaluation, and seven records between them.
# - The policy writes what to look up and what to look for; the shop's ranking says what that was worth.
# - Only a reward comes back. All else is learned from comparing episodes of one query.
#
# ## Exercises
#
# | name | kind | command | minutes | you will have learned |
# | --- | --- | --- | --- | --- |
# | `history_before` | fill in | `make exercise EX=history_before` | 10 | a first one, to see how checks speak |
