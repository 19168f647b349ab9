"""A task's parameters reach every command that learns, and a task without a gold reward is no obstacle to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import tiny_gpt2, word_tokenizer
from tests.test_cli import fails
from textgym.cli import main
from textgym.prompts import encode_prompts
from textgym.registration import register_task
from textgym.tasks.real.gold import UnsetGold
from textgym.tasks.task import Task, per_text

ID = "acme/Counted-v0"
WORDS = range(2, 12)


@pytest.fixture(scope="module", autouse=True)
def counted(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A task whose gold counts a word that its parameter names, or that has none."""
    folder = tmp_path_factory.mktemp("base")
    tiny_gpt2().save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)

    def make(wanted: str, paid: bool = True) -> Task:
        def counts(prompt: str, completion: str, columns: Any) -> float:
            return float(completion.split().count(wanted))

        rows = [{"prompt": f"w{i}", "reference": f"{wanted} w{i}"} for i in WORDS]
        prompts = encode_prompts(rows, word_tokenizer(), 4)
        return Task(
            name="Counted",
            description="Write a word.",
            tokenizer=word_tokenizer(),
            splits={"train": prompts[:6], "validation": prompts[6:]},
            gold=per_text(counts) if paid else UnsetGold("Counted", "Choose a reward."),
            end_token_ids=(1,),
            max_prompt_length=4,
            max_new_tokens=6,
            base_model=folder,
        )

    register_task(ID, make)


@pytest.fixture
def preferences(tmp_path: Path) -> Path:
    rows = [{"prompt": f"w{i}", "chosen": "w5 w5", "rejected": "w4"} for i in WORDS]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scored(out: Path, wanted: str) -> None:
    """Check by hand that the score of a run's samples is the count of the word."""
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    counts = [row["completion"].split().count(wanted) for row in rows]
    assert [row["score"] for row in rows] == counts
    assert sum(counts) > 0


@pytest.mark.parametrize("wanted", ["w5", "w7"])
def test_a_learner_from_preferences_is_judged_by_the_task_that_the_parameters_make(
    tmp_path: Path, preferences: Path, wanted: str
) -> None:
    out = tmp_path / "dpo"
    given = ("--task", ID, "--parameters", "wanted", wanted, "--data", str(preferences), "--eval-episodes", "64")
    main(["dpo", "--out", str(out), *given, "--epochs", "1"])
    scored(out, wanted)


def test_a_reward_models_gold_is_that_of_the_parameters(tmp_path: Path, preferences: Path) -> None:
    accuracy = {}
    for wanted in ("w5", "w4"):
        out = tmp_path / wanted
        given = ("--task", ID, "--parameters", "wanted", wanted, "--data", str(preferences), "--epochs", "1")
        main(["reward-model", "--out", str(out), *given])
        accuracy[wanted] = json.loads((out / "reward_model.json").read_text())["ceiling"]
    # Every chosen text has more w5, and every rejected one more w4.
    assert accuracy == {"w5": 1.0, "w4": 0.0}


@pytest.mark.parametrize("command", ["dpo", "kto", "reward-model"])
def test_a_task_without_gold_gives_its_model_and_prompts(tmp_path: Path, preferences: Path, command: str) -> None:
    out = tmp_path / command
    given = ("--task", ID, "--parameters", "wanted", "w5", "paid", "0", "--data", str(preferences), "--epochs", "1")
    main([command, "--out", str(out), *given])
    assert (out / "checkpoint" / "config.json").exists()
    found = json.loads((out / "evaluation.json").read_text())
    assert "gold" not in json.dumps(found)


@pytest.mark.parametrize("command", ["dpo", "kto", "reward-model"])
def test_parameters_without_a_task_or_unknown_ones_are_refused_before_work(
    tmp_path: Path, preferences: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    out = tmp_path / "out"
    given = (command, "--out", str(out), "--data", str(preferences), "--parameters")
    assert "parameters={'wanted': 'w5'} belong to a task; pass --task ID" in fails(capsys, *given, "wanted", "w5")
    assert "colour" in fails(capsys, *given, "wanted", "w5", "colour", "red", "--task", ID)
    assert "needs the parameters wanted" in fails(capsys, command, "--out", str(out), *given[3:5], "--task", ID)
    assert not out.exists()


def test_the_whole_loop_is_made_with_the_parameters(tmp_path: Path) -> None:
    out = tmp_path / "loop"
    main(
        [
            *("pipeline", "--out", str(out), "--task", ID, "--parameters", "wanted", "w7", "--eval-episodes", "8"),
            *("--sft.epochs", "1", "--sft.batch-size", "4", "--labels.prompts", "6", "--labels.completions", "4"),
            *("--reward-model.heldout", "0.25", "--train.total-timesteps", "64"),
            *("--train.episodes-per-iteration", "8", "--train.minibatch-size", "4"),
        ]
    )
    rows = [json.loads(line) for line in (out / "iteration-1/labels/samples.jsonl").read_text().splitlines()]
    assert [row["gold"] for row in rows] == [[float(t.split().count("w7")) for t in row["completions"]] for row in rows]
    scored_by_gold = json.loads((out / "iteration-1/policy/evaluation.json").read_text())
    assert "gold" in scored_by_gold["after"]


def test_people_rank_samples_of_a_task_without_gold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "loop"
    given = ("--task", ID, "--parameters", "wanted", "w7", "paid", "0", "--sft.epochs", "1", "--sft.batch-size", "4")
    main(["pipeline", "--out", str(out), *given, "--labels.labeller", "file", "--labels.prompts", "6"])
    assert "Now it is people's turn" in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "iteration-1/labels/samples.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert not any("gold" in row for row in rows)
