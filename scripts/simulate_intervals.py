"""Simulate benchmarks and print coverage, false alarms and power of the published intervals and tests.

Usage: python -m scripts.simulate_intervals [--sets N]

Seeds are fixed, so the same command prints the same numbers. Half an hour of one core at 1,000 sets.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from textgym.benchmarks.analysis.pairs import Pairs, compare_pairs
from textgym.benchmarks.analysis.statistics import (
    interquartile_mean,
    mean_estimate,
    mean_over_these_tasks,
    stratified_estimate,
)
from textgym.types import FloatArray

ALGORITHMS = 16
SPREAD = 0.08
"""Standard deviation of a pair's differences over tasks, as between PPO and A2C on the mini tasks."""
INSTANCE_SPREAD = 0.04
"""The same over instances of one task, where power is simulated."""
LEAD = 0.07
Indices = NDArray[np.intp]
Noise = Callable[[np.random.Generator, int, int], FloatArray]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000, help="simulated benchmarks for each number")
    sets = parser.parse_args(arguments).sets
    print(f"Simulated benchmarks for each number: {sets}\n")
    print_coverage(sets)
    print_false_alarms(sets)
    print_power(sets // 4)


# -- Equal algorithms ------------------------------------------------------------------------------


def normal(rng: np.random.Generator, algorithms: int, tasks: int) -> FloatArray:
    """Return scores ``[algorithms, tasks]`` of equal algorithms, of mean 0 and a spread of 1, as all below."""
    return rng.normal(size=(algorithms, tasks))


def skewed(rng: np.random.Generator, algorithms: int, tasks: int) -> FloatArray:
    """Draw exponential scores."""
    return rng.exponential(size=(algorithms, tasks)) - 1


def seldom_won(rng: np.random.Generator, algorithms: int, tasks: int) -> FloatArray:
    """Draw runs that are won in one case of five, and lost in the others."""
    won = (rng.random((algorithms, tasks)) < 0.2) - 0.2
    return won / 0.4 + 0.1 * rng.normal(size=won.shape)


def won_or_lost(rng: np.random.Generator, algorithms: int, tasks: int) -> FloatArray:
    """Draw runs that are won or lost, from tasks that are hard to tasks that are easy."""
    chances = np.linspace(0.2, 0.8, tasks)
    won = (rng.random((algorithms, tasks)) < chances) - chances
    return won / np.sqrt(chances * (1 - chances)) + 0.1 * rng.normal(size=won.shape)


def bounded(rng: np.random.Generator, algorithms: int, tasks: int) -> FloatArray:
    """Draw scores from 0 to 1, moved to mean 0, from tasks that are hardly learned to tasks that are nearly solved."""
    a, b = np.linspace(0.5, 8, tasks), np.linspace(5, 0.7, tasks)
    return (rng.beta(a, b, (algorithms, tasks)) - a / (a + b)) * (a + b) / np.sqrt(a * b / (a + b + 1))


def unlike_tasks(rng: np.random.Generator, algorithms: int, tasks: int) -> FloatArray:
    """Draw tasks whose spread differs, by a factor of e for one standard deviation of its logarithm."""
    return normal(rng, algorithms, tasks) * np.exp(rng.normal(size=tasks))


def unlike_algorithms(rng: np.random.Generator, algorithms: int, tasks: int) -> FloatArray:
    """Draw algorithms whose spread differs tenfold."""
    return normal(rng, algorithms, tasks) * np.geomspace(0.2, 2, algorithms)[:, None]


def alike(rng: np.random.Generator, algorithms: int, tasks: int) -> FloatArray:
    """Draw families of four algorithms that fare alike: they differ a third as much as families do."""
    families = np.repeat(normal(rng, -(-algorithms // 4), tasks), 4, 0)[:algorithms]
    return 0.95 * families + 0.3 * normal(rng, algorithms, tasks)


def unlike_and_skewed(rng: np.random.Generator, algorithms: int, tasks: int) -> FloatArray:
    """Draw skewed scores, to either side in turn, whose spread differs tenfold: equal in their mean alone."""
    turns = np.where(np.arange(algorithms) % 2, 1, -1) * np.geomspace(0.2, 2, algorithms)
    return skewed(rng, algorithms, tasks) * turns[:, None]


NOISES: dict[str, Noise] = {
    "normal": normal,
    "skewed": skewed,
    "won in one case of five": seldom_won,
    "tasks of unlike spread": unlike_tasks,
    "algorithms of unlike spread": unlike_algorithms,
    "families of alike algorithms": alike,
    "unlike and skewed, equal in mean": unlike_and_skewed,
}


def found_among(
    noise: Noise, means: FloatArray, tasks: int, sets: int, compare: Callable[[FloatArray], Pairs | FloatArray]
) -> FloatArray:
    """Return p-values ``[sets, n, n]`` of simulated benchmarks of algorithms with the given true means."""
    rng, p = np.random.default_rng(17), []
    for _ in range(sets):
        found = compare(means[:, None] + SPREAD / np.sqrt(2) * noise(rng, len(means), tasks))
        p.append(found.p if isinstance(found, Pairs) else found)
    return np.array(p)


def ours(units: FloatArray) -> Pairs:
    """Compare ``[algorithms, tasks]`` as the reports do."""
    return compare_pairs(units[:, None], np.random.default_rng(0))


def family_wise(p: FloatArray, equal: NDArray[np.bool_]) -> float:
    """Return the share of benchmarks with a false alarm among the pairs that are equal."""
    return float((np.where(equal, p, 1) < 0.05).any((1, 2)).mean())


def print_false_alarms(sets: int) -> None:
    """Print family-wise false alarms of several tests, and the power that they have."""
    equal, ladder = np.zeros(ALGORITHMS), np.repeat(np.arange(ALGORITHMS // 2) * 0.06, 2)
    gaps = np.abs(ladder[:, None] - ladder)
    print(f"False alarms among {ALGORITHMS} equal algorithms, and in brackets the share of differences of 0.12 found")
    print(f"where pairs of equals are 0.06 apart (spread {SPREAD}); all tests at 5 % over all pairs")
    for tasks in (6, 8, 12):
        print(f"\n| {tasks} tasks | {' | '.join(TESTS)} |\n| --- |{' ---: |' * len(TESTS)}")
        for name, noise in NOISES.items():
            cells = []
            for test in TESTS.values():
                alarms = family_wise(found_among(noise, equal, tasks, sets, test), ~np.eye(ALGORITHMS, dtype=bool))
                p = found_among(noise, ladder, tasks, sets // 8, test)
                cells.append(f"{alarms:.3f} ({(p[:, np.isclose(gaps, 0.12)] < 0.05).mean():.2f})")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


# -- Tests that were not chosen --------------------------------------------------------------------


def holm_student(units: FloatArray) -> FloatArray:
    """Return p-values ``[n, n]`` of Student's paired test with Holm's correction."""
    first, second, gaps = _gaps(units)
    statistic = np.abs(gaps.mean(1)) / stats.sem(gaps, axis=1)
    p = 2 * stats.t.sf(statistic, gaps.shape[1] - 1)
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return _matrix(len(units), first, second, corrected)


def exact_flips(units: FloatArray) -> FloatArray:
    """Return p-values ``[n, n]`` of flips of the differences themselves: step-down, exact, divided by the same root."""
    first, second, gaps = _gaps(units)
    count = gaps.shape[1]
    signs = np.where(np.arange(2 ** (count - 1))[:, None] >> np.arange(count) & 1, -1.0, 1.0)
    values = np.abs(signs @ gaps.T) / count / (gaps**2).mean(1) ** 0.25
    order = np.argsort(-values[0])
    largest = np.maximum.accumulate(values[:, order[::-1]], 1)[:, ::-1]
    p = np.empty(len(order))
    p[order] = np.maximum.accumulate((largest >= values[0, order] * (1 - 1e-9)).mean(0))
    return _matrix(len(units), first, second, p)


def tukey(units: FloatArray) -> FloatArray:
    """Return 0 for pairs that Tukey's test, with one spread for all pairs, tells apart at 5 %, else 1, ``[n, n]``."""
    first, second, gaps = _gaps(units)
    tasks = gaps.shape[1]
    studentized = np.abs(gaps.mean(1)) / np.sqrt(gaps.var(1, ddof=1).mean() / tasks) * np.sqrt(2)
    return _matrix(len(units), first, second, np.where(studentized > _critical(len(units), tasks), 0.0, 1.0))


_CRITICAL: dict[tuple[int, int], float] = {}


def _critical(algorithms: int, tasks: int) -> float:
    if (algorithms, tasks) not in _CRITICAL:
        degrees = (algorithms - 1) * (tasks - 1)
        _CRITICAL[algorithms, tasks] = float(stats.studentized_range.isf(0.05, algorithms, degrees))
    return _CRITICAL[algorithms, tasks]


def _gaps(units: FloatArray) -> tuple[Indices, Indices, FloatArray]:
    first, second = np.triu_indices(len(units), 1)
    return first, second, units[first] - units[second]


def _matrix(size: int, first: Indices, second: Indices, values: FloatArray) -> FloatArray:
    matrix = np.ones((size, size))
    matrix[first, second] = matrix[second, first] = values
    return matrix


TESTS: dict[str, Callable[[FloatArray], Pairs | FloatArray]] = {
    "flips of deviations (ours)": ours,
    "Student, Holm": holm_student,
    "exact flips": exact_flips,
    "Tukey": tukey,
}


# -- Power -----------------------------------------------------------------------------------------


class Power(NamedTuple):
    """Shares of benchmarks in which a difference is found, and the difference that should be in 80 %."""

    pair: float
    leader: float
    ladder: float
    detectable: float
    at_detectable: float


def power(spread: float, tasks: int, instances: int, sets: int) -> Power:
    """Simulate a lead of 0.07: of two algorithms, of one among 16, and between all steps of a ladder of 16."""
    leader = np.array([LEAD] + [0.0] * (ALGORITHMS - 1))
    ladder = np.arange(ALGORITHMS) * LEAD / 2
    gaps = np.abs(ladder[:, None] - ladder)
    pair = simulate(np.array([LEAD, 0.0]), spread, tasks, instances, sets)
    led = simulate(leader, spread, tasks, instances, sets)
    stepped = simulate(ladder, spread, tasks, instances, sets)
    noticed = float(np.median([one.detectable[0, 1:] for one in led]))
    again = simulate(leader * noticed / LEAD, spread, tasks, instances, sets)
    return Power(
        float(np.mean([one.surely[0, 1] for one in pair])),
        float(np.mean([one.surely[0, 1:] for one in led])),
        float(np.mean([one.surely[np.isclose(gaps, LEAD)] for one in stepped])),
        noticed,
        float(np.mean([one.surely[0, 1:] for one in again])),
    )


def simulate(means: FloatArray, spread: float, tasks: int, instances: int, sets: int) -> list[Pairs]:
    """Compare algorithms whose pairs differ by ``spread`` over tasks, and by 0.04 over instances."""
    rng, size = np.random.default_rng(23), len(means)
    found = []
    for _ in range(sets):
        by_task = spread / np.sqrt(2) * rng.normal(size=(size, 1, tasks))
        by_instance = INSTANCE_SPREAD / np.sqrt(2) * rng.normal(size=(size, instances, tasks))
        found.append(compare_pairs(means[:, None, None] + by_task + by_instance, rng))
    return found


def print_power(sets: int) -> None:
    """Print the power for a lead of 0.07."""
    print(f"\nShare of differences of {LEAD} found; spread over instances {INSTANCE_SPREAD}\n")
    print("| spread over tasks | tasks | instances | 2 algorithms | leader of 16 | ladder of 16 | detectable | found |")
    print(f"|{' ---: |' * 8}")
    for spread in (0.04, 0.08):
        for tasks in (8, 12):
            for instances in (2, 3):
                cells = " | ".join(f"{one:.2f}" for one in power(spread, tasks, instances, sets))
                print(f"| {spread} | {tasks} | {instances} | {cells} |", flush=True)


# -- Intervals of one algorithm --------------------------------------------------------------------


def over_these_tasks(noise: Noise, instances: int, tasks: int, sets: int) -> float:
    """Return the coverage of the mean over tasks that are fixed, of unlike difficulty and tenfold unlike spread."""
    rng, difficulty, spread = np.random.default_rng(31), np.linspace(0, 1, tasks), np.geomspace(0.03, 0.3, tasks)
    drawn = (difficulty + spread * noise(rng, instances, tasks) for _ in range(sets))
    return float(np.mean([0.5 in mean_over_these_tasks(scores) for scores in drawn]))


def of_one_task(noise: Noise, instances: int, sets: int) -> float:
    """Return the coverage of the mean of one task."""
    rng = np.random.default_rng(41)
    return float(np.mean([0.0 in mean_estimate(noise(rng, instances, 1)[:, 0]) for _ in range(sets)]))


def of_the_middle(noise: Noise, seeds: int, sets: int) -> float:
    """Return the coverage of the interquartile mean of many seeds of one task."""
    rng = np.random.default_rng(43)
    truth = float(interquartile_mean(noise(rng, 1_000_000, 1)))
    drawn = (noise(rng, seeds, 1) for _ in range(sets))
    return float(np.mean([truth in stratified_estimate(scores, interquartile_mean, rng) for scores in drawn]))


def print_coverage(sets: int) -> None:
    """Print the coverage of intervals that are to hold in 95 % of cases."""
    kinds: dict[str, Noise] = {
        "normal": normal,
        "from 0 to 1": bounded,
        "won or lost": won_or_lost,
        "skewed": skewed,
        "won in one case of five": seldom_won,
    }
    rows: dict[str, Callable[[Noise], float]] = {}
    for tasks in (8, 12):
        for instances in (2, 3, 5):
            rows[f"mean over these {tasks} tasks, {instances} instances"] = partial(
                over_these_tasks, instances=instances, tasks=tasks, sets=sets
            )
    for instances in (3, 10):
        rows[f"mean of one task, {instances} instances"] = partial(of_one_task, instances=instances, sets=sets)
    rows["interquartile mean of one task, 20 seeds"] = partial(of_the_middle, seeds=20, sets=sets // 10)
    print(f"Coverage of 95 % intervals\n\n| interval | {' | '.join(kinds)} |\n| --- |{' ---: |' * len(kinds)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{row(noise):.3f}' for noise in kinds.values())} |", flush=True)
    for tasks in (8, 12):
        cells = " | ".join(f"{all_pairs(noise, tasks, sets):.3f}" for noise in kinds.values())
        print(f"| all {ALGORITHMS * (ALGORITHMS - 1) // 2} differences together, {tasks} tasks | {cells} |", flush=True)
    print()


def all_pairs(noise: Noise, tasks: int, sets: int) -> float:
    """Return the share of benchmarks of 16 algorithms in which every interval holds its true difference."""
    rng, means = np.random.default_rng(47), np.linspace(0, 0.5, ALGORITHMS)
    truth = means[:, None] - means
    covered = []
    for _ in range(sets):
        found = ours(means[:, None] + SPREAD / np.sqrt(2) * noise(rng, ALGORITHMS, tasks))
        # A tolerance of rounding for the diagonal, where interval and truth are 0.
        covered.append(((found.low <= truth + 1e-12) & (truth <= found.high + 1e-12)).all())
    return float(np.mean(covered))


if __name__ == "__main__":
    main()
