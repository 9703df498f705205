"""The sampler: its draws and log-probabilities, which must not depend on batch, turns, holes or architecture."""

import numpy as np
import pytest
import torch
import transformers
from scipy.stats import chisquare

from mrrec_mini.datatypes import Episode, Query
from mrrec_mini.reinforce import to_batch, token_logprobs
from mrrec_mini.sampler import Sampler
from small import fresh_logprobs, tiny_model

V = 60
STOP = (1, 2)
QUERY = Query("q", "u", "mug", "i", 0)
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15], [3]]


@pytest.fixture(scope="module")
def model():
    return tiny_model(V)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def play(model, temperature, stop=STOP, prompts=PROMPTS, seed=0, turns=3, drop=True):
    """Three ragged turns, one block of them empty, a row dropped after the second: [(ids, mask, logprobs), ...]."""
    sampler = Sampler(model, prompts, seeded(seed), temperature)
    rows = [(list(prompt), [0] * len(prompt), [0.0] * len(prompt)) for prompt in prompts]
    live = list(range(len(prompts)))
    for turn in range(turns):
        drawn, scores = sampler.sample(stop, 7)
        for row, ids, values in zip(live, drawn, scores, strict=True):
            for whole, part in zip(rows[row], (ids, [1] * len(ids), values), strict=True):
                whole.extend(part)
        if turn == 1 and drop:
            keep = [i for i in range(len(live)) if i != 1]
            sampler.keep(keep)
            live = [live[i] for i in keep]
        if turn < turns - 1:
            blocks = [[20 + row] * (3 * row) for row in live]  # lengths 0, 3, 6
            sampler.feed(blocks)
            for row, block in zip(live, blocks, strict=True):
                for whole, part in zip(rows[row], (block, [0] * len(block), [0.0] * len(block)), strict=True):
                    whole.extend(part)
    return rows


def worst(model, rows, temperature):
    """Largest difference between the sampler's log-probabilities and those of a plain forward pass."""
    gaps = []
    for ids, mask, logprobs in rows:
        fresh = fresh_logprobs(model, ids, temperature)
        gaps += [abs(float(fresh[t]) - logprobs[t]) for t in range(len(ids)) if mask[t]]
    return max(gaps)


# --- against the plain sequence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("turns", [1, 3])
def test_logprobs_are_those_of_a_fresh_forward_pass(model, temperature, turns):
    rows = [row for seed in range(3) for row in play(model, temperature, seed=seed, turns=turns)]
    assert worst(model, rows, temperature) <= 1e-5  # measured: 2e-6
    assert worst(model, rows, 1.0 if temperature != 1.0 else 0.7) > 0.05  # a forgotten temperature shows


def packed(rows):
    """The rows of `play` as tokens, mask and log-probabilities of the sampler, (B, T) each."""
    episodes = [Episode(QUERY, tuple(i), tuple(m), tuple(v), (), None, "") for i, m, v in rows]
    batch = to_batch(episodes, range(len(rows)))
    return batch.tokens, batch.mask, batch.old_logprobs


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("turns", [1, 3])
def test_sampler_and_update_agree(model, temperature, turns):
    """The sampler's log-probabilities equal those of the update for the same ids."""
    tokens, mask, drawn = packed([row for seed in range(3) for row in play(model, temperature, seed=seed, turns=turns)])
    scored, _ = token_logprobs(model, tokens, mask, temperature)
    assert (scored - drawn).abs().max() <= 1e-5


def test_a_sampler_with_forbidden_tokens_does_not_agree_with_the_update(model):
    """Why training forbids nothing: with one token of 60 forbidden the two already differ."""
    drawn, scores = Sampler(model, [PROMPTS[0]] * 20, seeded(), 1.0).sample((), 3, forbidden=(7,))
    both = zip(drawn, scores, strict=True)
    rows = [(PROMPTS[0] + ids, [0] * 3 + [1] * 3, [0.0] * 3 + values) for ids, values in both]
    tokens, mask, noted = packed(rows)
    assert (token_logprobs(model, tokens, mask)[0] - noted).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["top_p", "top_k", "min_new_tokens", "min_p", "repetition_penalty"])
def test_what_the_update_does_not_know_of_is_not_offered(model, name):
    with pytest.raises(TypeError, match=name):
        Sampler(model, PROMPTS, seeded(), **{name: 1})
    with pytest.raises(TypeError, match=name):
        Sampler(model, PROMPTS, seeded()).sample(STOP, 3, **{name: 1})


