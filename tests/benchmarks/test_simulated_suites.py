"""Simulated benchmarks: intervals cover, equal algorithms are seldom told apart, and real differences are found."""

import numpy as np
import pytest

from scripts.simulate_intervals import (
    ALGORITHMS,
    NOISES,
    Noise,
    alike,
    all_pairs,
    bounded,
    exact_flips,
    family_wise,
    found_among,
    holm_student,
    normal,
    ours,
    over_these_tasks,
    power,
    seldom_won,
    skewed,
    unlike_algorithms,
    won_or_lost,
)

EVERY_PAIR = ~np.eye(ALGORITHMS, dtype=bool)


@pytest.mark.parametrize("noise", [normal, skewed, seldom_won, unlike_algorithms, alike])
def test_sixteen_equal_algorithms_are_seldom_told_apart(noise: Noise) -> None:
    p = found_among(noise, np.zeros(ALGORITHMS), 8, 300, ours)
    assert family_wise(p, EVERY_PAIR) <= 0.05 + 2 * 0.0126  # two standard errors of 300


@pytest.mark.parametrize("noise", [normal, skewed, unlike_algorithms])
def test_real_differences_do_not_make_equals_look_different(noise: Noise) -> None:
    """Eight pairs of equals, 0.06 apart."""
    means = np.repeat(np.arange(8) * 0.06, 2)
    p = found_among(noise, means, 8, 100, ours)
    assert family_wise(p, EVERY_PAIR & (means[:, None] == means)) <= 0.05
    # And they are found, more than by Student's test with Holm's correction or by exact flips.
    far = np.isclose(np.abs(means[:, None] - means), 0.12)
    others = [found_among(noise, means, 8, 100, test) for test in (holm_student, exact_flips)]
    found = [(one[:, far] < 0.05).mean() for one in (p, *others)]
    assert found[0] > 0.5
    assert found[0] > max(found[1:]) - (0.1 if noise is unlike_algorithms else 0)


def test_all_intervals_of_differences_hold_together() -> None:
    assert all_pairs(normal, 8, 300) >= 0.95 - 2 * 0.0126


@pytest.mark.parametrize(
    ("noise", "least"), [(normal, 0.95), (bounded, 0.92), (won_or_lost, 0.92), (skewed, 0.92), (seldom_won, 0.91)]
)
@pytest.mark.parametrize(("instances", "most"), [(2, 0.97), (3, 0.96), (5, 0.96)])
def test_means_over_these_tasks_cover_the_truth(noise: Noise, least: float, instances: int, most: float) -> None:
    """As the docstring has it, within two standard errors of 1,000."""
    assert least - 0.018 <= over_these_tasks(noise, instances, 8, 1000) <= most + 0.018


def test_power_for_a_lead_of_seven_hundredths() -> None:
    """Of two algorithms it is that of Student's paired test; among 16 it is lower."""
    found = power(0.04, 8, 2, 100)
    assert found.pair > 0.9
    assert found.pair > found.leader > 0.3
    # The detectable difference is found in 76 to 78 % of cases, here within two standard errors of 100.
    assert found.at_detectable >= 0.76 - 2 * 0.043
    assert found.detectable > 0.07


def test_every_kind_of_noise_has_mean_zero() -> None:
    rng = np.random.default_rng(0)
    for name, noise in NOISES.items():
        drawn = np.mean([noise(rng, 16, 8) for _ in range(1500)], (0, 2))
        assert np.abs(drawn).max() < 0.1, name  # 4 standard errors of the widest
