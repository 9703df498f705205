"""The assistant: answers for known and new users, for odd queries and broken-off episodes; what it remembers."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from mrrec_mini.app import assistant
from mrrec_mini.app.assistant import Assistant, as_of_now
from mrrec_mini.app.counterfactual import best
from mrrec_mini.data import DataError, Dataset
from mrrec_mini.rollout import ScriptActor
from mrrec_mini.run import Run
from mrrec_mini.store import Store
from mrrec_mini.world import EASY, make_world
from runs import copied_run, made_run, shop

USER = "u000003"


@pytest.fixture(scope="module")
def helper() -> Assistant:
    return Assistant.open(made_run())


@pytest.fixture
def scripted(helper, monkeypatch):
    """scripted(*turns): replace the policy with a script that writes these turns."""

    def write(*turns):
        def actor(model, grammar, temperature):
            assert (model, temperature) == (helper.model, 0.0)  # recommendations are greedy
            return ScriptActor(lambda state: lambda state: turns[len(state.calls)](grammar))

        monkeypatch.setattr(assistant, "LMActor", actor)

    return write


def test_the_worked_case(helper, scripted):
    """The script searches and names the first memory as evidence. The items are those that match its profile best."""
    record = next(e for e in helper.environment.memory.entries(as_of_now(USER)) if e.level == "record")
    scripted(lambda g: g.write_search("look", record.text), lambda g: g.write_final("so", "brown lamp", [0]))
    answer = helper.recommend(USER, "something to read by", k=4)
    assert answer.profile == "brown lamp" and answer.reason == ""
    assert answer.cited == (helper.environment.memory.search(as_of_now(USER), record.text, 3)[0],)
    assert [who for who, _ in answer.transcript] == ["shown", "policy", "shown", "policy"]
    assert "something to read by" in answer.transcript[0][1] and "brown lamp" in answer.transcript[3][1]
    met = {seen.item for seen in helper.environment.dataset.interactions_of(USER)}
    fits = [hit.id for hit in helper.environment.items.search("brown lamp", 60) if hit.id not in met]
    assert [item.id for item, _ in answer.items] == fits[:4]
    assert helper.environment.dataset.category(fits[0]) == "lamp"


def test_an_owned_item_is_never_recommended(helper, scripted):
    """All interactions count, also those after the queries: "now" is later than all of them."""
    dataset = helper.environment.dataset
    for user in dataset.users():
        met = [seen.item for seen in dataset.interactions_of(user)]
        for item in (met[0], met[-1]):
            title = dataset.items[item].title
            scripted(lambda g, title=title: g.write_final("", title, []))
            found = [item.id for item, _ in helper.recommend(user, title, k=len(dataset.items)).items]
            assert found and not set(found) & set(met)
    scripted(lambda g: g.write_final("", title, []))
    assert met[-1] in [item.id for item, _ in helper.recommend("a new one", title, k=60).items]  # the item does match


def test_a_new_user_gets_an_answer_and_the_reason(helper, scripted):
    scripted(lambda g: g.write_final("", "lamp for office", []))
    answer = helper.recommend("nobody knows me", "lamp")
    assert len(answer.items) == 5 and answer.cited == ()
    assert answer.reason == "nothing is remembered of this user"


def test_if_the_policy_breaks_off_the_query_is_the_profile(helper, scripted):
    scripted(lambda g: g.write_search("", " "))
    answer = helper.recommend(USER, "lamp for office")
    assert answer.profile == "lamp for office" and answer.cited == answer.because == ()
    assert answer.reason == "the policy broke off (an empty search), so the query is the profile"
    met = {seen.item for seen in helper.environment.dataset.interactions_of(USER)}
    expected = [(hit.id, hit.score) for hit in best(helper.environment.items, "lamp for office", 5, met)]
    assert [(item.id, score) for item, score in answer.items] == expected and len(expected) == 5


def test_a_query_that_matches_no_item(helper, scripted):
    scripted(lambda g: g.write_final("", "qwrtzu", []))
    answer = helper.recommend("me", "qwrtzu")
    assert answer.items == ()
    assert answer.reason == "nothing is remembered of this user; no item shares anything with the profile"


@pytest.mark.parametrize("text", ["", " ", "\t\n"])
def test_a_blank_query_or_user_is_refused(helper, text):
    with pytest.raises(DataError, match="the query is empty"):
        helper.recommend(USER, text)
    with pytest.raises(DataError, match="the user is empty"):
        helper.recommend(text, "lamp")


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "lamp " * 5000, "lámpara 灯 🪔 ", "of the and", "<end> <m1> </search>"]
)
def test_odd_queries_are_answered(helper, text):
    answer = helper.recommend(USER, text, k=3)
    assert len(answer.items) <= 3 and answer.query == text
    json.dumps(answer.as_dict(), allow_nan=False)


def test_the_same_query_gets_the_same_answer(helper):
    assert helper.recommend(USER, "lamp for office") == helper.recommend(USER, "lamp for office")


def test_the_assistant_has_the_environment_and_policy_of_its_run(helper):
    """Same split and same weights."""
    dataset = Dataset.load(shop())
    assert helper.environment.split == dataset.split(0, *helper.recipe.shares)
    weights = torch.cat([p.flatten() for p in helper.model.parameters()])
    assert torch.equal(weights, torch.cat([p.flatten() for p in Run(made_run()).policy()[0].parameters()]))


def test_an_answer_as_json(helper, scripted):
    scripted(lambda g: g.write_final("because", "brown lamp", []))
    told = json.loads(json.dumps(helper.recommend(USER, "lamp").as_dict()))
    assert list(told) == ["user", "query", "transcript", "because", "cited", "profile", "items", "reason"]
    assert told["because"] == [{"text": "brown", "id": None, "memory": None}] and told["cited"] == []
    assert told["transcript"][1]["by"] == "policy" and "because" in told["transcript"][1]["text"]
    assert {"id", "title", "category", "score"} <= set(told["items"][0])
    scores = [item["score"] for item in told["items"]]
    assert scores == sorted(scores, reverse=True)


def test_an_answer_says_what_was_copied_and_what_is_cited(helper, scripted, tmp_path):
    """The policy copies from one memory, cites another, and invents a word, which only another user has in memory."""
    scripted(lambda g: g.write_search("", "lamp color"), lambda g: g.write_final("", "lamp color red zork", [1]))
    with Store.open(shutil.copy(helper.store.path, tmp_path / "memory.db")) as store:
        store.for_user("you").add("lamp color red zork")
        red = store.for_user("me").add("lamp color red")
        other = store.for_user("me").add("a lamp for my mother")
        answer = replace(helper, store=store).recommend("me", "lamp")
    assert answer.because == (("color red", red), ("zork", None)) and answer.cited == (other,)
    assert answer.because_lines() == [f"color red <- lamp color red [{red.id}]", "not from memory: zork"]
    assert answer.cited_lines() == [f"a lamp for my mother [{other.id}]"]
    told = answer.as_dict()
    copied = {"text": "color red", "id": red.id, "memory": "lamp color red"}
    assert told["because"] == [copied, {"text": "zork", "id": None, "memory": None}]
    assert [one["id"] for one in told["cited"]] == [other.id]


def test_a_folder_without_run_or_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run"):
        Assistant.open(tmp_path)
    run = copied_run(tmp_path)
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
        Assistant.open(run)


# --- what it remembers ---


def test_the_store_holds_the_memory_of_the_run(helper, tmp_path):
    assert helper.store.entry_index().entries == helper.environment.memory.global_entries
    for user in helper.environment.dataset.users():
        wanted = helper.environment.memory.entries(as_of_now(user))
        assert set(helper.store.for_user(user).entry_index().entries) == set(wanted)
    bought = len(helper.environment.dataset.interactions_of(USER))
    assert helper.store.for_user(USER).list(level="record").total == bought == 9  # 6 before the queries, 3 targets
    assistant.make_store(shop(), tmp_path / "memory.db", 0)
    with assistant.Store.open(tmp_path / "memory.db") as made:
        assert made.entry_index().entries == helper.environment.memory.global_entries


def test_rebuilding_the_global_memory_with_the_same_seed_changes_nothing(tmp_path):
    """All queries are moved to the end, since an earlier one hides later purchases. 60 users give global entries."""
    shop = make_world(replace(EASY, users=60, items=240, categories=4, held=1, history=10, queries=1, seed=3))
    now = [replace(query, time=max(met.time for met in shop.interactions) + 1) for query in shop.queries]
    data = Dataset(shop.items, shop.interactions, now, shop.meta).save(tmp_path / "data")
    assistant.make_store(data, tmp_path / "memory.db", 5)
    with assistant.Store.open(tmp_path / "memory.db") as store:
        before = store.entry_index().entries
        assert assistant.rebuild_global(tmp_path / "memory.db", 5, data) == before == store.entry_index().entries != ()


def test_a_purchase_is_remembered_in_the_next_session(tmp_path):
    run = copied_run(tmp_path)
    with Assistant.open(run).store as store:
        assert store.path == run / "memory.db"
        before = set(store.for_user(USER).entry_index().entries)
    helper = Assistant.open(run)
    item = next(iter(helper.environment.dataset.items.values()))
    record = helper.remember(USER, item.id, 5.0, "love that it is small")
    helper.store.close()
    again = Assistant.open(run)
    assert again.store.for_user(USER).get(record.id) == record and record not in before
    with pytest.raises(LookupError, match="no item 'i9999999'"):
        again.remember(USER, "i9999999", 5.0)


def test_a_new_purchase_is_found_and_not_recommended_again(helper, scripted, tmp_path):
    own = Assistant.open(copied_run(tmp_path))
    mine = replace(helper, store=own.store)
    item = helper.environment.dataset.items[helper.environment.items.search("brown lamp", 1)[0].id]
    scripted(lambda g: g.write_search("look", "canary"), lambda g: g.write_final("so", "brown lamp", [0]))
    assert item.id in [one.id for one, _ in mine.recommend("a new one", "lamp").items]
    mine.remember("a new one", item.id, 4.0, "a canary")
    answer = mine.recommend("a new one", "lamp")
    assert "canary" in answer.cited[0].text and item.id not in [one.id for one, _ in answer.items]
    assert mine.store.for_user("a new one").forget() > 0
    assert mine.recommend("a new one", "lamp").cited == ()


def test_a_store_written_by_a_language_model_names_its_records_and_keeps_no_answers(tmp_path, monkeypatch):
    """A script replaces the model. After an interrupted build, the next one reuses the answers and deletes them."""
    asked, fail_at = [], 25

    def scripted_model(model, tokenizer):
        def ask(prompt):
            asked.append(prompt)
            if len(asked) == fail_at:
                raise KeyboardInterrupt
            return '[{"aspect": "price", "value": "luxury", "records": [1]}]' if '"records"' in prompt else "[]"

        return ask

    monkeypatch.setattr(assistant, "load_chat_model", lambda name: (None, None))
    monkeypatch.setattr(assistant, "ask_model", scripted_model)
    path = tmp_path / "memory.db"
    with pytest.raises(KeyboardInterrupt):
        assistant.make_store(shop(), path, 0, "a model")
    assert [file.name for file in tmp_path.iterdir()] == ["memory.db.answers.jsonl"]
    told = assistant.make_store(shop(), path, 0, "a model")
    assert told["reused"] >= fail_at - 1 and told["calls"] + fail_at == len(asked) and told["entries"]["pattern"] > 0
    assert [file.name for file in tmp_path.iterdir()] == ["memory.db"]
    with assistant.Store.open(path) as store:
        patterns = store.for_user(USER).list(level="pattern").rows
        records = {entry.id for entry in store.for_user(USER).list(level="record", limit=999).rows}
        assert patterns and all(set(one.rests_on) <= records and one.rests_on for one in patterns)
