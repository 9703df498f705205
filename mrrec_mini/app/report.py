"""Show a run as one HTML page: its arms, its learning curves, and episodes token by token, before and after learning.

Flow: the last step of a run. `gather` reads the run folder, plays some test queries with the policies from before and
after learning, and returns plain numbers and texts. `page` puts them into `report.html`, whose script draws them. The
page is one file that fetches nothing, so it opens from a disk and on a phone. Equations: none of its own.

The page shows `QUERIES` queries, evenly spaced over the test queries, familiar categories first. Results play no part
in this choice. Each policy plays each query greedily, as in evaluation, and as a group of G sampled episodes, as in
training; the page shows the first episode of the group. Only sampled episodes have advantages, because an advantage
compares the episodes of a group. The rule is that of the run's training (`train.advantages_of`).

Texts that people wrote may contain anything. So each text goes through `printable`, then into JSON in which `<` is
escaped, then into a text node. The page's Content-Security-Policy allows its one script by hash, and no network.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path

import torch

from mrrec_mini.chat_grammar import grammar_of
from mrrec_mini.data import DataError, printable, shorten
from mrrec_mini.datatypes import Episode, MemoryEntry, Query
from mrrec_mini.environment import Environment
from mrrec_mini.evidence import copied_from
from mrrec_mini.files import code_version, write_text
from mrrec_mini.grammar import Grammar
from mrrec_mini.hybrid import Hit
from mrrec_mini.recipe import Recipe, Say, quiet
from mrrec_mini.reinforce import to_batch
from mrrec_mini.reward import RewardConfig, retrieved_tokens
from mrrec_mini.rollout import LMActor, RolloutConfig
from mrrec_mini.run import Run, Warn
from mrrec_mini.train import TrainConfig, advantages_of
from mrrec_mini.typed import parse_json

QUERIES = 24
TOP = 10  # how many items of a ranking are shown
TERMS = ("format", "recommendation", "memory")  # of the reward
CHARTS = {  # title -> {label: column of metrics.jsonl}
    "Reward": {"mean": "reward", "spread within a group": "reward_std_in_group"},
    "Parts of the reward": {term: f"rewards/{term}/mean" for term in TERMS},
    "nDCG@10 of validation users, greedy": {"nDCG@10": "validation/ndcg@10"},
    "Memory calls per episode": {"calls": "calls/mean"},
    "Groups in which all rewards are equal": {"share": "frac_reward_zero_std"},
    "Entropy per sampled token": {"entropy": "entropy"},
    "Share of tokens whose ratio is clipped": {"below": "clip_ratio/low_mean", "above": "clip_ratio/high_mean"},
}
PARTS = {"test": "a category that training queries named", "held": "a category that no training query named"}
CREDIT = {
    "trajectory": "All tokens of an episode have the same advantage: its reward compared with those of its group.",
    "turn": "Each decision has its own advantage: its return compared with those of the group at the same decision.",
}


def write_report(run: Path, out: Path, say: Say = quiet, warn: Warn = warnings.warn) -> dict[str, object]:
    """Write the page of a run, whole or not at all, and return its data. `warn` gets a message per missing or bad part.

    Raises FileNotFoundError if there is no run or no checkpoint, DataError if the run's files cannot be used.
    """
    data = gather(run, say, warn)
    write_text(out, page(data))
    return data


def page(data: Mapping) -> str:
    """Return the template filled with the data. The security policy gets the hashes of the script and the style."""
    html = files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    for tag in ("script", "style"):
        content = re.search(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        html = html.replace(f"{tag.upper()}-HASH", f"sha256-{digest}")
    before, after = html.split(">DATA<")
    return f"{before}>{json_in_html(data)}<{after}"


def json_in_html(data: object) -> str:
    """Return `data` as ASCII JSON for a <script> element. No text in `data` can close the element or open a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


# --- what the page shows --------------------------------------------------------------------------------------------


