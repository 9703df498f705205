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
# # 07 · REINFORCE
#
# **Question.** An episode of forty sampled tokens earned 5.2. Which of the forty tokens deserve it? And how do we get
# a gradient from a number that no gradient passes through?
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

from mrrec_mini import reinforce
from mrrec_mini.reinforce import baseline, reinforce_loss
from mrrec_mini.train import Trainer, train

torch.set_num_threads(1)
SMALL = os.environ.get("MRREC_SMALL") == "1"

# %% [markdown]
# ## The gradient of an expectation
#
# $$\nabla\, \mathbb{E}[r] = \mathbb{E}\Big[\sum_t (r - b)\, \nabla \log \pi(o_t \mid o_{<t})\Big], \qquad
# L = -\frac1B \sum_i \sum_t A_i \log \pi(o_{i,t}), \quad A_i = r_i - b_i$$
#
# $\pi(o_t \mid o_{<t})$ is the probability that the policy gives to token $t$ after the tokens before it. $B$ is the
# number of episodes, $T$ the length of the longest one, and $L$ the loss.
#
# | symbol | here | shape | file |
# | --- | --- | --- | --- |
# | $r_i$, the reward of episode $i$ | `rewards` | (B,) | `reward.py` |
# | $b_i$, the baseline: what the reward is compared with | `baseline(rewards, groups, kind)` | (B,) | `reinforce.py` |
# | $A_i$, the advantage | `advantages` | (B,) | `reinforce.py` |
# | $\log \pi(o_t)$ | `logprobs` | (B, T) | `reinforce.token_logprobs` |
# | - | `mask` | (B, T), 1 where the policy sampled | `datatypes.Episode` |
#
# The reward stands *beside* the gradient, as a weight. We differentiate neither the shop nor the memory nor the
# ranking.
#
# ## By hand: two arms
#
# A policy chooses arm 1 with probability $p = \sigma(\theta)$, where $\sigma$ is the sigmoid. Arm 1 pays 1 and arm 0
# pays 0. So $\mathbb{E}[r] = p$, and the true gradient in $\theta$ is $p(1-p)$: at $\theta = 0$ it is .25. REINFORCE
# sees $1 \cdot \nabla \log p = 1 - p$ with probability $p$, and $0$ otherwise. The mean is $p(1-p)$: the same.

# %%
theta = torch.zeros((), requires_grad=True)
log_p = torch.nn.functional.logsigmoid(theta)  # of arm 1
seen = [(1.0, log_p), (0.0, torch.log(1 - log_p.exp()))]  # (reward, log-probability) of each arm
estimate = sum(
    log_pi.exp().detach() * r * torch.autograd.grad(log_pi, theta, retain_graph=True)[0] for r, log_pi in seen
)
step = 1e-4
difference = (torch.sigmoid(torch.tensor(step)) - torch.sigmoid(torch.tensor(-step))) / (2 * step)
print(f"mean of REINFORCE {estimate:.4f}, finite difference of the expected reward {difference:.4f}")
assert abs(float(estimate) - 0.25) < 1e-6 and abs(float(difference) - 0.25) < 1e-3

# %% [markdown]
# **Predict.** Both arms now pay 10 more: 11 and 10. Does the mean of the estimate change? And its spread?


# %%
def estimates(pay, b, n=4000):
    """n single-sample estimates of the gradient at p = 1/2."""
    arms = np.random.default_rng(0).integers(0, 2, n)
    return (np.where(arms == 1, *pay) - b) * (arms - 0.5)


for name, pay, b in (
    ("pays 1, 0", (1.0, 0.0), 0.0),
    ("pays 11, 10", (11.0, 10.0), 0.0),
    ("11, 10, baseline 10.5", (11.0, 10.0), 10.5),
):
    e = estimates(pay, b)
    print(f"{name:22} mean {e.mean():6.3f}  standard deviation {e.std():.3f}")
assert estimates((11.0, 10.0), 0.0).std() > 5 and estimates((11.0, 10.0), 10.5).std() < 1e-9

# %% [markdown]
# The mean stays the same (up to noise), but the spread is twenty times as large. With a baseline of 10.5 there is no
# spread at all. A baseline does not change the expectation, since $\mathbb{E}[\nabla \log \pi] = 0$. But it decides
# how many episodes we need.
#
# ## Baselines from a group
#
# Each query is played G times. The mean reward of this group tells how hard the query is.

# %%
print(inspect.getsource(baseline))
rewards, groups = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(4).long()
for kind in reinforce.BASELINES:
    print(
        f"{kind:14} b {baseline(rewards, groups, kind).numpy().round(3)}  A {(rewards - baseline(rewards, groups, kind)).numpy().round(3)}"
    )
assert torch.allclose(rewards - baseline(rewards, groups, "leave_one_out"), torch.tensor([1.0, -1 / 3, -1 / 3, -1 / 3]))

