"""Evaluation: all arms (methods to compare) answer the same queries; then means, intervals and paired differences.

Flow: after training. `reference_rows` runs the arms without a policy. `policy_rows` runs a language model, greedily and
sampled. Both return one row per answer; rows of other processes and seeds can be added. `report_dict` computes the
numbers of an evaluation from rows. The arms have a fixed order, and GRPO is compared with each of the others:

    popularity             items by how many train users bought them before the query; ignores text
    neighbours             items bought by people who also bought this user's items (item-item neighbours); ignores text
    popularity_in_category both again, but the items of the category that the query names come first
    neighbours_in_category
    bm25_query             search by BM25 with the query alone; this arm and the next three run separately, see below
    dense_query            search by vector with the query alone
    blair                  a text encoder trained on which item a review is about; it encodes the query
    rec_r1                 a policy that learned to rewrite the query for BM25, without memory
    query_only             the profile is the query
    query_popularity       the same, and popularity as a second term of the score (`prior`)
    query_prior            the same, and all terms of the prior: popularity, neighbours, category
    own_...                query + a text from the user's history by a fixed rule (`own_text`), about a dozen arms
    others, ..._others     query + what most of the people took who share an item with the user, alone or after own text
    ..._others_title       ... or a title that they took and that shares a word with the query
    best_own_text          the best of these and of query_only, chosen on validation users
    naive_memory           query + this user's latest records (the paper's "naive": recent history)
    static_memory          query + all lines of the user profile (the paper's "static": a summary)
    script_filter          query + the profile lines of the aspects that global memory holds for its scenario; no call
    script_lookups         three look-ups; keeps the lines that speak of the aspect looked up
    best_script            the best of the untold scripts (they never see `Query.truth`), chosen on validation users
    teacher                the script that the warm start imitates
    clone                  a policy that imitates best_script, trained as the warm start is
    warm_start             the policy before reinforcement: it imitates the teacher
    warm_start_all_calls   the same policy, forced to make all searches: shows what more searches alone are worth
    imitation_long         the warm start, trained for as many CPU seconds as warm start and GRPO together
    imitation_filtered     imitation of the best of 8 of the teacher's traces per query, for as many steps
    raft                   fine-tuned on the best of each group, repeatedly, with as many tokens as GRPO
    reinforce              the policy after REINFORCE
    grpo_no_global         the policy after GRPO without global memory (Fig. 3)
    grpo_no_local          ... without local memory (Fig. 3)
    grpo                   ... with both
    grpo_from_clone        the policy after GRPO that starts from the clone
    told_drift             an untold script, but told which tastes change: about the best that can be learned by reward
    expert                 the script that looks up exactly the aspects that matter; needs `Query.truth`
    oracle                 a profile made from the truth: the upper bound; needs `Query.truth`

Equations: Recall and nDCG of `metrics` at 10, 100 and 1000 over the whole pool (sec. 4). No answer counts as 0.

The ground is the same for all arms. If people do not take items twice (`Dataset.repeats`), every arm ranks last what
the user already took. On real data, each arm that writes a text is evaluated a second time with the prior, whose
weights `ItemIndex.tuned` chooses for this arm on validation users (`Row.with_prior`). The synthetic shop has neither:
there nobody is popular and people may repeat. `popularity` and `neighbours` are hard to beat if people buy the same
items, and close to chance in the shop. `reference_rows` leaves out the four systems that read the query, because two
of them train for minutes. Run one with, for example, `system_rows(eval_set, "blair", Blair(BlairConfig(seed=0)))`.

Departures: in the paper, a language model writes the profile from naive or static memory. Here the lines are appended
to the query, since the small policy was never trained to write such a profile. The paper has no intervals, no scripts,
and of the ways to imitate only the warm start. Guessed: what Table 4 counts as memory tokens. We count all tokens of
memory that an arm reads (global lines, retrieved local entries and their markers), with the policy's tokenizer.

The 95 % intervals resample seeds and users (`metrics.hierarchical_interval`). With one seed, an interval leaves out the
variation between training seeds; with few seeds, it includes it roughly. Each interval has its own generator, seeded
by the names of what is compared. So adding an arm changes no other arm's interval.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedModel

from mrrec_mini.data import Dataset
from mrrec_mini.datatypes import Episode, MemoryEntry, Query
from mrrec_mini.environment import Environment
from mrrec_mini.grammar import Grammar
from mrrec_mini.memory import plain
from mrrec_mini.metrics import MISSING, hierarchical_interval, ndcg_at_k, recall_at_k, target_ranks
from mrrec_mini.own_text import OWN_TEXT, own_texts
from mrrec_mini.prior import SCENARIO_GRID, TEXT_ALONE, Weights
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import Actor, LMActor, RolloutConfig, ScriptActor
from mrrec_mini.scripts import (
    UNTOLD,
    TeacherConfig,
    aspect_of,
    expert,
    is_about,
    is_latest,
    names_aspect,
    teacher,
    told_drift,
    untold,
)
from mrrec_mini.systems import System
from mrrec_mini.systems.neighbours import Neighbours
from mrrec_mini.systems.popularity import Popularity
from mrrec_mini.world import config_of, oracle_profile

ARMS = (
    *("popularity", "neighbours", "popularity_in_category", "neighbours_in_category"),
    *("bm25_query", "dense_query", "blair", "rec_r1", "query_only", "query_popularity", "query_prior"),
    *(*OWN_TEXT, "best_own_text"),
    *("naive_memory", "static_memory", "script_filter", "script_lookups", "best_script", "teacher"),
    *("clone", "warm_start", "warm_start_all_calls", "imitation_long", "imitation_filtered", "raft", "reinforce"),
    *("grpo_no_global", "grpo_no_local", "grpo", "grpo_from_clone", "told_drift", "expert", "oracle"),
)
PARTS = ("test", "held")
CUTOFFS = (10, 100, 1000)
LATEST = 3  # number of records that naive_memory appends to the query
GREEDY, SAMPLED, NO_POLICY = "greedy", "sampled", ""


@dataclass(frozen=True)
class Row:
    """The answer of one arm to one query."""

    arm: str  # one of ARMS
    mode: str  # GREEDY, SAMPLED or NO_POLICY
    part: str  # one of PARTS; "held": queries of test users on categories that no training query names
    seed: int  # of the run
    source: str  # name of the data set; runs of several seeds may have the same data set
    query: str  # id of the query
    user: str  # id of the user who asks; two sources have different users, even if their ids are equal
    rank: int | None  # rank of the target among all items, from 1; None if there is no answer
    format: float  # 1.0 if the answer parses, else 0.0
    calls: int  # memory calls made
    memory_tokens: int  # tokens of memory that the arm read
    asked: int | None = None  # number of aspects looked up; None if the truth is unknown or the arm cannot look up
    right: int | None = None  # number of aspects looked up that matter
    matter: int | None = None  # number of aspects that matter
    with_prior: int | None = None  # the rank if the score has the prior too; None: no answer, or not tried


@dataclass(frozen=True)
class EvalSet:
    """What is the same for all arms of a comparison: the queries, the shop and the rollout rules."""

    environment: Environment
    grammar: Grammar
    rules: RolloutConfig
    part: str
    seed: int
    queries: tuple[Query, ...]
    batch: int = 256  # number of episodes played at once; limits the size of the KV cache

    @property
    def validation(self) -> EvalSet:
        """The same, with the queries of validation users."""
        return replace(self, queries=self.environment.split.validation_queries)

    @property
    def tries_prior(self) -> bool:
        """Whether arms are evaluated with the prior too: if the data are real and there are validation queries."""
        return not self.environment.dataset.synthetic and bool(self.validation.queries)

    @property
    def drifting(self) -> tuple[str, ...]:
        """The aspects in which tastes change; () if this is unknown."""
        dataset = self.environment.dataset
        return config_of(dataset).drifting if dataset.synthetic else ()


def eval_sets(environment: Environment, grammar: Grammar, rules: RolloutConfig, seed: int) -> list[EvalSet]:
    """Return a set of test users' queries on trained categories ("test") and one on held-out ones ("held"), if any."""
    parts = {"test": environment.split.test_queries, "held": environment.split.held_queries}
    return [EvalSet(environment, grammar, rules, part, seed, queries) for part, queries in parts.items() if queries]


