"""The commands that a report prints: each is one that the command line takes, and asks for the runs of the file."""

from __future__ import annotations

import shlex
from dataclasses import replace

import fake_experiment
import pytest

from textgym.benchmarks.experiments import find_experiment
from textgym.benchmarks.runner.account import commands_of, runs_table
from textgym.benchmarks.runner.experiment import Job
from textgym.cli import parse
from textgym.commands.bench import make_plan

MINI = find_experiment("mini")


def mini_jobs(seeds: tuple[int, ...], **settings: int) -> list[Job]:
    plan = replace(MINI.plan, algorithms=("ppo", "rloo"), tasks=("Concepts", "Stories"), seeds=seeds)
    return MINI.sweep(replace(plan, settings={**MINI.plan.settings, **settings}))


@pytest.mark.parametrize(
    ("seeds", "settings", "commands"),
    [
        ((0, 1), {}, [""]),
        ((0, 1, 2), {}, [" --seeds 3"]),
        ((0, 3), {"budgets": 1}, [" --seed 0 --settings budgets 1", " --seed 3 --settings budgets 1"]),
        ((0, 1), {"tokens": 500}, [" --settings tokens 500"]),
    ],
)
def test_commands_ask_for_the_runs(seeds: tuple[int, ...], settings: dict[str, int], commands: list[str]) -> None:
    jobs = mini_jobs(seeds, **settings)
    told = commands_of(MINI, jobs)
    assert told == [f"textgym bench run mini --algorithms ppo rloo --tasks Concepts Stories{end}" for end in commands]
    asked = [job for one in told for job in MINI.sweep(make_plan(MINI, parse(shlex.split(one)[1:]).action))]
    assert {job.key for job in asked} == {job.key for job in jobs}


def test_what_is_measured_beside_the_algorithms_is_not_asked_for_by_name() -> None:
    """The frontier also samples the base model, in whatever runs are asked for."""
    frontier = find_experiment("kl_frontier")
    jobs = frontier.sweep(replace(frontier.plan, seeds=(0, 1)))
    (told,) = commands_of(frontier, jobs)
    assert told == "textgym bench run kl_frontier --seeds 2"
    asked = frontier.sweep(make_plan(frontier, parse(shlex.split(told)[1:]).action))
    assert {job.key for job in asked} == {job.key for job in jobs}


@pytest.mark.parametrize(("budgets", "settings"), [(2, ""), (1, " --settings budgets 1")])
def test_what_the_tuned_file_chose_is_not_told_again(budgets: int, settings: str) -> None:
    plan = replace(MINI.plan, algorithms=("ppo",), tasks=("Concepts",), seeds=(0, 1), trials=5)
    tuned = {"ppo": {"learning_rate": 5e-4, "n_epochs": 2, "vf_coef": 0.1}}
    jobs = MINI.sweep(replace(plan, tuned=tuned, settings={**plan.settings, "budgets": budgets}))
    assert commands_of(MINI, jobs) == [
        f"textgym bench run mini --algorithms ppo --tasks Concepts{settings} --tuned mini-tuned.json"
    ]


def test_costs_add_up_and_origins_are_named() -> None:
    runs = [(fake_experiment.job("log", seed), {"square": 0, "cpu_seconds": 90}) for seed in range(2)]
    origins = [{"commit": "b", "torch": "2"}, {"commit": "a", "torch": "2"}]
    table = runs_table(fake_experiment.EXPERIMENT, runs, origins)
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert (row["runs"], row["CPU minutes"], row["commit"], row["torch"]) == (2, 3, "a, b", "2")
    assert runs_table(fake_experiment.EXPERIMENT, runs, [None, None]).rows[0][2] == "unknown"
