"""Compare choices in the training of a policy: all arms of an experiment share seeds, number of steps and queries.

    python -m benchmarks.learning credit|estimators|frontier|fresh [--seeds 0 1 2] [--fast] [--json] [--out DIR]

    credit      {trajectory, turn credit} x {free, constrained decoding} x {several, one shop to train in}
    estimators  REINFORCE with each baseline; GRPO, and GRPO with each other sigma and length rule; all with the same
                number of episodes
    frontier    nDCG@10 against memory tokens, for several costs per call and one cost per token of memory; the shop's
                queries state none, one, two or all three of the wanted values
    fresh       the chosen recipe, run once on shops that no choice was based on (seeds 10, 11, 12), next to the paper's
                recipe (trajectory credit, free decoding) and the references that it must beat

An arm differs from the first arm of its experiment only in what its name says. All arms of a seed that train in equal
shops have the same warm start. Each run is saved in DIR as soon as it is done, under a name derived from its
configuration, and is not repeated. So an interrupted experiment resumes where it stopped, experiments share runs, and
several processes (of one thread each) can share the seeds. (After a change of the code, use another DIR.) The tables
show nDCG@10 over the whole pool and paired differences to the first arm. The 95 % intervals resample seeds and users.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from benchmarks.common import claim, document, finish, show
from mrrec_mini.files import write_text

SAID = (0.25, 0.25, 0.25, 0.25)
FRESH = (10, 11, 12)
LABELS = (("left", (6, 4)), ("right", (-6, 4)), ("left", (6, -12)))  # taken in turn, so that labels do not overlap


@dataclass(frozen=True)
class Setting:
    """How an arm differs from the default recipe."""

    train: dict  # fields of TrainConfig
    grpo: dict
    rules: dict
    reward: dict
    siblings: int | None = None
    said: tuple[float, ...] = (1.0,)


def setting(siblings: int | None = None, said: tuple[float, ...] = (1.0,), **changed) -> Setting:
    kinds = {"grpo": {}, "rules": {}, "reward": {}} | {k: changed.pop(k) for k in list(changed) if k in PARTS_OF_TRAIN}
    return Setting(changed, **kinds, siblings=siblings, said=said)


PARTS_OF_TRAIN = ("grpo", "rules", "reward")


def experiments() -> dict[str, dict[str, Setting]]:
    """Return {experiment: {arm: setting}}. The first arm is the one that the others are compared with."""
    credit = {}
    for siblings, shops in ((None, "several shops"), (0, "one shop")):
        for constrained, decoding in ((False, "free"), (True, "constrained")):
            for kind in ("trajectory", "turn"):
                rules = {"constrained": constrained}
                credit[f"{kind}, {decoding}, {shops}"] = setting(siblings, credit=kind, rules=rules)
    estimators = {"GRPO, token, no sigma": setting()}
    estimators |= {
        f"REINFORCE, baseline {kind}": setting(algo="reinforce", baseline=kind)
        for kind in ("none", "group", "leave_one_out")
    }
    estimators |= {f"GRPO, {length}, no sigma": setting(grpo={"length": length}) for length in ("sequence", "constant")}
    estimators |= {
        f"GRPO, token, sigma of {sigma}": setting(grpo={"sigma": sigma}) for sigma in ("group", "population")
    }
    costs = [{}, *({"call_cost": c} for c in (0.1, 0.3, 0.5, 1.0)), {"token_cost": 0.02}]
    frontier = {
        " ".join(f"{name.replace('_', ' ')} {value}" for name, value in cost.items()) or "free": setting(
            said=SAID, reward=cost
        )
        for cost in costs
    }
    fresh = {"chosen": setting(), "the paper's own": setting(rules={"constrained": False}, credit="trajectory")}
    return {"credit": credit, "estimators": estimators, "frontier": frontier, "fresh": fresh}


def shop_and_recipe(arm: Setting, seed: int, fast: bool):
    from mrrec_mini.grpo import GRPOConfig
    from mrrec_mini.recipe import FAST, FAST_WORLD, Recipe
    from mrrec_mini.reward import RewardConfig
    from mrrec_mini.world import WorldConfig

    recipe = FAST if fast else Recipe()
    train = recipe.train
    train = replace(
        train,
        seed=seed,
        grpo=GRPOConfig(**{**asdict(train.grpo), **arm.grpo}),
        rules=replace(train.rules, **arm.rules),
        reward=RewardConfig(**{**asdict(train.reward), **arm.reward}),
        **arm.train,
    )
    siblings = recipe.siblings if arm.siblings is None else arm.siblings
    world = replace(FAST_WORLD if fast else WorldConfig(), seed=seed, said=arm.said)
    return world, replace(recipe, siblings=siblings, train=train)


@lru_cache(maxsize=1)  # the arms of a seed share their shops
def shops(world, recipe, seed: int):
    """Return the environments of a seed. `recipe` must be the default except in the fields that define environments."""
    from mrrec_mini.recipe import prepare
    from mrrec_mini.world import make_world

    return prepare(make_world(world), recipe, seed)


def environments_of(world, recipe, seed: int):
    from mrrec_mini.recipe import Recipe

    defining = ("shares", "siblings", "sibling_users")
    return shops(world, Recipe(**{name: getattr(recipe, name) for name in defining}), seed)


def digest(*parts) -> str:
    """Return a file name derived from dataclasses and plain values; equal values give equal names in every process."""
    plain = [asdict(part) if hasattr(part, "__dataclass_fields__") else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def warm_policy(folder: Path, environments, recipe, seed: int):
    """Return (model, tokenizer) of the warm start in `folder`; train it and save it there if it is missing."""
    from mrrec_mini.grammar import CONTROL
    from mrrec_mini.models.causal_lm import load_causal_lm, save_causal_lm
    from mrrec_mini.recipe import start_policy

    if not (folder / "words.json").is_file():  # the tokenizer is written last
        model, tokenizer = start_policy(environments, recipe, seed)
        save_causal_lm(folder, model, tokenizer)
    return load_causal_lm(str(folder), CONTROL)


def run(world, recipe, seed: int, warm: Path) -> dict:
    """Train one arm on one seed and evaluate it. Returns rows, learning curve and cost."""
    import torch

    from mrrec_mini.evaluate import eval_sets, policy_rows
    from mrrec_mini.grammar import Grammar
    from mrrec_mini.train import Trainer, train

    environments = environments_of(world, recipe, seed)
    model, tokenizer = warm_policy(warm, environments, recipe, seed)
    started = time.process_time()
    trainer = Trainer(model, tokenizer, environments, recipe.train)
    log = train(trainer, report=lambda line: print(f"\r{line['step']}", end="", file=sys.stderr))
    spent = time.process_time() - started
    rows = []
    for eval_set in eval_sets(environments[0], Grammar(tokenizer), recipe.train.rules, seed):
        rows += policy_rows(eval_set, "grpo", model, torch.Generator().manual_seed(1000 + seed))
    curve = [{key: line[key] for key in ("reward", "entropy", "calls/mean", "frac_reward_zero_std")} for line in log]
    tokens = sum(line["num_tokens"] for line in log)
    return {"rows": [asdict(row) for row in rows], "curve": curve, "cpu_seconds": spent, "tokens": tokens}


def reference(world, recipe, seed: int, warm: Path) -> dict:
    """Evaluate a seed's references: the warm start (free, and forced to use all calls) and arms without a policy."""
    import numpy as np
    import torch

    from mrrec_mini.evaluate import eval_sets, policy_rows, reference_rows
    from mrrec_mini.grammar import Grammar

    environments = environments_of(world, recipe, seed)
    model, tokenizer = warm_policy(warm, environments, recipe, seed)
    rows = []
    for eval_set in eval_sets(environments[0], Grammar(tokenizer), recipe.train.rules, seed):
        rows += reference_rows(eval_set, np.random.default_rng([seed, 3]), recipe.teacher)
        for name, all_calls in (("warm_start", False), ("warm_start_all_calls", True)):
            rows += policy_rows(eval_set, name, model, torch.Generator().manual_seed(1000 + seed), all_calls)
    return {"rows": [asdict(row) for row in rows]}


