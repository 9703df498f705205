"""The report: the page shows what rollout, reward and credit return; nothing in it can act or use the network."""

import base64
import hashlib
import json
import re
import shutil
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from unicodedata import category

import pytest
import torch

from browser import chromium, opened
from mrrec_mini.app.report import (
    CHARTS,
    QUERIES,
    Player,
    every_nth,
    gather,
    json_in_html,
    page,
    query_data,
    read_arms,
    read_log,
    reward_parts,
    token_advantages,
    token_texts,
)
from mrrec_mini.chat_grammar import grammar_of
from mrrec_mini.data import DataError, Dataset, printable
from mrrec_mini.evidence import copied_from
from mrrec_mini.files import code_version
from mrrec_mini.grpo import Formulas, GRPOConfig, group_advantages
from mrrec_mini.recipe import Recipe, prepare, start_policy
from mrrec_mini.reward import RewardConfig, recommendation_reward, score
from mrrec_mini.rollout import LMActor
from mrrec_mini.run import Run
from mrrec_mini.train import TrainConfig, Trainer, train
from mrrec_mini.turn_credit import turn_advantages
from runs import (
    HOSTILE,
    QUICK,
    copied_run,
    hostile_shop,
    made_run,
    mrrec,
    no_file_larger_than,
    refused,
    same_weights,
    shop,
)
from small import environment, fresh_logprobs, taught_model, tokenizer

SCRIPT = "document.title='owned'"
EVIL = f"</script><script>{SCRIPT}</script><!-- <img src=x onerror={SCRIPT}> https://x.invalid/ א"
CONFIG = TrainConfig(group=6, grpo=GRPOConfig(sigma="group"), reward=RewardConfig(call_cost=0.05, token_cost=0.001))


@lru_cache(maxsize=1)
def player() -> Player:
    """A policy that searches and answers."""
    return Player(environment(), taught_model(), grammar_of(tokenizer()), replace(Recipe(), train=CONFIG), 0)


@lru_cache(maxsize=1)
def seed_and_group():
    """Return a seed and its group of G scored episodes of one query, in which all cases of the page occur.

    One target is in the first ten, one is below them, one episode has no answer, and the first episode is not the best.
    Which seed gives such a group depends on the shop and on the tiny policy, so the first one is searched for.
    """
    it, inf = player(), float("inf")
    for seed, query in product(range(30), environment().split.test_queries):
        actor = LMActor(taught_model(), it.grammar, torch.Generator().manual_seed(seed))
        episodes = environment().play(actor, [query] * CONFIG.group, it.grammar, CONFIG.rules, CONFIG.reward)
        ranks, rewards = [e.rewards["rank"] for e in episodes], [e.reward for e in episodes]
        if min(ranks) <= 10 and any(10 < r < inf for r in ranks) and inf in ranks and rewards[0] < max(rewards):
            return seed, episodes
    pytest.fail("no group has all cases: does the taught policy still answer?")


def group():
    return seed_and_group()[1]


def columns(data):
    """(who, text, log-probability, advantage) of every token in the data of an episode."""
    return [(run["who"], *token) for run in data["runs"] for token in run["tokens"]]


# --- what is shown is what was played -------------------------------------------------------------------------------


def test_each_token_has_its_writer_and_the_models_log_probability():
    it = player()
    for episode in group():
        shown = columns(it.episode_data(episode))
        assert [who == "policy" for who, *_ in shown] == [bool(bit) for bit in episode.mask]
        first = episode.mask.index(1)
        assert {who for who, *_ in shown[:first]} == {"prompt"} and "prompt" not in {who for who, *_ in shown[first:]}
        whole = "".join(text for _, text in it.grammar.transcript(episode.tokens, episode.mask))
        assert "".join(text for _, text, *_ in shown).replace(" ", "") == whole.replace(" ", "")
        expected = fresh_logprobs(taught_model(), episode.tokens)
        for (who, _, logprob, advantage), model in zip(shown, expected.tolist(), strict=True):
            assert advantage is None
            assert logprob == pytest.approx(model, abs=1e-4) if who == "policy" else logprob is None


