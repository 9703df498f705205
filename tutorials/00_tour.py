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
# **Question.** Somebody asks for a "backpack for office". What has to happen between that wish and a list of
# backpacks, if a language model is to learn to search this person's memory first?
#
# `data -> memory -> retrieval -> rollout -> reward -> update -> evaluation`
# ` ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^`
#
# This notebook follows one person and one query through all seven stages. After each stage it prints the object that
# the stage hands to the next one. The other notebooks explain one stage each. `mrrec walkthrough` shows the same tour
# in a terminal. The shop is the easy one; notebook 01 shows what makes the default shop harder.

# %%
import inspect
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch

from mrrec_mini import datatypes
from mrrec_mini.app.walkthrough import LESSON, SHOP, TINY_LESSON, TINY_SHOP, Tour
from mrrec_mini.evaluate import GREEDY, SAMPLED, difference, episode_rows, means, play_greedily
from mrrec_mini.grpo import group_advantages, grpo_loss
from mrrec_mini.metrics import ndcg_at_k
from mrrec_mini.reinforce import to_batch, token_logprobs
from mrrec_mini.reward import recommendation_reward, total_reward
from mrrec_mini.scripts import lookup_text

torch.set_num_threads(1)
SMALL = os.environ.get("MRREC_SMALL") == "1"  # the size at which CI runs this
tour = Tour(seed=0, shop=TINY_SHOP, recipe=TINY_LESSON) if SMALL else Tour(seed=0, shop=SHOP, recipe=LESSON)

# %% [markdown]
# ## The data types
#
# Seven data types pass between the stages. All of them are defined in `datatypes.py`.
#
# | paper | data type | stage | file |
# | --- | --- | --- | --- |
# | $i$, an item | `Item` | data | `datatypes.py` |
# | $H_u$, the history of user $u$ (sec. 2) | `Interaction` | data | `datatypes.py` |
# | $q_u$, a query of user $u$ | `Query` | data | `datatypes.py` |
# | $M_u$, a user's memory (eq. 1); $M_{global}$, global memory (eq. 6) | `MemoryEntry` | memory | `datatypes.py` |
# | one search of the memory (eq. 8) | `Call` | rollout | `datatypes.py` |
# | $i^*$, the ideal item profile (eq. 9) | `Answer` | rollout | `datatypes.py` |
# | a rollout and its reward $r$ (eq. 10) | `Episode` | rollout, reward | `datatypes.py` |

# %%
print(inspect.getsource(datatypes.Query))

# %% [markdown]
# ## 1. Data: a wish and a history
#
# A query says little on purpose. `target` is the item that the person then took. An *aspect* is a property such as
# price or material; `truth` holds the values that the person wants for the aspects that matter. The policy (the
# language model that we train) sees neither `target` nor `truth`.

# %%
query = tour.query
print(query)
for interaction in tour.environment.dataset.history(query)[-3:]:
    print(interaction)

# %% [markdown]
# → notebook 01: the world and its known answers; notebook 11: real data.
#
# ## 2. Memory: what was written down
#
# The memory of a person has three levels: records, patterns and a profile. *Global* memory is about nobody in
# particular; its lines say which aspects decide in a category, and how sure that is. All of these lines are
# extractive: they are counted from the data, and no language model writes them. A count and a quarter at the end of a
# line say how many purchases support it, and when the latest of them was made.

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
# The *memory tool* searches the person's memory. The first line of global memory names a category and an aspect. We
# ask for these two and for `overall`, the first word of the profile's lines.
#
# **Predict.** Which of the person's memories comes first: a record, a pattern, or the profile?

# %%
asked = lookup_text(shared[0]) if shared else query.text
found = tour.environment.memory.local(query).find(asked, 5)
print("asked for:", asked)
for entry, hit in found:
    print(
        f"{hit.score:.2f} = .7 x BM25 ({hit.bm25:5.2f}, stretched) + .3 x dense ({hit.dense:5.2f}, stretched)   {entry.level:8} {entry.text}"
    )

# %% [markdown]
# A pattern of that category shares the category and the aspect; it exists only if the person bought there. The
# profile's line shares the aspect and `overall`. It holds the person's usual value, also for categories in which the
# person never bought anything.
#
# → notebook 03: BM25 by hand; notebook 04: dense and hybrid.
#
# ## 4. Rollout: a language model plays
#
# The policy is a model with some 140,000 parameters. So far it has only *imitated* a teacher, which searches at
# random (notebook 05). In the transcript below, `shown` marks text that the policy was given and `policy` marks text
# that it wrote itself. In the mask, 1 marks a token that the policy wrote.

# %% tags=["written"]
model, tokenizer = tour.start
before = next(episode for episode in tour.before if episode.query.id == query.id)
for who, text in tour.eval_set.grammar.transcript(before.tokens, before.mask):
    print(f"{who:7}", text)
print("mask:", "".join(map(str, before.mask)), "| ended:", before.end, "|", before.answer)

# %% [markdown]
# → notebook 06.
#
# ## 5. Reward: what each episode was worth
#
# In training, the policy plays each query G times and draws its tokens at random (at temperature 1). The G episodes
# of one query are a *group*. **By hand**: take an episode that is well formed, made a call, and puts the target at
# rank 3. It earns .1 for its form, 5 times nDCG@1000 + nDCG@100 for the rank, and .1 for the call:
# $.1 + 5\,(\tfrac{1}{\log_2 4} + \tfrac{1}{\log_2 4}) + .1 = 5.2$ (notebook 06).

