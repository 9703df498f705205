"""Rec-R1: a language model learns to rewrite the query for a fixed search engine (Lin et al., 2025, 2503.24289).

Flow: a baseline that reads the query and by itself uses no histories; it has the interface in `systems`. `fit` makes a
tiny policy, teaches it to copy the query ("request"), and then reinforces it: the reward depends on the rank of the
train user's target in BM25. `rank` rewrites the query greedily and returns the BM25 scores for the rewritten query.
The policy sees only the query text. If the caller passes `memory`, the policy also sees lines of memory after the text,
as in the comparison by MR.Rec's authors.

    <request> mug for hiking [<line> mug weight light ...]                        given
    <think> </think> <answer> <query> mug hiking </answer>                        sampled

    reward = -2                     bad form                                                       Rec-R1's reward
           = .1 + nDCG@k            good form, the target is among the first k items that BM25 returns
           = 0                      good form, it is not among them            k = 3000 (100 in the authors' validation)
    A_i = r_i - mean of the group, then the loss of `grpo` with a KL of weight .001

Good form: each of the four tags occurs once, in order, and <answer> contains the key <query> followed by text. Outside
<answer> any text is allowed.

As published: the reward, groups of 12 at temperature .6, BM25 with k1 1.2 and b .75, one text per item. Departures:

- Advantages are not divided by the sigma of their group. Copying a line of memory lowers the reward of most queries a
  little and raises that of some a lot. Divided by sigma, all queries weigh the same, and nothing is left of the gain.
- The four tags are single control tokens, and so is the key `<query>`. The key and the text after it replace the
  original's {"query": "..."}: a policy of .15M parameters would waste its capacity on quotes and braces.
- The published policy is Qwen2.5-3B-Instruct and needs no warm start. Our policy first learns to copy (`copy_drill`).
  Then it imitates a script that repeats the request, drops some words and sometimes adds a random word. The script
  copies either most lines of memory or none, so that reinforcement can compare both, and then choose between lines.
  The script does not think; the policy may.
- Sampling without the original's top-p of .95, which the update would have to take into account. AdamW at 1e-3, not
  1e-6; 16 requests per step, not 32. The KL is multiplied by the ratio (`grpo.kl_term`); in the authors' code it is
  not. No Boolean operators: our BM25 has none.
- If the answer has bad form, there is no search: all scores are 0, and items are ranked by id.

Guessed: as in Lucene, items that share no word with the rewritten query are not returned; such a target gives reward 0.

Measured with the profile in the prompt: nDCG@10 of 243 queries of unseen users, one seed of a shop with 160 users and
1,500 items, made before a query could name a value. The request alone has .087, the request with all lines copied .202.

    advantages          script copies                rate   warm start   reinforced
    divided by sigma    3 of 10 lines                1e-3   .164         .134, copies no line any more
    divided by sigma    3 of 10 lines                1e-4   .164         .140
    as here             3 of 10 lines                1e-3   .164         .157
    as here             8 of 10 lines, or none       3e-4   .191         .201

So there were two reasons for ending below the copied input. First, sigma: one line lowers the reward of 65 % of the
queries and raises that of 31 %, by .012 on average. In groups of answers that copy random lines, the covariance of
advantage and number of lines is .011 (standard error .005), but .004 (.031) after the division. Second, a start that
could hardly copy: every line of a profile begins with the same word, so the last word does not tell which line comes
next. After 200 steps of imitation, 10 % of the long answers had bad form; after 400 steps, 1 %. Without memory, the
policy reads nothing but the request, so it can only correct inexact copies of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from mrrec_mini.bm25 import BM25, BM25Stats, words
from mrrec_mini.data import DataError, Dataset, Split
from mrrec_mini.datatypes import Answer, Episode, Query
from mrrec_mini.environment import item_text
from mrrec_mini.grpo import Formulas, GRPOConfig, group_advantages
from mrrec_mini.imitation import WarmStartConfig, copy_drill, set_rate, warm_start
from mrrec_mini.metrics import MISSING, ndcg_at_k, target_ranks
from mrrec_mini.models.causal_lm import CausalLMConfig, WordTokenizer, make_causal_lm
from mrrec_mini.reinforce import to_batch
from mrrec_mini.sampler import Sampler
from mrrec_mini.train import TrainConfig, update_policy

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
CONTROL = ("<pad>", "<request>", "<query>", *TAGS, "<line>")  # <line> starts a line of memory, and of the copy drill
Lines = Callable[[Query], Sequence[str]]


@dataclass(frozen=True)
class RecR1Config:
    """The published settings, and our own settings for a small policy. Probabilities in 0..1."""

    k: int = 3000  # of the training reward
    group: int = 12
    temperature: float = 0.6
    k1: float = 1.2
    b: float = 0.75
    grpo: GRPOConfig = field(default_factory=lambda: GRPOConfig(sigma="none", clip=(0.2, 0.2), beta=0.001))
    # for a small policy
    steps: int = 150  # 0: no reinforcement after the warm start
    requests: int = 16  # per step
    learning_rate: float = 1e-3
    keep: float = 0.8  # chance that the script repeats a word of the request, or copies a line of memory if it copies
    stray: float = 0.3  # chance that the script adds one random word
    borrow: float = 0.7  # chance that the script copies lines of memory
    traces: int = 2000  # number of the script's episodes to imitate
    warm: WarmStartConfig = field(default_factory=lambda: WarmStartConfig(steps=400))
    model: CausalLMConfig = field(default_factory=CausalLMConfig)
    max_words: int = 4000  # in the tokenizer's vocabulary
    request_tokens: int = 32  # a longer request is cut in the prompt
    memory_tokens: int = 160  # longer memory is cut in the prompt
    answer_tokens: int = 96  # an answer that does not end within this number of tokens has bad form
    seed: int = 0


class RecR1:
    """The recommender. After `fit`, `log` has mean reward, share of answers in good form and entropy of each step.

    `memory(query)` returns lines to show after the query, made from what its user did before. Default: no lines.
    """

    def __init__(self, config: RecR1Config | None = None, memory: Lines | None = None):
        self.config, self.memory = config or RecR1Config(), memory or (lambda query: ())

    def fit(self, dataset: Dataset, split: Split) -> RecR1:
        """Make the policy, warm-start it and reinforce it on queries of train users. DataError if there is no query."""
        config, queries = self.config, split.train_queries
        if not queries:
            raise DataError("no train user has a query outside the held categories; add users or queries")
        self.column = {item: column for column, item in enumerate(sorted(dataset.items))}
        texts = [item_text(dataset.items[item]) for item in self.column]
        self.engine = BM25(texts, BM25Stats.fit(texts), config.k1, config.b)
        shown = [text for query in queries for text in (query.wish, *self.memory(query))]
        said = [" ".join(words(text)) for text in (*shown, *texts)]
        self.tokenizer = WordTokenizer.train(said, CONTROL, config.max_words)
        self.rewritings: dict[tuple[int, ...], str | None] = {}
        rng = np.random.default_rng([config.seed, 4])
        self.generator = torch.Generator().manual_seed(config.seed)
        self.model = make_causal_lm(len(self.tokenizer), config.model, self.generator)
        copy_drill(self.model, self.tokenizer, config.warm, rng)
        traces = [self.trace(queries[i], rng) for i in rng.integers(0, len(queries), config.traces)]
        warm_start(self.model, self.tokenizer, traces, config.warm, rng)
        self.log = self.learn(queries, rng)
        return self

    def rank(self, query: Query, candidates: Sequence[str]) -> np.ndarray:
        """Return BM25 scores of n items for the rewritten query, (n,); 0 if it has bad form. KeyError: unknown item."""
        columns = [self.column[item] for item in candidates]
        rewriting = self.rewrite(query)
        return self.engine.scores(rewriting)[columns] if rewriting else np.zeros(len(columns))

    def rewrite(self, query: Query) -> str | None:
        """Rewrite the query greedily with the policy; None if the answer has bad form."""
        prompt = tuple(self.prompt(query))
        if prompt not in self.rewritings:
            ids, _ = Sampler(self.model, [list(prompt)], None, 0.0).sample(*self.limits)
            self.rewritings[prompt] = self.read(ids[0])
        return self.rewritings[prompt]

    # --- prompt and answer -------------------------------------------------------------------------------------------

    def prompt(self, query: Query) -> list[int]:
        """Return the tokens of `<request> words`, then of `<line> words` for each line of memory."""
        c, config = self.tokenizer.control, self.config
        request = self.tokenizer.encode(" ".join(words(query.wish)))[: config.request_tokens]
        lines = [i for line in self.memory(query) for i in (c["<line>"], *self.tokenizer.encode(" ".join(words(line))))]
        return [c["<request>"], *request, *lines[: config.memory_tokens]]

    def trace(self, query: Query, rng: np.random.Generator) -> Episode:
        """Return an episode to imitate, which answers with random words of the query and lines of memory."""
        config, request = self.config, words(query.wish)
        kept = [word for word in request if rng.random() < config.keep] or request
        if rng.random() < config.stray:
            kept.insert(rng.integers(len(kept) + 1), self.tokenizer.words[rng.integers(len(self.tokenizer.words))])
        if rng.random() < config.borrow:
            kept += [word for line in self.memory(query) if rng.random() < config.keep for word in words(line)]
        c = self.tokenizer.control
        answer = self.tokenizer.encode(" ".join(kept))[: config.answer_tokens - len(TAGS) - 1]
        written = [c["<think>"], c["</think>"], c["<answer>"], c["<query>"], *answer, c["</answer>"]]
        return self.episode(query, self.prompt(query), written, [0.0] * len(written))

    @property
    def limits(self) -> tuple[list[int], int]:
        """Return when sampling ends: (stop tokens, maximal number of tokens in an answer)."""
        return [self.tokenizer.control["</answer>"]], self.config.answer_tokens

    def episode(self, query: Query, prompt: list[int], written: list[int], logprobs: list[float]) -> Episode:
        answer = self.read(written)
        return Episode(
            query=query,
            tokens=(*prompt, *written),
            mask=(0,) * len(prompt) + (1,) * len(written),
            logprobs=(*([0.0] * len(prompt)), *logprobs),
            calls=(),
            answer=None if answer is None else Answer(answer),
            end="bad form" if answer is None else "answer",
        )

    def read(self, ids: Sequence[int]) -> str | None:
        """Return the text after the key <query> within <answer>; None if the form is bad."""
        c = self.tokenizer.control
        order = [c[tag] for tag in TAGS]
        if [i for i in ids if i in order] != order:  # each tag once, in order
            return None
        key, *text = ids[ids.index(c["<answer>"]) + 1 : ids.index(c["</answer>"])] or [c["</answer>"]]
        if key != c["<query>"] or any(i < len(CONTROL) for i in text):
            return None
        return self.tokenizer.decode(text)

    # --- learning ---------------------------------------------------------------------------------------------------

    def learn(self, queries: Sequence[Query], rng: np.random.Generator) -> list[dict[str, float]]:
        """Reinforce the policy; return for each step the mean reward, the share of good form and the entropy."""
        config, log = self.config, []
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.learning_rate, weight_decay=0.0)
        optimizer.zero_grad(set_to_none=True)  # the warm start leaves its last gradient behind
        reference = deepcopy(self.model).requires_grad_(False)
        rules = TrainConfig(grpo=config.grpo)
        for step in range(config.steps):
            set_rate(optimizer, config.learning_rate * (1 - 0.95 * step / config.steps))
            # 1. draw requests, and sample and score a group of answers for each
            chosen = rng.choice(len(queries), config.requests, replace=len(queries) < config.requests)
            episodes = self.play([queries[i] for i in chosen for _ in range(config.group)])
            batch = to_batch(episodes, np.repeat(np.arange(config.requests), config.group).tolist())
            # 2. update the policy on the whole batch at once
            advantages = group_advantages(batch.rewards, batch.groups, config.grpo.sigma)
            whole = [torch.arange(len(episodes))]
            update = update_policy(
                self.model, optimizer, batch, advantages, whole, rules, Formulas(), reference, config.temperature
            )
            form = np.mean([episode.answer is not None for episode in episodes])
            log.append({"reward": float(batch.rewards.mean()), "form": form, "entropy": update["entropy"]})
        return log

    def play(self, queries: Sequence[Query]) -> list[Episode]:
        """Sample and score one episode per query."""
        prompts = [self.prompt(query) for query in queries]
        written = Sampler(self.model, prompts, self.generator, self.config.temperature).sample(*self.limits)
        episodes = [self.episode(*parts) for parts in zip(queries, prompts, *written, strict=True)]
        return self.scored(episodes, self.config.k)

    def scored(self, episodes: Sequence[Episode], k: int) -> list[Episode]:
        """Return the episodes with their rewards filled in."""
        answers = [episode.answer and episode.answer.profile for episode in episodes]
        scores = {answer: self.engine.scores(answer) for answer in set(answers) if answer is not None}
        rewarded = []
        for episode, answer in zip(episodes, answers, strict=True):
            column = self.column[episode.query.target]
            found = answer is not None and scores[answer][column] > 0
            rank = float(target_ranks([scores[answer]], [column])[0]) if found else MISSING
            rewarded.append(replace(episode, reward=rewriting_reward(answer is not None, rank, k)))
        return rewarded


def rewriting_reward(good_form: bool, rank: float, k: int) -> float:
    """Return -2 for bad form; .1 + nDCG@k if the target is among the first k, otherwise 0.   Rec-R1's reward"""
    if not good_form:
        return -2.0
    gain = float(ndcg_at_k([rank], k)[0])
    return 0.1 + gain if gain > 0 else 0.0
