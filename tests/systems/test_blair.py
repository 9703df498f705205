"""BLaIR: its loss by hand and by torch, whose reviews it reads, and that it learns to find an item from a review."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

import small
from mrrec_mini.data import DataError, Dataset, Split
from mrrec_mini.datatypes import Interaction, Item, Query
from mrrec_mini.environment import item_text
from mrrec_mini.memory import join
from mrrec_mini.metrics import ndcg_at_k, target_ranks
from mrrec_mini.models.text_encoder import TextEncoderConfig, hidden_states
from mrrec_mini.systems.blair import Blair, BlairConfig, contrastive_loss, first_vectors, review_pairs, total_loss
from mrrec_mini.systems.query_text import bm25_query
from mrrec_mini.world import WorldConfig, make_world

TAU = 0.05
TINY = BlairConfig(
    encoder=TextEncoderConfig(width=16, layers=1, heads=2, feed_forward=16, max_tokens=40), steps=3, batch=8
)
SPLIT = small.environment().split


@lru_cache(maxsize=1)
def fitted() -> Blair:
    return Blair(TINY).fit(small.environment().dataset, SPLIT)


# --- L_CL -------------------------------------------------------------------------------------------------------------


def test_loss_by_hand():
    """Two pairs in two dimensions. Review 0 has cosine 1 to its item and 0 to the other; review 1 has .8 to its own and
    .6 to the other: -log of 1 / (1 + e^-20) and of 1 / (1 + e^-4)."""
    reviews, metadata = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.eye(2)
    expected = (np.log1p(np.exp(-1 / TAU)) + np.log1p(np.exp(-0.2 / TAU))) / 2
    assert float(contrastive_loss(reviews, metadata, torch.tensor([0, 1]), TAU)) == pytest.approx(expected, abs=1e-6)


def sides(seed: int = 0, pairs: int = 6, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states of reviews and metadata, not normalised; each review is somewhat similar to its item."""
    generator = torch.Generator().manual_seed(seed)
    reviews, metadata = torch.randn(2, pairs, width, generator=generator)
    return reviews + metadata, metadata


DIFFERENT, TWICE = torch.tensor([3, 1, 4, 0, 5, 9]), torch.tensor([3, 1, 4, 1, 5, 9])


def by_torch(reviews, metadata, about, temperature=TAU):
    """torch's cross-entropy of the similarity matrix (row = review, column = metadata), with the diagonal as labels."""
    similar = torch.cosine_similarity(reviews[:, None], metadata[None, :], dim=-1) / temperature
    for i, j in ((i, j) for i in range(len(about)) for j in range(len(about))):
        if i != j and about[i] == about[j]:
            similar[i, j] = -float("inf")
    return cross_entropy(similar, torch.arange(len(about)))


def in_both_directions(reviews, metadata, about):
    return (by_torch(reviews, metadata, about) + by_torch(metadata, reviews, about)) / 2


def metadata_finds_its_review(reviews, metadata, about):
    return by_torch(metadata, reviews, about)


def temperature_forgotten(reviews, metadata, about):
    return by_torch(reviews, metadata, about, 1.0)


def unnormalised(reviews, metadata, about):
    return cross_entropy(reviews @ metadata.T / TAU, torch.arange(len(about)))


def a_second_copy_is_a_negative(reviews, metadata, about):
    return by_torch(reviews, metadata, torch.arange(len(about)))


def a_second_copy_is_right_too(reviews, metadata, about):
    similar = torch.cosine_similarity(reviews[:, None], metadata[None, :], dim=-1) / TAU
    right = (about[:, None] == about[None, :]).float()
    return cross_entropy(similar, right / right.sum(1, keepdim=True))


def summed(reviews, metadata, about):
    return by_torch(reviews, metadata, about) * len(about)


WRONG = (
    in_both_directions,
    metadata_finds_its_review,
    temperature_forgotten,
    unnormalised,
    a_second_copy_is_a_negative,
    a_second_copy_is_right_too,
    summed,
)


