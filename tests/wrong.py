"""Plausible but wrong versions of functions; test_reinforce, _grpo, _rollout or _chat_grammar must reject each version.

Each has been a real bug somewhere. If the tests accept a version, they are too weak.
"""

import json

import torch
from tokenizers import Tokenizer

from mrrec_mini.grpo import importance_ratio, length_weights
from mrrec_mini.reinforce import _shared_prompts, token_logprobs


def _scored(logits, tokens, mask, temperature):
    log_pi = torch.log_softmax(logits.float() / temperature, -1)
    return log_pi.gather(2, tokens.clamp_min(0)[..., None]).squeeze(2) * mask


def _group_mean(values, groups):
    return torch.stack([values[groups == g].mean() for g in groups])


# --- log-probabilities: (model, tokens, mask, temperature) -> (B, T) ----------------------------------------------


def memory_in_the_loss(model, tokens, mask, temperature):
    """Scores all tokens after the first sampled token, so retrieved tokens count as the policy's own."""
    return token_logprobs(model, tokens, (mask.cumsum(1) > 0) & (tokens >= 0), temperature)[0]


def logits_not_shifted(model, tokens, mask, temperature):
    """Scores token t by the logits of column t, which have already seen token t."""
    return _scored(model(tokens.clamp_min(0)).logits, tokens, mask, temperature)


def logits_shifted_twice(model, tokens, mask, temperature):
    """Scores token t by the logits of column t - 2."""
    return _scored(model(tokens.clamp_min(0)).logits.roll(2, 1), tokens, mask, temperature)


def temperature_forgotten(model, tokens, mask, temperature):
    """Scores at temperature 1 the tokens that were sampled at another temperature."""
    return token_logprobs(model, tokens, mask, 1.0)[0]


def memory_not_attended(model, tokens, mask, temperature):
    """Uses the loss mask as attention mask too, so later tokens cannot attend to retrieved memory."""
    seen = mask | (mask.cumsum(1) == 0)
    logits = model(tokens.clamp_min(0), attention_mask=seen.long()).logits.roll(1, 1)
    return _scored(logits, tokens, mask, temperature)


def padded_on_the_left(model, tokens, mask, temperature):
    """Pads on the left without an attention mask, so every row but the longest attends to padding."""
    shifts = [int((row < 0).sum()) for row in tokens]
    moved = torch.stack([row.roll(n) for row, n in zip(tokens, shifts, strict=True)])
    logits = model(moved.clamp_min(0)).logits
    back = torch.stack([row.roll(-n, 0) for row, n in zip(logits, shifts, strict=True)])
    return _scored(back.roll(1, 1), tokens, mask, temperature)


def end_not_trained(model, tokens, mask, temperature):
    """Treats the last sampled token of a row, its end token, as padding."""
    later = mask.flip(1).cumsum(1).flip(1)  # number of sampled tokens from this column on
    return token_logprobs(model, tokens, mask & (later > 1), temperature)[0]


def zero_is_padding(model, tokens, mask, temperature):
    """Treats every token 0 as padding, even if the policy wrote it."""
    return token_logprobs(model, tokens, mask & (tokens != 0), temperature)[0]


def divided_behind_the_softmax(model, tokens, mask, temperature):
    """Divides by T after the softmax: the probabilities of log pi / T do not sum to 1."""
    return token_logprobs(model, tokens, mask, 1.0)[0] / temperature


LOGPROBS = (
    *(memory_in_the_loss, logits_not_shifted, logits_shifted_twice, temperature_forgotten, memory_not_attended),
    *(padded_on_the_left, end_not_trained, zero_is_padding, divided_behind_the_softmax),
)


# --- the prompt of a group, computed once: (model, prompts, length) -> (cache, seen, length) -----------------------


def prompt_without_gradient(model, prompts, length):
    """Computes the prompt without gradient, as the sampler does, so no gradient flows through the prompt."""
    with torch.no_grad():
        return _shared_prompts(model, prompts, length)


def prompt_of_a_neighbour(model, prompts, length):
    """Lets each episode continue the prompt of the row before it."""
    cache, seen, length = _shared_prompts(model, prompts, length)
    if cache is not None:
        cache.batch_select_indices(torch.arange(len(prompts)).roll(1))
    return cache, seen, length


