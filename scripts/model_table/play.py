"""Log-probabilities of a model as plain transformers calls give them, as it acts, and as it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from scripts.model_table.tiny import BOS, EOS, PAD, VOCABULARY
from textgym.lm.agreement import make_decoder
from textgym.lm.behaviour import Behaviour
from textgym.lm.decoding import Decoder
from textgym.lm.files.loading import accepted
from textgym.lm.trunk import Trunk
from textgym.types import IntArray, MaskArray

P, T = 8, 24
ROWS = 3
RESTART = 10
"""The step at which the second row begins another episode."""


@dataclass(frozen=True)
class Episode:
    """Token ids of a prompt and of its response."""

    prompt: list[int]
    response: list[int]


def episodes(seed: int = 0) -> list[Episode]:
    """Draw an episode for each row, and a fourth that follows the second's; the first fills the width."""
    rng = np.random.default_rng(seed)
    sizes = ((P, T), (3, RESTART), (5, T), (6, T - RESTART))
    return [
        Episode(*(rng.integers(EOS + 1, VOCABULARY, n).tolist() for n in (prompt, response)))
        for prompt, response in sizes
    ]


def with_padding_token(played: list[Episode]) -> list[Episode]:
    """Put the padding token among the tokens of each response, where it is a token like any other."""
    return [Episode(one.prompt, [*one.response[:3], PAD, *one.response[4:]]) for one in played]


def of_tokens(log_probs: Tensor, episode: Episode) -> Tensor:
    """Pick ``[T]`` log-probabilities of an episode's own tokens from ``[T, V]``."""
    return log_probs.gather(1, torch.tensor(episode.response)[:, None])[:, 0]


# --- plain calls: one row, no padding, no cache --------------------------------------------------------------------


@torch.no_grad()
def plain_logits(model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """Return ``[len(response) + 1, V]`` logits after the prompt and after each token, from one pass."""
    ids = torch.tensor([prompt if model.config.is_encoder_decoder else [*prompt, *response]])
    arguments = accepted(model, attention_mask=torch.ones_like(ids), use_cache=False)
    if model.config.is_encoder_decoder:
        begun = torch.tensor([[start_token(model), *response]])
        arguments |= {"decoder_input_ids": begun, "decoder_attention_mask": torch.ones_like(begun)}
    logits: Tensor = model(input_ids=ids, **arguments).logits[0, -len(response) - 1 :, :VOCABULARY]
    return logits


def start_token(model: PreTrainedModel) -> int:
    """Return what a decoder reads before the first token of a response."""
    return int(model.generation_config.decoder_start_token_id)


def whole_log_probs(model: PreTrainedModel, episode: Episode) -> Tensor:
    """Return ``[T, V]`` before each token, all from one pass over the whole episode."""
    return plain_logits(model, episode.prompt, episode.response)[:-1].log_softmax(-1)


def prefix_log_probs(model: PreTrainedModel, episode: Episode) -> Tensor:
    """Return ``[T, V]`` before each token, each from a pass over the tokens before it alone."""
    grown = [plain_logits(model, episode.prompt, episode.response[:t])[-1] for t in range(len(episode.response))]
    return torch.stack(grown).log_softmax(-1)


# --- textgym's passes ------------------------------------------------------------------------------------------------


def acting_log_probs(model: PreTrainedModel, played: list[Episode]) -> list[Tensor]:
    """Return ``[T, V]`` of each episode; in a decoder's three rows, the second of which begins the fourth."""
    decoder = make_decoder(model, ROWS, P + T, P)
    given: list[list[Tensor]] = [[] for _ in played]
    for step in range(T):
        shown = [(ROWS, step - RESTART) if row == 1 and step >= RESTART else (row, step) for row in range(ROWS)]
        log_probs = _logits(decoder, [(played[which], elapsed) for which, elapsed in shown]).log_softmax(-1)
        for (which, _), row in zip(shown, log_probs, strict=True):
            given[which].append(row)
    return [torch.stack(one) for one in given]


def training_log_probs(model: PreTrainedModel, played: list[Episode]) -> list[Tensor]:
    """Return ``[T]`` of each episode's tokens, as training computes them of a padded batch."""
    input_ids, attention_mask = map(torch.from_numpy, _observations([(one, len(one.response)) for one in played]))
    with torch.no_grad():
        trunk = Trunk(model)
        states = trunk.hidden_states(input_ids, attention_mask, P)[:, :-1]
        valid = attention_mask[:, P:].bool()
        scores = Behaviour(VOCABULARY).score(trunk.head, states, input_ids[:, P:], valid)
    return [row[: len(one.response)] for row, one in zip(scores.log_probs, played, strict=True)]


def _logits(decoder: Decoder, shown: list[tuple[Episode, int]]) -> Tensor:
    ids, mask = _observations(shown)
    return decoder.logits(ids, mask, np.arange(len(shown)))[:, :VOCABULARY]


def _observations(shown: list[tuple[Episode, int]]) -> tuple[IntArray, MaskArray]:
    """Return token ids and mask of episodes of which so many tokens are written, ``[n, P+T]`` each."""
    ids: IntArray = np.full((len(shown), P + T), PAD, np.int64)
    mask: MaskArray = np.zeros(ids.shape, np.int8)
    for row, (episode, elapsed) in enumerate(shown):
        tokens = [*episode.prompt, *episode.response[:elapsed]]
        start = P - len(episode.prompt)
        ids[row, start : start + len(tokens)], mask[row, start : start + len(tokens)] = tokens, 1
    return ids, mask


# --- greedy ----------------------------------------------------------------------------------------------------------


def greedy_plain(model: PreTrainedModel, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """Return the most probable tokens by plain passes, and by how many nats each leads the next."""
    tokens: list[int] = []
    leads = []
    for _ in range(count):
        best = plain_logits(model, prompt, tokens)[-1].topk(2)
        leads.append(float(best.values[0] - best.values[1]))
        tokens.append(int(best.indices[0]))
    return tokens, leads


def greedy_acting(model: PreTrainedModel, prompt: list[int], count: int) -> list[int]:
    """Return the most probable tokens by a decoder of one row."""
    decoder = make_decoder(model, 1, P + T, P)
    tokens: list[int] = []
    for step in range(count):
        tokens.append(int(_logits(decoder, [(Episode(prompt, tokens), step)]).argmax()))
    return tokens


def greedy_generate(model: PreTrainedModel, prompt: list[int], count: int, use_cache: bool = True) -> list[int]:
    """Return the most probable tokens by ``generate``, which no processor changes and no token ends."""
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=count,
        use_cache=use_cache,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=None,
        decoder_start_token_id=start_token(model) if model.config.is_encoder_decoder else None,
    )
    ids = torch.tensor([prompt])
    generate: Any = model.generate
    before, model.generation_config = model.generation_config, settings
    try:
        given: list[int] = generate(ids, attention_mask=torch.ones_like(ids))[0].tolist()
    finally:
        model.generation_config = before
    return given[1:] if model.config.is_encoder_decoder else given[len(prompt) :]


def greedy_uncached(model: PreTrainedModel, prompt: list[int], count: int) -> list[int]:
    """Return what :func:`greedy_generate` does where the model keeps no cache."""
    return greedy_generate(model, prompt, count, use_cache=False)
