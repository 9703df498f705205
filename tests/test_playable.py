"""Fifteen families of models: each plays with equal log-probabilities in all passes, or is refused with a reason."""

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from mrrec_mini.data import DataError
from mrrec_mini.grammar import Grammar
from mrrec_mini.playable import TOLERANCE, disagreement, longest_episode, require_playable
from mrrec_mini.reinforce import token_logprobs
from mrrec_mini.rollout import RolloutConfig
from small import tiny_model, tokenizer

WORDS = tokenizer()
GRAMMAR, RULES = Grammar(WORDS), RolloutConfig(max_calls=1, global_k=2)
LENGTH = 68 + 2 * 48 + 53  # by hand: <query> 32 <global> 2 (<line> 16); two turns; <memory> 3 (<m1> 16) </memory>
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
LLAMA = dict(**SIZES, num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.3)
GPT = dict(n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
NEO = dict(hidden_size=32, num_layers=2, num_heads=4, max_position_embeddings=1024, initializer_range=0.3)
OPT = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=32, init_std=0.3)
BLOOM = dict(hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3)
GEMMA = dict(**LLAMA, head_dim=8, query_pre_attn_scalar=8)
LLAMA4 = dict(**LLAMA, head_dim=8, intermediate_size_mlp=48, num_local_experts=2)
PLAYED = {
    "llama": ("LlamaConfig", LLAMA),
    "llama-4": ("Llama4TextConfig", dict(LLAMA4, attention_chunk_size=512)),
    "mistral": ("MistralConfig", dict(LLAMA, sliding_window=None)),
    "qwen-3": ("Qwen3Config", dict(LLAMA, head_dim=8)),
    "gemma-2": ("Gemma2Config", dict(GEMMA, sliding_window=512)),
    "gemma-3": ("Gemma3TextConfig", dict(GEMMA, sliding_window=512)),
    "gpt-2": ("GPT2Config", dict(GPT, n_positions=LENGTH)),
    "gpt-neo": ("GPTNeoConfig", dict(NEO, attention_types=[[["global"], 2]])),
    "opt": ("OPTConfig", dict(OPT, max_position_embeddings=1024)),
    "phi-3": ("Phi3Config", LLAMA),
    "neox": ("GPTNeoXConfig", dict(SIZES, max_position_embeddings=1024, initializer_range=0.3)),
    "bloom": ("BloomConfig", BLOOM),
    "mixtral": ("MixtralConfig", dict(LLAMA, num_local_experts=4)),
}
CHUNKS = ("Llama4TextConfig", dict(LLAMA4, attention_chunk_size=64))
MAMBA = ("MambaConfig", dict(hidden_size=32, num_hidden_layers=2, state_size=8))
LEARNED = ("GPT2Config", dict(GPT, n_positions=LENGTH - 1))
REFUSED = {
    "llama-4, chunks": (CHUNKS, r"differ by \d.* nats .*\(attention_chunk_size\) may be the cause"),
    "mistral, window": (("MistralConfig", dict(LLAMA, sliding_window=64)), "sliding window of 64"),
    "gemma-2, window": (("Gemma2Config", dict(GEMMA, sliding_window=64)), "sliding window of 64"),
    "gemma-3, window": (("Gemma3TextConfig", dict(GEMMA, sliding_window=64)), "sliding window of 64"),
    "gpt-neo, window": (
        ("GPTNeoConfig", dict(NEO, attention_types=[[["global", "local"], 1]], window_size=64)),
        r"differ by .* nats .*\(window_size\)",
    ),
    "mamba": (MAMBA, "a state-space model"),
    "llama, context": (
        ("LlamaConfig", dict(LLAMA, max_position_embeddings=LENGTH - 1)),
        f"its context is {LENGTH - 1} tokens, and the longest episode has {LENGTH}",
    ),
    "learned positions": (LEARNED, f"its context is {LENGTH - 1} tokens, and the longest episode has {LENGTH}"),
    "opt, context": (("OPTConfig", dict(OPT, max_position_embeddings=128)), "its context is 128 tokens"),
    "biogpt, context": (("BioGptConfig", dict(LLAMA, max_position_embeddings=128)), "its context is 128 tokens"),
}
QUICK = ("llama", "gpt-2", "llama-4, chunks", "mamba", "learned positions")


def some_slow(families: dict) -> list:
    return [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in families]


def random_model(kind: str, sizes: dict) -> PreTrainedModel:
    config = getattr(transformers, kind)(vocab_size=len(WORDS), pad_token_id=0, bos_token_id=1, eos_token_id=2, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("name", some_slow(PLAYED))
def test_a_family_is_played_with_equal_log_probabilities(name):
    before = torch.random.get_rng_state()
    model = random_model(*PLAYED[name])
    require_playable(model, GRAMMAR, RULES)
    assert disagreement(model, longest_episode(GRAMMAR, RULES)) < TOLERANCE
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", some_slow(REFUSED))
def test_a_family_is_refused_with_the_reason_in_one_line(name):
    model, why = REFUSED[name]
    with pytest.raises(DataError, match=why) as told:
        require_playable(random_model(*model), GRAMMAR, RULES)
    assert "\n" not in str(told.value) and len(str(told.value)) < 300


def test_the_longest_episode_is_reached_and_never_exceeded():
    """Counted by hand. Long texts reach the bound, and short texts stay below it."""
    assert longest_episode(GRAMMAR, RULES) == [68, 48, 53, 48]
    assert sum(longest_episode(GRAMMAR, RULES)) == LENGTH
    assert sum(longest_episode(GRAMMAR, RolloutConfig(max_calls=0, global_k=0))) == 34 + 48


def test_weights_that_are_not_finite_are_refused():
    model = tiny_model(len(WORDS))
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="cannot be trained here"):
        require_playable(model, GRAMMAR, RULES)


def test_a_small_difference_in_the_update_alone_is_found(monkeypatch):
    """The update at another temperature computes another policy."""
    model, parts = tiny_model(len(WORDS)), longest_episode(GRAMMAR, RULES)
    warmer = lambda model, tokens, mask: token_logprobs(model, tokens, mask, temperature=1.001)  # noqa: E731
    monkeypatch.setattr("mrrec_mini.playable.token_logprobs", warmer)
    assert disagreement(model, parts) > TOLERANCE