def test_a_character_of_several_tokens_appears_once_and_nothing_is_lost():
    words, text = tokenizer(), "mug 🙂 naïve א mug"
    shown = token_texts(words.encode(text), grammar_of(words))
    assert "".join(shown).replace(" ", "") == text.replace(" ", "")
    assert len(shown) == len(words.encode(text)) and "🙂" in shown and shown[shown.index("🙂") - 1] == ""
    broken = [words.first_byte + 0xF0, *words.encode("mug"), words.first_byte + 0xC3]
    assert "".join(token_texts(broken, grammar_of(words))) == "\ufffdmug\ufffd"


@pytest.mark.parametrize("sigma", ["none", "group"])
def test_the_advantages_of_a_group_are_those_of_training_and_zero_on_average(sigma):
    episodes, config = group(), replace(CONFIG, grpo=GRPOConfig(sigma=sigma))
    rewards = torch.tensor([episode.reward for episode in episodes])
    expected = group_advantages(rewards, torch.zeros(len(episodes)), sigma)
    advantages = token_advantages(episodes, player().grammar, environment(), config)
    for row, episode, value in zip(advantages, episodes, expected.tolist(), strict=True):
        own = [x for x, bit in zip(row, episode.mask, strict=False) if bit]
        assert own == [pytest.approx(value)] * sum(episode.mask) and sum(map(abs, row)) == pytest.approx(
            sum(map(abs, own))
        )
    firsts = [row[episode.mask.index(1)] for row, episode in zip(advantages, episodes, strict=True)]
    assert sum(firsts) == pytest.approx(0, abs=1e-5) and max(map(abs, firsts)) > 0.01


def test_turn_credit_gives_each_decision_its_own_advantage():
    episodes, it = group(), player()
    advantages = token_advantages(episodes, it.grammar, environment(), replace(CONFIG, credit="turn"))
    expected = turn_advantages(episodes, [0] * len(episodes), it.grammar, environment().items, CONFIG.reward)
    assert advantages == expected.tolist()
    data = it.episode_data(episodes[0], advantages[0])
    own = [advantage for who, *_, advantage in columns(data) if who == "policy"]
    assert len(set(own)) > 1 and all(advantage is None for who, *_, advantage in columns(data) if who != "policy")


def test_the_first_episode_of_a_group_is_shown_and_a_greedy_one_has_no_advantage():
    seed, episodes = seed_and_group()
    it = Player(environment(), taught_model(), grammar_of(tokenizer()), replace(Recipe(), train=CONFIG), seed)
    query, rewards = episodes[0].query, [episode.reward for episode in episodes]
    data = it.play(query)
    assert data["sampled"]["group"] == rewards and rewards[0] != max(rewards)
    assert data["sampled"]["reward"] == rewards[0]
    advantages = token_advantages(group(), it.grammar, environment(), CONFIG)
    assert {**data["sampled"], "group": None} == {**it.episode_data(group()[0], advantages[0]), "group": None}
    assert "group" not in data["greedy"] and {advantage for *_, advantage in columns(data["greedy"])} == {None}
    [greedy] = environment().play(it.greedy, [query], it.grammar, CONFIG.rules, CONFIG.reward)
    assert it.episode_data(greedy) == data["greedy"]


def test_memories_are_those_of_the_episode_with_the_scores_of_the_index():
    it, env = player(), environment()
    for episode in group():
        data = it.episode_data(episode)
        assert [call["text"] for call in data["calls"]] == [call.text for call in episode.calls]
        for shown, call in zip(data["calls"], episode.calls, strict=True):
            hits = env.memory.local(episode.query).index.search(call.text, CONFIG.rules.memory_k)
            assert [entry.id for entry in call.entries] == [hit.id for hit in hits]
            for one, entry, hit in zip(shown["found"], call.entries, hits, strict=True):
                assert (one["id"], one["text"], one["level"]) == (printable(entry.id), entry.text, entry.level)
                assert (one["score"], one["bm25"], one["cosine"]) == (hit.score, hit.bm25, hit.dense)
                assert one["cited"] == (episode.answer is not None and entry.id in episode.answer.evidence)
                copied = [text for text, source in copied_from(episode, it.grammar) if source == entry]
                assert one["copied"] == "; ".join(copied)
        invented = [text for text, source in copied_from(episode, it.grammar) if source is None]
        assert data["invented"] == ", ".join(invented)
    query = group()[0].query
    shared = query_data(query, env, CONFIG.rules)["global"]
    assert [one["text"] for one in shared] == [
        e.text for e in env.memory.search_global(query.text, CONFIG.rules.global_k)
    ]
    assert shared and all(one["bm25"] > 0 or one["cosine"] != 0 for one in shared)


