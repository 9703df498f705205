"""Exercise sampled_metrics: when does a sample of candidates mislead? Predict, then run, 15 minutes.

Notebook 09. The pool has 1,001 items. This is the rank of the target among all of them, for four queries:

    arm A:  1, 500, 500, 500       arm B:  20, 20, 20, 20

To save time, a protocol ranks the target against 50 items drawn at random from the other 1,000. An item that is ahead
of the target in the full ranking is also ahead of it in the sample, if it is drawn. So the expected number of items
ahead of the target is (rank - 1) x 50 / 1000.

Predict with pencil and paper, then run `make exercise EX=sampled_metrics`.
"""

WINNER_FULL = None  # by mean nDCG@10 over all items: "A" or "B"?
WINNER_SAMPLED = None  # by expected recall@1 in the sample (the target is first among the 51): "A" or "B"?
EXPECTED_RANK_B = None  # the expected rank of B's targets among the 51 (from 1)
EXPECTED_RANK_500 = None  # the expected rank among the 51 of a target that stands at 500
SAME_WITH_ALL = None  # with how many drawn items are both protocols certain to agree?
