"""Files around the labelling page: questions that are read, rankings and feedback that are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.labelling.label_questions import answer, question
from textgym.labelling.rows import export_feedback, export_rankings, read_questions
from textgym.labelling.store import LabelStore
from textgym.rewards.labels.labelling import write_questions
from textgym.rewards.labels.rankings import read_rankings
from textgym.types import Ranking

CHAT = [{"role": "user", "content": "Hi"}]


def written(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_a_pipeline_leaves_for_people_is_read(tmp_path: Path) -> None:
    asked = [question("p", 3), question("q", 2)]
    write_questions(tmp_path / "to_label.jsonl", asked)
    found = read_questions(tmp_path / "to_label.jsonl")
    assert [(q.content, q.completions) for q in found] == [(q.content, q.completions) for q in asked]


def test_equal_and_empty_completions_go_and_gold_goes_with_them(tmp_path: Path) -> None:
    row = {
        "prompt": CHAT,
        "completions": ["b", " ", "a", "b"],
        "gold": [1, 2, 3, 4],
        "ranks": [0, 1, 2, 3],
        "model": "m",
    }
    (found,) = read_questions(written(tmp_path, row, {"prompt": "p", "completions": ["a", "a", ""]}))
    assert found.content == CHAT
    assert found.completions == ("b", "a")
    assert found.prompt.columns == {"gold": [1.0, 3.0]}


def test_samples_of_an_evaluation_are_gathered_by_prompt(tmp_path: Path) -> None:
    rows = [
        {"model": model, "prompt": prompt, "completion": f"{model} on {prompt}", "score": 1.0}
        for model in ("x", "y")
        for prompt in ("p", "q")
    ]
    found = read_questions(written(tmp_path, *rows))
    assert [q.completions for q in found] == [("x on p", "y on p"), ("x on q", "y on q")]
    assert [q.prompt.columns for q in found] == [{}, {}]


def test_one_completion_is_enough_to_watch(tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": "p", "completion": "a"})
    assert [q.completions for q in read_questions(path, least=1)] == [("a",)]
    with pytest.raises(ValueError, match="no question with 2 different completions"):
        read_questions(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"completions": ["a", "b"]}, "prompt is None"),
        ({"prompt": [], "completions": ["a", "b"]}, "expected a text, or a list of messages"),
        ({"prompt": "p"}, "neither completions nor a completion"),
        ({"prompt": "p", "completions": "ab"}, "expected a list of texts"),
        ({"prompt": "p", "completions": ["a", 3]}, "expected a list of texts"),
        ({"prompt": "p", "completions": ["a", "b"], "gold": [1]}, "expected 2 numbers"),
        ({"prompt": "p", "completions": ["a", "b"], "gold": [1, "high"]}, "expected 2 numbers"),
        ({"prompt": "p", "completions": ["a", "b"], "gold": [1, True]}, "expected 2 numbers"),
        ({"prompt": "p", "completion": 3}, "neither completions nor a completion"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"rows.jsonl, row 2: .*{message}"):
        read_questions(written(tmp_path, {"prompt": "p", "completions": ["a", "b"]}, row))


def test_partly_answered_sets_are_exported_as_rankings(tmp_path: Path) -> None:
    asked = [question(f"q{i}", 2) for i in range(5)]
    with LabelStore(tmp_path / "answers.sqlite") as store:
        store.add(asked)
        with pytest.raises(ValueError, match="holds no rankings yet"):
            export_rankings(store, tmp_path / "rankings.jsonl")
        store.record(answer(asked[3], ranks=(1, 0)))
        store.record(answer(asked[1], skipped="no"))
        store.record(answer(asked[0], "ben", ranks=(0, 0)))  # teaches nothing, and no command would read it
        store.record(answer(asked[3], "ben", ranks=(0, 1)))
        assert export_rankings(store, tmp_path / "rankings.jsonl") == (2, 1)
    expected = [Ranking("q3", ("q3 0", "q3 1"), (1, 0)), Ranking("q3", ("q3 0", "q3 1"), (0, 1))]
    assert read_rankings(tmp_path / "rankings.jsonl") == expected


def test_no_feedback_is_an_error(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "answers.sqlite") as store, pytest.raises(ValueError, match="holds no feedback yet"):
        export_feedback(store, tmp_path / "feedback.jsonl")
