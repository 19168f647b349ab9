"""``--resume`` of runs that an earlier version began, whose ``config.json`` lacks the settings that came later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import tiny_gpt2, word_tokenizer
from tests.test_cli import fails
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.cli import main
from textgym.files import write_manifest
from textgym.reports.settings import by_name, changed_settings
from textgym.rewards import RewardModel

LATER = (
    *("skip_bad", "special_tokens", "skip_special_tokens", "warmup_iterations", "ent_coef"),
    *("eval_every", "keep_last", "keep_best", "stop_score", "stop_kl", "stop_patience", "log"),
    *("parameters", "credit", "kl_estimator", "bessel", "kl_horizon"),
)
TRAIN = """command task model prompts validation reward reference algorithm total_timesteps max_prompt_length
max_new_tokens truncation missing_end_score pretraining ptx_coef ptx_batch_size eval_episodes checkpoint_every seed
hyperparameters versions"""
SHARED = """learning_rate episodes_per_iteration minibatch_size max_grad_norm kl_coef kl_target temperature top_k top_p
min_new_tokens value"""
OWN = """n_epochs samples_per_prompt normalisation kl_in_loss gae_lambda clip_range clip_range_high clip_range_vf
vf_coef scale_by_std top_mask min_tokens_to_keep target_update target_kl cg_steps cg_damping curvature_share"""
HYPERPARAMETERS = [*SHARED.split(), *OWN.split()]
"""Every run kept those of all algorithms: None for what its algorithm lacks and, in stages.json, for its defaults."""
REWARD = """
def letters(completions, **kwargs):
    return [float(len(text)) for text in completions]
"""
# 'w7' is a special token here: read as text it is an error, and left out of completions they are shorter.
ROWS = [{"prompt": f"w{i} w7", "completion": f" w5 w{i}"} for i in range(6)]
PAIRS = [{"prompt": f"w{i} w7 w{j}", "chosen": " w3", "rejected": " w8 w9"} for i in range(6) for j in range(4)]
NEUTRAL = ["--special-tokens", "parse", "--skip-special-tokens"]  # what was done before there were these settings
COMMANDS = {
    "sft": "--data rows.jsonl --epochs 2 --batch-size 4 --eval-episodes 8",
    "dpo": "--data pairs.jsonl --batch-size 4 --eval-episodes 8 --max-new-tokens 4",
    "reward-model": "--data pairs.jsonl --demonstrations rows.jsonl",
}
RL = [
    *("train", "--model", "model", "--prompts", "rows.jsonl", "--reward", "rewards.py:letters"),
    *("--max-new-tokens", "6", "--eval-episodes", "8", "--episodes-per-iteration", "8", "--minibatch-size", "4"),
    *("--checkpoint-every", "1", "--total-timesteps", "150"),
]
LOOP = {
    "model": "model",
    "prompts": "rows.jsonl",
    "validation": "rows.jsonl",
    "max_new_tokens": 6,
    "eval_episodes": 8,
    "sft": {"demonstrations": "rows.jsonl", "epochs": 1, "batch_size": 4},
    "labels": {"labeller": "rewards.py:letters", "prompts": 6, "completions": 3},
    "reward_model": {"heldout": 0.25, "batch_size": 4},
    "train": {"total_timesteps": 80, "episodes_per_iteration": 8, "minibatch_size": 4, "checkpoint_every": 1},
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["w7"], special_tokens=True)
    tiny_gpt2().save_pretrained("model")
    tokenizer.save_pretrained("model")
    for name, rows in (("rows.jsonl", ROWS), ("pairs.jsonl", PAIRS)):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("rewards.py").write_text(REWARD)
    Path("loop.yaml").write_text(yaml.safe_dump(LOOP))
    for module in ("runs.training", "commands.learner", "commands.reward_model"):
        monkeypatch.setattr(f"textgym.{module}.write_report", lambda out: out / "report.html")
    monkeypatch.setattr("textgym.commands.pipeline.command.write_pipeline_report", lambda out: out / "report.html")


def content(path: str | Path) -> Any:
    return json.loads(Path(path).read_text())


def without_later(settings: Any, of_stages: bool = False) -> Any:
    """Settings as the earlier version kept them: it had no bound on an update either, so ``target_kl`` was None."""
    if isinstance(settings, list):
        return [without_later(item, of_stages) for item in settings]
    if not isinstance(settings, dict):
        return settings
    later = LATER if "missing_end_score" in settings else (*LATER, "truncation")  # which training had before others
    kept = {name: without_later(value, of_stages) for name, value in settings.items() if name not in later}
    if "data" in kept and "heldout" in kept["settings"]:  # those of reward models stood among the others
        kept |= kept.pop("settings")
    return hyperparameters_then(kept, of_stages) if "kl_target" in kept else kept


def hyperparameters_then(now: dict[str, Any], of_stages: bool) -> dict[str, Any]:
    """Hyperparameters as the earlier version kept them, where none of the algorithm's own was given."""
    kept = {**dict.fromkeys(HYPERPARAMETERS), **now, "kl_coef": now["beta"], "target_kl": None}
    del kept["beta"]
    return {**kept, **(dict.fromkeys(OWN.split()) if of_stages else {})}