def check(loss) -> bool:
    """Whether a loss equals ours, on batches of different items and on batches that hold one item twice."""
    for seed in range(3):
        for about in (DIFFERENT, TWICE):
            reviews, metadata = sides(seed)
            metadata = metadata[[about.tolist().index(i) for i in about.tolist()]]  # the same item has the same text
            ours = contrastive_loss(normalize(reviews, dim=-1), normalize(metadata, dim=-1), about, TAU)
            if not torch.allclose(ours, loss(reviews, metadata, about), atol=1e-5):
                return False
    return True


def test_loss_is_the_cross_entropy_of_torch():
    assert check(by_torch)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_wrong_loss_is_refused(wrong):
    assert not check(wrong)


def test_two_reviews_of_one_item_do_not_push_each_other_away():
    """If they are the whole batch, there is no negative: no loss and no gradient."""
    reviews, metadata = sides(0, pairs=2)
    reviews = normalize(reviews, dim=-1).requires_grad_()
    loss = contrastive_loss(reviews, normalize(metadata[[0, 0]], dim=-1), torch.tensor([7, 7]), TAU)
    loss.backward()
    assert loss == 0 and not reviews.grad.any()


# --- vectors, and the sum of the two losses -----------------------------------------------------------------------


def test_a_vector_is_the_state_of_cls_scaled_to_length_1():
    system = fitted()
    ids = system.rows(["so crimson. really tiny", "just as portable as hoped"])
    with torch.no_grad():
        states, vectors = hidden_states(system.model, ids), first_vectors(system.model, ids)
    assert torch.allclose(vectors, states[:, 0] / states[:, 0].norm(dim=1, keepdim=True), atol=1e-6)
    mean = normalize((states * (ids != 0)[..., None]).sum(1), dim=-1)
    assert not torch.allclose(vectors, mean, atol=1e-3)


def test_the_sum_of_both_losses():
    one, other = torch.tensor(2.0), torch.tensor(5.0)
    assert float(total_loss(one, other, BlairConfig())) == pytest.approx(2.5)
    assert float(total_loss(one, other, BlairConfig(contrast=0.0))) == pytest.approx(0.5)


def test_the_published_settings():
    config = BlairConfig()
    assert (config.temperature, config.mlm, config.masked, config.least_characters) == (0.05, 0.1, 0.15, 31)


def test_a_step_follows_the_gradient_of_the_sum():
    """With both weights 0 nothing moves; with either weight alone something does."""
    data = small.environment().dataset

    def moved(**weights) -> bool:
        start = Blair(replace(TINY, steps=0)).fit(data, SPLIT).model.state_dict()
        end = Blair(replace(TINY, steps=1, **weights)).fit(data, SPLIT).model.state_dict()
        return any((start[name] != end[name]).any() for name in start)

    assert not moved(contrast=0.0, mlm=0.0)
    assert moved(contrast=0.0) and moved(mlm=0.0)


def test_each_review_is_paired_with_its_own_item(monkeypatch):
    """Decode what three steps encoded and compare it with the true pairs, cut alike."""
    data, seen = small.environment().dataset, []

    def watched(model, ids):
        seen.append(ids)
        return first_vectors(model, ids)

    monkeypatch.setattr("mrrec_mini.systems.blair.first_vectors", watched)
    system = Blair(TINY).fit(data, SPLIT)

    def texts(ids: torch.Tensor) -> list[str]:
        return [system.tokenizer.decode([i for i in row[1:] if i]) for row in ids.tolist()]

    pairs = review_pairs(data, SPLIT, 31)
    reviews, metadata = (
        system.rows(side) for side in zip(*((r, item_text(data.items[i])) for r, i in pairs), strict=True)
    )
    true = set(zip(texts(reviews), texts(metadata), strict=True))
    for step in range(TINY.steps):
        beside = list(zip(texts(seen[2 * step]), texts(seen[2 * step + 1]), strict=True))
        assert len(set(beside)) > TINY.batch / 2 and set(beside) <= true