def reference_rows(
    eval_set: EvalSet, rng: np.random.Generator, teaching: TeacherConfig | None = None, best: str = ""
) -> list[Row]:
    """Run the arms without a policy. The teacher draws from `rng`. `best` names the untold script of best_script.

    Leaves out best_script without `best`, and expert and oracle if a truth is unknown.
    """
    return first_rows(eval_set) + script_rows(eval_set, rng, teaching, best)


def script_rows(
    eval_set: EvalSet, rng: np.random.Generator, teaching: TeacherConfig | None = None, best: str = ""
) -> list[Row]:
    """Run the arms of `reference_rows` that look up, and the oracle."""
    queries, grammar, calls = eval_set.queries, eval_set.grammar, eval_set.rules.max_calls
    rows: list[Row] = []
    scripts = {"script_lookups": untold(grammar, UNTOLD["first lines"], calls)}
    if best:
        scripts["best_script"] = untold(grammar, UNTOLD[best], calls)
    environment, config = eval_set.environment, teaching or TeacherConfig()
    scripts["teacher"] = teacher(grammar, config, rng, environment.aspects, calls, bool(environment.memory.others))
    known = all(query.truth is not None for query in queries)
    if known:
        scripts["told_drift"] = told_drift(grammar, eval_set.drifting, calls)
        scripts["expert"] = expert(grammar, eval_set.drifting)
        ranks = eval_set.environment.items.ranks_for(queries, [oracle_profile(query) for query in queries])
        rows += ranked_rows(eval_set, "oracle", ranks, [0] * len(queries))
    for arm, script in scripts.items():
        rows += actor_rows(eval_set, arm, NO_POLICY, ScriptActor(script))
    return rows


