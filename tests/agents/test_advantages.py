"""Estimators against numbers worked out by hand, and against what they must equal in special cases."""

import numpy as np
import pytest
import torch

from textgym.agents.functional.objectives import (
    best_of_groups,
    gae,
    greedy_baseline,
    group_relative,
    leave_one_out,
    monte_carlo,
    spread,
    whiten,
)


def test_gae_by_hand() -> None:
    # Two tokens, rewards 1 and 2, values 0.5 and 1, λ = 0.5, γ = 1:
    # δ1 = 2 − 1 = 1;  δ0 = 1 + 1 − 0.5 = 1.5;  A1 = 1;  A0 = 1.5 + 0.5·1 = 2.
    rewards = np.array([[1.0, 2.0, 0.0]], np.float32)
    values = np.array([[0.5, 1.0, 9.0, 9.0]], np.float32)
    valid = np.array([[True, True, False]])
    advantages, returns = gae(rewards, values, valid, 0.5)
    np.testing.assert_allclose(advantages, [[2.0, 1.0, 0.0]])
    np.testing.assert_allclose(returns, [[2.5, 2.0, 0.0]])


def test_truncation_bootstraps_from_the_state_after_the_last_token() -> None:
    rewards = np.array([[1.0, 2.0, 0.0]], np.float32)
    values = np.array([[0.5, 1.0, 4.0, 9.0]], np.float32)
    valid = np.array([[True, True, False]])
    # δ1 = 2 + 4 − 1 = 5;  δ0 = 1.5;  A0 = 1.5 + 0.5·5 = 4.
    advantages, _ = gae(rewards, values, valid, 0.5, np.array([True]))
    np.testing.assert_allclose(advantages, [[4.0, 5.0, 0.0]])


@pytest.mark.parametrize("lengths", [[5, 3], [1, 5]])
def test_lambda_one_is_return_minus_value(lengths: list[int]) -> None:
    rng = np.random.default_rng(0)
    valid = np.arange(5) < np.array(lengths)[:, None]
    rewards = np.where(valid, rng.normal(size=(2, 5)), 0).astype(np.float32)
    values = rng.normal(size=(2, 6)).astype(np.float32)
    to_go = np.where(valid, rewards[:, ::-1].cumsum(1)[:, ::-1], 0)
    advantages, returns = gae(rewards, values, valid, 1.0)
    np.testing.assert_allclose(returns, to_go, atol=1e-5)
    np.testing.assert_allclose(advantages, np.where(valid, to_go - values[:, :-1], 0), atol=1e-5)


def test_lambda_zero_is_the_one_step_error() -> None:
    rewards, values = np.ones((1, 2), np.float32), np.array([[3.0, 5.0, 7.0]], np.float32)
    advantages, _ = gae(rewards, values, np.ones((1, 2), bool), 0.0)
    np.testing.assert_allclose(advantages, [[1 + 5 - 3, 1 - 5]])


def test_whitening_counts_valid_tokens_only() -> None:
    x = np.array([[1.0, 3.0, 100.0]], np.float32)
    valid = np.array([[True, True, False]])
    np.testing.assert_allclose(whiten(x, valid), [[-1.0, 1.0, 0.0]], atol=1e-6)


# --- returns of whole episodes -----------------------------------------------------------------------------------


