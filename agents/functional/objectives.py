"""Advantage estimators, ratios and losses: pure functions of arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from textgym.agents.settings import Normalisation
from textgym.types import BoolArray, Float32Array, FloatArray, IntArray


class Advantages(NamedTuple):
    """Advantages and the critic's targets, ``[N, T]`` each; 0 where the policy chose no token.

    Attributes:
        advantages: the weight of each token in the policy loss.
        returns: the targets of the value loss; zeros for algorithms without a critic.
    """

    advantages: Float32Array
    returns: Float32Array


# --- advantages of each token ----------------------------------------------------------------------------------


def gae(
    rewards: Float32Array, values: Float32Array, own: BoolArray, lam: float, truncated: BoolArray | None = None
) -> Advantages:
    """Compute generalised advantages with γ = 1: A_t = Σ_l λ^l δ_{t+l}, δ_t = r_t + V(s_{t+1}) − V(s_t).

    Schulman 2015 (arXiv 1506.02438), eq. 16. Steps are the policy's own tokens alone: the state after a turn's last
    token is the one before the next turn's first, so no credit decays through the other side's tokens. The value after
    the last token is 0, as the horizon is a termination. Only where a wrapper truncated the response, V of the state
    after it is used.

    Args:
        rewards: ``[N, T]``.
        values: ``[N, T+1]`` values of the states before each token; behind the last own token, of the state after the
            response.
        own: ``[N, T]`` bool, True for tokens that the policy chose.
        lam: λ in [0, 1]; 1 gives return minus value.
        truncated: ``[N]`` bool; None for no truncation.

    Returns:
        Advantages A_t, and returns A_t + V(s_t).
    """
    n, horizon = rewards.shape
    deltas = np.where(own, rewards + _next_values(values, own, truncated) - values[:, :-1], 0.0)
    advantages = np.zeros((n, horizon), np.float64)
    running = np.zeros(n)
    for t in reversed(range(horizon)):
        # Columns that are not the policy's pass on what comes after them, unchanged.
        running = np.where(own[:, t], deltas[:, t] + lam * running, running)
        advantages[:, t] = running
    advantages = np.where(own, advantages, 0.0)
    returns = np.where(own, advantages + values[:, :-1], 0.0)
    return Advantages(advantages.astype(np.float32), returns.astype(np.float32))


def turn_gae(
    rewards: Float32Array, values: Float32Array, own: BoolArray, lam: float, truncated: BoolArray | None = None
) -> Advantages:
    """Compute generalised advantages of whole turns: each token of a turn gets its turn's advantage.

    A turn is one action: a run of own tokens, in the state before its first one, with the sum of its tokens' rewards.
    Turn-level credit as in MT-GRPO (Zeng 2025, arXiv 2505.11821) and ArCHer (Zhou 2024, arXiv 2402.19446). Arguments
    as for :func:`gae`.

    Returns:
        Advantages of the turns, and as every token's value target the return of its turn.
    """
    n, first = len(rewards), turn_starts(own)
    turn = np.maximum(first.cumsum(1) - 1, 0)  # number of each token's turn
    exists = np.arange(turn.max() + 1) < first.sum(1)[:, None]
    paid = np.zeros(exists.shape, np.float32)
    np.add.at(paid, (np.arange(n)[:, None], turn), np.where(own, rewards, 0.0).astype(np.float32))
    before = np.zeros((n, exists.shape[1] + 1), np.float32)
    before[:, :-1][exists] = values[:, :-1][first]
    rows = np.arange(n)
    before[rows, exists.sum(1)] = values[rows, after_last(own)]
    turns = gae(paid, before, exists, lam, truncated)
    advantages, returns = (np.where(own, np.take_along_axis(x, turn, 1), 0.0).astype(np.float32) for x in turns)
    return Advantages(advantages, returns)


def monte_carlo(
    rewards: Float32Array, values: Float32Array, own: BoolArray, truncated: BoolArray | None = None
) -> Advantages:
    """Compute return minus value: A_t = Σ_{u ≥ t} r_u − V(s_t).

    Williams 1992; Mnih 2016 (arXiv 1602.01783) with whole episodes.

    Args:
        rewards: ``[N, T]``.
        values: ``[N, T+1]`` as for :func:`gae`; zeros give the return itself.
        own: ``[N, T]`` bool.
        truncated: ``[N]`` bool, True where a wrapper cut the episode short: V of its last state replaces the rest.
    """
    paid = np.where(own, rewards, 0.0).astype(np.float64)
    if truncated is not None:
        rows = np.flatnonzero(truncated)
        after = after_last(own[rows])
        paid[rows, after - 1] += values[rows, after]
    returns = np.where(own, paid[:, ::-1].cumsum(1)[:, ::-1], 0.0)
    advantages = np.where(own, returns - values[:, :-1], 0.0)
    return Advantages(advantages.astype(np.float32), returns.astype(np.float32))


def traced(feedback: Float32Array, own: BoolArray, lam: float, gamma: float = 1.0) -> Advantages:
    """Compute the credit of an eligibility trace: A_t = γ^t·f_t + λ·A_{t+1}, so that Σ_t A_t·∇log π_t is COACH's step.

    MacGlashan 2017 (arXiv 1701.06049): θ ← θ + α·f_t·e_t with the trace e_t = λ·e_{t−1} + ∇log π(a_t|s_t). Summed over
    a response, a token's gradient is multiplied by all later feedback, decayed by λ for each step. The factor γ^t is
    that of E-COACH, Shah 2021 (arXiv 2109.07054). Steps are the policy's own tokens alone, as in :func:`gae`.

    Args:
        feedback: ``[N, T]`` f.
        own: ``[N, T]`` bool, True for tokens that the policy chose.
        lam: λ in [0, 1]; 1 gives the sum of all later feedback.
        gamma: γ in (0, 1].

    Returns:
        Credits as advantages; there is no critic to learn returns.
    """
    steps = np.where(own, own.cumsum(1) - 1, 0)
    weighted = np.where(own, feedback * np.float64(gamma) ** steps, 0.0)
    credit, running = np.zeros(own.shape), np.zeros(len(own))
    for t in reversed(range(own.shape[1])):
        running = np.where(own[:, t], weighted[:, t] + lam * running, running)
        credit[:, t] = running
    advantages = np.where(own, credit, 0.0).astype(np.float32)
    return Advantages(advantages, np.zeros_like(advantages))


def turn_starts(own: BoolArray) -> BoolArray:
    """Return True at the first token of each turn, ``[N, T]``: a turn is a run of own tokens."""
    return own & ~np.pad(own, ((0, 0), (1, 0)))[:, :-1]


def after_last(own: BoolArray) -> IntArray:
    """Return the column behind the last own token of each row, ``[N, T] -> [N]``."""
    after: IntArray = own.shape[1] - own[:, ::-1].argmax(1)
    return after


def _next_values(values: Float32Array, own: BoolArray, truncated: BoolArray | None) -> Float32Array:
    """Return V of the state in which the policy chooses next, ``[N, T]``; 0 at the last token if the task ended."""
    n, horizon = own.shape
    column = np.where(own, np.arange(horizon), horizon)
    # Reversed, the running minimum is the first own column from t on.
    nearest = np.minimum.accumulate(column[:, ::-1], axis=1)[:, ::-1]
    following = np.concatenate([nearest[:, 1:], np.full((n, 1), horizon)], axis=1)
    found: Float32Array = np.where(following < horizon, np.take_along_axis(values, following, 1), np.float32(0))
    if truncated is not None:
        rows = np.flatnonzero(truncated)
        after = after_last(own[rows])
        found[rows, after - 1] = values[rows, after]
    return found


# --- advantages of each response -------------------------------------------------------------------------------


def leave_one_out(returns: FloatArray, k: int) -> FloatArray:
    """Compute RLOO's advantages: A_i = R_i − 1/(k−1) Σ_{j≠i} R_j over the k responses to a prompt.

    Kool 2019; Ahmadian 2024 (arXiv 2402.14740), eq. 8. It is k/(k−1) times the return minus the group's mean.

    Args:
        returns: ``[N]``, groups of ``k`` consecutive.
        k: at least 2.
    """
    groups = returns.reshape(-1, k)
    others = (groups.sum(1, keepdims=True) - groups) / (k - 1)
    advantages: FloatArray = (groups - others).ravel()
    return advantages


def group_relative(returns: FloatArray, k: int, scale: bool = True, bessel: bool = True) -> FloatArray:
    """Compute GRPO's advantages: A_i = (R_i − mean(R)) / (std(R) + 1e-4) over the k responses to a prompt.

    Shao 2024 (arXiv 2402.03300), section 4.1. Liu 2025, "Dr. GRPO" (arXiv 2503.20783), leaves out the standard
    deviation, since dividing by it gives most weight to prompts whose responses all score nearly alike.

    Args:
        returns: ``[N]``, groups of ``k`` consecutive.
        k: at least 2; k = N gives REINFORCE with the batch mean as baseline.
        scale: True to divide by the standard deviation.
        bessel: True for a standard deviation with divisor k − 1, as in TRL; False for k, which makes advantages
            √(k/(k − 1)) times as large.
    """
    groups = returns.reshape(-1, k)
    centred = groups - groups.mean(1, keepdims=True)
    # Large enough that rounding errors between equal returns do not become advantages.
    scaled = centred / (groups.std(1, ddof=int(bessel), keepdims=True) + 1e-4) if scale else centred
    advantages: FloatArray = scaled.ravel()
    return advantages


def share_of_success(returns: FloatArray, k: int, subtract_mean: bool = True) -> FloatArray:
    """Compute MaxRL's advantages: A_i = (R_i − mean(R)) / mean(R) over the k responses to a prompt.

    Tajwar 2026 (arXiv 2602.02710). With scores 0 and 1 and pass rate p the expected gradient is that of
    p times (1 − (1 − p)^(k−1))/p: of log p as k grows, where plain RL has the gradient of p. Without the mean
    subtracted the factor is (1 − (1 − p)^k)/p, one term of the series more. Advantages are 0 where all scores are.

    Args:
        returns: ``[N]``, groups of ``k`` consecutive; at least 0.
        k: at least 2.
        subtract_mean: False for R_i / mean(R).
    """
    groups = returns.reshape(-1, k)
    mean = groups.mean(1, keepdims=True)
    shares = np.divide(groups, mean, out=np.zeros_like(groups), where=mean > 0)
    advantages: FloatArray = np.where(mean > 0, shares - subtract_mean, 0.0).ravel()
    return advantages


def uninformative(returns: FloatArray, k: int) -> BoolArray:
    """Return True for groups whose responses all score the same, but for rounding, ``[N/k]``: they teach nothing."""
    groups = returns.reshape(-1, k)
    # Scores are sums of float32 rewards, whose rounding grows with them.
    same: BoolArray = np.ptp(groups, axis=1) < ROUNDING * np.maximum(np.abs(groups).max(1), 1.0)
    return same


def greedy_baseline(returns: FloatArray, greedy_scores: FloatArray) -> FloatArray:
    """Compute ReMax's advantages: A_i = R_i − R(greedy response to the same prompt). Li 2023 (arXiv 2310.10505), eq. 7.

    Args:
        returns: ``[N]``, groups of N/G consecutive.
        greedy_scores: ``[G]`` scores of the greedy response to each group's prompt.
    """
    advantages: FloatArray = returns - np.repeat(greedy_scores, len(returns) // len(greedy_scores))
    return advantages


def future_kl(state_kl: Float32Array, own: BoolArray, k: int) -> Float32Array:
    """Sum the KL at the tokens after each one, less the mean of that sum over the other responses to the prompt.

    A token changes the KL of its own state, which a loss differentiates, and the states that follow, whose KL is a cost
    of choosing it: ∇Σ_t E[KL(s_t)] = E[Σ_t ∇KL(s_t) + ∇log π(a_t|s_t)·Σ_{u>t} KL(s_u)]. The baseline depends on other
    responses alone, and therefore leaves the expected gradient as it is.

    Args:
        state_kl: ``[N, T]`` KL(π‖π_ref) in the state of each own token; groups of ``k`` consecutive responses.
        own: ``[N, T]``.
        k: at least 1; 1 takes all N responses for the baseline.

    Returns:
        ``[N, T]``, 0 where the policy chose nothing.
    """
    from_here = np.where(own, state_kl, 0.0).astype(np.float64)[:, ::-1].cumsum(1)[:, ::-1]
    after = np.pad(from_here[:, 1:], ((0, 0), (0, 1)))
    return np.where(own, _less_others(after, k), 0.0).astype(np.float32)


def whole_kl(state_kl: Float32Array, own: BoolArray, k: int) -> Float32Array:
    """Sum the KL over each response, less the mean of that sum over the other responses to the prompt.

    It stands in for :func:`future_kl` where all tokens of a response share one ratio, and so one advantage. The KL of
    earlier tokens, which it counts too, is independent of the token and therefore of no effect in expectation.

    Args:
        state_kl: ``[N, T]`` KL(π‖π_ref) in the state of each own token; groups of ``k`` consecutive responses.
        own: ``[N, T]``.
        k: at least 1; 1 takes all N responses for the baseline.

    Returns:
        ``[N, T]``, 0 where the policy chose nothing.
    """
    total = np.where(own, state_kl, 0.0).sum(1, keepdims=True, dtype=np.float64)
    return np.where(own, _less_others(total, k), 0.0).astype(np.float32)


def _less_others(x: FloatArray, k: int) -> FloatArray:
    """Subtract from each row the mean of its group's other rows, ``[N, m] -> [N, m]``; k = 1 takes all rows as one."""
    groups = x.reshape(-1, k if k > 1 else len(x), x.shape[1])
    others = (groups.sum(1, keepdims=True) - groups) / max(groups.shape[1] - 1, 1)
    less: FloatArray = (groups - others).reshape(x.shape)
    return less


