"""Exercise which_grpo: which rule favours long wrong answers? Predict, then run, 15 minutes.

Notebook 08. One group, no KL, no clip: rewards (1, 1, 0, 0), answers of 2, 10, 2 and 10 tokens. So a short and a long
answer are right, a short and a long one are wrong. Four rules:

    A  sigma "none",        mean over all tokens of the batch           (the package's default)
    B  sigma "population",  mean over all tokens of the batch
    C  sigma "none",        mean within each answer, then over answers
    D  sigma "none",        sum over each answer / (answers x constant)

Predict with pencil and paper, then `make exercise EX=which_grpo`.
"""

CHEAP_LONG = None  # under which rules is a token of the long wrong answer blamed less than one of the short? letters
RIGHT_TOO = None  # and under which does a token of the long *right* answer get less praise? letters, e.g. "AB"
B_OVER_A = None  # how many times as large is every token's weight under B as under A?
C_SHORT_OVER_LONG = None  # under C: the weight of a token of the short answer over that of a token of the long one
LONG_TOTAL_A = None  # under A: what share of all blame does the long wrong answer get *as a whole*? between 0 and 1

# BEGIN SOLUTION
CHEAP_LONG = "C"
RIGHT_TOO = "C"  # the rule does not ask who was right
B_OVER_A = 2.0  # the spread of (1, 1, 0, 0) is .5
C_SHORT_OVER_LONG = 5.0  # 10 / 2
LONG_TOTAL_A = 10 / 12  # equal blame a token, so the longer answer as a whole gets more
# END SOLUTION
