"""Ensembles of proxies: findings by hand, and a tiny run."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from textgym.benchmarks.experiments.ensembles import EXPERIMENT
from textgym.benchmarks.experiments.ensembles.score import ensembles_findings
from textgym.benchmarks.experiments.ensembles.task import EnsembleSettings, run_ensembles
from textgym.benchmarks.proxies.rl import job_settings
from textgym.benchmarks.runner.experiment import Job
from textgym.intervals import Estimate


def made(combine: str, seed: int, gold: float) -> tuple[Job, dict[str, Any]]:
    rl = [{"tokens": i, "kl": 1.0 * i, "gold": gold, "proxy": 0.1 * i} for i in range(20 + seed)]
    after = {"gold": gold, "proxy": 2.0, "kl": 9.0}
    result = {"agreement": 0.7, "disagreement": 0.3, "gold": 0.5, "after": after, "rl": rl, "cpu_seconds": 1.0}
    return Job("Concepts", "ppo", seed, {"combine": combine}), result


def test_differences_are_taken_seed_by_seed() -> None:
    singles = (0.1, 0.2, 0.6)
    rows = [made("single", seed, gold) for seed, gold in enumerate(singles)]
    rows += [made("min", seed, gold + 0.2 + 0.01 * seed) for seed, gold in enumerate(singles)]
    rows += [made("mean", seed, gold) for seed, gold in enumerate(reversed(singles))]
    found = ensembles_findings(rows[3:] + rows[:3])
    (table,) = found.tables
    column = {row[0]: row[table.columns.index("gain over single")] for row in table.rows}
    assert list(column) == ["single", "min", "mean"]
    assert column["single"] is None
    # Student's interval of 0.20, 0.21, 0.22 at two degrees of freedom.
    half = 4.302653 * 0.01 / np.sqrt(3)
    assert isinstance(column["min"], Estimate)
    assert (column["min"].value, column["min"].low, column["min"].high) == pytest.approx(
        (0.21, 0.21 - half, 0.21 + half)
    )
    told = "gold under the min of an ensemble differs by +0.210 (+0.185 … +0.235) from gold under a single reward"
    assert told in found.headline
    assert "min at the end," in found.headline
    assert len(found.figures) == 2


def pushed(combine: str, seed: int, last: int) -> tuple[Job, dict[str, Any]]:
    """RL up to a KL of ``last``, one nat at a time; gold falls by 0.05 for each, whatever the proxy."""
    job, result = made(combine, seed, 1 - 0.05 * last + 0.01 * seed)
    rl = [{"tokens": i, "kl": 1.0 * i, "gold": 1 - 0.05 * i + 0.01 * seed, "proxy": 0.1 * i} for i in range(last + 1)]
    return job, {**result, "after": {**result["after"], "kl": 1.0 * last}, "rl": rl}


def test_less_pressure_is_not_taken_for_robustness() -> None:
    rows = [pushed("single", seed, 14) for seed in range(3)] + [pushed("mean", seed, 10 + seed) for seed in range(3)]
    found = ensembles_findings(rows)
    assert found.headline == (
        "At the end of RL, gold under the mean of an ensemble differs by +0.150 (+0.026 … +0.274) from gold under a "
        "single reward model, with a KL of 11.0 and 14.0 nats; at a common KL of 10.0 nats it differs by +0.000 "
        "(+0.000 … +0.000). Significantly better, with Holm's correction for 1 ensemble: mean at the end, "
        "none at equal KL."
    )
    (table,) = found.tables
    both = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["common KL"] for row in both] == [10.0, 10.0]
    assert [row["gold at common KL"].value for row in both] == pytest.approx(
        [0.51, 0.51]
    )  # 1 − 0.5, and the seeds' 0.01
    assert both[0]["gain at common KL"] is None
    assert both[1]["gain at common KL"].value == pytest.approx(0, abs=1e-12)


def test_one_of_three_by_chance_is_not_surely_better() -> None:
    """0.06 ± 0.0596 excludes 0 at 95 % on its own: t is 4.33, of 4.303. The first of three needs 7.65."""
    gains = {"mean": (-0.1, 0.1, 0.3), "min": (0.036, 0.06, 0.084), "uncertainty": (0.0, 0.0, 0.01)}
    rows = [made("single", seed, 0.4) for seed in range(3)]
    rows += [made(name, seed, 0.4 + gain) for name, own in gains.items() for seed, gain in enumerate(own)]
    found = ensembles_findings(rows)
    assert "gold under the mean of an ensemble differs by +0.100 (−0.397 … +0.597) from" in found.headline
    assert "correction for 3 ensembles: none at the end," in found.headline
    assert "min at the end," in ensembles_findings([*rows[:3], *rows[6:9]]).headline


def test_several_tasks_are_told_apart() -> None:
    rows = [made("single", 0, 0.5), made("min", 0, 0.75)]
    rows += [
        (replace(job, task="Reviews"), {**result, "after": {**result["after"], "gold": 0.5}}) for job, result in rows
    ]
    found = ensembles_findings(rows)
    assert "under the min (ppo on Concepts) of an ensemble differs by +0.250" in found.headline
    assert [row[0] for row in found.tables[0].rows] == [
        f"{combine} (ppo on {task})" for task in ("Concepts", "Reviews") for combine in ("single", "min")
    ]
    assert all("min (ppo on Reviews)" in figure.svg for figure in found.figures)


def test_findings_of_a_part_of_the_sweep() -> None:
    assert ensembles_findings([]).headline
    assert "No seed has both" in ensembles_findings([made("min", 0, 0.5)]).headline
    told = ensembles_findings([made("min", 0, 0.5), made("single", 0, 0.1)]).headline
    assert told.endswith("none at the end, none at equal KL.")


def tiny(combine: str) -> Job:
    shared = EnsembleSettings(
        tokens=100, slots=8, labels=4, size="tiny", members=2, prompts=2, responses=4, evaluated=4
    )
    settings = job_settings(shared, "ppo", episodes_per_iteration=8, minibatch_size=8, n_epochs=1)
    return Job("Translation", "ppo", 0, {"combine": combine}, settings)


def test_the_single_model_is_a_member_of_the_ensemble() -> None:
    single, ensemble = run_ensembles(tiny("single")), run_ensembles(tiny("min"))
    assert single["disagreement"] == pytest.approx(0)
    assert ensemble["disagreement"] > 0.01
    assert single["gold"] == ensemble["gold"]
    # Before any update both have written the same responses, and the least of two scores is no more than the first.
    first, second = single["rl"][0], ensemble["rl"][0]
    assert first["gold"] == second["gold"]
    assert second["proxy"] < first["proxy"]
    assert 0 <= ensemble["after"]["gold"] <= 1


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="'max' is not one of mean, min, uncertainty"):
        run_ensembles(tiny("max"))
    with pytest.raises(ValueError, match="did you mean 'ppo'"):
        EXPERIMENT.sweep(replace(EXPERIMENT.plan, algorithms=("ppoo",)))


def test_every_seed_has_every_arm() -> None:
    jobs = EXPERIMENT.sweep(EXPERIMENT.plan)
    assert [(job.seed, job.arm["combine"]) for job in jobs[:5]] == [
        *((0, name) for name in ("single", "mean", "min", "uncertainty")),
        (1, "single"),
    ]