def soft_value(returns: FloatArray, beta: float) -> FloatArray:
    """Estimate the optimal value of G prompts from returns of the reference: V̂* = β·log(1/n Σ_i exp(R_i/β)).

    Brantley 2025 (arXiv 2505.20686). It is consistent, and biased downwards, as the log is concave: all the more
    the smaller β and the rarer a high return is.

    Args:
        returns: ``[G, n]`` of n responses of π_ref to each prompt.
        beta: β > 0; towards 0 the estimate becomes the maximum, towards ∞ the mean.

    Returns:
        ``[G]``.
    """
    top = returns.max(1)
    value: FloatArray = top + beta * np.log(np.exp((returns - top[:, None]) / beta).mean(1))
    return value


def best_of_groups(returns: FloatArray, k: int) -> IntArray:
    """Return the row of the best response to each prompt, ``[N/k]``; of equals the first."""
    rows: IntArray = returns.reshape(-1, k).argmax(1) + np.arange(0, len(returns), k)
    return rows


def spread(advantages: FloatArray, own: BoolArray) -> Advantages:
    """Give every token its response's advantage: ``[N]`` to ``[N, T]``."""
    tokens = np.where(own, advantages[:, None], 0.0).astype(np.float32)
    return Advantages(tokens, np.zeros_like(tokens))


