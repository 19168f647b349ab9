"""Acting: a key-value cache and random streams, held by whoever plays."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from textgym.lm.agreement import make_decoder
from textgym.lm.behaviour import Behaviour, draw, kept_ids
from textgym.types import BoolArray, Float32Array, FloatArray, IntArray

UNPLANNED = 2**63
"""Episodes that nobody numbered are numbered from here on, so that they share no stream with those of a plan."""


class Acted(NamedTuple):
    """One decision per row.

    Attributes:
        actions: ``[N]`` tokens; rows that were not asked get one that the task admits.
        log_probs: ``[N]`` under the behaviour distribution; 0 for rows that were not asked.
        kept: for each asked row ``[n, M]`` the ids that the behaviour distribution kept, -1 for none; None where
            it keeps all.
    """

    actions: IntArray
    log_probs: Float32Array
    kept: NDArray[np.int32] | None


def episode_uniforms(seed: int, episode: int, size: int) -> FloatArray:
    """``[size]`` uniforms in [0, 1): one for each position of an episode.

    Keyed by (seed, episode) and drawn by position, so an episode's tokens depend on neither its batch mates nor the
    number of slots nor an evaluation in between.
    """
    key = np.array([seed, episode], np.uint64)  # a list of large numbers would be rounded to floats
    uniforms: FloatArray = np.random.Generator(np.random.Philox(key=key)).random(size)
    return uniforms


class RowStreams:
    """The random streams of the episodes that the rows play now.

    Args:
        seed: of all streams.
        n_rows: ``N``.
        horizon: ``T``.
    """

    def __init__(self, seed: int, n_rows: int, horizon: int) -> None:
        self.seed = seed
        # One more than there are tokens: a response that is already complete may be asked about, too.
        self._uniforms: FloatArray = np.zeros((n_rows, horizon + 1))
        self._elapsed: IntArray = np.full(n_rows, horizon + 1)  # at the last draw; at first, any is a beginning
        self._unplanned = count(UNPLANNED)

    def begin(self, rows: Iterable[int], episodes: Iterable[int]) -> None:
        """Says which episodes begin in which rows."""
        for row, episode in zip(rows, episodes, strict=True):
            self._uniforms[row] = episode_uniforms(self.seed, int(episode), self._uniforms.shape[1])
            self._elapsed[row] = -1

    def draw(self, rows: IntArray, elapsed: IntArray) -> FloatArray:
        """``[n]`` uniforms for responses of ``elapsed`` tokens.

        A row whose response has not grown since its last draw plays another episode than then.
        """
        anew = rows[elapsed <= self._elapsed[rows]]
        self.begin(anew, (next(self._unplanned) for _ in anew))
        self._elapsed[rows] = elapsed
        uniforms: FloatArray = self._uniforms[rows, elapsed]
        return uniforms


class Session:
    """Plays one set of rows: collector, ``predict`` and each evaluation hold their own.

    Args:
        model: the policy's language model.
        behaviour: the distribution to sample from; the model of its mask, if any, gets a cache of its own.
        n_rows: ``N``.
        width: ``P + T``.
        prompt_length: ``P``.
        seed: of the random streams.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        behaviour: Behaviour,
        n_rows: int,
        width: int,
        prompt_length: int,
        seed: int,
    ) -> None:
        self.decoder = make_decoder(model, n_rows, width, prompt_length)
        mask = behaviour.mask
        self.mask_decoder = None if mask is None else make_decoder(mask.model, n_rows, width, prompt_length)
        self.streams = RowStreams(seed, n_rows, width - prompt_length)
        self.n_rows = n_rows
        self.width = width
        self.prompt_length = prompt_length
        self.behaviour = behaviour

    def begin(self, rows: IntArray, episodes: IntArray) -> None:
        """Announces which episodes begin in which rows; rows that begin unannounced are numbered in turn."""
        self.streams.begin(rows, episodes)

    @torch.inference_mode()
    def act(
        self,
        observation: dict[str, NDArray[Any]],
        rows: IntArray | None = None,
        action_masks: BoolArray | None = None,
        deterministic: bool | BoolArray = False,
    ) -> Acted:
        """Chooses a token for each asked row.

        Args:
            observation: ``input_ids`` and ``attention_mask``, ``[N, P+T]`` each.
            rows: ``[n]`` the rows that are asked; None for all.
            action_masks: ``[N, V]`` bool, the task's own restriction, or None.
            deterministic: the most probable token instead of a sampled one; ``[n]`` where the asked rows differ.

        Raises:
            ValueError: the model's logits are NaN.
        """
        rows = np.arange(self.n_rows) if rows is None else rows
        actions = np.zeros(self.n_rows, np.int64) if action_masks is None else action_masks.argmax(1)
        log_probs = np.zeros(self.n_rows, np.float32)
        if len(rows) == 0:
            return Acted(actions, log_probs, None)
        elapsed = observation["attention_mask"][rows, self.prompt_length :].sum(1)
        allowed = None if action_masks is None else action_masks[rows]
        logits = self._logits(observation, rows, elapsed, allowed)
        tokens, chosen = self._choose(logits, rows, elapsed, np.broadcast_to(deterministic, rows.shape))
        actions[rows], log_probs[rows] = tokens.cpu().numpy(), chosen.cpu().numpy()
        if np.isnan(log_probs).any():
            raise ValueError("the model's logits are NaN; if training has diverged, lower the learning rate")
        restricted = allowed is not None or self.behaviour.truncates
        return Acted(actions, log_probs, kept_ids(logits).cpu().numpy() if restricted else None)

    def _choose(self, logits: Tensor, rows: IntArray, elapsed: IntArray, greedy: BoolArray) -> tuple[Tensor, Tensor]:
        """``[n]`` tokens and their log-probabilities: the most probable where ``greedy [n]``, else sampled."""
        if greedy.any():
            best = logits.log_softmax(-1).max(-1)
            if greedy.all():
                return best.indices, best.values
        uniforms = self.streams.draw(rows, elapsed)
        tokens, chosen = draw(logits, torch.from_numpy(uniforms).to(logits.device))
        if greedy.any():
            is_greedy = torch.from_numpy(greedy.copy()).to(logits.device)
            return torch.where(is_greedy, best.indices, tokens), torch.where(is_greedy, best.values, chosen)
        return tokens, chosen

    def _logits(
        self, observation: dict[str, NDArray[Any]], rows: IntArray, elapsed: IntArray, allowed: BoolArray | None
    ) -> Tensor:
        """Return ``[n, V]`` logits of the behaviour distribution."""
        shown = observation["input_ids"], observation["attention_mask"], rows
        logits = self.decoder.logits(*shown)
        return self.behaviour.logits(
            logits,
            torch.from_numpy(elapsed).to(logits.device),
            None if allowed is None else torch.from_numpy(allowed).to(logits.device),
            None if self.mask_decoder is None else self.mask_decoder.logits(*shown),
        )