def first_rows(eval_set: EvalSet) -> list[Row]:
    """Run the arms that need neither training nor look-ups; those of `prior` and `own_text` on real data only."""
    asked = (*eval_set.queries, *(eval_set.validation.queries if eval_set.tries_prior else ()))
    entries = {query.id: eval_set.environment.memory.entries(query) for query in asked}

    def lines_of(level: str, count: int | None) -> Lines:
        return lambda query: [entry for entry in entries[query.id] if entry.level == level][:count]

    if eval_set.environment.dataset.synthetic:
        rows = system_rows(eval_set, "popularity", Popularity())
        rows += system_rows(eval_set, "neighbours", Neighbours())
        rows += memory_rows(eval_set, "query_only", lambda query: [])
    else:
        rows = prior_rows(eval_set) + own_text_rows(eval_set)
    rows += memory_rows(eval_set, "naive_memory", lines_of("record", LATEST))
    rows += memory_rows(eval_set, "static_memory", lines_of("profile", None))
    return rows + memory_rows(eval_set, "script_filter", lambda query: filtered_profile(eval_set, query))


def prior_rows(eval_set: EvalSet) -> list[Row]:
    """Run the arms of the prior: one term alone, everywhere or in the category first, and beside the query alone."""
    items, queries, tokens = eval_set.environment.items, eval_set.queries, [0] * len(eval_set.queries)
    rows = []
    for place, scenario in (("", 0.0), ("_in_category", max(SCENARIO_GRID))):
        for term in ("popularity", "neighbours"):
            ranks = items.ranks_for(queries, None, Weights(**{term: 1.0}, scenario=scenario))
            rows += ranked_rows(eval_set, f"{term}{place}", ranks, tokens)
    if eval_set.tries_prior:
        alone, checked = ([query.to_repeat for query in qs] for qs in (queries, eval_set.validation.queries))
        for arm, neighbours in (("query_popularity", False), ("query_prior", True)):
            weights = best_of(items.tuned(eval_set.validation.queries, checked, neighbours))
            rows += ranked_rows(eval_set, arm, items.ranks_for(queries, alone, weights), tokens)
    return rows


def own_text_rows(eval_set: EvalSet) -> list[Row]:
    """Run every script of `own_text`, and the best of them and the query alone on validation users."""
    environment, encode = eval_set.environment, eval_set.grammar.tokenizer.encode
    texts, checked = (own_texts(environment, s.queries) for s in (eval_set, eval_set.validation))
    texts, checked = ({"query_only": [""] * len(next(iter(t.values()))), **t} for t in (texts, checked))
    rows, gains = {}, {}
    for arm, written in texts.items():
        counts = [len(encode(text)) for text in written]
        rows[arm], gains[arm] = _text_rows(eval_set, arm, written, counts, checked[arm])
    best = [replace(row, arm="best_own_text") for row in rows[best_of(gains)]] if eval_set.tries_prior else []
    return [row for arm in texts for row in rows[arm]] + best


def filtered_profile(eval_set: EvalSet, query: Query) -> list[MemoryEntry]:
    """Return the profile lines, without the latest values, on the aspects of global lines about the query."""
    memory = eval_set.environment.memory
    lines = memory.search_global(query.text, eval_set.rules.global_k)
    aspects = {aspect_of(line) for line in lines if is_about(line, query.text)}
    profile = [e for e in memory.entries(query) if e.level == "profile" and not is_latest(e)]
    return [entry for entry in profile if aspect_of(entry) in aspects]


