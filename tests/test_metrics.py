"""metrics.py: numbers by hand, two independent libraries, and the usual mistakes, and a test rejects each."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrrec_mini.metrics import (
    MISSING,
    _sources,
    bootstrap_interval,
    hierarchical_interval,
    mrr_at_k,
    ndcg_at_k,
    ndcg_of_set,
    paired_interval,
    recall_at_k,
    target_ranks,
)


def rejects(check, wrong):
    """The check must fail on a plausible wrong version."""
    with pytest.raises(AssertionError):
        check(wrong)


# --- ranks ---


def test_target_ranks_break_ties_by_position():
    scores = [[0.1, 0.9, 0.9, 0.5], [0.3, 0.3, 0.3, 0.3], [5, 4, 3, 2]]
    # column 1 ties with the target in column 2 at .9 and comes first -> rank 2; equal scores rank by position
    assert target_ranks(scores, [2, 3, 0]).tolist() == [2, 4, 1]


def test_a_constant_scorer_gains_nothing_by_luck():
    ranks = target_ranks(np.zeros((4, 4)), [0, 1, 2, 3])
    # 1 + 1/2 + 1/3 + 1/4 = 25/12, over 4; an optimistic tie rule would give 1
    assert mrr_at_k(ranks, 10).mean() == pytest.approx(25 / 48)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_target_ranks_equal_a_stable_sort(scores):
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    table = np.tile(scores, (len(scores), 1))
    assert target_ranks(table, np.arange(len(scores))).tolist() == [order.index(i) + 1 for i in range(len(scores))]


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        target_ranks([[0.1, math.nan]], [0])
    for target in (2, -1):
        with pytest.raises(IndexError):
            target_ranks([[0.1, 0.2]], [target])


def test_an_unanswered_query_stays_in_the_mean():
    assert recall_at_k([3, 1, MISSING], 10).mean() == pytest.approx(2 / 3)


# --- one relevant item ---


def check_ndcg_single(ndcg):
    """Sec. 3.3"""
    values = ndcg(np.array([1, 2, 3, 7, 8, MISSING]), 7)
    # 1/log2 2 = 1; 1/log2 3 = .6309; 1/log2 4 = .5; 1/log2 8 = 1/3; rank 8 > k; never returned
    assert np.allclose(values, [1, 0.6309297535714575, 0.5, 1 / 3, 0, 0])


def test_ndcg_at_k():
    """Sec. 3.3"""
    check_ndcg_single(ndcg_at_k)


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(
    "wrong",
    [
        lambda r, k: np.where(r <= k, 1 / np.log2(r), 0),  # log2(rank)
        lambda r, k: np.where(r <= k, 1 / np.log(r + 1), 0),  # natural logarithm
        lambda r, k: np.where(r - 1 <= k, 1 / np.log2(r + 1), 0),  # 0-based cut-off: one rank too many
        lambda r, k: np.where(r < k, 1 / np.log2(r + 1), 0),  # one too few
        lambda r, k: np.where(r <= k, 1 / np.log2(r + 2), 0),  # a 1-based rank in the 0-based formula
        lambda r, k: 1 / np.log2(r + 1),  # no cut-off
        lambda r, k: np.where(r <= k, 1 / r, 0),  # this is MRR
    ],
)
def test_wrong_ndcg_is_rejected(wrong):
    """Sec. 3.3"""
    rejects(check_ndcg_single, wrong)


def check_recall_and_mrr(recall, mrr):
    ranks = np.array([1, 4, 5, 6, MISSING])
    assert np.allclose(recall(ranks, 5), [1, 1, 1, 0, 0])
    assert np.allclose(mrr(ranks, 5), [1, 0.25, 0.2, 0, 0])


def test_recall_and_mrr_at_k():
    check_recall_and_mrr(recall_at_k, mrr_at_k)


@pytest.mark.parametrize(
    ("recall", "mrr"),
    [
        (lambda r, k: (r <= k) / k, mrr_at_k),  # this is precision
        (lambda r, k: r < k, mrr_at_k),
        (recall_at_k, lambda r, k: 1 / r),  # MRR without its @k
        (recall_at_k, lambda r, k: np.where(r <= k, 1 / (r + 1), 0)),
    ],
)
def test_wrong_recall_and_mrr_are_rejected(recall, mrr):
    rejects(lambda pair: check_recall_and_mrr(*pair), (recall, mrr))


@pytest.mark.parametrize("metric", [recall_at_k, ndcg_at_k, mrr_at_k])
@pytest.mark.parametrize(
    ("ranks", "k", "why"),
    [
        ([1, math.nan], 10, "NaN"),
        ([0, 1], 10, "start at 1"),  # a 0-based rank is an error, not a very good rank
        ([-math.inf], 10, "start at 1"),
        ([1.5], 10, "whole"),
        ([1], 0, "k must"),
    ],
)
def test_bad_ranks_are_refused(metric, ranks, k, why):
    with pytest.raises(ValueError, match=why):
        metric(ranks, k)


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=20), st.integers(1, 1500))
def test_order_of_the_metrics(ranks, k):
    recall, ndcg, mrr = recall_at_k(ranks, k), ndcg_at_k(ranks, k), mrr_at_k(ranks, k)
    assert (mrr <= ndcg).all() and (ndcg <= recall).all()
    assert (ndcg_at_k(ranks, k + 1) >= ndcg).all()
    assert np.allclose(ndcg, [ndcg_of_set([r], [1], k) for r in ranks])  # one relevant item: the general case agrees


# --- several relevant items ---


def check_ndcg_of_set(ndcg):
    # grades 3, 2, 1 at ranks 2, 1, never: DCG = 3/log2 3 + 2/log2 2 = 1.8928 + 2 = 3.8928
    # ideal: 3/1 + 2/log2 3 + 1/log2 4 = 3 + 1.2619 + .5 = 4.7619; ratio .8175
    assert ndcg([2, 1, MISSING], [3, 2, 1], 10) == pytest.approx(3.892789260714372 / 4.761859507142915)
    # k = 1: 2 / 3; the ideal holds min(R, k) items
    assert ndcg([2, 1, MISSING], [3, 2, 1], 1) == pytest.approx(2 / 3)


def dcg(grades, ranks, k):
    return sum(g / math.log2(r + 1) for g, r in zip(grades, ranks, strict=True) if r <= k)


def ideal(grades, k=10**9):
    return dcg(sorted(grades, reverse=True), range(1, len(grades) + 1), k)


def test_ndcg_of_set():
    check_ndcg_of_set(ndcg_of_set)
    check_ndcg_of_set(lambda r, g, k: dcg(g, r, k) / ideal(g, k))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r, g, k: (
            dcg(g, r, k) / ideal([x for x, at in zip(g, r, strict=True) if at <= k], k)
        ),  # ideal of the found items only
        lambda r, g, k: dcg(g, r, k) / ideal(g),  # ideal without the cut-off
        lambda r, g, k: (
            dcg(g, r, k) / dcg(g, range(1, len(g) + 1), k)
        ),  # ideal not sorted: right only on this grade order
        lambda r, g, k: dcg([2**x - 1 for x in g], r, k) / ideal([2**x - 1 for x in g], k),  # exponential gain
        lambda r, g, k: dcg([1] * len(g), r, k) / ideal([1] * len(g), k),  # grades forgotten
    ],
)
def test_wrong_ndcg_of_set_is_rejected(wrong):
    def check(ndcg):
        check_ndcg_of_set(ndcg)
        check_ndcg_of_set(
            lambda r, g, k: ndcg(r[::-1], g[::-1], k)
        )  # the order in which relevant items are listed must not matter

    check(ndcg_of_set)
    rejects(check, wrong)


def test_bad_sets_are_refused():
    for call in (
        lambda: ndcg_of_set([], [], 10),
        lambda: ndcg_of_set([2, 2], [1, 1], 10),
        lambda: ndcg_of_set([1, 2], [1], 10),
        lambda: ndcg_of_set([1], [0], 10),
        lambda: ndcg_of_set([1], [math.nan], 10),
    ):
        with pytest.raises(ValueError):
            call()


# --- second opinions ---


def random_runs(seed, count=60, pool=30):
    """Yield graded queries over a partly ranked pool: (ranks of the relevant items, their grades)."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        places = rng.permutation(pool)[: rng.integers(1, 8)] + 1
        grades = rng.integers(1, 4, size=len(places))
        yield np.where(places > 25, MISSING, places), grades