# --- whose reviews ------------------------------------------------------------------------------------------------

LONG = "a review of more than thirty characters"
ABOUT = {"i": Item("i", "a title of more than thirty characters", ("all",)), "j": Item("j", "short", ("x",))}
SAID = (
    Interaction("a", "i", 10, 5.0, LONG),
    Interaction("a", "j", 20, 5.0, LONG),  # its metadata is too short
    Interaction("a", "i", 30, 5.0, "x" * 30),
    Interaction("a", "i", 40, 1.0, "x" * 31),  # a low rating: read all the same
    Interaction("a", "i", 50, 5.0, LONG + " of a target"),
    Interaction("b", "i", 60, 5.0, LONG + " by somebody without queries"),
    Interaction("v", "i", 10, 5.0, LONG),
    Interaction("t", "i", 10, 5.0, LONG),
)
ASKED = (Query("a-1", "a", "title", "i", 50), Query("t-1", "t", "title", "i", 50))


def test_pairs_are_long_reviews_of_train_users_before_their_first_query():
    split = Split(frozenset("ab"), frozenset("v"), frozenset("t"), ASKED[:1], (), ASKED[1:])
    expected = [(LONG, "i"), ("x" * 31, "i"), (LONG + " by somebody without queries", "i")]
    assert review_pairs(Dataset(ABOUT, SAID, ASKED), split, 31) == expected


def vectors(system: Blair) -> np.ndarray:
    return system.vectors(
        ["so crimson. really tiny", *map(item_text, small.environment().dataset.items.values())]
    ).values


def altered(forbidden) -> Dataset:
    """The data with other reviews and items in all interactions that are `forbidden`."""
    data = small.environment().dataset
    ids = list(data.items)

    def other(i: Interaction) -> Interaction:
        return replace(i, item=ids[-1 - ids.index(i.item)], review="entirely unheard-of words about a zeppelin")

    return replace(data, interactions=tuple(other(i) if forbidden(i) else i for i in data.interactions))


def at_query(i: Interaction) -> bool:
    return i.time >= min([q.time for q in small.environment().dataset.queries if q.user == i.user])


@pytest.mark.parametrize(
    "forbidden",
    [lambda i: i.user in SPLIT.test, lambda i: i.user in SPLIT.validation, at_query],
    ids=["test users", "validation users", "targets"],
)
def test_forbidden_reviews_change_no_bit(forbidden):
    data = altered(forbidden)
    assert data.interactions != small.environment().dataset.interactions
    assert (vectors(Blair(TINY).fit(data, SPLIT)) == vectors(fitted())).all()


def test_texts_and_targets_of_queries_change_nothing():
    """Of the queries only the time of each user's first one is used."""
    data = small.environment().dataset
    asked = tuple(replace(query, text="zeppelin", target=next(iter(data.items))) for query in data.queries)
    assert (vectors(Blair(TINY).fit(replace(data, queries=asked), SPLIT)) == vectors(fitted())).all()


def test_allowed_reviews_are_read():
    data = altered(lambda i: i.user in SPLIT.train and not at_query(i))
    assert Blair(TINY).fit(data, SPLIT).tokenizer.words != fitted().tokenizer.words


@pytest.mark.parametrize("leak", ["everybody", "to the end"])
def test_reading_forbidden_reviews_is_caught(monkeypatch, leak):
    """Two planted mistakes: all users are train users; a history does not end at the first query."""
    split = replace(SPLIT, train=SPLIT.train | SPLIT.test) if leak == "everybody" else SPLIT
    if leak == "to the end":
        monkeypatch.setattr(
            "mrrec_mini.systems.blair.train_histories",
            lambda data, users: [join(data, data.interactions_of(user)) for user in sorted(users)],
        )
    data = altered(at_query if leak == "to the end" else lambda i: i.user in SPLIT.test)
    one, other = (Blair(TINY).fit(some, split) for some in (small.environment().dataset, data))
    assert one.tokenizer.words != other.tokenizer.words