def test_at_temperature_0_the_logprobs_are_the_models_own(model):
    assert worst(model, play(model, 0.0), 1.0) <= 1e-5


def test_greedy_is_generate(model):
    """`generate` pads to the left, so it gets each row alone."""
    drawn, _ = Sampler(model, PROMPTS, temperature=0.0).sample(STOP, 30)
    for prompt, ids in zip(PROMPTS, drawn, strict=True):
        out = model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=30, eos_token_id=list(STOP), pad_token_id=0
        )
        assert out[0, len(prompt) :].tolist() == ids


def test_drawn_frequencies_follow_the_softmax(model):
    """20 000 draws after one prompt, at T = 0.7; Pearson's test at 0.1 %. At T = 1 the same draws are rejected."""
    n = 20_000
    sampler = Sampler(model, [PROMPTS[0]] * n, seeded(), 0.7)
    logits = sampler.logits[0].double()
    drawn, _ = sampler.sample((), 1)
    counts = np.bincount([ids[0] for ids in drawn], minlength=V)
    right, wrong = (n * torch.softmax(logits / t, -1).numpy() for t in (0.7, 1.0))
    assert right.min() > 5  # needed for Pearson's test
    assert chisquare(counts, right).pvalue > 1e-3
    assert chisquare(counts, wrong).pvalue < 1e-9


def test_the_second_token_follows_the_first(model):
    """Frequencies of pairs against the product of two plain forward passes: stale cache or logits would show."""
    n = 4000
    drawn, _ = Sampler(model, [PROMPTS[2]] * n, seeded(1), 0.5).sample((), 2)
    first = max(set(ids[0] for ids in drawn), key=[ids[0] for ids in drawn].count)
    seconds = np.array([ids[1] for ids in drawn if ids[0] == first])
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([[*PROMPTS[2], first]])).logits[0, -1].double() / 0.5, -1).numpy()
    often = expected * len(seconds) > 5
    observed = np.array(
        [*(np.sum(seconds == i) for i in np.flatnonzero(often)), np.sum(~np.isin(seconds, np.flatnonzero(often)))]
    )
    wanted = np.array([*expected[often], expected[~often].sum()]) * len(seconds)
    assert len(seconds) > 100 and chisquare(observed, wanted).pvalue > 1e-3


# --- batches, holes, turns ----------------------------------------------------------------------------------------


def test_a_batch_of_ragged_rows_is_its_rows_alone(model):
    prompts = [[1 + i % 50 for i in range(length)] for length in range(1, 19)]  # 17 paddings, a row of length 1
    together, scores = Sampler(model, prompts, temperature=0.0).sample(STOP, 12)
    for prompt, ids, values in zip(prompts, together, scores, strict=True):
        [alone], [alone_values] = Sampler(model, [prompt], temperature=0.0).sample(STOP, 12)
        assert ids == alone
        np.testing.assert_allclose(values, alone_values, atol=1e-5)


def test_turns_and_dropped_rows_change_no_greedy_token(model):
    for (ids, mask, _), prompt in zip(play(model, 0.0), PROMPTS, strict=True):
        sampled = [t for t in range(len(ids)) if mask[t]]
        with torch.no_grad():
            best = model(torch.tensor([ids])).logits[0].argmax(-1)
        assert [int(best[t - 1]) for t in sampled] == [ids[t] for t in sampled]
        assert sampled[0] == len(prompt)


def test_rows_that_are_kept_continue_as_if_alone(model):
    """Kept in another order, and sampled right away, with nothing fed in between."""
    sampler = Sampler(model, PROMPTS, temperature=0.0)
    sampler.keep([2, 1])
    together, _ = sampler.sample(STOP, 8)
    assert together == [Sampler(model, [PROMPTS[row]], temperature=0.0).sample(STOP, 8)[0][0] for row in (2, 1)]


def test_holes_do_not_move_positions(model):
    """Two feeds of ragged blocks leave holes in the middle of the cache; logits are those of the rows without them."""
    sampler = Sampler(model, [[5], [6, 7, 8, 9]], seeded())
    sampler.feed([[10, 11, 12, 13, 14], []])
    sampler.feed([[], [15]])
    assert sampler.mask.tolist() == [[1, 0, 0, 0, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0, 0, 0, 1]]
    for row, ids in enumerate(([5, 10, 11, 12, 13, 14], [6, 7, 8, 9, 15])):
        with torch.no_grad():
            plain = model(torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(sampler.logits[row], plain, atol=1e-5, rtol=0)
        assert int(sampler.length[row]) == len(ids)


def test_retrieved_tokens_are_attended(model):
    scores = []
    for block in ([20, 21], [20, 22]):
        sampler = Sampler(model, [[5, 6]], seeded())
        sampler.feed([block])
        sampler.feed([[30]])  # after the difference
        scores.append(torch.log_softmax(sampler.logits[0], -1))
    assert (scores[0] - scores[1]).abs().max() > 1e-4


def passes(model, monkeypatch):
    """The rows of every forward pass from here on."""
    sizes, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda *args, **kw: (sizes.append(len(kw["input_ids"])), forward(**kw))[1])
    return sizes


