"""MR.Rec, small enough to read: a language model learns what to look up in a person's memory before it recommends.

The table of contents, in the order in which data flows; a tool stands before its first user (the index before memory,
the metrics before the index that is tuned by them, the log-probabilities of `reinforce` before the warm start). Each
file is one idea and imports only files named before it, or one of `models/`; a system imports no other system. The
README's map is made from this list and from the first line of each file.

wire
    records

data
    data, world, sources

retrieval
    metrics, bm25, dense, hybrid, mapped

memory
    memory, summarize, store

rollout
    prompts, constrain, sampler, chat, rollout

reward, update
    reward, environment, reinforce, warmstart, grpo, formulas, credit, checkpoint, train

systems
    systems/popularity, systems/neighbours, systems/query_text, systems/blair, systems/rec_r1

evaluation and use
    evaluate, counterfactual, recipe, assistant, session, demo, experiments, reproduce, report, walkthrough, cli

what papers stand on
    models/causal_lm, models/text_encoder
"""

from importlib import import_module

__version__ = "0.1.0"

# public name -> its module. Loaded at first use: importing the package must not cost an import of torch.
_HOME = {
    "Item": "records",
    "Interaction": "records",
    "Query": "records",
    "MemoryEntry": "records",
    "Episode": "records",
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
