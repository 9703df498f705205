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
# # 05 · A small causal language model
#
# **Question.** What is the policy, and how can it be taught to look things up? And what exactly is "the probability
# of what it wrote"?
#
# `data -> memory -> retrieval -> rollout -> reward -> update -> evaluation`
# `                              ^^^^^^^`

# %%
import inspect
import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from toys import GRAMMAR, REWARD, RULES, TOKENIZER, Task, coin_flip_teacher

from mrrec_mini.imitation import WarmStartConfig, warm_start
from mrrec_mini.models.causal_lm import CausalLMConfig, make_causal_lm
from mrrec_mini.reinforce import token_logprobs
from mrrec_mini.rollout import ScriptActor
from mrrec_mini.sampler import Sampler, draw

torch.set_num_threads(1)
SMALL = os.environ.get("MRREC_SMALL") == "1"

# %% [markdown]
# ## From text to ids and back
#
# A language model sees numbers. Here a frequent word is one token, and everything else is spelled in bytes. The
# *control tokens* (`<think>`, `<search>`, ...) have ids that no text can produce.

# %%
ids = TOKENIZER.encode("mug red")
print(ids, "->", TOKENIZER.decode(ids))
print(
    "a text that says <search>:",
    len(TOKENIZER.encode("<search>")),
    "tokens;",
    "the control token:",
    TOKENIZER.control["<search>"],
)
assert TOKENIZER.control["<search>"] not in TOKENIZER.encode("please <search> this </search>")

# %% [markdown]
# A review that says `<search>` is spelled out in bytes, so it cannot start a search.
#
# ## Logits to probabilities
#
# The *logits* $z_t$ are the model's raw scores for each token that could stand in column $t$. Softmax turns them into
# probabilities:
#
# $$\pi(o_t \mid o_{<t}) = \text{softmax}(z_t / T)_{o_t}, \qquad \log \pi(o) = \sum_t \log \pi(o_t \mid o_{<t})$$
#
# In the formula $T$ is the temperature. In the shapes, B is the number of episodes, T the length of the longest one,
# and V the size of the vocabulary.
#
# | symbol | here | shape | file |
# | --- | --- | --- | --- |
# | $o$, what was written; $o_{<t}$, what stands before column $t$ | `tokens` | (B, T) ids, padded with -1 | `reinforce.to_batch` |
# | $z$ | logits | (B, T, V) | the model |
# | $T$, the temperature | `temperature` | a number; 0 means: take the largest | `sampler.Sampler` |
# | $\log \pi(o_t)$ | `logprobs` | (B, T) | `reinforce.token_logprobs` |
#
# **By hand.** The logits $(\log 6, \log 3, \log 1)$ give the probabilities $(.6, .3, .1)$. At temperature $1/2$ the
# logits are doubled, which gives $(36, 9, 1) / 46 = (.783, .196, .022)$. A lower temperature makes the choice surer.

# %%
z = torch.tensor([6.0, 3.0, 1.0]).log()
for temperature in (1.0, 0.5, 2.0):
    print(temperature, torch.softmax(z / temperature, -1).numpy().round(3))
assert torch.allclose(torch.softmax(z / 0.5, -1), torch.tensor([36.0, 9.0, 1.0]) / 46)

# %% [markdown]
# To **draw** a token, walk along the cumulative sum $(.6, .9, 1)$ until it exceeds a uniform random number $u$.
#
# **Predict.** Which token is drawn for $u = .59$, for $.6$, and for $.95$?

# %%
print(inspect.getsource(draw))
drawn = [int(draw(torch.log_softmax(z, -1)[None], torch.tensor([u]))[0]) for u in (0.59, 0.6, 0.95)]
print(drawn)
assert drawn == [0, 1, 2]

# %% [markdown]
# ## The logits before a token score it
#
# The model's output in column $t$ is about column $t + 1$. So the token in column $t$ is scored by the logits of
# column $t - 1$: they are shifted by one. Here is a tiny Llama with random weights:

# %%
model = make_causal_lm(
    len(TOKENIZER),
    CausalLMConfig(width=16, layers=1, heads=2, feed_forward=24, context=64),
    torch.Generator().manual_seed(0),
)
tokens = torch.tensor([[TOKENIZER.control["<query>"], *TOKENIZER.encode("mug red"), TOKENIZER.control["<global>"]]])
mask = torch.tensor([[False, True, True, True]])
with torch.no_grad():
    logits = model(tokens).logits  # (1, 4, V)
    by_hand = torch.log_softmax(logits[0, :-1], -1)[torch.arange(3), tokens[0, 1:]]
    logprobs, entropy = token_logprobs(model, tokens, mask)
print(logits.shape, by_hand.numpy().round(3), logprobs.numpy().round(3))
assert torch.allclose(logprobs[0, 1:], by_hand, atol=1e-5)

# %% [markdown]
# ## Only the past
#
# Attention sees only what stands before.
#
# **Predict.** If the last token is changed, which of the four rows of logits change?

