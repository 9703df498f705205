"""A run as one HTML page: its arms, its learning curves, and episodes token by token, before and after learning.

Flow: use; the last thing that is done with a run. `gather` reads the run folder, plays some test queries with both of
its policies and returns plain numbers and texts; `page` puts them into `report.html`, whose script draws them. The
page is one file that fetches nothing: it opens from a disk and on a phone.

Which queries: every n-th of the test queries, familiar categories first, so that `QUERIES` of them are shown; nobody
picks the good ones. Each is played twice by each policy: greedily, as it is evaluated, and as a group of G sampled
episodes, as it is trained, of which the first is shown. Only the second has advantages, for they compare within a
group; they follow the run's own rule (`train.advantages_of`).

What people wrote may be anything. Every text goes through `printable`, into JSON that no text can end (`<` is
escaped), and from there into text nodes; the page's own policy (CSP) allows the one script by its hash, and no network.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import torch

from mrrec_mini.app.assistant import without_siblings
from mrrec_mini.chat_grammar import grammar_of
from mrrec_mini.checkpoint import write_synced
from mrrec_mini.data import DataError, printable, shorten
from mrrec_mini.datatypes import Episode, MemoryEntry, Query
from mrrec_mini.environment import Environment
from mrrec_mini.grammar import Grammar
from mrrec_mini.hybrid import Hit
from mrrec_mini.recipe import Recipe, Say, prepare, quiet, read_config
from mrrec_mini.reinforce import to_batch
from mrrec_mini.reward import RewardConfig, retrieved_tokens
from mrrec_mini.rollout import LMActor, RolloutConfig
from mrrec_mini.train import TrainConfig, advantages_of, load_policy, load_start

QUERIES = 24
TOP = 10  # items of a ranking
CHARTS = {  # title -> {label: column of metrics.jsonl}
    "Reward": {"mean": "reward", "spread within a group": "reward_std"},
    "Parts of the reward": {
        "format": "rewards/format/mean",
        "recommendation": "rewards/recommendation/mean",
        "memory": "rewards/memory/mean",
    },
    "nDCG@10 of validation users, greedy": {"nDCG@10": "validation/ndcg@10"},
    "Memory calls an episode": {"calls": "calls/mean"},
    "Groups whose rewards are all equal": {"share": "frac_reward_zero_std"},
    "Entropy of a sampled token": {"entropy": "entropy"},
    "Tokens beyond the clip": {"below": "clip_ratio/low_mean", "above": "clip_ratio/high_mean"},
}
PARTS = {"test": "a category that training queries named", "held": "a category that no training query named"}


def write_report(
    run: Path, out: Path, say: Say = quiet, warn: Callable[[str], None] = warnings.warn
) -> dict[str, object]:
    """The page of a run, written whole or not at all; returns what it shows. `warn` is told of damaged checkpoints.

    FileNotFoundError: there is no run, or no checkpoint; DataError: its files cannot be used.
    """
    data = gather(run, say, warn)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.tmp")
    try:
        write_synced(fresh, page(data))
        os.replace(fresh, out)
    except OSError as error:  # a full disk does not say which
        raise OSError(error.errno, error.strerror, str(out)) from error
    finally:
        fresh.unlink(missing_ok=True)
    return data


def page(data: Mapping) -> str:
    """The template with the data in it, and the hashes of its script and its style in its policy."""
    html = files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    for tag in ("script", "style"):
        content = re.search(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        html = html.replace(f"{tag.upper()}-HASH", f"sha256-{digest}")
    before, after = html.split(">DATA<")
    return f"{before}>{json_in_html(data)}<{after}"


def json_in_html(data: object) -> str:
    """ASCII JSON in which no text can end the element that holds it, or open a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


# --- what the page shows --------------------------------------------------------------------------------------------


