"""``textgym train`` with models of anyone's: how carefully it begins, what it warns of, what it never overwrites."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers import tiny_gpt2, word_tokenizer
from textgym.cli import main
from textgym.commands.configs.demo import DemoConfig
from textgym.commands.configs.hyperparameters import cautious, hyperparameters_class
from textgym.commands.configs.pipeline import TrainPart
from textgym.commands.configs.train import TrainConfig, train_config_class
from textgym.commands.demo import recipe
from textgym.commands.train import begun
from textgym.lm.guards import TrainingWarning
from textgym.reports.run import warnings_by_curve

pytestmark = pytest.mark.usefixtures("unrendered")

REWARD = """
CALLS = 0


def sevens(completions, **kwargs):
    return [float(text.split().count("w5")) for text in completions]


def huge(completions, **kwargs):
    global CALLS
    CALLS += 1
    return [1e30 * (-1) ** i if CALLS > 20 else float(len(text)) for i, text in enumerate(completions)]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_gpt2().save_pretrained("model")
    word_tokenizer().save_pretrained("model")
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": f"w{i} w{i + 1}"}) + "\n" for i in range(6)))
    Path("rewards.py").write_text(REWARD)
    return tmp_path


def train(*flags: str, reward: str = "sevens", tokens: int = 60) -> None:
    sizes = ["--max-new-tokens", "6", "--eval-episodes", "8", "--episodes-per-iteration", "8", "--minibatch-size", "4"]
    given = ["--model", "model", "--prompts", "prompts.jsonl", "--reward", f"rewards.py:{reward}", "--out", "run"]
    main(["train", *given, *sizes, "--checkpoint-every", "1", "--total-timesteps", str(tokens), *flags])


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]


BOUNDS = {"ppo": 0.02, "nlpo": 0.02, "grpo": 0.02, "gspo": 0.02, "trpo": 0.01, "rloo": None, "best-of-n": None}


@pytest.mark.parametrize(("algorithm", "target_kl"), BOUNDS.items())
def test_train_bounds_what_has_a_clipped_ratio(algorithm: str, target_kl: float | None) -> None:
    config = train_config_class(algorithm)(out=Path("run"))
    assert config.algorithm == algorithm
    assert config.hyperparameters == cautious(algorithm)
    assert getattr(config.hyperparameters, "target_kl", None) == target_kl
    assert config.hyperparameters.warmup_iterations == 10


def test_the_default_algorithm_is_ppo() -> None:
    assert TrainConfig(out=Path("run")).hyperparameters == train_config_class("ppo")(out=Path("run")).hyperparameters


@pytest.mark.parametrize("chosen", [0.0, 0.5])
def test_a_bound_that_was_chosen_stays(chosen: float) -> None:
    given: Any = replace(cautious("ppo"), target_kl=chosen)  # a field of PPO's, not of all
    assert begun(TrainConfig(out=Path("run"), hyperparameters=given)).hyperparameters == given


def test_pipeline_and_demo_keep_the_published_settings() -> None:
    """Those of before there were a warm-up and a bound."""
    published = {"warmup_iterations": 0, "target_kl": None}
    parts = [TrainPart(), recipe(DemoConfig()).train, recipe(DemoConfig(tiny=True)).train]
    for part, rate in zip(parts, (1e-4, 5e-4, 1e-3), strict=True):
        made = part.hyperparameters
        assert {name: getattr(made, name) for name in published} == published
        assert made.learning_rate == rate
    assert parts[0].hyperparameters == hyperparameters_class("ppo")()


def test_a_run_warms_up_and_says_how_it_was_bounded(folder: Path) -> None:
    train("--learning-rate", "1e-3", "--warmup-iterations", "4", "--total-timesteps", "150")
    before, rates = 0, []
    for i, row in enumerate(rows()):
        rates.append(1e-3 * (1 - before / 150) * min(1, (i + 1) / 4))
        before = row["time/total_timesteps"]
    assert [row["train/learning_rate"] for row in rows()] == pytest.approx(rates)
    kept = json.loads(Path("run/config.json").read_text())["hyperparameters"]
    assert (kept["target_kl"], kept["warmup_iterations"]) == (0.02, 4)
    train("--learning-rate", "1e-3", "--warmup-iterations", "4", "--total-timesteps", "150", "--resume")


def test_a_policy_that_moves_far_is_told_in_the_terminal_and_the_report(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("--learning-rate", "0.3", "--warmup-iterations", "0", "--target-kl", "0")
    told = [line for line in capsys.readouterr().err.split("\n") if "warning: iteration 1: approx_kl is" in line]
    assert len(told) == 1
    assert "learning_rate (0.3 now)" in told[0]
    assert f"{rows()[0]['train/approx_kl']:.3g} nats per token" in told[0]
    assert "Iteration 1: approx_kl is" in Path("run/report.html").read_text()


def test_the_report_tells_each_kind_once_and_nothing_of_a_good_run() -> None:
    good = {"iteration": 1, "rollout/kl": 1.0, "rollout/length": 48.0, "train/approx_kl": 0.01, "note": "text"}
    far = {**good, "iteration": 2, "train/approx_kl": 0.3}
    assert warnings_by_curve([good, good]) == {}
    assert warnings_by_curve([]) == {}
    ((curve, said),) = warnings_by_curve([good, far, {**far, "iteration": 3}]).items()
    assert curve == "train/approx_kl"
    assert said.startswith("Iteration 2: approx_kl is 0.3 nats per token")


@pytest.mark.filterwarnings("ignore::textgym.lm.guards.TrainingWarning")
@pytest.mark.parametrize("flags", [["--learning-rate", "1e30"], ["--vf-coef", "1e300"], []])
def test_the_last_good_checkpoint_stays(folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str]) -> None:
    reward = "sevens" if flags else "huge"
    with pytest.raises(SystemExit) as stop:
        train(*flags, reward=reward, tokens=1500)
    assert stop.value.code in (1, 2)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "error: " in said
    weights = Path("run/checkpoint/model.safetensors")
    if weights.exists():
        assert all(torch.isfinite(value).all() for value in load_file(weights).values())


def test_a_model_with_a_nan_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file("model/model.safetensors")
    weights["transformer.wte.weight"][5] = math.nan
    save_file(weights, "model/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit):
        train()
    said = capsys.readouterr().err
    assert "weights that are not finite" in said
    assert "transformer.wte.weight" in said
    assert not Path("run").exists()


def test_the_category_can_be_filtered() -> None:
    assert issubclass(TrainingWarning, UserWarning)
