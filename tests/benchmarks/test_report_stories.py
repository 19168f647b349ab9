"""A report says what its run did: of each command its own headline, of a run that was cut short that it was."""

from __future__ import annotations

import json
import math
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from textgym.intervals import SampleMean
from textgym.reports.before_after import Change, change_headline, changes_of
from textgym.reports.charts.runs import training_curve
from textgym.reports.run import write_report


def make_run(path: Path, config: dict[str, Any], rows: list[dict[str, Any]], **files: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({"seed": 0, "eval_episodes": 8, **config}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def told(path: Path) -> str:
    """Return the page's text, one space at the most between words."""
    html = write_report(path).read_text(encoding="utf-8")
    bare = re.sub(r"<style.*?</style>|<svg.*?</svg>|<[^>]*>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(bare).split())


def title(path: Path) -> str:
    found = re.search(r"<title>(.*?)</title>", write_report(path).read_text(encoding="utf-8"))
    assert found is not None
    return unescape(found[1]).replace("\u00a0", " ")


def entry(mean: float, sem: float = 0.0, n: int = 8) -> dict[str, float]:
    return {"mean": mean, "sem": sem, "n": n}


UNJUDGED = {"before": {"kl": entry(0.0), "length": entry(3.0)}, "after": {"kl": entry(1.5, 0.1), "length": entry(3.0)}}
TRAIN = {"command": "train", "algorithm": "ppo", "task": "textgym/Emit-v0"}


# -- SFT ---------------------------------------------------------------------------------------------


def sft(path: Path, losses: list[float], kept: dict[str, Any], **files: Any) -> Path:
    rows: list[dict[str, Any]] = [{"iteration": i, "validation/loss": loss} for i, loss in enumerate(losses)]
    for row in rows[1:]:
        row["train/loss"] = row["validation/loss"] - 0.1
    config = {"command": "sft", "algorithm": "sft"}
    return make_run(path, config, rows, **{"kept": kept, "evaluation": UNJUDGED, **files})


def test_fine_tuning_is_told_by_its_loss_and_the_kept_epoch(tmp_path: Path) -> None:
    path = sft(tmp_path, [3.0, 2.0, 2.25], {"epoch": 1, "by": "loss"})
    assert title(path) == "SFT lowered the validation loss from 3 to 2 nats per token".replace(
        "3 to 2", "3.000 to 2.000"
    )
    page = told(path)
    assert "Epoch 1 of 2 is kept, chosen by validation loss." in page
    assert "3.00 → 2.00" in page  # not to the last epoch
    assert "epochs 2 " in page
    assert "Score" not in page
    assert "reward that the policy is trained on" not in page


def test_an_epoch_that_a_score_chose_is_told_beside_the_lowest_loss(tmp_path: Path) -> None:
    scored = {
        "before": {**UNJUDGED["before"], "score": entry(0.2, 0.01)},
        "after": {**UNJUDGED["after"], "score": entry(0.9, 0.01)},
    }
    path = sft(tmp_path, [3.0, 2.0, 2.25], {"epoch": 2, "by": "score"}, evaluation=scored)
    assert title(path) == "SFT lowered the validation loss from 3.000 to 2.250 nats per token"
    page = told(path)
    assert "Epoch 2 of 2 is kept, chosen by the score of its samples. The loss was lowest after epoch 1: 2.000." in page
    assert "The score of samples rose, from 0.200 to 0.900" in page
    assert "nothing is trained on it" in page


def test_fine_tuning_that_changed_nothing_says_so(tmp_path: Path) -> None:
    path = sft(tmp_path, [3.0, 3.0, 3.00001], {"epoch": 1, "by": "loss"})
    assert title(path) == "No change in validation loss: 3.000 nats per token before SFT, 3.000 after"
    worse = sft(tmp_path / "worse", [3.0, 3.5], {"epoch": 1, "by": "loss"})
    assert title(worse) == "SFT raised the validation loss from 3.000 to 3.500 nats per token"


# -- DPO and KTO ---------------------------------------------------------------------------------------------


def dpo(path: Path, command: str = "dpo", algorithm: str = "dpo", **last: float) -> Path:
    first = {"iteration": 0, "validation/accuracy": 0.5, "validation/margin": 0.0, "validation/loss": math.log(2)}
    after = {"validation/margin": 0.4, "validation/loss": 0.5, **{f"validation/{k}": v for k, v in last.items()}}
    return make_run(
        path, {"command": command, "algorithm": algorithm}, [first, {"iteration": 1, **after}], evaluation=UNJUDGED
    )


def test_dpo_is_told_by_held_out_accuracy_and_margin(tmp_path: Path) -> None:
    sure = {"accuracy_low": 0.7, "accuracy_high": 0.9, "margin_sem": 0.1, "prompts": 11, "pairs": 30}
    path = dpo(tmp_path, accuracy=0.8, **sure)
    assert title(path) == "DPO orders 80.0 % of held-out pairs as labelled (70.0 … 90.0 % at 95 %)"
    page = told(path).replace("\u00a0", " ")
    assert "The margin of implicit rewards, chosen less rejected, is +0.400 ± 0.223." in page  # 2.228 · 0.1
    assert "Measured on 11 held-out prompts with 30 pairs; intervals are over prompts." in page
    assert "Score" not in page


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            {"accuracy": 0.6, "accuracy_low": 0.45, "accuracy_high": 0.7},
            "No clear change in held-out accuracy: 60.0 % after DPO",
        ),
        ({"accuracy": 0.2, "accuracy_low": 0.1, "accuracy_high": 0.4}, "DPO made it worse: it orders 20.0 %"),
        (
            {"accuracy": 1.0, "prompts": 1, "pairs": 2},
            "DPO orders 100.0 % of held-out pairs as labelled, of a single prompt",
        ),
    ],
)
def test_the_interval_decides_what_is_said_of_dpo(tmp_path: Path, found: dict[str, float], said: str) -> None:
    assert title(dpo(tmp_path, **found)).startswith(said)


