"""Losses against hand-computed numbers, and against each other where they must agree."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.agents.test_algorithms import make
from textgym.agents.functional.objectives import (
    binary_kl,
    binary_tv,
    clipped_surrogate,
    clipped_value_loss,
    constant_mean,
    gamma_weight,
    geometric_ratio,
    leaves_region,
    make_normalise,
    masked_mean,
    policy_gradient,
    response_ratio,
    sequence_mean,
    sequence_ratio,
    soft_gate,
    token_ratio,
    weight,
    weighted_policy_gradient,
)
from textgym.agents.loop.episodes import Minibatch
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


# --- what becomes of a token whose probability has changed --------------------------------------------------------


def minibatch(old: Tensor, advantages: Tensor, own: Tensor) -> Minibatch:
    """Return a minibatch of which a policy loss reads these alone, ``[n, T]`` each."""
    no = torch.zeros_like(old)
    return Minibatch(no, no, own, old, no, no, advantages, no, None, None)


def slopes(name: str, ratio: Tensor, advantages: Tensor, old: float = 0.1, **settings: Any) -> Tensor:
    """Return dL/dlog π of each token by an algorithm's own loss, for tokens that had probability ``old``."""
    before = torch.full_like(ratio, math.log(old))
    log_probs = (before + ratio.log()).requires_grad_()
    own = torch.ones_like(ratio, dtype=torch.bool)
    loss = make(name, **settings).policy_loss(log_probs, minibatch(before, advantages, own))
    (found,) = torch.autograd.grad(loss.sum(), log_probs)
    return found


UP_AND_DOWN = torch.tensor([[1.0, -2.0], [3.0, -0.5]])


@pytest.mark.parametrize("name", ["grpo", "dapo", "dr-grpo", "maxrl", "reinforce++", "cispo", "dppo", "sapo", "vespo"])
def test_with_ratio_1_each_token_has_the_gradient_of_reinforce(name: str) -> None:
    torch.testing.assert_close(slopes(name, torch.ones(2, 2), UP_AND_DOWN), -UP_AND_DOWN)


@pytest.mark.parametrize(("name", "divisor"), [("gspo", 2), ("luspo", 2), ("gmpo", 2), ("rloo-clipped", 1)])
def test_with_ratio_1_a_response_of_two_tokens_has_that_of_its_ratio(name: str, divisor: int) -> None:
    """The loss stands at both tokens, and each token has one of the |y| shares in a geometric mean."""
    advantages = torch.tensor([[1.0, 1.0], [-2.0, -2.0]])
    torch.testing.assert_close(slopes(name, torch.ones(2, 2), advantages), -advantages * 2 / divisor)


def test_a_clipped_response_of_many_tokens_has_gradient_0() -> None:
    """A ratio of e^150 is infinite in float32; beyond the clip range the loss is constant nevertheless."""
    ratio = torch.full((1, 300), math.exp(0.5))
    torch.testing.assert_close(slopes("rloo-clipped", ratio, torch.ones(1, 300)), torch.zeros(1, 300))


def test_cispo_clips_the_weight_and_drops_no_token() -> None:
    """ρ = 1.65, A = 1, ε' = 0.2: −1.2. Differentiating the clipped ratio itself, as torchrl does, gives 0."""
    ratio, advantages = torch.tensor([[1.65, 1.65, 0.3, 1.1]]), torch.tensor([[1.0, -2.0, 3.0, 1.0]])
    torch.testing.assert_close(slopes("cispo", ratio, advantages), torch.tensor([[-1.2, 2.4, -0.9, -1.1]]))
    lower = slopes("cispo", ratio, advantages, clip_range=0.4, clip_range_high=4.0)
    torch.testing.assert_close(lower, torch.tensor([[-1.65, 3.3, -1.8, -1.1]]))
    assert slopes("grpo", ratio, advantages)[0, 0] == 0.0
    log_ratio = ratio.log().requires_grad_()
    (torchrls,) = torch.autograd.grad((-log_ratio.exp().clamp(0.8, 1.2) * advantages).sum(), log_ratio)
    assert torchrls[0, 0] == 0.0


def test_a_weight_is_not_differentiated() -> None:
    log_probs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    loss = weighted_policy_gradient(log_probs.exp(), log_probs, torch.tensor([[2.0, -3.0]]))
    torch.testing.assert_close(loss, torch.tensor([[2 * math.exp(-1), -6 * math.exp(-2)]]))
    (slope,) = torch.autograd.grad(loss.sum(), log_probs)
    torch.testing.assert_close(slope, torch.tensor([[-2 * math.exp(-1), 3 * math.exp(-2)]]))