# %%
changed = tokens.clone()
changed[0, -1] = TOKENIZER.control["<think>"]
with torch.no_grad():
    moved = (model(changed).logits - logits).abs().amax(-1)[0]
print(moved.numpy().round(4))
assert (moved[:3] < 1e-6).all() and moved[3] > 1e-3

# %% [markdown]
# Only the last row. This is what *causal* means. It is also why the keys and values of earlier tokens can be kept
# (the KV cache): nothing that comes later changes them. The sampler keeps them across turns. Its log-probabilities
# equal those of a plain forward pass:

# %%
sampler = Sampler(model, [tokens[0, :3].tolist()], torch.Generator().manual_seed(1), 1.0)
written, scores = sampler.sample([TOKENIZER.control["<end>"]], 6)
row = torch.tensor([[*tokens[0, :3].tolist(), *written[0]]])
own = torch.zeros_like(row, dtype=torch.bool)
own[0, 3:] = True
with torch.no_grad():
    again, _ = token_logprobs(model, row, own)
print(np.round(scores[0], 3), again[0, 3:].numpy().round(3))
assert torch.allclose(again[0, 3:], torch.tensor(scores[0]), atol=1e-4)

# %% [markdown]
# The whole update rests on this equality (notebook 08: the ratio is 1 on policy). It is check 2 of the project
# (`tests/CHECKS.md`).
#
# ## Teaching by imitation
#
# A random model writes noise and earns no reward, so there is nothing to reinforce. Therefore it first *imitates* a
# script. This teacher knows the grammar, and tosses a coin for everything else. It plays a small game that notebooks 07, 08
# and 12 play too (`toys.py` explains it): an answer earns 1 if it names the wanted word, and a look-up costs .4.

# %%
task = Task.make(0)
teacher = ScriptActor(coin_flip_teacher(np.random.default_rng(0)))
for episode in task.play(teacher, task.train_queries[:3], GRAMMAR, RULES, REWARD):
    print(TOKENIZER.decode(episode.tokens), "| reward", round(episode.reward, 2))

# %% [markdown]
# The loss is the cross-entropy of the tokens that the teacher wrote. What it was shown (query and memory) is context
# and is not predicted.
#
# **Predict.** The teacher's coin cannot be predicted. Where will the loss stop: at 0, or above it?

# %% tags=["learned"]
rng = np.random.default_rng(1)
queries = [task.train_queries[i] for i in rng.integers(0, len(task.train_queries), 400)]
traces = task.play(ScriptActor(coin_flip_teacher(rng)), queries, GRAMMAR, RULES, REWARD)
shape = CausalLMConfig(width=32, layers=2, heads=2, feed_forward=64, context=64)
pupil = make_causal_lm(len(TOKENIZER), shape, torch.Generator().manual_seed(0))
steps = 30 if SMALL else 200
losses = warm_start(pupil, TOKENIZER, traces, WarmStartConfig(steps=steps, learning_rate=1e-2, scrambled=0.0), rng)
plt.figure(figsize=(6, 3))
plt.plot(losses)
plt.xlabel("step")
plt.ylabel("cross-entropy per token (nats)")
plt.show()
print(
    f"first {losses[0]:.2f}, last {np.mean(losses[-5:]):.2f}; uniform over {len(TOKENIZER)} tokens would be {np.log(len(TOKENIZER)):.2f}"
)
assert losses[-1] < losses[0] / 4
if not SMALL:
    assert 0.02 < np.mean(losses[-20:]) < 0.35

# %% [markdown]
# Above 0: a coin toss has an entropy of $\log 2 = .69$ nats, and the teacher tosses one or two coins in some ten
# tokens. A loss of 0 would mean that the model had learned the tosses by heart.
#
# ## What breaks it
#
# What happens if the logits are not shifted?

# %%
with torch.no_grad():
    not_shifted = torch.log_softmax(logits[0], -1)[torch.arange(4), tokens[0]][1:]
print("shifted    ", by_hand.numpy().round(2), "\nnot shifted", not_shifted.numpy().round(2))
assert not torch.allclose(not_shifted, by_hand, atol=1e-2)

# %% [markdown]
# Both are log-probabilities, both are negative, and training runs with both. But the sampler drew the tokens from only
# one of the two distributions. Here is the body of the package's function:

# %%
print(inspect.getsource(token_logprobs).split('"""')[1])

# %% [markdown]
# ## Summary
#
# - Text becomes ids. No text can become a control token.
# - The logits of a column are about the next column. So log-probabilities are gathered *shifted*, at the sampler's
#   temperature.
# - Causal means that later tokens change nothing before them, so keys and values can be kept.
# - Imitation teaches the grammar. Nobody has told the model yet what is good.
#
# ## Exercises
#
# | name | kind | command | minutes | you will have learned |
# | --- | --- | --- | --- | --- |
# | `logprobs_of_logits` | fill in | `make exercise EX=logprobs_of_logits` | 20 | the shift, the mask and the temperature |
# | `sample_token` | fill in | `make exercise EX=sample_token` | 15 | how one number draws one token |
