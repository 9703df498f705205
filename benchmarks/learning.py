"""Compare ways to learn the same task, and choices in the training of a policy, on the synthetic shop.

    python -m benchmarks.learning fresh|worlds|credit|estimators|frontier|tried [--seeds 0 1 2] [--fast] [--json]
                                  [--out DIR] [--plot FILE]

    fresh       GRPO, its rivals (`mrrec_mini.rivals`) and all arms without a policy, on shops that no choice was based
                on (seeds 50 to 54)
    worlds      warm start, GRPO and GRPO by the longer recipe (`mrrec train --long`) on ten further shops, those of
                `mrrec data make-world --users 440 --items 3000 --seed N` for N = 40 to 49: is the result steady? Seed N
                also splits the users and trains
    credit      {trajectory, turn credit} x {free, constrained decoding} x {several, one shop to train in}
    estimators  REINFORCE with each baseline; GRPO, and GRPO with each other sigma and length rule; all with the same
                number of episodes
    frontier    nDCG@10 against memory tokens: no cost, half to five times the recipe's cost of a call (.1 if the recipe
                has none), and a cost per token of memory. Some queries of the shop state wanted values
                (`WorldConfig.said`), so not every look-up is worth its cost
    tried       the chosen recipe, and one change at a time: AdamW for all weights, no free head in the first layer,
                turn credit, free calls, a larger policy, twice the steps, no sibling shops

A seed makes the shop, splits the users and makes all random draws. The arms of a seed share the shop and the queries.
Unless an arm changes the shops or the model, they also share the warm start. In `fresh`, each policy starts from the
same copy drill. GRPO, RAFT and GRPO from the clone play equally many episodes. `imitation_long` and
`imitation_filtered` make as many steps as fit into the CPU seconds that GRPO took. In the other experiments, an arm
differs from the first one only in what its name says.

Everything that was trained or measured is saved in DIR as soon as it is done, under a name derived from its
configuration, and is not repeated. So an interrupted experiment resumes where it stopped, experiments share runs, and
several processes (of one thread each) can share the seeds: start one process per seed, then one for all seeds, which
prints the tables. After a change of the code that changes results, change `CODE` or use another DIR.

The tables show nDCG@10 over the whole pool. "minus it" is the paired difference of the first trained arm minus the arm
of the row. The 95 % intervals resample seeds and users. CPU seconds count from the random start of a policy, with the
copy drill and imitation, but without the shop and its memory. A *claim* must hold; an *aim* is only reported.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import claim, document, finish, show
from mrrec_mini.environment import Environment
from mrrec_mini.evaluate import (
    ARMS,
    SAMPLED,
    Row,
    difference,
    eval_sets,
    interval,
    means,
    ndcg_10,
    policy_rows,
    reference_rows,
)
from mrrec_mini.files import write_text
from mrrec_mini.grammar import CONTROL, Grammar
from mrrec_mini.models.causal_lm import load_causal_lm, save_causal_lm
from mrrec_mini.recipe import FAST, FAST_WORLD, Recipe, copying_policy, imitate, prepare
from mrrec_mini.rivals import RIVALS, Contest, ImitationClock, train_rival
from mrrec_mini.rollout import RolloutConfig
from mrrec_mini.scripts import best_untold
from mrrec_mini.train import Trainer, train
from mrrec_mini.world import WorldConfig, make_world

CODE = "muon"  # part of every saved name: results of code with another word are not used
EXPERIMENTS = ("fresh", "worlds", "credit", "estimators", "frontier", "tried")
SEEDS = {"fresh": range(50, 55), "worlds": range(40, 50)}  # no choice was based on them; the others use 0, 1, 2
PARTS = {
    "test": "unseen people",
    "held": "unseen people, categories or uses of a category that no training query named",
}
STEADY = 0.95  # of the expert's nDCG@10, on test and held
TOKENS_PER_CALL = 20  # that memory returns, roughly: turns a cost per call into one per token
LABELS = (("left", (6, 4)), ("right", (-6, 4)), ("left", (6, -12)))  # taken in turn, so that labels do not overlap


# --- what is compared -------------------------------------------------------------------------------------------------


def varied(recipe: Recipe, **changes) -> Recipe:
    """Return the recipe with other fields of `train`. A dict changes fields of a part: `reward={"call_cost": 0.1}`."""
    train = recipe.train
    parts = {k: replace(getattr(train, k), **v) if isinstance(v, dict) else v for k, v in changes.items()}
    return replace(recipe, train=replace(train, **parts))


def arms_of(experiment: str, recipe: Recipe) -> dict[str, Recipe]:
    """Return {arm: its recipe} of the arms that GRPO or REINFORCE trains. The others are compared with the first."""
    if experiment == "credit":
        return {
            f"{kind}, {decoding}, {shops}": varied(
                replace(recipe, siblings=siblings), credit=kind, rules={"constrained": decoding == "constrained"}
            )
            for siblings, shops in ((recipe.siblings, "several shops"), (0, "one shop"))
            for decoding in ("free", "constrained")
            for kind in ("trajectory", "turn")
        }
    if experiment == "estimators":
        arms = {"GRPO, token, no sigma": recipe}
        for kind in ("none", "group", "leave_one_out"):
            arms[f"REINFORCE, baseline {kind}"] = varied(recipe, algo="reinforce", baseline=kind)
        for length in ("sequence", "constant"):
            arms[f"GRPO, {length}, no sigma"] = varied(recipe, grpo={"length": length})
        for sigma in ("group", "population"):
            arms[f"GRPO, token, sigma of {sigma}"] = varied(recipe, grpo={"sigma": sigma})
        return arms
    if experiment == "frontier":
        own = recipe.train.reward.call_cost or 0.1
        arms = {"free": varied(recipe, reward={"call_cost": 0.0, "token_cost": 0.0})}
        for cost in (own / 2, own, 2 * own, 5 * own):
            arms[f"call cost {cost:.3g}"] = varied(arms["free"], reward={"call_cost": cost})
        cost = own / TOKENS_PER_CALL
        arms[f"token cost {cost:.2g}"] = varied(arms["free"], reward={"token_cost": cost})
        return arms
    if experiment == "tried":
        model = recipe.model
        wider = replace(model, width=2 * model.width, heads=2 * model.heads, feed_forward=2 * model.feed_forward)
        return {
            "chosen": recipe,
            "AdamW alone": varied(recipe, learning_rate=1e-3, matrix_rate=None),
            "no free head": replace(recipe, model=replace(model, free_heads=0)),
            "turn credit": varied(recipe, credit="turn"),
            "cost 0": varied(recipe, reward={"call_cost": 0.0, "token_cost": 0.0}),
            "larger policy": replace(recipe, model=wider),
            "longer RL": varied(recipe, steps=2 * recipe.train.steps),
            "no siblings": replace(recipe, siblings=0),
        }
    return {"grpo": recipe} | ({"grpo_long": recipe.longer()} if experiment == "worlds" else {})


def world_of(experiment: str, seed: int, fast: bool) -> WorldConfig:
    if fast:
        return replace(FAST_WORLD, seed=seed)
    return WorldConfig(users=440, items=3000, seed=seed) if experiment == "worlds" else WorldConfig(seed=seed)


# --- what is saved ----------------------------------------------------------------------------------------------------


def digest(*parts) -> str:
    """Return a file name derived from dataclasses and plain values; equal values give equal names in every process."""
    plain = [CODE, *(asdict(part) if hasattr(part, "__dataclass_fields__") else part for part in parts)]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def kept(path: Path, make) -> dict:
    """Return the content of the JSON file `path`. If the file is missing, write the result of `make` to it first."""
    if not path.is_file():
        write_text(path, json.dumps(make()))
    return json.loads(path.read_text(encoding="utf-8"))


def load(folder: Path):
    """Return (model, tokenizer) of a saved policy."""
    return load_causal_lm(str(folder), CONTROL)


@lru_cache(maxsize=1)  # the arms of a seed share their shops
def shops(world: WorldConfig, recipe: Recipe, seed: int) -> list[Environment]:
    """Return the environments of a seed. `recipe` must be the default except in the fields that define environments."""
    return prepare(make_world(world), recipe, seed)


@dataclass(frozen=True)
class Start:
    """What the arms of one seed share: shop, warm start, and the arms that are not trained. It is saved in `out`."""

    world: WorldConfig
    recipe: Recipe  # its part `train` is the default
    seed: int
    out: Path

    @property
    def folder(self) -> Path:
        return self.out / "starts" / digest(self.world, self.recipe, self.seed)

    @property
    def environments(self) -> list[Environment]:
        fields = {name: getattr(self.recipe, name) for name in ("shares", "siblings", "sibling_users")}
        return shops(self.world, Recipe(**fields), self.seed)

    @cached_property
    def seconds(self) -> dict[str, float]:
        """CPU seconds of the copy "drill", of the drill and the "warm" start, and of the latter's "steps" alone.

        Trains and saves the policies if they are missing.
        """
        return kept(self.folder / "seconds.json", self._train)

    def policy(self, name: str):
        """Return (model, tokenizer) after the copy drill ("copying") or after the warm start ("warm")."""
        assert self.seconds  # the policies are there
        return load(self.folder / name)

    def _train(self) -> dict[str, float]:
        environments, clock = self.environments, ImitationClock()
        started = time.process_time()
        copying, tokenizer = copying_policy(environments, self.recipe, self.seed)
        drilled = time.process_time()
        warm = imitate(deepcopy(copying), tokenizer, environments, self.recipe, self.seed, clock)
        ended = time.process_time()
        for name, model in (("copying", copying), ("warm", warm)):
            save_causal_lm(self.folder / name, model, tokenizer)
        return {"drill": drilled - started, "warm": ended - started, "steps": clock.seconds}

    @cached_property
    def references(self) -> dict:
        """{"rows": of the warm start and of the arms without a policy, "script": the best untold one, "scores"}.

        "scores" is {untold script: mean nDCG@10 of the validation users}.
        """
        return kept(self.folder / "references.json", self._evaluate)

    def _evaluate(self) -> dict:
        model, tokenizer = self.policy("warm")
        rules, rows = self.recipe.train.rules, []
        best, scores = best_untold(self.environments[0], Grammar(tokenizer), rules)
        for eval_set in eval_sets(self.environments[0], Grammar(tokenizer), rules, self.seed):
            rows += reference_rows(eval_set, np.random.default_rng([self.seed, 3]), self.recipe.teacher, best)
        rows += evaluated(self, "warm_start", model, tokenizer, rules)
        rows += evaluated(self, "warm_start_all_calls", model, tokenizer, rules, all_calls=True)
        return {"rows": [asdict(row) for row in rows], "script": best, "scores": scores}


# --- runs -------------------------------------------------------------------------------------------------------------


def evaluated(start: Start, arm: str, model, tokenizer, rules: RolloutConfig, all_calls: bool = False) -> list[Row]:
    """Return the rows of a policy, greedy and sampled. The seed of sampling does not depend on the arm."""
    rows = []
    for eval_set in eval_sets(start.environments[0], Grammar(tokenizer), rules, start.seed):
        rows += policy_rows(eval_set, arm, model, torch.Generator().manual_seed(1000 + start.seed), all_calls)
    return rows


def result(rows: Sequence[Row], log: Sequence[dict], seconds: float) -> dict:
    """Return what is saved of a run. `seconds` of CPU count from the random start of the policy."""
    curve = [{key: line[key] for key in ("reward", "entropy", "calls/mean", "frac_reward_zero_std")} for line in log]
    tokens = sum(line["step_tokens"] for line in log)
    return {"rows": [asdict(row) for row in rows], "curve": curve, "tokens": tokens, "cpu_seconds": seconds}


def learn(start: Start, recipe: Recipe) -> dict:
    """Train the warm start as `recipe.train` says, and evaluate it."""
    model, tokenizer = start.policy("warm")
    trainer = Trainer(model, tokenizer, start.environments, recipe.train)
    started = time.process_time()
    log = train(trainer, report=told)
    seconds = start.seconds["warm"] + time.process_time() - started
    return result(evaluated(start, "grpo", model, tokenizer, recipe.train.rules), log, seconds)


def told(line: dict) -> None:
    print(f"\r{line['step']}", end="", file=sys.stderr)


def compete(start: Start, arm: str, done: dict[str, dict]) -> dict:
    """Train one of `RIVALS` and evaluate it. `done` holds the runs of GRPO and of the rivals before this one."""
    # 1. GRPO's seconds buy more steps of imitation: times (1 + GRPO's seconds / those of the warm start's steps). All
    #    were measured once and saved, so a repeated run makes equally many steps.
    warm_seconds = start.seconds["warm"]
    budget = 1 + (done["grpo"]["cpu_seconds"] - warm_seconds) / start.seconds["steps"]
    # 2. Train it.
    (copying, tokenizer), (warm, _) = start.policy("copying"), start.policy("warm")
    script = start.references["script"]
    contest = Contest(start.environments, start.recipe, start.seed, tokenizer, copying, warm, script, budget)
    clone = load(start.folder / "clone")[0] if arm == "grpo_from_clone" else None
    log: list[dict] = []
    started = time.process_time()
    model = train_rival(arm, contest, clone=clone, report=log.append)
    seconds = time.process_time() - started
    if arm == "clone":
        save_causal_lm(start.folder / "clone", model, tokenizer)
    # 3. Add the seconds of the policy from which it started.
    if arm == "raft":
        seconds += warm_seconds
    else:
        seconds += done["clone"]["cpu_seconds"] if arm == "grpo_from_clone" else start.seconds["drill"]
    return result(evaluated(start, arm, model, tokenizer, start.recipe.train.rules), log, seconds)


Found = dict[str, dict[int, dict]]  # arm -> seed -> run; the key "references" has `Start.references`


def measure(experiment: str, seeds: Sequence[int], out: Path, fast: bool) -> Found:
    """Return the runs of all arms and seeds. Those that are not saved yet are made."""
    torch.set_num_threads(1)
    found: Found = {"references": {}}
    for seed in seeds:
        base = (FAST if fast else Recipe()).with_seed(seed)
        world = world_of(experiment, seed, fast)
        for arm, recipe in arms_of(experiment, base).items():
            print(f"{experiment}: {arm}, seed {seed}", file=sys.stderr)
            # The warm start and the references do not depend on how an arm learns afterwards.
            start = Start(world, replace(recipe, train=base.train), seed, out)
            path = out / "runs" / f"{digest(world, recipe, seed)}.json"
            found.setdefault(arm, {})[seed] = kept(path, partial(learn, start, recipe))
            if seed not in found["references"]:  # those of the first arm
                found["references"][seed] = start.references | {"cpu_seconds": start.seconds["warm"]}
            print(file=sys.stderr)
        for arm in RIVALS if experiment == "fresh" else ():
            print(f"{experiment}: {arm}, seed {seed}", file=sys.stderr)
            path = out / "runs" / f"{digest(world, base, seed, arm)}.json"
            done = {name: runs[seed] for name, runs in found.items() if seed in runs}
            found.setdefault(arm, {})[seed] = kept(path, partial(compete, start, arm, done))
    return found


# --- tables -----------------------------------------------------------------------------------------------------------


def rows_by_arm(found: Found) -> dict[str, list[Row]]:
    """Return {arm: its rows of all seeds}, in the order of `ARMS`; the other arms come last."""
    rows: dict[str, list[Row]] = {}
    for name, runs in found.items():
        for row in (row for run in runs.values() for row in run["rows"]):
            rows.setdefault(row["arm"] if name == "references" else name, []).append(Row(**row))
    return dict(sorted(rows.items(), key=lambda pair: ARMS.index(pair[0]) if pair[0] in ARMS else len(ARMS)))


def summarize(found: Found) -> dict[str, dict]:
    """Return {arm: {part: its numbers}, and for a policy the means of "cpu_seconds" and "tokens" over the seeds}."""
    rows = rows_by_arm(found)
    first = first_of(found)
    table: dict[str, dict] = {name: {} for name in rows}
    for part in PARTS:
        greedy = {name: [r for r in own if r.part == part and r.mode != SAMPLED] for name, own in rows.items()}
        best = {name: means(greedy[name])["ndcg@10"] for name in ("expert", "oracle")}
        for name, own in greedy.items():
            line = means(own) | {"interval": interval([ndcg_10(r) for r in own], own, ("mean", name, part))}
            line |= {f"of_{other}": line["ndcg@10"] / score for other, score in best.items()}
            if name != first:
                line["first_minus"] = difference(greedy[first], own, ("difference", first, name, part))
            if sampled := [r for r in rows[name] if r.part == part and r.mode == SAMPLED]:
                line["sampled"] = means(sampled)["ndcg@10"]
            seeds = sorted({r.seed for r in own})
            line["seeds"] = {seed: means([r for r in own if r.seed == seed])["ndcg@10"] for seed in seeds}
            table[name][part] = line
    for name, runs in found.items():
        for cost in ("cpu_seconds", "tokens"):
            values = [run[cost] for run in runs.values() if cost in run]
            if values:
                table["warm_start" if name == "references" else name][cost] = float(np.mean(values))
    return table


def first_of(found: Found) -> str:
    """Return the first trained arm, with which the others are compared."""
    return next(name for name in found if name != "references")


def print_table(table: dict[str, dict], part: str, first: str, file) -> None:
    names = (
        "arm|nDCG@10|95 %|first minus it|95 %|sampled|of expert|of oracle|right|calls|memory|CPU s|k tokens|per seed"
    )
    rows = [tuple(names.split("|"))]
    for name, parts in table.items():
        line = parts[part]
        lead = line.get("first_minus")
        right = line["aspects_right"]
        rows.append(
            (
                *(name, f"{line['ndcg@10']:.3f}", _span(line["interval"])),
                *((f"{lead['ndcg@10']:+.3f}", _span(lead["interval"], "+")) if lead else ("", "")),
                f"{line['sampled']:.3f}" if "sampled" in line else "",
                *(f"{line[f'of_{name}']:.0%}" for name in ("expert", "oracle")),
                "" if right is None else f"{right:.2f} of {line['aspects_that_matter']:.2f}",
                *(f"{line['calls']:.2f}", f"{line['memory_tokens']:.0f}"),
                f"{parts['cpu_seconds']:.0f}" if "cpu_seconds" in parts else "",
                f"{parts['tokens'] / 1000:.0f}" if parts.get("tokens") else "",
                " ".join(f"{score:.3f}" for score in line["seeds"].values()),
            )
        )
    show(f"{part}: {PARTS[part]}; first: {first}", rows, file)


def _span(ends: Sequence[float], sign: str = "") -> str:
    return f"{ends[0]:{sign}.3f}..{ends[1]:{sign}.3f}"


def scripts_of(found: Found) -> dict[str, dict[int, float]]:
    """Return {untold script: {seed: its mean nDCG@10 on validation users}}."""
    seeds = found["references"]
    names = dict.fromkeys(name for one in seeds.values() for name in one["scores"])
    return {name: {seed: one["scores"][name] for seed, one in seeds.items()} for name in names}


def print_scripts(found: Found, file) -> None:
    """Print the validation scores of the untold scripts; a star marks the best one of a seed: best_script."""
    seeds = found["references"]
    rows = [("script", *(f"seed {seed}" for seed in seeds))]
    for name, scores in scripts_of(found).items():
        rows.append((name, *(f"{scores[s]:.3f}{' *' * (seeds[s]['script'] == name)}" for s in seeds)))
    show("untold scripts, nDCG@10 of validation users", rows, file)


def steady_worlds(table: dict[str, dict]) -> dict[int, bool]:
    """Return {seed of the world: GRPO by the longer recipe reaches `STEADY` of the expert, on test and held}."""
    seeds = table["grpo_long"]["test"]["seeds"]
    return {seed: min(share(table, "grpo_long", seed, part) for part in PARTS) >= STEADY for seed in seeds}


def share(table: dict[str, dict], arm: str, seed: int, part: str) -> float:
    """Return an arm's share of the expert's nDCG@10 in one world."""
    return table[arm][part]["seeds"][seed] / table["expert"][part]["seeds"][seed]


def print_worlds(table: dict[str, dict], file) -> None:
    arms, of_expert = ("best_script", "grpo", "grpo_long", "told_drift", "expert"), ("grpo", "grpo_long", "told_drift")
    names = (*arms, *(f"{arm} / expert" for arm in of_expert))
    rows = [("world", *(f"{part} {name}" for part in PARTS for name in names), "steady")]
    for seed, steady in steady_worlds(table).items():
        cells = []
        for part in PARTS:
            cells += [f"{table[name][part]['seeds'][seed]:.3f}" for name in arms]
            cells += [f"{share(table, arm, seed, part):.2f}" for arm in of_expert]
        rows.append((seed, *cells, "yes" if steady else "no"))
    steady = list(steady_worlds(table).values())
    title = f"grpo_long / expert is at least {STEADY} on test and held in {sum(steady)} of {len(steady)} worlds"
    show(title, rows, file)


def draw(table: dict[str, dict], path: Path) -> None:
    """Plot the frontier: nDCG@10 with its interval against the memory tokens per episode."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    for panel, part in zip(panels, PARTS, strict=True):
        sides = itertools.cycle(LABELS)
        for name, parts in table.items():
            line, learned = parts[part], "tokens" in parts
            if not learned and name not in ("query_only", "static_memory", "best_script", "expert"):
                continue
            low, high = (abs(line["ndcg@10"] - end) for end in line["interval"])
            mark = {"marker": "o", "color": "tab:blue"} if learned else {"marker": "s", "color": "tab:gray"}
            place = (line["memory_tokens"], line["ndcg@10"])
            panel.errorbar(*place, yerr=[[low], [high]], capsize=3, **mark)
            side, shift = next(sides) if learned else LABELS[1]
            panel.annotate(name.replace("_", " "), place, shift, ha=side, textcoords="offset points", fontsize=8)
        panel.set(xlabel="memory tokens per episode")
        panel.set_title(PARTS[part], fontsize=8)
        panel.grid(alpha=0.3)
        panel.margins(x=0.2)
    panels[0].set_ylabel("nDCG@10, 95 % interval")
    figure.savefig(path, dpi=110)