def test_kto_is_told_in_its_own_words(tmp_path: Path) -> None:
    sure = {"accuracy_low": 0.7, "accuracy_high": 0.9, "margin_sem": 0.1, "prompts": 11, "completions": 30}
    path = dpo(tmp_path, "kto", "kto", accuracy=0.8, **sure)
    assert title(path) == "KTO orders 80.0 % of held-out pairs as labelled (70.0 … 90.0 % at 95 %)"
    page = told(path).replace("\u00a0", " ")
    assert "A pair is a desirable and an undesirable completion, of any two prompts." in page
    assert "The margin of implicit rewards, desirable less undesirable, is +0.400 ± 0.223." in page
    assert "Measured on 11 held-out prompts with 30 completions; intervals are over prompts." in page
    assert "of pairs of both labels ordered as labelled" in page


def test_ipo_is_told_by_its_name(tmp_path: Path) -> None:
    assert title(dpo(tmp_path, "dpo", "ipo", accuracy=0.6)).startswith("IPO orders 60.0 % of held-out pairs")


# -- Reward models -----------------------------------------------------------------------------------


def reward_model(path: Path, epochs: int = 2, **found: Any) -> Path:
    measured = {"accuracy": 0.8, "accuracy_interval": [0.7, 0.9], "prompts": 40, "pairs": 90, "offset": 0.0, **found}
    told_again = {"heldout_accuracy": measured["accuracy"], "loss_curve": [0.7, 0.5], "prompts": 40, "pairs": 90}
    config = {"command": "reward-model", "algorithm": "reward model", "epochs": epochs}
    rows = [{"iteration": i + 1, "train/loss": loss} for i, loss in enumerate([0.7, 0.5])]
    return make_run(path, config, rows, evaluation=measured, reward_model=told_again)


def test_a_reward_model_is_told_beside_chance_and_the_longer_text(tmp_path: Path) -> None:
    over = {"mean": 0.15, "interval": [0.05, 0.25]}
    path = reward_model(tmp_path, length_baseline=0.65, length_baseline_interval=[0.5, 0.8], accuracy_over_length=over)
    assert title(path) == "The reward model orders 80.0 % of held-out pairs as the labeller did (70.0 … 90.0 % at 95 %)"
    page = told(path).replace("\u00a0", " ")
    for said in (
        "Chance is 50.0 %.",
        "The longer text is the better one in 65.0 %: the model is clearly above that (+15.0 points, ",
        "points, +5.0 … +25.0 at 95 %).",
        "It was judged on 40 held-out prompts with 90 pairs; intervals are over prompts",
        "held-out prompts 40",
        "nats per pair; 2 epochs",
        "steps 2 ",
    ):
        assert said in page
    assert "one epoch" not in page
    assert "2 epochs" not in told(reward_model(tmp_path / "one", epochs=1))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            {"accuracy": 0.55, "accuracy_interval": [0.4, 0.7]},
            "The reward model is not clearly better than chance: it orders",
        ),
        ({"accuracy": 0.2, "accuracy_interval": [0.1, 0.4]}, "The reward model is worse than chance: it orders"),
        (
            {"label_accuracy": 0.6, "label_accuracy_interval": [0.5, 0.7], "label_baseline": 0.55},
            "The reward model is not clearly better than chance: it labels 60.0 % of held-out texts",
        ),
        ({"accuracy": None, "accuracy_interval": None}, "The reward model was trained; no pair was held out"),
    ],
)
def test_the_interval_decides_what_is_said_of_a_reward_model(tmp_path: Path, found: dict[str, Any], said: str) -> None:
    path = reward_model(tmp_path, **found)
    (path / "reward_model.json").write_text(json.dumps({"loss_curve": [0.5]}))
    assert title(path).startswith(said)


