"""Rec-R1: reward and form as tables, what the policy is shown, whose queries it learns from, and that it learns."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

import small
from mrrec_mini.data import DataError, Dataset, Split
from mrrec_mini.datatypes import Item, Query
from mrrec_mini.grpo import Formulas, GRPOConfig, group_advantages, grpo_loss
from mrrec_mini.imitation import WarmStartConfig
from mrrec_mini.metrics import MISSING, ndcg_at_k, target_ranks
from mrrec_mini.models.causal_lm import CausalLMConfig
from mrrec_mini.reinforce import to_batch, token_logprobs
from mrrec_mini.systems.query_text import bm25_query
from mrrec_mini.systems.rec_r1 import CONTROL, RecR1, RecR1Config, rewriting_reward

TINY = RecR1Config(
    steps=2,
    requests=2,
    group=3,
    traces=20,
    warm=WarmStartConfig(drill_steps=2, drill_batch=4, steps=2, batch=4),
    model=CausalLMConfig(width=16, layers=2, heads=2, feed_forward=24),
    answer_tokens=12,
)
SPLIT = small.environment().split


@lru_cache(maxsize=1)
def fitted() -> RecR1:
    return RecR1(TINY).fit(small.environment().dataset, SPLIT)


# --- the reward -------------------------------------------------------------------------------------------------------

REWARDS = (  # good form, rank, k, reward
    (False, 1, 3000, -2.0),
    (False, MISSING, 3000, -2.0),
    (True, 1, 3000, 1.1),
    (True, 3, 3000, 0.6),
    (True, 3000, 3000, 0.1 + 1 / np.log2(3001)),
    (True, 3001, 3000, 0.0),
    (True, MISSING, 3000, 0.0),
    (True, 100, 100, 0.1 + 1 / np.log2(101)),
    (True, 101, 100, 0.0),
)
WRONG_REWARDS = {
    "form is worth .1 by itself": lambda form, rank, k: (0.1 if form else -2.0) + float(ndcg_at_k([rank], k)[0]),
    "no .1 on top": lambda form, rank, k: float(ndcg_at_k([rank], k)[0]) if form else -2.0,
    "bad form is 0": lambda form, rank, k: max(0.0, rewriting_reward(form, rank, k)),
    "bad form is ranked": lambda form, rank, k: rewriting_reward(True, rank, k) - (0 if form else 2.1),
    "not found is bad form": lambda form, rank, k: rewriting_reward(form and rank <= k, rank, k),
    "no cut-off": lambda form, rank, k: rewriting_reward(form, rank, 10**9),
    "k of validation": lambda form, rank, k: rewriting_reward(form, rank, 100),
    "reciprocal rank": lambda form, rank, k: 0.1 + 1 / rank if form and rank <= k else rewriting_reward(form, rank, k),
}


def matches(reward) -> bool:
    return all(reward(form, rank, k) == pytest.approx(worth) for form, rank, k, worth in REWARDS)


def test_reward_by_hand():
    assert matches(rewriting_reward)


@pytest.mark.parametrize("wrong", WRONG_REWARDS.values(), ids=WRONG_REWARDS)
def test_a_wrong_reward_is_refused(wrong):
    assert not matches(wrong)


ITEMS = {
    "b": Item("b", "red mug", ("mug",)),
    "a": Item("a", "red mug", ("mug",)),
    "c": Item("c", "lamp", ("lamp",)),
    "d": Item("d", "mug mug", ("mug",)),
}


def search_engine() -> RecR1:
    """A system on four items; its policy does not matter for the reward of a rewriting."""

    split = Split(frozenset("u"), frozenset(), frozenset(), (Query("q", "u", "wish", "a", 1),))
    few_words = replace(TINY.warm, drill_steps=0, scrambled=0.0)
    return RecR1(replace(TINY, steps=0, warm=few_words)).fit(Dataset(ITEMS, (), split.train_queries), split)


def test_the_reward_of_a_rewriting_is_the_rank_of_the_target_in_bm25():
    """For "red", a and b score the same and a comes first by its id. c and d do not hold the word: not returned."""
    system = search_engine()

    def worth(text: str | None, target: str, k: int = 3000) -> float:
        c = system.tokenizer.control
        written = [c[t] for t in ("<think>", "</think>", "<answer>", "<query>")] + system.tokenizer.encode(text or "")
        written += [c["</answer>"]] if text is not None else []
        episode = system.episode(Query("q", "u", "wish", target, 1), [c["<request>"]], written, [0.0] * len(written))
        return system.scored([episode], k)[0].reward

    assert [worth("red", target) for target in "abcd"] == pytest.approx([1.1, 0.1 + 1 / np.log2(3), 0, 0])
    assert [worth("red", target, k=1) for target in "ab"] == pytest.approx([1.1, 0])
    assert worth("mug", "d") == pytest.approx(1.1)
    assert worth("", "a") == worth("unheard of", "a") == 0
    assert worth(None, "a") == -2


# --- good form --------------------------------------------------------------------------------------------------------

T, _T, A, _A, KEY = "<think>", "</think>", "<answer>", "</answer>", "<query>"
FORMS = {  # what is written -> the rewriting, or None
    (T, _T, A, KEY, "mug", _A): "mug",
    (T, "mug", _T, A, KEY, "red", "mug", _A): "red mug",
    ("mug", T, _T, "mug", A, KEY, "red", _A): "red",  # as in the authors' code, other text is allowed anywhere
    (T, _T, A, KEY, _A): "",  # {"query": ""} has good form, but finds nothing
    (T, KEY, _T, A, KEY, "mug", _A): "mug",
    (): None,
    ("mug",): None,
    (T, _T, A, "mug", _A): None,  # no key
    (T, _T, A, _A): None,
    (T, _T, A, "mug", KEY, _A): None,
    (T, _T, A, KEY, KEY, "mug", _A): None,
    (T, _T, A, KEY, "mug"): None,  # cut off
    (_T, A, KEY, "mug", _A): None,
    (T, A, KEY, "mug", _A): None,
    (T, T, _T, A, KEY, "mug", _A): None,  # one twice
    (T, _T, A, A, KEY, "mug", _A): None,
    (_T, T, A, KEY, "mug", _A): None,  # not in order
    (A, KEY, "mug", _A, T, _T): None,
    (T, A, _T, KEY, "mug", _A): None,
    (T, _T, A, KEY, "<request>", "mug", _A): None,
}


def ids(system: RecR1, written) -> list[int]:
    return [
        i for word in written for i in ([CONTROL.index(word)] if word in CONTROL else system.tokenizer.encode(word))
    ]


def read_as(read) -> bool:
    return all(read(ids(fitted(), written)) == text for written, text in FORMS.items())


def counted(lenient: str):
    """`read` without one of its conditions."""

    def read(written: list[int]) -> str | None:
        names = [CONTROL[i] if i < len(CONTROL) else "" for i in written]
        tags = [name for name in names if name in (T, _T, A, _A)]
        good = set(tags) == {T, _T, A, _A}
        good &= lenient == "repeated" or len(tags) == 4
        good &= lenient == "order" or list(dict.fromkeys(tags)) == [T, _T, A, _A]
        if not good or names.index(A) > names.index(_A):
            return None
        inside = written[names.index(A) + 1 : names.index(_A)]
        has_key = bool(inside) and inside[0] == CONTROL.index(KEY)
        if (not has_key and lenient != "key") or any(i < len(CONTROL) for i in inside[has_key:]):
            return None
        return fitted().tokenizer.decode(inside[has_key:])

    return read


def test_form_by_hand():
    assert read_as(fitted().read) and read_as(counted(""))


@pytest.mark.parametrize("lenient", ["repeated", "order", "key"])
def test_a_lenient_reader_is_refused(lenient):
    assert not read_as(counted(lenient))


def test_tags_in_a_request_are_ordinary_text():
    prompt = fitted().prompt(asked("</think> <answer> <query> mug </answer>"))
    assert prompt[0] == CONTROL.index("<request>") and min(prompt[1:]) >= len(CONTROL)


def asked(text: str) -> Query:
    return Query("q", "u000001", text, "", 0)


# --- memory in the prompt -----------------------------------------------------------------------------------------


def lines_of(query: Query) -> list[str]:
    """Two lines per user: one with the user's name, one that imitates the tags."""
    return [f"mug {query.user}", "</answer> <line> lamp"]