def kept(path: Path, make) -> dict:
    """Return the content of the JSON file `path`. If the file is missing, write the result of `make` to it first."""
    if not path.is_file():
        write_text(path, json.dumps(make()))
    return json.loads(path.read_text(encoding="utf-8"))


def measure(experiment: str, seeds: Sequence[int], out: Path, fast: bool) -> dict[str, dict[int, dict]]:
    """Return {arm: {seed: run}}; the key "references" has the references, which decode as in the default recipe."""
    import torch

    from mrrec_mini.recipe import FAST, Recipe

    torch.set_num_threads(1)
    arms = experiments()[experiment]
    found: dict[str, dict[int, dict]] = {name: {} for name in arms}
    found["references"] = {}
    for seed in seeds:
        for name, arm in arms.items():
            print(f"{experiment}: {name}, seed {seed}", file=sys.stderr)
            world, recipe = shop_and_recipe(arm, seed, fast)
            # the warm start and the references do not depend on how the arm learns afterwards
            common = replace(recipe, train=(FAST if fast else Recipe()).train)
            base = digest(world, common, seed)
            warm = out / "warm" / base
            if seed not in found["references"]:  # evaluated in the shop of the first arm
                path = out / "references" / f"{base}.json"
                found["references"][seed] = kept(path, lambda w=world, r=common, s=seed, p=warm: reference(w, r, s, p))
            path = out / "runs" / f"{digest(world, recipe, seed)}.json"
            found[name][seed] = kept(path, lambda w=world, r=recipe, s=seed, p=warm: run(w, r, s, p))
            print(file=sys.stderr)
    return found


