"""Tuning: spaces that hold the published values, equal draws, a choice that is the best, and files that fit."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import fake_search
import numpy as np
import pytest
from fake_experiment import EXPERIMENT as FAKE
from fake_experiment import begun, job
from fake_search import EXPERIMENT, surface

from textgym.agents.registry import ALGORITHMS
from textgym.agents.search import Choice, LogRange, Range, search_space
from textgym.agents.settings import ClipSettings, DAPOSettings, GroupSettings, PPOSettings
from textgym.benchmarks.entries import find_entry
from textgym.benchmarks.experiments import find_experiment
from textgym.benchmarks.runner import jobs
from textgym.benchmarks.runner.experiment import Job, Plan
from textgym.benchmarks.runner.jobs import FAILED, run_jobs
from textgym.benchmarks.runner.results_file import read_results
from textgym.benchmarks.tuning.findings import expected_curve, search_findings, trial_scores
from textgym.benchmarks.tuning.trials import TRIAL, chosen_settings, draw_trials, planned_trials, search_jobs
from textgym.benchmarks.tuning.tuned_file import Trial, Tuned, apply_tuned, best_trial, read_tuned, write_tuned
from textgym.commands import bench
from textgym.commands.configs.bench import BenchReport, BenchRun, BenchTune

PLAN = EXPERIMENT.plan

# --- search spaces -----------------------------------------------------------------------------------------------


def within(values: Range, value: Any) -> bool:
    """Return True if a value is in a range, by its bounds or its list."""
    if isinstance(values, LogRange):
        return values.low <= value <= values.high
    assert isinstance(values, Choice)
    return any(value == one for one in values.values)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_space_of_each_algorithm_holds_its_published_values(name: str) -> None:
    kind = ALGORITHMS[name].settings_class
    defaults = {field.name: field.default for field in fields(kind)}
    space = search_space(kind)
    assert {"minibatch_size", "n_epochs"} <= space.keys()
    assert [setting for setting, values in space.items() if not within(values, defaults[setting])] == []
    assert ("samples_per_prompt" in space) == issubclass(kind, GroupSettings)
    assert ("clip_range" in space or "clip_range_high" in space) == issubclass(kind, ClipSettings)


@pytest.mark.parametrize(
    ("algorithm", "setting", "published"),
    [
        ("ppo", "clip_range", 0.2),  # Schulman 2017
        ("ppo", "n_epochs", 4),  # Ziegler 2019
        ("gspo", "clip_range", 3e-4),  # Zheng 2025
        ("dapo", "clip_range_high", 0.28),  # Yu 2025
        ("dr-grpo", "samples_per_prompt", 8),  # Liu 2025
    ],
)
def test_values_of_the_papers_lie_within_the_spaces(algorithm: str, setting: str, published: float) -> None:
    assert within(find_entry(algorithm).search()[setting], published)


@pytest.mark.parametrize(
    "name", ["sft", "sft+ppo", "stable_baselines3:PPO", "stable_baselines3:A2C", "sb3_contrib:TRPO"]
)
def test_the_space_of_other_entries_holds_their_values(name: str) -> None:
    entry = find_entry(name)
    values = entry.values({})
    assert [setting for setting, own in entry.search().items() if not within(own, values[setting])] == []


def test_a_space_without_the_published_value_is_refused() -> None:
    @dataclass(frozen=True)
    class Own(PPOSettings):
        search: ClassVar[Mapping[str, Range | None]] = {"n_epochs": Choice((1, 2))}

    told = re.escape(
        "search space of Own: n_epochs = 1, 2 leaves out the published value 4; add it, or declare search = "
        "{'n_epochs': None} to keep n_epochs as it is"
    )
    with pytest.raises(ValueError, match=told):
        search_space(Own)

    @dataclass(frozen=True)
    class Above(PPOSettings):
        search: ClassVar[Mapping[str, Range | None]] = {"ent_coef": LogRange(1e-4, 1e-2)}

    with pytest.raises(
        ValueError, match=re.escape("ent_coef = 0.0001 … 0.01, by factors leaves out the published value 0.0")
    ):
        search_space(Above)


def test_a_space_of_an_unknown_setting_is_refused() -> None:
    @dataclass(frozen=True)
    class Own(PPOSettings):
        search: ClassVar[Mapping[str, Range | None]] = {"epochs": Choice((1, 2))}

    with pytest.raises(ValueError, match="search space of Own: there is no setting 'epochs'; it has episodes_per_iter"):
        search_space(Own)


def test_subclasses_inherit_a_space_and_declare_their_own() -> None:
    @dataclass(frozen=True)
    class Plain(PPOSettings):
        pass

    @dataclass(frozen=True)
    class Own(PPOSettings):
        search: ClassVar[Mapping[str, Range | None]] = {"n_epochs": None, "heat": LogRange(0.1, 10)}
        heat: float = 1.0

    @dataclass(frozen=True)
    class Again(Own):
        search: ClassVar[Mapping[str, Range | None]] = {"n_epochs": Choice((3, 4))}

    ppo = search_space(PPOSettings)
    assert search_space(Plain) == ppo
    assert search_space(Own) == {**{name: ppo[name] for name in ppo if name != "n_epochs"}, "heat": LogRange(0.1, 10)}
    assert search_space(Again) == {**search_space(Own), "n_epochs": Choice((3, 4))}
    assert "clip_range" not in search_space(DAPOSettings), "None takes a setting out"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (2, 1), (1, 1), (1, math.inf), (math.nan, 1)])
def test_a_range_of_no_positive_numbers_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"low={low}, high={high}; expected 0 < low < high")):
        LogRange(low, high)


def test_a_choice_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"values=\(3, 3\); expected at least two that differ"):
        Choice((3, 3))


@pytest.mark.parametrize(("low", "high"), [(3e-4, 1e-2), (0.0010049, 0.0019999), (7, 7.004)])
def test_a_log_range_gives_each_factor_the_same_share(low: float, high: float) -> None:
    shares = np.linspace(0, 1, 1001)[:-1]
    values = np.array([LogRange(low, high).at(share) for share in shares])
    assert (low <= values).all()
    assert (values <= high).all(), "rounding leads out of the range"
    # Three significant digits are half a percent at most.
    np.testing.assert_allclose(np.log(values), math.log(low) + shares * math.log(high / low), atol=0.0051)
    assert LogRange(1e-4, 1e-2).at(0.5) == 1e-3


def test_a_choice_gives_each_value_the_same_share() -> None:
    drawn = Counter(Choice((1, 2, 4)).at(share) for share in np.linspace(0, 1, 301)[:-1])
    assert drawn == {1: 100, 2: 100, 4: 100}


# --- draws -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """A range whose values are the shares themselves."""

    def at(self, share: float) -> float:
        return share

    def __contains__(self, value: object) -> bool:
        return True


def test_the_first_trial_is_the_published_setting() -> None:
    drawn = draw_trials({"a": Share(), "b": Share()}, {"a": -1, "b": -2, "untouched": 3}, 5, seed=0)
    assert drawn[0] == {"a": -1, "b": -2}
    assert len(drawn) == 5


@pytest.mark.parametrize("count", [2, 3, 9, 40])
def test_each_stratum_is_hit_once(count: int) -> None:
    drawn = draw_trials({"a": Share(), "b": Share()}, {"a": 0, "b": 0}, count, seed=3)[1:]
    for name in "ab":
        strata = [int(one[name] * (count - 1)) for one in drawn]
        assert sorted(strata) == list(range(count - 1))
        assert all(0 <= one[name] < 1 for one in drawn)
    if count == 40:
        assert [one["a"] for one in drawn] != [one["b"] for one in drawn], "settings are drawn together"
        inside = [one["a"] * 39 % 1 for one in drawn]
        assert 0.35 < np.mean(inside) < 0.65, "a point lies anywhere within its stratum"
        assert np.std(inside) > 0.2


def test_values_of_a_choice_are_balanced() -> None:
    drawn = draw_trials({"n": Choice((1, 2, 4))}, {"n": 4}, 7, seed=1)[1:]
    assert Counter(one["n"] for one in drawn) == {1: 2, 2: 2, 4: 2}


def test_further_settings_change_no_other_draw() -> None:
    few = draw_trials({"a": Share()}, {"a": 0}, 8, seed=5)
    many = draw_trials({"c": Share(), "a": Share(), "b": Share()}, {"a": 0, "b": 0, "c": 0}, 8, seed=5)
    assert [one["a"] for one in few] == [one["a"] for one in many]
    assert draw_trials({"a": Share()}, {"a": 0}, 8, seed=5) == few
    assert draw_trials({"a": Share()}, {"a": 0}, 8, seed=6)[1:] != few[1:]


@pytest.mark.parametrize("count", [1, 0, -3])
def test_fewer_than_two_trials_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"trials={count}; expected at least 2"):
        draw_trials({"a": Share()}, {"a": 0}, count, seed=0)
    with pytest.raises(ValueError, match=f"trials={count}; expected a whole number, at least 2"):
        BenchTune("mini", trials=count)


def test_algorithms_that_share_a_setting_try_the_same_values() -> None:
    mini = find_experiment("mini")
    names = ("ppo", "grpo", "best-of-n", "sft+ppo")
    trials = planned_trials(mini, replace(mini.plan, algorithms=names), 6, seed=4)
    for name in names[1:]:
        shared = trials["ppo"][0].keys() & trials[name][0].keys()
        assert {"learning_rate", "n_epochs", "minibatch_size"} <= shared
        for setting in shared:
            tried = [[one[setting] for one in trials[each][1:]] for each in ("ppo", name)]
            assert tried[0] == tried[1]
    assert trials["sft+ppo"] == trials["ppo"]
    for name in names:
        own = find_entry(name).settings({})
        assert trials[name][0] == {"learning_rate": 1e-3} | {k: own[k] for k in trials[name][0] if k != "learning_rate"}


def test_a_users_space_may_hold_a_setting_that_is_off_by_default(tmp_path: Path) -> None:
    """Rows leave out settings without effect; a search needs their published values all the same."""
    path = tmp_path / "own.py"
    path.write_text(
        "from dataclasses import dataclass\n"
        "from textgym.agents import PPO\n"
        "from textgym.agents.search import Choice\n"
        "from textgym.agents.settings import PPOSettings\n\n\n"
        "@dataclass(frozen=True)\n"
        "class OwnSettings(PPOSettings):\n"
        "    search = {'ent_coef': Choice((0.0, 0.01))}\n\n\n"
        "class Own(PPO):\n"
        "    settings_class = OwnSettings\n"
    )
    name = f"{path}:Own"
    mini = find_experiment("mini")
    plan = replace(mini.plan, algorithms=(name,), settings={**mini.plan.settings, "budgets": 1})
    trials = planned_trials(mini, plan, 3, seed=0)
    assert sorted(one["ent_coef"] for one in trials[name][1:]) == [0.0, 0.01]
    assert trials[name][0]["ent_coef"] == 0.0
    made = {job.arm[TRIAL]: job.settings.get("ent_coef", 0.0) for job in search_jobs(mini, plan, trials)}
    assert made == {number: one["ent_coef"] for number, one in enumerate(trials[name])}


def test_an_experiment_without_development_instances_is_not_tuned() -> None:
    with pytest.raises(
        ValueError, match="experiment='fake_search' has no development instances; 'textgym bench list' tells which have"
    ):
        planned_trials(replace(EXPERIMENT, tuning=None), EXPERIMENT.plan, 4, seed=0)


def test_the_rate_of_the_experiment_must_be_tried() -> None:
    plan = replace(EXPERIMENT.plan, settings={**EXPERIMENT.plan.settings, "learning_rate": 0.5})
    with pytest.raises(ValueError, match=r"settings: learning_rate=0.5; .* those that it draws from: 0.0003 … 0.01"):
        planned_trials(EXPERIMENT, plan, 4, seed=0)


def test_a_search_runs_every_trial_of_every_algorithm_on_development_instances_alone() -> None:
    trials = planned_trials(EXPERIMENT, EXPERIMENT.plan, 3, seed=0)
    jobs = search_jobs(EXPERIMENT, EXPERIMENT.plan, trials)
    runs = [(one.algorithm, one.task, one.seed, one.arm[TRIAL]) for one in jobs]
    wanted = {
        (name, task, seed, n)
        for name in ("ppo", "rloo")
        for task in ("Easy", "Hard")
        for seed in (1000, 1001)
        for n in range(3)
    }
    assert set(runs) == wanted
    assert len(runs) == len(wanted)
    assert [run[-1] for run in runs] == sorted(run[-1] for run in runs), "trial by trial"
    for one in jobs:
        assert dict(one.settings) | trials[one.algorithm][one.arm[TRIAL]] == dict(one.settings)
        assert one.settings["trials"] == 3


# --- the choice --------------------------------------------------------------------------------------------------


def searched(count: int, seed: int = 0, **settings: Any) -> Tuned:
    """Return the outcome of a search whose runs are done here."""
    plan = replace(EXPERIMENT.plan, settings={**EXPERIMENT.plan.settings, **settings})
    trials = planned_trials(EXPERIMENT, plan, count, seed)
    results = [
        (one, {"score": surface(dict(one.settings)) - fake_search.HARDNESS[one.task]})
        for one in search_jobs(EXPERIMENT, plan, trials)
    ]
    return chosen_settings(EXPERIMENT, plan, trials, results, seed)


def test_more_trials_come_nearer_to_the_optimum() -> None:
    best = {
        count: [surface(dict(searched(count, seed).settings("ppo"))) for seed in range(8)] for count in (2, 4, 16, 64)
    }
    means = [np.mean(values) for values in best.values()]
    assert means == sorted(means)
    assert min(best[2]) >= surface({"learning_rate": 1e-3, "n_epochs": 4}), "worse than the published setting"
    # 21 of 63 rates have two passes. Of the 18 within 0.22 decades of the best, which cost 0.05 at most, one has them
    # but in one search of 1,500.
    assert min(best[64]) > 0.95
    assert means[-1] > 0.99


def test_the_best_trial_wins_and_the_first_of_equals() -> None:
    trials = [Trial({}, scores) for scores in ((0.1, 0.5), (0.4, 0.4), (0.8, 0.0), (9.0, None))]
    assert best_trial(trials) == 1, "means 0.3, 0.4, 0.4; the last failed on one instance"
    with pytest.raises(ValueError, match="training failed on some development instance in every trial"):
        best_trial([Trial({}, (None, 1.0)), Trial({}, (2.0, None))])


def test_a_trial_is_judged_by_all_its_runs_on_an_instance() -> None:
    """Such as those at two budgets; what fails at one of them is not chosen."""
    plan = replace(EXPERIMENT.plan, algorithms=("ppo",))
    trials = {"ppo": [{"n_epochs": n} for n in range(3)]}
    tuning = EXPERIMENT.tuning
    assert tuning is not None
    one_instance = replace(EXPERIMENT, tuning=replace(tuning, tasks=("Easy",), seeds=(1000,)))
    earned: dict[int, tuple[float | None, float]] = {0: (0.2, 0.9), 1: (0.7, 0.6), 2: (None, 5.0)}
    results = [
        (Job("Easy", "ppo", 1000, {"tokens": tokens, TRIAL: n}), {FAILED: "no"} if value is None else {"score": value})
        for n, values in earned.items()
        for tokens, value in zip((100, 50), values, strict=True)
    ]
    found = chosen_settings(one_instance, plan, trials, results, 0)
    assert [one.scores for one in found.trials["ppo"]] == [(pytest.approx(0.55),), (pytest.approx(0.65),), (None,)]
    assert found.chosen == {"ppo": 1}


def test_mini_is_tuned_at_its_largest_budget_alone() -> None:
    mini = find_experiment("mini")
    plan = replace(mini.plan, algorithms=("ppo",))
    jobs = search_jobs(mini, plan, planned_trials(mini, plan, 2, seed=0))
    assert {(one.arm["tokens"], one.arm[TRIAL]) for one in jobs} == {(8_000, 0), (8_000, 1)}
    assert mini.tuning is not None
    assert len(jobs) == 2 * len(mini.tuning.tasks) * len(mini.tuning.seeds)
    scored = {(task, seed) for task in plan.tasks for seed in plan.seeds}
    assert not scored & {(one.task, one.seed) for one in jobs}
    assert len({one.key for one in jobs}) == len(jobs)


# --- runs that fail ----------------------------------------------------------------------------------------------


def test_a_tolerated_error_is_a_result_and_another_ends_the_sweep(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "results.jsonl"
    jobs = [job(log, 0, "broken"), job(log, 1)]
    failed, done = run_jobs(FAKE, jobs, path, tolerated=(ValueError,))
    assert failed[1] == {FAILED: "ValueError: this run is broken"}
    assert done[1]["square"] == 1
    assert next(result for _, result in read_results(path)) == failed[1]
    run_jobs(FAKE, jobs, path, tolerated=(ValueError,))
    assert begun(log) == [0, 1], "a failed run is not tried again"
    with pytest.raises(ValueError, match="this run is broken"):
        run_jobs(FAKE, jobs, tmp_path / "other.jsonl", tolerated=(KeyError,))


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the command find the experiment, and return the file in which its runs note that they began.

    Runs are done in this process, as starting one for each takes a second; tests of the runner have fresh ones.
    """
    monkeypatch.setattr(jobs, "_in_fresh_process", lambda run, one, _: run(one))
    path = tmp_path / "log"
    logged = replace(PLAN, settings={**PLAN.settings, "log": str(path)})
    monkeypatch.setattr(bench, "find_experiment", {"fake_search": replace(EXPERIMENT, plan=logged)}.__getitem__)
    return path


