"""Over-optimisation: the fits, the estimator and the exact KL against answers from elsewhere, and a tiny run."""

import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from textgym.benchmarks.experiments.overoptimization import EXPERIMENT
from textgym.benchmarks.experiments.overoptimization.best_of_n import (
    best_of_n_kl,
    best_of_n_value,
    best_of_n_weights,
    enumerated_kl,
    kl_bound,
    outcomes,
)
from textgym.benchmarks.experiments.overoptimization.fits import fit_form
from textgym.benchmarks.experiments.overoptimization.score import at, overoptimization_findings, peaks
from textgym.benchmarks.experiments.overoptimization.task import (
    ENUMERATION,
    OveroptimizationSettings,
    run_overoptimization,
)
from textgym.benchmarks.proxies.rl import job_settings
from textgym.benchmarks.runner.experiment import Job
from textgym.exact.enumeration import optimum
from textgym.intervals import Estimate
from textgym.registration import load_task, task_mdp
from textgym.reports.findings import Table

D = np.linspace(0.2, 4, 30)


# --- fits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [None, 0.5])
def test_the_fits_recover_what_made_the_curves(start: float | None) -> None:
    by_n = fit_form("best-of-n", D, 0.5 + D * (0.4 - 0.05 * D), start)
    by_rl = fit_form("rl", D, 0.5 + D * (0.3 - 0.12 * np.log(D)), start)
    assert (by_n.start, by_n.alpha, by_n.beta, by_n.r2) == pytest.approx((0.5, 0.4, 0.05, 1.0))
    assert (by_rl.start, by_rl.alpha, by_rl.beta, by_rl.r2) == pytest.approx((0.5, 0.3, 0.12, 1.0))
    np.testing.assert_allclose(by_rl.reward([0, 1.0, math.e]), [0.5, 0.8, 0.5 + math.e * 0.18])


@pytest.mark.parametrize("start", [None, 0.0])
def test_each_form_fits_its_own_curve_better(start: float | None) -> None:
    noise = 0.01 * np.random.default_rng(0).normal(size=len(D))
    for own, other, curve in (("best-of-n", "rl", D * (0.4 - 0.08 * D)), ("rl", "best-of-n", D * (0.3 - np.log(D)))):
        right, wrong = (fit_form(form, D, curve + noise, start) for form in (own, other))  # type: ignore[arg-type]
        assert right.aic < wrong.aic
        assert right.r2 > wrong.r2


def test_where_a_curve_begins_does_not_decide_its_form() -> None:
    """A reference that was measured 0.04 too high or too low, on other prompts, says nothing about α, β or the form."""
    curve = D * (0.1 - 0.05 * np.log(D)) + 0.01 * np.random.default_rng(0).normal(size=len(D))
    for form in ("best-of-n", "rl"):
        shifted, plain = fit_form(form, D, curve + 0.04), fit_form(form, D, curve)  # type: ignore[arg-type]
        expected = (plain.start + 0.04, plain.alpha, plain.beta, plain.aic)
        assert (shifted.start, shifted.alpha, shifted.beta, shifted.aic) == pytest.approx(expected)


def test_points_at_a_known_reference_say_nothing() -> None:
    with_zeros = fit_form("rl", [0.0, *D, 0.0], [9.0, *(D * 0.3), -9.0], 0.0)
    assert with_zeros == fit_form("rl", D, D * 0.3, 0.0)
    assert fit_form("rl", [0.0, *D], [9.0, *(D * 0.3)]).start > 0.1


def test_bad_fits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 points lie above 0; 2 numbers are fitted, so expected at least 3"):
        fit_form("rl", [0, 1, 2], [0, 1, 2], 0.0)
    with pytest.raises(ValueError, match=r"3 points lie above 0; 3 numbers are fitted, so expected at least 4"):
        fit_form("rl", [0, 1, 2, 3], [0, 1, 2, 3])
    with pytest.raises(ValueError, match="'gao' is not one of best-of-n, rl"):
        fit_form("gao", D, D)  # type: ignore[arg-type]


