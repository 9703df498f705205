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
# # 08 · GRPO, as the difference to REINFORCE
#
# **Question.** The paper trains with GRPO (group relative policy optimisation). What does it change in the loss of
# notebook 07, and which of the changes matter?
#
# `data -> memory -> retrieval -> rollout -> reward -> update -> evaluation`
# `                                                   ^^^^^^`

# %%
import inspect
import os
from copy import deepcopy
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from toys import BEST, CONFIG, TOKENIZER, Task, report, warm_policy

from mrrec_mini.grpo import GRPOConfig, clipped_surrogate, group_advantages, grpo_loss, kl_term, length_weights
from mrrec_mini.reinforce import reinforce_loss
from mrrec_mini.train import Trainer, train

torch.set_num_threads(1)
SMALL = os.environ.get("MRREC_SMALL") == "1"

# %% [markdown]
# ## The formula (eq. 11)
#
# $$A_i = \frac{r_i - \text{mean}(r)}{\sigma(r)}, \quad \rho_t = \frac{\pi(o_t)}{\pi_{old}(o_t)}, \quad
# J = \frac{1}{\sum_i |o_i|} \sum_i \sum_t \min\big(\rho_t A_i,\ \text{clip}(\rho_t, 1-\epsilon_l, 1+\epsilon_h)
# A_i\big) - \beta\, \text{KL}$$
#
# $r_i$ is the reward of episode $i$; mean and $\sigma$ (the standard deviation) are taken over its group. $\pi_{old}$
# is the policy that sampled the batch. $|o_i|$ is the number of tokens that the policy wrote in episode $i$. $J$ is
# maximised; the loss is $-J$.
#
# | symbol | here | shape | file |
# | --- | --- | --- | --- |
# | $A_i$, the advantage | `group_advantages(rewards, groups, sigma)` | (B,) | `grpo.py` |
# | $\rho_t$, the ratio | `importance_ratio` | (B, T) | `grpo.py` |
# | $\epsilon_l, \epsilon_h$, how far the ratio may go | `clip` = (.2, .28) | two numbers | `grpo.GRPOConfig` |
# | $1 / \sum \vert o_i\vert$ | `length_weights(mask, "token", ...)` | (B, T) | `grpo.py` |
# | $\beta$ KL, the distance to a reference model | `beta` = 0, `kl_term` | (B, T) | `grpo.py` |
#
# There are three changes to REINFORCE. The advantage may be divided by sigma. The log-probability becomes a *ratio*
# that is clipped. The sum is divided by the number of tokens instead of episodes. Side by side:

# %%
print(inspect.getsource(reinforce_loss).split('"""')[-1])
print(inspect.getsource(grpo_loss).split('"""')[-1])

# %% [markdown]
# ## On policy the ratio is 1
#
# The first update on fresh episodes is made by the policy that sampled them. So $\pi = \pi_{old}$, the ratio is
# exactly 1, and the clip does nothing. The *gradient* of the ratio is not 0:
# $\nabla \rho = \rho\, \nabla \log \pi = \nabla \log \pi$.
#
# **Predict.** With one update per batch (`epochs=1`) and no sigma, how do the gradients of GRPO and of REINFORCE with
# the group mean differ?

# %%
logprobs = torch.tensor([[-1.0, -2.0, 0.0], [-0.5, -1.0, -3.0]], requires_grad=True)
mask = torch.tensor([[True, True, False], [False, True, True]])
advantages = torch.tensor([1.0, -1.0])
config = GRPOConfig(length="token")
[of_grpo] = torch.autograd.grad(grpo_loss(logprobs, logprobs.detach(), advantages, mask, config, 2, 4), logprobs)
[of_reinforce] = torch.autograd.grad(reinforce_loss(logprobs, advantages, mask, 2), logprobs)
print("GRPO     ", of_grpo.tolist(), "\nREINFORCE", of_reinforce.tolist())
assert torch.allclose(of_grpo * 4, of_reinforce * 2)