def gather(run: Path, say: Say = quiet, warn: Warn = warnings.warn) -> dict[str, object]:
    """Return all numbers and texts of the page; strict JSON can hold them. Raises the errors of `write_report`."""
    torch.set_num_threads(1)
    made = Run(run)
    recipe, seed = made.config.recipe, made.config.seed
    notes: list[str] = []

    def note(trouble: str) -> None:
        warn(trouble)
        notes.append(printable(trouble.replace(f"{run}{os.sep}", "")))  # people share the page, so it names no folders

    # 1. what the run has logged
    arms, code = read_arms(run / "evaluation.json")
    if arms and code != code_version():
        note(f"the arms were evaluated by version {code} of the code, and this page is made by {code_version()}")
    log = read_log(run / "metrics.jsonl")

    # 2. its policies: the trained policy must be there; the policy from before learning may be missing or damaged
    policies = {"after": made.policy(note)}
    try:
        policies["before"] = made.policy_before(note)
    except FileNotFoundError:
        note("this run did not keep its policy from before learning; train again to get one that does")
    except DataError as error:
        note(f"the policy from before learning is left out: {error}")

    # 3. every n-th test query, played by each policy
    environment = made.tests(note, say)
    dataset = environment.dataset
    test, held = environment.split.test_queries, environment.split.held_queries
    queries = every_nth([*test, *held], QUERIES)
    shown = [query_data(query, environment, recipe.train.rules) for query in queries]
    total = len(policies) * len(queries)
    for number, (when, (model, tokenizer)) in enumerate(policies.items()):
        player = Player(environment, model, grammar_of(tokenizer), recipe, seed)
        for place, query in enumerate(queries):
            say("episodes", number * len(queries) + place, total, f"{when} learning")
            shown[place][when] = player.play(query)
    say("episodes", total, total, "")

    # 4. everything as plain data
    config, rules, name = recipe.train, recipe.train.rules, printable(str(dataset.meta.get("name", "")))
    about = (
        f"Data: {name}. Seed {seed}. {len(log)} steps of {config.algo} with {config.prompts_per_step} queries x "
        f"{config.group} episodes each. Credit per {config.credit}, {'constrained' if rules.constrained else 'free'} "
        f"decoding, at most {rules.max_calls} calls."
    )
    chosen = (
        f"{len(queries)} queries, evenly spaced over the {len(test) + len(held)} queries of test users in the order of "
        f"the data set ({len(held)} of them in categories that no training query named). Each policy plays each query "
        f"once greedily and {config.group} times sampled, as in training; the first sampled episode is shown."
    )
    charts = [{"title": title, "lines": [list(line) for line in lines.items()]} for title, lines in CHARTS.items()]
    return {
        "name": printable(run.resolve().name),
        "about": about,
        "notes": notes,
        "arms": arms,
        "charts": charts,
        "log": log,
        "chosen": chosen,
        "credit": CREDIT[config.credit],
        "queries": shown,
    }


