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
# # 10 · MR.Rec, end to end
#
# **Question.** Does a small language model learn by reinforcement what to look up and how to use it, so that people
# get what they wanted?
#
# `data -> memory -> retrieval -> rollout -> reward -> update -> evaluation`
# ` ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^`
#
# This notebook runs all parts together, at a size that learns within about a minute. There is an easy shop of 90 people,
# and a *sibling shop* as extra training data, whose categories care about other aspects. The teacher is weak, so that
# something is left to learn. `make demo` does the same at full size, in the hard shop of notebook 01, for which a
# minute is not enough.

# %%
import inspect
import os
from copy import deepcopy
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.console import Console

from mrrec_mini.app.tables import arms_table
from mrrec_mini.app.walkthrough import LESSON, SHOP
from mrrec_mini.chat_grammar import grammar_of
from mrrec_mini.evaluate import (
    GREEDY,
    SAMPLED,
    difference,
    episode_rows,
    eval_sets,
    means,
    play_greedily,
    policy_rows,
    reference_rows,
    report_dict,
)
from mrrec_mini.recipe import FAST, copying_policy, imitate, prepare
from mrrec_mini.scripts import UNTOLD, best_untold
from mrrec_mini.train import Trainer, train
from mrrec_mini.world import make_world

torch.set_num_threads(1)
SMALL = os.environ.get("MRREC_SMALL") == "1"
recipe = replace(FAST, train=replace(FAST.train, rules=LESSON.train.rules)) if SMALL else LESSON
seed = 0

# %% [markdown]
# | equation | what | where |
# | --- | --- | --- |
# | (1), (4), (5) | local memory | notebook 02, `memory.py` |
# | (6) | global memory | notebook 02, `summarize.py` |
# | (7), (8), (9) | think, look up, answer | notebook 06, `rollout.py` |
# | (3) | the profile searches the items | notebook 04, `environment.py` |
# | (10) | reward | notebook 06, `reward.py` |
# | (11) | update | notebook 08, `grpo.py` |
#
# ## 1. Data and memory

# %%
environments = prepare(make_world(replace(SHOP, seed=seed)), recipe, seed)
shop = environments[0]
print(shop.dataset.counts(), "and", len(environments) - 1, "sibling shop")
print(len(shop.memory.global_entries), "lines of global memory;", len(shop.split.train_queries), "training queries")
print(
    [len(users) for users in (shop.split.train, shop.split.validation, shop.split.test)],
    "users: train, validation, test",
)
assert not shop.split.train & shop.split.test

# %% [markdown]
# ## 2. A policy that knows the grammar
#
# The policy is first drilled in copying. Then it imitates a teacher that searches at random and often believes the
# wrong line.

# %%
copying, tokenizer = copying_policy(environments, recipe, seed)
model = imitate(deepcopy(copying), tokenizer, environments, recipe, seed)
grammar = grammar_of(tokenizer)
eval_set = eval_sets(shop, grammar, recipe.train.rules, seed)[0]
print(
    f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens, {len(eval_set.queries)} test queries"
)


def answers(arm, policy):
    """Let a policy answer all test queries, greedily and sampled; return the rows. The sampler's seed is always the same."""
    return policy_rows(eval_set, arm, policy, torch.Generator().manual_seed(seed))


before, episodes_before = answers("warm_start", model), play_greedily(eval_set, model)

# %% [markdown]
# ## 3. What needs no reinforcement
#
# A policy that learns is worth little if a plain rule does as well. The *untold* scripts are such rules. They read what
# the policy reads, and nobody tells them the truth. We take the one that is best for the validation users
# (`best_script`). A second policy imitates it in place of the teacher (`clone`).
#
# **Predict.** No taste changes in this shop, and the category alone decides what matters. Which rule will be the best:
# the one that reads the most frequent value, or the latest? The one that believes all global lines, or only the
# certain ones?

# %%
best, scores = best_untold(shop, grammar, recipe.train.rules)
for name, score in sorted(scores.items(), key=lambda pair: -pair[1]):
    print(f"{score:.3f}  {name}")

# %%
clone = imitate(copying, tokenizer, environments, recipe, seed, script=UNTOLD[best])
cloned = answers("clone", clone)

# %% [markdown]
# **Predict.** Which will rise first as the policy learns: the share of well-formed answers, the number of searches,
# or the place of the target?
#
# **By hand.** A well-formed episode with a search and the target at rank 7 earns
# $.1 + 5\,(\tfrac13 + \tfrac13) + .1 = 3.53$ (eq. 10), because $\log_2 8 = 3$. At rank 31 it earns
# $.1 + 5 \cdot \tfrac25 + .1 = 2.2$. So an episode that earns 3.5 and not 2.2 has its target at rank 7 and not at
# rank 31. (A mean reward is a mean of such numbers. It does not say at which rank any target stands.)
#
# ## 4. Learning
#
# This is one step of the package's loop: collect episodes, pack them into a batch, compare each with its group,
# update.

# %%
print(inspect.getsource(Trainer.step))

# %%
log = train(Trainer(model, tokenizer, environments, recipe.train))
after, episodes_after = answers("grpo", model), play_greedily(eval_set, model)
names = {"reward": "reward", "rewards/format/mean": "format", "calls/mean": "searches", "entropy": "entropy (nats)"}
fig, axes = plt.subplots(1, 4, figsize=(12, 2.6))
for axis, (key, title) in zip(axes, names.items(), strict=True):
    axis.plot([line[key] for line in log])
    axis.set(title=title, xlabel="step")
