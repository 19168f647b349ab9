"""GAE against numbers worked out by hand, and against what it must equal in special cases."""

import numpy as np
import pytest

from textgym.agents.advantages import gae, whiten


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