def rows_of(runs: dict[int, dict], part: str, mode: str, arm: str = "grpo") -> list:
    from mrrec_mini.evaluate import Row

    rows = [Row(**row) for one in runs.values() for row in one["rows"]]
    return [row for row in rows if (row.part, row.mode, row.arm) == (part, mode, arm)]


def summarize(found: dict[str, dict[int, dict]]) -> dict[str, dict]:
    """Return {arm: {part: means, interval, share of the expert, differences to the first arm and to references}}."""
    import numpy as np

    from mrrec_mini.evaluate import difference, interval, means, ndcg_10

    arms = [name for name in found if name != "references"]
    references = {
        name: (found["references"], name, "greedy" if "warm" in name else "")
        for name in ("query_only", "static_memory", "warm_start", "warm_start_all_calls", "expert", "oracle")
    }
    table: dict[str, dict] = {}
    for name, (runs, arm, mode) in (references | {n: (found[n], "grpo", "greedy") for n in arms}).items():
        table[name] = {}
        for part in ("test", "held"):
            rows = rows_of(runs, part, mode, arm)
            line = means(rows) | {"interval": interval([ndcg_10(row) for row in rows], rows, ("mean", name, part))}
            experts = rows_of(found["references"], part, "", "expert")
            line["of_expert"] = line["ndcg@10"] / means(experts)["ndcg@10"]
            line["to_expert"] = difference(rows, experts, ("difference", name, "expert", part))
            if arm == "grpo":
                line["sampled"] = means(rows_of(runs, part, "sampled"))["ndcg@10"]
                first = rows_of(found[arms[0]], part, "greedy")
                about = ("difference", name, arms[0], part)
                line["to_first"] = difference(rows, first, about) if name != arms[0] else None
                forced = rows_of(found["references"], part, "greedy", "warm_start_all_calls")
                line["to_forced"] = difference(rows, forced, ("difference", name, "warm_start_all_calls", part))
                line["seeds"] = [means([r for r in rows if r.seed == seed])["ndcg@10"] for seed in runs]
            table[name][part] = line
        if arm == "grpo":
            table[name]["cpu_seconds"] = float(np.mean([one["cpu_seconds"] for one in runs.values()]))
            table[name]["tokens"] = float(np.mean([one["tokens"] for one in runs.values()]))
    return {name: table[name] for name in (*references, *arms)}