def made_earlier(run: str) -> None:
    for path in [*Path(run).rglob("config.json"), *Path(run).glob("stages.json")]:
        if path.name == "stages.json" or "versions" in content(path):  # a model's config.json stays
            kept = without_later(content(path), path.name == "stages.json")
            if path.name == "config.json":
                del kept["inputs"]  # fingerprints, which it did not keep
            path.write_text(json.dumps(kept))


def checkpoint_made_earlier(run: str) -> None:
    """Take the settings that came with the estimators of the KL out of a checkpoint, too."""
    path = Path(run, "checkpoint", "training", "state.json")
    state = content(path)
    for name in ("kl_estimator", "bessel"):
        state["hyperparameters"].pop(name, None)
    path.write_text(json.dumps(state))
    write_manifest(Path(run, "checkpoint"))


def result(run: str) -> dict[str, Any]:
    """What must not depend on interruptions: everything measured, and the weights."""
    measured = {name: Path(run, name) for name in ("evaluation.json", "samples.jsonl")}
    found = {name: path.read_text() for name, path in measured.items() if path.exists()}
    return {**found, "weights": Path(run, "checkpoint", "model.safetensors").read_bytes()}


def cut(*_: Any, **__: Any) -> None:
    raise ValueError("the fuse blew")


def cut_training(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *command: str) -> None:
    """A run that is cut off once its first checkpoint stands."""
    save = SequenceAlgorithm.save

    def saved(self: Any, *where: Any) -> None:
        save(self, *where)
        cut()

    with monkeypatch.context() as patch:
        patch.setattr(SequenceAlgorithm, "save", saved)
        assert "the fuse blew" in fails(capsys, *command)