plt.tight_layout()
plt.show()

# %% [markdown]
# The form is right from the start (the grammar constrains decoding here). The number of searches grows, because
# searches pay. The reward is noisy: each step plays only twelve queries, and some are harder than others. The entropy
# falls little: after so few steps, the policy is still unsure, so it still does worse sampled than greedy.
#
# ## 5. Every arm on the same queries
#
# An arm is one of the systems that are compared. `warm_start` is the policy before this training, `grpo` after it.
#
# We judge the *sampled* policy (temperature 1), because GRPO trains the sampled policy, and a warm start is much worse
# sampled than greedy. The greedy numbers stand beside it.
#
# **Predict.** Will `grpo` beat its own start? And will it beat `clone`, which imitates the best plain rule?

# %% tags=["learned"]
rows = reference_rows(eval_set, np.random.default_rng([seed, 3]), recipe.teacher, best) + before + cloned + after
Console(width=100).print(arms_table(report_dict(rows)))
gains = {}
for mode in (SAMPLED, GREEDY):
    for other, name in ((before, "warm_start"), (cloned, "clone")):
        new, old = ([row for row in arm if row.mode == mode] for arm in (after, other))
        gains[mode, name] = gain = difference(new, old, about=("difference", "grpo", name, mode, "test"))
        low, high = np.round(gain["interval"], 3)
        print(f"{mode:7} GRPO minus {name:10} {gain['ndcg@10']:+.3f}, 95 % {low:+.3f} to {high:+.3f}")
if not SMALL:
    assert gains[SAMPLED, "warm_start"]["interval"][0] > 0

# %% [markdown]
# Read the table from the bottom. The *oracle* knows the values, and the *expert* knows what to look up and whose tastes
# drift. *static_memory* appends the whole profile to the query. *best_script* and *clone* know no truth, but somebody
# wrote the script and chose it on validation users. The policy only received a number after each episode.
#
# The differences answer two questions. Does reinforcement improve a policy that imitated a weak teacher? And is it
# worth more than writing down a good rule and imitating it?
#
# **What our run shows.** Reinforcement improved the policy: sampled GRPO minus its start is above 0. Greedy play gained
# less, because the greedy start was already better. GRPO looks up more of the aspects that matter than its start does.
#
# **What it does not show.** It does not show that GRPO beats a plain rule. Sampled, GRPO is below the clone. Greedy, it
# is also lower, but the interval contains 0. GRPO makes all three searches but looks up fewer of the right aspects than
# the clone; some of its searches repeat an earlier one. Searches cost nothing here, so a useless one is hardly punished.
# This run cannot say whether more steps would close the gap. Nor is there much left to learn in this shop: the expert
# knows what to look up, and does no better than the best script.
#
# This is one seed and some hundred queries, so the intervals are wide. The script was chosen on nine validation users,
# so another script may do better on the test users. `make demo` uses two seeds and more steps. `mrrec reproduce all`
# uses more seeds, and removes one part at a time.
#
# ## 6. What it learned to say
#
# Here is the query whose target moved up most (chosen by that rule), before and after training:


# %% tags=["written"]
def place(episode):
    """The target's rank; an episode without an answer gets the last rank."""
    return min(episode.rewards["rank"], len(shop.dataset.items))


moved = [place(one) / place(other) for one, other in zip(episodes_before, episodes_after, strict=True)]
best = int(np.argmax(moved))
for name, episode in (("before", episodes_before[best]), ("after", episodes_after[best])):
    print(f"--- {name}: the target stands at {place(episode):g}")
    for who, text in grammar.transcript(episode.tokens, episode.mask):
        print(f"  {who:7}{text}")
print("truth:", dict(episodes_after[best].query.truth))

# %% [markdown]
# ## What breaks it
#
# **Predict.** Which hurts this policy more: no global memory in its prompt, or no search at all?
#
# The policy stays the same, but we switch off either global memory or its searches:

# %% tags=["learned"]
quality = {}
for name, rules in (("as learned", {}), ("no global memory", {"global_k": 0}), ("no search", {"max_calls": 0})):
    changed = replace(eval_set, rules=replace(eval_set.rules, **rules))
    found = play_greedily(changed, model)
    numbers = means(episode_rows(changed, "grpo", GREEDY, found))
    quality[name] = numbers["ndcg@10"]
    print(f"{name:18} nDCG@10 {quality[name]:.3f}, share of queries answered {numbers['format']:.2f}")
if not SMALL:
    assert quality["as learned"] > quality["no search"]

# %% [markdown]
# This policy was trained with both. Without them, it lacks information, and it stands in a situation that it never
# met; an answer that it does not finish counts as 0. How well does a policy that was *trained* without one
# of them do? That is another question, and the fair one: `mrrec reproduce fig3` answers it.
#
# ## Summary
#
# - Data → memory → a policy that knows the grammar → GRPO → all arms on the same queries.
# - The paired difference between the sampled policy and its own start, with an interval, shows what was learned. It is
#   above 0.
# - The difference to the clone of the best plain rule shows what learning was worth. It is not above 0 in our run.
# - The episodes show what the numbers mean: what the policy looks up, which values it reads, and what it writes down.
#
# ## Exercises
#
# | name | kind | command | minutes | you will have learned |
# | --- | --- | --- | --- | --- |
# | `my_system` | write a system | `make exercise EX=my_system` | 45 | how to compare your own idea on the same queries |
# | `without_profile` | change one thing and measure | `make exercise EX=without_profile` | 20 | what a part is worth |