# --- best-of-n ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_the_estimator_equals_the_mean_over_all_subsets(n: int) -> None:
    rng = np.random.default_rng(n)
    proxy, gold = rng.normal(size=(3, 6)), rng.normal(size=(3, 6))
    by_hand = [
        np.mean([own[max(chosen, key=lambda i: by[i])] for chosen in combinations(range(6), n)])
        for by, own in zip(proxy, gold, strict=True)
    ]
    assert best_of_n_value(proxy, gold, n) == pytest.approx(np.mean(by_hand))


def test_weights_are_chances_and_need_a_pool() -> None:
    assert best_of_n_weights(128, 64).sum() == pytest.approx(1)
    for n in (0, 7):
        with pytest.raises(ValueError, match=f"n={n}; expected 1 to 6"):
            best_of_n_weights(6, n)


def test_kl_of_two_equal_halves_by_hand() -> None:
    # The better of two shows with 3/4, the worse with 1/4.
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert best_of_n_kl(np.log([0.5, 0.5]), [0.0, 1.0], 2) == pytest.approx(expected)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_kl_of_distinct_rewards_equals_a_count_of_all_draws(n: int) -> None:
    m = 3
    shown = np.zeros(m)
    for draw in np.ndindex(*[m] * n):
        shown[max(draw)] += 1 / m**n
    by_hand = sum(p * math.log(p * m) for p in shown if p)
    assert best_of_n_kl(np.full(m, -math.log(m)), np.arange(m), n) == pytest.approx(by_hand)


def test_ties_count_as_one_outcome_and_cap_the_kl() -> None:
    halves = best_of_n_kl(np.log([0.2, 0.3, 0.5]), [0.0, 0.0, 1.0], 4)
    assert halves == pytest.approx(best_of_n_kl(np.log([0.5, 0.5]), [0.0, 1.0], 4))
    assert best_of_n_kl(np.log([0.2, 0.3, 0.5]), [1.0, 1.0, 1.0], 64) == pytest.approx(0)
    # In the end only the best is left, of mass 1/2.
    assert best_of_n_kl(np.log([0.2, 0.3, 0.5]), [0.0, 0.0, 1.0], 10_000) == pytest.approx(math.log(2))


def test_many_distinct_rewards_come_close_to_the_bound_from_below() -> None:
    m = 4096
    for n in (2, 8, 32):
        exact = best_of_n_kl(np.full(m, -math.log(m)), np.arange(m), n)
        assert kl_bound(n) - 0.01 < exact < kl_bound(n)


def test_kl_asks_for_a_distribution() -> None:
    with pytest.raises(ValueError, match=r"sum to 0\.5; expected"):
        best_of_n_kl(np.log([0.5]), [0.0], 2)


def test_every_response_of_a_task_is_an_outcome() -> None:
    best = optimum(task_mdp(load_task("Recall"), "gold"), 1.0)
    known = list(outcomes(best.tree, best.ref_log_probs))
    assert [np.exp(log_probs).sum() for log_probs, _ in known] == pytest.approx([1.0] * len(best.prompt_values))
    expected = np.mean([np.exp(log_probs) @ rewards for log_probs, rewards in known])
    assert expected == pytest.approx(best.reference.reward)
    kl = enumerated_kl(best.tree, best.ref_log_probs, (1, 2, 16))
    assert (np.array(kl) <= kl_bound((1, 2, 16)) + 1e-9).all()


# --- findings -----------------------------------------------------------------------------------------------


def made(seed: int, labels: int, gold: Any) -> tuple[Job, dict[str, Any]]:
    """Return a run whose gold follows a given curve, a little different for each seed."""
    d = np.linspace(0, 4, 40 + seed)  # runs differ in their number of iterations
    golds = 0.5 + gold(d) + 1e-3 * seed * d
    rl = [{"tokens": i, "kl": x**2, "gold": g, "proxy": x} for i, (x, g) in enumerate(zip(d, golds, strict=True))]
    best = [{"n": n, "kl": float(kl_bound(n)), "gold": 0.5 + 0.1 * n, "proxy": 1.0 * n} for n in (1, 2, 4, 8)]
    job = Job("Concepts", "ppo", seed, {"size": "tiny", "labels": labels})
    return job, {"agreement": 0.6, "gold": 0.5, "best_of_n": best, "rl": rl, "cpu_seconds": 1.0}