# --- whitening -------------------------------------------------------------------------------------------------

ROUNDING = 1e-6
"""Differences below this are rounding: log-probabilities of the rollout and of a batched pass differ by as much."""


def whiten(x: Float32Array, own: BoolArray) -> Float32Array:
    """Scale to zero mean and unit variance over the batch's own tokens; 0 elsewhere, and if all are equal.

    Ziegler 2019 (arXiv 1909.08593); with returns instead of advantages it is the baseline of REINFORCE++, Hu 2025
    (arXiv 2501.03262).
    """
    inside = x[own].astype(np.float64)
    deviation = inside.std()
    if deviation < ROUNDING:  # otherwise rounding noise would be scaled to unit variance
        return np.zeros_like(x, np.float32)
    whitened: Float32Array = np.where(own, (x - inside.mean()) / (deviation + 1e-8), 0.0).astype(np.float32)
    return whitened


# --- ratios ----------------------------------------------------------------------------------------------------


def token_ratio(log_ratio: Tensor) -> Tensor:
    """Compute each token's ratio ρ_t = π(a_t|s_t) / π_old(a_t|s_t). Schulman 2017 (arXiv 1707.06347).

    Args:
        log_ratio: ``[n, T]`` log π − log π_old, 0 beyond each response.
    """
    return log_ratio.exp()