def policy_rows(
    eval_set: EvalSet, arm: str, model: PreTrainedModel, generator: torch.Generator, all_calls: bool = False
) -> list[Row]:
    """Run a language model greedily, then sampled with `generator` at temperature 1. `all_calls` forces all searches.

    For an ablation, change the rules of the eval set: `global_k=0` removes global memory, `max_calls=0` local memory.
    """
    greedy = actor_rows(eval_set, arm, GREEDY, LMActor(model, eval_set.grammar, None, 0.0), all_calls)
    sampled = play(eval_set, LMActor(model, eval_set.grammar, generator, 1.0), all_calls)
    return greedy + episode_rows(eval_set, arm, SAMPLED, sampled)


def actor_rows(eval_set: EvalSet, arm: str, mode: str, actor: Actor, all_calls: bool = False) -> list[Row]:
    """Play one episode per query; return its rows, with the prior too if that is tried (plays validation as well)."""
    episodes = play(eval_set, actor, all_calls)
    rows = episode_rows(eval_set, arm, mode, episodes)
    if not eval_set.tries_prior:
        return rows
    items, checked = eval_set.environment.items, play(eval_set.validation, actor, all_calls)
    means = items.tuned(eval_set.validation.queries, [e.answer and e.answer.profile for e in checked])
    answered = [e for e in episodes if e.answer]
    ranks = items.ranks_for([e.query for e in answered], [e.answer.profile for e in answered], best_of(means))
    places = dict(zip([e.query.id for e in answered], map(int, ranks), strict=True))
    return [replace(row, with_prior=places.get(row.query)) for row in rows]


def play(eval_set: EvalSet, actor: Actor, all_calls: bool = False) -> list[Episode]:
    """Play and score one episode per query, in order. The weights of the reward are the defaults; no row uses them."""
    rules = (eval_set.grammar, eval_set.rules, RewardConfig(), all_calls)
    starts = range(0, len(eval_set.queries), eval_set.batch)
    batches = [eval_set.queries[start : start + eval_set.batch] for start in starts]
    return [episode for queries in batches for episode in eval_set.environment.play(actor, queries, *rules)]


def play_greedily(eval_set: EvalSet, model: PreTrainedModel, all_calls: bool = False) -> list[Episode]:
    """Play and score one episode per query with a language model that decodes greedily."""
    return play(eval_set, LMActor(model, eval_set.grammar, None, 0.0), all_calls)


def episode_rows(eval_set: EvalSet, arm: str, mode: str, episodes: Sequence[Episode]) -> list[Row]:
    """Return one row per scored episode."""
    rows = []
    for episode in episodes:
        rank, form = episode.rewards["rank"], episode.rewards["format"]
        tokens, aspects = memory_tokens(episode, eval_set.grammar), aspect_counts(episode, eval_set.environment.aspects)
        rows.append(_row(eval_set, arm, mode, episode.query, rank, form, len(episode.calls), tokens, **aspects))
    return rows


def system_rows(eval_set: EvalSet, arm: str, system: System) -> list[Row]:
    """Fit a system on train users, let it score all items for each query without the target; return one row per query.

    Items with equal scores are ordered by id, as in the item index. Raises ValueError if a score is NaN.
    """
    dataset, prior = eval_set.environment.dataset, eval_set.environment.items.prior
    pool = sorted(dataset.items)
    place = {item: n for n, item in enumerate(pool)}
    system = system.fit(dataset, eval_set.environment.split)
    ranks = []
    # one query at a time: for a large shop, a (queries, items) matrix would need too much memory
    for query in eval_set.queries:
        scores = np.array(system.rank(replace(query, target="", truth=None), pool), dtype=float)
        scores[prior.owned(query)] = -np.inf
        ranks += target_ranks([scores], [place[query.target]]).tolist()
    return ranked_rows(eval_set, arm, ranks, [0] * len(ranks))


Lines = Callable[[Query], Sequence[MemoryEntry]]


def memory_rows(eval_set: EvalSet, arm: str, lines_of: Lines) -> list[Row]:
    """Return one row per query, ranked with the profile "query + the texts of its lines of memory"."""
    texts, checked = (
        [" ".join(entry.text for entry in lines_of(query)) for query in s.queries]
        for s in (eval_set, eval_set.validation if eval_set.tries_prior else replace(eval_set, queries=()))
    )
    counts = [len(eval_set.grammar.tokenizer.encode(text)) for text in texts]
    return _text_rows(eval_set, arm, texts, counts, checked)[0]