def random_episodes(n: int = 6, horizon: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rewards, values and valid tokens of ragged episodes."""
    rng = np.random.default_rng(0)
    valid = np.arange(horizon) < rng.integers(1, horizon + 1, size=n)[:, None]
    rewards = np.where(valid, rng.normal(size=(n, horizon)), 0).astype(np.float32)
    return rewards, rng.normal(size=(n, horizon + 1)).astype(np.float32), valid


@pytest.mark.parametrize("cut", [None, [True, False, True, False, False, True]])
def test_monte_carlo_is_gae_with_lambda_one(cut: list[bool] | None) -> None:
    rewards, values, valid = random_episodes()
    truncated = None if cut is None else np.array(cut)
    for a, b in zip(
        monte_carlo(rewards, values, valid, truncated), gae(rewards, values, valid, 1.0, truncated), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_gae_with_lambda_one_and_a_zero_critic_is_the_return() -> None:
    rewards, values, valid = random_episodes()
    to_go = np.where(valid, rewards[:, ::-1].cumsum(1)[:, ::-1], 0)
    np.testing.assert_allclose(gae(rewards, 0 * values, valid, 1.0).advantages, to_go, atol=1e-5)


# --- groups ------------------------------------------------------------------------------------------------------

RETURNS = np.array([1.0, 2.0, 6.0, 4.0, 4.0, 4.0])


def test_groups_by_hand() -> None:
    np.testing.assert_allclose(leave_one_out(RETURNS, 3), [1 - 4, 2 - 3.5, 6 - 1.5, 0, 0, 0])
    np.testing.assert_allclose(group_relative(RETURNS, 3, scale=False), [-2, -1, 3, 0, 0, 0])
    np.testing.assert_allclose(greedy_baseline(RETURNS, np.array([2.0, 5.0])), [-1, 0, 4, -1, -1, -1])
    assert best_of_groups(RETURNS, 3).tolist() == [2, 3]


@pytest.mark.parametrize("k", [2, 3, 6])
def test_rloo_is_the_group_mean_baseline_times_k_over_k_minus_1(k: int) -> None:
    returns = np.random.default_rng(0).normal(size=6)
    expected = group_relative(returns, k, scale=False) * k / (k - 1)
    np.testing.assert_allclose(leave_one_out(returns, k), expected)


def test_grpo_without_std_and_with_one_group_is_centred_reinforce() -> None:
    np.testing.assert_allclose(group_relative(RETURNS, len(RETURNS), scale=False), RETURNS - RETURNS.mean())


@pytest.mark.parametrize("bessel", [False, True])
def test_grpo_has_unit_deviation_in_every_group_that_differs(bessel: bool) -> None:
    advantages = group_relative(np.array([1.0, 2.0, 6.0, 400.0, 100.0, 200.0]), 3, bessel=bessel).reshape(2, 3)
    np.testing.assert_allclose(advantages.std(1, ddof=int(bessel)), 1, rtol=1e-3)
    np.testing.assert_allclose(advantages.mean(1), 0, atol=1e-12)


def test_the_deviation_is_by_default_that_of_torch_which_trl_calls() -> None:
    """1, 2, 6: centred −2, −1, 3; the sum of squares is 14, over k − 1 = 2 or over k = 3."""
    np.testing.assert_allclose(group_relative(RETURNS, 3)[:3], np.array([-2, -1, 3]) / (7**0.5 + 1e-4))
    published = np.array([-2, -1, 3]) / ((14 / 3) ** 0.5 + 1e-4)
    np.testing.assert_allclose(group_relative(RETURNS, 3, bessel=False)[:3], published)
    groups = torch.tensor(RETURNS).view(2, 3)
    trl = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
    np.testing.assert_allclose(group_relative(RETURNS, 3), trl.flatten().numpy())


def test_rounding_is_no_difference_between_equal_returns() -> None:
    returns = np.full(3, 0.1 + 0.2) + np.array([0, 1e-8, 0])
    assert np.abs(group_relative(returns, 3)).max() < 1e-3


def test_every_token_gets_its_responses_advantage() -> None:
    valid = np.array([[True, True, False], [True, False, False]])
    assert spread(np.array([2.0, -1.0]), valid).advantages.tolist() == [[2, 2, 0], [-1, 0, 0]]


def test_rounding_noise_is_no_signal() -> None:
    """Equal rewards, shaped with log-probabilities that two passes rounded differently, say nothing."""
    noise = np.random.default_rng(0).normal(scale=1e-8, size=(6, 5)).astype(np.float32)
    valid = np.ones((6, 5), bool)
    np.testing.assert_array_equal(whiten(0.5 + noise, valid), 0.0)
    assert whiten(0.5 + 1e4 * noise, valid).std() == pytest.approx(1, rel=1e-3)