# %% [markdown]
# **By hand.** Leave-one-out: the winner is compared with the mean of the *others*, 0, so $A = 1$. A loser is compared
# with $(1 + 0 + 0)/3$, so $A = -1/3$. The group mean gives $.75$ and $-.25$. Each of these is $(G-1)/G = 3/4$ of the
# leave-one-out advantage, because the group mean contains the episode itself. The direction is the same.
#
# ## The loss, and what its value means

# %%
print(inspect.getsource(reinforce_loss))
logprobs = torch.tensor([[-1.0, -2.0, 0.0], [-0.5, -1.0, -3.0]], requires_grad=True)
mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
loss = reinforce_loss(logprobs, torch.tensor([2.0, -1.0]), mask, episodes=2)
loss.backward()
print("loss", loss.item(), " gradient", logprobs.grad.tolist())
assert loss.item() == -(2 * -3 + -1 * -4) / 2 and logprobs.grad[0, 2] == logprobs.grad[1, 0] == 0

# %% [markdown]
# **Predict.** Training goes well and the mean reward doubles. What does the loss do?
#
# You cannot see the progress in the loss. Its *value* is a sum of advantages times log-probabilities. The advantages
# sum to 0, so the value stays near 0 from the first step to the last. Only its gradient means anything.
# Here is a real run:

# %% tags=["learned"]
task = Task.make(0)
start = warm_policy(task, 0, 60 if SMALL else 200)
print("before:", report(start, task))

# %% tags=["learned"]
arms = {"no baseline": "none", "group mean": "group", "leave one out": "leave_one_out"}
steps = 2 if SMALL else 50
logs, after = {}, {}
for name, kind in arms.items():
    config = replace(CONFIG, algo="reinforce", baseline=kind, steps=steps)
    model = deepcopy(start)
    logs[name] = train(Trainer(model, TOKENIZER, [task], config))
    after[name] = report(model, task)
    print(f"{name:14} {after[name]}")

# %%
plt.figure(figsize=(7, 3.2))
for name, log in logs.items():
    smooth = np.convolve([line["reward"] for line in log], np.ones(min(5, steps)) / min(5, steps), "valid")
    plt.plot(smooth, label=name)
plt.axhline(BEST, color="grey", linestyle=":", label="best possible")
plt.xlabel("step")
plt.ylabel("reward (mean of 5 steps)")
plt.legend()
plt.show()
if not SMALL:
    assert after["group mean"].reward > 0.72 and after["leave one out"].reward > 0.72

# %% [markdown]
# All three learn in fifty steps to look up exactly when the query leaves something open. The arm without a baseline
# does as well as the others. Is a baseline useless, then? This game is kind: rewards lie between 0 and 1, and 96
# episodes per step average the noise away. In the easy shop at full size, where a reward can be 10, two of three
# seeds without a baseline ended at .452 and .467, as those with one do, and the third fell to .299
# (`benchmarks/README.md`). A small experiment answers a small question.
#
# ## What breaks it: tokens that nobody chose
#
# The mask keeps the prompt and the memory out of the sum. The policy reads these tokens, but it is never praised for
# them. This is what happens without the mask:

# %%
given = torch.tensor(
    [[-6.0, -1.0], [-6.0, -1.0]], requires_grad=True
)  # column 0: a memory token, improbable to the policy
only = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
advantages = torch.tensor([1.0, 1.0])
for name, m in (("masked", only), ("mask forgotten", torch.ones(2, 2))):
    [g] = torch.autograd.grad(reinforce_loss(given, advantages, m, 2), given)
    print(f"{name:15} gradient of the memory token {g[0, 0]:.2f}, of the policy's own {g[0, 1]:.2f}")
assert torch.autograd.grad(reinforce_loss(given, advantages, only, 2), given)[0][:, 0].abs().sum() == 0

# %% [markdown]
# Without the mask a memory token is praised like a token of the policy's own, so the policy learns to *recite
# people's memories*. These tokens are improbable to the policy, so this is where it can gain most.
#
# ## Summary
#
# - The reward is a weight on $\nabla \log \pi$ of what was sampled. Nothing is differentiated through the world.
# - A baseline does not change the expectation, and it reduces the spread. The group gives one for free.
# - The value of the loss means nothing; its gradient is what counts.
# - Tokens that the policy did not sample have weight 0.
#
# ## Exercises
#
# | name | kind | command | minutes | you will have learned |
# | --- | --- | --- | --- | --- |
# | `baseline` | fill in | `make exercise EX=baseline` | 20 | the mean of the others |
# | `reinforce_loss` | fill in | `make exercise EX=reinforce_loss` | 15 | what is summed, and what the sum is divided by |
#
# You can run both in the real loop: `mrrec train --data DIR --run RUN --algo reinforce --with answers/baseline.py`.
