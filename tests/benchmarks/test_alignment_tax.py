"""The alignment tax: which runs, the numbers by hand, and a tiny run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from textgym.agents.offline import alignment_tax as forgetting
from textgym.benchmarks.analysis.statistics import mean_estimate
from textgym.benchmarks.experiments.alignment_tax import EXPERIMENT, task
from textgym.benchmarks.experiments.alignment_tax.ratio import ratio_of_means
from textgym.benchmarks.experiments.alignment_tax.sweep import make_job
from textgym.benchmarks.runner.experiment import Job, Plan
from textgym.intervals import Estimate
from textgym.reports.findings import Cell, Table


def result(gold: float, tax: float, other: float = 0.1) -> dict[str, Any]:
    """What a run that starts at gold 0.5 and loss 1 measured."""
    before = {"gold": 0.5, "kl": 0.0, "ptx_loss": 1.0, "loss/Stories": 0.4, "loss/others": 0.4}
    after = {"gold": gold, "kl": 2.0, "ptx_loss": 1 + tax, "loss/Stories": 0.4 + other, "loss/others": 0.4 + other}
    return {"before": before, "after": after, "tokens": 50_000, "cpu_seconds": 60.0}


def runs(task: str, gamma: float, *measured: tuple[float, float]) -> list[tuple[Job, dict[str, Any]]]:
    """Return a run of each seed, from (gold, tax)."""
    return [(make_job(task, "ppo", seed, gamma), result(*pair)) for seed, pair in enumerate(measured)]


def row(table: Table, *first: Cell) -> dict[str, Cell]:
    found = [line for line in table.rows if line[: len(first)] == first]
    assert len(found) == 1
    return dict(zip(table.columns, found[0], strict=True))


REVIEWS = [
    *runs("Reviews", 0.0, (0.90, 0.20), (0.96, 0.25), (0.93, 0.30)),
    *runs("Reviews", 0.3, (0.89, 0.05), (0.93, 0.10), (0.92, 0.06)),
    *runs("Reviews", 1.0, (0.70, 0.02), (0.76, 0.05), (0.73, 0.03)),
]
CONCEPTS = [
    *runs("Concepts", 0.0, (0.9, 0.2), (0.9, 0.2), (0.9, 0.2)),
    *runs("Concepts", 0.3, (0.9, 0.15), (0.9, 0.15), (0.9, 0.15)),
    *runs("Concepts", 1.0, (0.8, 0.0), (0.8, 0.0), (0.8, 0.0)),
]


def test_every_seed_has_every_weight() -> None:
    jobs = EXPERIMENT.sweep(Plan(("ppo", "grpo"), range(2), ("Reviews",), {"tokens": 700}))
    arms = [(job.seed, job.algorithm, job.arm["ptx_coef"]) for job in jobs]
    each = [0.0, 0.1, 0.3, 1.0]
    assert arms == [(seed, name, gamma) for seed in (0, 1) for name in ("ppo", "grpo") for gamma in each]
    assert len({job.key for job in jobs}) == len(jobs) == 16
    assert all(job.settings["algorithm"]["n_epochs"] for job in jobs)
    assert {job.settings["tokens"] for job in jobs} == {700}
    assert {"tokens", "learning_rate", "beta", "held_out"} <= jobs[0].settings.keys()
    assert len(EXPERIMENT.sweep(EXPERIMENT.plan)) == 40
    assert EXPERIMENT.name == task.__name__.split(".")[-2]


def test_the_numbers_by_hand() -> None:
    trade = EXPERIMENT.findings(REVIEWS).tables[0]
    bare, some = row(trade, "Reviews", "ppo", "0"), row(trade, "Reviews", "ppo", "0.3")
    assert isinstance(bare["gold"], Estimate)
    # t of 2 degrees of freedom, 4.3027, times 0.03 / √3.
    assert (bare["gold"].value, bare["gold"].high) == pytest.approx((0.93, 0.93 + 0.074524), abs=1e-5)
    assert bare["gold change"] is bare["tax saved"] is bare["claim"] is None
    assert [some[name].value for name in ("gold", "gold change", "tax", "tax saved")] == pytest.approx(  # type: ignore[union-attr]
        [0.913333, (-0.01 - 0.03 - 0.01) / 3, 0.07, 1 - 0.07 / 0.25], abs=1e-6
    )
    assert (some["seeds"], some["KL"]) == (3, 2.0)
    assert some["claim"] == "undecided"  # gold's change is −0.017 ± 0.029
    assert row(trade, "Reviews", "ppo", "1")["claim"] == "fails"  # it costs 0.2 of gold


# A loss that rises by 0.20, 0.21, 0.22 becomes one of 0.04, 0.05, 0.06; gold falls by 0.010, 0.012, 0.014.
STEADY = [
    *runs("Stories", 0.0, (0.900, 0.20), (0.900, 0.21), (0.900, 0.22)),
    *runs("Stories", 0.3, (0.890, 0.04), (0.888, 0.05), (0.886, 0.06)),
]


def test_the_verdict_of_each_task() -> None:
    assert EXPERIMENT.findings([*REVIEWS, *CONCEPTS, *STEADY]).headline == (
        "ppo on Reviews: undecided whether any γ saves half of the tax at equal gold (γ = 0.3 saves 72% (34% … 98%) of "
        "the rise in pretraining loss, gold −0.017 (−0.045 … +0.012)); "
        "ppo on Concepts: no γ saves half of the tax at equal gold (at best γ = 0.3 saves 25% (25% … 25%) of the rise "
        "in pretraining loss, gold +0.000 (+0.000 … +0.000)); "
        "ppo on Stories: half of the tax is saved at equal gold: γ = 0.3 saves 76% (68% … 86%) of the rise in "
        "pretraining loss, gold −0.012 (−0.017 … −0.007)."
    )


@pytest.mark.parametrize(
    ("golds", "taxes", "claim"),
    [
        ((0.890, 0.888, 0.886), (0.04, 0.05, 0.06), "holds"),
        ((0.890, 0.870, 0.850), (0.04, 0.05, 0.06), "undecided"),  # gold −0.030 ± 0.050
        ((0.890, 0.888, 0.886), (0.04, 0.10, 0.16), "undecided"),  # of the tax 52 % is saved, more or less
        ((0.890, 0.888, 0.886), (0.14, 0.15, 0.16), "fails"),
        ((0.850, 0.848, 0.846), (0.04, 0.05, 0.06), "fails"),
        ((0.850, 0.848, 0.846), (0.04, 0.10, 0.16), "fails"),  # one miss is enough
    ],
)
def test_a_verdict_needs_the_whole_interval(golds: Sequence[float], taxes: Sequence[float], claim: str) -> None:
    trade = EXPERIMENT.findings([*STEADY[:3], *runs("Stories", 0.3, *zip(golds, taxes, strict=True))]).tables[0]
    assert row(trade, "Stories", "ppo", "0.3")["claim"] == claim


def test_there_is_no_verdict_of_two_seeds() -> None:
    found = EXPERIMENT.findings([*STEADY[:2], *STEADY[3:5]])
    assert row(found.tables[0], "Stories", "ppo", "0.3")["claim"] == "too few seeds"
    assert found.headline == (
        "ppo on Stories: too few seeds for a verdict (γ = 0.3 saves 78% of the rise in pretraining loss, gold −0.011)."
    )


def test_a_tax_that_is_not_surely_there_is_not_said_to_be_saved() -> None:
    """Also seeds whose loss does not rise count: of −0.1, 0.2 and 0.3 the mean is not surely above 0."""
    rows = [*runs("Stories", 0.0, (0.9, -0.1), (0.9, 0.2), (0.9, 0.3)), *runs("Stories", 0.3, *[(0.9, 0.05)] * 3)]
    found = EXPERIMENT.findings(rows)
    trade = row(found.tables[0], "Stories", "ppo", "0.3")
    assert (trade["tax saved"], trade["claim"]) == ("no significant tax", "undecided")
    assert found.headline == (
        "ppo on Stories: undecided whether any γ saves half of the tax at equal gold (the loss does not significantly "
        "rise at γ = 0; at γ = 0.3 gold +0.000 (+0.000 … +0.000))."
    )
    spoiled = [*rows[:3], *runs("Stories", 0.3, *[(0.5, 0.05)] * 3)]
    assert row(EXPERIMENT.findings(spoiled).tables[0], "Stories", "ppo", "0.3")["claim"] == "fails"


def test_the_interval_of_a_ratio_ends_where_a_difference_may_be_none() -> None:
    """Fieller's: ρ lies in it if and only if Student's interval of y − ρx holds 0."""
    x, y = np.array([0.33, 0.25, 0.36, 0.31]), np.array([0.12, 0.10, 0.15, 0.09])
    ratio = ratio_of_means(y, x)
    assert isinstance(ratio, Estimate)
    assert ratio.value == pytest.approx(y.mean() / x.mean())
    assert mean_estimate(y - ratio.low * x).low == pytest.approx(0, abs=1e-12)
    assert mean_estimate(y - ratio.high * x).high == pytest.approx(0, abs=1e-12)
    # Over a constant it is Student's own.
    plain, over = mean_estimate(y / 0.5), ratio_of_means(y, np.full(4, 0.5))
    assert over == Estimate(*(pytest.approx(end) for end in (plain.value, plain.low, plain.high)))
    assert ratio_of_means(y, x - 0.3) is None
    assert ratio_of_means(y[:2], x[:2]) == pytest.approx(0.22 / 0.58)
    assert ratio_of_means(y[:2], -x[:2]) is None


def test_the_interval_of_a_ratio_covers_the_truth() -> None:
    rng, hits, cases = np.random.default_rng(0), 0, 1000
    for _ in range(cases):
        x = 0.3 + 0.03 * rng.standard_normal(3)
        ratio = ratio_of_means(0.1 + 0.5 * (x - 0.3) + 0.02 * rng.standard_normal(3), x)
        assert isinstance(ratio, Estimate)
        hits += ratio.low <= 1 / 3 <= ratio.high
    assert hits / cases == pytest.approx(0.95, abs=0.02)  # three standard errors


def test_part_of_a_sweep_has_findings() -> None:
    """Also without the runs that others are compared with, and with too few seeds for an interval."""
    some = EXPERIMENT.findings(REVIEWS[3:5])
    found = row(some.tables[0], "Reviews", "ppo", "0.3")
    assert (found["gold"], found["gold change"], found["claim"]) == (pytest.approx(0.91), None, None)
    assert some.headline == "ppo on Reviews: nothing to compare yet."
    unpaired = EXPERIMENT.findings([REVIEWS[1], *REVIEWS[3:6]])  # one seed of γ = 0
    assert row(unpaired.tables[0], "Reviews", "ppo", "0.3")["gold change"] == pytest.approx(-0.03)


def test_a_task_is_no_other_one_to_itself() -> None:
    stories = [(make_job("Stories", "ppo", 0, 0.0), result(0.9, 0.2, 0.3))]
    for stage in ("before", "after"):
        stories[0][1][stage]["loss/Reviews"] = stories[0][1][stage].pop("loss/Stories")
    where = EXPERIMENT.findings([*REVIEWS, *stories]).tables[1]
    assert row(where, "Reviews", "ppo", "1") == {
        "task": "Reviews", "algorithm": "ppo", "γ": "1", "Reviews": None, "Stories": pytest.approx(0.1)
    }  # fmt: skip
    assert row(where, "Stories")["Reviews"] == pytest.approx(0.3)


def points(svg: str) -> Sequence[str]:
    return [name for name in ("Reviews", "Concepts") if name in svg]


def test_the_figure_has_a_line_for_each_task() -> None:
    (figure,) = EXPERIMENT.findings([*REVIEWS, *CONCEPTS]).figures
    assert figure.svg.startswith("<svg")
    assert points(figure.svg) == ["Reviews", "Concepts"]
    assert "0, 0.3, 1." in figure.caption


def test_the_tax_is_that_of_a_mini_task() -> None:
    with pytest.raises(ValueError, match="task='Emit' is not one of the mini tasks, Reviews, "):
        EXPERIMENT.sweep(Plan(("ppo",), range(1), ("Emit",)))


@pytest.mark.parametrize("algorithm", ["sft", "stable_baselines3:PPO"])
def test_what_cannot_learn_text_beside_its_reward_is_refused(algorithm: str) -> None:
    with pytest.raises(ValueError, match=f"algorithm='{algorithm}' cannot train on pretraining text in addition"):
        EXPERIMENT.sweep(Plan((algorithm,), range(1), ("Reviews",)))


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_a_tiny_run(gamma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "REFERENCES", 4)
    job = make_job("Concepts", "rloo", 0, gamma, tokens=100, evaluated=16, slots=16, texts=32, held_out=8)
    job.settings["algorithm"].update(episodes_per_iteration=16, minibatch_size=8)  # type: ignore[index]
    found = json.loads(json.dumps(task.run_alignment_tax(job)))
    assert found["tokens"] >= 100
    assert found["before"]["kl"] == pytest.approx(0, abs=1e-6)
    assert found["after"]["kl"] > 0
    assert {"gold", "grammatical", "ptx_loss", "loss/Reviews", "loss/others"} <= found["after"].keys()
    assert "loss/Concepts" not in found["after"]
    assert found["after"]["ptx_loss"] != found["before"]["ptx_loss"]
    assert 0.5 < found["before"]["ptx_loss"] < 1.5  # the base model learned such text down to 1.05
