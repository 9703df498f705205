"""Check that sampler, fresh pass and update compute the same policy with a given model, before it is trained.

Flow: between loading a chat model and training it. A row of the sampler has holes: columns in which only other rows
have a token. Some models count these columns. Local attention, under whatever name, then looks back less far; a
state-space model reads the holes. Their log-probabilities are wrong, without an error. So `require_playable` compares
numbers. It plays one made-up episode of the longest length that the rules allow, in a long row and two short rows:

    sampler:      log pi of the tokens that it drew, in a grid with holes
    update:       log pi of the same tokens from `token_logprobs`, where the two short rows share their prompt
    fresh pass:   log pi of the same tokens of one short row alone, without holes

Equations: none. Not from the paper.
"""

from __future__ import annotations

import torch

from mrrec_mini.data import DataError, shorten
from mrrec_mini.datatypes import MemoryEntry
from mrrec_mini.grammar import Grammar
from mrrec_mini.reinforce import token_logprobs
from mrrec_mini.rollout import RolloutConfig
from mrrec_mini.sampler import Sampler

TOLERANCE = 1e-4  # nats
DRAWN = 2  # tokens that are drawn per turn; the others are given
LONG = MemoryEntry("", None, "global", "word 1 " * 200, (), "", 0)  # longer than any text that is shown


def require_playable(model, grammar: Grammar, rules: RolloutConfig) -> None:
    """Raise DataError, with the reason, unless `model` can play and learn the longest episode of `rules`.

    The weights must be in float32: in bfloat16, rounding alone exceeds TOLERANCE. Nothing is drawn from torch's global
    generator. The cost is about that of two training episodes.
    """
    parts = longest_episode(grammar, rules)
    length, text_config = sum(parts), model.config.get_text_config()
    context = getattr(text_config, "max_position_embeddings", None)
    if context is not None and context < length:
        raise _refused(f"its context is {context} tokens, and the longest episode has {length}")
    if getattr(model, "_is_stateful", False):
        raise _refused("a state-space model reads the gaps between rows; only attention can skip them")
    try:
        found = disagreement(model, parts)
    except Exception as error:  # which error a model raises depends on its kind
        raise _refused(f"{type(error).__name__}: {shorten(str(error), 120)}") from error
    if not found <= TOLERANCE:  # also if it is NaN
        names = [
            n for n, v in text_config.to_dict().items() if ("window" in n or "chunk" in n) and v and type(v) is int
        ]
        cause = f"; local attention ({', '.join(names)}) may be the cause" if names else ""
        what = "between a row with gaps and the row alone, and the update would be wrong"
        raise _refused(f"its log-probabilities differ by {found:.1g} nats {what}{cause}")


def longest_episode(grammar: Grammar, rules: RolloutConfig) -> list[int]:
    """Return the largest number of tokens of the prompt, first turn, first reply, second turn, ..., last turn."""
    parts = [len(grammar.prompt(LONG.text, [LONG] * rules.global_k)), rules.turn_tokens]
    for call in range(rules.max_calls):
        parts += [len(grammar.reply([LONG] * rules.memory_k, call * rules.memory_k)), rules.turn_tokens]
    return parts


@torch.no_grad()
def disagreement(model, parts: list[int]) -> float:
    """Return the largest difference between two log-probabilities (nats) of one token, in an episode of `parts`.

    `parts`: the length of the prompt, then of turns and replies in alternation. The short rows have half of each.
    """
    model.eval()
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().num_embeddings

    def given(lengths: list[int]) -> list[list[int]]:
        return [torch.randint(vocabulary, (max(1, n),), generator=generator).tolist() for n in lengths]

    # 1. the sampler plays: `mask` tells which tokens it drew
    long, short = given([parts[0], parts[0] // 2])
    rows = [list(long), list(short), list(short)]
    mask, drawn = [[0] * len(row) for row in rows], [[], [], []]
    sampler = Sampler(model, rows, generator)
    for number, width in enumerate(parts[1:]):
        turn = number % 2 == 0
        width -= DRAWN * turn
        blocks = given([width, width // 2, width // 4])
        sampler.feed(blocks)
        ids, logprobs = sampler.sample((), DRAWN) if turn else ([[], [], []], [[], [], []])
        for i in range(3):
            rows[i] += blocks[i] + ids[i]
            mask[i] += [0] * len(blocks[i]) + [1] * len(ids[i])
            drawn[i] += logprobs[i]
    # 2. the update reads the rows, padded on the right
    padded = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, rows)), batch_first=True, padding_value=-1)
    masks = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, mask)), batch_first=True).bool()
    tokens, masks = padded.to(model.device), masks.to(model.device)
    updated = token_logprobs(model, tokens, masks)[0][masks]
    # 3. a fresh pass reads a short row alone: the logits in one column score the token in the next
    alone = tokens[1, : len(rows[1])]
    log_pi = torch.log_softmax(model(input_ids=alone[None]).logits[0, :-1].float(), -1)
    fresh = log_pi.gather(1, alone[1:, None]).squeeze(1)[masks[1, 1 : len(alone)]]
    sampled = torch.tensor([one for row in drawn for one in row], device=model.device)
    of_short = torch.tensor(drawn[1], device=model.device)
    return float(torch.cat([(updated - sampled).abs(), (fresh - of_short).abs()]).max())


def _refused(why: str) -> DataError:
    return DataError(f"the model cannot be trained here: {why}; use another model")
