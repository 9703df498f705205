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
# **Question.** An episode of forty sampled tokens earned 5.2. Which of the forty deserve it, and how does one get a
# gradient from a number that no gradient passes through?
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
# | symbol | here | shape | file |
# | --- | --- | --- | --- |
# | $r_i$ | `rewards` | (B,) | `reward.py` |
# | $b_i$ | `baseline(rewards, groups, kind)` | (B,) | `reinforce.py` |
# | $A_i$ | `advantages` | (B,) | `reinforce.py` |
# | $\log \pi(o_t)$ | `logprobs` | (B, T) | `reinforce.token_logprobs` |
# | - | `mask` | (B, T), 1 where the policy sampled | `records.Episode` |
#
# The reward stands *beside* the gradient, as a weight. Nothing is differentiated through the shop, the memory or the
# ranking.
#
# ## By hand: two arms
#
# A policy chooses arm 1 with probability $p = \sigma(\theta)$, which pays 1, or arm 0, which pays 0. $\mathbb{E}[r] =
# p$, so the true gradient is
# $p(1-p)$: at $\theta = 0$ it is .25. REINFORCE: with probability $p$ it sees $1 \cdot \nabla \log p = 1 - p$, else $0$. The mean is $p(1-p)$. The same.

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
# The mean stays (up to noise), the spread is twenty times as large, and with a baseline of 10.5 there is none at all.
# A baseline changes no expectation, since $\mathbb{E}[\nabla \log \pi] = 0$, and it decides how many episodes one
# needs.
#
# ## Baselines from a group
#
# For each query G episodes are played. Their mean tells how hard the query is.

# %%
print(inspect.getsource(baseline))
rewards, groups = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(4).long()
for kind in reinforce.BASELINES:
    print(
        f"{kind:14} b {baseline(rewards, groups, kind).numpy().round(3)}  A {(rewards - baseline(rewards, groups, kind)).numpy().round(3)}"
    )
assert torch.allclose(rewards - baseline(rewards, groups, "leave_one_out"), torch.tensor([1.0, -1 / 3, -1 / 3, -1 / 3]))

# %% [markdown]
# **By hand.** Leave-one-out: the winner is compared with the mean of the *others*, 0, so $A = 1$; a loser with $(1 + 0
# + 0)/3$, so $A = -1/3$. The group mean gives $.75$ and $-.25$: the same direction, $(G-1)/G = 3/4$ as long, for it
# contains the episode itself.
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
# Nothing that one could read. Its *value* is advantages times log-probabilities of the moment; with advantages that
# sum to 0 it hovers around 0 from the first step to the last. Only its gradient means anything. Here is a real run:

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
# All three learn in fifty steps to look up exactly when the query leaves something open, the one without a baseline as well
# as the others. Is a baseline then good for nothing? This game is kind: rewards lie between 0 and 1, and 96 episodes a step
# average the noise away. In the shop of notebook 10, where a reward can be 10, REINFORCE without a baseline ended at .407
# against .453 to .458 with any of them (`benchmarks/README.md`, three seeds). A small experiment answers a small question.
#
# ## What breaks it: tokens that nobody chose
#
# The mask keeps prompt and memory out of the sum. They are attended to, and never praised. What happens without it:

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
# Without the mask a memory token is praised like one of its own: the policy is taught to *recite people's memories*. And as
# those tokens are improbable to it, that is where most can be gained.
#
# ## Summary
#
# - The reward is a weight on $\nabla \log \pi$ of what was sampled; nothing is differentiated through the world.
# - A baseline leaves the expectation alone and takes away spread; the group gives one for free.
# - The loss's value means nothing, its gradient everything.
# - What the policy did not sample carries no weight.
#
# ## Exercises
#
# | name | kind | command | minutes | you will have learned |
# | --- | --- | --- | --- | --- |
# | `baseline` | fill in | `make exercise EX=baseline` | 20 | the mean of the others |
# | `reinforce_loss` | fill in | `make exercise EX=reinforce_loss` | 15 | what is summed, and by what it is divided |
#
# Both can be run in the real loop: `mrrec train --data DIR --run RUN --algo reinforce --with answers/baseline.py`.