def test_training_goes_on_as_it_began(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    neutral = [*RL, *NEUTRAL, "--warmup-iterations", "0", "--target-kl", "0"]
    main([*neutral, "--out", "whole"])
    cut_training(monkeypatch, capsys, *neutral, "--out", "parts")
    made_earlier("parts")
    config = content("parts/config.json")
    assert sorted(config) == sorted(TRAIN.split())
    assert sorted(config["hyperparameters"]) == sorted(HYPERPARAMETERS)
    new = ("target-kl", "0.3", "None"), ("warmup-iterations", "3", "0"), ("seed", "1", "0"), ("eval-every", "2", "None")
    for flag, value, was in new:
        said = fails(capsys, *RL, f"--{flag}", value, "--out", "parts", "--resume")
        assert f"other settings ({flag.replace('-', '_')}: {was} there, {value} here)" in said
    assert "beta: 0.05 there, 0.3 here" in fails(capsys, *RL, "--beta", "0.3", "--out", "parts", "--resume")
    assert "n_epochs: 4 there, 2 here" in fails(capsys, *RL, "--n-epochs", "2", "--out", "parts", "--resume")
    main([*RL, "--out", "parts", "--resume"])
    assert result("parts") == result("whole")
    main([*neutral, "--out", "parts", "--resume"])  # the same settings, by their names of now
    assert result("parts") == result("whole")


def test_a_run_of_now_goes_on_with_the_cautious_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [*RL, "--special-tokens", "parse"]
    main([*now, "--out", "whole"])
    cut_training(monkeypatch, capsys, *now, "--out", "parts")
    assert "target_kl: 0.02 there, None here" in fails(capsys, *now, "--target-kl", "0", "--out", "parts", "--resume")
    said = fails(capsys, *now, "--skip-special-tokens", "--out", "parts", "--resume")
    assert "other settings (skip_special_tokens: False there, True here)" in said
    main([*now, "--out", "parts", "--resume"])
    assert result("parts") == result("whole")
    kept = content("parts/config.json")["hyperparameters"]
    assert (kept["target_kl"], kept["warmup_iterations"]) == (0.02, 10)


K3 = ["--kl-estimator", "k3", "--no-bessel"]


def test_a_run_of_grpo_goes_on_with_the_estimator_that_it_began_with(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there was a choice, the KL in the loss was k3, and the standard deviation had the divisor k."""
    grpo = [*RL, *NEUTRAL, "--algorithm", "grpo"]
    main([*grpo, *K3, "--out", "whole"])
    main([*grpo, "--out", "today"])
    assert result("today")["weights"] != result("whole")["weights"]
    cut_training(monkeypatch, capsys, *grpo, *K3, "--out", "parts")
    made_earlier("parts")
    checkpoint_made_earlier("parts")
    said = fails(capsys, *grpo, "--kl-estimator", "k3-corrected", "--out", "parts", "--resume")
    assert "other settings (kl_estimator: 'k3' there, 'k3-corrected' here)" in said
    main([*grpo, "--out", "parts", "--resume"])
    assert result("parts") == result("whole")
    main([*grpo, *K3, "--out", "parts", "--resume"])  # the same settings, by name


def test_a_pipeline_of_grpo_goes_on_with_the_estimator_that_it_began_with(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = ["pipeline", "loop.yaml", "--out", "run", "--train.algorithm", "grpo"]
    k3 = ["--train.kl-estimator", "k3", "--train.no-bessel"]
    main([*loop, *NEUTRAL, *k3])
    shutil.move("run", "whole")
    cut_training(monkeypatch, capsys, *loop, *NEUTRAL, *k3)
    made_earlier("run")
    checkpoint_made_earlier("run/iteration-1/policy")
    said = fails(capsys, *loop, "--resume", "--train.kl-estimator", "k3-corrected")
    assert "other settings (kl_estimator: 'k3' there, 'k3-corrected' here)" in said
    main([*loop, "--resume"])
    assert result("run/iteration-1/policy") == result("whole/iteration-1/policy")


def test_a_setting_that_another_one_switches_off_is_no_difference() -> None:
    """Runs of PPO have no KL in the loss, so how it would be estimated is not asked."""
    ppo = {"kl_in_loss": False, "kl_estimator": "exact"}
    assert changed_settings({"hyperparameters": {"kl_in_loss": False}}, {"hyperparameters": ppo}) == ""
    assert changed_settings({**ppo, "kl_estimator": "k3"}, ppo) == ""
    grpo = {"kl_in_loss": True, "kl_estimator": "exact", "scale_by_std": True, "bessel": True}
    before = {"kl_in_loss": True, "scale_by_std": True}
    assert changed_settings(before, grpo) == "bessel: False there, True here, kl_estimator: 'k3' there, 'exact' here"
    assert changed_settings(before, {**grpo, "kl_estimator": "k3", "bessel": False}) == ""
    dr_grpo = {"kl_in_loss": True, "kl_estimator": "k3", "scale_by_std": False, "bessel": True}
    assert changed_settings({"kl_in_loss": True, "scale_by_std": False}, dr_grpo) == ""
    parts = {"train": {"hyperparameters": ppo}}, {"train": {"hyperparameters": {**ppo, "kl_estimator": "k3"}}}
    assert changed_settings(*parts) == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_what_learns_from_files_goes_on_as_it_began(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [command, "--model", "model", *COMMANDS[command].split()]
    main([*given, *NEUTRAL[:2], "--out", "whole"])
    with monkeypatch.context() as patch:
        for module in ("sft", "preferences"):
            patch.setattr(f"textgym.commands.{module}.save_learned", cut)
        patch.setattr(RewardModel, "save", cut)
        assert "the fuse blew" in fails(capsys, *given, *NEUTRAL[:2], "--out", "parts")
        made_earlier("parts")
        assert not {*LATER} & content("parts/config.json").keys()
        # Cut off once more: what the second attempt wrote of its settings must not stop the third.
        assert "the fuse blew" in fails(capsys, *given, "--out", "parts", "--resume")
    said = fails(capsys, *given, "--skip-bad", "3", "--truncation", "left", "--out", "parts", "--resume")
    assert "other settings (skip_bad: 0 there, 3 here, truncation: 'error' there, 'left' here)" in said
    main([*given, "--out", "parts", "--resume"])
    assert result("parts") == result("whole")


def test_every_stage_of_a_pipeline_goes_on_as_it_began(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = ["pipeline", "loop.yaml", "--out", "run"]
    main([*loop, *NEUTRAL])
    shutil.move("run", "whole")
    cut_training(monkeypatch, capsys, *loop, *NEUTRAL)
    made_earlier("run")
    assert not any(f'"{name}"' in Path("run/stages.json").read_text() for name in LATER)
    # Cut off once more: what the second attempt wrote of its settings must not stop the third.
    cut_training(monkeypatch, capsys, *loop, "--resume")
    said = fails(capsys, *loop, "--resume", "--skip-bad", "3")
    assert "other settings (skip_bad: 0 there, 3 here)" in said
    for flags, told in (
        (("--train.clip-range", "0.3"), "clip_range: 0.2 there, 0.3 here"),
        (("--train.kl-coef", "0.3"), "beta: 0.05 there, 0.3 here"),
        (("--reward-model.epochs", "2"), "epochs: 1 there, 2 here"),
    ):
        assert f"other settings ({told})" in fails(capsys, *loop, "--resume", *flags)
    main([*loop, "--resume"])
    for stage in ("sft", "iteration-1/policy"):
        assert result(f"run/{stage}") == result(f"whole/{stage}")


def with_bad_rows(settings: Any) -> Any:
    """Settings as they were while rows that cannot be learned from were left out in any number, or not at all."""
    if isinstance(settings, list):
        return [with_bad_rows(item) for item in settings]
    if not isinstance(settings, dict):
        return settings
    kept = {name: with_bad_rows(value) for name, value in settings.items() if name not in ("skip_bad", "truncation")}
    return {**kept, "bad_rows": "skip"} if "skip_bad" in settings else kept


@pytest.mark.parametrize(("command", "module"), [("sft", "sft"), ("dpo", "preferences")])
def test_runs_that_left_out_any_number_of_bad_rows_go_on(
    command: str, module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rows.jsonl", "pairs.jsonl"):
        path = Path(name)
        path.write_text(path.read_text() + 3 * (json.dumps({"prompt": "w1"}) + "\n"))
    given = [command, "--model", "model", *COMMANDS[command].split(), *NEUTRAL[:2]]
    main([*given, "--skip-bad", "1000000000", "--out", "whole"])
    with monkeypatch.context() as patch:
        patch.setattr(f"textgym.commands.{module}.save_learned", cut)
        assert "the fuse blew" in fails(capsys, *given, "--skip-bad", "1000000000", "--out", "parts")
    path = Path("parts/config.json")
    path.write_text(json.dumps(with_bad_rows(content(path))))
    assert content(path)["bad_rows"] == "skip"
    said = fails(capsys, *given, "--skip-bad", "2", "--out", "parts", "--resume")
    assert "other settings (skip_bad: 1000000000 there, 2 here)" in said
    main([*given, "--out", "parts", "--resume"])
    assert result("parts") == result("whole")


def test_pipelines_that_left_out_any_number_of_bad_rows_go_on() -> None:
    """Their setting stood in the part of the first stage; that of the loop serves all files."""
    former = {"command": "pipeline", "sft": {"bad_rows": "skip", "count": None}, "versions": {}}
    assert changed_settings(former, {"skip_bad": 10**9, "truncation": "error", "sft": {"count": None}}) == (
        "command: 'pipeline' there, None here"
    )
    assert "skip_bad: 0 there" in changed_settings({"sft": {"bad_rows": "error"}}, {"skip_bad": 2, "sft": {}})
    assert changed_settings({"bad_rows": "skip"}, {"skip_bad": 0}) == "skip_bad: 1000000000 there, 0 here"


KEPT_THEN = {
    "command": "train",
    "algorithm": "rloo",
    "hyperparameters": {**dict.fromkeys(OWN.split()), "kl_coef": 0.2, "n_epochs": 1, "samples_per_prompt": 4},
}


def test_settings_of_the_version_before_are_compared_by_what_they_mean() -> None:
    """What the algorithm lacks was kept as None; in stages of a pipeline so were the algorithm's own values."""
    now = {"command": "train", "algorithm": "rloo", "hyperparameters": {"beta": 0.2, "n_epochs": 1}}
    more = {"samples_per_prompt": 4, "normalisation": "token", "kl_in_loss": False}
    now["hyperparameters"] = {**now["hyperparameters"], **more, "target_kl": None}  # type: ignore[dict-item]
    assert changed_settings(KEPT_THEN, now) == ""
    stage = {**KEPT_THEN, "hyperparameters": {**dict.fromkeys(OWN.split()), "kl_coef": 0.2}}
    assert changed_settings(stage, now) == ""
    assert changed_settings({**stage, "algorithm": "a2c"}, now).startswith("algorithm: 'a2c' there, 'rloo' here")
    other = {**now, "hyperparameters": {**now["hyperparameters"], "n_epochs": 2, "beta": 0.3}}  # type: ignore[dict-item]
    assert changed_settings(KEPT_THEN, other) == "beta: 0.2 there, 0.3 here, n_epochs: 1 there, 2 here"
    part = {"algorithm": "trpo", "hyperparameters": {"kl_coef": 0.1, "cg_steps": None, "top_mask": None}}
    assert by_name({"train": part}) == {"train.algorithm": "trpo", "train.beta": 0.1, "train.cg_steps": 10}
