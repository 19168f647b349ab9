"""``textgym optimum`` from the outside."""

from __future__ import annotations

import math
import re
from pathlib import Path

import gymnasium as gym
import pytest

from tests.benchmarks.test_optimum_worlds import Hidden, uniform
from tests.helpers import word_tokenizer
from textgym import registration
from textgym.agents import NLPO, PPO
from textgym.cli import main
from textgym.exact import optimum
from textgym.lm.sampling import Sampling
from textgym.prompts import encode_prompts
from textgym.registration import load_task, register_task
from textgym.rewards.builtin import no_reward
from textgym.tasks.task import Task
from textgym.worlds import Glue


def numbers(line: str) -> list[float]:
    return [float(x) for x in re.findall(r"-?\d+\.\d+", line)]


def test_a_saved_model_is_measured_against_the_optimum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = load_task("Emit")
    model = task.base_model()  # type: ignore[operator, misc]
    model.lm_head.weight.data *= 1.5
    model.save_pretrained(tmp_path / "checkpoint")
    main(["optimum", "--task", "textgym/Emit-v0", "--beta", "0.1", "--policy", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "textgym/Emit-v0: 16 responses to 1 prompts, beta 0.1"
    rows = {line.split()[0]: numbers(line) for line in lines[3:]}
    assert rows["reference"][4] == 0
    assert rows["optimum"][4] == 1
    objective, reward, kl, regret, _ = rows["policy"]
    assert kl > 0.01
    assert objective == pytest.approx(reward - 0.1 * kl, abs=1e-4)
    assert rows["optimum"][0] - objective == pytest.approx(0.1 * regret, abs=1e-4)


def test_the_tasks_own_beta_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    main(["optimum", "--task", "Needle"])
    assert "beta 0.05" in capsys.readouterr().out


def test_a_larger_variant_is_sampled_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """This one can be enumerated as well, so the intervals can be checked."""
    task = load_task("Emit", arms=64)
    model = task.base_model()  # type: ignore[operator, misc]
    model.save_pretrained(tmp_path / "checkpoint")
    variant = ["optimum", "--task", "Emit", "--parameters", "arms", "64", "--beta", "0.5"]
    main(variant)
    exact = {line.split()[0]: numbers(line) for line in capsys.readouterr().out.splitlines()[3:]}
    main([*variant, "--samples", "4096", "--policy", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert "4,096 samples for each of 1 prompts" in lines[0]
    sampled = {line.split()[0]: numbers(line) for line in lines[3:6]}
    for name in ("reference", "policy"):
        mean, low, high = sampled[name]
        assert low < mean < high
        assert abs(mean - exact["reference"][0]) < high - low  # about four standard errors
    mean, low, high = sampled["optimum"]
    assert abs(mean - exact["optimum"][0]) < high - low
    assert re.search(r"rests on \d+ effective samples", lines[-1])


def test_a_checkpoint_is_measured_as_it_was_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sampling = Sampling(temperature=0.7, top_k=3)
    algorithm = NLPO(
        env="textgym/Copy-v0", learning_rate=3e-3, sampling=Sampling(0.7), top_mask=0.6, beta=0.05, seed=0
    ).learn(512)
    algorithm.save(tmp_path / "nlpo")
    shaped = PPO(env="textgym/Copy-v0", sampling=sampling, seed=0)
    shaped.save(tmp_path / "ppo")
    for name, saved in (("nlpo", algorithm), ("ppo", shaped)):
        main(["optimum", "--task", "Copy", "--policy", str(tmp_path / name)])
        (said,) = (numbers(line) for line in capsys.readouterr().out.splitlines() if line.startswith("policy"))
        exact = optimum("textgym/Copy-v0", 0.05, sampling=Sampling(0.7)).evaluate(saved.policy)
        assert said == pytest.approx(
            [exact.objective, exact.reward, exact.kl, exact.kl_to_optimum, exact.score], abs=1e-4
        )


def test_a_task_with_a_world_counts_its_replies(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coin is told and said back: 16 tokens, 2 replies, 16 tokens."""
    monkeypatch.setattr(registration, "_own", {})
    tokenizer = word_tokenizer()
    task = Task(
        name="Told",
        description="Say what the world has said.",
        tokenizer=tokenizer,
        splits={"train": encode_prompts(["w1"], tokenizer, 1)},
        gold=no_reward,
        end_token_ids=(),
        max_prompt_length=1,
        max_new_tokens=4,
        base_model=uniform,
        world=Hidden(tells=True),
        max_turn_tokens=1,
        glue=Glue(),
    )
    try:
        register_task("acme/Told-v0", task)
        main(["optimum", "--task", "acme/Told-v0", "--beta", "0.1"])
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "acme/Told-v0: 512 conversations from 1 prompts, beta 0.1"
        rows = {line.split()[0]: numbers(line) for line in lines[3:]}
        assert rows["reference"] == pytest.approx([1 / 16, 1 / 16, 0, numbers(lines[3])[3], 0], abs=1e-4)
        assert rows["optimum"][0] == pytest.approx(0.1 * math.log((15 + math.exp(10)) / 16), abs=1e-4)
        with pytest.raises(SystemExit):
            main(["optimum", "--task", "acme/Told-v0", "--beta", "0.1", "--samples", "8"])
        assert "count on the world's luck" in capsys.readouterr().err
    finally:
        gym.registry.pop("acme/Told-v0", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "Emit", "--beta", "0"], "beta=0.0; expected a finite number, more than 0"),
        (["--task", "Reviews"], "has no beta of its own"),
        (["--task", "Reviews", "--beta", "0.1"], "limit=1,000,000"),
        (["--task", "Emitt"], "did you mean"),
        (["--task", "Emit", "--policy", str(Path(__file__).parent)], "cannot be loaded"),
    ],
)
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["optimum", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