def test_distances_of_two_outcomes_by_hand() -> None:
    new, old = torch.tensor([0.8, 0.25, 0.5]).log(), torch.tensor([0.5, 0.2, 0.5]).log()
    torch.testing.assert_close(binary_tv(new, old), torch.tensor([0.3, 0.05, 0.0]))
    # ½·ln(0.5/0.8) + ½·ln(0.5/0.2) = −0.2350 + 0.4581; 0.2·ln 0.8 + 0.8·ln(0.8/0.75) = −0.0446 + 0.0516.
    torch.testing.assert_close(binary_kl(new, old), torch.tensor([0.22314, 0.00700, 0.0]), atol=1e-5, rtol=0)
    # A token of probability 1 leaves no other, whose part is then 0·log 0.
    assert binary_kl(torch.tensor([0.0]), torch.tensor([0.0])) == pytest.approx(0.0, abs=1e-6)


def test_a_token_leaves_the_region_only_outwards() -> None:
    log_ratio = torch.tensor([0.3, 0.3, -0.3, -0.3, 0.3, 0.3])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, 0.0])
    distance = torch.tensor([0.21, 0.21, 0.21, 0.21, 0.2, 0.9])
    assert leaves_region(log_ratio, advantages, distance, 0.2).tolist() == [True, False, False, True, False, False]


def test_dppo_drops_by_the_change_of_probability() -> None:
    """From 0.5 to 0.71 is far; from 0.1 to 0.29 is not, though its ratio is 2.9. Kept tokens have −ρA unclipped."""
    outward = torch.ones(1, 2)
    assert slopes("dppo", torch.tensor([[1.42, 1.38]]), outward, old=0.5)[0].tolist() == pytest.approx([0.0, -1.38])
    assert slopes("dppo", torch.tensor([[2.9, 3.1]]), outward, old=0.1)[0].tolist() == pytest.approx([-2.9, 0.0])
    assert slopes("dppo", torch.tensor([[1.42, 0.5]]), -outward, old=0.5)[0].tolist() == pytest.approx([1.42, 0.0])
    # KL of 0.5 against 0.66 is 0.0540, against 0.65 it is 0.0472; δ is 0.05.
    kl = slopes("dppo", torch.tensor([[1.32, 1.3]]), outward, old=0.5, distance="kl")
    assert kl[0].tolist() == pytest.approx([0.0, -1.3])
    assert slopes("dppo", torch.tensor([[1.1]]), outward[:, :1], old=0.5, max_distance=0.04)[0].tolist() == [0.0]


def test_dppo_with_a_limit_of_1_is_plain_importance_weighting() -> None:
    ratio, advantages = torch.tensor([[9.9, 9.9, 0.01, 0.01]]), torch.tensor([[1.0, -1.0, 2.0, -2.0]])
    torch.testing.assert_close(slopes("dppo", ratio, advantages, max_distance=1.0), -ratio * advantages)


def test_a_geometric_ratio_by_hand() -> None:
    """Limited at 0.4 from above where A > 0, at −0.3 from below where A < 0; three tokens, then two."""
    own = torch.tensor([[True, True, True], [True, True, True], [True, False, True]])
    log_ratio = torch.tensor([[0.5, -0.5, 0.4], [0.5, -0.5, 0.4], [-0.7, 0.0, 0.1]])
    advantages = torch.tensor([[2.0, 2.0, 2.0], [-1.0, -1.0, -1.0], [-3.0, 0.0, -3.0]])
    expected = torch.tensor([0.3 / 3, 0.6 / 3, -0.2 / 2]).exp()
    found = geometric_ratio(log_ratio, advantages, own, 0.3, 0.4)
    torch.testing.assert_close(found, expected[:, None].expand(3, 3))


def test_gmpo_gives_a_clipped_token_no_gradient_and_the_others_theirs() -> None:
    ratio = torch.tensor([[0.5, 0.1]]).exp()
    mean = math.exp((0.4 + 0.1) / 2)
    expected = torch.tensor([[0.0, -3.0 * mean]])  # the loss stands at both tokens, and the mean halves it
    torch.testing.assert_close(slopes("gmpo", ratio, torch.full((1, 2), 3.0)), expected)


