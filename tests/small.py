"""Small objects for the tests of learning: a shop, tokenizers, tiny models, an actor that writes given turns."""

from copy import deepcopy
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mrrec_mini.datatypes import MemoryEntry
from mrrec_mini.environment import Environment
from mrrec_mini.grammar import CONTROL, Grammar
from mrrec_mini.imitation import WarmStartConfig, warm_start
from mrrec_mini.models.causal_lm import CausalLMConfig, WordTokenizer, make_causal_lm
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import RolloutConfig, ScriptActor, State
from mrrec_mini.scripts import expert
from mrrec_mini.summarize import ExtractiveSummarizer
from mrrec_mini.world import (
    ASPECTS,
    CATEGORIES,
    COMPLAINT,
    EASY,
    PRAISE,
    USES,
    WorldConfig,
    brand_name,
    category_map,
    make_world,
)

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use (CUDA)")
SHOP = replace(EASY, users=12, items=100, categories=5, held=1, history=12, queries=3)
SAID = (
    " ".join((*PRAISE, *COMPLAINT, "overall for bought rated lately it does the job 2020q3 2020q4 2021q1 1 2 3 4 5"))
    .replace("{}", "")
    .split()
)
MEANT = [word for values in ASPECTS.values() for words in values.values() for word in words]
WORDS = tuple(dict.fromkeys([*SAID, *ASPECTS, *CATEGORIES[:5], *USES, *MEANT, *map(brand_name, range(64))]))
TINY = CausalLMConfig(width=16, layers=2, heads=2, feed_forward=24, context=512)


@lru_cache(maxsize=2)
def environment(config: WorldConfig = SHOP) -> Environment:
    """Return an environment with a shop of 12 users. Playing in it changes only its caches.

    12 users are too few for the contrasts of eq. 6, so global memory is filled from the true `category_map` instead.
    """
    dataset = make_world(config)
    split = dataset.split(0, 0.6, 0.2, 0.2)
    built = Environment.build(dataset, split, ExtractiveSummarizer(), np.random.default_rng(0))
    lines = [
        MemoryEntry(f"@global/{CATEGORIES[c]}/{a}", None, "global", f"{CATEGORIES[c]} {a}", (), CATEGORIES[c], 3)
        for c, row in enumerate(category_map(config, config.relevant))
        for a in np.array(list(ASPECTS))[row]
    ]
    return replace(built, memory=replace(built.memory, global_entries=tuple(lines)))


def tokenizer() -> WordTokenizer:
    return WordTokenizer(CONTROL, WORDS)


def foreign_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer as on the Hugging Face hub: byte-level BPE with <eos>; <think> is added but not special."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    texts = ["a mug for hiking", "a lamp for travel <search> <end>"] * 10
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<eos>"],
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_tokens([AddedToken("<think>", special=False)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>")


def tiny_model(vocabulary: int, seed: int = 0, config: CausalLMConfig = TINY) -> PreTrainedModel:
    """Return a model with random weights, so large that no two tokens are equally likely."""
    model = make_causal_lm(vocabulary, config, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.dim() > 1:
                generator = torch.Generator().manual_seed(1000 * seed + number)
                parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@lru_cache(maxsize=1)
def _taught() -> PreTrainedModel:
    env, tok = environment(), tokenizer()
    grammar = Grammar(tok)
    traces = env.play(ScriptActor(expert(grammar)), env.split.train_queries, grammar, RolloutConfig(), RewardConfig())
    model = tiny_model(len(tok), config=CausalLMConfig(width=32, layers=2, heads=2, feed_forward=48, context=512))
    config = WarmStartConfig(steps=110, batch=6, learning_rate=1e-2, scrambled=0.0)
    warm_start(model, tok, traces, config, np.random.default_rng(0))
    return model.eval()


def taught_model() -> PreTrainedModel:
    """Return a copy of a tiny policy that knows the grammar: most of the time it searches and answers."""
    return deepcopy(_taught())


def fresh_logprobs(model: PreTrainedModel, ids, temperature: float = 1.0) -> torch.Tensor:
    """Return log pi of each token of one sequence, (T,), by an ordinary forward pass; nan for the first token."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(ids)])).logits[0].float() / temperature
    picked = torch.log_softmax(logits, -1)[:-1].gather(1, torch.tensor(list(ids))[1:, None]).squeeze(1)
    return torch.cat([torch.full((1,), float("nan")), picked])


class Dictated:
    """An actor that writes given turns (one list of turns per row), each cut to `max_new` tokens as by a sampler."""

    def __init__(self, *turns_of_rows: list[list[int]]):
        self.turns_of_rows = turns_of_rows

    def start(self, states: list[State]) -> None:
        self.rows = [iter(turns) for turns in self.turns_of_rows]
        self.fed: list[list[list[int]]] = []

    def turn(self, max_new, forbidden, allowed):
        turns = [next(row)[:max_new] for row in self.rows]
        return turns, [[-1.0] * len(ids) for ids in turns], [[] for _ in turns]

    def keep(self, rows) -> None:
        self.rows = [self.rows[i] for i in rows]

    def read(self, blocks) -> None:
        self.fed.append([list(block) for block in blocks])
