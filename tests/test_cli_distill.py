"""``textgym distill`` from the outside: what a user types, what stands on disk afterwards, and what bad input says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from transformers import AutoModelForCausalLM

from tests.helpers import moved, tiny_gpt2, tiny_llama, word_tokenizer
from tests.test_algorithm_settings import helped
from tests.test_cli import fails
from textgym.agents.loop import callbacks
from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.evaluation import evaluate
from textgym.cli import main
from textgym.env.mdp import TokenMDP
from textgym.lm.files.loading import load_causal_lm
from textgym.lm.parts.lora import add_lora, save_pretrained
from textgym.lm.trunk import Trunk
from textgym.prompts import encode_prompts
from textgym.rewards.builtin import no_reward

PROMPTS = [{"prompt": f"w{i} w{i + 1}"} for i in range(6)]
REWARD = """
def sevens(completions, **_):
    return [float(text.split().count("w7")) for text in completions]
"""
SIZES = [
    *("--max-new-tokens", "6", "--eval-episodes", "32", "--episodes-per-iteration", "8", "--minibatch-size", "4"),
    *("--checkpoint-every", "1", "--learning-rate", "1e-2", "--warmup-iterations", "0"),
]
DISTIL = ["distill", "--model", "model", "--prompts", "prompts.jsonl", "--teacher", "teacher", *SIZES]
TRAIN = ["train", "--algorithm", "distill", *DISTIL[1:5], "--reference", "teacher", *SIZES]
pytestmark = [
    pytest.mark.usefixtures("unrendered"),
    pytest.mark.filterwarnings("ignore::textgym.lm.guards.TrainingWarning"),  # far teachers, fast steps
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a user's folder: a student, a teacher of another architecture, prompts, and a file of rewards."""
    monkeypatch.chdir(tmp_path)
    save("model", tiny_gpt2())
    save("teacher", tiny_llama(seed=1, initializer_range=0.2))
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, PROMPTS)))
    Path("rewards.py").write_text(REWARD)
    return tmp_path


def save(name: str, model: Any, tokenizer: Any = None) -> None:
    model.save_pretrained(name)
    (tokenizer or word_tokenizer()).save_pretrained(name)


def evaluation(out: str) -> dict[str, Any]:
    return dict(json.loads(Path(out, "evaluation.json").read_text()))


def last_row(out: str) -> dict[str, Any]:
    return dict(json.loads(Path(out, "metrics.jsonl").read_text().splitlines()[-1]))


def weights(out: str) -> Iterator[torch.Tensor]:
    return iter(load_causal_lm(f"{out}/checkpoint").state_dict().values())


