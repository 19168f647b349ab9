"""Who may take part, on what terms, and that all are measured alike."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import word_tokenizer
from textgym.agents.offline.data import demonstrate
from textgym.agents.registry import ALGORITHMS
from textgym.benchmarks.entries import (
    LearningCurve,
    SFTEntry,
    StockEntry,
    TextgymEntry,
    TrainingJob,
    find_entry,
    within_budget,
)
from textgym.benchmarks.experiments.diagnostic.sweep import DIAGNOSTIC_PLAN as DIAGNOSTIC
from textgym.benchmarks.experiments.diagnostic.sweep import NEGATIVE
from textgym.benchmarks.experiments.diagnostic.sweep import diagnostic_jobs as diagnostic_sweep
from textgym.benchmarks.experiments.diagnostic.task import run_diagnostic as diagnostic_run
from textgym.benchmarks.experiments.mini.sweep import MINI_PLAN as MINI
from textgym.benchmarks.experiments.mini.sweep import mini_jobs as mini_sweep
from textgym.benchmarks.experiments.mini.task import run_mini as mini_run
from textgym.benchmarks.proxies.models import reward_trunk
from textgym.benchmarks.proxies.rl import OptimisationSettings, optimise
from textgym.benchmarks.runner.experiment import Result
from textgym.env.vector import TokenVectorEnv
from textgym.exact.enumeration import optimum
from textgym.prompts import encode_prompts
from textgym.registration import load_task, task_mdp
from textgym.rewards.models.model import RewardModel
from textgym.tasks import DIAGNOSTIC as DIAGNOSTIC_TASKS
from textgym.tasks import DIAGNOSTIC_SUITE

REWARDED = [name for name, kind in ALGORITHMS.items() if not getattr(kind.settings_class, "has_teacher", False)]
PAGE = Path(__file__).parents[2] / "docs" / "algorithms.md"
SMALL = {"episodes": 512, "episodes_per_iteration": 64, "minibatch_size": 64}


def diagnostic(name: str, task: str = "Emit", seed: int = 0, **settings: Any) -> Result:
    """Return a run with few episodes."""
    chosen = {**SMALL, **settings}
    jobs = diagnostic_sweep(replace(DIAGNOSTIC, algorithms=(name,), seeds=(seed,), tasks=(task,), settings=chosen))
    (job,) = jobs
    return diagnostic_run(job)


def own_algorithm(folder: Path) -> Path:
    """Return the algorithm of the documentation, in a file outside of the package."""
    listing = PAGE.read_text("utf-8").split("```python\n")[1].split('task = "textgym/Emit-v0"')[0]
    path = folder / "ranked.py"
    path.write_text(listing)
    return path


# --- names -------------------------------------------------------------------------------------------------------


def test_a_name_finds_its_contender() -> None:
    assert isinstance(find_entry("sft"), SFTEntry)
    assert isinstance(find_entry("textgym.agents:PPO"), TextgymEntry)
    assert isinstance(find_entry("stable_baselines3:A2C"), StockEntry)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pppo", "algorithm='pppo' is unknown; did you mean 'ppo'"),
        ("sfft", "did you mean 'sft'"),
        ("stable_baselines3:DQN", "expected a subclass of textgym.agents.SequenceAlgorithm, or an on-policy"),
        ("textgym.agents:LMPolicy", "expected a subclass of textgym.agents.SequenceAlgorithm"),
        ("textgym.agents:PPPO", "has no 'PPPO'; did you mean 'PPO'"),
        ("no_such_module:PPO", "cannot import 'no_such_module'"),
    ],
)
def test_what_is_no_contender_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_entry(name)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file 'nowhere.py'"):
        find_entry("nowhere.py:Mine")


# --- settings ----------------------------------------------------------------------------------------------------


def test_a_run_names_all_that_its_numbers_depend_on() -> None:
    (job,) = diagnostic_sweep(replace(DIAGNOSTIC, algorithms=("grpo",), seeds=(0,), tasks=("Emit",)))
    assert {"episodes", "learning_rate", "clip_range", "scale_by_std"} <= job.settings.keys()
    assert job.settings["episodes_per_iteration"] == 256
    own = (job.settings["minibatch_size"], job.settings["samples_per_prompt"])
    assert own == (32, 4), "None stands for the algorithm's own value"
    chosen = {"tokens": 100, "budgets": 1}
    (job,) = mini_sweep(replace(MINI, algorithms=("nlpo",), seeds=(0,), tasks=("Reviews",), settings=chosen))
    assert job.arm == {"tokens": 100}
    assert {"beta", "learning_rate", "evaluated", "top_mask", "target_update"} <= job.settings.keys()


def test_later_settings_are_named_only_where_they_have_an_effect() -> None:
    ppo = find_entry("ppo")
    assert not {"credit", "ent_coef", "target_kl"} & ppo.settings({"credit": "token", "ent_coef": 0.0}).keys()
    assert ppo.settings({"credit": "turn"})["credit"] == "turn"
    assert ppo.settings({"ent_coef": 0.5})["ent_coef"] == 0.5


def test_how_a_kl_is_estimated_is_named_where_it_is_in_the_loss() -> None:
    named = {name: find_entry(name).settings({}) for name in ("ppo", "rloo-clipped", "grpo", "grpo-published", "gspo")}
    estimators = {name: settings.get("kl_estimator") for name, settings in named.items()}
    today = {"grpo": "exact", "grpo-published": "k3", "gspo": "exact"}
    assert estimators == {"ppo": None, "rloo-clipped": None, **today}
    assert "bessel" not in named["ppo"]
    assert (named["grpo"]["bessel"], named["grpo-published"]["bessel"]) == (True, False)
    assert "bessel" not in find_entry("dr-grpo").settings({}), "it divides by no deviation"
    assert find_entry("dapo").settings({"kl_in_loss": False}).keys().isdisjoint({"kl_estimator"})


def test_a_users_file_is_part_of_the_settings(tmp_path: Path) -> None:
    path = own_algorithm(tmp_path)
    before = find_entry(f"{path}:Ranked").settings({"minibatch_size": 16})
    assert before["minibatch_size"] == 16
    path.write_text(path.read_text() + "\n# changed\n")
    after = find_entry(f"{path}:Ranked").settings({"minibatch_size": 16})
    assert {name for name in before if before[name] != after[name]} == {"code"}


def test_a_file_that_changed_during_a_sweep_has_no_run_under_its_old_name(tmp_path: Path) -> None:
    path, task = own_algorithm(tmp_path), load_task("Emit")
    settings = find_entry(f"{path}:Ranked").settings({"episodes_per_iteration": 16, "minibatch_size": 16})
    path.write_text(path.read_text() + "\n# changed\n")
    told = rf"Ranked has changed since its runs were planned \(code: '{settings['code']}' then, '.{{12}}' now\)"
    with pytest.raises(ValueError, match=told):
        find_entry(f"{path}:Ranked").train(TrainingJob(task, task_mdp(task), 8, 3e-3, 0.1, 0, 16, settings))
    proxy = RewardModel.from_causal_lm(reward_trunk(task, "tiny", 0), task.tokenizer, torch.Generator())
    with pytest.raises(ValueError, match=told):
        optimise(task, proxy, f"{path}:Ranked", OptimisationSettings(tokens=8, slots=16), settings, seed=0)


def test_stock_algorithms_are_told_apart_by_version_and_a_users_by_its_file(tmp_path: Path) -> None:
    trpo = find_entry("sb3_contrib:TRPO").settings({})
    assert trpo["library"] == f"sb3_contrib {metadata.version('sb3-contrib')}"
    assert "code" not in find_entry("stable_baselines3:PPO").settings({})
    path = tmp_path / "mine.py"
    seen = []
    for note in ("", "# changed\n"):
        path.write_text(f"from stable_baselines3 import PPO\n\n\nclass Mine(PPO):\n    pass\n{note}")
        seen.append(find_entry(f"{path}:Mine").settings({}))
    assert {name for name in seen[0] if seen[0][name] != seen[1][name]} == {"code"}
    assert seen[0]["library"] == f"stable_baselines3 {metadata.version('stable-baselines3')}"
    task = load_task("Emit")
    with pytest.raises(ValueError, match="Mine has changed since"):
        find_entry(f"{path}:Mine").train(TrainingJob(task, task_mdp(task), 8, 3e-3, 0.1, 0, 16, seen[0]))


def test_a_sweep_goes_seed_by_seed_and_refuses_before_it_runs() -> None:
    jobs = mini_sweep(replace(MINI, algorithms=("ppo", "sft"), seeds=range(2), tasks=("Reviews", "Stories")))
    assert [(job.seed, job.algorithm, job.task) for job in jobs[:5]] == [
        (0, "ppo", "Reviews"),
        (0, "ppo", "Stories"),
        (0, "sft", "Reviews"),
        (0, "sft", "Stories"),
        (1, "ppo", "Reviews"),
    ]
    with pytest.raises(ValueError, match="did you mean"):
        mini_sweep(replace(MINI, tasks=("Reviewss",)))
    with pytest.raises(ValueError, match="'sft' imitates reference texts, and diagnostic tasks have none"):
        diagnostic_sweep(replace(DIAGNOSTIC, algorithms=("sft",)))
    with pytest.raises(ValueError, match="has no beta"):
        diagnostic_sweep(replace(DIAGNOSTIC, tasks=("Reviews",)))


def test_what_cannot_learn_a_task_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match=r"'maxrl' divides by mean scores .* Noise has negative ones; .* --tasks"):
        diagnostic_sweep(replace(DIAGNOSTIC, algorithms=("ppo", "maxrl"), tasks=("Emit", "Noise")))
    assert "maxrl" not in DIAGNOSTIC.algorithms, "the plan is run without being asked which tasks fit"
    assert len(diagnostic_sweep(DIAGNOSTIC)) == len(DIAGNOSTIC.algorithms) * len(DIAGNOSTIC.tasks) * len(
        DIAGNOSTIC.seeds
    )


def test_the_tasks_with_negative_scores_are_known() -> None:
    assert {name for name in {*DIAGNOSTIC_TASKS, *DIAGNOSTIC_SUITE} if least_score(name) < 0} == set(NEGATIVE)


def least_score(task: str) -> float:
    """Return the least score of some hundred random responses to a task."""
    mdp = task_mdp(load_task(task))
    env = TokenVectorEnv(mdp, 64)
    env.reset(seed=0)
    env.action_space.seed(0)
    scores: list[float] = []
    for _ in range(4 * mdp.max_new_tokens + 4):
        *_, done, _, infos = env.step(env.action_space.sample())
        scores += [*np.asarray(infos["score"])[done]] if done.any() else []
    return min(scores)


# --- runs --------------------------------------------------------------------------------------------------------


def test_a_run_learns_repeats_and_is_scored_exactly() -> None:
    first, second = (diagnostic("ppo", seed=1) for _ in "ab")
    assert 0.5 < first["score"] <= 1
    room = first["optimum"] - first["reference"]
    assert first["score"] == pytest.approx((first["objective"] - first["reference"]) / room)
    assert {**first, "cpu_seconds": 0} == {**second, "cpu_seconds": 0}
    assert first["tokens"] == 512
    assert [tokens for tokens, _ in first["curve"]] == list(range(64, 513, 64))
    assert first["curve"][-1][1] > first["curve"][0][1]


@pytest.mark.parametrize("name", ["stable_baselines3:PPO", "sb3_contrib:MaskablePPO", "stable_baselines3:A2C"])
def test_a_stock_algorithm_takes_part(name: str) -> None:
    found = diagnostic(name)
    assert found["tokens"] == 512
    assert 0.3 < found["score"] <= 1
    assert len(found["curve"]) == 8


@pytest.mark.parametrize("name", REWARDED)
def test_every_algorithm_by_name_is_run_and_scored(name: str) -> None:
    found = diagnostic(name, episodes=64, episodes_per_iteration=32, minibatch_size=16)
    assert found["tokens"] >= 64
    assert 0 < found["score"] <= 1, "after 64 responses it is nearer to the optimum than the reference"


def test_a_stock_algorithm_pays_for_kl() -> None:
    task = load_task("Emit")
    mdp = task_mdp(task)
    best = optimum(mdp, 0.05)
    stock = find_entry("stable_baselines3:A2C")
    settings = stock.settings({"episodes_per_iteration": 64})

    def kl(beta: float) -> float:
        training_job = TrainingJob(task, mdp, 1024, 3e-3, beta, seed=0, slots=64, settings=settings)
        return best.evaluate(stock.train(training_job).policy).kl

    assert kl(beta=10.0) < 0.1
    assert kl(beta=0.0) > 1


def test_plain_imitation_learns_the_references_within_the_budget() -> None:
    chosen = {"tokens": 3000, "budgets": 1, "evaluated": 64}
    (job,) = mini_sweep(replace(MINI, algorithms=("sft",), seeds=(0,), tasks=("Reviews",), settings=chosen))
    found = mini_run(job)
    assert 2900 < found["tokens"] <= 3000
    assert found["after"]["gold"] > found["before"]["gold"] + 0.05
    assert found["before"]["kl"] == pytest.approx(0, abs=1e-6)
    assert found["after"]["kl"] > 0.1


def test_a_budget_pays_for_the_first_demonstrations() -> None:
    tokenizer = word_tokenizer()
    prompts = encode_prompts(["w0", "w1", "w2"], tokenizer, 4)
    rows = [{"text": text} for text in ("w3", "w3 w4", "w3 w4 w5")]
    shown = list(demonstrate(prompts, rows, "text", tokenizer, 1))  # 2, 3 and 4 tokens with the end
    assert within_budget(shown, 5) == (shown[:2], 1)
    assert within_budget(shown, 8) == (shown[:2], 1)
    assert within_budget(shown, 1) == (shown[:1], 1)
    assert within_budget(shown, 27) == (shown, 3)


def test_a_long_curve_is_averaged_to_50_points() -> None:
    curve = LearningCurve()
    curve._points = [(10 * step, float(step)) for step in range(1, 101)]
    points = curve.points()
    assert len(points) == 50
    assert points[0] == (20, 1.5)
    assert points[-1] == (1000, 99.5)
    assert np.mean([reward for _, reward in points]) == pytest.approx(50.5)
    assert LearningCurve().points() == []
