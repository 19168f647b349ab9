"""Losses against hand-computed numbers."""

import torch

from textgym.agents.losses import clipped_surrogate, clipped_value_loss, masked_mean


def test_clipped_surrogate_by_hand() -> None:
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    # Clipping binds only where it makes the objective smaller.
    torch.testing.assert_close(clipped_surrogate(ratio, advantages, 0.2), torch.tensor([-1.2, 1.5, -0.5, 0.8, -2.2]))


def test_clipped_value_loss_by_hand() -> None:
    values, old, returns = torch.tensor([2.0, 0.1]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])
    # First: unclipped (2−1)² = 1, clipped (0.2−1)² = 0.64, the larger counts. Second: inside the range.
    torch.testing.assert_close(clipped_value_loss(values, old, returns, 0.2), torch.tensor([0.5, 0.405]))


def test_mean_leaves_invalid_tokens_out() -> None:
    x, valid = torch.tensor([[1.0, 5.0], [3.0, 7.0]]), torch.tensor([[True, False], [True, False]])
    assert masked_mean(x, valid) == 2.0