@pytest.mark.parametrize("k", [1, 5, 10, 100])
def test_against_pytrec_eval(k):
    pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec-eval-terrier is a dev extra")
    ours, qrels, runs = {}, {}, {}
    for number, (ranks, grades) in enumerate(random_runs(seed=k)):
        query = f"q{number}"
        at = {int(rank): f"rel{i}" for i, rank in enumerate(ranks) if np.isfinite(rank)}
        run = {at.get(place, f"other{place}"): 100.0 - place for place in range(1, 26)}
        qrels[query] = {f"rel{i}": int(grade) for i, grade in enumerate(grades)}
        runs[query] = dict(sorted(run.items(), key=lambda pair: -pair[1])[:k])  # cut at k, so recip_rank is MRR@k
        ours[query] = (recall_at_k(ranks, k).mean(), ndcg_of_set(ranks, grades, k), mrr_at_k(ranks.min(), k))
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {f"recall.{k}", f"ndcg_cut.{k}", "recip_rank"}).evaluate(runs)
    for query, values in ours.items():
        t = theirs[query]
        assert values == pytest.approx((t[f"recall_{k}"], t[f"ndcg_cut_{k}"], t["recip_rank"]), abs=1e-12)


@pytest.mark.parametrize("k", [1, 5, 10, 100])
def test_against_scikit_learn(k):
    ndcg_score = pytest.importorskip("sklearn.metrics").ndcg_score
    for ranks, grades in random_runs(seed=100 + k):
        truth, scores = np.zeros(40), -np.arange(1.0, 41)
        hidden = iter(range(30, 40))  # never returned: ranked below every returned item (we compare k <= 25 only)
        for rank, grade in zip(ranks, grades, strict=True):
            truth[int(rank) - 1 if np.isfinite(rank) else next(hidden)] = grade
        k = min(k, 25)
        assert ndcg_of_set(ranks, grades, k) == pytest.approx(
            ndcg_score([truth], [scores], k=k, ignore_ties=True), abs=1e-12
        )


