"""Filtered imitation: play every query n times, and imitate only the trace with the highest reward.

Flow: between `scripts` and `imitation.warm_start`. `best_traces` returns as many traces as an ordinary teacher does, so
the imitation itself stays the same: equal steps, equal batch. Only the play costs n times as much. A script needs no
model, so this is cheap. Ordinary imitation never looks at the reward; this is the simplest way to use it.

    kept(q) = the trace with the highest reward r (eq. 10) of n traces for query q; the first, if several are equal

**Why it works.** A mediocre teacher is sometimes right by chance. If one trace in ten is good, one of 8 traces is good
for 1 - .9^8 = 57 % of the queries. All n traces answer the same query, so an easy query has no advantage over a hard
one. The policy then imitates a better teacher, which nobody had to write.

**When it fails.**
- It cannot keep what the teacher never does, and it ends after one round. `raft` goes on: there, the policy itself is
  the teacher of the next round.
- Luck looks like skill. If a teacher guesses one of four values, at least one of 8 traces is right for 1 - .75^8 = 90 %
  of the queries, and it is kept. The policy learns to guess, but is right one time in four.
- Only the best trace counts. Imitation learns nothing from the other n - 1, for example which look-up was useless.

Departure: the paper has no such stage. The method is also known as rejection sampling or best-of-n fine-tuning.
"""

from __future__ import annotations

from collections.abc import Sequence

from mrrec_mini.datatypes import Episode, Query
from mrrec_mini.environment import Environment
from mrrec_mini.grammar import Grammar
from mrrec_mini.reward import RewardConfig
from mrrec_mini.rollout import Actor, RolloutConfig


def best_traces(
    environment: Environment,
    actor: Actor,
    queries: Sequence[Query],
    grammar: Grammar,
    rules: RolloutConfig,
    reward: RewardConfig,
    tries: int,
) -> list[Episode]:
    """Let `actor` play each query `tries` times; return the best trace of each query, in the order of the queries.

    A trace without an answer is never kept, whatever its reward. So a query for which no trace has an answer is left
    out. With one try, this is ordinary imitation. A query that is listed twice gets two traces, each the best of its
    own tries. Raises ValueError if `tries` is below 1.
    """
    if tries < 1:
        raise ValueError(f"tries must be at least 1, got {tries}")
    repeated = [query for query in queries for _ in range(tries)]
    played = environment.play(actor, repeated, grammar, rules, reward)
    groups = [played[start : start + tries] for start in range(0, len(played), tries)]
    answered = [[episode for episode in group if episode.answer is not None] for group in groups]
    return [max(group, key=lambda episode: episode.reward) for group in answered if group]
