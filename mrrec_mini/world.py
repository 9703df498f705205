"""A synthetic shop with known true preferences: the built-in data set and the reference for experiments.

Flow: makes a `Dataset` from a seed, without any learned model. How people buy and review:

1. In each category, `relevant` of the aspects matter. `by_use` of them depend on the use (hiking, travel, ...) for
   which the person buys; the others hold for the whole category. The *map* says which aspects; global memory can learn
   it.
2. A person prefers one value of each aspect in all categories, except for some (category, aspect) *exceptions*. Tastes
   in the aspects `drifting` may change once during the history, other tastes never change. But in other aspects a
   person now and then wants another value for a single purchase (`whims`). So the latest value that a person bought is
   often right for drifting aspects, and the most frequent value for the others.
3. A person buys an item for a use: of at most `shown` items of the category, the one that matches most of the wanted
   values of the aspects that matter. An item that does not suit the use must match two more. Each wanted value is kept
   with probability `follow` (`follow_target` for the target of a query) and otherwise replaced by another value.
4. The rating falls with each preference that the item breaks. The review may say what the item was bought for. It
   mentions values of the aspects that mattered, in varied words (synonyms), and sometimes of one that did not matter.

A query names the category and the use (like the paper's simplified Amazon-C4 queries: one item, one use). Some queries
also state wanted values (`said`), which nobody has to look up. `Query.truth` holds the other aspects that matter and
the values that this person wants. `oracle_profile` adds them to the query text. No policy can write a better profile,
so the score of this profile is the ceiling of every metric. The ceiling is below 1: a target may break a preference
(step 3), and several items may have all wanted values.

No training query asks for one of the last `held` categories, or for one of `held_pairs` pairs of a category and a use;
train users do buy there, so that global memory can know them (`Dataset.split`). `EASY` is a shop in which the category
alone decides what matters and tastes stay: one plain rule finds nearly everything there.

Each item is a function of the config and of its index. So an item can be made without making the others: a shop of a
million items is written as a stream, and a purchase computes only the items that the person compares.

Two shops with equal `seed` and different `map_seed` have different maps, and so different items and purchases.
Departure: the paper has no such data; Amazon-C4 does not give the true preferences. Guessed: all numbers in
`WorldConfig`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from mrrec_mini.data import DataError, Dataset, shorten, write_dataset
from mrrec_mini.datatypes import Interaction, Item, Query
from mrrec_mini.typed import typed

# aspect -> value -> words by which people mention the value (the first is the value itself)
ASPECTS: dict[str, dict[str, tuple[str, ...]]] = {
    "price": {
        "budget": ("budget", "cheap", "inexpensive"),
        "fair": ("fair", "reasonable", "sensible"),
        "midrange": ("midrange", "average", "moderate"),
        "premium": ("premium", "pricey", "upmarket"),
        "luxury": ("luxury", "lavish", "exclusive"),
    },
    "size": {
        "tiny": ("tiny", "mini", "pocket"),
        "small": ("small", "compact", "little"),
        "medium": ("medium", "normal", "ordinary"),
        "large": ("large", "big", "roomy"),
        "giant": ("giant", "huge", "enormous"),
    },
    "color": {
        "red": ("red", "crimson", "scarlet"),
        "blue": ("blue", "navy", "azure"),
        "green": ("green", "olive", "emerald"),
        "black": ("black", "dark", "ebony"),
        "white": ("white", "ivory", "pale"),
    },
    "material": {
        "steel": ("steel", "metal", "metallic"),
        "wood": ("wood", "wooden", "timber"),
        "glass": ("glass", "crystal", "vitreous"),
        "cotton": ("cotton", "cloth", "fabric"),
        "leather": ("leather", "hide", "suede"),
    },
    "style": {
        "modern": ("modern", "minimal", "contemporary"),
        "classic": ("classic", "timeless", "traditional"),
        "rustic": ("rustic", "rural", "homely"),
        "sporty": ("sporty", "athletic", "active"),
        "vintage": ("vintage", "retro", "antique"),
    },
    "weight": {
        "featherlight": ("featherlight", "weightless", "airy"),
        "light": ("light", "lightweight", "portable"),
        "balanced": ("balanced", "even", "steady"),
        "heavy": ("heavy", "weighty", "massive"),
        "dense": ("dense", "solid", "leaden"),
    },
    "texture": {
        "soft": ("soft", "plush", "fluffy"),
        "smooth": ("smooth", "sleek", "polished"),
        "rough": ("rough", "coarse", "gritty"),
        "ribbed": ("ribbed", "ridged", "grooved"),
        "padded": ("padded", "cushioned", "quilted"),
    },
    "scent": {
        "floral": ("floral", "rosy", "flowery"),
        "citrus": ("citrus", "lemony", "zesty"),
        "vanilla": ("vanilla", "sweet", "creamy"),
        "herbal": ("herbal", "minty", "grassy"),
        "unscented": ("unscented", "odorless", "neutral"),
    },
    "sound": {
        "silent": ("silent", "noiseless", "mute"),
        "quiet": ("quiet", "hushed", "muffled"),
        "mellow": ("mellow", "warm", "gentle"),
        "bright": ("bright", "crisp", "clear"),
        "loud": ("loud", "booming", "noisy"),
    },
    "origin": {
        "local": ("local", "regional", "nearby"),
        "nordic": ("nordic", "northern", "scandinavian"),
        "italian": ("italian", "tuscan", "roman"),
        "japanese": ("japanese", "kyoto", "zen"),
        "alpine": ("alpine", "swiss", "mountain"),
    },
}
NAMES, VALUES = list(ASPECTS), [list(values) for values in ASPECTS.values()]  # (aspects,) and (aspects, N_VALUES)
N_VALUES = len(VALUES[0])  # every aspect has this number of values
CATEGORIES = [
    *("mug", "lamp", "lotion", "backpack", "chair", "blanket", "knife", "speaker", "wallet", "clock", "kettle"),
    *("tent", "pillow", "guitar", "jacket", "bottle", "rug", "bicycle", "mirror", "candle", "desk", "umbrella"),
    *("camera", "toaster", "helmet", "vase", "scarf", "drill", "keyboard", "basket", "ladder", "apron"),
    *("whistle", "telescope", "hammock", "skillet", "teapot", "cushion", "lantern", "easel"),
]
USES = ["hiking", "travel", "office", "gifting", "parties", "studying", "camping", "commuting"]
PRAISE = ("love that it is {}", "so {}", "just as {} as hoped", "really {}", "{} in the best way")
COMPLAINT = ("too {} for me", "sadly {}", "did not want it {}")
DAY = 86_400
START = 1_600_000_000  # seconds since 1970; the earliest possible purchase


@dataclass(frozen=True)
class WorldConfig:
    """The size of the shop, and how closely people follow their preferences. Every chance lies in 0..1."""

    users: int = 340
    items: int = 4000
    categories: int = 16  # at most 40
    uses: int = 3  # at most 8
    relevant: int = 3  # number of aspects that matter for a category and a use
    by_use: int = 2  # so many of these depend on the use, the others hold for the whole category
    held: int = 3  # number of categories that no training query asks for
    held_pairs: int = 6  # number of pairs of another category and a use that no training query names
    history: int = 30  # number of purchases of a person before the queries
    days: int = 30  # between two purchases
    queries: int = 6  # number of queries of a person; all at one time, after the history
    drifting: tuple[str, ...] = ("color", "style", "scent", "sound")  # the aspects whose tastes may change
    drift: float = 1.0  # chance that a person's taste in such an aspect changes once during the history
    exceptions: float = 0.05  # chance that a person wants another value of an aspect in one category
    whims: float = 0.25  # chance that a person wants another value of any other aspect for a single purchase
    follow: float = 0.85  # chance that a purchase follows a preference
    follow_target: float = 0.95  # the same chance for the target of a query
    suits: float = 0.7  # chance that an item suits a use
    mention: float = 0.7  # chance that a review mentions an aspect that mattered
    named_use: float = 0.9  # chance that a review says for which use the item was bought
    said: tuple[float, ...] = (0.6, 0.3, 0.1)  # chances that a query names 0, 1, 2, ... of the wanted values
    chatter: float = 0.08  # chance that a review mentions an aspect that did not matter
    shown: int = 250  # a person compares at most this many items per purchase
    seed: int = 0
    map_seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.categories <= len(CATEGORIES):
            raise ValueError(f"categories must lie in 1..{len(CATEGORIES)}, got {self.categories}")
        if not 1 <= self.relevant <= len(ASPECTS):
            raise ValueError(f"relevant must lie in 1..{len(ASPECTS)}, got {self.relevant}")
        if not 0 <= self.held < self.categories:
            raise ValueError(f"held must lie in 0..{self.categories - 1}, got {self.held}")
        if not 1 <= self.uses <= len(USES):
            raise ValueError(f"uses must lie in 1..{len(USES)}, got {self.uses}")
        if not 0 <= self.by_use <= self.relevant:
            raise ValueError(f"by_use must lie in 0..{self.relevant} (relevant), got {self.by_use}")
        pairs = (self.categories - self.held) * self.uses
        if not 0 <= self.held_pairs < pairs:
            raise ValueError(f"held_pairs must lie in 0..{pairs - 1}, got {self.held_pairs}")
        if self.items < self.categories:
            raise ValueError(f"a shop needs an item per category: items >= {self.categories}, got {self.items}")
        if self.users < 1 or self.history < 0 or self.queries < 1 or self.shown < 1 or self.days < 1:
            raise ValueError("a shop needs users >= 1, history >= 0, queries >= 1, shown >= 1, days >= 1")
        object.__setattr__(self, "said", tuple(self.said))  # JSON gives a list
        object.__setattr__(self, "drifting", tuple(self.drifting))
        if unknown := set(self.drifting) - set(ASPECTS):
            raise ValueError(f"drifting names no aspect of the shop: {', '.join(sorted(unknown))}")
        if not 1 <= len(self.said) <= self.relevant + 1 or min(self.said) < 0 or abs(sum(self.said) - 1) > 1e-6:
            raise ValueError(f"said holds the chances of 0 to {self.relevant} values, which sum to 1, got {self.said}")
        chances = (
            "drift",
            "exceptions",
            "whims",
            "follow",
            "follow_target",
            "suits",
            "mention",
            "named_use",
            "chatter",
        )
        for name in chances:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, got {getattr(self, name)}")


EASY = WorldConfig(
    items=5000,
    categories=20,
    uses=8,
    by_use=0,
    held=5,
    held_pairs=0,
    history=14,
    days=1,
    queries=5,
    drifting=(),
    exceptions=0.1,
    whims=0.0,
    named_use=0.0,
    said=(1.0,),
)


def make_world(config: WorldConfig) -> Dataset:
    """Return the shop as a `Dataset` in memory. Equal configs give equal shops on every machine."""
    interactions, queries = [], []
    for bought, asked in iter_people(config):
        interactions += bought
        queries += asked
    return Dataset(
        items={item.id: item for item in iter_items(config)},
        interactions=tuple(interactions),
        queries=tuple(queries),
        meta=world_meta(config),
    )


def write_world(config: WorldConfig, folder: Path | str) -> dict[str, int]:
    """Write the shop to a folder as a stream. Returns the counts. Makes every person twice, once per file."""
    return write_dataset(
        folder,
        iter_items(config),
        (purchase for bought, _ in iter_people(config) for purchase in bought),
        (query for _, asked in iter_people(config) for query in asked),
        world_meta(config),
    )


def sibling(config: WorldConfig, map_seed: int, users: int) -> WorldConfig:
    """Return the config of a similar shop: another map, other people and items, same words and held categories."""
    return replace(config, map_seed=map_seed, seed=config.seed + 1000 * map_seed, users=users)


def config_of(shop: Dataset) -> WorldConfig:
    """Return the config from which a synthetic shop was made. Raises DataError if its meta.json holds another one."""
    try:
        return typed(WorldConfig, shop.meta["world"], "world")
    except ValueError as error:
        raise DataError(f"meta.json of {shorten(shop.meta.get('name'))}: {error}; make the shop again") from None


def world_meta(config: WorldConfig) -> dict:
    return {
        "name": "world",
        "source": "mrrec_mini.world (synthetic)",
        "licence": "MIT",
        "held_categories": CATEGORIES[config.categories - config.held : config.categories],
        "held_phrases": [f"{CATEGORIES[category]} for {USES[use]}" for category, use in held_pairs(config)],
        "uses": USES[: config.uses],
        "world": {**asdict(config), "said": list(config.said), "drifting": list(config.drifting)},  # lists, as in JSON
    }


def held_pairs(config: WorldConfig) -> list[tuple[int, int]]:
    """Return the (category, use) pairs that no training query names, outside the held categories."""
    known = config.categories - config.held
    return [(i % known, (i % known + i // known) % config.uses) for i in range(config.held_pairs)]


def oracle_profile(query: Query) -> str:
    """Return the best profile: the query text, then the values in `query.truth`. Raises ValueError if truth is None."""
    if query.truth is None:
        raise ValueError(f"query {query.id} has no known truth: only a synthetic shop has an oracle")
    return " ".join([query.text, *(f"{aspect} {value}" for aspect, value in query.truth.items())])


# --------------------------------------------------------------------------------------------- the truth, by index


def relevant_aspects(config: WorldConfig) -> list[list[np.ndarray]]:
    """Draw the aspects that matter for each category and use: [category][use] -> sorted indices.

    `relevant - by_use` aspects matter for all uses of a category. Each use adds `by_use` others, and two uses of a
    category share one only if there are not enough for all.
    """
    common = category_map(config, config.relevant - config.by_use)
    rng = np.random.default_rng([config.map_seed, 4])
    table = []
    for category in range(config.categories):
        others = rng.permutation(np.setdiff1d(np.arange(len(ASPECTS)), common[category]))
        dealt = np.arange(config.uses * config.by_use).reshape(config.uses, -1) % len(others)
        table.append([np.sort(np.concatenate([common[category], others[places]])) for places in dealt])
    return table


def category_map(config: WorldConfig, size: int) -> np.ndarray:
    """Draw `size` aspects for each category, all about equally often: (categories, size) indices."""
    rng = np.random.default_rng([config.map_seed, 1])
    counts = np.zeros(len(ASPECTS))
    rows = []
    for _ in range(config.categories):
        order = np.lexsort((rng.random(len(ASPECTS)), counts))  # the least used aspects first, ties in random order
        pool = order[: size + 2]  # two more than needed, otherwise the same rows would repeat in cycles
        row = np.sort(rng.choice(pool, size, replace=False))
        counts[row] += 1
        rows.append(row)
    return np.stack(rows)


def item_values(config: WorldConfig, index: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return (n, aspects) indices of the values of the items `index` (n,), all of one category.

    All combinations of values of the aspects `spread` occur about equally often in a category: any
    N_VALUES ** len(spread) neighbouring items can satisfy every preference. The other values are random.
    """
    values = (random_bits(config.seed, 11, index[:, None], np.arange(len(ASPECTS))) % N_VALUES).astype(np.int64)
    combination = index // config.categories  # the item's position within the category
    for aspect in spread:
        values[:, aspect] = combination % N_VALUES
        combination = combination // N_VALUES
    return values


