"""Metrics of an iteration: of its episodes, and means over its minibatches."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from textgym.agents.functional.objectives import turn_starts
from textgym.agents.loop.episodes import Scored
from textgym.rewards.kl import k1, k3
from textgym.types import Float32Array, FloatArray


def mean_and_error(name: str, values: NDArray[np.floating]) -> dict[str, float]:
    """Compute the mean over episodes and its standard error, as ``NAME`` and ``NAME_sem``.

    Episodes to which a reward did not apply (NaN) are left out; the dict is empty if none remains.
    """
    present = values[np.isfinite(values)].astype(np.float64)
    if not len(present):
        return {}
    error = present.std(ddof=1) / np.sqrt(len(present)) if len(present) > 1 else 0.0
    return {name: float(present.mean()), f"{name}_sem": float(error)}


GOLD = "gold"
"""The name of a task's true reward among the components."""


def named_parts(components: Mapping[str, FloatArray]) -> Mapping[str, FloatArray]:
    """Return the components of a reward to report beside the score.

    A single component equals the score and is left out, unless it is gold, which is always reported under its own name.
    """
    return components if len(components) > 1 or GOLD in components else {}


def explained_variance(scored: Scored, returns: Float32Array) -> float:
    """Return 1 − Var(returns − values) / Var(returns) over the chosen tokens; 0 if the returns do not vary.

    1 is a perfect critic, 0 one that predicts a constant.
    """
    own = scored.episodes.own
    targets, residual = returns[own], (returns - scored.values[:, :-1])[own]
    return float(1 - residual.var() / targets.var()) if targets.var() > 0 else 0.0


def rollout_metrics(scored: Scored) -> dict[str, float]:
    """Compute score, KL (nats per sequence), length in tokens and share of ended responses, with standard errors.

    If another side spoke, also the numbers of the policy's turns and of that side's tokens.

    ``kl`` sums k1 over each sequence (unbiased), ``kl_k3`` the k3 estimator (never negative). ``kl_exact``, of
    algorithms that compare policy and reference over the vocabulary, sums the exact KL in each state; it has the mean
    of ``kl`` and less variance. The dict is empty without episodes.
    """
    if not len(scored.episodes):
        return {}
    episodes, ref_log_probs = scored.episodes, scored.ref_log_probs
    own = episodes.own
    # Where nothing was chosen both log-probabilities are 0, so that nothing is added there.
    per_token = [np.where(own, f(episodes.log_probs, ref_log_probs), 0.0).sum(1) for f in (k1, k3)]
    parts = named_parts(episodes.components)
    components = (mean_and_error(f"components/{name}", np.asarray(x)) for name, x in parts.items())
    metrics = {
        **mean_and_error("score", episodes.rewards.sum(1)),
        **mean_and_error("kl", per_token[0]),
        **mean_and_error("kl_k3", per_token[1]),
        **({} if scored.divergence is None else mean_and_error("kl_exact", scored.divergence.sum(1))),
        **mean_and_error("length", episodes.lengths.astype(np.float64)),
        "stopped": float(episodes.stopped.mean()),
    }
    if (foreign := episodes.extents - episodes.lengths).any():
        metrics |= mean_and_error("turns", turn_starts(own).sum(1).astype(np.float64))
        metrics |= mean_and_error("foreign_tokens", foreign.astype(np.float64))
    for component in components:
        metrics |= component
    if scored.companions is not None:
        metrics |= mean_and_error("greedy_score", scored.companions.rewards.sum(1))
    return metrics


def iteration_metrics(scored: Scored, logged: list[dict[str, float]], explained: float | None) -> dict[str, float]:
    """Return an iteration's metrics: ``rollout/…`` of its episodes and ``train/…``, means over its minibatches.

    Args:
        scored: the sampled episodes.
        logged: logs of each minibatch, in order.
        explained: the critic's explained variance; None without a critic.
    """
    rollout = {f"rollout/{name}": value for name, value in rollout_metrics(scored).items()}
    names = dict.fromkeys(name for logs in logged for name in logs)  # a minibatch without a step has no grad_norm
    train = {f"train/{name}": float(np.mean([logs[name] for logs in logged if name in logs])) for name in names}
    train["train/first_minibatch_ratio_error"] = logged[0]["ratio_error"]
    if explained is not None:
        train["train/explained_variance"] = explained
    return rollout | train
