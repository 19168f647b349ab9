"""Losses against hand-computed numbers, and against each other where they must agree."""

from __future__ import annotations

import pytest
import torch

from textgym.agents.functional.objectives import (
    clipped_surrogate,
    clipped_value_loss,
    constant_mean,
    make_normalise,
    masked_mean,
    policy_gradient,
    sequence_mean,
    sequence_ratio,
    token_ratio,
    weight,
)
from textgym.agents.settings import Normalisation

RAGGED = torch.tensor([[True, True, True], [True, False, False]])


def test_clipped_surrogate_by_hand() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    # Clipping binds only where it makes the objective smaller.
    torch.testing.assert_close(clipped_surrogate(ratio, advantages, 0.2), torch.tensor([-1.2, 1.5, -0.5, 0.8, -2.2]))


def test_the_upper_clip_can_be_another() -> None:
    ratio, advantages = torch.tensor([1.5, 0.5]), torch.tensor([1.0, -1.0])
    torch.testing.assert_close(clipped_surrogate(ratio, advantages, 0.2, 0.28), torch.tensor([-1.28, 0.8]))


def test_clipped_value_loss_by_hand() -> None:
    values, old, returns = torch.tensor([2.0, 0.1]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])
    # First: unclipped (2−1)² = 1, clipped (0.2−1)² = 0.64, the larger counts. Second: inside the range.
    torch.testing.assert_close(clipped_value_loss(values, old, returns, 0.2), torch.tensor([0.5, 0.405]))


def test_mean_leaves_invalid_tokens_out() -> None:
    x, valid = torch.tensor([[1.0, 5.0], [3.0, 7.0]]), torch.tensor([[True, False], [True, False]])
    assert masked_mean(x, valid) == 2.0


def test_normalisations_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [8.0, 99.0, 99.0]])
    assert masked_mean(x, RAGGED) == 14 / 4
    assert sequence_mean(x, RAGGED) == (2 + 8) / 2
    assert constant_mean(x, RAGGED, 10) == (6 + 8) / 2 / 10
    found = [float(make_normalise(kind, 10)(x, RAGGED)) for kind in ("token", "sequence", "constant")]
    assert found == pytest.approx([3.5, 5.0, 0.7])


def test_normalisations_agree_on_equal_lengths() -> None:
    x, valid = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.ones(4, 3, dtype=torch.bool)
    for kind in ("sequence", "constant"):
        torch.testing.assert_close(make_normalise(kind, 3)(x, valid), masked_mean(x, valid))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["token", "sequence", "constant"])
def test_parts_of_a_batch_weigh_what_makes_them_the_whole(kind: Normalisation) -> None:
    x, mean = torch.tensor([[1.0, 2.0, 3.0], [8.0, 99.0, 99.0], [4.0, 5.0, 99.0]]), make_normalise(kind, 10)
    valid = torch.cat([RAGGED, torch.tensor([[True, True, False]])])
    parts = [slice(0, 1), slice(1, 3)]
    shares = [weight(kind, valid[part]) * mean(x[part], valid[part]) for part in parts]
    torch.testing.assert_close(sum(shares) / weight(kind, valid), mean(x, valid))


def test_sequence_ratio_by_hand() -> None:
    log_ratio = torch.tensor([[0.3, -0.6, 0.9], [0.5, 0.0, 0.0]])
    expected = torch.tensor([0.2, 0.5]).exp()[:, None].expand(2, 3)
    torch.testing.assert_close(sequence_ratio(log_ratio, RAGGED), expected)


def test_the_ratio_of_a_sequence_of_one_token_is_that_of_the_token() -> None:
    log_ratio = torch.tensor([[0.3], [-0.4]])
    valid = torch.ones(2, 1, dtype=torch.bool)
    assert torch.equal(sequence_ratio(log_ratio, valid), token_ratio(log_ratio))


def test_at_ratio_1_the_clipped_surrogate_has_the_gradient_of_the_policy_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(5, 3, generator=generator).requires_grad_()
    advantages = torch.randn(5, 3, generator=generator)
    ratio = token_ratio(log_probs - log_probs.detach())
    (clipped,) = torch.autograd.grad(clipped_surrogate(ratio, advantages, 0.2).mean(), log_probs)
    (plain,) = torch.autograd.grad(policy_gradient(log_probs, advantages).mean(), log_probs)
    torch.testing.assert_close(clipped, plain)


def test_with_advantage_1_the_policy_gradient_is_the_negative_log_likelihood() -> None:
    log_probs = torch.tensor([[-0.5, -2.0]])
    torch.testing.assert_close(policy_gradient(log_probs, torch.ones(1, 2)), -log_probs)