def tune(out: Path, trials: int = 3, **settings: Any) -> Tuned:
    return bench.tune(BenchTune("fake_search", ("ppo", "rloo"), trials, settings=settings, out=out))


def run_count(log: Path) -> int:
    return len(log.read_text().splitlines())


def test_a_search_finds_the_best_of_its_trials_and_repeats_nothing(
    tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned.json"
    tuned = tune(out)
    for name in ("ppo", "rloo"):
        values = [surface(dict(one.settings)) for one in tuned.trials[name]]
        assert tuned.chosen[name] == int(np.argmax(values))
        # Over two tasks of hardness 0 and 0.3, and seeds that cost 0 and 0.001.
        means = [float(np.mean(one.scores)) for one in tuned.trials[name]]  # type: ignore[arg-type]
        np.testing.assert_allclose(means, np.array(values) - 0.15 - 0.0005, atol=1e-12)
    assert tuned.development == (("Easy", 1000), ("Hard", 1000), ("Easy", 1001), ("Hard", 1001))
    assert read_tuned(out) == tuned
    assert "3 settings of each of 2 algorithms were tried on Easy (instance 1000)" in capsys.readouterr().out
    assert run_count(log) == 2 * 3 * 4
    assert tune(out) == tuned
    assert run_count(log) == 24
    # A killed search leaves some runs and half a line.
    runs = out.with_suffix(".jsonl")
    lines = runs.read_bytes().splitlines(keepends=True)
    runs.write_bytes(b"".join(lines[:-2]) + lines[-2][:40])
    out.unlink()
    with pytest.warns(UserWarning, match="torn"):
        assert tune(out) == tuned
    assert run_count(log) == 26
    # Another search does not mix with this one.
    before = runs.read_bytes()
    with pytest.raises(ValueError, match=r"with other settings \(.*trials: 3 there, 4 here"):
        tune(out, trials=4)
    with pytest.raises(ValueError, match=r"with other settings \(beta: 0.05 there, 0.1 here\)"):
        tune(out, beta=0.1)
    with pytest.raises(ValueError, match=r"with other settings \(.*learning_rate"):
        bench.tune(BenchTune("fake_search", ("ppo", "rloo"), 3, seed=1, out=out))
    assert runs.read_bytes() == before
    assert run_count(log) == 26
    bench.report(BenchReport((out,), tmp_path / "page"))
    assert "fake_search search" in (tmp_path / "page" / "report.md").read_text()
    with pytest.raises(
        ValueError, match=r"tuned.jsonl has the runs of a search; expected its tuned file, .*tuned.json"
    ):
        bench.report(BenchReport((runs,), tmp_path / "other"))


def test_a_setting_whose_training_fails_is_never_chosen(tmp_path: Path, log: Path) -> None:
    trials = [one["learning_rate"] for one in planned_trials(EXPERIMENT, EXPERIMENT.plan, 3, seed=0)["ppo"]]
    bearable = sorted(trials)[1]  # the highest rate of three fails
    tuned = bench.tune(
        BenchTune("fake_search", ("ppo",), 3, settings={"bearable": bearable}, out=tmp_path / "tuned.json")
    )
    worst = int(np.argmax(trials))
    assert [one.scores == (None,) * 4 for one in tuned.trials["ppo"]] == [number == worst for number in range(3)]
    assert tuned.chosen["ppo"] != worst
    failed = [result for one, result in read_results(tmp_path / "tuned.jsonl") if one.arm[TRIAL] == worst]
    assert failed == [{FAILED: "TrainingError: the loss is not finite"}] * 4


def test_tuned_settings_stand_in_the_rows_and_rows_that_are_not_comparable_are_refused(
    tmp_path: Path, log: Path
) -> None:
    path, out = tmp_path / "tuned.json", tmp_path / "results.jsonl"
    tuned = searched(4)
    chosen = {"ppo": 1, "rloo": 2}
    trials = {  # so that each algorithm has a rate of its own
        name: tuple(replace(one, scores=(float(n == chosen[name]),) * 4) for n, one in enumerate(tuned.trials[name]))
        for name in chosen
    }
    write_tuned(path, replace(tuned, trials=trials, chosen=chosen))
    bench.run(BenchRun("fake_search", seeds=2, tuned=path, out=out))
    rows = read_results(out)
    assert len(rows) == 8
    for one, _ in rows:
        wanted = trials[one.algorithm][chosen[one.algorithm]].settings
        assert {name: one.settings[name] for name in wanted} == dict(wanted)
        assert one.settings["trials"] == 4
    assert len({one.settings["learning_rate"] for one, _ in rows}) == 2, "different rates stand in one file"
    begun_before = run_count(log)
    with pytest.raises(ValueError, match=r"trials is 4 for ppo on Easy, seed 0, and 0 for rloo on Easy, seed 5"):
        bench.run(BenchRun("fake_search", ("rloo",), seed=5, out=out))
    for name, other in (("beta", 0.2), ("evaluated", 9), ("tokens", 101)):
        changed = replace(tuned, shared={**tuned.shared, name: other}, trials=trials, chosen=chosen)
        write_tuned(path, changed)
        with pytest.raises(
            ValueError, match=rf"{name} is .* for ppo on Easy, seed 0, and {other} for rloo on Easy, seed 5"
        ):
            bench.run(BenchRun("fake_search", ("rloo",), seed=5, tuned=path, settings={name: other}, out=out))
    assert run_count(log) == begun_before


# --- tuned files -------------------------------------------------------------------------------------------------


def test_a_tuned_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    tuned = searched(3)
    failed = replace(tuned.trials["ppo"][1], scores=(None, 0.5, 0.5, 0.5))
    path = tmp_path / "tuned.json"
    first, _, last = tuned.trials["ppo"]
    trials = {**tuned.trials, "ppo": (first, failed, last)}
    tuned = replace(tuned, trials=trials, chosen={name: best_trial(each) for name, each in trials.items()})
    write_tuned(path, tuned)
    assert read_tuned(path) == tuned
    assert tuned.count == 3
    assert tuned.settings("rloo") == tuned.trials["rloo"][tuned.chosen["rloo"]].settings


def damaged(change: str) -> str:
    """Return the text of a tuned file with one change."""
    row = json.loads(json.dumps({**vars(searched(3)), "trials": None}))
    row["trials"] = {
        name: [{"settings": dict(one.settings), "scores": list(one.scores)} for one in tried]
        for name, tried in searched(3).trials.items()
    }
    exec(change, {"row": row})
    return json.dumps(row)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("row['trials']['ppo'].pop(0)", "numbers of trials differ: {'ppo': 2, 'rloo': 3}; expected as many for each"),
        ("row['chosen']['ppo'] = (row['chosen']['ppo'] + 1) % 3", r"chosen is {.*}; expected the best trial of each"),
        ("del row['chosen']['ppo']", "expected the best trial of each"),
        ("row['trials']['rloo'][0]['scores'] = [9, 9, 9, 9]; row['chosen']['rloo'] = 1", "expected the best trial"),
        ("del row['trials']", "expected a tuned file of 'textgym bench tune', got KeyError"),
        ("del row['experiment']", "expected a tuned file of 'textgym bench tune', got TypeError"),
        ("row['note'] = 1", "expected a tuned file of 'textgym bench tune', got TypeError"),
        ("row['trials']['ppo'][0]['scores'] = []", "expected a tuned file .* for each of 4 instances"),
        ("row['trials']['ppo'][0]['scores'].append(1.0)", "expected a tuned file .* for each of 4 instances"),
        ("row['trials']['ppo'][0]['scores'] = ['a'] * 4", "expected a tuned file"),
        ("row['trials']['ppo'][0]['scores'] = [''] * 4", "expected a tuned file"),
        ("[one.update(scores=[None] * 4) for one in row['trials']['ppo']]", "training failed on some development"),
        ("row['development'] = 3", "expected a tuned file"),
    ],
)
def test_a_damaged_tuned_file_is_refused(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "tuned.json"
    path.write_text(damaged("pass"))
    assert read_tuned(path) == searched(3)
    path.write_text(damaged(change))
    with pytest.raises(ValueError, match=message) as raised:
        read_tuned(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"trials": 1}'])
def test_what_is_no_tuned_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tuned.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"tuned.json: expected a tuned file of 'textgym bench tune'"):
        read_tuned(path)