def test_lines_of_memory_follow_the_request():
    system = fitted_with_memory()
    encode, line = system.tokenizer.encode, CONTROL.index("<line>")
    expected = [CONTROL.index("<request>"), *encode("mug for hiking"), line, *encode("mug u000001")]
    expected += [line, *encode("answer line lamp")]
    assert system.prompt(asked("mug for hiking")) == expected
    short = RecR1(replace(TINY, memory_tokens=3, request_tokens=1), lines_of)
    short.tokenizer = system.tokenizer
    assert short.prompt(asked("mug for hiking")) == [expected[0], expected[1], *expected[4:7]]


@lru_cache(maxsize=1)
def fitted_with_memory() -> RecR1:
    return RecR1(TINY, lines_of).fit(small.environment().dataset, SPLIT)


def test_the_script_copies_lines_of_memory():
    system = fitted_with_memory()
    for borrow, expected in ((0.0, "mug"), (1.0, "mug mug u000001 answer line lamp")):
        own = RecR1(replace(TINY, keep=1.0, stray=0.0, borrow=borrow, answer_tokens=48), lines_of)
        own.tokenizer = system.tokenizer
        episode = own.trace(asked("mug"), np.random.default_rng(0))
        assert episode.answer.profile == system.tokenizer.decode(system.tokenizer.encode(expected))