def sequence_ratio(log_ratio: Tensor, own: Tensor) -> Tensor:
    """Compute GSPO's ratio s = (π(y|x) / π_old(y|x))^(1/|y|), the same for all tokens of a response.

    Zheng 2025 (arXiv 2507.18071), eq. 7.

    Args:
        log_ratio: ``[n, T]`` log π − log π_old, 0 beyond each response.
        own: ``[n, T]``.

    Returns:
        ``[n, T]``, equal along T.
    """
    mean = log_ratio.sum(1, keepdim=True) / own.sum(1, keepdim=True)
    return mean.exp().expand_as(log_ratio)


def response_ratio(log_ratio: Tensor) -> Tensor:
    """Compute the ratio of whole responses, π(y|x) / π_old(y|x), the same for all tokens: ``[n, T] -> [n, T]``."""
    # Over hundreds of tokens the sum may exceed 88, where exp is infinite and a clipped ratio's gradient 0·∞.
    return log_ratio.sum(1, keepdim=True).clamp(max=80.0).exp().expand_as(log_ratio)


def geometric_ratio(log_ratio: Tensor, advantages: Tensor, own: Tensor, low: float, high: float) -> Tensor:
    """Compute GMPO's ratio: the geometric mean of a response's token ratios, each clipped as PPO's minimum does.

    Zhao 2025 (arXiv 2507.20673). Clipping is in log space: log ρ_t is limited to ``high`` from above where
    A > 0, and to −``low`` from below elsewhere.

    Args:
        log_ratio: ``[n, T]`` log π − log π_old, 0 where the policy chose nothing.
        advantages: ``[n, T]``.
        own: ``[n, T]``.
        low: ε.
        high: ε'.

    Returns:
        ``[n, T]``, equal along T.
    """
    limited = torch.where(advantages > 0, log_ratio.clamp(max=high), log_ratio.clamp(min=-low))
    return sequence_ratio(limited, own)


