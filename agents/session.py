"""Acting: a key-value cache and random streams, held by whoever plays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from textgym.lm.decoding import PrefixDecoder
from textgym.lm.sampling import Sampling, draw, kept_ids, restrict
from textgym.types import BoolArray, FloatArray, Float32Array, IntArray


class Acted(NamedTuple):
    """One decision per row.

    Attributes:
        actions: ``[N]`` tokens; 0 for rows that were not asked.
        log_probs: ``[N]`` under the behaviour distribution; 0 for rows that were not asked.
        kept: for each asked row ``[n, M]`` the ids that the behaviour distribution kept, -1 for none; None where
            it keeps all.
    """

    actions: IntArray
    log_probs: Float32Array
    kept: NDArray[np.int32] | None


def episode_uniforms(seed: int, episode: int, size: int) -> FloatArray:
    """``[size]`` uniforms in [0, 1): one for each column of an episode.

    Keyed by (seed, episode) and drawn by position, so an episode's tokens depend on neither its batch mates nor the
    number of slots nor an evaluation in between.
    """
    uniforms: FloatArray = np.random.Generator(np.random.Philox(key=[seed, episode])).random(size)
    return uniforms


class Session:
    """Plays one set of rows: collector, ``predict`` and each evaluation hold their own.

    Args:
        model: the policy's language model.
        n_rows: ``N``.
        width: ``P + T``.
        prompt_length: ``P``.
        n_actions: ``V``.
        end_ids: tokens that end a response.
        sampling: the behaviour distribution.
        seed: of the random streams.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        n_rows: int,
        width: int,
        prompt_length: int,
        n_actions: int,
        end_ids: Sequence[int],
        sampling: Sampling,
        seed: int,
    ) -> None:
        self.decoder = PrefixDecoder(model, n_rows, width)
        self.prompt_length = prompt_length
        self.n_actions = n_actions
        self.end_ids = tuple(end_ids)
        self.sampling = sampling
        self.seed = seed
        self.n_rows = n_rows
        self._next_episode = 0
        self._uniforms: FloatArray = np.zeros((n_rows, width))
        self._announced: BoolArray = np.zeros(n_rows, bool)

    def begin(self, rows: IntArray, episodes: IntArray) -> None:
        """Announces which episodes begin in which rows; rows that begin unannounced are numbered in turn."""
        for row, episode in zip(rows, episodes, strict=True):
            self._uniforms[row] = episode_uniforms(self.seed, int(episode), self._uniforms.shape[1])
        self._announced[rows] = True

    def act(
        self,
        observation: dict[str, NDArray[Any]],
        rows: IntArray | None = None,
        action_masks: BoolArray | None = None,
        deterministic: bool = False,
    ) -> Acted:
        """Chooses a token for each asked row.

        Args:
            observation: ``input_ids`` and ``attention_mask``, ``[N, P+T]`` each.
            rows: ``[n]`` the rows that are asked; None for all.
            action_masks: ``[N, V]`` bool, the task's own restriction, or None.
            deterministic: the most probable token instead of a sampled one.
        """
        rows = np.arange(self.n_rows) if rows is None else rows
        mask = observation["attention_mask"]
        logits = self.decoder.logits(observation["input_ids"], mask, rows)
        self._number_unannounced()
        with torch.inference_mode():
            elapsed = mask[rows, self.prompt_length :].sum(1)
            allowed = None if action_masks is None else torch.from_numpy(action_masks[rows]).to(logits.device)
            behaviour = restrict(
                logits,
                self.sampling,
                self.n_actions,
                self.end_ids,
                torch.from_numpy(elapsed).to(logits.device),
                allowed,
            )
            if deterministic:
                tokens = behaviour.argmax(-1)
                chosen = torch.log_softmax(behaviour, -1).gather(1, tokens[:, None])[:, 0]
            else:
                uniforms = self._uniforms[rows, self.prompt_length + elapsed]
                tokens, chosen = draw(behaviour, torch.from_numpy(uniforms).to(logits.device))
            restricted = allowed is not None or self.sampling.truncates
            kept = kept_ids(behaviour).cpu().numpy() if restricted else None
        actions = np.zeros(self.n_rows, np.int64)
        log_probs = np.zeros(self.n_rows, np.float32)
        actions[rows], log_probs[rows] = tokens.cpu().numpy(), chosen.cpu().numpy()
        return Acted(actions, log_probs, kept)

    def _number_unannounced(self) -> None:
        for row in np.flatnonzero(self.decoder.fresh & ~self._announced):
            self._uniforms[row] = episode_uniforms(self.seed, self._next_episode, self._uniforms.shape[1])
            self._next_episode += 1
        self._announced[self.decoder.fresh] = False