def item_suits(config: WorldConfig, index: np.ndarray) -> np.ndarray:
    """Return an (n, uses) array: True if the item suits the use."""
    return random_chance(config.seed, 12, index[:, None], np.arange(len(USES))) < config.suits


def preferences(config: WorldConfig, user: int) -> np.ndarray:
    """Return (history + 1, categories, aspects) indices of the values that a person wants, exceptions included.

    The first index is the number of the purchase; the last row holds for the queries, after all changes of taste.
    """
    aspects, categories = np.arange(len(ASPECTS)), np.arange(config.categories)[:, None]
    usual = (random_bits(config.seed, 13, user, aspects) % N_VALUES).astype(np.int64)
    # 1. A taste changes at most once, in the third quarter of the history.
    drifts = np.isin(NAMES, config.drifting) & (random_chance(config.seed, 17, user, aspects) < config.drift)
    changes = config.history * (2 + random_chance(config.seed, 18, user, aspects)) / 4  # the step of the change
    changed = drifts & (np.arange(config.history + 1)[:, None] >= changes)  # (steps, aspects)
    usual = np.where(changed, shifted(usual, random_bits(config.seed, 19, user, aspects)), usual)[:, None]
    # 2. In a few categories the person wants another value than usual.
    is_exception = random_chance(config.seed, 14, user, categories, aspects) < config.exceptions
    return np.where(is_exception, shifted(usual, random_bits(config.seed, 15, user, categories, aspects)), usual)


