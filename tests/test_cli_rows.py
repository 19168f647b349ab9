"""One rule for all commands: which rows of a file are bad, which are too long, and what is kept of those left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import tiny_gpt2, word_tokenizer
from tests.test_cli import fails
from textgym.cli import main
from textgym.reports.run import facts

CONTEXT = 64
LONG = "w1 " * 80
PAIRS = [{"prompt": f"w{i} w{i + 1}", "chosen": f"w{i} w7", "rejected": f"w{i} w3"} for i in range(8)]
SHOWN = [{"prompt": f"w{i} w{i + 1}", "completion": f"w{i} w7"} for i in range(8)]
LABELS = [{**row, "label": i % 2 == 0} for i, row in enumerate(SHOWN)]
LONG_PAIR, LONG_SHOWN = {**PAIRS[0], "prompt": LONG}, {**SHOWN[0], "prompt": LONG}
BAD_PAIRS: dict[str, Any] = {
    "too long": LONG_PAIR,
    "equal": {"prompt": "w1", "chosen": "w2", "rejected": "w2"},
    "blank": {"prompt": "w1", "chosen": "w2", "rejected": " "},
    "blank prompt": {"prompt": "", "chosen": "w2", "rejected": "w3"},
    "no prompt": {"chosen": "w2", "rejected": "w3"},
    "no list": [1],
}
BAD_SHOWN: dict[str, Any] = {
    "too long": LONG_SHOWN,
    "blank": {"prompt": "w1", "completion": "\n "},
    "blank prompt": {"prompt": "", "completion": "w2"},
    "no completion": {"prompt": "w1"},
    "equal pair": BAD_PAIRS["equal"],
    "no object": "w1",
}
BAD_LABELS: dict[str, Any] = {
    "too long": {**LONG_SHOWN, "label": True},
    "no label": {"prompt": "w1", "completion": "w2"},
    "null label": {"prompt": "w1", "completion": "w2", "label": None},
    "no boolean": {"prompt": "w1", "completion": "w2", "label": "yes"},
    "no number": {"prompt": "w1", "completion": "w2", "label": 2},
    "blank": {"prompt": "w1", "completion": "\n ", "label": False},
}
BAD_PROMPTS: dict[str, Any] = {
    "too long": {"prompt": LONG},
    "empty": {"prompt": ""},
    "none": {"text": "w1"},
    "null": None,
}
SMALL = ["--eval-episodes", "4", "--max-new-tokens", "4"]
EPOCH = [*SMALL, "--epochs", "1", "--batch-size", "4"]
COMMANDS = {
    "sft": ["sft", "--model", "model", "--data", "data.jsonl", "--out", "run", *EPOCH],
    "dpo": ["dpo", "--model", "model", "--data", "data.jsonl", "--out", "run", *EPOCH],
    "kto": ["kto", "--model", "model", "--data", "data.jsonl", "--out", "run", *EPOCH],
    "reward-model": ["reward-model", "--model", "model", "--data", "data.jsonl", "--out", "run"],
    "train": [
        *("train", "--model", "model", "--prompts", "data.jsonl", "--reward", "length", "--out", "run", *SMALL),
        *("--total-timesteps", "16", "--episodes-per-iteration", "4", "--minibatch-size", "4"),
    ],
    "generate": [
        "generate",
        "--model",
        "model",
        "--prompts",
        "data.jsonl",
        "--out",
        "said.jsonl",
        "--max-new-tokens",
        "4",
    ],
}
GOOD: dict[str, list[Any]] = {
    "sft": SHOWN,
    "dpo": PAIRS,
    "kto": LABELS,
    "reward-model": PAIRS,
    "train": SHOWN,
    "generate": SHOWN,
}
BAD = {
    "sft": BAD_SHOWN,
    "dpo": BAD_PAIRS,
    "kto": BAD_LABELS,
    "reward-model": BAD_PAIRS,
    "train": BAD_PROMPTS,
    "generate": BAD_PROMPTS,
}
TOO_LONG = {command: kinds["too long"] for command, kinds in BAD.items()}


@pytest.fixture(scope="module", autouse=True)
def no_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in ("runs.training", "commands.learner", "commands.reward_model"):
            patch.setattr(f"textgym.{module}.write_report", lambda out: out / "report.html")
        patch.setattr("textgym.commands.pipeline.command.write_pipeline_report", lambda out: out / "report.html")
        yield


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_gpt2(positions=CONTEXT).save_pretrained("model")
    word_tokenizer().save_pretrained("model")


def write(name: str, rows: list[Any]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def content(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(name).read_text())
    return found


def weights(run: str) -> bytes:
    return Path(run, "checkpoint", "model.safetensors").read_bytes()


@pytest.mark.parametrize(("command", "what"), [(command, what) for command, kinds in BAD.items() for what in kinds])
def test_a_bad_row_is_named_and_nothing_is_trained(command: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("data.jsonl", [*GOOD[command][:3], BAD[command][what], *GOOD[command][3:]])
    said = fails(capsys, *COMMANDS[command])
    place = "line 4" if isinstance(BAD[command][what], list | str | None) else "row 4"
    assert f"data.jsonl, {place}: " in said
    assert "--skip-bad 1" in said
    assert not Path("run").exists()
    assert not Path("said.jsonl").exists()


@pytest.mark.parametrize("command", BAD)
def test_bad_rows_are_left_out_up_to_the_limit(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = GOOD[command], list(BAD[command].values())
    write("data.jsonl", [*bad, *good])
    count = len(bad)
    said = fails(capsys, *COMMANDS[command], "--skip-bad", str(count - 1))
    assert not Path("run").exists()
    if count > 4:  # some are found when the file is read, so fewer may be too many already
        assert "bad rows, more than skip_bad=" in said
    main([*COMMANDS[command], "--skip-bad", str(count)])
    printed = capsys.readouterr()
    if command == "generate":
        assert [row["prompt"] for row in read("said.jsonl")] == [row["prompt"] for row in good]
        assert f"bad rows left out: {count}; the first: data.jsonl, " in printed.err
        return
    assert f"bad rows left out: {count}; the first: data.jsonl, " in printed.out
    listed = read("run/skipped.jsonl")
    assert sorted(row["line"] for row in listed) == list(range(1, count + 1))
    assert {(row["file"], row["kind"]) for row in listed} == {("data.jsonl", "bad")}
    assert all(row["reason"] for row in listed)
    evaluation = content("run/evaluation.json")
    assert evaluation["skipped_rows"] == count
    assert ("bad rows left out", str(count)) in facts({}, [], evaluation)
    # The others are learned as if the bad ones had never been there.
    write("data.jsonl", good)
    main([*COMMANDS[command], "--out", "clean"])
    assert weights("run") == weights("clean")
    assert "skipped_rows" not in content("clean/evaluation.json")
    assert not Path("clean/skipped.jsonl").exists()


@pytest.mark.parametrize("command", BAD)
def test_long_rows_are_shortened_or_dropped(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("data.jsonl", [*GOOD[command], TOO_LONG[command]])
    main([*COMMANDS[command], "--truncation", "drop"])
    dropped = capsys.readouterr()
    if command == "generate":
        assert len(read("said.jsonl")) == len(GOOD[command])
        assert "rows dropped as too long: 1; the first: data.jsonl, row 9" in dropped.err
        main([*COMMANDS[command][:-3], "short.jsonl", "--max-new-tokens", "4", "--truncation", "left"])
        assert len(read("short.jsonl")) == len(GOOD[command]) + 1
        assert "prompts shortened from the left: 1" in capsys.readouterr().err
        return
    assert "rows dropped as too long: 1; the first: data.jsonl, row 9" in dropped.out
    assert content("run/evaluation.json")["dropped_rows"] == 1
    assert [(row["row"], row["kind"]) for row in read("run/skipped.jsonl")] == [(9, "dropped")]
    main([*COMMANDS[command], "--truncation", "left", "--out", "short"])
    assert "prompts shortened from the left: 1" in capsys.readouterr().out
    assert content("short/evaluation.json")["shortened_rows"] == 1
    assert not Path("short/skipped.jsonl").exists()
    assert weights("run") != weights("short")
    assert ("prompts shortened", "3") in facts({}, [], {"shortened_rows": 3})
    assert ("rows dropped as too long", "2") in facts({}, [], {"dropped_rows": 2})


def test_a_shortened_row_may_be_held_out() -> None:
    """Responses to it are measured, too: they need room beside its prompt."""
    write("data.jsonl", [{**PAIRS[0], "prompt": f"{LONG} w8"}, {**PAIRS[1], "prompt": f"{LONG} w9"}])
    main([*COMMANDS["dpo"], "--truncation", "left"])
    assert content("run/evaluation.json")["shortened_rows"] == 2
    command = COMMANDS["dpo"][: -len(EPOCH)]  # without --max-new-tokens: half of the context at least
    main([*command, "--eval-episodes", "4", "--epochs", "1", "--truncation", "left", "--out", "long"])
    assert content("long/evaluation.json")["after"]["length"]["mean"] > 4


def test_every_file_of_a_command_counts(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("data.jsonl", "validation.jsonl"):
        write(name, [*SHOWN, {"prompt": "w1"}])
    command = [*COMMANDS["sft"], "--validation", "validation.jsonl"]
    assert "validation.jsonl, row 9" in fails(capsys, *command, "--skip-bad", "1")
    main([*command, "--skip-bad", "2"])
    assert [(row["file"], row["row"]) for row in read("run/skipped.jsonl")] == [
        ("data.jsonl", 9),
        ("validation.jsonl", 9),
    ]


def test_prompts_that_only_measure_follow_the_rule(capsys: pytest.CaptureFixture[str]) -> None:
    write("data.jsonl", SHOWN)
    write("validation.jsonl", [{"prompt": "w1 w2 w3 w4"}, {"prompt": "w1"}, {}, [1]])
    command = [*COMMANDS["train"], "--validation", "validation.jsonl"]
    said = fails(capsys, *command, "--skip-bad", "2")
    assert "3 bad rows, more than skip_bad=2 allows: validation.jsonl, line 4: expected a JSON object" in said
    main([*command, "--skip-bad", "2", "--truncation", "drop"])
    listed = [(row["line"], row["kind"]) for row in read("run/skipped.jsonl")]
    assert listed == [(4, "bad"), (1, "dropped"), (3, "bad")]


@pytest.mark.parametrize("setting", ["-1", "1.5", "many"])
def test_a_number_of_bad_rows_is_a_count(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("data.jsonl", PAIRS)
    for command in COMMANDS.values():
        said = fails(capsys, *command, "--skip-bad", setting)
        assert "skip" in said
        assert not Path("run").exists()


def test_pretraining_text_follows_the_rule(capsys: pytest.CaptureFixture[str]) -> None:
    write("data.jsonl", SHOWN)
    write("texts.jsonl", [{"text": " "}, *({"text": f"w{i} w5"} for i in range(6)), {"prompt": "w1"}])
    command = [*COMMANDS["train"], "--pretraining", "texts.jsonl"]
    assert "2 bad rows, more than skip_bad=1 allows: texts.jsonl, row 1: text is ' '" in fails(
        capsys, *command, "--skip-bad", "1"
    )
    main([*command, "--skip-bad", "2"])
    assert [row["row"] for row in read("run/skipped.jsonl")] == [1, 8]


# --- demonstrations from preferences -----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["pair", "implicit", "ranking", "label"])
def test_fine_tuning_on_what_was_preferred(layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    """To the bit what the same prompts and completions teach as demonstrations."""
    rows: dict[str, list[dict[str, Any]]] = {
        "pair": PAIRS,
        "implicit": [{side: f"{row['prompt']} {row[side]}" for side in ("chosen", "rejected")} for row in PAIRS],
        "ranking": [
            {"prompt": r["prompt"], "completions": [r["rejected"], r["chosen"]], "ranks": [1, 0]} for r in PAIRS
        ],
        "label": [
            {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
            for row in PAIRS
            for side in ("chosen", "rejected")
        ],
    }
    said = {
        "pair": "data.jsonl: 8 pairs, of which the chosen completion is imitated",
        "implicit": "data.jsonl: 8 pairs, of which the chosen completion is imitated",
        "ranking": "data.jsonl: 8 rankings, of which the best completion is imitated",
        "label": "data.jsonl: 16 labelled completions, of which the 8 good ones are imitated",
    }
    # Where the prompt is implicit its end is cut before the last common word, 'w0 w1 w0' before 'w0'.
    write("data.jsonl", [*rows[layout], BAD_PAIRS["blank"]])
    main([*COMMANDS["sft"], "--skip-bad", "1"])
    assert said[layout] in capsys.readouterr().out
    cut = [{"prompt": f"{row['prompt']} {row['completion'].split()[0]}", "completion": " w7"} for row in SHOWN]
    write("data.jsonl", cut if layout == "implicit" else SHOWN)
    main([*COMMANDS["sft"], "--out", "plain"])
    assert "imitated" not in capsys.readouterr().out
    assert weights("run") == weights("plain")


def test_fine_tuning_on_running_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Texts are held out as wholes, though all of them begin with the same token."""
    write("data.jsonl", [{"text": f"w0 w{i} w5"} for i in range(1, 9)])
    main(COMMANDS["sft"])
    assert "data.jsonl: 8 running texts, of which every token but the first is learned" in capsys.readouterr().out
    assert {row["prompt"] for row in read("run/samples.jsonl")} == {"w0"}