def test_the_draws_of_a_row_do_not_depend_on_when_others_stop(model):
    """With stop tokens a row's ids are a prefix of those without; the next turn starts from the same numbers."""
    whole, cut = (Sampler(model, PROMPTS * 10, seeded(), 1.3) for _ in range(2))
    long, long_scores = whole.sample((), 12)
    short, short_scores = cut.sample(range(9), 12)
    assert len({len(ids) for ids in short}) > 3  # they stopped at different times
    for a, b, x, y in zip(long, short, long_scores, short_scores, strict=True):
        assert a[: len(b)] == b
        np.testing.assert_allclose(x[: len(b)], y, atol=1e-5)
    assert torch.equal(whole.generator.get_state(), cut.generator.get_state())


def test_rows_that_stopped_leave_the_forward_passes_once_they_are_half_of_the_batch(model, monkeypatch):
    sampler = Sampler(model, PROMPTS * 10, seeded(), 1.3)
    sizes = passes(model, monkeypatch)
    drawn, _ = sampler.sample(range(9), 12)
    left = [sum(len(ids) > step for ids in drawn) for step in range(max(map(len, drawn)))]
    expected = [n if 2 * n <= 30 else 30 for n in left]  # selecting more rows than half costs too much
    assert sizes == expected and len(set(sizes)) > 2
    assert sampler.mask.sum(1).tolist() == sampler.length.tolist()
    sampler.sample((), 1)
    assert sizes[-1] == 30  # all rows are back in the next turn


def test_equal_prompts_are_computed_once_and_differ_from_then_on(model, monkeypatch):
    sizes = passes(model, monkeypatch)
    sampler = Sampler(model, [PROMPTS[i] for i in (1, 0, 1, 1, 0)], seeded(), 1.3)
    assert sizes == [2]
    drawn, scores = sampler.sample((), 8)
    assert len(set(map(tuple, drawn))) == 5
    monkeypatch.undo()
    for i, ids, values in zip((1, 0, 1, 1, 0), drawn, scores, strict=True):
        fresh = fresh_logprobs(model, PROMPTS[i] + ids, 1.3)[len(PROMPTS[i]) :]
        np.testing.assert_allclose(values, fresh.numpy(), atol=1e-5)


# --- stops and refusals -------------------------------------------------------------------------------------------


def test_a_stop_token_is_drawn_and_nothing_after_it(model):
    drawn, scores = Sampler(model, [PROMPTS[0]] * 200, seeded(), 1.3).sample(STOP, 20)
    ends = [ids[-1] in STOP for ids in drawn]
    assert any(ends) and not all(ends)
    for ids, values in zip(drawn, scores, strict=True):
        assert not set(ids[:-1]) & set(STOP)
        assert len(ids) == len(values) <= 20 and (ids[-1] in STOP or len(ids) == 20)
    assert {ids[-1] for ids in drawn if ids[-1] in STOP} == set(STOP)


def test_an_end_token_is_trained_also_where_its_id_is_that_of_padding(model):
    """Three end tokens, one of them 0, which is padding elsewhere: the first one is trained, nothing after it."""
    ends = (0, 1, 2)
    drawn, scores = Sampler(model, PROMPTS * 20, seeded(), 1.3).sample(ends, 20)
    prompts = PROMPTS * 20
    rows = [
        (p + ids, [0] * len(p) + [1] * len(ids), [0.0] * len(p) + v)
        for p, ids, v in zip(prompts, drawn, scores, strict=True)
    ]
    tokens, mask, noted = packed(rows)
    last = [row[m][-1].item() for row, m in zip(tokens, mask, strict=True)]
    assert set(ends) <= set(last)
    for (ids, given, _), row, sampled in zip(rows, tokens, mask, strict=True):
        assert sampled[: len(ids)].tolist() == list(map(bool, given))
        assert not sampled[len(ids) :].any() and (row[len(ids) :] == -1).all()
        own = row[sampled].tolist()
        assert sum(i in ends for i in own) == (own[-1] in ends)
        assert own[-1] in ends or len(own) == 20  # a row that was cut off has no end token to train
    assert (token_logprobs(model, tokens, mask, 1.3)[0] - noted).abs().max() <= 1e-5