def gather(run: Path, say: Say = quiet, warn: Callable[[str], None] = warnings.warn) -> dict[str, object]:
    """All numbers and texts of the page, strict JSON; errors as in `write_report`."""
    torch.set_num_threads(1)
    recipe, seed, dataset = read_config(run)
    notes: list[str] = []

    def note(trouble: str) -> None:
        warn(trouble)
        notes.append(printable(trouble.replace(f"{run}{os.sep}", "")))  # a page is handed on, folders are not

    arms, log = read_arms(run / "evaluation.json"), read_log(run / "metrics.jsonl")
    policies = {"after": load_policy(run, note)}
    try:
        policies["before"] = load_start(run, note)
    except FileNotFoundError:
        note("this run did not keep its policy from before learning; a run that is made anew does")
    except DataError as error:
        note(f"the policy from before learning is left out: {error}")
    environment = prepare(dataset, without_siblings(recipe), seed, say)[0]
    split = environment.split
    queries = every_nth([*split.test_queries, *split.held_queries], QUERIES)
    told = [about_query(query, environment, recipe.train.rules) for query in queries]
    for number, (when, (model, tokenizer)) in enumerate(policies.items()):
        player = Player(environment, model, grammar_of(tokenizer), recipe, seed)
        for place, query in enumerate(queries):
            say("episodes", number * len(queries) + place, len(policies) * len(queries), f"{when} learning")
            told[place][when] = player.play(query)
    say("episodes", len(policies) * len(queries), len(policies) * len(queries), "")
    return {
        "name": printable(run.resolve().name),
        "about": about(recipe, seed, str(dataset.meta.get("name", "")), len(log)),
        "notes": notes,
        "arms": arms,
        "charts": [
            {"title": title, "lines": [list(line) for line in lines.items()]} for title, lines in CHARTS.items()
        ],
        "log": log,
        "chosen": chosen(len(queries), len(split.test_queries), len(split.held_queries), recipe.train.group),
        "credit": CREDIT[recipe.train.credit],
        "queries": told,
    }


CREDIT = {
    "trajectory": "Each token of an episode has the same advantage: its reward against those of its group.",
    "turn": "Each decision has its own advantage: what came after it, against the others that came to it.",
}


def about(recipe: Recipe, seed: int, name: str, steps: int) -> str:
    train, rules = recipe.train, recipe.train.rules
    decoding = "constrained" if rules.constrained else "free"
    return (
        f"Data: {printable(name)}. Seed {seed}. {steps} steps of {train.algo}, {train.prompts_per_step} queries x "
        f"{train.group} episodes each, credit: {train.credit}, {decoding} decoding, "
        f"{rules.max_calls} calls at most."
    )


def chosen(shown: int, test: int, held: int, group: int) -> str:
    return (
        f"{shown} queries, evenly spaced over the {test + held} of test users ({held} of them in categories that no "
        f"training query named), in the order of the data set. Each policy plays each of them greedily, and {group} "
        "times sampled, as in training; of these the first is shown."
    )