# --- a pipeline from preferences that exist ----------------------------------------------------------------------

LOOP = [
    *("pipeline", "--model", "model", "--prompts", "prompts.jsonl", "--validation", "prompts.jsonl", "--out", "loop"),
    *("--max-new-tokens", "4", "--eval-episodes", "4", "--sft.demonstrations", "shown.jsonl", "--sft.epochs", "1"),
    *("--labels.preferences", "pairs.jsonl", "--reward-model.heldout", "0.25", "--train.total-timesteps", "16"),
    *("--train.episodes-per-iteration", "4", "--train.minibatch-size", "4"),
]


@pytest.fixture
def files(place: None) -> None:
    write("prompts.jsonl", [{"prompt": row["prompt"]} for row in SHOWN])
    write("shown.jsonl", SHOWN)
    write("pairs.jsonl", PAIRS)


def test_a_loop_learns_its_first_reward_model_from_preferences_that_exist(files: None) -> None:
    main(LOOP)
    assert [stage["name"] for stage in json.loads(Path("loop/stages.json").read_text())] == [
        *("sft", "reward model 1", "policy 1")
    ]
    main(
        [
            *("reward-model", "--model", "loop/sft", "--data", "pairs.jsonl", "--demonstrations", "shown.jsonl"),
            *("--heldout", "0.25", "--out", "alone"),
        ]
    )
    assert weights("loop/iteration-1/reward_model") == weights("alone")
    assert content("loop/iteration-1/policy/config.json")["reward"] == "rm:loop/iteration-1/reward_model"