# %% [markdown]
# They differ by a factor: one divides by the 4 tokens, the other by the 2 episodes. On policy, GRPO *is* REINFORCE
# with a group baseline.
#
# ## When the clip acts
#
# Several updates on one batch (`epochs` > 1) let the policy move away from the one that sampled. The clip then stops
# those tokens whose ratio has moved far enough.
#
# **By hand**, with $\epsilon = .2$. Ratio 1.5, $A = 1$: $\min(1.5, 1.2) = 1.2$, and no gradient: the token has been
# praised enough. Ratio 1.5, $A = -1$: $\min(-1.5, -1.2) = -1.5$: a bad token that became *more* likely is still
# pushed back. This is why the formula takes the minimum.

# %%
ratio = torch.linspace(0.4, 1.8, 57)
fig, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharex=True)
for axis, a in zip(axes, (1.0, -1.0), strict=True):
    axis.plot(ratio, clipped_surrogate(ratio[None], torch.tensor([a]), (0.2, 0.2))[0])
    axis.set(xlabel="ratio", title=f"A = {a:+.0f}")
axes[0].set_ylabel("objective")
plt.show()
by_hand = [float(clipped_surrogate(torch.tensor([[1.5]]), torch.tensor([a]), (0.2, 0.2))) for a in (1.0, -1.0)]
print(by_hand)
assert np.allclose(by_hand, [1.2, -1.5])

# %% [markdown]
# Where a curve is flat, there is no gradient. This is the case above 1.2 for good tokens and below .8 for bad ones,
# but never on the side where something has to be undone.
#
# ## "GRPO" is not one formula
#
# Take one group with rewards (1, 0, 0, 0) and answers of 2, 4, 4 and 8 tokens, without KL and without clip. Four
# well-known code bases give each *token* of these answers a different weight.
#
# **Predict.** In how many of the four rules does a token of the long wrong answer (8) get less blame than a token of
# the short wrong answers (4)?

# %%
rewards, groups = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(4).long()
lengths = torch.tensor([2, 4, 4, 8])
answers = (torch.arange(8)[None] < lengths[:, None]).float()  # (4, 8)
rules = {
    "nanochat": ("none", "token"),
    "GRPO-Zero, nano-aha-moment": ("population", "token"),
    "reasoning-from-scratch": ("group", "sum"),
    "simple_GRPO": ("group", "sequence"),
}
weights = {}
for name, (sigma, length) in rules.items():
    # "sum" adds up the tokens of an answer and takes the mean over answers: the rule "constant" with a constant of 1
    w = length_weights(answers, "constant" if length == "sum" else length, 4, 18, 1)
    weights[name] = (group_advantages(rewards, groups, sigma)[:, None] * w)[:, 0]
    print(f"{name:28} {weights[name].numpy().round(3)}")
assert np.allclose(weights["nanochat"], [0.042, -0.014, -0.014, -0.014], atol=6e-4)
assert np.allclose(weights["GRPO-Zero, nano-aha-moment"], [0.096, -0.032, -0.032, -0.032], atol=6e-4)
assert np.allclose(weights["reasoning-from-scratch"], [0.375, -0.125, -0.125, -0.125], atol=6e-4)
assert np.allclose(weights["simple_GRPO"], [0.188, -0.031, -0.031, -0.016], atol=6e-4)

# %% [markdown]
# In one rule: with a mean *within* each answer, a token of an answer twice as long gets half the blame. Under this rule
# a wrong policy does best if its answers are long. The scale differs ninefold between the rows. With Adam, the scale is
# mostly a matter of the learning rate; the *proportions* are not. (A fifth code base, the course CS336, makes
# all of these choices options, as we do here.)

# %%
plt.figure(figsize=(7, 2.8))
for shift, (name, w) in enumerate(weights.items()):
    relative = w / w[0]
    plt.bar(np.arange(4) + 0.2 * shift, relative, 0.2, label=name)