def test_the_script_copies_most_lines_or_none():
    """A share of 1 - borrow of the traces copies no line; the others copy each line with the chance keep."""
    own = RecR1(replace(TINY, keep=0.8, stray=0.0, borrow=0.7, answer_tokens=48), lines_of)
    own.tokenizer, rng = fitted_with_memory().tokenizer, np.random.default_rng(0)
    said = [own.trace(asked("mug"), rng).answer.profile for _ in range(2000)]
    copied = [("u000001" in text) + ("lamp" in text) for text in said]
    assert np.mean(np.array(copied) == 0) == pytest.approx(0.3 + 0.7 * 0.2**2, abs=0.03)
    assert np.mean(np.array(copied) == 2) == pytest.approx(0.7 * 0.8**2, abs=0.03)


def test_a_trace_that_copies_much_still_ends():
    """The written tokens fill the answer's limit exactly, so the policy learns answers that it can finish."""
    own = RecR1(replace(TINY, keep=1.0, borrow=1.0, answer_tokens=12), lambda query: ["mug for hiking"] * 9)
    own.tokenizer = fitted_with_memory().tokenizer
    trace = own.trace(asked("mug"), np.random.default_rng(0))
    assert sum(trace.mask) == 12 and trace.end == "answer"


def test_each_query_has_its_own_rewriting():
    """Two users with the same query text get different prompts."""
    system = fitted_with_memory()
    for user in ("u000001", "u000002"):
        query = replace(asked("mug"), user=user)
        ids = torch.tensor([system.prompt(query)])
        written = system.model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=CONTROL.index(_A))
        assert system.rewrite(query) == system.read(written[0, ids.shape[1] :].tolist())
    assert len(system.rewritings) == 2


# --- what is learned from -----------------------------------------------------------------------------------------


def weights(system: RecR1) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in system.model.parameters()])


def test_a_seed_fixes_the_policy_and_the_global_generators_are_not_used():
    data, torch_state, numpy_state = small.environment().dataset, torch.random.get_rng_state(), np.random.get_state()[1]
    again, other = (RecR1(replace(TINY, seed=seed)).fit(data, SPLIT) for seed in (0, 1))
    assert (weights(again) == weights(fitted())).all() and again.log == fitted().log
    assert (weights(other) != weights(fitted())).any()
    assert (torch.random.get_rng_state() == torch_state).all() and (np.random.get_state()[1] == numpy_state).all()


def test_histories_and_other_queries_change_no_bit():
    """No histories, other texts and targets in the queries of all but train users, other user names: same weights."""
    data = small.environment().dataset
    items = list(data.items)

    def other(query: Query) -> Query:
        return query if query in SPLIT.train_queries else replace(query, text="zeppelin", target=items[0])

    changed = replace(data, interactions=(), queries=tuple(map(other, data.queries)))
    parts = {name: tuple(map(other, getattr(SPLIT, name))) for name in ("validation_queries", "test_queries")}
    renamed = tuple(replace(query, user="somebody", time=0, truth=None) for query in SPLIT.train_queries)
    found = RecR1(TINY).fit(changed, replace(SPLIT, **parts, train_queries=renamed))
    assert (weights(found) == weights(fitted())).all() and found.log == fitted().log


def test_it_learns_from_the_targets_of_train_queries_only():
    system = RecR1(TINY)
    played = []
    score = system.scored
    system.scored = lambda episodes, k: played.extend((e.query, k) for e in episodes) or score(episodes, k)
    system.fit(small.environment().dataset, SPLIT)
    assert len(played) == TINY.steps * TINY.requests * TINY.group
    assert all(query in SPLIT.train_queries and k == 3000 for query, k in played)


def test_without_train_queries_there_is_nothing_to_fit():
    with pytest.raises(DataError, match="no train user has a query"):
        RecR1(TINY).fit(small.environment().dataset, replace(SPLIT, train_queries=()))


def test_the_published_settings():
    config = RecR1Config()
    assert (config.k, config.group, config.temperature, config.k1, config.b) == (3000, 12, 0.6, 1.2, 0.75)
    assert config.grpo == GRPOConfig(sigma="none", clip=(0.2, 0.2), beta=0.001)  # "group" is published: see below