def holes_of_the_prompt_seen(model, prompts, length):
    """Attends to the padding after a short prompt."""
    cache, seen, length = _shared_prompts(model, prompts, length)
    return cache, torch.ones_like(seen), length


SHARED_PROMPTS = (prompt_without_gradient, prompt_of_a_neighbour, holes_of_the_prompt_seen)


# --- changes of sampled ids: (tokenizer, ids) -> ids ---------------------------------------------------------


def decoded_and_encoded(tokenizer, ids):
    """Decodes and encodes all ids: control tokens turn into bytes, and words get their usual tokens."""
    return tokenizer.encode(tokenizer.decode(ids))


def words_spelled_anew(tokenizer, ids):
    """Keeps the control tokens, but decodes and encodes the text between them again."""
    kept, text = [], []
    for i in [*ids, None]:
        if i is not None and i not in tokenizer.control.values():
            text.append(i)
            continue
        kept += tokenizer.encode(tokenizer.decode(text)) + ([] if i is None else [i])
        text = []
    return kept


IDS = (decoded_and_encoded, words_spelled_anew)


# --- baselines: (rewards, groups, kind) -> (B,) -------------------------------------------------------------------


def mean_of_the_batch(rewards, groups, kind):
    """Mixes the groups: uses one baseline for all queries."""
    return rewards.mean().expand_as(rewards) if kind != "none" else torch.zeros_like(rewards)


def leave_none_out(rewards, groups, kind):
    """A leave-one-out mean that includes the episode's own reward."""
    return _group_mean(rewards, groups) if kind != "none" else torch.zeros_like(rewards)


def others_over_n(rewards, groups, kind):
    """A leave-one-out mean that divides the sum of the other rewards by n instead of n - 1."""
    if kind != "leave_one_out":
        return _group_mean(rewards, groups) if kind == "group" else torch.zeros_like(rewards)
    count = torch.stack([(groups == g).sum() for g in groups])
    return _group_mean(rewards, groups) - rewards / count


def groups_by_position(rewards, groups, kind):
    """Assumes that the rows of a group are adjacent and all groups have the same size."""
    size = int((groups == groups[0]).sum())
    if kind == "none" or len(rewards) % size:
        return torch.zeros_like(rewards)
    blocks = rewards.reshape(-1, size)
    total = blocks.sum(1, keepdim=True)
    return (total / size if kind == "group" else (total - blocks) / (size - 1)).expand_as(blocks).reshape(-1)


BASELINES = (mean_of_the_batch, leave_none_out, others_over_n, groups_by_position)


# --- REINFORCE losses: (logprobs, advantages, mask, episodes) -> scalar -------------------------------------------


def sign_of_ascent(logprobs, advantages, mask, episodes):
    """Has the wrong sign: minimises the objective."""
    return (advantages[:, None] * logprobs * mask).sum() / episodes


def mean_over_tokens(logprobs, advantages, mask, episodes):
    """Divides by the number of all tokens, so long episodes reduce the weight of every token."""
    return -(advantages[:, None] * logprobs * mask).sum() / mask.sum()


def mean_over_each_episode(logprobs, advantages, mask, episodes):
    """Averages over each episode's own tokens, so an action in a long episode counts less."""
    return -(advantages[:, None] * logprobs * mask / mask.sum(1, keepdim=True)).sum() / episodes


def mean_of_the_micro_batch(logprobs, advantages, mask, episodes):
    """Divides by the rows of the micro-batch, so the losses do not add up to the loss of the batch."""
    return -(advantages[:, None] * logprobs * mask).sum() / len(logprobs)


def loss_without_mask(logprobs, advantages, mask, episodes):
    """Includes prompt, memory and padding in the sum."""
    return -(advantages[:, None] * logprobs).sum() / episodes


REINFORCE = (sign_of_ascent, mean_over_tokens, mean_over_each_episode, mean_of_the_micro_batch, loss_without_mask)


# --- advantages: (rewards, groups, sigma) -> (B,) -----------------------------------------------------------------


def _advantages(rewards, groups, sigma, mean, ddof, eps):
    centred = rewards - mean(rewards, groups)
    if sigma == "none":
        return centred
    return centred / (torch.stack([rewards[groups == g].std(correction=ddof) for g in groups]) + eps)


def sigmas_exchanged(rewards, groups, sigma):
    """Exchanges the two divisors, n and n - 1."""
    return _advantages(rewards, groups, sigma, _group_mean, 0 if sigma == "group" else 1, 1e-4)