def _text_rows(
    eval_set: EvalSet, arm: str, texts: Sequence[str], tokens: Sequence[int], checked: Sequence[str]
) -> tuple[list[Row], float]:
    """Rank all items by each query followed by its text. Return one row per query, and mean nDCG@10 on validation.

    `tokens`: memory tokens per query. `checked`: the texts of the validation queries; the mean is 0 if no prior is
    tried.
    """
    items, profiles = eval_set.environment.items, _repeating(eval_set.queries, texts)
    if not eval_set.tries_prior:
        return ranked_rows(eval_set, arm, items.ranks_for(eval_set.queries, profiles), tokens), 0.0
    means = items.tuned(eval_set.validation.queries, _repeating(eval_set.validation.queries, checked))
    plain, prior = items.ranks_both(eval_set.queries, profiles, [items.weights, best_of(means)])
    rows = ranked_rows(eval_set, arm, plain, tokens)
    return [replace(row, with_prior=int(rank)) for row, rank in zip(rows, prior, strict=True)], means[TEXT_ALONE]


def _repeating(queries: Sequence[Query], texts: Sequence[str]) -> list[str]:
    """Return what each answer must repeat of its query, followed by the text."""
    return [f"{query.to_repeat} {text}".strip() for query, text in zip(queries, texts, strict=True)]


def best_of(means: Mapping) -> object:
    """Return the key with the highest value; of equal values, the first."""
    return max(means, key=means.__getitem__)


def ranked_rows(eval_set: EvalSet, arm: str, ranks: Sequence[int], tokens: Sequence[int]) -> list[Row]:
    """Return one row per query for an arm that always answers and makes no calls."""
    return [
        _row(eval_set, arm, NO_POLICY, query, rank, 1.0, 0, count)
        for query, rank, count in zip(eval_set.queries, ranks, tokens, strict=True)
    ]


def _row(eval_set: EvalSet, arm: str, mode: str, query: Query, rank: float, *rest, **aspects) -> Row:
    source, rank = source_of(eval_set.environment.dataset), int(rank) if np.isfinite(rank) else None
    return Row(arm, mode, eval_set.part, eval_set.seed, source, query.id, query.user, rank, *rest, **aspects)


def source_of(dataset: Dataset) -> str:
    """Return the name of a data set; for a synthetic shop with its seeds, because each seed makes other users."""
    name = str(dataset.meta.get("name", ""))
    world = config_of(dataset) if dataset.synthetic else None
    return f"{name} {world.seed}.{world.map_seed}" if world else name


def memory_tokens(episode: Episode, grammar: Grammar) -> int:
    """Count the tokens that the policy read in addition to the query: global lines and replies of the memory tool."""
    return episode.mask.count(0) - len(grammar.prompt(episode.query.wish, ()))


def aspect_counts(episode: Episode, names: Iterable[str]) -> dict[str, int]:
    """Count the aspects that were looked up, those of them that matter, and all that matter. {} if truth is unknown."""
    if episode.query.truth is None:
        return {}
    matter = {plain(aspect) for aspect in episode.query.truth}
    asked = {name for call in episode.calls for name in names if names_aspect(call.text, name)}
    return {"asked": len(asked), "right": len(asked & matter), "matter": len(matter)}


Group = tuple[str, str, str]  # arm, mode, part


def summary(rows: Sequence[Row]) -> dict[Group, dict]:
    """Return {(arm, mode, part): its `means`, "interval" and "grpo_minus"}, arms in their fixed order.

    "interval" is the 95 % interval of nDCG@10. "with_prior" holds the same for ranks by text and prior, if these were
    tried. "grpo_minus" is the `difference` of GRPO minus this arm: sampled GRPO
    if the arm is sampled, else greedy GRPO; None for GRPO itself. A number that is undefined is None.
    Raises ValueError for an unknown arm or part, or if an arm has two rows for the same part, mode, query and seed.
    """
    groups = grouped(rows)
    numbers = {}
    for (arm, mode, part), group in groups.items():
        grpo = groups.get(("grpo", mode or GREEDY, part), []) if arm != "grpo" else []
        numbers[arm, mode, part] = means(group) | {
            "interval": interval([ndcg_10(row) for row in group], group, ("mean", arm, mode, part)),
            "grpo_minus": difference(grpo, group, ("difference", "grpo", arm, mode, part)),
        }
        if tried := prior_instead(group):
            about = arm, mode, part, "with prior"
            numbers[arm, mode, part]["with_prior"] = {
                "ndcg@10": means(tried)["ndcg@10"],
                "interval": interval([ndcg_10(row) for row in tried], tried, ("mean", *about)),
                "grpo_minus": difference(prior_instead(grpo), tried, ("difference", "grpo", *about)),
            }
    return numbers