def test_the_stop_token_is_context_of_the_next_turn(model):
    rows = play(model, 1.3, stop=range(30), drop=False)  # half of all ids stop, so every turn ends by one
    assert sum(ids[t] < 30 and mask[t] for ids, mask, _ in rows for t in range(len(ids))) == 9  # 3 rows x 3 turns
    assert worst(model, rows, 1.3) <= 1e-5


def test_forbidden_tokens_are_never_drawn_and_the_rest_share_their_probability(model):
    forbidden = tuple(range(2, V, 2))
    drawn, scores = Sampler(model, [PROMPTS[0]] * 50, seeded(), 1.0).sample((), 5, forbidden)
    assert not {i for ids in drawn for i in ids} & set(forbidden)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPTS[0]])).logits[0, -1]
    logits[list(forbidden)] = -torch.inf
    allowed = torch.log_softmax(logits, -1)
    np.testing.assert_allclose([v[0] for v in scores], [float(allowed[ids[0]]) for ids in drawn], atol=1e-5)


def test_one_seed_one_result_and_the_global_generator_is_left_alone(model):
    before = torch.random.get_rng_state()
    assert play(model, 1.0, seed=3) == play(model, 1.0, seed=3)
    assert play(model, 1.0, seed=3) != play(model, 1.0, seed=4)
    assert torch.equal(before, torch.random.get_rng_state())


def test_weights_and_gradients_are_untouched(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    play(model, 1.0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_cannot_be_sampled_is_refused(model):
    with pytest.raises(ValueError, match="temperature must be >= 0"):
        Sampler(model, PROMPTS, seeded(), -1.0)
    with pytest.raises(ValueError, match="needs a generator"):
        Sampler(model, PROMPTS)
    with pytest.raises(ValueError, match="empty prompt"):
        Sampler(model, [[5], []], seeded())


# --- other architectures ------------------------------------------------------------------------------------------

SIZE = {"vocab_size": V, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
OTHERS = {
    # learned positions
    "GPT2": {"vocab_size": V, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "Qwen2": {**SIZE, "num_key_value_heads": 1, "intermediate_size": 24},  # shared keys
    "Granite": {**SIZE, "intermediate_size": 24, "logits_scaling": 3.0},  # scales its logits after the output layer
    "Gemma2": {  # caps them there, and has a sliding window
        **{**SIZE, "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 24},
        **{"final_logit_softcapping": 2.0, "sliding_window": 64},
    },
    "Bloom": {"vocab_size": V, "hidden_size": 16, "n_layer": 2, "n_head": 2},  # positions from the mask
}


def another(name, **changes):
    config = getattr(transformers, f"{name}Config")(
        **{**OTHERS[name], **changes}, pad_token_id=0, bos_token_id=None, eos_token_id=None
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = transformers.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in built.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 0.3)
    return built


@pytest.mark.parametrize("name", OTHERS)
def test_any_architecture_with_a_cache(name):
    model = another(name)
    rows = play(model, 0.7, stop=())
    assert worst(model, rows, 0.7) <= 1e-5
    width = max(len(ids) for ids, _, _ in rows)
    tokens = torch.tensor([ids + [-1] * (width - len(ids)) for ids, _, _ in rows])
    mask = torch.tensor([m + [0] * (width - len(m)) for _, m, _ in rows], dtype=torch.bool)
    drawn = torch.tensor([v + [0.0] * (width - len(v)) for _, _, v in rows])
    scored, _ = token_logprobs(model, tokens, mask, 0.7)
    assert (scored - drawn).abs().max() <= 1e-5


def test_a_hole_does_not_ask_for_a_position_beyond_the_table():
    """One row fills the table of 12 learned positions; the other row's block of 4 must not push it further."""
    model = another("GPT2", n_positions=12)
    sampler = Sampler(model, [list(range(3, 15)), [5]], seeded())
    sampler.feed([[], [6, 7, 8, 9]])
    with torch.no_grad():
        plain = model(torch.tensor([list(range(3, 15))])).logits[0, -1]
    torch.testing.assert_close(sampler.logits[0], plain, atol=1e-5, rtol=0)


def test_a_sliding_window_is_refused_once_it_would_bite():
    model = another("Gemma2", sliding_window=8)
    sampler = Sampler(model, [[3] * 8], seeded())
    with pytest.raises(ValueError, match="sliding window of 8"):
        sampler.feed([[4]])
