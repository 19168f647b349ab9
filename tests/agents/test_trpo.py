"""TRPO's step: inside its region, along the natural gradient."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tests.agents.test_algorithms import make
from tests.agents.test_ppo import equal
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.episodes import Minibatch, minibatches
from textgym.agents.loop.evaluation import visited_kl
from textgym.agents.trpo import TRPO, TrustRegion, flatten, twice_differentiable
from textgym.lm.sampling import Sampling
from textgym.lm.trunk import Trunk


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 2, top_k=20)])
def test_the_exact_kl_of_a_step_is_at_most_the_target(sampling: Sampling) -> None:
    algorithm, twin = make("trpo", sampling=sampling), make("trpo", sampling=sampling)
    steps, found = [], []
    for _ in range(3):
        twin.policy.lm.load_state_dict(copy.deepcopy(algorithm.policy.lm.state_dict()))
        episodes = algorithm.collect()
        assert episodes is not None
        steps.append(algorithm.train(episodes)["train/step_kl"])
        kl = visited_kl(twin.policy, Trunk(algorithm.policy.lm), episodes)
        if not sampling.truncates:  # there, the new policy's own kept tokens count
            found.append(kl[episodes.own].mean())
    assert 0.001 < max(steps) <= 0.01
    np.testing.assert_allclose(found, steps[: len(found)], atol=1e-5)


def collected(size: int) -> tuple[SequenceAlgorithm, list[Minibatch]]:
    """Return an untrained algorithm with an iteration's responses, in minibatches."""
    algorithm = make("trpo")
    episodes = algorithm.collect()
    assert episodes is not None
    scored = algorithm.score(episodes)
    estimated = algorithm.estimate_advantages(scored)
    return algorithm, list(minibatches(scored, estimated, size, 1, np.random.default_rng(0), torch.device("cpu")))


def test_the_curvature_is_that_of_the_kl() -> None:
    """Against a difference quotient: KL(θ + εv) ≈ ½ε²·vᵀFv."""
    algorithm, batches = collected(8)
    weights = list(algorithm.policy.lm.parameters())
    region = TrustRegion(algorithm.policy, batches, weights)
    vector = torch.randn(flatten(weights).shape, generator=torch.Generator().manual_seed(0))
    with twice_differentiable():
        curvature = float(vector @ region.curvature(0.0)(vector))
    assert region.kl() == pytest.approx(0, abs=1e-7)
    with torch.no_grad():
        start = 0
        for p in weights:
            p += 1e-3 * vector[start : start + p.numel()].view_as(p)
            start += p.numel()
    assert region.kl() == pytest.approx(0.5e-6 * curvature, rel=0.05)


def test_a_share_of_the_curvature_is_that_of_the_first_batches() -> None:
    """8 responses in minibatches of 2: half of them are the first two, as if there were no others."""
    algorithm, batches = collected(2)
    weights = list(algorithm.policy.lm.parameters())
    half, first = TrustRegion(algorithm.policy, batches, weights, 0.5), batches[: len(batches) // 2]
    vector = torch.randn(flatten(weights).shape, generator=torch.Generator().manual_seed(0))
    with twice_differentiable():
        expected = TrustRegion(algorithm.policy, first, weights).curvature(0.0)(vector)
        torch.testing.assert_close(half.curvature(0.0)(vector), expected)
        whole = TrustRegion(algorithm.policy, batches, weights).curvature(0.0)(vector)
    assert len(batches) >= 4
    assert not torch.allclose(whole, expected)


def test_the_critic_learns_and_leaves_the_policy_alone() -> None:
    algorithm = make("trpo", target_kl=1e-12)  # the policy stays where it is, up to rounding
    assert isinstance(algorithm, TRPO)
    algorithm._step = lambda _: {"ratio_error": 0.0}  # type: ignore[method-assign]
    before = copy.deepcopy(algorithm.policy.lm.state_dict())
    algorithm.learn(200)
    assert equal(before, algorithm.policy.lm.state_dict())
    assert algorithm.policy.value.head.linear.bias.abs() > 0  # type: ignore[union-attr]


def test_no_global_generator_is_touched() -> None:
    before = torch.get_rng_state()
    make("trpo").learn(100)
    assert torch.equal(torch.get_rng_state(), before)