def test_a_missing_tuned_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"there is no tuned file '.*nowhere.json'; 'textgym bench tune' writes"
    ):
        read_tuned(tmp_path / "nowhere.json")


def test_a_tuned_file_must_be_json_by_name() -> None:
    with pytest.raises(ValueError, match=r"out='tuned.jsonl'; expected a name that ends in .json"):
        BenchTune("mini", out=Path("tuned.jsonl"))


@pytest.mark.parametrize(
    ("there", "plan", "message"),
    [
        ({"version": "0.1.0"}, PLAN, r"tuned for version '0.1.0'; expected '.*': run 'textgym bench tune' again"),
        ({"experiment": "mini"}, PLAN, "tuned for experiment 'mini'; expected 'fake_search'"),
        ({}, replace(PLAN, settings={**PLAN.settings, "tokens": 200}), "tuned with tokens 100; this run has 200"),
        ({}, replace(PLAN, settings={**PLAN.settings, "beta": 0.5}), "tuned with beta 0.05; this run has 0.5"),
        (
            {},
            replace(PLAN, settings={**PLAN.settings, "learning_rate": 0.004}),
            "has a learning_rate for each algorithm; got 0.004 for all: leave it out",
        ),
        ({}, replace(PLAN, algorithms=("ppo", "grpo", "a2c")), "has no search of grpo, a2c; expected as many trials"),
        (
            {},
            replace(PLAN, seeds=range(999, 1002)),
            "tuned on Easy, seed 1000, Easy, seed 1001, Hard, seed 1000, Hard, seed 1001, which this run would score",
        ),
        ({}, replace(PLAN, seeds=(1001,), tasks=("Hard",)), "tuned on Hard, seed 1001, which this run would score"),
    ],
)
def test_a_tuned_file_of_something_else_is_refused(there: dict[str, Any], plan: Plan, message: str) -> None:
    with pytest.raises(ValueError, match=f"tuned.json: {message}"):
        apply_tuned(Path("tuned.json"), replace(searched(3), **there), EXPERIMENT, plan)