plt.xticks(np.arange(4) + 0.3, ["2 tokens, right", "4, wrong", "4, wrong", "8, wrong"])
plt.ylabel("weight of a token, relative to the right one")
plt.axhline(0, color="black", linewidth=0.8)
plt.legend(fontsize=8)
plt.show()

# %% [markdown]
# MR.Rec averages over tokens (`length="token"`), and so do we. It also divides by sigma; we do not by default, and we
# say so. Take a lucky hit, which is the only success of its group, and an ordinary one, which is one of many successes.
# The lucky hit has the larger advantage even without sigma, because its group has the lower mean.
#
# **By hand.** In a group of 8, the advantage of the only success is $1 - \tfrac18 = \tfrac78$, and that of one of four
# successes is $1 - \tfrac48 = \tfrac12$: 1.75 times as much. The sums of squares around the mean are $8 \cdot
# \tfrac18 \cdot \tfrac78 = \tfrac78$ and $8 \cdot \tfrac12 \cdot \tfrac12 = 2$, so dividing by sigma multiplies this by
# $\sqrt{2 / \tfrac78} = 1.51$, which gives $\sqrt 7 = 2.65$.

# %%
for size in (4, 8):
    lucky, ordinary = torch.zeros(size), torch.zeros(size)
    lucky[:1], ordinary[: size // 2] = 1.0, 1.0
    both, of_group = torch.cat([lucky, ordinary]), torch.arange(2).repeat_interleave(size)
    times = {}
    for sigma in ("none", "group"):
        advantages = group_advantages(both, of_group, sigma)
        times[sigma] = float(advantages[0] / advantages[size])
    print(
        f"group of {size}: the lucky hit has {times['none']:.2f} times the advantage; by sigma {times['group']:.2f} times"
    )
assert abs(times["none"] - 1.75) < 1e-6 and abs(times["group"] - 7**0.5) < 1e-2

# %% [markdown]
# Dividing by sigma also turns noise into a full step if all rewards are nearly equal:

# %%
nearly = torch.tensor([0.500, 0.501, 0.500, 0.500])
print("none ", group_advantages(nearly, groups, "none").numpy().round(4))
print("group", group_advantages(nearly, groups, "group").numpy().round(2))
assert group_advantages(nearly, groups, "group").max() > 1
assert not group_advantages(torch.full((4,), 0.1), groups, "group").any()

# %% [markdown]
# ## KL, the estimator that is easy to get wrong
#
# $k_3 = e^d - d - 1$ with $d = \log\pi_{ref} - \log\pi$ estimates the *value* of the KL well, but its gradient belongs
# to another objective. If $k_3$ is multiplied by the ratio, the gradient is right.

# %%
print(inspect.getsource(kl_term).split('"""')[-1])

# %% [markdown]
# We check this on a policy with two tokens, for which the KL and its gradient can be written down: $p = (.7, .3)$
# against the reference $(.5, .5)$.

# %%
z = torch.tensor([0.7, 0.3]).log().requires_grad_()
log_p, log_q = torch.log_softmax(z, -1), torch.tensor([0.5, 0.5]).log()
[true] = torch.autograd.grad((log_p.exp() * (log_p - log_q)).sum(), z, retain_graph=True)
ratio = torch.exp(log_p - log_p.detach())


def mean(values):
    """The expectation over sampled tokens."""
    return (log_p.exp().detach() * values).sum()


[ours] = torch.autograd.grad(mean(kl_term(log_p, log_q, ratio)), z, retain_graph=True)
d = log_q - log_p
[k3_alone] = torch.autograd.grad(mean(torch.exp(d) - d - 1), z)
print("true", true.numpy().round(3), " with the ratio", ours.numpy().round(3), " k3 alone", k3_alone.numpy().round(3))
assert torch.allclose(true, ours, atol=1e-6) and not torch.allclose(true, k3_alone, atol=1e-2)

# %% [markdown]
# ## It learns
#
# We train three versions on the game of notebook 05, from the same start.

# %% tags=["learned"]
task = Task.make(0)
start = warm_policy(task, 0, 60 if SMALL else 200)
arms = {"default": {}, "sigma of the group": {"sigma": "group"}, "mean in each answer": {"length": "sequence"}}
steps = 2 if SMALL else 50
results = {}
for name, choice in arms.items():
    model = deepcopy(start)
    log = train(Trainer(model, TOKENIZER, [task], replace(CONFIG, steps=steps, grpo=GRPOConfig(**choice))))
    results[name] = ([line["reward"] for line in log], report(model, task))
    print(f"{name:20} {results[name][1]}")

# %%
plt.figure(figsize=(7, 3))
for name, (curve, _) in results.items():
    plt.plot(np.convolve(curve, np.ones(min(5, steps)) / min(5, steps), "valid"), label=name)
plt.axhline(BEST, color="grey", linestyle=":")
plt.xlabel("step")
plt.ylabel("reward (mean of 5 steps)")
plt.legend()
plt.show()
if not SMALL:
    assert results["default"][1].reward > 0.72

# %% [markdown]
# In this small game all of them reach the optimum: with one update per batch and short answers the choices hardly
# differ (`benchmarks/README.md` finds the same in the easy shop). They differ if answers are long, groups are small, or
# batches are used several times. So name your choices; the name "GRPO" does not tell them.
#
# ## What breaks it
#
# `tests/wrong.py` holds five dozen plausible mistakes, and a test rejects each of them. Notebook 12 shows some of them.
# Here is one to try at once: the minimum is forgotten.

# %%
ratio, bad = torch.tensor([[1.5]], requires_grad=True), torch.tensor([-1.0])
[right] = torch.autograd.grad(clipped_surrogate(ratio, bad, (0.2, 0.2)).sum(), ratio)
[wrong] = torch.autograd.grad((ratio.clamp(0.8, 1.2) * bad[:, None]).sum(), ratio)
print("gradient on a bad token that became more likely:", right.item(), "without the minimum:", wrong.item())
assert right.item() == -1 and wrong.item() == 0

# %% [markdown]
# ## Run your own
#
# A file may define one or more of `group_advantages`, `clipped_surrogate`, `kl_term`, `length_weights`,
# `importance_ratio` and `grpo_loss`. The real training loop then uses them, and the package's own version is trained
# beside it from the same start:
#
# ```
# mrrec data make-world --users 80 --items 500 --seed 0 --out shop
# mrrec train --data shop --run runs/mine --with answers/group_advantages.py
# ```
#
# ## Summary
#
# - On policy and with one update per batch, GRPO is REINFORCE with a group baseline, up to a factor.
# - Ratio and clip matter from the second update on a batch. The minimum lets an update undo a step in the wrong
#   direction.
# - Sigma and the length rule are choices that change how much each token is praised. Say which ones you made.
# - $k_3$ needs the ratio; without it, its gradient belongs to another objective.
#
# ## Exercises
#
# | name | kind | command | minutes | you will have learned |
# | --- | --- | --- | --- | --- |
# | `group_advantages` | fill in | `make exercise EX=group_advantages` | 15 | groups, sigma, and what equal rewards give |
# | `clipped_surrogate` | fill in | `make exercise EX=clipped_surrogate` | 15 | when the clip acts, and why there is a minimum |
# | `kl_term` | fill in | `make exercise EX=kl_term` | 15 | why a right value can have a wrong gradient |
# | `which_grpo` | predict, then run | `make exercise EX=which_grpo` | 15 | which rule favours long wrong answers |
# | `sigma_axis` | silent bug | `make exercise EX=sigma_axis` | 20 | how a wrong axis looks from outside |