def test_the_ranking_is_that_of_the_index_and_shows_where_the_target_stands():
    env, inside = environment(), set()
    for episode in group():
        data = player().episode_data(episode)
        if episode.answer is None:
            assert (data["rank"], data["ranking"], data["profile"]) == (None, [], None)
            continue
        hits = env.items.search(episode.answer.profile, 10)
        rows = data["ranking"]
        assert [(row["id"], row["score"], row["bm25"], row["cosine"]) for row in rows[:10]] == [
            (hit.id, hit.score, hit.bm25, hit.dense) for hit in hits
        ]
        [marked] = [row for row in rows if row["target"]]
        assert (marked["id"], marked["rank"]) == (episode.query.target, data["rank"])
        assert data["rank"] == env.items.ranks([episode.answer.profile], [episode.query.target])[0]
        assert len(rows) == 10 + (data["rank"] > 10)
        inside.add(data["rank"] <= 10)
    assert inside == {True, False}


PRICED = replace(CONFIG.reward, shape="log_rank", evidence=0.5)


@pytest.mark.parametrize("config", [CONFIG.reward, PRICED, Recipe().train.reward], ids=["ndcg", "priced", "recipe"])
def test_the_parts_of_the_reward_add_up(config):
    for episode in score(group(), environment().items, config, player().grammar):
        parts = {part["name"]: part for part in reward_parts(episode, config)}
        assert sum(part["value"] * part["weight"] for part in parts.values()) == pytest.approx(episode.reward)
        costs = {"calls": config.call_cost, "retrieved tokens": config.token_cost, "evidence": config.evidence}
        assert {name for name, weight in costs.items() if weight} == costs.keys() & parts.keys()
        expected = recommendation_reward(episode.rewards["rank"], config)
        assert parts["recommendation"]["value"] == pytest.approx(expected)
    assert [part["name"] for part in reward_parts(group()[0], RewardConfig())] == ["format", "recommendation", "memory"]


def test_queries_are_evenly_spaced_and_not_selected_by_outcome():
    queries = environment().split.test_queries
    assert every_nth(queries, 100) == list(queries) and every_nth([], 5) == []
    assert every_nth(list(range(100)), 4) == [0, 25, 50, 75] and every_nth(list(range(5)), 3) == [0, 1, 3]
    assert QUERIES >= 12


# --- a run's files --------------------------------------------------------------------------------------------------


def test_a_run_keeps_its_policy_from_before_learning(tmp_path):
    """All advantages are 1, so that the policy changes: in such a small run all rewards are equal."""
    run = copied_run(tmp_path)
    environments = prepare(Dataset.load(shop()), QUICK, 0)
    start, tokenizer = start_policy(environments, QUICK, 0)
    assert same_weights(Run(run).policy_before()[0], start)
    config = Run(run).config
    Run(run).start_over()
    formulas = Formulas(group_advantages=lambda rewards, *_: torch.ones_like(rewards))
    trainer = Trainer(deepcopy(start), tokenizer, environments, QUICK.train, formulas)
    Run(run).create(config, trainer)
    train(trainer, Run(run))
    before, after = Run(run).policy_before()[0], Run(run).policy()[0]
    assert same_weights(before, start) and not same_weights(before, after)
    Run(run).start_over()
    with pytest.raises(FileNotFoundError):
        Run(run).policy_before()


