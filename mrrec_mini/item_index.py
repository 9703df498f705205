"""The item index: rank all items for a person's query by text and prior, with what the person already has last.

Flow: after `hybrid` and `prior`; part of the `environment`. The reward, turn credit, the evaluation of every arm and
the assistant rank items here, so a rule of the ranking holds for all of them alike:

    score(i) = text(i) + w_p popularity(i) + w_n neighbours(i) + w_s scenario(i)      text by `hybrid`, the rest `prior`
    an item that the user took before the query ranks last, unless people take items twice (`Dataset.repeats`)

The searched text is the phrase of the query, if it has one, followed by the profile that somebody wrote (eq. 3).
Departure: the paper ranks by the profile's text alone, and does not say what it does with items bought before. In the
synthetic shop this is the same here: its queries have no phrase, its people may take an item twice, and the weights
are 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mrrec_mini.datatypes import Query
from mrrec_mini.hybrid import Hit, HybridIndex, count_rank
from mrrec_mini.prior import TEXT_ALONE, Prior, Weights, joined_scores, tune_weights


class ItemIndex(HybridIndex):
    """A `HybridIndex` of all items that also knows people. `weights`: those of the reward; all 0: text alone."""

    prior: Prior
    weights: Weights

    @classmethod
    def over(cls, index: HybridIndex, prior: Prior, weights: Weights = TEXT_ALONE) -> ItemIndex:
        """Return an item index with the rows of `index`, which are the items of the prior's data set."""
        items = cls.__new__(cls)
        items.__dict__ |= index.__dict__ | {"prior": prior, "weights": weights}
        return items

    def ranks_for(
        self, queries: Sequence[Query], profiles: Sequence[str] | None, weights: Weights | None = None
    ) -> np.ndarray:
        """Return (Q,) int64: the rank, from 1, of each query's target for its profile.

        `profiles` None: no text, the prior alone. `weights` None: those of the index. Raises ValueError if a target is
        not in the index or the lengths differ.
        """
        return self.ranks_both(queries, profiles, [self.weights if weights is None else weights])[0]

    def ranks_both(
        self, queries: Sequence[Query], profiles: Sequence[str] | None, tried: Sequence[Weights]
    ) -> np.ndarray:
        """Return the ranks of `ranks_for` with each of the W weights `tried`, (W, Q); the texts are scored once."""
        self._require(query.target for query in queries)
        nothing = np.zeros((3, len(self)))
        people = {(query.user, query.time): query for query in queries}  # the episodes of a group share one
        owned = {person: self.prior.owned(query) for person, query in people.items()}
        ranks = np.empty((len(tried), len(queries)), dtype=np.int64)
        for i, text in self._texts(queries, profiles):
            query, place = queries[i], self._order.place(queries[i].target)
            for row, weights in enumerate(tried):
                terms = nothing if weights == TEXT_ALONE else self.prior.terms(query)
                ranks[row, i] = count_rank(joined_scores(text, terms, weights, owned[query.user, query.time]), place)
        return ranks

    def tuned(
        self, queries: Sequence[Query], profiles: Sequence[str | None], neighbours: bool = True
    ) -> dict[Weights, float]:
        """Return `tune_weights` for queries of validation users and their profiles; None: no answer, which counts 0."""
        asked = [(query, profile) for query, profile in zip(queries, profiles, strict=True) if profile is not None]
        if not asked:
            return {TEXT_ALONE: 0.0}
        judged = (
            (text, self.prior.terms(query), self.prior.owned(query), self._order.place(query.target))
            for i, text in self._texts(*zip(*asked, strict=True))
            for query in [asked[i][0]]
        )
        share = len(asked) / len(queries)
        return {weights: share * mean for weights, mean in tune_weights(judged, neighbours).items()}

    def search_for(self, query: Query, profile: str, k: int) -> list[Hit]:
        """Return the k best items for a profile, best first, without those that the ranking puts last.

        Scores are those of the text. [] as in `search`.
        """
        owned = set(self.prior.dataset.owned(query))
        return [hit for hit in self.search(query.searched(profile), k + len(owned)) if hit.id not in owned][:k]

    def _texts(self, queries: Sequence[Query], profiles: Sequence[str] | None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number of the query, its text scores (N,), by ascending id), not in order."""
        if profiles is None:
            return ((i, np.zeros(len(self))) for i in range(len(queries)))
        return self.scores_by_id([q.searched(text) for q, text in zip(queries, profiles, strict=True)])
