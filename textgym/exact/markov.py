"""Dynamic programming: the optimum at any horizon, for a Markov reference and a reward that an automaton pays.

The soft recursion of ``soft.py`` runs over states (last token, automaton state, elapsed) instead of prefixes: prefixes
that share a state have one future. Cost: O(T·V·Q·V) instead of O(V^T).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textgym.lm.sampling import Sampling
from textgym.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Automaton:
    """A reward that reads a response token by token, with ``Q`` states.

    Attributes:
        next_state: ``[Q, V]`` where each token leads.
        reward: ``[Q, V]`` reward for reading a token.
        final: ``[Q]`` reward of the state after the last token.
        start: the state before the first token.
    """

    next_state: IntArray
    reward: FloatArray
    final: FloatArray
    start: int = 0

    def __post_init__(self) -> None:
        states = len(self.final)
        if self.next_state.shape != self.reward.shape or len(self.next_state) != states:
            raise ValueError(
                f"next_state has shape {self.next_state.shape}, reward {self.reward.shape}, final "
                f"{self.final.shape}; expected [Q, V], [Q, V] and [Q]"
            )
        if self.next_state.min() < 0 or max(self.next_state.max(), self.start) >= states or self.start < 0:
            raise ValueError(f"next_state and start must hold states from 0 to {states - 1}")

    def __call__(self, response: Sequence[int]) -> float:
        """Return R(y)."""
        state, total = self.start, 0.0
        for token in response:
            total += float(self.reward[state, token])
            state = int(self.next_state[state, token])
        return total + float(self.final[state])


@dataclass(frozen=True)
class MarkovOptimum:
    """The result of the dynamic programme, for one prompt.

    Attributes:
        value: J*.
        reward: E[R] under π*.
        kl: KL(π*‖π_ref), in nats per response.
        reference: J(π_ref), which is E[R] under the reference.
        log_probs: ``[T, V, Q, V]`` log π* after ``t`` tokens, the last of which is given, in an automaton state.
    """

    value: float
    reward: float
    kl: float
    reference: float
    log_probs: FloatArray


def markov_optimum(
    log_probs: FloatArray,
    automaton: Automaton,
    beta: float,
    horizon: int,
    last_prompt_token: int,
    end_token_ids: Sequence[int] = (),
    sampling: Sampling | None = None,
) -> MarkovOptimum:
    """Compute the optimum of E[R] − β·KL(π‖π_ref) by dynamic programming, for a single turn without a world.

    Args:
        log_probs: ``[n_tokens, V]`` of the reference's next token after each token; the prompt's last token may be
            none of the V actions.
        automaton: pays the reward.
        beta: β > 0.
        horizon: ``T``.
        last_prompt_token: the row of ``log_probs`` that the response begins from.
        end_token_ids: tokens that end a response.
        sampling: temperature and minimum length of policy and reference.

    Raises:
        ValueError: β is not above 0, the horizon is below 1, or the arrays differ in V.
    """
    n_tokens, n_actions = log_probs.shape
    if not (math.isfinite(beta) and beta > 0) or horizon < 1:
        raise ValueError(f"beta={beta}, horizon={horizon}; expected a finite beta above 0 and a horizon of at least 1")
    if automaton.reward.shape[1] != n_actions:
        raise ValueError(f"log_probs has {n_actions} actions, the automaton {automaton.reward.shape[1]}")
    shared = sampling or Sampling()
    ends = np.isin(np.arange(n_actions), end_token_ids)
    shape = (horizon, n_tokens, len(automaton.final), n_actions)
    best_log, found = np.zeros(shape), np.zeros((3, n_tokens, len(automaton.final)))
    soft = np.zeros(found.shape[1:])
    for t in reversed(range(horizon)):
        log_ref = _behaviour(log_probs, shared, ends, t)[:, None, :]  # [n_tokens, 1, V]
        paid = automaton.reward + np.where(ends | (t == horizon - 1), automaton.final[automaton.next_state], 0.0)
        goes_on = ~ends & (t < horizon - 1)
        q_soft = paid + _following(soft, automaton, goes_on)
        weighted = log_ref + q_soft / beta
        top = weighted.max(-1, keepdims=True)
        log_sum = top + np.log(np.exp(weighted - top).sum(-1, keepdims=True))
        log_best = weighted - log_sum
        ratio = np.where(np.isneginf(log_best), 0.0, log_best - np.where(np.isneginf(log_ref), 0.0, log_ref))
        best, ref = np.exp(log_best), np.exp(log_ref)
        # E[R] and KL under π*, and E[R] under the reference, by the same recursion as V but without its log.
        after = [_following(value, automaton, goes_on) for value in found]
        found = np.stack(
            [(best * (paid + after[0])).sum(-1), (best * (ratio + after[1])).sum(-1), (ref * (paid + after[2])).sum(-1)]
        )
        soft, best_log[t] = beta * log_sum[..., 0], log_best
    reward, kl, reference = found[:, last_prompt_token, automaton.start].tolist()
    return MarkovOptimum(float(soft[last_prompt_token, automaton.start]), reward, kl, reference, best_log)


def _behaviour(log_probs: FloatArray, sampling: Sampling, ends: BoolArray, elapsed: int) -> FloatArray:
    """Return the behaviour distribution of the reference after ``elapsed`` tokens, as log-probabilities."""
    scaled = log_probs / sampling.temperature
    if elapsed < sampling.min_new_tokens:
        scaled = np.where(ends, -np.inf, scaled)
    top = scaled.max(1, keepdims=True)
    normalised: FloatArray = scaled - top - np.log(np.exp(scaled - top).sum(1, keepdims=True))
    return normalised


def _following(values: FloatArray, automaton: Automaton, goes_on: BoolArray) -> FloatArray:
    """Return the value of the state that each token leads to, ``[Q, V]``; 0 after the end."""
    tokens = np.arange(automaton.next_state.shape[1])
    following: FloatArray = np.where(goes_on, values[tokens, automaton.next_state], 0.0)
    return following