@pytest.mark.parametrize(("advantage", "tau"), [(2.0, 0.5), (-2.0, 3.0), (0.0, 3.0)])
def test_a_soft_gate_by_hand(advantage: float, tau: float) -> None:
    """−(4/τ)·σ(τ(ρ − 1))·A, with derivative −4·σ·(1 − σ)·A."""
    for ratio in (1.0, 2.0, 0.4):
        rho = torch.tensor(ratio, requires_grad=True)
        loss = soft_gate(rho, torch.tensor(advantage), 0.5, 3.0)
        sigma = 1 / (1 + math.exp(-tau * (ratio - 1)))
        assert float(loss.detach()) == pytest.approx(-4 / tau * sigma * advantage)
        loss.backward()
        assert rho.grad is not None
        assert float(rho.grad) == pytest.approx(-4 * sigma * (1 - sigma) * advantage)
    assert float(soft_gate(torch.tensor(1.0), torch.tensor(2.0), 0.5, 3.0)) == -8.0
    # σ(1) = 0.731059, σ'(1) = 0.196612.
    assert float(soft_gate(torch.tensor(2.0), torch.tensor(1.0), 1.0, 1.05)) == pytest.approx(-2.924234)


def test_the_weight_of_a_response_by_hand() -> None:
    """φ(W) = W^k·e^(λ(1 − W)): W = 1: 1; W = 2, k = 2, λ = 3: 4·e^−3; W = ½: ¼·e^1.5."""
    two = math.log(2)
    log_ratio = torch.tensor([[0.2, -0.2], [0.3, two - 0.3], [-two, 0.0]])
    k, decay = torch.full((3, 2), 2.0), torch.full((3, 2), 3.0)
    expected = torch.tensor([1.0, 4 * math.exp(-3), 0.25 * math.exp(1.5)])
    torch.testing.assert_close(gamma_weight(log_ratio, k, decay), expected[:, None].expand(3, 2))
    other = gamma_weight(log_ratio, torch.full((3, 2), 3.0), torch.full((3, 2), 2.0))
    torch.testing.assert_close(other[1], torch.full((2,), 8 * math.exp(-2)))


def test_the_weight_of_a_response_far_away_is_finite() -> None:
    """W is at least 1e-8 and at most e^20, as in the published code; there φ is e^3·1e-16, and 0."""
    log_ratio = torch.tensor([[-70.0, -70.0], [70.0, 70.0]])
    found = gamma_weight(log_ratio, torch.full((2, 2), 2.0), torch.full((2, 2), 3.0))
    torch.testing.assert_close(found[0], torch.full((2,), math.exp(3) * 1e-16), rtol=1e-4, atol=0)
    assert found[1].tolist() == [0.0, 0.0]


def test_vespo_weighs_gains_and_losses_differently() -> None:
    """W = 2: 4·e^−3 where A ≥ 0, 8·e^−2 where A < 0; the weight itself is not differentiated."""
    ratio, advantages = torch.tensor([[4.0, 0.5], [4.0, 0.5]]), torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    expected = torch.tensor([[-4 * math.exp(-3)] * 2, [8 * math.exp(-2)] * 2])
    torch.testing.assert_close(slopes("vespo", ratio, advantages), expected)


def test_the_ratio_of_a_response_is_the_product() -> None:
    log_ratio = torch.tensor([[0.3, -0.6, 0.9], [0.5, 0.0, 0.0]])
    torch.testing.assert_close(response_ratio(log_ratio), torch.tensor([0.6, 0.5]).exp()[:, None].expand(2, 3))


def test_luspo_is_gspo_with_each_response_times_its_length() -> None:
    """Lengths 3 and 1 of a horizon of 6."""
    old, advantages = torch.full((2, 3), -1.0), torch.tensor([[2.0, 2.0, 2.0], [-1.0, 0.0, 0.0]])
    new = torch.tensor([[-0.9, -1.1, -0.7], [-1.1, 0.0, 0.0]])
    old[1, 1:] = 0.0
    batch = minibatch(old, advantages, RAGGED)
    gspo, luspo = make("gspo"), make("luspo")
    each = [gspo.normalise(gspo.policy_loss(new, batch)[i : i + 1], RAGGED[i : i + 1]) for i in range(2)]
    expected = (3 * each[0] + 1 * each[1]) / 2 / 6
    torch.testing.assert_close(luspo.normalise(luspo.policy_loss(new, batch), RAGGED), expected)
    assert float(expected) == pytest.approx((-3 * 2 * math.exp(0.1) + math.exp(-0.1)) / 12)