def test_sigma_of_the_group_can_prefer_the_worse_answer():
    """Why sigma is "none". A line costs nine of ten queries a little reward and gains the tenth much, so it is good on
    average. Divided by sigma, each small loss weighs as much as the large gain, so the line would be unlearned."""
    rewards = torch.tensor([[0.30, 0.25]] * 9 + [[0.30, 1.10]]).flatten()  # each group: without the line, with it
    groups = torch.arange(10).repeat_interleave(2)
    gain = {sigma: float(group_advantages(rewards, groups, sigma)[1::2].mean()) for sigma in ("none", "group")}
    assert rewards[1::2].mean() > rewards[::2].mean() and gain["none"] > 0 > gain["group"]


def test_the_first_update_is_on_policy_and_its_advantages_are_centred(monkeypatch):
    """At the first step the loss gets the same log-probabilities from sampler, policy and reference, at one
    temperature, and the advantages r - mean of each group."""
    given = []

    def watched(logprobs, old, advantages, mask, config, episodes, tokens, reference):
        given.append((logprobs.detach(), old, advantages, mask, episodes, tokens, reference))
        return grpo_loss(logprobs, old, advantages, mask, config, episodes, tokens, reference)

    monkeypatch.setattr("mrrec_mini.systems.rec_r1.Formulas", lambda: Formulas(grpo_loss=watched))
    monkeypatch.setattr("mrrec_mini.systems.rec_r1.rewriting_reward", lambda *_: float(next(rewards)))
    rewards = iter([1, 2, 6, 5, 5, 5] * TINY.steps)
    RecR1(TINY).fit(small.environment().dataset, SPLIT)
    logprobs, old, advantages, mask, episodes, tokens, reference = given[0]
    assert torch.allclose(logprobs[mask], old[mask], atol=1e-5) and torch.allclose(
        reference[mask], old[mask], atol=1e-5
    )
    assert advantages.squeeze(1).tolist() == pytest.approx([-2, -1, 3, 0, 0, 0], abs=1e-3)
    assert (episodes, tokens) == (6, int(mask.sum()))
    # at the next step the reference is still the first policy
    logprobs, old, _, mask, *_, reference = given[1]
    assert torch.allclose(logprobs[mask], old[mask], atol=1e-5)
    assert not torch.allclose(reference[mask], old[mask], atol=1e-3)


def test_it_samples_at_its_temperature():
    system = fitted()
    batch = to_batch(system.play(list(SPLIT.train_queries[:4])), range(4))
    with torch.no_grad():
        same, other = (token_logprobs(system.model, batch.tokens, batch.mask, t)[0] for t in (0.6, 1.0))
    assert torch.allclose(same, batch.old_logprobs, atol=1e-5)
    assert not torch.allclose(other, batch.old_logprobs, atol=1e-2)


def test_the_script_repeats_the_request_with_some_changes():
    system, query, rng = fitted(), SPLIT.train_queries[0], np.random.default_rng(0)
    request = query.text.split()
    said = [system.trace(query, rng).answer.profile.split() for _ in range(2000)]
    strays = [sum(word not in request for word in words) for words in said]
    assert np.mean(strays) == pytest.approx(TINY.stray, abs=0.04) and max(strays) == 1
    # a word is left out of a fifth of the traces, unless all words would be
    kept = np.mean([request[0] in words for words in said])
    assert kept == pytest.approx(0.8 + 0.2 ** len(request), abs=0.04)
    assert [word for word in max(said, key=len) if word in request] == request


# --- the contract -------------------------------------------------------------------------------------------------


def rewriting(text: str | None) -> RecR1:
    """A system whose policy always writes this text."""
    system = RecR1(TINY).fit(small.environment().dataset, SPLIT)
    system.rewritings = {tuple(system.prompt(asked("a wish"))): text}
    return system


def test_scores_are_those_of_bm25_for_the_rewriting():
    """Scaled to 0..1 they equal those of `bm25_query`: the two systems differ by the rewriting alone."""
    data = small.environment().dataset
    pool, query = sorted(data.items), Query("q", "u000001", "a wish", "", 0)
    system, other = rewriting("mug for hiking"), bm25_query().fit(data, SPLIT)
    found, expected = system.rank(query, pool), other.rank(replace(query, text="mug for hiking"), pool)
    assert (found - found.min()) / (found.max() - found.min()) == pytest.approx(expected)
    assert system.rank(replace(query, user="x"), pool[5:3:-1]).tolist() == [found[5], found[4]]
    assert system.rank(query, []).shape == (0,)
    with pytest.raises(KeyError):
        system.rank(query, ["nothing"])