def equal(one: str, other: str) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_from_prompts_and_a_teacher_to_a_student(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither task nor reward is needed; the numbers are those of an evaluation against the teacher's directory."""
    main([*DISTIL, "--total-timesteps", "3000", "--out", "run"])
    said = capsys.readouterr().out
    found = evaluation("run")
    assert {name for name in found["after"] if not name.startswith("texts/")} == {"kl", "length"}
    before, after = (found[stage]["kl"]["mean"] for stage in ("before", "after"))
    assert after < 0.7 * before
    told = re.search(r"KL to the teacher, in nats per response: (\S+) ± (\S+) before, (\S+) ± (\S+) after", said)
    assert told is not None
    assert [float(told[1]), float(told[3])] == pytest.approx([before, after], abs=1e-4)
    assert float(told[4]) == pytest.approx(2.0395 * found["after"]["kl"]["sem"], abs=1e-4)  # Student's, of 32
    tokenizer = word_tokenizer()
    prompts = encode_prompts(PROMPTS, tokenizer, 2)
    mdp = TokenMDP(tokenizer, prompts, no_reward, (1,), 2, 6)
    student, teacher = acting_policy("run/checkpoint", mdp), Trunk(load_causal_lm("teacher"))
    assert evaluate(student, teacher, mdp, 32, seed=0).summary()["kl"]["mean"] == pytest.approx(after, rel=1e-4)
    AutoModelForCausalLM.from_pretrained("run/checkpoint")
    main(["generate", "--model", "run", "--prompt", "w1 w2", "--max-new-tokens", "4"])


def test_the_report_is_about_the_kl_to_the_teacher() -> None:
    main([*DISTIL, "--total-timesteps", "2000", "--reward", "rewards.py:sevens", "--out", "run"])
    page = Path("run/report.html").read_text()
    assert re.search(
        r"<h1[^>]*>\s*Distillation lowered the KL to the teacher from [\d.]+ to [\d.]+ nats per resp", page
    )
    assert "nats per response away from its teacher" in page
    assert "nothing is trained on it" in page
    assert "KL, exact" in page
    assert "reward that the policy is trained on" not in page


def test_distill_and_train_make_the_same_run_and_resume_each_other() -> None:
    main([*DISTIL, "--total-timesteps", "200", "--out", "one"])
    main([*TRAIN, "--total-timesteps", "200", "--out", "other"])
    configs = [json.loads(Path(out, "config.json").read_text()) for out in ("one", "other")]
    assert configs[0] == configs[1]
    assert configs[0]["command"] == "distill"
    assert (configs[0]["reference"], configs[0]["reward"]) == ("teacher", None)
    assert equal("one", "other")
    main([*TRAIN, "--total-timesteps", "400", "--out", "one", "--resume"])
    main([*DISTIL, "--total-timesteps", "400", "--out", "other", "--resume"])
    assert equal("one", "other")


@pytest.mark.parametrize("share", ["0", "0.5"])
def test_resume_ends_as_an_uninterrupted_run(
    share: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*DISTIL, "--teacher-share", share, "--jsd", "0.5", "--total-timesteps", "300"]
    main([*flags, "--out", "whole"])
    saved = callbacks.SaveCheckpoints._on_rollout_start

    def fused(self: BaseCallback) -> None:
        saved(self)
        if self.model.iteration == 3:
            raise ValueError("the fuse blew")

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.SaveCheckpoints, "_on_rollout_start", fused)
        assert "the fuse blew" in fails(capsys, *flags, "--out", "parts")
    assert "jsd: 0.5 there, 0.4 here" in fails(capsys, *flags, "--jsd", "0.4", "--out", "parts", "--resume")
    main([*flags, "--out", "parts", "--resume"])
    assert equal("whole", "parts")
    assert evaluation("whole") == evaluation("parts")


def test_a_run_is_a_teacher_and_a_student_of_a_run() -> None:
    main([*DISTIL, "--total-timesteps", "100", "--out", "first"])
    changed = [*DISTIL[:2], "first", *DISTIL[3:6], "first", *SIZES]
    main([*changed, "--total-timesteps", "60", "--out", "second"])
    assert json.loads(Path("second/config.json").read_text())["reference"] == str(Path("first/checkpoint"))
    assert evaluation("second")["before"]["kl"]["mean"] == pytest.approx(0, abs=1e-6)


def test_the_model_below_the_adapters_is_a_teacher() -> None:
    save_pretrained(moved(add_lora(tiny_gpt2(), 4, 0, 0), 0.4), Path("adapted"))
    word_tokenizer().save_pretrained("adapted")
    flags = [*DISTIL[:2], "adapted", *DISTIL[3:6], "without-adapters", *SIZES, "--teacher-share", "0.5"]
    main([*flags, "--total-timesteps", "3000", "--out", "run"])
    found = evaluation("run")
    assert found["after"]["kl"]["mean"] < 0.5 * found["before"]["kl"]["mean"]


