"""What results say: figures by hand, and what is left out."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from textgym.benchmarks.analysis import suite_scores as suite
from textgym.benchmarks.analysis.suite_scores import learning_curves, suite_scores
from textgym.benchmarks.experiments import diagnostic, kl_frontier, mini, nlpo_mask
from textgym.benchmarks.experiments.kl_frontier.task import SAMPLED
from textgym.benchmarks.experiments.nlpo_mask.sweep import NEVER
from textgym.benchmarks.proxies.models import base_responses
from textgym.benchmarks.runner.experiment import Job
from textgym.intervals import Estimate
from textgym.registration import load_task
from textgym.reports.charts.suites import PlotLine
from textgym.reports.findings import Table


def scored(task: str, name: str, seed: int, score: float) -> tuple[Job, dict[str, Any]]:
    result = {"beta": 0.05, "optimum": 1.0, "reference": 0.0, "objective": score, "score": score, "cpu_seconds": 2.0}
    return Job(task, name, seed), result


def golden(task: str, name: str, seed: int, after: float, **arm: Any) -> tuple[Job, dict[str, Any]]:
    stages = {
        stage: {"score": gold, "gold": gold, "grammatical": 1.0, "kl": 2 * gold, "length": 9.0}
        for stage, gold in (("before", 0.5), ("after", after))
    }
    cost = {"tokens": 100 + seed, "updates": 12 + seed, "cpu_seconds": 3.0, "errors": {"score": 0.06}}
    return Job(task, name, seed, arm, {"beta": 0.25}), {**stages, **cost}


def row(table: Table, *name: str) -> dict[str, Any]:
    (found,) = (cells for cells in table.rows if cells[: len(name)] == name)
    return dict(zip(table.columns, found, strict=True))


def table(found: Any, title: str) -> Table:
    (one,) = (table for table in found.tables if table.title == title)
    return one


def test_of_one_algorithm_the_tasks_come_first() -> None:
    scores = {
        ("Emit", 0): 1.0,
        ("Emit", 1): 0.92,
        ("Emit", 2): 0.96,
        ("Copy", 0): 0.2,
        ("Copy", 1): 0.4,
        ("Copy", 2): 0.3,
    }
    found = diagnostic.EXPERIMENT.findings([scored(task, "ppo", seed, s) for (task, seed), s in scores.items()])
    assert found.headline == "ppo reaches a mean score of 0.95 on 1 of 2 tasks."
    emit = row(found.tables[0], "ppo", "Emit")
    # Student's t of 2 degrees of freedom at 97.5 % is 4.3027; the standard error of 1, 0.92, 0.96 is 0.04 / √3.
    half = 4.302653 * 0.04 / np.sqrt(3)
    assert isinstance(emit["score"], Estimate)
    assert (emit["score"].low, emit["score"].value, emit["score"].high) == pytest.approx(
        (0.96 - half, 0.96, 0.96 + half)
    )
    assert emit["worst seed"] == 0.92
    assert (emit["β"], emit["J(π_ref)"], emit["J(π)"], emit["J*"], emit["CPU s"]) == (
        0.05,
        0.0,
        pytest.approx(0.96),
        1.0,
        2.0,
    )
    assert emit["seeds"] == 3


def test_several_algorithms_are_compared() -> None:
    results = [
        scored(task, name, seed, score)
        for name, score in (("ppo", 0.9), ("rloo", 0.3))
        for task in ("Emit", "Copy")
        for seed in range(3)
    ]
    found = diagnostic.EXPERIMENT.findings(results)
    assert found.headline.startswith("ppo leads")
    assert len(table(found, "Distance to the exact optimum").rows) == 4
    assert found.figures


def measured(task: str, name: str, seed: int, score: float, **more: Any) -> tuple[Job, dict[str, Any]]:
    """Return a run as versions after 0.2 record it."""
    job, result = scored(task, name, seed, score)
    return job, {**result, "reward": 0.75, "kl": 2.0, "gold": None, "train_score": None, "updates": 10 + seed, **more}


def test_gold_stands_beside_the_proxy() -> None:
    results = [measured("Trap-v1", "ppo", seed, 0.9, gold=0.25 + 0.1 * seed) for seed in range(3)]
    results += [measured("Trap-v1", "rloo", 0, 0.5, gold=0.5), measured("Copy-v1", "ppo", 0, 1.0)]
    gold = table(diagnostic.EXPERIMENT.findings(results), "Gold beside the proxy")
    assert [cells[:2] for cells in gold.rows] == [("ppo", "Trap-v1"), ("rloo", "Trap-v1")], "Copy pays gold itself"
    assert row(gold, "ppo")["gold"].value == pytest.approx(0.35)
    assert row(gold, "ppo")["proxy"] == Estimate(0.75, 0.75, 0.75)
    assert row(gold, "rloo") == {
        "algorithm": "rloo",
        "task": "Trap-v1",
        "score": 0.5,
        "proxy": 0.75,
        "gold": 0.5,
        "KL": 2.0,
        "seeds": 1,
    }
    plain = diagnostic.EXPERIMENT.findings([measured("Copy-v1", "ppo", seed, 1.0) for seed in range(3)])
    assert "Gold beside the proxy" not in [one.title for one in plain.tables]


def test_the_training_prompts_stand_beside_held_out_ones_with_the_cost() -> None:
    results = [measured("Copy-v1", "ppo", seed, 0.5, train_score=0.75 + 0.1 * seed) for seed in range(3)]
    results += [measured("Gamble", "ppo", seed, 1.0) for seed in range(3)]
    results += [measured("Copy-v1", "stable_baselines3:PPO", 0, 0.25, train_score=0.5, updates=None)]
    results += [measured("Gamble", "stable_baselines3:PPO", 0, 0.25, updates=None)]
    results += [measured("Copy-v1", "rloo", 0, 1.0, train_score=1.0)]  # not done with every task
    found = diagnostic.EXPERIMENT.findings(results)
    by_task = table(found, "Distance to the exact optimum")
    assert row(by_task, "ppo", "Copy-v1")["training prompts"] == pytest.approx(0.85)
    assert row(by_task, "ppo", "Gamble")["training prompts"] is None, "it holds nothing out"
    cost = table(found, "Training prompts and cost")
    assert cost.columns == ("algorithm", "score", "training prompts", "held-out prompts", "updates", "CPU s")
    assert cost.rows == (
        ("ppo", 0.75, pytest.approx(0.85), 0.5, 11, 2.0),
        ("stable_baselines3:PPO", 0.25, 0.5, 0.25, None, 2.0),
    )
    assert cost.note.startswith("1 of 2 tasks")
    (open_,) = (measured("Gamble", "ppo", 0, 1.0),)
    assert table(diagnostic.EXPERIMENT.findings([open_]), "Cost").rows == (("ppo", 1.0, 10, 2.0),)
    former = diagnostic.EXPERIMENT.findings([scored("Gamble", "ppo", 0, 1.0)])
    assert "training prompts" not in table(former, "Distance to the exact optimum").columns
    assert {"Cost", "Training prompts and cost"}.isdisjoint(one.title for one in former.tables)


def test_only_seeds_with_every_task_count() -> None:
    results = [scored("Emit", "ppo", 0, 1.0), scored("Copy", "ppo", 0, 0.5), scored("Emit", "ppo", 1, 0.7)]
    results += [scored("Copy", "trpo", 0, 0.1)]
    scores = suite_scores(results, lambda job, result: result["score"] + 10 * job.seed)
    assert scores.tasks == ("Emit", "Copy")
    assert scores.by_algorithm["ppo"].tolist() == [[1.0, 0.5]]
    assert scores.seeds == {"ppo": (0,)}
    assert scores.left_out == ("trpo",)
    headline = diagnostic.EXPERIMENT.findings(results).headline
    assert headline.endswith("Left out, as no seed has every task yet: trpo.")


def test_the_objective_is_scored_and_gold_is_shown_as_it_is() -> None:
    results = [golden(t, "rloo", seed, a) for t, a in (("Reviews", 0.75), ("Stories", 0.5)) for seed in range(3)]
    results += [golden(t, "ppo", seed, 1.0) for t in ("Reviews", "Stories") for seed in range(3)]
    # KL is twice the gold and β a quarter: (0.75 − 0.25 · 1.5 − 0.5) / (1 − 0.5).
    assert mini.score.mini_score(*results[0]) == -0.25
    found = mini.EXPERIMENT.findings(results)
    assert found.headline.startswith("ppo leads with a mean score of 0.000")
    gold = table(found, "Gold reward")
    assert row(gold, "base model")["Reviews"] == 0.5  # measured before training: no interval
    assert row(gold, "rloo")["Reviews"] == Estimate(0.75, 0.75, 0.75)
    parts = row(table(found, "Parts and cost"), "rloo")
    assert parts.pop("prompt error") == pytest.approx(0.06 / np.sqrt(6)), "of six independent runs"
    assert parts == {
        "algorithm": "rloo",
        "score": -0.375,
        "gold": 0.625,
        "KL": 1.25,
        "distinct": None,
        "grammatical": 1.0,
        "length": 9.0,
        "updates": 13,
        "CPU s": 3.0,
    }


def test_parts_are_of_the_same_tasks() -> None:
    """Whoever is only done with the dearest task must not look dear, nor one of its seeds."""
    results = [
        golden(task, "ppo", seed, after) for task, after in (("Reviews", 0.75), ("Stories", 0.5)) for seed in (0, 1)
    ]
    results += [golden("Reviews", "ppo", 2, 1.0), golden("Reviews", "rloo", 0, 1.0)]
    parts = mini.score.parts_table(results)
    assert [cells[0] for cells in parts.rows] == ["ppo"]
    assert row(parts, "ppo")["gold"] == 0.625
    unfinished = mini.EXPERIMENT.findings(results[:1] + results[-1:] + [golden("Stories", "grpo", 0, 1.0)])
    assert [table.title for table in unfinished.tables] == ["Gold reward"]


def test_algorithms_with_different_budgets_are_not_compared() -> None:
    results = [golden("Reviews", "ppo", 0, 0.5, tokens=100), golden("Reviews", "rloo", 0, 0.5, tokens=80)]
    message = "tokens=80 is the largest budget of rloo, and ppo had 100; expected the same budgets for all"
    with pytest.raises(ValueError, match=message):
        mini.EXPERIMENT.findings(results)


def test_budgets_are_compared_over_the_seeds_that_have_both() -> None:
    """The headline is about the largest budget; a seed without the other one would be another instance."""
    earned = {("ppo", 100): 0.9, ("ppo", 50): 0.5, ("grpo", 100): 0.8, ("grpo", 50): 0.7}
    results = [
        golden(task, name, seed, gold + 0.1 * seed, tokens=tokens)
        for (name, tokens), gold in earned.items()
        for task in ("Reviews", "Stories")
        for seed in range(2)
    ]
    results += [golden(task, "ppo", 2, 0.0, tokens=100) for task in ("Reviews", "Stories")]
    found = mini.EXPERIMENT.findings(results)
    budgets = table(found, "Score by budget")
    assert budgets.columns == ("algorithm", "50 tokens", "100 tokens")
    # A score is the gold less 1, and the second seed has a tenth more.
    assert [(name, pytest.approx(few), pytest.approx(many)) for name, few, many in budgets.rows] == [
        ("ppo", -0.45, -0.05),
        ("grpo", -0.25, -0.15),
    ]
    # With the third seed of ppo, its mean at 100 tokens is (−0.1 + 0 − 1) / 3.
    assert found.headline.startswith("grpo leads with a mean score of −0.150")
    assert "Score by budget" in [figure.title for figure in found.figures]
    half = mini.EXPERIMENT.findings([done for done in results if done[0].arm["tokens"] == 50])
    assert "Score by budget" not in [one.title for one in (*half.tables, *half.figures)]


def climbing(task: str, name: str, seed: int, start: float, end: float, tokens: int) -> tuple[Job, dict[str, Any]]:
    """Return a run of a task between 0.2 and 0.7, whose reward rises in a straight line of four iterations."""
    curve = [[tokens * i // 4, start + (end - start) * (i - 1) / 3] for i in range(1, 5)]
    job, result = scored(task, name, seed, 1.0)
    return job, {**result, "reference": 0.2, "optimum": 0.7, "curve": curve}


def test_curves_of_different_tasks_share_no_axis() -> None:
    results = [climbing(task, "ppo", 0, 0.2, end, 400) for task, end in (("Emit", 0.7), ("Copy", 0.3))]
    results.append(climbing("Emit", "rloo", 0, 0.2, 0.7, 400))
    drawn = learning_curves(results)
    assert list(drawn) == ["ppo"], "rloo has the easy task alone"
    assert drawn["ppo"].y[-1] == pytest.approx(0.5)


def test_curves_add_tasks_up_in_their_order() -> None:
    """Sums of floats depend on it: what is added to 10¹⁶ before that is cancelled is lost."""
    rewards = dict(zip(("Emit", "Copy", "Trap", "Scale", "Recall", "Needle"), (1e16, -1e16, 1, 1, 1, 1), strict=True))
    (line,) = learning_curves([climbing(task, "ppo", 0, r, r, 400) for task, r in rewards.items()]).values()
    assert set(line.y) == {4 / 6}


def test_curves_of_tasks_with_different_scales_and_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, PlotLine] = {}

    def keep(series: dict[str, PlotLine], x_label: str, y_label: str) -> str:
        shown.update(series)
        return f"{y_label} over {x_label}"

    monkeypatch.setattr(suite, "line_plot", keep)
    results = [climbing("Emit", "ppo", seed, 0.2, 0.6, 400) for seed in range(3)]
    results += [climbing("Copy", "ppo", seed, 0.2, 1.2, 8000) for seed in range(3)]
    *_, figure = diagnostic.EXPERIMENT.findings(results).figures
    assert (figure.title, figure.svg) == ("Learning curves", "normalised reward over share of the token budget")
    # J(π_ref) = 0.2 is 0 and J* = 0.7 is 1: Emit rises to 0.8, and Copy passes 1 at once. An iteration is a quarter.
    assert (shown["ppo"].x[0], shown["ppo"].x[-1]) == (0.25, 1)
    assert (shown["ppo"].y[0], shown["ppo"].y[-1]) == (pytest.approx(0), pytest.approx(0.9))
    assert "Learning curves" not in [
        f.title for f in diagnostic.EXPERIMENT.findings([scored("Emit", "ppo", 0, 1)]).figures
    ]


def test_curves_are_averaged_over_tasks_and_have_bands_over_seeds() -> None:
    def run(task: str, seed: int, slope: float) -> tuple[Job, dict[str, Any]]:
        return Job(task, "ppo", seed), {"curve": [[100 * i, slope * i] for i in range(1, 11)]}

    results = [run(task, seed, slope + seed) for task, slope in (("Emit", 1.0), ("Copy", 3.0)) for seed in range(3)]
    drawn = learning_curves([*results, (Job("Emit", "old", 0), {})])
    assert list(drawn) == ["ppo"], "results without a curve are not drawn"
    line = drawn["ppo"]
    assert (line.x[0], line.x[-1]) == (100, 1000)
    # Slopes are 2, 3 and 4 after the mean over tasks.
    assert line.y == pytest.approx(3 * np.asarray(line.x) / 100)
    assert line.high is not None
    assert line.high[-1] == pytest.approx(30 + 4.302653 * 10 / np.sqrt(3))
    (single,) = learning_curves(results[:1]).values()
    assert single.low is None
    captions = [suite.curves_figure(some, "tokens", "reward")[0].caption for some in (results, results[:1])]
    assert ["bands" in caption for caption in captions] == [True, False]


def test_masks_are_compared_seed_by_seed() -> None:
    often = [golden("Reviews", "nlpo", seed, after, target_update=5) for seed, after in enumerate((0.9, 0.8, 0.7, 0.1))]
    never = [golden("Reviews", "nlpo", seed, after, target_update=NEVER) for seed, after in enumerate((0.8, 0.7, 0.6))]
    found = nlpo_mask.EXPERIMENT.findings([*often, *never])
    difference = row(found.tables[0], "refreshed every 5 − never")
    assert difference["gold after"].value == pytest.approx(0.1)
    # KL is twice the gold and β a quarter, so the objective is half the gold.
    assert difference["gold − β·KL"].value == pytest.approx(0.05)
    assert row(found.tables[0], "refreshed every 5 iterations")["gold − β·KL"].value == pytest.approx(0.625 / 2)
    assert difference["seeds"] == 3
    assert found.headline == (
        "Refreshing NLPO's mask changes the objective, gold − β·KL, by +0.050 (+0.050 … +0.050) and gold "
        "alone by +0.100 (+0.100 … +0.100) on Reviews."
    )
    assert row(found.tables[0], "never refreshed")["seeds"] == 3
    assert nlpo_mask.EXPERIMENT.findings(never).headline == "No pair of runs yet."


def test_the_arms_of_the_masks_differ_in_nothing_else() -> None:
    plan = nlpo_mask.EXPERIMENT.plan
    often, never = nlpo_mask.EXPERIMENT.sweep(plan)[:2]
    assert often.key != never.key
    differing = {name for name in often.settings if often.settings[name] != never.settings[name]}
    assert differing == {"target_update"}
    assert often.settings["tokens"] == 100_000


def test_the_pool_of_best_of_n_is_as_large_as_a_task_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_task("Concepts")
    few = replace(task, splits={**task.splits, "validation": task.prompts("validation")[:5]})
    monkeypatch.setattr(
        import_module("textgym.benchmarks.experiments.kl_frontier.sweep"), "load_task", {"Concepts": few}.get
    )
    jobs = kl_frontier.EXPERIMENT.sweep(kl_frontier.EXPERIMENT.plan)
    assert [job.settings["prompts"] for job in jobs if job.algorithm == SAMPLED] == [5, 5, 5]
    with pytest.raises(ValueError, match="prompts=6; expected 1 to 5, one for each validation prompt of Concepts"):
        base_responses(few, 6, 2, seed=0)
