"""MR.Rec, small enough to read: a language model learns what to look up in a person's memory before it recommends.

This is the table of contents, in the order in which data flows. A tool stands before the first file that uses it (the
index before memory, the metrics before the index that they tune). Each file explains one idea and imports only files
named before it, or files in `models/`. A system imports no other system; no file outside `app/`, the wing, imports the
wing. `make map` writes the README's map and `docs/map.md` from this list and from the first line of each file.

basics
    datatypes, files, signals, typed

data
    data, world, sources/cleaning, sources/rows, sources/interactions, sources/amazon, sources/c4, sources/recbole,
    sources/personalwab, sources/minionerec, sources/table, earlier_queries

retrieval
    metrics, bm25, dense, hybrid, index_on_disk, prior, item_index

memory
    memory, title_words, others, summarize, summarize_lm, export_lines, store

rollout
    grammar, constrain, sampler, chat_grammar, rollout

reward, update
    evidence, reward, environment, reinforce, playable, scripts, own_text, imitation, filtered, grpo, turn_credit,
    checkpoint, muon, train, raft

systems
    systems/popularity, systems/neighbours, systems/query_text, systems/blair, systems/rec_r1

evaluation
    evaluate, recipe, rivals, environment_on_disk, run

models
    models/pretrained, models/causal_lm, models/text_encoder

the wing
    app/student_formulas, app/training, app/counterfactual, app/tables, app/processes, app/terminal, app/assistant,
    app/chat_session, app/demo, app/jobs, app/reproduce, app/report, app/walkthrough, app/cli/shell, app/cli/data,
    app/cli/memory, app/cli/runs, app/cli/studies, app/cli
"""

from importlib import import_module

__version__ = "0.1.0"

# Public name -> its module, which is imported at first use, so that `import mrrec_mini` does not import torch.
_HOME = {
    "Item": "datatypes",
    "Interaction": "datatypes",
    "Query": "datatypes",
    "MemoryEntry": "datatypes",
    "Episode": "datatypes",
    "Dataset": "data",
    "WorldConfig": "world",
    "make_world": "world",
    "HybridIndex": "hybrid",
}

__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