def tiny_epsilon(rewards, groups, sigma):
    """Adds only 1e-8 to the denominator, so rewards that differ only by rounding give a full step."""
    return _advantages(rewards, groups, sigma, _group_mean, 1 if sigma == "group" else 0, 1e-8)


def groups_mixed(rewards, groups, sigma):
    """Subtracts the mean of the whole batch instead of the group's mean."""
    ddof = 1 if sigma == "group" else 0
    return _advantages(rewards, groups, sigma, lambda r, _: r.mean().expand_as(r), ddof, 1e-4)


def sigma_of_the_batch(rewards, groups, sigma):
    """Subtracts the group's mean, but divides by the standard deviation of the whole batch."""
    centred = rewards - _group_mean(rewards, groups)
    return centred if sigma == "none" else centred / (rewards.std(correction=1 if sigma == "group" else 0) + 1e-4)


def variance_for_sigma(rewards, groups, sigma):
    """Divides by the variance instead of sigma."""
    centred = rewards - _group_mean(rewards, groups)
    if sigma == "none":
        return centred
    return centred / (torch.stack([rewards[groups == g].var(correction=int(sigma == "group")) for g in groups]) + 1e-4)


ADVANTAGES = (sigmas_exchanged, tiny_epsilon, groups_mixed, sigma_of_the_batch, variance_for_sigma)


# --- the ratio: (logprobs, old, mask, kind) -> (B, T) or (B, 1) ----------------------------------------------------


def _log_ratio_of_episode(logprobs, old, mask, divisor):
    return torch.exp(((logprobs - old) * mask).sum(1, keepdim=True) / divisor)


def ratio_of_the_other_kind(logprobs, old, mask, kind):
    """Exchanges the kinds `token` and `sequence`."""
    return importance_ratio(logprobs, old, mask, {"token": "sequence", "sequence": "token"}[kind])


def product_of_the_episode(logprobs, old, mask, kind):
    """Takes the product of the ratios without the root: 30 ratios of 1.05 make 4.3, beyond any clip range."""
    return (
        importance_ratio(logprobs, old, mask, kind)
        if kind == "token"
        else _log_ratio_of_episode(logprobs, old, mask, 1)
    )


def ratio_over_the_width(logprobs, old, mask, kind):
    """Divides the sum of log-ratios by the width of the tensor, so the ratio of a short episode stays near 1."""
    if kind == "token":
        return importance_ratio(logprobs, old, mask, kind)
    return _log_ratio_of_episode(logprobs, old, mask, mask.shape[1])


def ratio_of_the_masked_too(logprobs, old, mask, kind):
    """Includes prompt, memory and padding in the episode's mean."""
    return importance_ratio(logprobs, old, torch.ones_like(mask) if kind == "sequence" else mask, kind)


def mean_of_ratios(logprobs, old, mask, kind):
    """Takes the arithmetic mean of the ratios instead of the geometric mean."""
    ratio = torch.exp(logprobs - old)
    return ratio if kind == "token" else (ratio * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)


def ratio_upside_down(logprobs, old, mask, kind):
    """Computes pi_old / pi instead of pi / pi_old."""
    return importance_ratio(old, logprobs, mask, kind)


RATIOS = (
    *(ratio_of_the_other_kind, product_of_the_episode, ratio_over_the_width),
    *(ratio_of_the_masked_too, mean_of_ratios, ratio_upside_down),
)


# --- the clipped surrogate: (ratio, advantages, clip) -> (B, T) ---------------------------------------------------


def _both(ratio, advantages, clip):
    return ratio * advantages[:, None], ratio.clamp(1 - clip[0], 1 + clip[1]) * advantages[:, None]


def min_missing(*args):
    """Keeps only the clipped term, so a ratio that moved in the wrong direction gets no gradient to move back."""
    return _both(*args)[1]


def never_clipped(*args):
    """Keeps only the unclipped term."""
    return _both(*args)[0]


def max_for_min(*args):
    """Takes the larger of the two terms; PPO takes the smaller."""
    return torch.maximum(*_both(*args))


def one_epsilon(ratio, advantages, clip):
    """Uses the lower clip bound on both sides."""
    return torch.minimum(*_both(ratio, advantages, (clip[0], clip[0])))