def every_nth(queries: Sequence[Query], count: int) -> list[Query]:
    """Return at most `count` queries, evenly spaced, beginning with the first."""
    count = min(count, len(queries))
    return [queries[i * len(queries) // count] for i in range(count)]


def query_data(query: Query, environment: Environment, rules: RolloutConfig) -> dict[str, object]:
    """Return the data of a query that are the same before and after learning."""
    target = environment.dataset.items[query.target]
    shared = environment.memory.global_index.find(query.text, rules.global_k)
    truth = query.truth and ", ".join(f"{aspect} {value}" for aspect, value in query.truth.items())
    return {
        "id": printable(query.id),
        "user": printable(query.user),
        "text": printable(query.text),
        "met": len(environment.dataset.history(query)),
        "part": PARTS["held" if query in environment.split.held_queries else "test"],
        "truth": truth and printable(truth),
        "target": {"id": printable(query.target), "title": printable(target.title)},
        "global": [memory_data(entry, hit) for entry, hit in shared],
    }


def memory_data(
    entry: MemoryEntry, hit: Hit, copied: Mapping[str, Sequence[str]] = {}, cited: Sequence[str] = ()
) -> dict[str, object]:
    """Return the data of a memory. `copied`: {id: words of the profile copied from it}; `cited`: ids."""
    return {
        "id": printable(entry.id),
        "text": printable(entry.text),
        "level": entry.level,
        **scores(hit),
        "copied": printable("; ".join(copied.get(entry.id, ()))),
        "cited": entry.id in cited,
    }


def scores(hit: Hit) -> dict[str, float]:
    return {"score": hit.score, "bm25": hit.bm25, "cosine": hit.dense}


class Player:
    """Plays queries with one policy, as in evaluation and as in training."""

    def __init__(self, environment: Environment, model, grammar: Grammar, recipe: Recipe, seed: int):
        self.environment, self.grammar, self.config = environment, grammar, recipe.train
        self.greedy = LMActor(model, grammar, None, 0.0)
        self.sampling = LMActor(model, grammar, torch.Generator().manual_seed(seed), 1.0)

    def play(self, query: Query) -> dict[str, object]:
        """Return {"greedy": episode, "sampled": first episode of a group, with all rewards of the "group"}."""
        config = self.config
        rules = (self.grammar, config.rules, config.reward)
        [greedy] = self.environment.play(self.greedy, [query], *rules)
        group = self.environment.play(self.sampling, [query] * config.group, *rules)
        advantages = token_advantages(group, self.grammar, self.environment, config)[0]
        sampled = {**self.episode_data(group[0], advantages), "group": [episode.reward for episode in group]}
        return {"greedy": self.episode_data(greedy), "sampled": sampled}

    def episode_data(self, episode: Episode, advantages: Sequence[float] | None = None) -> dict[str, object]:
        """Return the data of a scored episode that the page shows. `advantages` has one value per token."""
        answer, rank = episode.answer, episode.rewards["rank"]
        rank = int(rank) if math.isfinite(rank) else None  # JSON has no infinity
        index = self.environment.memory.local(episode.query)
        most = self.config.rules.memory_k
        cited = answer.evidence if answer else ()
        copied: dict[str | None, list[str]] = {}  # id of a memory -> words copied from it; None: not from memory
        for text, entry in copied_from(episode, self.grammar):
            copied.setdefault(entry and entry.id, []).append(text)
        return {
            "runs": token_runs(episode, self.grammar, advantages),
            "end": episode.end,
            "calls": [
                {
                    "text": printable(call.text),
                    "found": [memory_data(*m, copied, cited) for m in index.find(call.text, most)],
                }
                for call in episode.calls
            ],
            "profile": printable(answer.profile) if answer else None,
            "invented": printable(", ".join(copied.get(None, []))),
            "rank": rank,
            "ranking": ranking(answer.profile, episode.query, rank, self.environment) if answer else [],
            "parts": reward_parts(episode, self.config.reward),
            "reward": episode.reward,
        }


def token_advantages(
    group: Sequence[Episode], grammar: Grammar, environment: Environment, config: TrainConfig
) -> list[list[float]]:
    """Return one list of token advantages per episode of a group; 0 for tokens that the policy did not write."""
    batch = to_batch(group, [0] * len(group))
    advantages = advantages_of(group, batch, grammar, environment.items, config)
    return (advantages if advantages.dim() == 2 else advantages[:, None] * batch.mask).tolist()  # (B, T)


def token_runs(episode: Episode, grammar: Grammar, advantages: Sequence[float] | None = None) -> list[dict]:
    """Split the tokens by writer: [{"who": "prompt" | "policy" | "memory", "tokens": [[text, log-probability,
    advantage], ...]}, ...]. Both numbers are None if the policy did not write the token. Without `advantages`, every
    advantage is None.
    """
    runs = []
    for own, places in groupby(range(len(episode.mask)), key=lambda i: bool(episode.mask[i])):
        places = list(places)
        texts = token_texts([episode.tokens[i] for i in places], grammar)
        logprobs = [episode.logprobs[i] if own else None for i in places]
        values = [advantages[i] if own and advantages is not None else None for i in places]
        who = "policy" if own else "memory" if runs else "prompt"
        runs.append({"who": who, "tokens": [list(token) for token in zip(texts, logprobs, values, strict=True)]})
    return runs


def token_texts(ids: Sequence[int], grammar: Grammar) -> list[str]:
    """Return the text of each token. If a character has several tokens, the last gets the text, the others get ""."""
    texts: list[str] = []
    waiting: list[int] = []
    for place, token in enumerate(ids, start=1):
        waiting.append(token)
        text = grammar.tokenizer.decode(waiting)
        whole = not text.endswith("\ufffd") or len(waiting) == 4 or place == len(ids)  # UTF-8 needs 4 bytes at most
        texts.append(printable(text) if whole else "")
        waiting = [] if whole else waiting
    return texts


def ranking(profile: str, query: Query, rank: int | None, environment: Environment) -> list[dict[str, object]]:
    """Return rows for the `TOP` best items for a profile, with scores, and for the target if it is not among them."""
    hits, target = environment.items.search_for(query, profile, TOP), query.target
    rows = [{"rank": place, "id": hit.id, **scores(hit)} for place, hit in enumerate(hits, start=1)]
    if target not in [hit.id for hit in hits]:
        rows.append({"rank": rank, "id": target, "score": None, "bm25": None, "cosine": None})
    titles = environment.dataset.items
    return [
        {**row, "id": printable(row["id"]), "title": printable(titles[row["id"]].title), "target": row["id"] == target}
        for row in rows
    ]


def reward_parts(episode: Episode, config: RewardConfig) -> list[dict[str, object]]:
    """Return the terms of the reward, Eq. (10). The reward is the sum of value times weight."""
    terms = [term for term in (*TERMS, "evidence") if term in episode.rewards]
    parts = [{"name": name, "value": episode.rewards[name], "weight": getattr(config, name)} for name in terms]
    tokens = retrieved_tokens(episode.mask)
    costs = [("calls", len(episode.calls), config.call_cost), ("retrieved tokens", tokens, config.token_cost)]
    return parts + [{"name": name, "value": count, "weight": -cost} for name, count, cost in costs if cost]


# --- the run's files ------------------------------------------------------------------------------------------------


def read_arms(path: Path) -> tuple[list[dict[str, object]], str]:
    """Return ([{"title", "rows": one flat row per arm}, ...], version of the code) from evaluation.json.

    Without the file, return ([], ""). Raises DataError if the file is damaged.
    """
    if not path.is_file():
        return [], ""
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
        arms, code = found["arms"], found["code"]
        held = {arm: numbers["held"] for arm, numbers in arms.items() if "held" in numbers}
        titles = ("nDCG@10 over the whole pool, unseen users", "The same, in categories that no training query named")
        tables = [
            {"title": title, "rows": [arm_row(arm, numbers) for arm, numbers in part.items() if "ndcg@10" in numbers]}
            for title, part in zip(titles, (arms, held), strict=True)
        ]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        what = f"`mrrec evaluate` did not write this ({shorten(str(error))})"
        raise DataError.at(path, None, None, f"{what}; run `mrrec evaluate --run {path.parent}` again") from None
    return [table for table in tables if table["rows"]], code


def arm_row(arm: str, numbers: Mapping) -> dict[str, object]:
    """Return the numbers of one arm of `evaluate.report_dict` as one flat dict."""
    row: dict[str, object] = {"arm": printable(arm)}
    sampled, minus = numbers.get("sampled") or {}, numbers.get("grpo_minus") or {}
    sources = {"ndcg": ("", numbers), "sampled": ("sampled_", sampled), "grpo_minus": ("grpo_minus_", minus)}
    for name, (prefix, source) in sources.items():
        low, high = source.get("interval") or (None, None)
        row |= {name: finite(source.get("ndcg@10")), f"{prefix}low": finite(low), f"{prefix}high": finite(high)}
    columns = {"recall": "recall@10", "format": "format", "calls": "calls", "tokens": "memory_tokens"}
    return row | {name: finite(numbers.get(column)) for name, column in columns.items()}


def read_log(path: Path) -> list[dict[str, object]]:
    """Return the steps of metrics.jsonl with the columns of the charts; None for a number that a step lacks.

    A last line that cannot be read is left out. Raises DataError for any other line that cannot be read.
    """
    if not path.is_file():
        return []
    columns = [column for lines in CHARTS.values() for column in lines.values()]
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    log = []
    for number, text in enumerate(texts, start=1):
        try:
            line = parse_json(text)
            log.append({"step": int(line["step"]), **{column: finite(line.get(column)) for column in columns}})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            if number < len(texts):
                what = f"`mrrec train` did not log this ({shorten(str(error))})"
                raise DataError.at(path, number, None, what) from None
    return log


def finite(value: object) -> float | None:
    """Return a number, or None if missing, NaN or infinite (JSON has neither). Raises TypeError for other values."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise TypeError(f"{shorten(value)} is not a number")
    return value if value is not None and math.isfinite(value) else None
