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

# BEGIN SOLUTION
FIRST = "a"  # luxury is rare (one text of four); mug occurs in three
SECOND_B_0 = "b"  # tf is 4 against 1, and length is not discounted
SECOND_B_1 = False  # 17 words, 6.5 on average: 10 / (4 + 1.5 x 2.62) = 1.26 against 2.5 / (1 + 1.5 x .46) = 1.48
K1_0 = 3  # a, b and d hold the word, once or more
NOBODY = 0.0  # no word in common
# END SOLUTION
