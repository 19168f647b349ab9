"""Gold against KL: findings by hand, and runs of both kinds."""

from dataclasses import replace
from typing import Any

import pytest

from textgym.benchmarks.experiments.kl_frontier import EXPERIMENT
from textgym.benchmarks.experiments.kl_frontier.score import bought, kl_frontier_findings
from textgym.benchmarks.experiments.kl_frontier.task import SAMPLED, run_kl_frontier
from textgym.benchmarks.experiments.mini.sweep import mini_settings
from textgym.benchmarks.runner.experiment import Job
from textgym.intervals import Estimate

POOL = (
    Job("Reviews", SAMPLED, 0),
    {"best_of_n": [{"n": n, "kl": kl, "gold": gold} for n, kl, gold in ((1, 0.0, 0.5), (2, 0.2, 0.6), (4, 0.6, 0.8))]},
)


def made(beta: float, seed: int, gold: float, kl: float) -> tuple[Job, dict[str, Any]]:
    return Job("Reviews", "ppo", seed, {"beta": beta}), {"after": {"gold": gold, "kl": kl}}


def test_best_of_n_between_two_n_and_beyond_the_last() -> None:
    assert bought([POOL], 0.4) == pytest.approx(0.7)
    assert bought([POOL], 0.61) is None
    assert bought([], 0.4) is None
    others = [(replace(POOL[0], seed=seed), POOL[1]) for seed in (1, 2)]
    assert bought([POOL, *others], 0.4) == Estimate(*[pytest.approx(0.7)] * 3)


def test_findings_by_hand() -> None:
    rows = [made(1.0, seed, 0.6, 0.4) for seed in range(3)] + [
        made(0.1, seed, 0.9 + 0.01 * seed, 5) for seed in range(3)
    ]
    found = kl_frontier_findings([*rows, POOL])
    (table,) = found.tables
    assert [row[:2] for row in table.rows[:3]] == [("ppo", 0.1), ("ppo", 1.0), (SAMPLED, 1)]
    assert table.rows[0][2].value == pytest.approx(0.91)  # type: ignore[union-attr]
    assert table.rows[0][4] is None
    assert table.rows[1][4] == pytest.approx(0.7)
    assert found.headline == (
        "On Reviews, ppo reaches the most gold at β = 0.1, clearly more than at β = 1: 0.91 (0.89 … 0.93) at 5.0 "
        "nats, beyond the KL of best-of-n, at most 0.6."
    )
    assert "at the bound of its KL" in found.figures[0].caption


def test_an_argmax_over_few_seeds_is_not_called_clear() -> None:
    earned = {0.1: (0.5, 0.7, 0.6), 0.3: (0.55, 0.6, 0.59)}
    rows = [made(beta, seed, gold, 0.4) for beta, golds in earned.items() for seed, gold in enumerate(golds)]
    assert kl_frontier_findings([*rows, POOL]).headline == (
        "On Reviews, ppo reaches the most gold at β = 0.1, not clearly more than at β = 0.3: 0.60 (0.35 … 0.85) at "
        "0.4 nats; best-of-n reaches 0.70 at the same KL or less."
    )


def test_findings_of_a_part_of_the_sweep() -> None:
    assert (
        kl_frontier_findings([]).headline
        == kl_frontier_findings([POOL]).headline
        == "No algorithm has been trained yet."
    )
    assert kl_frontier_findings([made(0.1, 0, 0.9, 5)]).headline.endswith(
        "0.90 at 5.0 nats."
    )  # beside which none stands
    # One β has a seed more than the other.
    assert kl_frontier_findings([made(0.1, 0, 0.9, 5), made(0.1, 1, 0.9, 5), made(1.0, 0, 0.6, 0.4)]).figures


def test_best_of_n_by_gold_rises_from_the_base_model() -> None:
    result = run_kl_frontier(Job("Translation", SAMPLED, 0, settings={"prompts": 3, "pool": 8}))
    golds = [point["gold"] for point in result["best_of_n"]]
    assert [point["n"] for point in result["best_of_n"]] == [1, 2, 4, 8]
    assert golds == sorted(golds)
    assert golds[0] < golds[-1] <= 1


def test_a_run_of_an_algorithm() -> None:
    changed = {"tokens": 60, "beta": 0.3, "slots": 8, "evaluated": 4}
    own = mini_settings("rloo", changed, episodes_per_iteration=8, minibatch_size=8, n_epochs=1)
    result = run_kl_frontier(Job("Translation", "rloo", 0, {"beta": 0.3}, own))
    assert 0 <= result["after"]["gold"] <= 1
    assert result["before"]["kl"] == pytest.approx(0, abs=1e-5)


def test_the_sweep_takes_beta_from_the_arm() -> None:
    jobs = EXPERIMENT.sweep(replace(EXPERIMENT.plan, settings={"tokens": 77}))
    trained = [job for job in jobs if job.algorithm != SAMPLED]
    assert all(job.settings["beta"] == job.arm["beta"] and job.settings["tokens"] == 77 for job in trained)
    assert len({job.key for job in jobs}) == len(jobs)
