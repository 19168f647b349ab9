"""A diagnostic run is scored on the prompts that its instance holds out, and its gold is kept beside a proxy."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import textgym
from textgym.agents.loop.acting import acting_policy
from textgym.benchmarks.entries import TrainingJob, TrainingResult
from textgym.benchmarks.experiments.diagnostic.task import run_diagnostic
from textgym.benchmarks.runner.experiment import Job, Result
from textgym.lm.files.loading import load_causal_lm
from textgym.tasks.diagnostic.build import diagnostic
from textgym.tasks.task import Task

BETA = 0.5
BEFORE, AFTER = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.1, 0.8])
KL = float((AFTER * np.log(AFTER / BEFORE)).sum())
TARGETS = {"train": (0, 1), "test": (2,)}
"""The word that each prompt asks for, out of three; it pays 1."""


def matches(ids: list[int], columns: Any) -> float:
    return float(ids[0] == columns["target"])


def first_word(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Return a proxy that pays for the first word, whatever the prompt asks for."""
    return [float(ids[0] == 0) for ids in completion_ids]


def choose(chances: Any = BEFORE, splits: tuple[str, ...] = ("train", "test"), **changes: Any) -> Task:
    """Return a task of one word, whose writer does not read the prompt."""
    targets = [target for split in splits for target in TARGETS[split]]
    prompts = [{"prompt": f"p{number}", "target": target} for number, target in enumerate(targets)]
    task = diagnostic(
        "Choose", "Choose.", matches, words="abc", horizon=1, beta=BETA, chances=chances, prompts=prompts, **changes
    )
    asked = iter(task.prompts("train"))
    return replace(task, splits={split: [next(asked) for _ in TARGETS[split]] for split in splits})


def optimum_by_hand(targets: tuple[int, ...]) -> float:
    """Return J* = β log E_ref[exp(R/β)], a mean over the prompts."""
    return float(np.mean([BETA * math.log(1 + BEFORE[t] * (math.exp(1 / BETA) - 1)) for t in targets]))


def score_by_hand(targets: tuple[int, ...]) -> float:
    before, after = (float(np.mean([chances[t] for t in targets])) for chances in (BEFORE, AFTER))
    return (after - BETA * KL - before) / (optimum_by_hand(targets) - before)


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[TrainingJob]:
    """Let every algorithm end at the same policy, and return the jobs that it was given."""
    jobs: list[TrainingJob] = []

    class Ended:
        def train(self, job: TrainingJob) -> TrainingResult:
            jobs.append(job)
            model = load_causal_lm(choose(AFTER).base_model)  # type: ignore[arg-type]
            return TrainingResult(acting_policy(model, job.mdp), 7, [(7, 0.5)], 3, 4)

    module = import_module("textgym.benchmarks.experiments.diagnostic.task")
    monkeypatch.setattr(module, "find_entry", lambda _: Ended())
    return jobs


def run(name: str, make: Any, seed: int = 0) -> Result:
    textgym.register_task(name, make)
    settings = {"episodes": 8, "learning_rate": 0.1, "trials": 0, "episodes_per_iteration": 8}
    return run_diagnostic(Job(name, "ppo", seed, settings=settings))


def test_the_score_is_that_of_held_out_prompts(trained_on: list[TrainingJob]) -> None:
    found = run("tests/ChooseHeldOut-v0", choose)
    assert found["score"] == pytest.approx(score_by_hand(TARGETS["test"]), abs=1e-5)
    assert found["train_score"] == pytest.approx(score_by_hand(TARGETS["train"]), abs=1e-5)
    assert found["score"] > 0 > found["train_score"]
    assert found["reference"] == pytest.approx(0.2, abs=1e-6)
    assert found["reward"] == pytest.approx(0.8, abs=1e-6)
    assert found["objective"] == pytest.approx(0.8 - BETA * KL, abs=1e-5)
    assert found["optimum"] == pytest.approx(optimum_by_hand(TARGETS["test"]), abs=1e-5)
    assert found["kl"] == pytest.approx(KL, abs=1e-5)
    assert found["gold"] is None, "gold is what is paid"
    (job,) = trained_on
    assert [prompt.columns["target"] for prompt in job.mdp.prompts] == [0, 1]
    assert "trials" not in job.settings
    assert (found["tokens"], found["updates"], found["scored"]) == (7, 3, 4)


@pytest.mark.usefixtures("trained_on")
def test_a_task_that_holds_nothing_out_is_scored_where_it_trains() -> None:
    found = run("tests/ChooseOpenly-v0", lambda: choose(splits=("train",)))
    assert found["score"] == pytest.approx(score_by_hand(TARGETS["train"]), abs=1e-5)
    assert found["train_score"] is None


@pytest.mark.usefixtures("trained_on")
def test_gold_stands_beside_a_proxy() -> None:
    found = run("tests/ChooseByProxy-v0", lambda: choose(reward=first_word))
    assert found["reward"] == pytest.approx(0.1, abs=1e-6), "the proxy pays for the first word"
    assert found["gold"] == pytest.approx(0.8, abs=1e-6), "the held-out prompt asks for the third"
    assert found["objective"] == pytest.approx(0.1 - BETA * KL, abs=1e-5)


def test_a_seed_draws_the_instance(trained_on: list[TrainingJob]) -> None:
    def make(seed: int = 0) -> Task:
        return choose(np.roll(BEFORE, seed))

    first, second = (run("tests/ChooseDrawn-v0", make, seed) for seed in (0, 1))
    assert (first["reference"], second["reference"]) == pytest.approx((0.2, 0.3), abs=1e-6)
    assert [job.seed for job in trained_on] == [0, 1]


@pytest.mark.usefixtures("trained_on")
def test_a_task_without_beta_is_not_scored() -> None:
    with pytest.raises(ValueError, match="has no beta, so it is not scored"):
        run("tests/ChooseFreely-v0", lambda: replace(choose(), beta=None))
