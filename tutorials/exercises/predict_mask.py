"""Exercise predict_mask: which tokens can be praised? Predict, then run, 15 minutes.

Notebook 06. This is an episode, token by token (words and control tokens):

     0 <query>    1 mug       2 for       3 hiking    4 <global>   5 <line>    6 mug       7 price
     8 <think>    9 price    10 <search> 11 mug      12 price     13 </search>
    14 <memory>  15 <m1>     16 mug      17 price    18 luxury    19 </memory>
    20 <think>   21 luxury   22 <profile> 23 mug     24 luxury    25 <evidence> 26 <m1>   27 <end>

Write your predictions down, then run `make exercise EX=predict_mask`.
"""

FIRST_WRITTEN = None  # the number of the first token that the policy wrote
WRITTEN = None  # how many tokens it wrote in all
LUXURY = None  # the word `luxury` stands at 18, 21 and 24: at which of them is the mask 1? A list of numbers
SCORED_BY = None  # the logits of which column score the first token after the reply, `<think>` at 20?
DIVISOR = None  # length rule "token", a batch of only this episode: what is the sum over its tokens divided by?