def test_a_fitting_tuned_file_gives_each_algorithm_its_setting() -> None:
    tuned = searched(5)
    changed = replace(PLAN, algorithms=("rloo",), seeds=(7,))
    plan = apply_tuned(Path("tuned.json"), tuned, EXPERIMENT, changed)
    assert plan == replace(changed, tuned={"rloo": tuned.settings("rloo")}, trials=5)


def test_mini_takes_tuned_settings() -> None:
    mini = find_experiment("mini")
    plan = replace(
        mini.plan,
        algorithms=("ppo", "grpo"),
        tasks=("Stories",),
        tuned={"ppo": {"learning_rate": 0.007, "n_epochs": 2}, "grpo": {"learning_rate": 0.002}},
        trials=8,
    )
    jobs = mini.sweep(plan)
    assert {(one.settings["learning_rate"], one.settings["n_epochs"]) for one in jobs if one.algorithm == "ppo"} == {
        (0.007, 2)
    }
    assert {one.settings["learning_rate"] for one in jobs if one.algorithm == "grpo"} == {0.002}
    assert {one.settings["trials"] for one in jobs} == {8}


# --- what tuning was worth ---------------------------------------------------------------------------------------


def test_the_expected_curve_counts_a_useless_setting_as_none() -> None:
    # Means −0.5, 0.3 and −0.1 count as 0, 0.3 and 0: a third of single trials, two thirds of pairs, all triples.
    table = np.array([[-1.0, 0.0], [0.2, 0.4], [0.1, -0.3]])
    np.testing.assert_allclose(expected_curve(table), [0.1, 0.2, 0.3])
    np.testing.assert_allclose(expected_curve(-np.ones((4, 2))), 0)