LEAST_LOG_RATIO, GREATEST_LOG_RATIO = math.log(1e-8), 20.0
"""Bounds of a response's log-ratio where its exponential is taken, as in TRL."""


def gamma_weight(log_ratio: Tensor, k: Tensor, decay: Tensor) -> Tensor:
    """Compute VESPO's weight of a response, φ(W) = e^λ·W^k·e^(−λW) with W = π(y|x)/π_old(y|x); φ(1) = 1.

    Shen 2026 (arXiv 2602.10693). The density of a gamma distribution grows with the ratio at first and vanishes for
    large ones, in place of a clip of each token.

    Args:
        log_ratio: ``[n, T]`` log π − log π_old, 0 where the policy chose nothing.
        k: k, ``[n, T]``.
        decay: λ, ``[n, T]``.

    Returns:
        ``[n, T]``.
    """
    log_weight = log_ratio.sum(1, keepdim=True).clamp(LEAST_LOG_RATIO, GREATEST_LOG_RATIO)
    return (decay + k * log_weight - decay * log_weight.exp()).exp()


# --- trust regions of each token -------------------------------------------------------------------------------

Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``distance(log_probs [n, T], old_log_probs [n, T]) -> [n, T]`` of the chosen token against all others."""


def binary_tv(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """Compute |π(a|s) − π_old(a|s)|, the total variation of the two outcomes "the chosen token" and "another"."""
    return (log_probs.exp() - old_log_probs.exp()).abs()


def binary_kl(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """Compute KL(π_old‖π) of the two outcomes "the chosen token" and "another", in nats."""
    new, old = (x.exp().clamp(max=1 - 1e-6) for x in (log_probs, old_log_probs))
    return old * (old_log_probs - log_probs) + (1 - old) * (torch.log1p(-old) - torch.log1p(-new))


def leaves_region(log_ratio: Tensor, advantages: Tensor, distance: Tensor, limit: float) -> Tensor:
    """Return True for tokens that are farther than the limit and whose loss would take them farther still, ``[n, T]``.

    DPPO's mask: Qi 2026 (arXiv 2602.04879). As with PPO's minimum, tokens on their way back keep their loss.

    Args:
        log_ratio: log π − log π_old.
        advantages: A.
        distance: of π from π_old at each token.
        limit: δ.
    """
    return (distance > limit) & (log_ratio * advantages > 0)


# --- losses of each token --------------------------------------------------------------------------------------


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip: float, clip_high: float | None = None) -> Tensor:
    """Compute PPO's loss of each token: −min(ρA, clip(ρ, 1−ε, 1+ε')A). Schulman 2017 (arXiv 1707.06347), eq. 7.

    An ε' above ε leaves unlikely tokens more room to grow: Yu 2025, "DAPO" (arXiv 2503.14476), eq. 10.

    Args:
        ratio: ρ, ``[n, T]``.
        advantages: A, ``[n, T]``.
        clip: ε.
        clip_high: ε'; None for ε.
    """
    limited = ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    return -torch.minimum(ratio * advantages, limited * advantages)


def weighted_policy_gradient(weight: Tensor, log_probs: Tensor, advantages: Tensor) -> Tensor:
    """Compute −sg(w)·A·log π of each token: a weight that is not differentiated, so that no token's gradient vanishes.

    CISPO, MiniMax 2025 (arXiv 2506.13585), has w = clip(ρ, 1−ε, 1+ε'). PPO's clip of the differentiated ratio
    has gradient 0 on the clipped tokens, which are often rare words that open a new line of thought.

    Args:
        weight: w, ``[n, T]``.
        log_probs: ``[n, T]``.
        advantages: A, ``[n, T]``.
    """
    return -weight.detach() * advantages * log_probs


def soft_gate(ratio: Tensor, advantages: Tensor, tau: float, tau_negative: float) -> Tensor:
    """Compute SAPO's loss −(4/τ)·σ(τ(ρ − 1))·A: a gate that closes smoothly in place of a clip.

    Gao 2025 (arXiv 2511.20347). Its derivative with respect to ρ is −A at ρ = 1, and falls off on both sides.

    Args:
        ratio: ρ, ``[n, T]``.
        advantages: A, ``[n, T]``.
        tau: τ where A > 0.
        tau_negative: τ elsewhere.
    """
    steepness = torch.where(advantages > 0, tau, tau_negative)
    return -(4 / steepness) * torch.sigmoid(steepness * (ratio - 1)) * advantages


def advantage_regression(log_ratio: Tensor, advantages: Tensor, beta: float) -> Tensor:
    """Compute A*PO's loss of each response, (β·Σ_t log(π/π_ref) − A)², the same for all of its tokens.

    Brantley 2025 (arXiv 2505.20686), with A = R − V*: the optimum of E[R] − β·KL has β·log(π*/π_ref) = R − V*.

    Args:
        log_ratio: ``[n, T]`` log π − log π_ref, 0 where the policy chose nothing.
        advantages: A, ``[n, T]``, equal along a response's own tokens.
        beta: β.

    Returns:
        ``[n, T]``; meaningless where the policy chose nothing.
    """
    return (beta * log_ratio.sum(1, keepdim=True) - advantages) ** 2


def policy_gradient(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """Compute −A·log π(a|s), whose gradient is REINFORCE's (Williams 1992); with A = 1 the negative log-likelihood.

    Args:
        log_probs: ``[n, T]``.
        advantages: A, ``[n, T]``.
    """
    return -advantages * log_probs


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Compute ½·max((V−R)², (V_clip−R)²) per token, V_clip within ε of the old value (Schulman's PPO code; Huang 2022).

    Args:
        values: V, ``[n, T]``.
        old_values: V at the rollout, ``[n, T]``.
        returns: R, ``[n, T]``.
        clip: ε, in units of the value.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


# --- means of a minibatch --------------------------------------------------------------------------------------

Normalise: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``normalise(x [n, T], own [n, T])`` reduces the losses of a minibatch's tokens to one number."""


def masked_mean(x: Tensor, own: Tensor) -> Tensor:
    """Average over the policy's own tokens of the batch: all tokens have the same weight (DAPO, arXiv 2503.14476)."""
    return x[own].mean()


def sequence_mean(x: Tensor, own: Tensor) -> Tensor:
    """Average over responses of each one's mean: all responses have the same weight (GRPO, arXiv 2402.03300)."""
    return (x.masked_fill(~own, 0.0).sum(1) / own.sum(1)).mean()


def constant_mean(x: Tensor, own: Tensor, tokens: int) -> Tensor:
    """Average over responses of each one's sum divided by a constant (Dr. GRPO, arXiv 2503.20783).

    The gradient is proportional to that of the expected return, independent of the lengths.
    """
    return x.masked_fill(~own, 0.0).sum(1).mean() / tokens


def weight(kind: Normalisation, own: Tensor) -> int:
    """Return the weight of a minibatch with ``own [n, T]`` in a mean over minibatches.

    The weight is its number of tokens if tokens are averaged, otherwise its number of responses.
    """
    return int(own.sum()) if kind == "token" else len(own)


def make_normalise(kind: Normalisation, horizon: int) -> Normalise:
    """Return the normalisation of that name; ``"constant"`` divides by the horizon T."""
    kinds: dict[Normalisation, Normalise] = {
        "token": masked_mean,
        "sequence": sequence_mean,
        "constant": partial(constant_mean, tokens=horizon),
    }
    return kinds[kind]
