"""Exercise which_grpo: which rule favours long wrong answers? Predict, then run, 15 minutes.

Notebook 08. There is one group, no KL and no clip. The rewards are (1, 1, 0, 0), and the answers have 2, 10, 2 and 10
tokens. So a short and a long answer are right, and a short and a long answer are wrong. There are four rules:

    A  sigma "none",        mean over all tokens of the batch           (the package's default)
    B  sigma "population",  mean over all tokens of the batch
    C  sigma "none",        mean within each answer, then over answers
    D  sigma "none",        sum over each answer / (answers x constant)

Predict with pencil and paper, then run `make exercise EX=which_grpo`.
"""

CHEAP_LONG = None  # under which rules is a token of the long wrong answer blamed less than one of the short? Letters
RIGHT_TOO = None  # and under which does a token of the long *right* answer get less praise? Letters, e.g. "AB"
B_OVER_A = None  # how many times as large is every token's weight under B as under A?
C_SHORT_OVER_LONG = None  # under C: a token's weight in the short answer, divided by that in the long one
LONG_TOTAL_A = None  # under A: what share of all blame does the long wrong answer get *as a whole*? between 0 and 1

# BEGIN SOLUTION
CHEAP_LONG = "C"
RIGHT_TOO = "C"  # the rule does not ask who was right
B_OVER_A = 2.0  # the spread of (1, 1, 0, 0) is .5
C_SHORT_OVER_LONG = 5.0  # 10 / 2
LONG_TOTAL_A = 10 / 12  # equal blame per token, so the longer answer as a whole gets more
# END SOLUTION