# %% tags=["learned"]
terms = {"format": 1.0, "recommendation": recommendation_reward(3, tour.recipe.train.reward), "memory": 1.0}
assert abs(total_reward(terms, tour.recipe.train.reward) - 5.2) < 1e-9
for n, episode in enumerate(tour.group):
    rewards = {name: round(value, 2) for name, value in episode.rewards.items()}
    print(n, rewards, "r =", round(episode.reward, 2))

# %% [markdown]
# ## 6. Update: compared with its group
#
# The *advantage* of an episode is its reward minus the mean reward of its group. The update makes the tokens of an
# episode with a positive advantage more likely (we say it is praised), and those of an episode with a negative
# advantage less likely (it is blamed).
#
# **Predict.** Which of these episodes will be praised, and which will be blamed? Can an episode be blamed although it
# found the target at rank 12?

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
# It can: an episode is compared with its own group, and with nothing else. Each token that the policy wrote in an
# episode gets the advantage of that episode. On fresh episodes the ratio of eq. 11 is 1, so we pass the same
# log-probabilities twice. Only the gradient of the loss matters; its value says nothing about progress (notebook 07):

# %% tags=["learned"]
with torch.no_grad():
    logprobs, _ = token_logprobs(model, batch.tokens, batch.mask)
sampled = int(batch.mask.sum())
config = tour.recipe.train.grpo
print(
    f"loss of this group {float(grpo_loss(logprobs, logprobs, advantages, batch.mask, config, len(tour.group), sampled)):+.4f}"
)

# %% [markdown]
# Now the same for many queries and a few dozen steps:

# %%
_, log = tour.learned
fig, axes = plt.subplots(1, 2, figsize=(9, 2.8))
axes[0].plot([line["reward"] for line in log])
axes[0].set(xlabel="step", ylabel="mean reward")
axes[1].plot([line["calls/mean"] for line in log])
axes[1].set(xlabel="step", ylabel="searches per episode")
plt.tight_layout()
plt.show()

# %% [markdown]
# → notebook 07: REINFORCE; notebook 08: GRPO.
#
# ## 7. Evaluation: was it worth it?
#
# The policy now answers all test queries, and each profile ranks the whole pool of items. The queries are the same
# before and after training, so we can compare query by query (a paired difference).
#
# We judge the *sampled* policy (temperature 1), because GRPO trains the sampled policy. Beside it we show the same
# policy played *greedily*: it always takes the most likely token.
#
# **Predict.** Which has more to gain: the sampled start or the greedy start?

# %% tags=["learned"]
old, new = tour.rows("warm_start", model), tour.rows("grpo", tour.learned[0])
gains = {}
for mode in (SAMPLED, GREEDY):
    gains[mode] = difference(new[mode], old[mode], about=("difference", "grpo", "warm_start", mode, "test"))
    low, high = np.round(gains[mode]["interval"], 3)
    print(f"{mode:7} nDCG@10 before {means(old[mode])['ndcg@10']:.3f}, after {means(new[mode])['ndcg@10']:.3f}")
    print(f"        difference {gains[mode]['ndcg@10']:+.3f}, 95 % {low:+.3f} to {high:+.3f}")
if not SMALL:
    assert gains[SAMPLED]["interval"][0] > 0

# %% [markdown]
# The warm start is much worse sampled than greedy: it imitated a teacher that searches at random, so it gives much
# probability to bad look-ups. Training moves probability to what earned more, so the sampled policy has more to gain.
#
# Here is our query again, played greedily after training:

# %% tags=["written"]
after = next(episode for episode in tour.after if episode.query.id == query.id)
for who, text in tour.eval_set.grammar.transcript(after.tokens, after.mask):
    print(f"{who:7}", text)
print("the target stood at", before.rewards["rank"], "and stands at", after.rewards["rank"])
print("nDCG@10 of this one query:", ndcg_at_k([before.rewards["rank"], after.rewards["rank"]], 10).round(2))

# %% [markdown]
# One query is only an anecdote: its rank may well have become worse. The interval over all queries is the evidence.
#
# → notebook 09: evaluation; notebook 10: MR.Rec, end to end.
#
# ## What breaks it
#
# We take the memory away from the policy while it plays: the same model, but no searches allowed.

# %% tags=["learned"]
blind = replace(tour.eval_set, rules=replace(tour.eval_set.rules, max_calls=0))
alone = episode_rows(blind, "grpo", GREEDY, play_greedily(blind, tour.learned[0]))
print("nDCG@10 without searches:", round(means(alone)["ndcg@10"], 3))

# %% [markdown]
# → notebook 12: a dozen bugs that raise no error.
#
# ## How the course works
#
# - Read a notebook. When a cell asks you to *predict*, write your prediction down before you run the cell.
# - `make exercise EX=bm25_idf` puts a stub into `answers/`. Run it again to check what you wrote there.
#   `tutorials/README.md` lists all exercises.
# - `make test ANSWERS=mine` grades all your answers and prints one line per exercise.
# - Some answers can be *run*: `mrrec train --data DIR --run RUN --with answers/group_advantages.py` trains with your
#   function, and trains the package's own beside it.
#
# ## Summary
#
# - Data → memory → retrieval → rollout → reward → update → evaluation, with seven data types between them.
# - The policy writes what to look up and what to look for. The ranking of the shop's items says what that was worth.
# - The policy learns from a reward only: episodes of the same query are compared with each other.
#
# ## Exercises
#
# | name | kind | command | minutes | you will have learned |
# | --- | --- | --- | --- | --- |
# | `history_before` | fill in | `make exercise EX=history_before` | 10 | how an exercise works and how its check answers |