def test_the_arms_are_those_of_the_evaluation(tmp_path):
    run = copied_run(tmp_path)
    arms = json.loads(mrrec("evaluate", "--run", run, "--json").stdout)["arms"]
    (test, held), code = read_arms(run / "evaluation.json")
    assert code == code_version()
    assert [row["arm"] for row in test["rows"]] == list(arms) and len(held["rows"]) == len(arms)
    for table, part in ((test, arms), (held, {arm: numbers["held"] for arm, numbers in arms.items()})):
        for row in table["rows"]:
            numbers = part[row["arm"]]
            assert [row["ndcg"], row["low"], row["high"]] == [numbers["ndcg@10"], *numbers["interval"]]
            assert (row["recall"], row["tokens"]) == (numbers["recall@10"], numbers["memory_tokens"])
            sampled, minus = numbers.get("sampled"), numbers["grpo_minus"]
            assert row["sampled"] == (sampled and sampled["ndcg@10"])
            assert row["grpo_minus"] == (minus and minus["ndcg@10"])
            assert row["grpo_minus_high"] == (minus and minus["interval"][1])
    assert read_arms(tmp_path / "none.json") == ([], "")


def test_the_curves_are_those_of_the_log(tmp_path):
    log = read_log(made_run() / "metrics.jsonl")
    lines = [json.loads(line) for line in (made_run() / "metrics.jsonl").read_text().splitlines()]
    assert len(log) == 2 and log[0]["validation/ndcg@10"] is None and log[1]["validation/ndcg@10"] is not None
    for shown, line in zip(log, lines, strict=True):
        assert shown == {name: line.get(name) for name in shown}
    needed = {"reward", "entropy", "frac_reward_zero_std", "calls/mean", "validation/ndcg@10", "clip_ratio/low_mean"}
    assert needed <= {column for chart in CHARTS.values() for column in chart.values()} < set(log[0])
    cut = tmp_path / "metrics.jsonl"
    cut.write_text(json.dumps({**lines[0], "entropy": float("nan")}) + "\n" + json.dumps(lines[1])[:40])
    assert [line["entropy"] for line in read_log(cut)] == [None]
    assert read_log(tmp_path / "none") == []


def test_the_command_writes_the_page_beside_the_run_or_elsewhere(tmp_path):
    run = copied_run(tmp_path)
    done = mrrec("report", run, "--json")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["file"] == str(run / "report.html") and answer["bytes"] == (run / "report.html").stat().st_size
    assert answer["queries"] == 12 and answer["notes"] == []
    html = (run / "report.html").read_text(encoding="utf-8")
    data = in_page(html)
    assert data == gather(run) and data["arms"] == [] and data["name"] == "run"
    assert all({"before", "after"} <= set(query) for query in data["queries"])
    assert str(tmp_path) not in html and str(made_run().parent) not in html  # people share the page
    other = mrrec("report", run, "--out", tmp_path / "far" / "away.html")
    assert (other.exit_code, other.stdout) == (0, "") and "away.html" in other.stderr
    assert (tmp_path / "far" / "away.html").read_text(encoding="utf-8") == html