def column(table: Table, name: str) -> list[Any]:
    return [row[table.columns.index(name)] for row in table.rows]


def test_findings_tell_what_falls_from_what_does_not() -> None:
    rows = [made(seed, 32, lambda d: d * (0.3 - 0.1 * d)) for seed in range(3)]
    rows += [made(seed, 256, lambda d: d * (0.1 - 0.02 * np.log(np.maximum(d, 1e-9)))) for seed in range(3)]
    found = overoptimization_findings(rows)
    assert "for 1 of 2 proxies" in found.headline
    assert "tiny, 32 labels" in found.headline
    assert found.headline.endswith("significantly follows d(α − β log d) for 1 and d(α − βd) for 1 of 2.")
    first, rl, best = found.tables
    falls = column(first, "fall of gold since the peak")
    assert falls[0].low > 0.3
    assert column(first, "proxy") == ["tiny, 32 labels", "tiny, 256 labels"]
    assert isinstance(column(rl, "β of d(α − βd)")[0], Estimate)
    assert column(rl, "β of d(α − βd)")[0].value == pytest.approx(0.1)
    assert column(rl, "β of d(α − β log d)")[1].value == pytest.approx(0.02)
    assert column(best, "seeds") == [3, 3]
    assert len(found.figures) == 3
    # Both fits, each in the colour of what it was fitted to, with the interval of the seeds' fits around it.
    gold = found.figures[0].svg
    assert [gold.count(f"fill: var(--series-{i}); fill-opacity") for i in range(4)] == [1, 1, 0, 0]
    assert gold.count("stroke-dasharray") == 2
    assert "fitted" not in gold


def test_proxies_stand_in_the_order_of_their_size() -> None:
    rows = [made(0, 32, lambda d: 0.1 * d)]
    rows += [
        (replace(job, arm={**job.arm, "size": size}), result) for size in ("base", "fresh") for job, result in rows
    ]
    assert column(overoptimization_findings(rows).tables[0], "proxy") == [
        f"{size}, 32 labels" for size in ("tiny", "fresh", "base")
    ]


def test_findings_say_where_nothing_falls() -> None:
    found = overoptimization_findings([made(seed, 256, lambda d: 0.1 * d) for seed in range(3)])
    assert found.headline.startswith("Under RL, gold did not significantly fall after its peak for any of 1 proxies")


def test_noise_alone_is_no_fall() -> None:
    gold = np.array([[0.0, 5.0, 1.0], [3.0, 0.0, 1.0], [2.0, 1.0, 1.0]])
    assert peaks(gold).tolist() == [0, 1, 1]  # of 5 1 2, of 2 6 2, of 3 5 2
    assert at(gold, peaks(gold)).tolist() == [0.0, 0.0, 1.0]
    # Level curves with noise of 1 fall by 0 on the mean; from the highest part of their own mean they fall by 1.07.
    curves = np.random.default_rng(0).normal(size=(400, 3, 20))
    assert np.mean([at(own, peaks(own)) - own[:, -1] for own in curves]) == pytest.approx(0, abs=0.15)


def test_several_algorithms_are_told_apart() -> None:
    rows = [made(0, 32, lambda d: d * (0.3 - 0.1 * d))]
    rows += [(replace(job, algorithm="rloo"), result) for job, result in rows]
    found = overoptimization_findings(rows)
    assert column(found.tables[0], "proxy") == ["ppo on Concepts, tiny, 32 labels", "rloo on Concepts, tiny, 32 labels"]
    assert len(found.figures) == 6


def test_findings_of_a_part_of_the_sweep() -> None:
    assert overoptimization_findings([]).headline
    found = overoptimization_findings([made(0, 32, lambda d: d * (0.3 - 0.1 * d))])
    assert found.headline.startswith("At least 3 seeds are needed to tell")
    assert column(found.tables[0], "seeds") == [1]


