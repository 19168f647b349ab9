"""Perplexity of texts under a model: of what a policy wrote under a fixed one, and of references under the policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from textgym.agents.offline.data import Demonstration
from textgym.agents.offline.likelihood import log_likelihood
from textgym.evaluation.measured import Measured, ratio_over_prompts
from textgym.lm.files.loading import context_length, is_encoder_decoder
from textgym.lm.trunk import Trunk
from textgym.prompts import cut_left, encode_prompt
from textgym.tokenization import encode_reply
from textgym.types import FloatArray, IntArray, Prompt

BATCH = 32
OF_GENERATIONS = "per token of the fixed model, of what the policy wrote; interval over prompts"
OF_REFERENCES = "per token, of the references under the policy; interval over prompts"


def perplexity(
    trunk: Trunk,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    about: str = OF_GENERATIONS,
    encoded: bool = False,
) -> Measured:
    """Compute exp(Σ −log p / Σ tokens) of texts, each behind its prompt.

    Only the texts count: neither the prompts nor an end token, so an empty text adds nothing. A prompt that is too
    long for the model's context loses its beginning; so does a text that is longer than the context by itself lose its
    end. Perplexities under models with other tokenizers are not comparable.

    Args:
        trunk: the model.
        tokenizer: the model's own.
        prompts: ``[n]`` the prompt of each text.
        texts: ``[n]`` the texts.
        about: what they are.
        encoded: the prompts' tokens are the model's; otherwise they are encoded anew from their content.
    """
    closing, limit = is_encoder_decoder(trunk.model), context_length(trunk.model)
    shown: dict[int, Demonstration] = {}
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        ids = prompt.ids if encoded else encode_prompt({"prompt": prompt.content}, tokenizer, closing=closing).ids
        response = encode_reply(tokenizer, prompt.content, text, closing=closing) if text else ()
        if response and limit is not None:
            response = response[: limit - 1]
            ids = cut_left(ids, limit if closing else limit - len(response), tokenizer)
        if response:
            shown[row] = Demonstration(Prompt(prompt.content, prompt.text, tuple(ids)), tuple(response))
    loss, count = np.zeros(len(texts)), np.zeros(len(texts))
    rows = list(shown)
    loss[rows], count[rows] = losses(trunk, list(shown.values()))
    keys = [prompt.text for prompt in prompts]
    return ratio_over_prompts(loss, count, keys, about, exponential=True)


@torch.no_grad()
def losses(trunk: Trunk, shown: Sequence[Demonstration]) -> tuple[FloatArray, IntArray]:
    """Compute −log p of each response in nats, and its number of tokens: ``[n]`` each."""
    loss, count = np.zeros(len(shown)), np.zeros(len(shown), np.int64)
    for start in range(0, len(shown), BATCH):
        log_probs, valid = log_likelihood(trunk, shown[start : start + BATCH])
        loss[start : start + BATCH] = -log_probs.double().sum(1).cpu().numpy()
        count[start : start + BATCH] = valid.sum(1).cpu().numpy()
    return loss, count