def every_nth(queries: Sequence[Query], count: int) -> list[Query]:
    """At most `count` of them, evenly spaced, the first among them."""
    count = min(count, len(queries))
    return [queries[i * len(queries) // count] for i in range(count)]


def about_query(query: Query, environment: Environment, rules: RolloutConfig) -> dict[str, object]:
    """What is the same before and after learning."""
    shared = environment.memory.find_global(query.text, rules.global_k)
    truth = query.truth and ", ".join(f"{aspect} {value}" for aspect, value in query.truth.items())
    return {
        "id": printable(query.id),
        "user": printable(query.user),
        "text": printable(query.text),
        "met": len(environment.dataset.history(query)),
        "part": PARTS["held" if query in environment.split.held_queries else "test"],
        "truth": truth and printable(truth),
        "target": {
            "id": printable(query.target),
            "title": printable(environment.dataset.items[query.target].title),
        },
        "global": [about_memory(entry, hit) for entry, hit in shared],
    }


def about_memory(entry: MemoryEntry, hit: Hit, evidence: Sequence[str] = ()) -> dict[str, object]:
    return {
        "id": printable(entry.id),
        "text": printable(entry.text),
        "level": entry.level,
        "score": hit.score,
        "bm25": hit.bm25,
        "cosine": hit.dense,
        "used": entry.id in evidence,
    }


class Player:
    """One policy at play, as it is evaluated and as it is trained."""

    def __init__(self, environment: Environment, model, grammar: Grammar, recipe: Recipe, seed: int):
        self.environment, self.grammar, self.config = environment, grammar, recipe.train
        self.greedy = LMActor(model, grammar, None, 0.0)
        self.sampling = LMActor(model, grammar, torch.Generator().manual_seed(seed), 1.0)

    def play(self, query: Query) -> dict[str, object]:
        """{"greedy": an episode, "sampled": the first of a group, with its advantages and the group's rewards}"""
        config = self.config
        rules = (self.grammar, config.rules, config.reward)
        [greedy] = self.environment.play(self.greedy, [query], *rules)
        group = self.environment.play(self.sampling, [query] * config.group, *rules)
        advantages = group_praise(group, self.grammar, self.environment, config)[0]
        sampled = {**self.told(group[0], advantages), "group": [episode.reward for episode in group]}
        return {"greedy": self.told(greedy), "sampled": sampled}

    def told(self, episode: Episode, advantages: Sequence[float] | None = None) -> dict[str, object]:
        """A scored episode as the page shows it. Infinity is no JSON: a target without a rank has None."""
        answer, rank = episode.answer, episode.rewards["rank"]
        rank = int(rank) if math.isfinite(rank) else None
        shelf = self.environment.memory.local(episode.query)
        found = shelf.find_many([call.text for call in episode.calls], self.config.rules.memory_k)
        evidence = answer.evidence if answer else ()
        return {
            "runs": token_runs(episode, self.grammar, advantages),
            "end": episode.end,
            "calls": [
                {"text": printable(call.text), "found": [about_memory(*one, evidence) for one in those]}
                for call, those in zip(episode.calls, found, strict=True)
            ],
            "profile": printable(answer.profile) if answer else None,
            "rank": rank,
            "ranking": ranking(answer.profile, episode.query.target, rank, self.environment) if answer else [],
            "parts": reward_parts(episode, self.config.reward),
            "reward": episode.reward,
        }


def group_praise(
    group: Sequence[Episode], grammar: Grammar, environment: Environment, config: TrainConfig
) -> list[list[float]]:
    """The advantage of each token of each episode of one group; 0 where the policy did not write it."""
    batch = to_batch(group, [0] * len(group))
    advantages = advantages_of(group, batch, grammar, environment.items, config)
    spread = advantages if advantages.dim() == 2 else advantages[:, None] * batch.mask
    return spread.tolist()


def token_runs(
    episode: Episode, grammar: Grammar, advantages: Sequence[float] | None = None
) -> list[dict[str, object]]:
    """[{"who": "prompt" | "policy" | "memory", "tokens": [[text, log-probability, advantage], ...]}, ...]

    Both numbers are None where the policy did not write the token, the advantage also without a group.
    """
    mask, runs, start = episode.mask, [], 0
    for end in range(1, len(mask) + 1):
        if end < len(mask) and mask[end] == mask[start]:
            continue
        own = bool(mask[start])
        columns = range(start, end)
        numbers = [
            (episode.logprobs[i] if own else None, advantages[i] if own and advantages is not None else None)
            for i in columns
        ]
        texts = token_texts(episode.tokens[start:end], grammar)
        who = "policy" if own else "memory" if runs else "prompt"
        runs.append({"who": who, "tokens": [[text, *pair] for text, pair in zip(texts, numbers, strict=True)]})
        start = end
    return runs


def token_texts(ids: Sequence[int], grammar: Grammar) -> list[str]:
    """What each token says; "" where a character goes on in the next one, which then says it."""
    texts: list[str] = []
    waiting: list[int] = []
    for place, token in enumerate(ids, start=1):
        waiting.append(token)
        text = grammar.tokenizer.decode(waiting)
        whole = not text.endswith("\ufffd") or len(waiting) == 4 or place == len(ids)  # UTF-8 needs 4 bytes at most
        texts.append(printable(text) if whole else "")
        waiting = [] if whole else waiting
    return texts


def ranking(profile: str, target: str, rank: int | None, environment: Environment) -> list[dict[str, object]]:
    """The best items for a profile, with their scores, and the target's row where it is not among them."""
    hits = environment.items.search(profile, TOP)
    rows = [
        {"rank": place, "id": hit.id, "score": hit.score, "bm25": hit.bm25, "cosine": hit.dense}
        for place, hit in enumerate(hits, start=1)
    ]
    if target not in [row["id"] for row in rows]:
        rows.append({"rank": rank, "id": target, "score": None, "bm25": None, "cosine": None})
    titles = environment.dataset.items
    return [
        {**row, "id": printable(row["id"]), "title": printable(titles[row["id"]].title), "target": row["id"] == target}
        for row in rows
    ]


def reward_parts(episode: Episode, config: RewardConfig) -> list[dict[str, object]]:
    """The terms of eq. 10; value times weight, summed, is the reward."""
    terms = ("format", "recommendation", "memory")
    parts = [{"name": name, "value": episode.rewards[name], "weight": getattr(config, name)} for name in terms]
    costs = [
        ("calls", len(episode.calls), config.call_cost),
        ("retrieved tokens", retrieved_tokens(episode.mask), config.token_cost),
    ]
    return parts + [{"name": name, "value": count, "weight": -cost} for name, count, cost in costs if cost]


# --- the run's files ------------------------------------------------------------------------------------------------


def read_arms(path: Path) -> list[dict[str, object]]:
    """[{"title", "rows": a flat row an arm}, ...] of an evaluation.json; [] where there is none. DataError: damaged."""
    if not path.is_file():
        return []
    try:
        arms = json.loads(path.read_text(encoding="utf-8"))
        parts = {
            "nDCG@10 over the whole pool, unseen users": arms,
            "The same in categories that no training query named": {
                arm: numbers["held"] for arm, numbers in arms.items() if "held" in numbers
            },
        }
        tables = [
            {"title": title, "rows": [arm_row(arm, numbers) for arm, numbers in part.items() if "ndcg@10" in numbers]}
            for title, part in parts.items()
        ]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        what = (
            f"not what `mrrec evaluate` writes ({shorten(str(error))}); run `mrrec evaluate --run {path.parent}` again"
        )
        raise DataError.at(path, None, None, what) from None
    return [part for part in tables if part["rows"]]


def arm_row(arm: str, numbers: Mapping) -> dict[str, object]:
    """What `evaluate.means` and `evaluate.summary` say of one arm, flat."""
    row: dict[str, object] = {"arm": printable(arm)}
    sampled, gain = numbers.get("sampled") or {}, numbers.get("difference") or {}
    for name, source in (("", numbers), ("sampled", sampled), ("gain", gain)):
        low, high = source.get("interval") or (None, None)
        row[name or "ndcg"] = finite(source.get("ndcg@10"))
        row[f"{name}_low".lstrip("_")], row[f"{name}_high".lstrip("_")] = finite(low), finite(high)
    columns = {"recall": "recall@10", "format": "format", "calls": "calls", "tokens": "memory_tokens"}
    return row | {name: finite(numbers.get(column)) for name, column in columns.items()}


def read_log(path: Path) -> list[dict[str, object]]:
    """The lines of metrics.jsonl, the charts' columns of them; None where a step has no such number.

    A last line that a kill cut short is left out. DataError for any other line that is none.
    """
    if not path.is_file():
        return []
    columns = [column for lines in CHARTS.values() for column in lines.values()]
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    log = []
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
            log.append({"step": int(line["step"]), **{column: finite(line.get(column)) for column in columns}})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            if number < len(texts):
                raise DataError.at(path, number, None, f"not what `mrrec train` logs ({shorten(str(error))})") from None
    return log


def finite(value: object) -> float | None:
    """A number that JSON can hold; TypeError for what is none."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise TypeError(f"{shorten(value)} is no number")
    return value if value is not None and math.isfinite(value) else None