# --- intervals ---


def test_interval_by_hand():
    # two values 0 and 1: a resample has mean 0, .5, .5 or 1 with probability 1/4 each, so the 95 % bounds are 0 and 1,
    # and the 40 % bounds (quantiles .3 and .7) are both .5
    rng = np.random.default_rng(0)
    assert bootstrap_interval([0, 1], rng) == (0.5, 0, 1)
    assert bootstrap_interval([0, 1], rng, level=0.4) == (0.5, 0.5, 0.5)


def test_interval_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).exponential(size=200)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=2
    ).confidence_interval
    ours = bootstrap_interval(values, np.random.default_rng(3), n=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)  # bounds about .14 from the mean
    assert ours.mean == pytest.approx(values.mean())


def test_same_generator_state_same_interval():
    values = np.random.default_rng(0).random(50)
    first, again, other = (bootstrap_interval(values, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_resamples_are_drawn_in_blocks():
    values = np.random.default_rng(0).random(100_000)  # 42 resamples per block, not 200 x 100,000 cells at once
    interval = bootstrap_interval(values, np.random.default_rng(1), n=200)
    half = 1.96 * values.std() / math.sqrt(len(values))  # the normal interval, good at this size
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.25)


def check_coverage(interval):
    """20 queries, 3 seeds each, nearly equal per query: 95 % intervals must cover the true mean 0 about that often."""
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(300):
        query = np.tile(rng.normal(size=20), 3)  # rows (seed, query)
        low, high = interval(query + 0.1 * rng.normal(size=60), np.tile(np.arange(20), 3), rng)
        held += low <= 0 <= high
    assert 0.88 <= held / 300 <= 0.98  # with 20 clusters, percentile intervals cover slightly less than 95 %


def test_cluster_intervals_cover():
    check_coverage(lambda v, c, rng: bootstrap_interval(v, rng, clusters=c, n=400)[1:])


def test_treating_rows_as_independent_is_rejected():
    # three seeds on one query counted as three queries: the interval has 1/sqrt 3 of its width, far too narrow
    rejects(check_coverage, lambda v, c, rng: bootstrap_interval(v, rng, n=400)[1:])


def test_repeating_every_row_adds_no_certainty():
    values = np.random.default_rng(0).random(40)
    once = bootstrap_interval(values, np.random.default_rng(1))
    thrice = bootstrap_interval(
        np.tile(values, 3), np.random.default_rng(1), clusters=[f"q{i:02}" for i in range(40)] * 3
    )
    assert thrice == pytest.approx(once)


def test_clusters_of_unequal_size_keep_the_mean_over_rows():
    # clusters a: 0, 0, 0 and b: 1. Resamples: aa 0, bb 1, ab = 1/4 (mean over rows), not 1/2 (mean of cluster means)
    interval = bootstrap_interval([0, 0, 0, 1], np.random.default_rng(0), clusters=list("aaab"), level=0.4)
    assert interval == (0.25, 0.25, 0.25)


def check_paired(interval):
    rng = np.random.default_rng(5)
    old = rng.random(200)  # queries differ much more than systems
    new = old + 0.02 + 0.001 * rng.normal(size=200)
    low, high = interval(new, old, rng)
    assert 0.015 < low <= 0.02 <= high < 0.025


def test_pairing_removes_the_difficulty_both_share():
    check_paired(lambda new, old, rng: paired_interval(new, old, rng)[1:])


def test_unpaired_interval_is_rejected():
    def unpaired(new, old, rng):
        means = [rng.choice(new, 200).mean() - rng.choice(old, 200).mean() for _ in range(500)]
        return np.quantile(means, [0.025, 0.975])

    rejects(check_paired, unpaired)
    rejects(check_paired, lambda new, old, rng: paired_interval(old, new, rng)[1:])  # the sign: new minus old


@pytest.mark.parametrize(
    "call",
    [
        lambda rng: bootstrap_interval([], rng),
        lambda rng: bootstrap_interval([1.0], rng),
        lambda rng: bootstrap_interval([1.0, math.nan], rng),
        lambda rng: bootstrap_interval([1.0, 2.0], rng, clusters=["q", "q"]),
        lambda rng: bootstrap_interval([1.0, 2.0], rng, clusters=["q"]),
        lambda rng: bootstrap_interval([1.0, 2.0], rng, level=95),
        lambda rng: paired_interval([1.0, 2.0], [1.0], rng),
        lambda rng: hierarchical_interval([], [], [], rng),
        lambda rng: hierarchical_interval([1.0, 2.0], [0, 1], ["u", "u"], rng),
        lambda rng: hierarchical_interval([1.0, math.inf], [0, 0], ["u", "v"], rng),
        lambda rng: hierarchical_interval([1.0, 2.0], [0], ["u", "v"], rng),
        lambda rng: hierarchical_interval([1.0, 2.0], [0, 0], ["u", "v"], rng, n=0),
        lambda rng: hierarchical_interval([1.0, 2.0], [0, 0], ["u", "v"], rng, level=1),
    ],
)
def test_bad_values_are_refused(call):
    with pytest.raises(ValueError):
        call(np.random.default_rng(0))


# --- intervals over seeds and users ---

CROSSED = [(0, "a", 0), (0, "a", 1), (0, "b", 4), (1, "a", 3), (1, "b", 9)]  # (seed, user, value); a asked twice
NESTED = [(0, "a", 0), (0, "b", 4), (0, "b", 5), (1, "c", 10), (1, "d", 21), (1, "e", 37)]
MIXED = [*CROSSED, (2, "c", 20), (2, "d", 33), (2, "d", 38)]  # seeds 0 and 1 share users, seed 2 has its own
CASES = [(CROSSED, {"ab": [0, 1]}), (NESTED, {"ab": [0], "cde": [1]}), (MIXED, {"ab": [0, 1], "cd": [2]})]


def columns(rows):
    """Return the columns of `rows` in the order in which the interval takes them: values, seeds, users."""
    seeds, users, values = zip(*rows, strict=True)
    return np.array(values, float), np.array(seeds), np.array(users)


def product_of_draws(of_seed, of_user):
    return of_seed * of_user


def resamples(rows, sources, weight):
    """Return all resamples, draw by draw: their means and their probabilities. `sources` maps users to their seeds."""
    seeds = sorted({seed for seed, _, _ in rows})
    crossed = [seed for own in sources.values() if len(own) > 1 for seed in own]
    values, means, chances = [value for _, _, value in rows], [], []
    for drawn in itertools.product(seeds, repeat=len(seeds)):
        # users are drawn once for crossed seeds, and anew for each copy of a nested seed
        pools = [users for users, own in sources.items() for _ in range(1 if len(own) > 1 else drawn.count(own[0]))]
        draws = [itertools.product(pool, repeat=len(pool)) for pool in pools]
        people = ["".join(itertools.chain(*each)) for each in itertools.product(*draws)]
        for names in people:
            of_seeds = {seed: drawn.count(seed) if seed in crossed else 1 for seed in seeds}
            weights = [weight(of_seeds[seed], names.count(user)) for seed, user, _ in rows]
            means.append(np.average(values, weights=weights))
        chances += [1 / len(seeds) ** len(seeds) / len(people)] * len(people)
    return np.array(means), np.array(chances)


def check_enumerated(interval, weight=product_of_draws):
    for rows, sources in CASES:
        exact, chances = resamples(rows, sources, weight)
        for level in (0.9, 0.5, 0.3):
            low, high = interval(*columns(rows), np.random.default_rng(2), 40_000, level)
            # the chance of a resample below a bound; both ends count, since many resamples are equal
            for bound, share in ((low, (1 - level) / 2), (high, (1 + level) / 2)):
                assert np.isclose(exact, bound).any()
                below, upto = chances[exact < bound - 1e-9].sum(), chances[exact <= bound + 1e-9].sum()
                assert below - 0.01 <= share <= upto + 0.01


def test_seeds_and_users_by_enumeration():
    check_enumerated(lambda *given: hierarchical_interval(*given)[1:])


def of_user_means(values, seeds, users, rng, n, level):
    """Wrong: one value per user, so that a user who asked twice counts once."""
    pairs = sorted({*zip(seeds.tolist(), users.tolist(), strict=True)})
    means = [values[(seeds == seed) & (users == user)].mean() for seed, user in pairs]
    return hierarchical_interval(means, *zip(*pairs, strict=True), rng, n, level)[1:]


def with_pools(pools):
    """Return an interval whose users are drawn once per resample, whatever the seeds; `pools` splits their names."""

    def interval(values, seeds, users, rng, n, level):
        (numbers, seeds), (names, users) = (np.unique(labels, return_inverse=True) for labels in (seeds, users))
        of_seed, *of_users = (  # how often each was drawn: (n, S) and, for each pool, (n, u)
            rng.multinomial(len(pool), np.full(len(pool), 1 / len(pool)), size=n) for pool in (numbers, *pools(names))
        )
        weights = of_seed[:, seeds] * np.hstack(of_users)[:, users]  # (n, M)
        used = weights.any(axis=1)
        means = weights[used] @ values / weights[used].sum(axis=1)
        return np.quantile(means, [(1 - level) / 2, (1 + level) / 2])

    return interval


OF_ONE_POOL = with_pools(lambda names: [names])  # wrong: the share of each source varies
OF_PRODUCTS = with_pools(lambda names: [names[:2], names[2:]][: len(names) - 1])  # wrong: nested users drawn once


WRONG_DRAWS = [
    pytest.param(lambda v, s, u, *rest: bootstrap_interval(v, rest[0], n=rest[1], level=rest[2])[1:], id="rows"),
    pytest.param(lambda v, s, u, *rest: hierarchical_interval(v, s * 0, u, *rest)[1:], id="users only"),
    pytest.param(lambda v, s, u, *rest: hierarchical_interval(v, s * 0, s, *rest)[1:], id="seeds only"),
    pytest.param(
        lambda v, s, u, *rest: hierarchical_interval(v, s, np.char.add(u.astype(str), s.astype(str)), *rest)[1:],
        id="users drawn anew for each seed",
    ),
    pytest.param(lambda v, s, u, *rest: hierarchical_interval(v, s, np.arange(len(v)), *rest)[1:], id="seeds and rows"),
]


@pytest.mark.parametrize("wrong", [*WRONG_DRAWS, of_user_means, OF_ONE_POOL, OF_PRODUCTS])
def test_wrong_draws_of_seeds_and_users_are_rejected(wrong):
    rejects(check_enumerated, wrong)


def test_a_row_counts_with_the_product_of_the_draws():
    def check(weight):
        check_enumerated(lambda *given: hierarchical_interval(*given)[1:], weight)

    rejects(check, lambda of_seed, of_user: of_seed + of_user)
    rejects(check, lambda of_seed, of_user: of_seed * of_user > 0)  # drawn or not, without how often


def check_seed_coverage(interval, crossed):
    """10 seeds, 30 users with 2 queries each, true mean 0: 95 % intervals must cover it about that often.

    The mean has the variance .25 / 10 = .025 from the seeds; from the users 1 / 30 if crossed, 1 / 300 if nested.
    """
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(300):
        seeds, users = np.repeat(np.arange(10), 60), np.repeat(np.arange(300), 2)
        if crossed:
            users %= 30
        values = 0.5 * rng.normal(size=10)[seeds] + rng.normal(size=300)[users] + 0.3 * rng.normal(size=600)
        low, high = interval(values, seeds, users, rng, 400, 0.95)
        held += low <= 0 <= high
    assert 0.89 <= held / 300 <= 0.98


@pytest.mark.parametrize("crossed", [True, False])
def test_intervals_over_seeds_and_users_cover(crossed):
    check_seed_coverage(lambda *given: hierarchical_interval(*given)[1:], crossed)


@pytest.mark.parametrize("wrong", WRONG_DRAWS)
def test_intervals_that_forget_seeds_or_users_do_not_cover(wrong):
    rejects(lambda interval: check_seed_coverage(interval, crossed=True), wrong)


@pytest.mark.parametrize("wrong", WRONG_DRAWS[:2])
def test_intervals_that_forget_seeds_do_not_cover_nested_users(wrong):
    rejects(lambda interval: check_seed_coverage(interval, crossed=False), wrong)


def test_seeds_that_share_users_are_one_source():
    def sources(*users_of_seed):
        names = sorted(set("".join(users_of_seed)))
        present = np.array([[name in users for name in names] for users in users_of_seed])
        return [(seeds.tolist(), "".join(names[user] for user in users)) for seeds, users in _sources(present)]

    assert sources("abc") == [([0], "abc")]
    assert sources("abc", "abc") == [([0, 1], "abc")]  # crossed
    assert sources("ab", "cd") == [([0], "ab"), ([1], "cd")]  # nested
    assert sources("ab", "de", "bc") == [([0, 2], "abc"), ([1], "de")]
    assert sources("ab", "bc", "cd", "de", "ef") == [([0, 1, 2, 3, 4], "abcdef")]  # seeds between a and f link them


def test_the_labels_and_the_order_of_the_rows_do_not_matter():
    values, seeds, users = columns(NESTED * 3)
    expected = hierarchical_interval(values, seeds, users, np.random.default_rng(0))
    order = np.random.default_rng(1).permutation(len(values))
    found = hierarchical_interval(values[order], seeds[order] + 70, users[order], np.random.default_rng(0))
    assert found == pytest.approx(expected)


def test_a_resample_without_rows_is_left_out():
    # b answered under seed 1 only, so (seeds 0, 0; users b, b) has no row; all values are 1
    found = hierarchical_interval([1, 1, 1], [0, 1, 1], ["a", "a", "b"], np.random.default_rng(0))
    assert found == (1, 1, 1)