def in_page(html: str):
    return json.loads(re.search('<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


def test_a_run_without_its_first_policy_is_shown_without_it(tmp_path):
    run = copied_run(tmp_path)
    shutil.rmtree(run / "before")
    done = mrrec("report", run, "--json")
    assert done.exit_code == 0 and "before learning" in done.stderr
    data = in_page((run / "report.html").read_text(encoding="utf-8"))
    [note] = data["notes"]
    assert "did not keep" in note and not any("before" in query for query in data["queries"])


def test_damaged_checkpoints_are_skipped_and_named(tmp_path):
    run = copied_run(tmp_path)
    shutil.copytree(run / "checkpoints" / "step-000002", run / "checkpoints" / "step-000003")
    (run / "before" / "checkpoints" / "step-000000" / "words.json").write_text("{}")
    answer = json.loads(mrrec("report", run, "--json").stdout)
    newest, first = answer["notes"]
    assert newest.startswith("checkpoints/step-000003: ") and "step-000002 is used" in newest
    assert "words.json" in first and str(tmp_path) not in newest + first
    data = in_page((run / "report.html").read_text(encoding="utf-8"))
    assert all("after" in query and "before" not in query for query in data["queries"])


def test_a_missing_or_damaged_run_is_refused_and_nothing_is_written(tmp_path):
    refused(mrrec("report", tmp_path / "none"), 3, "none is not a run")
    run = copied_run(tmp_path)
    (run / "evaluation.json").write_text('{"code": "x", "arms": {"grpo": {"ndcg@10": "high"}}}')
    refused(mrrec("report", run), 4, "evaluation.json", "mrrec evaluate")
    (run / "evaluation.json").write_text('{"grpo": {"ndcg@10": 0.5')
    refused(mrrec("report", run), 4, "evaluation.json")
    (run / "evaluation.json").unlink()
    lines = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text("{}\n" + lines)
    refused(mrrec("report", run), 4, "metrics.jsonl:1")
    (run / "metrics.jsonl").write_text(lines)
    for weights in (run / "checkpoints").glob("*/model.safetensors"):
        weights.write_bytes(b"")
    refused(mrrec("report", run), 4, "no checkpoint is whole")
    shutil.rmtree(run / "checkpoints")
    refused(mrrec("report", run), 3, "no checkpoint")
    assert not [path for path in run.iterdir() if "report" in path.name]
    with pytest.raises(DataError, match="is not a number"):
        (run / "evaluation.json").write_text('{"code": "x", "arms": {"grpo": {"ndcg@10": true}}}')
        read_arms(run / "evaluation.json")


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    run = copied_run(tmp_path)
    (run / "report.html").write_text("the one before")
    with no_file_larger_than(20_000):
        done = mrrec("report", run)
    refused(done, 1, "report.html")
    assert (run / "report.html").read_text() == "the one before"
    assert [path.name for path in run.iterdir() if "report" in path.name] == ["report.html"]


# --- nothing in the page acts or uses the network -------------------------------------------------------------------


@lru_cache(maxsize=1)
def evil_report() -> Path:
    """The page of a run whose data set contains control tokens, terminal escape sequences and HTML."""
    folder = made_run().parent / "evil"
    folder.mkdir(exist_ok=True)
    hostile = Dataset.load(hostile_shop(folder))
    evil = Dataset(
        {i.id: replace(i, title=f"{EVIL} {i.title}") for i in hostile.items.values()},
        list(hostile.interactions),
        [replace(query, text=f"{EVIL} {HOSTILE} {query.text}", truth={EVIL: HOSTILE}) for query in hostile.queries],
        {"name": EVIL},
    ).save(folder / "shop")
    run = copied_run(folder)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "data": str(evil)}))
    done = mrrec("report", run)
    assert done.exit_code == 0, done.stderr
    return run / "report.html"


