"""What an iteration's episodes look like, as numbers to log."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from textgym.agents.loop.episodes import Scored
from textgym.rewards.kl import k1, k3
from textgym.types import Float32Array, FloatArray


def mean_and_error(name: str, values: NDArray[np.floating]) -> dict[str, float]:
    """Mean over episodes and its standard error; episodes that a reward did not apply to (nan) are left out."""
    present = values[np.isfinite(values)].astype(np.float64)
    if not len(present):
        return {}
    error = present.std(ddof=1) / np.sqrt(len(present)) if len(present) > 1 else 0.0
    return {name: float(present.mean()), f"{name}_sem": float(error)}


GOLD = "gold"
"""The name of a task's true reward among the components."""


def named_parts(components: Mapping[str, FloatArray]) -> Mapping[str, FloatArray]:
    """Return the components of a reward that are told beside the score.

    A single one is the score already, so it is left out; but for gold, which is told under its own name wherever it
    is paid or watched.
    """
    return components if len(components) > 1 or GOLD in components else {}


def explained_variance(scored: Scored, returns: Float32Array) -> float:
    """Return the share of the value targets' variance that the critic foresaw, over the valid tokens."""
    valid = scored.episodes.valid
    targets, residual = returns[valid], (returns - scored.values[:, :-1])[valid]
    return float(1 - residual.var() / targets.var()) if targets.var() > 0 else 0.0


def rollout_metrics(scored: Scored) -> dict[str, float]:
    """Score, KL (nats per sequence), length and ends, with standard errors where episodes vary.

    ``kl`` sums k1 over each sequence (unbiased), ``kl_k3`` the k3 estimator (never negative).
    """
    episodes, ref_log_probs = scored.episodes, scored.ref_log_probs
    valid = episodes.valid
    # After the end both log-probabilities are 0, so that nothing is added there.
    per_token = [np.where(valid, f(episodes.log_probs, ref_log_probs), 0.0).sum(1) for f in (k1, k3)]
    parts = named_parts(episodes.components)
    components = (mean_and_error(f"components/{name}", np.asarray(x)) for name, x in parts.items())
    metrics = {
        **mean_and_error("score", episodes.rewards.sum(1)),
        **mean_and_error("kl", per_token[0]),
        **mean_and_error("kl_k3", per_token[1]),
        **mean_and_error("length", episodes.lengths.astype(np.float64)),
        "stopped": float(episodes.stopped.mean()),
    }
    for component in components:
        metrics |= component
    if scored.companions is not None:
        metrics |= mean_and_error("greedy_score", scored.companions.rewards.sum(1))
    return metrics


def iteration_metrics(scored: Scored, logged: list[dict[str, float]], foreseen: float | None) -> dict[str, float]:
    """What an iteration logs: of its episodes, and the mean of what its updates said.

    Args:
        scored: the sampled episodes.
        logged: what each update said.
        foreseen: the critic's explained variance, where there is a critic.
    """
    rollout = {f"rollout/{name}": value for name, value in rollout_metrics(scored).items()}
    names = dict.fromkeys(name for logs in logged for name in logs)  # the last update may have made no step
    train = {f"train/{name}": float(np.mean([logs[name] for logs in logged if name in logs])) for name in names}
    train["train/first_minibatch_ratio_error"] = logged[0]["ratio_error"]
    if foreseen is not None:
        train["train/explained_variance"] = foreseen
    return rollout | train
