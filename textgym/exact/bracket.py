"""A lower bound and an estimate of the optimum, both by sampling, for tasks too large to enumerate."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.evaluation import play
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.env.mdp import TokenMDP
from textgym.exact.enumeration import check_beta, find_mdp, find_reference
from textgym.intervals import Estimate, quantile
from textgym.lm.files.loading import ModelSource, frozen_copy
from textgym.lm.sampling import Sampling
from textgym.types import Episodes, FloatArray

_RESAMPLES = 1000
FEWEST_EFFECTIVE = 100
"""Effective samples per prompt below which the estimate of J* is unreliable."""
_BATCH = 256


@dataclass(frozen=True)
class Bracket:
    """A lower bound and an estimate of J*.

    Attributes:
        lower: the best J(π) among the policies tried, the reference included: J* is no less.
        best: which policy that was; -1 for the reference.
        values: J of the reference, and of each policy in turn.
        estimate: J* by importance sampling from that policy and the reference.
        effective_samples: Kish's (Σw)²/Σw² of the importance weights of π*, the least over the prompts. It cannot
            see rewards that no sample reached: where nothing was found, all weights are equal.
    """

    lower: Estimate
    best: int
    values: tuple[Estimate, ...]
    estimate: Estimate
    effective_samples: float


def bracket(
    env: Any,
    beta: float,
    policies: Sequence[LMPolicy] = (),
    *,
    samples: int = 1024,
    reference: ModelSource | PreTrainedModel | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> Bracket:
    """Bracket J* by sampling, where responses cannot be enumerated.

    Args:
        env: as for :func:`textgym.optimum`.
        beta: β > 0.
        policies: trained policies; the best of them and the reference proposes the responses.
        samples: responses to each prompt, for each policy.
        reference: π_ref, by default the task's base model.
        sampling: temperature and minimum length of policies and reference.
        seed: of the samples and of the bootstrap.

    Raises:
        ValueError: β is not above 0, fewer than 2 samples, a policy samples otherwise than the reference, or the task
            has a world.
    """
    check_beta(beta)
    if samples < 2:
        raise ValueError(f"samples={samples}; expected at least 2")
    mdp, shared = find_mdp(env), (sampling or Sampling()).shared
    mdp.check_scores_alone("a bracket weighs each by its own reward", "use a reward of one response")
    if mdp.world is not None:
        raise ValueError(
            f"the task has a world ({type(mdp.world).__name__}), which a bracket does not support: its estimate weighs "
            "whole responses by exp(R/β), and so would count on the world's luck; use textgym.optimum, or compare "
            "policies with textgym.agents.evaluate"
        )
    for policy in policies:
        if policy.sampling != shared:
            raise ValueError(
                f"a policy samples with {policy.sampling}, the bracket is that of {shared}; make them equal"
            )
        if policy.mask is not None:
            raise ValueError("a policy samples under NLPO's mask, which a bracket does not support; use optimum()")
    proposals = [acting_policy(frozen_copy(find_reference(mdp, reference)), mdp, shared), *policies]
    if mdp.allowed is not None:
        raise ValueError("the task restricts actions, which a bracket does not support; use textgym.optimum")
    # A seed for each: with common random numbers the halves of the mixture would not be independent.
    seeds = np.random.SeedSequence(seed).generate_state(len(proposals)).tolist()
    plays = [_play_all(policy, mdp, samples, own) for policy, own in zip(proposals, seeds, strict=True)]
    prior = proposals[0]
    values = [
        objective_interval(_rewards(played, mdp), _log_ratio(policy, prior, played, mdp), beta)
        for policy, played in zip(proposals, plays, strict=True)
    ]
    best = int(np.argmax([value.value for value in values]))
    drawn = [plays[0]] if best == 0 else [plays[0], plays[best]]
    reward = np.concatenate([_rewards(played, mdp) for played in drawn], axis=1)
    log_ratio = np.concatenate([_log_ratio(proposals[best], prior, played, mdp) for played in drawn], axis=1)
    estimate, effective = optimum_interval(reward, log_ratio, beta, np.random.default_rng(seed))
    if effective < FEWEST_EFFECTIVE:
        warnings.warn(
            f"the estimate of J* rests on {effective:.1f} effective samples of {reward.shape[1]} for some prompt; "
            f"below {FEWEST_EFFECTIVE} it is likely too low: give a better policy, more samples or a larger beta",
            stacklevel=2,
        )
    return Bracket(values[best], best - 1, tuple(values), estimate, effective)


def objective_interval(reward: FloatArray, log_ratio: FloatArray, beta: float) -> Estimate:
    """Estimate J(π) = E[R − β·log(π/π_ref)] from samples of π, stratified by prompt, with its interval.

    The interval is Student's, at the degrees of freedom of a sum of strata (Satterthwaite 1946).
    """
    shaped = reward - beta * log_ratio
    squares = shaped.var(1, ddof=1) / shaped.shape[1]
    error = float(np.sqrt(squares.mean() / len(shaped)))
    freedom = squares.sum() ** 2 / (squares**2).sum() * (shaped.shape[1] - 1) if error > 0 else np.inf
    mean, half = float(shaped.mean()), quantile(float(freedom)) * error
    return Estimate(mean, mean - half, mean + half)


def optimum_interval(
    reward: FloatArray, log_ratio: FloatArray, beta: float, rng: np.random.Generator
) -> tuple[Estimate, float]:
    """Estimate J* = β·log E_ref[exp(R/β)] by self-normalised importance sampling, with a bootstrap interval.

    Half of the responses come from the reference and half from a policy π (or all from the reference, if π is the
    reference): from the mixture m = (π_ref + π)/2. With v = π_ref/m, which is at most 2, the estimate is
    β·log(Σ v·exp(R/β) / Σ v), averaged over the prompts. Source: Owen 2013, *Monte Carlo theory*, ch. 9 (defensive
    mixtures, Hesterberg 1995).

    Args:
        reward: ``[n_prompts, m]`` R.
        log_ratio: ``[n_prompts, m]`` log π − log π_ref.
        beta: β.
        rng: resamples the responses to each prompt.

    Returns:
        the interval, and the effective sample size of the weights v·exp(R/β), least over the prompts.
    """
    log_v = np.log(2) - np.logaddexp(0, log_ratio)  # log π_ref/m with m = (π_ref + π)/2, from log π − log π_ref alone
    tilted = reward / beta + log_v
    top = tilted.max(1, keepdims=True)  # exp(R/β) overflows for small β; the shift is added back in value()
    weights, v = np.exp(tilted - top), np.exp(log_v)
    effective = float((weights.sum(1) ** 2 / (weights**2).sum(1)).min())

    def value(count: FloatArray) -> float:
        """Return the estimate if each response counts so many times, ``[n_prompts, m]``."""
        return float((beta * (np.log((weights * count).sum(1) / (v * count).sum(1)) + top[:, 0])).mean())

    n_prompts, m = reward.shape
    even = np.full(m, 1 / m)
    # Tiny counts for those left out: a resample without any of the weight would have no logarithm.
    draws = (np.float64(1e-9) + rng.multinomial(m, even, size=n_prompts) for _ in range(_RESAMPLES))
    resampled = [value(counts) for counts in draws]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(value(np.ones(reward.shape)), float(low), float(high)), effective


def _play_all(policy: LMPolicy, mdp: TokenMDP, samples: int, seed: int) -> Episodes:
    """Sample ``samples`` responses to every prompt, prompt by prompt."""
    return play(policy, mdp, np.repeat(np.arange(len(mdp.prompts)), samples), seed)


def _rewards(episodes: Episodes, mdp: TokenMDP) -> FloatArray:
    """Return the rewards of whole responses, ``[n_prompts, n]``."""
    rewards: FloatArray = episodes.rewards.sum(1, dtype=np.float64).reshape(len(mdp.prompts), -1)
    return rewards


def _log_ratio(policy: LMPolicy, prior: LMPolicy, episodes: Episodes, mdp: TokenMDP) -> FloatArray:
    """Return log π − log π_ref of whole responses, ``[n_prompts, n]``."""
    if policy is prior:
        return np.zeros((len(mdp.prompts), len(episodes) // len(mdp.prompts)))
    difference = _log_probs(policy, episodes) - _log_probs(prior, episodes)
    ratio: FloatArray = difference.reshape(len(mdp.prompts), -1)
    return ratio


@torch.inference_mode()
def _log_probs(policy: LMPolicy, episodes: Episodes) -> FloatArray:
    """Return the log-probabilities of whole responses, ``[N]``."""
    parts = []
    for start in range(0, len(episodes), _BATCH):
        rows = slice(start, start + _BATCH)
        ids = torch.from_numpy(episodes.input_ids[rows]).to(policy.device)
        mask = torch.from_numpy(episodes.attention_mask[rows]).to(policy.device)
        parts.append(policy.evaluate(ids, mask).log_probs.double().sum(1).cpu().numpy())
    log_probs: FloatArray = np.concatenate(parts)
    return log_probs