@pytest.mark.parametrize("text", [None, ""])
def test_without_a_rewriting_all_scores_are_0(text):
    query = Query("q", "u000001", "a wish", "", 0)
    assert rewriting(text).rank(query, ["i0000001", "i0000002"]).tolist() == [0, 0]


def test_the_rewriting_is_greedy_and_depends_on_the_text_alone():
    system = fitted()
    one, again = (system.rewrite(asked("mug for hiking")) for _ in range(2))
    prompt = torch.tensor([system.prompt(asked("mug for hiking"))])
    written = system.model.generate(prompt, max_new_tokens=12, do_sample=False, eos_token_id=CONTROL.index(_A))
    assert one == again == system.read(written[0, prompt.shape[1] :].tolist())


# --- it learns ----------------------------------------------------------------------------------------------------

KINDS = ["mug", "lamp", "chair", "knife", "clock", "tent", "rug", "desk", "vase", "scarf", "drill", "basket"]
COLOURS = ["red", "blue", "green", "black", "white"]


def misleading_shop() -> tuple[Dataset, Split]:
    """Queries like "mug unlike lamp": they name a kind that is not wanted, which misleads a search engine."""
    items = [
        Item(f"{kind}-{n}", f"{colour} {kind}", ("shop", kind)) for kind in KINDS for n, colour in enumerate(COLOURS)
    ]
    rng = np.random.default_rng(0)
    queries = []
    for number in range(300):
        kind, other = rng.choice(KINDS, 2, replace=False)
        target = f"{kind}-{rng.integers(len(COLOURS))}"
        queries.append(Query(f"q{number:03d}", f"u{number:03d}", f"{kind} unlike {other}", target, 1))
    data = Dataset({item.id: item for item in items}, (), tuple(queries))
    return data, data.split(0, 0.7, 0.0, 0.3)


@pytest.mark.slow
def test_it_learns_to_leave_out_misleading_words():
    data, split = misleading_shop()
    pool = sorted(data.items)

    def quality(system) -> float:
        ranks = []
        for query in split.test_queries:
            scores = system.rank(replace(query, target=""), pool)
            ranks.append(sorted(range(len(pool)), key=lambda i: -scores[i]).index(pool.index(query.target)) + 1)
        return ndcg_at_k(ranks, 100).mean()

    config = RecR1Config(steps=60, requests=8, warm=WarmStartConfig(drill_steps=150, steps=100))
    raw = quality(bm25_query().fit(data, split))
    untrained = quality(
        RecR1(replace(config, steps=0, warm=replace(config.warm, drill_steps=0, steps=0))).fit(data, split)
    )
    system = RecR1(config).fit(data, split)
    learned = quality(system)
    assert learned > raw + 0.05 > untrained + 0.05, (learned, raw, untrained)
    assert system.log[-1]["form"] > 0.95  # the reward of one batch says little: the start already writes good queries


@pytest.mark.slow
def test_it_learns_to_copy_the_line_of_memory_that_helps():
    """Memory names the colour that the user wants of this kind, and a colour for another kind."""
    items = [Item(f"{kind}-{colour}", f"{colour} {kind}", ("shop", kind)) for kind in KINDS for colour in COLOURS]
    rng = np.random.default_rng(0)
    queries, known = [], {}
    for number in range(300):
        kind, other = rng.choice(KINDS, 2, replace=False)
        colour, wrong = rng.choice(COLOURS, 2, replace=False)
        queries.append(Query(f"q{number:03d}", f"u{number:03d}", f"a {kind}", f"{kind}-{colour}", 1))
        known[queries[-1].id] = [str(line) for line in rng.permutation([f"{kind} {colour}", f"{other} {wrong}"])]
    data = Dataset({item.id: item for item in items}, (), tuple(queries))
    split, pool = data.split(0, 0.7, 0.0, 0.3), sorted(data.items)

    def quality(system) -> float:
        scores = [system.rank(replace(query, target=""), pool) for query in split.test_queries]
        return ndcg_at_k(target_ranks(scores, [pool.index(q.target) for q in split.test_queries]), 10).mean()

    config = RecR1Config(steps=60, requests=8, warm=WarmStartConfig(drill_steps=150, steps=150))
    without = quality(RecR1(config).fit(data, split))
    start = quality(RecR1(replace(config, steps=0), lambda query: known[query.id]).fit(data, split))
    learned = quality(RecR1(config, lambda query: known[query.id]).fit(data, split))
    assert learned > start + 0.03 > without + 0.5, (learned, start, without)  # the start already copies