# --- claims -----------------------------------------------------------------------------------------------------------


def claims_of(experiment: str, table: dict[str, dict]) -> list[dict]:
    """Return what must hold. Only `fresh` and `worlds` claim something: the others served to choose the recipe."""
    if experiment == "fresh":
        return [above(table, part, rival) for part in PARTS for rival in ("warm_start", "imitation_long")]
    if experiment == "worlds":
        steady = list(steady_worlds(table).values())
        name = f"share of the worlds in which GRPO by the longer recipe reaches {STEADY} of the expert, test and held"
        return [claim(name, sum(steady) / len(steady), 0.9)]
    return []


def aims_of(experiment: str, table: dict[str, dict]) -> list[dict]:
    """Return what is aimed at: reported like claims, but the exit status does not depend on it."""
    if experiment != "fresh":
        return []
    aims = [above(table, part, rival) for part in PARTS for rival in ("imitation_filtered", "raft")]
    for rival in ("best_script", "clone"):
        aims.append(claim(f"held: GRPO minus {rival}", table[rival]["held"]["first_minus"]["ndcg@10"], 0.03))
    return aims + [claim(f"{part}: share of the oracle", table["grpo"][part]["of_oracle"], 0.85) for part in PARTS]


def above(table: dict[str, dict], part: str, rival: str) -> dict:
    """Return the claim that the interval of GRPO minus `rival` lies above 0."""
    low = table[rival][part]["first_minus"]["interval"][0]
    return claim(f"{part}: GRPO minus {rival}, lower end of the interval", low, 0.0) | {"holds": low > 0}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--fast", action="store_true", help="tiny shops and three steps, to see that it runs")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, tables on stderr")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--plot", type=Path, help="also plot the frontier (.png, .svg); needs matplotlib")
    given = parser.parse_args(arguments)
    if given.plot and given.experiment != "frontier":
        parser.error("--plot works with the frontier experiment only")
    seeds = list(given.seeds or SEEDS.get(given.experiment, (0, 1, 2)))
    found = measure(given.experiment, seeds, given.out, given.fast)
    table, file = summarize(found), sys.stderr if given.json else None
    if given.experiment == "worlds":
        print_worlds(table, file)
    else:
        for part in PARTS:
            print_table(table, part, first_of(found), file)
        print_scripts(found, file)
    if given.plot:
        draw(table, given.plot)
    claims, aims = claims_of(given.experiment, table), aims_of(given.experiment, table)
    if aims:
        rows = [(a["name"], a["value"], a["target"], "yes" if a["holds"] else "no") for a in aims]
        show("aims, not claimed", [("aim", "value", "target", "reached"), *rows], file)
    scripts = {seed: one["script"] for seed, one in found["references"].items()}
    measured = {"arms": table, "best_script": scripts, "validation": scripts_of(found), "aims": aims}
    return finish(document(claims, experiment=given.experiment, seeds=seeds, **measured), given.json)


if __name__ == "__main__":
    sys.exit(main())
