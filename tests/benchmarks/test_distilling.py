"""The distillation experiment: which runs, the numbers by hand, and a tiny run."""

from __future__ import annotations

from typing import Any

import pytest

from textgym.agents.registry import ALGORITHMS
from textgym.benchmarks.entries import find_entry
from textgym.benchmarks.experiments.diagnostic.sweep import DIAGNOSTIC_PLAN
from textgym.benchmarks.experiments.distillation import EXPERIMENT
from textgym.benchmarks.runner.experiment import Job, Plan
from textgym.intervals import Estimate

TINY = {"tokens": 200, "evaluated": 8, "teacher_tokens": 200, "learning_rate": 1e-12}


def test_every_seed_has_every_way_to_learn() -> None:
    jobs = EXPERIMENT.sweep(Plan(("distill", "rloo"), range(2), ("Reviews",), {"tokens": 700}))
    each = [
        {"jsd": 1.0, "teacher_share": 0.0},
        {"jsd": 0.5, "teacher_share": 0.0},
        {"jsd": 0.0, "teacher_share": 0.5},
        {},
    ]
    assert [(job.seed, dict(job.arm)) for job in jobs] == [(seed, arm) for seed in (0, 1) for arm in each]
    assert len({job.key for job in jobs}) == len(jobs)
    assert {job.settings["tokens"] for job in jobs} == {700}
    assert len(EXPERIMENT.sweep(EXPERIMENT.plan)) == 12


def result(kl: float) -> dict[str, Any]:
    return {"before": {"kl": 1.0}, "after": {"kl": kl}, "tokens": 40_000, "cpu_seconds": 30.0}


def test_the_numbers_by_hand() -> None:
    runs = [
        (Job("Reviews", "distill", seed, {"jsd": 1.0, "teacher_share": 0.0}), result(kl))
        for seed, kl in enumerate((0.004, 0.005, 0.006))
    ]
    runs += [(Job("Reviews", "rloo", 0), result(0.1))]
    findings = EXPERIMENT.findings(runs)
    first, second = (dict(zip(findings.tables[0].columns, row, strict=True)) for row in findings.tables[0].rows)
    assert (first["learns by"], first["λ"], first["seeds"], first["KL before"]) == ("reverse KL", "0", 3, 1.0)
    assert isinstance(first["KL after"], Estimate)
    # t of 2 degrees of freedom, 4.3027, times 0.001 / √3.
    assert (first["KL after"].value, first["KL after"].high) == pytest.approx((0.005, 0.005 + 0.0024842), abs=1e-6)
    assert (second["learns by"], second["λ"], second["KL after"]) == ("RLOO without a reward", None, 0.1)
    assert "reverse KL on Reviews 0.0050 (0.0025 … 0.0075)" in findings.headline
    assert "No run yet" in EXPERIMENT.findings([]).headline


@pytest.mark.parametrize("place", [0, 3])
def test_a_tiny_run(place: int) -> None:
    """At a rate near 0 nothing is learned: the student stays where it was."""
    job = EXPERIMENT.sweep(Plan(("distill", "rloo"), range(1), ("Reviews",), TINY))[place]
    found = EXPERIMENT.run(job)
    assert found["after"] == pytest.approx(found["before"], rel=1e-3)
    assert found["before"]["kl"] > 1e-4
    assert found["tokens"] >= 200


def test_what_does_not_fit_is_named() -> None:
    for plan, message in (
        (
            Plan(("ppo",), range(1), ("Reviews",)),
            "algorithm='ppo' is no way to learn from a teacher; expected distill or rloo",
        ),
        (Plan(("rloo",), range(1), ("Reviws",)), "Reviws"),
        (Plan(("rloo",), range(1), ("Reviews",), {"teacher_tokens": 0}), "teacher_tokens=0; expected"),
    ):
        with pytest.raises(ValueError, match=message):
            EXPERIMENT.sweep(plan)


def test_suites_of_rewards_leave_it_out() -> None:
    assert set(DIAGNOSTIC_PLAN.algorithms) == set(ALGORITHMS) - {"distill", "maxrl"}
    with pytest.raises(ValueError, match="algorithm='distill' learns from a teacher and not from a reward"):
        find_entry("distill")