def test_runs_too_short_for_fits_are_shown_without() -> None:
    rows = [made(seed, 32, lambda d: 0.1 * d) for seed in range(3)]
    short = [(job, {**result, "rl": result["rl"][:4]}) for job, result in rows]
    found = overoptimization_findings(short)
    assert found.headline.endswith("; the runs are too short for fits.")
    assert [len(table.rows) for table in found.tables] == [1, 0, 1]


# --- runs ---------------------------------------------------------------------------------------------------


def test_a_run_by_enumeration() -> None:
    job = Job("Emit", ENUMERATION, 0)
    result = run_overoptimization(job)
    points = {point["n"]: point["kl"] for point in result["best_of_n"]}
    assert points[1] == pytest.approx(0)
    assert 0 < points[64] < kl_bound(64)
    (table,) = overoptimization_findings([(job, result)]).tables
    assert column(table, "KL on Emit") == list(points.values())
    assert column(table, "share of the bound, Emit")[0] is None


TINY = job_settings(
    OveroptimizationSettings(tokens=100, slots=8, prompts=3, pool=8),
    "ppo",
    episodes_per_iteration=8,
    minibatch_size=8,
    n_epochs=1,
)


def test_a_tiny_run_repeats_itself() -> None:
    job = Job("Concepts", "ppo", 1, {"size": "tiny", "labels": 4}, TINY)
    result = run_overoptimization(job)
    assert [point["n"] for point in result["best_of_n"]] == [1, 2, 4, 8]
    assert result["best_of_n"][0]["gold"] == pytest.approx(result["gold"])
    assert result["best_of_n"][0]["proxy"] == pytest.approx(0, abs=1e-6)  # standardised on this very pool
    proxies = [point["proxy"] for point in result["best_of_n"]]
    assert proxies == sorted(proxies)
    assert result["rl"][0]["kl"] == pytest.approx(0, abs=1e-4)
    assert 0 <= result["rl"][0]["gold"] <= 1
    again = run_overoptimization(job)
    assert {**again, "cpu_seconds": 0} == {**result, "cpu_seconds": 0}


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"size": "huge", "labels": 4}, "'huge' is not one of tiny, fresh, base"),
        ({"size": "tiny", "labels": 10**6}, "labels=1000000; expected 1 to 9000"),
    ],
)
def test_bad_arms_are_named(arm: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_overoptimization(Job("Concepts", "ppo", 0, arm, TINY))


@pytest.mark.parametrize("algorithm", ["sft", "stable_baselines3:PPO"])
def test_what_cannot_be_watched_is_refused_before_any_run(algorithm: str) -> None:
    with pytest.raises(ValueError, match=f"{algorithm}.*does not log gold and KL"):
        EXPERIMENT.sweep(replace(EXPERIMENT.plan, algorithms=(algorithm,)))


@pytest.mark.parametrize("name", ["prompts", "pool"])
def test_settings_that_no_run_can_use_are_refused_by_the_sweep(name: str) -> None:
    value = {"prompts": 1_000_000, "pool": 4}[name]
    with pytest.raises(ValueError, match=f"{name}={value}"):
        EXPERIMENT.sweep(replace(EXPERIMENT.plan, settings={**EXPERIMENT.plan.settings, name: value}))


def test_the_sweep_covers_both_extremes() -> None:
    jobs = EXPERIMENT.sweep(replace(EXPERIMENT.plan, settings={**EXPERIMENT.plan.settings, "tokens": 123}))
    trained = [job for job in jobs if job.arm]
    arms = {(job.arm["size"], job.arm["labels"]) for job in trained}
    assert {("tiny", 32), ("tiny", 2048), ("base", 32), ("base", 2048)} <= arms
    assert len({job.key for job in jobs}) == len(jobs)
    assert [job.seed for job in trained] == sorted(job.seed for job in trained)
    assert {job.settings["tokens"] for job in trained} == {123}
    assert all("clip_range" in job.settings for job in trained)  # the algorithm's own
