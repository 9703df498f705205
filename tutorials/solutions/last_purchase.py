"""Exercise last_purchase: whose last purchase is certain? Fill in, 20 minutes.

Notebook 11. Check yours with `make exercise EX=last_purchase`.
"""

from collections.abc import Sequence

Purchase = tuple[str, str, int]  # (user, item, time in seconds)
DAY = 86_400


def last_purchases(purchases: Sequence[Purchase]) -> dict[str, str]:
    """{user: the item that becomes the target of that user's query}, for the users whose last purchase is certain.

    Apply these rules in this order. (1) If a user bought an item several times, only the earliest purchase counts. (2)
    A user needs at least two items. (3) The last purchase must be on a later *day* than the one before it, where day =
    time // 86,400. Times are exact only to the day, so the order within a day is unknown. A user who fails a rule gets
    no query.

    By hand: ann buys a on day 0 and b on day 2: {ann: b}. bob buys a and b on day 3: no query. eve buys a on day 1, b
    on day 2, and a again on day 5: the second a does not count, so {eve: b}.

    Hint: sort by time first; then build one dictionary from each user to {item: time}.
    """
    # BEGIN SOLUTION
    first: dict[str, dict[str, int]] = {}
    for user, item, time in sorted(purchases, key=lambda purchase: purchase[2]):
        first.setdefault(user, {}).setdefault(item, time)
    found = {}
    for user, items in first.items():
        if len(items) > 1:
            (_, before), (item, time) = list(items.items())[-2:]
            if before // DAY < time // DAY:
                found[user] = item
    return found
    # END SOLUTION