# -- Reinforcement -----------------------------------------------------------------------------------


def rl(path: Path, rows: list[dict[str, Any]] | None = None, after: dict[str, Any] | None = None, **files: Any) -> Path:
    before = {"score": entry(0.5, 0.1), "kl": entry(0.0), "length": entry(5.0)}
    evaluation = {"before": before} if after is None else {"before": before, "after": after}
    return make_run(path, {**TRAIN, **files.pop("config", {})}, rows or [], evaluation=evaluation, **files)


def test_gold_that_is_the_reward_leads_and_is_not_called_hidden(tmp_path: Path) -> None:
    gold = {
        "before": {"score": entry(0.10000000149, 0.01), "gold": entry(0.1, 0.01)},
        "after": {"score": entry(0.9, 0.01), "gold": entry(0.9, 0.01)},
    }
    path = make_run(tmp_path, TRAIN, [], evaluation=gold)
    assert title(path) == "PPO raised gold from 0.100 to 0.900"
    page = told(path)
    assert "the true objective of the task, which is the reward here" in page
    assert "hidden" not in page
    assert "The true objective, gold," not in page  # which would say the same twice


def test_a_run_that_was_stopped_says_where_and_why(tmp_path: Path) -> None:
    rows = [
        {"iteration": 1, "rollout/score": 0.5},
        {"iteration": 2, "rollout/score": math.nan, "train/entropy": math.nan},
    ]
    path = rl(tmp_path, rows, stopped={"iteration": 2, "reason": "training diverged: the loss is nan"})
    assert title(path) == "PPO stopped at iteration 2"
    page = told(path)
    assert "Stopped at iteration 2: training diverged: the loss is nan." in page
    assert "Nothing was measured after training." in page
    assert "→ NaN" in page or "NaN" in page
    assert 'class="card notice alarm"' in (path / "report.html").read_text(encoding="utf-8")


def test_a_reward_model_that_was_stopped_has_logged_nothing_yet(tmp_path: Path) -> None:
    path = reward_model(tmp_path)
    for name in ("metrics.jsonl", "reward_model.json", "evaluation.json"):
        (path / name).unlink()
    (path / "stopped.json").write_text(json.dumps({"iteration": None, "reason": "training diverged"}))
    assert title(path) == "Reward model stopped"
    assert "Stopped: training diverged." in told(path)


def test_a_run_that_was_stopped_early_keeps_its_headline(tmp_path: Path) -> None:
    path = rl(
        tmp_path, after={"score": entry(0.9, 0.01)}, stopped={"iteration": 7, "reason": "the score no longer rises"}
    )
    assert title(path) == "PPO raised the score from 0.500 to 0.900"
    assert "Stopped at iteration 7: the score no longer rises." in told(path)
    assert 'notice alarm"' not in (path / "report.html").read_text(encoding="utf-8")


def test_a_run_that_is_not_finished_says_so(tmp_path: Path) -> None:
    path = rl(tmp_path, [{"iteration": 1, "rollout/score": 0.5}])
    assert title(path) == "PPO on textgym/Emit-v0: not finished"
    assert "It has logged 1 iteration so far" in told(path)


def test_training_without_a_change_is_none(tmp_path: Path) -> None:
    path = rl(tmp_path, after={"score": entry(0.5, 0.1), "kl": entry(0.0), "length": entry(5.0)})
    assert title(path).startswith("No clear change in score: 0.50 before PPO, 0.50 after")