def test_the_best_student_is_the_one_with_the_least_kl() -> None:
    """Without a reward, patience looks at the KL; and a best checkpoint may be kept by it."""
    flags = ["--eval-every", "1", "--keep-best", "min-kl", "--stop-patience", "2", "--learning-rate", "0"]
    main([*DISTIL, *flags, "--total-timesteps", "3000", "--out", "run"])
    assert json.loads(Path("run/best/best.json").read_text())["metric"] == "min-kl"
    main([*DISTIL, "--eval-every", "1", "--stop-patience", "2", "--learning-rate", "0", "--out", "two"])
    for out in ("run", "two"):
        assert "kl" in evaluation(out)["stopped_early"]


def test_a_teacher_may_write_everything() -> None:
    main([*DISTIL, "--teacher-share", "1", "--jsd", "0", "--total-timesteps", "200", "--out", "run"])
    assert "rollout/kl" not in last_row("run")
    assert last_row("run")["train/policy_loss"] > 0
    assert Path("run/report.html").is_file()


def test_on_a_task_gold_is_measured_and_the_base_model_is_the_student(tmp_path: Path) -> None:
    flags = ["--total-timesteps", "64", "--eval-episodes", "8", "--episodes-per-iteration", "32"]
    main(["train", "--task", "textgym/Emit-v0", *flags, "--out", "teacher-run"])
    main(["distill", "--task", "textgym/Emit-v0", "--teacher", "teacher-run", *flags, "--out", "run"])
    assert {"score", "kl", "length"} <= set(evaluation("run")["after"])


def test_help_has_no_flags_without_a_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    said = helped(capsys, "distill")
    flags = set(re.findall(r"--([a-z-]+)", said.partition("options")[2]))
    assert {"teacher", "jsd", "teacher-share", "learning-rate", "n-epochs", "top-k", "task", "prompts"} <= flags
    assert not flags & {"reference", "beta", "kl-target", "value", "kl-in-loss", "kl-estimator", "missing-end-score"}
    assert "(required)" in said.partition("--teacher")[2][:400]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (DISTIL[:5], "teacher"),
        ([*DISTIL, "--teacher", "small"], "the reference embeds 12 tokens, fewer than the task's 16 actions"),
        ([*DISTIL, "--teacher", "short"], "the reference's context of 7 tokens is shorter than P + T = 8"),
        (
            [*DISTIL, "--teacher", "other"],
            "reference='other' has another vocabulary, of 16 tokens beside the task's 16",
        ),
        ([*DISTIL, "--teacher", "nowhere/at/all"], "no such directory"),
        ([*DISTIL, "--jsd", "0", "--top-k", "5"], "jsd=0 is the forward KL"),
        ([*DISTIL, "--teacher-share", "0.5", "--top-p", "0.9"], "teacher_share=0.5 trains on the teacher's tokens"),
        ([*DISTIL, "--teacher-share", "1.5"], "teacher_share=1.5; expected a finite number"),
        ([*DISTIL, "--beta", "0.1"], "--beta"),
        ([*DISTIL[:3], *DISTIL[5:]], "without --task, both --model and --prompts are needed"),
        (TRAIN[:7], "reference=None, and distill needs a teacher; pass --reference MODEL"),
        ([*TRAIN, "--kl-in-loss"], "kl_in_loss=True; expected False, since the loss is the divergence"),
        (
            ["train", *TRAIN[3:7], "--jsd", "0.5"],
            "jsd: ppo has no such setting, which belongs to distill; leave it out",
        ),
        (
            ["pipeline", "--task", "textgym/Reviews-v0", "--train.algorithm", "distill"],
            "algorithm='distill' learns from a teacher, and not from the reward model",
        ),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save("small", tiny_gpt2(12), word_tokenizer())
    save("short", tiny_gpt2(positions=7))
    save("other", tiny_gpt2())
    file = Path("other/tokenizer.json")
    file.write_text(file.read_text().replace('"w3": 5', '"w3": 6').replace('"w4": 6', '"w4": 5'))
    assert message in re.sub(r"[│\s]+", " ", fails(capsys, *flags, "--out", "run"))
    assert not Path("run").exists()
