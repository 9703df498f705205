"""Exercise predict_scores: which memory comes first? Predict, then run, 10 minutes.

Notebook 03. Write your predictions below *before* you compute anything; then run `make exercise EX=predict_scores`. If
one is wrong, the check says which, but not why. Run `mrrec_mini.bm25` on it and look at the two parts of the formula.

There are four memories. BM25 uses k1 = 1.5; idf and average length are counted over these four:

    a   mug price luxury
    b   mug mug mug mug color red and a lot of words beside it that nobody has asked for
    c   lamp price budget
    d   mug color blue
"""

FIRST = None  # which one comes first for "luxury mug": "a", "b", "c" or "d"?
SECOND_B_0 = None  # "mug" alone, b = 0 (length plays no part): which one comes first?
SECOND_B_1 = None  # "mug" alone, b = 1 (length counts fully): is "b" still ahead of "a"? True or False
K1_0 = None  # "mug" alone, k1 = 0 (only presence counts): how many memories share the first place?
NOBODY = None  # "something cheap": what is the highest score of all four?