def test_a_changed_file_of_preferences_is_refused(files: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(LOOP)
    write("pairs.jsonl", PAIRS[1:])
    said = fails(capsys, *LOOP, "--resume")
    assert (
        "stage 'reward model 1' in 'loop/iteration-1/reward_model' read pairs.jsonl, which is another file now" in said
    )


def test_later_rounds_add_to_the_preferences(files: None, capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(capsys, *LOOP, "--iterations", "2")
    assert "labels.labeller='gold' is a task's true reward" in said
    assert not Path("loop").exists()
    Path("rules.py").write_text(
        "def fives(completions, **_):\n    return [float(text.split().count('w5')) for text in completions]\n"
    )
    write("prompts.jsonl", [{"prompt": ""}, *({"prompt": row["prompt"]} for row in SHOWN)])
    write("pairs.jsonl", [BAD_PAIRS["blank"], *PAIRS])
    labels = ["--labels.labeller", "rules.py:fives", "--labels.prompts", "4", "--labels.completions", "3"]
    main([*LOOP, *labels, "--iterations", "2", "--labels.temperature", "1", "--skip-bad", "1"])
    stages = [stage["name"] for stage in json.loads(Path("loop/stages.json").read_text())]
    assert stages == ["sft", "reward model 1", "policy 1", "labels 2", "reward model 2", "policy 2"]
    learned = read("loop/iteration-2/labels/comparisons.jsonl")
    assert [(row["prompt"], row["completions"]) for row in learned[: len(PAIRS)]] == [
        (row["prompt"], [row["chosen"], row["rejected"]]) for row in PAIRS
    ]
    assert learned[len(PAIRS) :] == read("loop/iteration-2/labels/rankings.jsonl")


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        ([*PAIRS, BAD_PAIRS["equal"]], [], "pairs.jsonl, row 9: chosen and rejected are the same text"),
        ([*PAIRS, LONG_PAIR], [], "pairs.jsonl, row 9: prompt and completion have"),
        (PAIRS[:1], [], "a share is split by prompt"),
        (
            [{"prompt": f"w{i}", "completion": "w5", "label": i > 2} for i in range(6)],
            ["--iterations", "2", "--labels.labeller", "length", "--labels.prompts", "4"],
            "holds labels of single completions, which do not go together",
        ),
    ],
)
def test_unfit_preferences_stop_a_loop_before_its_first_stage(
    rows: list[Any], flags: list[str], message: str, files: None, capsys: pytest.CaptureFixture[str]
) -> None:
    write("pairs.jsonl", rows)
    assert message in fails(capsys, *LOOP, *flags)
    assert not Path("loop").exists()


def test_a_loop_leaves_out_bad_rows_in_every_stage(files: None) -> None:
    write("prompts.jsonl", [{"prompt": LONG}, *({"prompt": row["prompt"]} for row in SHOWN), {"prompt": ""}])
    write("shown.jsonl", [*SHOWN, BAD_SHOWN["blank"]])
    write("pairs.jsonl", [*PAIRS, BAD_PAIRS["blank"]])
    main([*LOOP, "--skip-bad", "2", "--truncation", "drop", "--validation", "shown.jsonl"])
    counts = {
        stage: [(row["file"], row["row"], row["kind"]) for row in read(f"loop/{stage}/skipped.jsonl")]
        for stage in ("sft", "iteration-1/reward_model", "iteration-1/policy")
    }
    blank = ("shown.jsonl", 9, "bad")
    assert counts == {
        "sft": [blank],
        "iteration-1/reward_model": [blank, ("pairs.jsonl", 9, "bad")],
        "iteration-1/policy": [("prompts.jsonl", 1, "dropped"), ("prompts.jsonl", 10, "bad")],
    }