def grouped(rows: Sequence[Row]) -> dict[Group, list[Row]]:
    """Group rows by (arm, mode, part), arms in their fixed order. Raises ValueError as `summary` does."""
    if unknown := {row.arm for row in rows} - set(ARMS) | {row.part for row in rows} - set(PARTS):
        raise ValueError(f"no such arm or part: {', '.join(sorted(unknown))}")
    groups: dict[Group, list[Row]] = {}
    # sort also by seed and query: intervals must not depend on the order in which processes finish
    for row in sorted(rows, key=lambda r: (ARMS.index(r.arm), PARTS.index(r.part), r.mode, r.seed, r.query)):
        groups.setdefault((row.arm, row.mode, row.part), []).append(row)
    for key, group in groups.items():
        if len({(row.seed, row.query) for row in group}) < len(group):
            raise ValueError(f"{' '.join(key)}: two rows answer one query of one seed")
    return groups


def means(rows: Sequence[Row]) -> dict:
    """Return the mean of each number over the rows of one group; None if no row has the number."""
    ranks = [_rank(row) for row in rows]
    result: dict = {f"ndcg@{k}": float(ndcg_at_k(ranks, k).mean()) for k in CUTOFFS}
    result |= {f"recall@{k}": float(recall_at_k(ranks, k).mean()) for k in CUTOFFS}
    result |= {name: _mean(getattr(row, name) for row in rows) for name in ("format", "calls", "memory_tokens")}
    return result | {
        "aspect_precision": _mean(row.right / row.asked for row in rows if row.asked),
        "aspect_recall": _mean(row.right / row.matter for row in rows if row.matter),
        "aspects_right": _mean(row.right for row in rows if row.matter),
        "aspects_that_matter": _mean(row.matter for row in rows if row.matter),
        "queries": len(rows),
    }


def prior_instead(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of one group with the rank by text and prior in place of `rank`; [] if that was not tried."""
    tried = any(row.with_prior is not None for row in rows)
    return [replace(row, rank=row.with_prior) for row in rows] if tried else []


def difference(new: Sequence[Row], old: Sequence[Row], about: Sequence[str]) -> dict | None:
    """Return {"ndcg@10", "interval"} of `new` minus `old`, paired by (seed, query); None if they share no pair."""
    known = {(row.seed, row.query): ndcg_10(row) for row in old}
    shared = [row for row in new if (row.seed, row.query) in known]
    if not shared:
        return None
    gains = [ndcg_10(row) - known[row.seed, row.query] for row in shared]
    return {"ndcg@10": float(np.mean(gains)), "interval": interval(gains, shared, about)}


def interval(values: Sequence[float], rows: Sequence[Row], about: Sequence[str]) -> list[float] | None:
    """Return the 95 % interval [low, high] of the mean of `values` (one per row), or None for fewer than two users.

    `about` names the mean, e.g. ("mean", arm, mode, part), and so seeds the generator.
    """
    users = [f"{row.source}\n{row.user}" for row in rows]
    if len(set(users)) < 2:
        return None
    rng = np.random.default_rng(zlib.crc32("\n".join(about).encode()))
    return list(hierarchical_interval(values, [row.seed for row in rows], users, rng)[1:])


def ndcg_10(row: Row) -> float:
    return float(ndcg_at_k([_rank(row)], 10)[0])


def _rank(row: Row) -> float:
    return MISSING if row.rank is None else row.rank


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return float(np.mean(values)) if values else None


def report_dict(rows: Sequence[Row]) -> dict[str, dict]:
    """{arm: {"ndcg@10", "recall@10", "interval", ..., "sampled": {...}, "held": {..., "sampled": {...}}}}, strict JSON.

    The numbers directly under an arm are for the part "test"; a policy decoded greedily. "sampled" has the numbers for
    sampled tokens, "held" those for the part "held"; they are missing if there are no such rows.
    """
    arms: dict[str, dict] = {}
    for (arm, mode, part), numbers in summary(rows).items():
        place = arms.setdefault(arm, {})
        for name in (part, mode):
            if name in ("held", SAMPLED):
                place = place.setdefault(name, {})
        place |= numbers
    return arms