def test_what_training_warned_of_is_red(tmp_path: Path) -> None:
    """A KL of 40 nats over 10 tokens, an entropy that fell to a hundredth, a ratio that is not 1."""
    first = {"rollout/score": 0.5, "rollout/kl": 0.0, "rollout/length": 10.0, "train/entropy": 2.0}
    last = {**first, "rollout/kl": 40.0, "train/entropy": 0.02, "train/first_minibatch_ratio_error": 0.005}
    rows = [{"iteration": 1, **first}, {"iteration": 2, **last}]
    after = {"score": entry(0.9, 0.01), "kl": entry(40.0, 1.0), "length": entry(10.0)}
    page = told(path := rl(tmp_path, rows, after))
    html = (path / "report.html").read_text(encoding="utf-8")
    assert html.count('notice alarm"') == 2
    assert "Iteration 2: KL to the reference is 40 nats per response" in page
    assert "Iteration 2: entropy fell to 0.02" in page
    assert len(re.findall(r'<figure class="card \w+ alarm">', html)) == 3
    assert 'class="pill far">far from the reference' in html
    assert "✗ not trained as sampled" in page
    calm = rl(
        tmp_path / "calm",
        [{"iteration": 1, **first}],
        {"score": entry(0.9, 0.01), "kl": entry(4.0, 1.0), "length": entry(10.0)},
    )
    told(calm)
    assert "alarm" not in (calm / "report.html").read_text(encoding="utf-8").partition("</style>")[2]


def test_what_samples_from_its_reference_is_not_checked_against_itself(tmp_path: Path) -> None:
    rows = [{"iteration": 1, "train/first_minibatch_ratio_error": 3.0}]
    assert "ratio error" not in told(rl(tmp_path, rows, config={"algorithm": "best-of-n"}))


@pytest.mark.parametrize(
    "rows", [[], [{"iteration": 1}], [{"iteration": 1, "rollout/score": 0.5, "rollout/score_sem": 0.0}]]
)
def test_one_row_or_none_is_a_page(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    assert "PPO" in told(rl(tmp_path, rows, {"score": entry(0.5), "kl": entry(0.0)}))


# -- Intervals ---------------------------------------------------------------------------------------


def test_an_interval_is_students_over_the_episodes() -> None:
    assert SampleMean(0.0, 0.1, 8).half == pytest.approx(0.2365, abs=1e-4)  # t of 7 degrees of freedom
    assert SampleMean(0.0, 0.1, 1).half is None
    (row,) = changes_of({"before": {"score": entry(0.0, 0.1, 8)}, "after": {"score": entry(0.4, 0.2, 5)}})
    # Welch: 0.05² / (0.01² / 7 + 0.04² / 4) = 6.03 degrees of freedom, and t of them is 2.444.
    assert row.change.half == pytest.approx(2.444 * math.hypot(0.1, 0.2), rel=1e-3)


def test_an_older_file_has_the_episodes_of_its_settings() -> None:
    old = {"score": {"mean": 0.0, "sem": 0.1}}
    (row,) = changes_of({"before": old, "after": old}, "train", episodes=8)
    assert row.before.half == pytest.approx(0.2365, abs=1e-4)


def test_a_single_episode_or_few_that_agree_make_nothing_clear() -> None:
    def of(n: int) -> Change:
        return Change("score", SampleMean(0.0, 0.0, n), SampleMean(1.0, 0.0, n))

    assert [of(n).verdict for n in (1, 3, 4)] == ["unclear", "unclear", "better"]
    assert change_headline("PPO", [of(1)]).startswith("No clear change in score")


def test_a_band_is_as_wide_as_the_episodes_of_an_iteration_leave_it() -> None:
    """Of three episodes it is t(2) = 4.302653 standard errors wide, which many episodes have at a larger error."""
    many = training_curve([0, 1], [0.0, 1.0], [0.5 * 4.302653 / 1.959964, 0.5 * 4.302653 / 1.959964])
    numbers = [
        [float(number) for number in re.findall(r"-?\d+\.\d+", svg)]
        for svg in (training_curve([0, 1], [0.0, 1.0], [0.5, 0.5], n=3), many)
    ]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-3)
    assert training_curve([0, 1], [0.0, 1.0], [0.5, 0.5]) != many


def test_an_axis_does_not_blow_up_a_change_that_is_nothing() -> None:
    """A rise by a millionth of the number itself is drawn flat: both ends stand within a pixel."""
    svg = training_curve([0, 1], [1000.0, 1000.001])
    path = re.search(r'<path d="M [\d.]+ ([\d.]+) \s*L [\d.]+ ([\d.]+) \s*" clip-path', svg)
    assert path is not None
    assert abs(float(path[1]) - float(path[2])) < 1
