"""Likelihood of texts under a language model: whole-sequence passes outside any environment."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from textgym.agents.offline.data import Demonstration
from textgym.lm.agreement import check_whole_passes
from textgym.lm.behaviour import Behaviour
from textgym.lm.files.loading import context_length, embedding_rows, is_encoder_decoder
from textgym.lm.trunk import Trunk


def log_likelihood(trunk: Trunk, shown: Sequence[Demonstration]) -> tuple[Tensor, Tensor]:
    """Compute the log-probabilities of the response tokens of ``n`` texts, end token included, in one pass.

    Args:
        trunk: the model, not necessarily that of an environment.
        shown: prompts and responses; each prompt has at least one token.

    Returns:
        ``[n, T]`` log-probabilities, 0 beyond each response, and ``[n, T]`` bool, True for response tokens.
    """
    input_ids, attention_mask, prompt_length = _aligned(shown, trunk.model.device)
    valid = attention_mask[:, prompt_length:].bool()
    states = trunk.hidden_states(input_ids, attention_mask, prompt_length)[:, :-1]
    plain = Behaviour(embedding_rows(trunk.model))
    scores = plain.score(trunk.head, states, input_ids[:, prompt_length:], valid)
    return scores.log_probs, valid


def _aligned(shown: Sequence[Demonstration], device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Return ids and mask ``[n, P+T]``, prompts padded on the left and responses on the right, and ``P``."""
    prompt_length = max(len(one.prompt.ids) for one in shown)
    width = prompt_length + max(len(one.response_ids) for one in shown)
    input_ids = torch.zeros(len(shown), width, dtype=torch.long)  # padded with token 0, which the mask excludes
    attention_mask = torch.zeros_like(input_ids)
    for row, one in enumerate(shown):
        begin, end = prompt_length - len(one.prompt.ids), prompt_length + len(one.response_ids)
        input_ids[row, begin:end] = torch.tensor([*one.prompt.ids, *one.response_ids])
        attention_mask[row, begin:end] = 1
    return input_ids.to(device), attention_mask.to(device), prompt_length


def check_causal(trunk: Trunk, shown: Sequence[Demonstration]) -> None:
    """Check that the model predicts each token from earlier ones alone, at the length of the longest text.

    Raises:
        ValueError: it does not; see :func:`textgym.lm.agreement.check_whole_passes`.
    """
    longest = max(shown, key=lambda one: one.n_tokens)
    check_whole_passes(trunk, longest.n_tokens, len(longest.prompt.ids))


def check_readable(model: PreTrainedModel, shown: Sequence[Demonstration], what: str) -> None:
    """Check that every text fits into the model's context and vocabulary; ``what`` names the texts in errors.

    Raises:
        ValueError: a text does not fit; rows are counted from 1.
    """
    limit, tokens, apart = context_length(model), embedding_rows(model), is_encoder_decoder(model)
    for number, one in enumerate(shown, start=1):
        if not one.prompt.ids or not one.response_ids:
            raise ValueError(f"{what} {number}: prompt or response has no tokens")
        # The decoder of an encoder–decoder reads a token before the response.
        longest = max(len(one.prompt.ids), len(one.response_ids) + 1) if apart else one.n_tokens
        if limit is not None and longest > limit:
            raise ValueError(f"{what} {number} has {longest} tokens, more than the model's context of {limit}")
        if max(*one.prompt.ids, *one.response_ids) >= tokens:
            raise ValueError(
                f"{what} {number} holds tokens beyond the {tokens} that the model embeds; encode it with the model's "
                "own tokenizer"
            )