def shifted(values: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Return another value than `values`, chosen by random `bits`."""
    return (values + 1 + (bits % (N_VALUES - 1)).astype(np.int64)) % N_VALUES


def iter_items(config: WorldConfig, chunk: int = 10_000) -> Iterator[Item]:
    """Yield all items, in the order of their index. `chunk` items are computed at a time."""
    common = category_map(config, config.relevant - config.by_use)
    for start in range(0, config.items, chunk):
        index = np.arange(start, min(start + chunk, config.items))
        codes = np.zeros((len(index), len(ASPECTS)), dtype=np.int64)
        for c in range(config.categories):
            rows = index % config.categories == c
            codes[rows] = item_values(config, index[rows], common[c])
        suits = item_suits(config, index)
        brands = random_bits(config.seed, 16, index) % 64
        for row, i in enumerate(index):
            category = CATEGORIES[i % config.categories]
            uses = [use for use, fits in zip(USES, suits[row], strict=True) if fits]
            yield Item(
                id=f"i{i:07d}",
                title=f"{brand_name(int(brands[row]))} {category}",
                category=("shop", category),
                attributes={name: (VALUES[a][codes[row, a]],) for a, name in enumerate(NAMES)},
                description=f"for {' '.join(uses)}" if uses else "",
            )


def iter_people(config: WorldConfig) -> Iterator[tuple[list[Interaction], list[Query]]]:
    """Yield (interactions, queries) of each person. The purchases of the targets have the time of the queries."""
    relevant, common = relevant_aspects(config), category_map(config, config.relevant - config.by_use)
    for user in range(config.users):
        yield _person(config, user, relevant, common)


# --------------------------------------------------------------------------------------------- one person


def _person(
    config: WorldConfig, user: int, relevant: list[list[np.ndarray]], common: np.ndarray
) -> tuple[list[Interaction], list[Query]]:
    rng = np.random.default_rng([config.seed, config.map_seed, 2, user])
    talk = np.random.default_rng([config.seed, config.map_seed, 3, user])  # separate, so that `said` changes only texts
    whim = np.random.default_rng([config.seed, config.map_seed, 5, user])
    wanted = preferences(config, user)
    name = f"u{user:06d}"
    interactions, queries, taken = [], [], set()
    start = START + int(rng.integers(0, 365)) * DAY
    asked_at = start + (config.history + 1) * config.days * DAY
    # A category repeats in a person's queries only after all others were asked for.
    asked = rng.permutation(config.categories)
    for step in range(config.history + config.queries):
        is_query = step >= config.history
        number = step - config.history
        category = int(asked[number % config.categories]) if is_query else int(rng.integers(config.categories))
        use = int(rng.integers(config.uses))
        matters, wants = relevant[category][use], wanted[min(step, config.history), category]  # (matter,), (aspects,)
        if config.whims and not is_query:
            is_whim = (whim.random(len(ASPECTS)) < config.whims) & ~np.isin(NAMES, config.drifting)
            wants = np.where(is_whim, shifted(wants, whim.integers(N_VALUES - 1, size=len(ASPECTS))), wants)
        follow = config.follow_target if is_query else config.follow
        # 1. Choose an item in a random category for a random use.
        item, broken, codes = _choose(config, rng, wants, category, use, matters, common[category], follow, taken)
        taken.add(item)
        # 2. Rate and review the item: two stars less per broken preference, and one star less with probability 0.2.
        time = asked_at if is_query else start + step * config.days * DAY
        review = _review(config, rng, codes, matters, broken)
        if config.named_use and talk.random() < config.named_use:
            review = f"bought for {USES[use]}. {review}"
        rating = float(max(1, 5 - 2 * len(broken) - (rng.random() < 0.2)))
        interactions.append(Interaction(name, f"i{item:07d}", time, rating, review))
        # 3. If the item is a target, write a query: category and use, and perhaps some wanted values.
        if is_query:
            truth = {NAMES[a]: VALUES[a][wants[a]] for a in matters}
            text = f"{CATEGORIES[category]} for {USES[use]}"
            for aspect in talk.permutation(list(truth))[: talk.choice(len(config.said), p=config.said)]:
                text += f" {aspect} {truth.pop(aspect)}"
            queries.append(Query(f"{name}-q{number}", name, text, f"i{item:07d}", asked_at, truth))
    return interactions, queries


def _choose(
    config: WorldConfig,
    rng: np.random.Generator,
    wants: np.ndarray,  # (aspects,)
    category: int,
    use: int,
    relevant: np.ndarray,  # indices of the aspects that matter
    spread: np.ndarray,
    follow: float,
    taken: set[int],
) -> tuple[int, list[int], np.ndarray]:
    """Choose an item. Returns (its index, the aspects in which it breaks a preference, its values)."""
    size = (config.items - category + config.categories - 1) // config.categories  # number of items in this category
    # 1. Draw the items that the person compares.
    rows = np.arange(size) if size <= config.shown else rng.integers(0, size, config.shown)
    index = rows * config.categories + category
    # 2. Decide which values the person looks for this time: each wanted value may be replaced by another value.
    aim = wants[relevant].copy()
    for position in range(len(relevant)):
        if rng.random() >= follow:
            aim[position] = (aim[position] + rng.integers(1, N_VALUES)) % N_VALUES
    # 3. Take the item that matches most values; ties are broken at random.
    small = size <= config.shown
    codes, suits = whole_category(config, category, tuple(spread)) if small else facts(config, index, spread)
    agreement = (codes[:, relevant] == aim).sum(1) + rng.random(len(index)) * 0.5
    agreement[~suits[:, use]] -= 1.5  # an item that does not suit the use must match two more
    if taken:
        agreement[np.isin(index, list(taken))] -= 100  # nobody buys an item twice if another item was compared
    best = int(np.argmax(agreement))
    broken = [int(a) for a in relevant if codes[best, a] != wants[a]]
    return int(index[best]), broken, codes[best]


def facts(config: WorldConfig, index: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (`item_values`, `item_suits`) of the items `index`."""
    return item_values(config, index, spread), item_suits(config, index)


@lru_cache(maxsize=128)  # a person compares all items of a small category, so its items are the same for everybody
def whole_category(config: WorldConfig, category: int, spread: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return facts(config, np.arange(category, config.items, config.categories), np.array(spread, dtype=int))


def _review(
    config: WorldConfig, rng: np.random.Generator, codes: np.ndarray, relevant: np.ndarray, broken: list[int]
) -> str:
    sentences = []
    for aspect in rng.permutation(len(ASPECTS)):
        if rng.random() >= (config.mention if aspect in relevant else config.chatter):
            continue
        words = ASPECTS[NAMES[aspect]][VALUES[aspect][codes[aspect]]]
        word = words[0] if rng.random() < 0.5 else words[int(rng.integers(1, len(words)))]
        frames = COMPLAINT if aspect in broken else PRAISE
        sentences.append(frames[int(rng.integers(len(frames)))].format(word))
    return ". ".join(sentences) if sentences else "it does the job"


# --------------------------------------------------------------------------------------------- randomness by index


def random_bits(seed: int, *keys: int | np.ndarray) -> np.ndarray:
    """Return 64 pseudo-random bits for each combination of the broadcast `keys`. Applies splitmix64 key by key."""
    with np.errstate(over="ignore"):  # uint64 overflow is wanted
        state = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)
        for key in keys:
            state = np.asarray(state ^ np.asarray(key).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def random_chance(seed: int, *keys: int | np.ndarray) -> np.ndarray:
    """Return a pseudo-random number in [0, 1) for each combination of keys."""
    return (random_bits(seed, *keys) >> np.uint64(11)).astype(np.float64) / 2.0**53


def brand_name(number: int) -> str:
    """Return the brand name with this number (0..63): two syllables, made up."""
    first = ["vel", "nor", "kas", "tam", "bri", "dol", "fen", "gar"]
    second = ["mo", "ta", "rix", "lun", "dex", "vy", "sa", "ko"]
    return first[number // 8] + second[number % 8]
