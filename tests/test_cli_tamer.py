"""``textgym tamer`` from the outside: what stands on disk, what its result is worth, and what bad input says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import tiny_gpt2, word_tokenizer
from textgym.cli import main
from textgym.rewards import FeedbackModel, ShownResponse, SimulatedTrainer, write_feedback
from textgym.rewards.feedback.delays import Uniform

pytestmark = pytest.mark.usefixtures("unrendered")
TAMER = ["tamer", "--model", "model", "--data", "feedback.jsonl", "--delay-high", "1", "--out", "run"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model, and feedback of a person who likes w5 and dislikes w6."""
    monkeypatch.chdir(tmp_path)
    tiny_gpt2(positions=32).save_pretrained("model")
    word_tokenizer().save_pretrained("model")
    generator, trainer = np.random.default_rng(0), SimulatedTrainer(Uniform(0.2, 1.0))
    worth = {"w5": 1.0, "w6": -1.0}
    responses = []
    for i in range(60):
        words = generator.choice([f"w{j}" for j in range(4, 8)], 8).tolist()
        tokens, shown = [f" {word}" for word in words], np.arange(8.0) * 3
        events = trainer.watch([worth.get(word, 0.0) for word in words], shown, generator)
        responses.append(ShownResponse(f"w{i % 14}", "".join(tokens), tuple(tokens), tuple(shown.tolist()), events))
    write_feedback("feedback.jsonl", responses)
    return tmp_path


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(argv))
    assert end.value.code == 2
    return capsys.readouterr().err


def read(path: str) -> Any:
    return json.loads(Path(path).read_text())


@pytest.mark.parametrize(
    ("given", "steps"),
    # One of 14 prompts is held out, with 4 of the 60 responses: 8 passes over 56, in batches of 8.
    [(["--learning-rate", "3e-3", "--epochs", "8"], 56), (["--fitted", "head"], 1)],
)
def test_a_run_learns_what_the_person_likes_and_pays_it(
    given: list[str], steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*TAMER, *given])
    said = capsys.readouterr().out
    found = read("run/evaluation.json")
    assert found["heldout"]["error"] < 0.95 * found["heldout"]["baseline"]
    assert found["heldout"]["sign"] > 0.7
    assert found["delay"] == {"low": 0.2, "high": 1.0}
    assert f"{found['events']} events of feedback on {found['responses']} responses" in said
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["iteration"] == len(rows) == steps
    assert "Model of feedback" in Path("run/report.html").read_text()
    scores = FeedbackModel.load("run").predict([[4, 7], [4, 8]])
    assert scores[0][1] > 0.2 > -0.2 > scores[1][1]
    policy = ["train", "--model", "model", "--prompts", "prompts.jsonl", "--reward", "tamer:run", "--out", "policy"]
    Path("prompts.jsonl").write_text('{"prompt": "w1"}\n{"prompt": "w2"}\n')
    sizes = ["--episodes-per-iteration", "16", "--minibatch-size", "8", "--max-new-tokens", "4"]
    main([*policy, *sizes, "--algorithm", "coach", "--total-timesteps", "100", "--eval-episodes", "8"])
    assert read("policy/evaluation.json")["after"]["score"]["n"] == 8


def test_a_run_is_repeated_bit_for_bit_and_resumed_as_it_is() -> None:
    main(TAMER)
    main([*TAMER[:-1], "again"])
    weights = [Path(run, "checkpoint", "model.safetensors").read_bytes() for run in ("run", "again")]
    assert weights[0] == weights[1]
    before = Path("run/checkpoint/model.safetensors").stat().st_mtime_ns
    main([*TAMER, "--resume"])
    assert Path("run/checkpoint/model.safetensors").stat().st_mtime_ns == before


def test_bad_input_is_refused_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    good = Path("feedback.jsonl").read_text().splitlines()
    back = json.loads(good[1]) | {"shown": [0, 3, 2, 9, 12, 15, 18, 21]}
    Path("feedback.jsonl").write_text("\n".join([good[0], json.dumps(back), *good[2:]]))
    said = fails(capsys, *TAMER)
    assert "feedback.jsonl, row 2: shown runs backwards: 3 s is followed by 2 s" in said
    assert not Path("run").exists()
    main([*TAMER, "--skip-bad", "1", "--epochs", "1"])
    assert read("run/evaluation.json")["skipped_rows"] == 1
    for argv, message in (
        (["--delay-low", "5"], "delay_high=1.0; expected a finite number, more than 5"),
        (["--delay-low", "900", "--delay-high", "901"], "none of which can mean a token under Uniform(low=900.0"),
        (["--heldout", "1"], "heldout=1.0; expected a finite number, at least 0 and less than 1"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--fitted", "head", "--epochs", "8"], "epochs=8 belongs to gradient steps"),
        (["--parameters", "wanted", "w5"], "parameters={'wanted': 'w5'} belong to a task; pass --task ID"),
    ):
        assert message in fails(capsys, *TAMER, *argv, "--overwrite", "--skip-bad", "1")
    said = fails(capsys, "train", "--task", "textgym/Emit-v0", "--reward", "rm:run", "--out", "policy")
    assert "use it as tamer:run" in said