def test_hostile_text_stays_text():
    html = evil_report().read_text(encoding="utf-8")
    template = page({})
    for tag in ("<script", "</script", "<!--", "-->", "<img", "<"):
        assert html.count(tag) == template.count(tag)
    assert not [c for c in html if c != "\n" and category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    query = in_page(html)["queries"][0]
    assert query["text"].startswith(EVIL) and r"\x1b[2J" in query["text"] and r"\u202e" in query["text"]
    assert query["target"]["title"].startswith(EVIL) and EVIL in query["truth"]


def test_no_text_can_end_the_block_that_holds_it():
    texts = [EVIL, "]]>", "<!--<script>", "\u2028", "&lt;/script&gt;", "DATA", ">DATA<", "SCRIPT-HASH"]
    assert not set("<>&") & set(json_in_html(texts)) and json_in_html(texts).isascii()
    assert in_page(page({"texts": texts})) == {"texts": texts}
    with pytest.raises(ValueError):
        json_in_html(float("inf"))


def test_the_page_has_no_address_and_fetches_nothing():
    html = re.sub("'sha256-[^']*'", "", page(gather(made_run()))).replace("http-equiv", "")
    for word in (
        "http",
        "//",
        r"url\(",
        r"\bimport\b",
        r"fetch\(",
        "XMLHttp",
        "WebSocket",
        "EventSource",
        "sendBeacon",
    ):
        assert not re.search(word, html), word
    for word in (
        r"\bsrc=",
        r"\bhref=",
        "<link",
        "<iframe",
        r"\bstyle=",
        r"\son\w+=",
        "innerHTML",
        "outerHTML",
        r"\beval\(",
    ):
        assert not re.search(word, html), word


def test_the_security_policy_allows_only_the_pages_own_script_and_style():
    html = page({})
    policy = re.search('http-equiv="Content-Security-Policy"\\s+content="([^"]*)"', html)[1]
    assert html.index(policy) < html.index("<style>")
    for tag in ("script", "style"):
        [content] = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "*" not in policy


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture
def browser():
    pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'mrrec_mini[browser]'")
    if chromium() is None:
        pytest.skip("needs Chromium, on the path or where CHROMIUM says")


@pytest.mark.slow
def test_the_page_in_a_browser(browser):
    with opened(evil_report()) as (page, wrong):
        count = lambda: page.locator("#queries button").count()  # noqa: E731
        seen = lambda: page.locator("[role=tabpanel]:visible").get_attribute("id")  # noqa: E731
        assert page.title() == "mrrec report" and seen() == "arms"
        page.click("#tab-learning")
        assert seen() == "learning" and page.locator("#charts svg[role=img]").count() == len(CHARTS)
        page.focus("#step")
        page.keyboard.press("Home")
        assert page.text_content("#at") == "1"
        page.locator("#charts svg[role=img]").first.hover(position={"x": 300, "y": 50})
        assert page.text_content("#at") == "2"
        page.focus("#tab-learning")
        page.keyboard.press("ArrowRight")  # tabs by keyboard
        assert seen() == "episodes"
        page.keyboard.press("Home")
        assert seen() == "arms"
        page.keyboard.press("End")
        every = count()
        assert every >= 12 and page.text_content("#count") == f"{every} of {every} queries"
        assert page.locator("#queries button bdi").first.text_content().startswith(EVIL)
        page.keyboard.press("Tab")
        page.keyboard.type("mug")  # the filter, without a mouse
        assert 0 < count() < every and page.text_content("#count") == f"{count()} of {every} queries"
        page.fill("#find", "nobody asks this")
        assert count() == 0 and "No query matches" in page.text_content("#detail")
        page.fill("#find", "")
        shares = []
        for change in ("better", "worse", "same"):
            page.select_option("#change", change)
            shares.append(count())
        assert sum(shares) == every
        page.select_option("#change", "")
        page.focus("#queries [aria-current=true]")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        assert page.locator("#queries button").nth(1).get_attribute("aria-current") == "true"
        page.check("[value=sampled]")
        page.locator(".side .policy .token").first.hover()
        assert re.search(
            r"mask 1; log-probability -?\d.*advantage [+-]?\d", page.locator(".readout").first.text_content()
        )
        page.focus(".side .token[tabindex='0']")
        page.keyboard.press("Home")
        assert "prompt; mask 0" in page.locator(".readout").first.text_content()
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement === document.querySelectorAll('.side .token')[1]")
        assert (wrong, page.title()) == ([], "mrrec report")
        page.evaluate("() => { const image = new Image(); image.src = 'https://x.invalid/a.png'; }")
        page.wait_for_timeout(200)  # the security policy must stop this request
        assert any("Content Security Policy" in line for line in wrong)


@pytest.mark.slow
def test_the_page_on_a_phone_and_in_the_dark(browser):
    back = "getComputedStyle(document.body).backgroundColor"
    with opened(evil_report(), width=360, scheme="dark") as (page, wrong):
        for tab in ("arms", "learning", "episodes"):
            page.click(f"#tab-{tab}")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, tab
        dark = page.evaluate(back)
        assert page.get_attribute("#theme", "aria-pressed") == "true"
        page.click("#theme")
        assert page.evaluate(back) == "rgb(255, 255, 255)" != dark
        page.click("#theme")
        assert page.evaluate(back) == dark and wrong == []