def bounds_exchanged(ratio, advantages, clip):
    """Exchanges the lower and the upper clip bound."""
    return torch.minimum(*_both(ratio, advantages, clip[::-1]))


SURROGATES = (min_missing, never_clipped, max_for_min, one_epsilon, bounds_exchanged)


# --- the KL term: (logprobs, reference, ratio) -> (B, T) ----------------------------------------------------------


def k3_without_ratio(logprobs, reference, ratio):
    """Omits the ratio: the value is unbiased, but its gradient is that of KL(reference || policy)."""
    return torch.exp(reference - logprobs) - (reference - logprobs) - 1


def k1(logprobs, reference, ratio):
    """Uses log pi - log pi_ref: its mean is right, but the mean of its gradient is 0."""
    return logprobs - reference


def other_direction(logprobs, reference, ratio):
    """Computes the difference d with the wrong sign."""
    d = logprobs - reference
    return (torch.exp(d) - d - 1) * ratio


def minus_one_missing(logprobs, reference, ratio):
    """Computes exp(d) - d without the - 1."""
    d = reference - logprobs
    return (torch.exp(d) - d) * ratio


def ratio_without_gradient(logprobs, reference, ratio):
    """Uses the ratio as a weight without gradient; on policy this weight is 1 and corrects nothing."""
    d = reference - logprobs
    return (torch.exp(d) - d - 1) * ratio.detach()


KLS = (k3_without_ratio, k1, other_direction, minus_one_missing, ratio_without_gradient)


# --- the reference's log-probabilities: (model, tokens, mask, temperature) -> (B, T) -------------------------------


def reference_one_token_late(model, tokens, mask, temperature):
    """Shifts the reference's log-probabilities by one token against the policy's."""
    return token_logprobs(model, tokens, mask, temperature)[0].roll(1, 1) * mask


REFERENCES = (temperature_forgotten, divided_behind_the_softmax, reference_one_token_late)


# --- length rules: (mask, rule, episodes, tokens, max_tokens) -> (b, T) -------------------------------------------


def tokens_of_the_micro_batch(mask, rule, episodes, tokens, max_tokens):
    """Divides by the tokens of the micro-batch instead of the batch."""
    return length_weights(mask, rule, episodes, int(mask.sum()), max_tokens)


def padding_counted(mask, rule, episodes, tokens, max_tokens):
    """Divides each episode by the width of the tensor instead of by its number of sampled tokens."""
    return (
        mask / mask.shape[1] / episodes
        if rule == "sequence"
        else length_weights(mask, rule, episodes, tokens, max_tokens)
    )


def rules_exchanged(mask, rule, episodes, tokens, max_tokens):
    """Exchanges the rules `token` and `sequence`."""
    other = {"token": "sequence", "sequence": "token", "constant": "constant"}[rule]
    return length_weights(mask, other, episodes, tokens, max_tokens)


def constant_of_one(mask, rule, episodes, tokens, max_tokens):
    """Uses 1 instead of the constant `max_tokens`."""
    return length_weights(mask, rule, episodes, tokens, 1)


LENGTHS = (tokens_of_the_micro_batch, padding_counted, rules_exchanged, constant_of_one)


# --- chat: (grammar, query text) -> ids of the prompt --------------------------------------------------------------


def text_through_the_template(grammar, text):
    """Renders the whole conversation with `apply_chat_template`, as is common, then encodes the result."""
    talk = [{"role": "system", "content": "Look up."}, {"role": "user", "content": f"Wish: {text}"}]
    rendered = grammar.tokenizer.inner.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    return grammar.tokenizer.encode_template(rendered)


def text_encoded_as_template(grammar, text):
    """Encodes the query text separately from the template, but lets it produce control tokens."""
    return [*grammar._head, *grammar.tokenizer.encode_template(text), *grammar._ask]


def only_special_tokens_split(grammar, text):
    """Encodes special tokens as text, but added tokens that are not special (`</think>`) are still produced."""
    content = json.loads(grammar.tokenizer.inner.backend_tokenizer.to_str())
    for token in content["added_tokens"]:
        token["special"] = "think" not in token["content"]
    backend = Tokenizer.from_str(json.dumps(content))
    backend.encode_special_tokens = True
    return [*grammar._head, *backend.encode(text, add_special_tokens=False).ids, *grammar._ask]


CHAT_PROMPTS = (text_through_the_template, text_encoded_as_template, only_special_tokens_split)