def print_table(table: dict[str, dict], part: str, file) -> None:
    names = "arm|nDCG@10|95 %|to the first|95 %|sampled|of expert|right|calls|memory|CPU s"
    heading = tuple(names.split("|"))
    rows = [heading]
    for name, parts in table.items():
        line = parts[part]
        gain = line.get("to_first")
        rows.append(
            (
                *(name, f"{line['ndcg@10']:.3f}", _span(line["interval"])),
                *((f"{gain['ndcg@10']:+.3f}", _span(gain["interval"], "+")) if gain else ("", "")),
                f"{line['sampled']:.3f}" if "sampled" in line else "",
                f"{line['of_expert']:.0%}",
                "" if line["aspects_right"] is None else f"{line['aspects_right']:.2f}",
                *(f"{line['calls']:.2f}", f"{line['memory_tokens']:.0f}"),
                f"{parts['cpu_seconds']:.0f}" if "cpu_seconds" in parts else "",
            )
        )
    titles = {"test": "unseen people, familiar categories", "held": "categories that no training query named"}
    show(titles[part], rows, file)


def _span(ends: Sequence[float], sign: str = "") -> str:
    return f"{ends[0]:{sign}.3f}..{ends[1]:{sign}.3f}"


def draw(table: dict[str, dict], path: Path) -> None:
    """Plot the frontier: nDCG@10 with its interval against the memory tokens per episode."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    titles = ("unseen people, familiar categories", "categories that no training query named")
    for panel, part, title in zip(panels, ("test", "held"), titles, strict=True):
        sides = itertools.cycle(LABELS)
        for name, parts in table.items():
            line, learned = parts[part], "cpu_seconds" in parts
            if not learned and name not in ("query_only", "static_memory", "expert"):
                continue
            low, high = (abs(line["ndcg@10"] - end) for end in line["interval"])
            mark = {"marker": "o", "color": "tab:blue"} if learned else {"marker": "s", "color": "tab:gray"}
            place = (line["memory_tokens"], line["ndcg@10"])
            panel.errorbar(*place, yerr=[[low], [high]], capsize=3, **mark)
            side, shift = next(sides) if learned else LABELS[1]
            panel.annotate(name.replace("_", " "), place, shift, ha=side, textcoords="offset points", fontsize=8)
        panel.set(title=title, xlabel="memory tokens per episode")
        panel.grid(alpha=0.3)
        panel.margins(x=0.2)
    panels[0].set_ylabel("nDCG@10, 95 % interval")
    figure.savefig(path, dpi=110)


def claims_of(experiment: str, table: dict[str, dict]) -> list[dict]:
    """Return the claims about the chosen recipe. The other experiments serve to choose the recipe and claim nothing."""
    if experiment != "fresh":
        return []
    found = []
    for part in ("test", "held"):
        line, forced = table["chosen"][part], table["warm_start_all_calls"][part]
        apart = line["interval"][0] - forced["interval"][1]
        found.append(claim(f"{part}: above warm_start_all_calls, gap between the intervals", apart, 0.0))
        found.append(claim(f"{part}: share of the scripted expert's nDCG@10", line["of_expert"], 0.9))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=list(experiments()))
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--fast", action="store_true", help="tiny shops and three steps, to see that it runs")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, tables on stderr")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--plot", type=Path, help="also plot the frontier (.png, .svg); needs matplotlib")
    given = parser.parse_args(arguments)
    if given.plot and given.experiment != "frontier":
        parser.error("--plot works with the frontier experiment only")
    seeds = given.seeds or (FRESH if given.experiment == "fresh" else (0, 1, 2))
    table = summarize(measure(given.experiment, seeds, given.out, given.fast))
    for part in ("test", "held"):
        print_table(table, part, sys.stderr if given.json else None)
    if given.plot:
        draw(table, given.plot)
    found = document(claims_of(given.experiment, table), experiment=given.experiment, seeds=list(seeds), arms=table)
    return finish(found, given.json)


if __name__ == "__main__":
    sys.exit(main())
