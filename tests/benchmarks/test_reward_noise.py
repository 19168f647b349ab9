"""Gold with noise: the noise itself, findings by hand, and a tiny run."""

from typing import Any

import numpy as np
import pytest

from textgym.benchmarks.experiments.mini.sweep import mini_settings
from textgym.benchmarks.experiments.reward_noise import EXPERIMENT
from textgym.benchmarks.experiments.reward_noise.score import reward_noise_findings
from textgym.benchmarks.experiments.reward_noise.task import NoisyGold, run_reward_noise
from textgym.benchmarks.runner.experiment import Job
from textgym.rewards.compose import compose


def constant(prompts: list[str], **_: Any) -> list[float]:
    return [0.5] * len(prompts)


def noisy(seeds: list[int], sigma: float) -> list[float]:
    texts = ["x"] * len(seeds)
    reward = NoisyGold(compose(constant), sigma)
    return reward(texts, texts, completion_ids=[[1]] * len(seeds), episode_seed=seeds)


def test_the_noise_is_normal_and_the_episodes_own() -> None:
    drawn = np.array(noisy(list(range(4000)), 2.0))
    # Four standard errors of mean and standard deviation.
    assert drawn.mean() == pytest.approx(0.5, abs=4 * 2 / np.sqrt(4000))
    assert drawn.std() == pytest.approx(2, abs=4 * 2 / np.sqrt(8000))
    assert noisy([7, 3], 2.0) == [drawn[7], drawn[3]]
    assert noisy([7, 3], 0.0) == [0.5, 0.5]


def test_findings_by_hand() -> None:
    rows = [
        (Job("Reviews", name, seed, {"sigma": sigma}), {"after": {"gold": gold + 0.01 * seed, "kl": 1.0}})
        for name, sigma, gold in (("ppo", 2.0, 0.6), ("ppo", 0.0, 0.9), ("grpo", 0.0, 0.9), ("grpo", 2.0, 0.5))
        for seed in range(3)
    ]
    found = reward_noise_findings(rows)
    (table,) = found.tables
    assert table.columns == ("algorithm", "σ = 0", "σ = 2", "seeds")
    values = {row[0]: [cell.value for cell in row[1:3]] for row in table.rows}  # type: ignore[union-attr]
    assert values == {"ppo": pytest.approx([0.91, 0.61]), "grpo": pytest.approx([0.91, 0.51])}
    assert found.headline == (
        "On Reviews with noise of σ = 2, ppo reaches the most gold, 0.61 (0.59 … 0.63), clearly more than grpo; "
        "grpo reaches the least, 0.51 (0.49 … 0.53), clearly less than ppo."
    )
    assert reward_noise_findings(rows[:4]).tables[0].rows[0][-1] == 1
    assert reward_noise_findings([]).headline == "No run has been done yet."


def test_a_winner_by_chance_is_not_called_clear() -> None:
    """The best leads on the mean of the seeds, but not on each; the least is below all others on each."""
    earned = {"ppo": (0.6, 0.7, 0.8), "a2c": (0.7, 0.6, 0.77), "grpo": (0.5, 0.4, 0.56)}
    rows = [
        (Job("Reviews", name, seed, {"sigma": 2.0}), {"after": {"gold": gold, "kl": 1.0}})
        for name, golds in earned.items()
        for seed, gold in enumerate(golds)
    ]
    told = reward_noise_findings(rows).headline
    assert "ppo reaches the most gold, 0.70 (0.45 … 0.95), not clearly more than a2c;" in told
    assert told.endswith("clearly less than a2c.")
    assert not told.endswith("not clearly less than a2c.")
    assert reward_noise_findings(rows[:1]).headline == "On Reviews with noise of σ = 2, ppo reaches 0.60 of gold."
    assert (
        "not clearly more than grpo" in reward_noise_findings([rows[0], rows[6]]).headline
    )  # of one seed nothing is clear


def test_a_tiny_run_is_measured_by_gold_alone() -> None:
    changed = {"tokens": 60, "slots": 8, "evaluated": 4}
    own = mini_settings("rloo", changed, episodes_per_iteration=8, minibatch_size=8, n_epochs=1)
    result = run_reward_noise(Job("Translation", "rloo", 0, {"sigma": 50.0}, own))
    assert 0 <= result["after"]["gold"] <= 1  # σ is 50
    assert result["tokens"] >= 60


def test_the_sweep() -> None:
    jobs = EXPERIMENT.sweep(EXPERIMENT.plan)
    assert len({job.key for job in jobs}) == len(jobs) == 48
    assert {job.arm["sigma"] for job in jobs if job.seed == 0} == {0.0, 0.5, 1.0, 2.0}