def example() -> Tuned:
    """Return a search by hand: of ppo's trials the second failed where its other score was the best of all."""
    trials = {
        "ppo": (Trial({"n": 4}, (0.2, 0.4)), Trial({"n": 1}, (0.9, None)), Trial({"n": 2}, (0.5, 0.3))),
        "rloo": (Trial({"n": 1}, (0.1, 0.1)), Trial({"n": 2}, (0.0, -0.2)), Trial({"n": 4}, (0.05, 0.05))),
    }
    development = (("Easy", 1000), ("Hard", 1000))
    return Tuned("fake_search", "0", 0, {}, development, {}, trials, {"ppo": 2, "rloo": 0})


def test_a_failed_trial_counts_as_the_worst_run() -> None:
    scores = trial_scores(example())
    assert scores["ppo"].tolist() == [[0.2, 0.4], [-0.2, -0.2], [0.5, 0.3]]
    assert scores["rloo"].tolist() == [[0.1, 0.1], [0.0, -0.2], [0.05, 0.05]]
    assert expected_curve(scores["ppo"])[-1] == pytest.approx(0.4), "the best of all is the chosen trial"


def test_findings_of_a_search_by_hand() -> None:
    found = search_findings(example())
    assert found.headline == (
        "3 settings of each of 2 algorithms were tried on Easy (instance 1000), Hard (instance 1000). The default "
        "setting is the best of them for 1; ppo gains most from tuning (+0.10)."
    )
    timed = search_findings(replace(example(), cpu_seconds=180.0))
    assert timed.headline == f"{found.headline} The search took 3 CPU-minutes."
    worth, chosen = found.tables
    assert worth.columns == ("algorithm", "default", "best of 1", "best of 2", "best of 3", "sensitivity", "failed")
    # ppo's means count as 0.3, 0 and 0.4; pairs have 0.3, 0.4 and 0.4. With a setting for each task: 0.5 and 0.4.
    assert worth.rows[0] == ("ppo", *map(pytest.approx, (0.3, 0.7 / 3, 1.1 / 3, 0.4, 0.05)), 1)
    # rloo's are 0.1, 0 and 0.05; the first is the best on both tasks.
    assert worth.rows[1] == ("rloo", *map(pytest.approx, (0.1, 0.05, 0.25 / 3, 0.1, 0.0)), 0)
    assert chosen.rows == (("ppo", 2, "n 2"), ("rloo", 0, ""))
    assert len(found.figures) == 1