# --- the contract -------------------------------------------------------------------------------------------------


def ask(text: str = "mug for hiking", user: str = "u000001") -> Query:
    return Query("q", user, text, "", 0)


def test_scores_are_cosines_of_query_and_item():
    system, data = fitted(), small.environment().dataset
    pool = sorted(data.items)
    texts = ["mug for hiking", *(item_text(data.items[item]) for item in pool)]
    with torch.no_grad():
        query, *items = (first_vectors(system.model, system.rows([text]))[0] for text in texts)
    expected = torch.stack(items) @ query
    assert system.rank(ask(), pool) == pytest.approx(expected.numpy(), abs=1e-5)


def test_scores_follow_the_candidates_and_do_not_depend_on_the_user():
    system = fitted()
    one, other = system.rank(ask(), ["i0000003", "i0000001"])
    assert system.rank(ask(user="somebody"), ["i0000001", "i0000003"]).tolist() == [other, one] and one != other
    assert system.rank(ask(), []).shape == (0,)
    assert system.rank(ask("?!"), ["i0000003", "i0000001"]).tolist() == [0, 0]
    with pytest.raises(KeyError):
        system.rank(ask(), ["nothing"])


def test_a_seed_fixes_the_encoder_and_the_global_generators_are_not_used():
    data, torch_state, numpy_state = small.environment().dataset, torch.random.get_rng_state(), np.random.get_state()[1]
    again, other = (Blair(replace(TINY, seed=seed)).fit(data, SPLIT) for seed in (0, 1))
    assert (vectors(again) == vectors(fitted())).all() and again.losses == fitted().losses
    assert (vectors(other) != vectors(fitted())).any()
    assert (torch.random.get_rng_state() == torch_state).all() and (np.random.get_state()[1] == numpy_state).all()


def test_without_long_reviews_there_is_nothing_to_fit():
    data = small.environment().dataset
    silent = replace(data, interactions=tuple(replace(i, review="fine") for i in data.interactions))
    with pytest.raises(DataError, match="0 reviews of 31 characters"):
        Blair(TINY).fit(silent, SPLIT)


# --- it learns ----------------------------------------------------------------------------------------------------


def written_from_reviews(data: Dataset, split: Split) -> list[Query]:
    """Queries as in Amazon-C4: the wish is the text of the review that the target got."""
    reviews = {(i.user, i.item, i.time): i.review for i in data.interactions}
    queries = (*split.test_queries, *split.held_queries)
    return [replace(query, text=reviews[query.user, query.target, query.time]) for query in queries]


def ndcg(system, data: Dataset, split: Split) -> float:
    pool, queries = sorted(data.items), written_from_reviews(data, split)
    scores = [system.rank(replace(query, target=""), pool) for query in queries]
    return ndcg_at_k(target_ranks(scores, [pool.index(query.target) for query in queries]), 100).mean()


@pytest.mark.slow
def test_it_learns_to_find_an_item_from_a_review():
    """On the reviews of new users it beats the same encoder trained on masked words alone. It beats BM25, too, since
    reviews use other words than the metadata."""
    data = make_world(WorldConfig(users=200, items=600, categories=8, held=2))
    split = data.split(0, 0.6, 0.1, 0.3)
    config = BlairConfig(encoder=TextEncoderConfig(width=64, feed_forward=128), steps=300, learning_rate=2e-3)
    found = {
        "blair": ndcg(Blair(config).fit(data, split), data, split),
        "masked words": ndcg(Blair(replace(config, contrast=0.0)).fit(data, split), data, split),
        "bm25": ndcg(bm25_query().fit(data, split), data, split),
    }
    assert found["blair"] > found["bm25"] + 0.02 and found["blair"] > found["masked words"] + 0.05, found
