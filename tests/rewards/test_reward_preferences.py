"""Files of preferences: each layout by its columns, and each mistake by its row."""

from __future__ import annotations

import json

import pytest

from textgym.rewards import Judgement, read_preferences, read_rankings
from textgym.rewards.preferences import split_dialogues
from textgym.types import Ranking


def write(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def read(tmp_path, *rows, render=None):
    return read_preferences(write(tmp_path / "data.jsonl", *rows), render)


def test_comparisons_of_all_layouts_stand_in_one_file(tmp_path):
    found = read(
        tmp_path,
        {"prompt": "p", "completions": ["a", "b", "c"], "ranks": [1, 0, 1], "source": "x"},
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Hm"},
    )
    assert found == [
        Ranking("p", ("a", "b", "c"), (1, 0, 1)),
        Ranking("q", ("good", "bad"), (0, 1)),
        Ranking("\n\nHuman: Hi\n\nAssistant:", (" Hello", " Hm"), (0, 1)),
    ]


def test_the_last_common_turn_of_the_assistant_ends_the_prompt():
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Tell me, Assistant: how?\n\nAssistant:"
    assert split_dialogues(start + " This way", start + " That way") == (start, " This way", " That way")
    # They part ways before the second turn of the assistant.
    early = "\n\nHuman: Hi\n\nAssistant:"
    chosen, rejected = early + " Yes\n\nHuman: Why\n\nAssistant: So", early + " Yes\n\nHuman: What\n\nAssistant: So"
    assert split_dialogues(chosen, rejected)[0] == early
    with pytest.raises(ValueError, match="common beginning"):
        split_dialogues("Human: Hi\n\nAssistant: A", "Human: Ho\n\nAssistant: A")


def test_labels(tmp_path):
    rows = [{"prompt": "p", "completion": "a", "label": label} for label in (True, 0, 1, False)]
    assert read(tmp_path, *rows) == [Judgement("p", "a", good) for good in (True, False, True, False)]
    with pytest.raises(ValueError, match="expected rankings or pairs"):
        read_rankings(tmp_path / "data.jsonl")


def test_conversations_stay_conversations(tmp_path):
    question, other = {"role": "user", "content": "Hi"}, {"role": "user", "content": "Ho"}
    good, bad = ({"role": "assistant", "content": text} for text in ("Hello", "Hm"))

    def render(messages):
        return "|".join(m["content"] for m in messages)

    expected = [Ranking([question], ("Hello", "Hm"), (0, 1))]
    whole = {"chosen": [question, good], "rejected": [question, bad]}
    assert read(tmp_path, whole, render=render) == expected
    assert read(tmp_path, {"prompt": [question], "chosen": [good], "rejected": [bad]}, render=render) == expected
    # Other libraries write the prompt again beside whole conversations, as text or as messages.
    assert read(tmp_path, {"prompt": "Hi", **whole}, render=render) == expected
    assert read(tmp_path, {"prompt": [question], **whole}, render=render) == expected
    texts = {"prompt": [question], "chosen": "Hello", "rejected": "Hm"}
    assert read(tmp_path, texts) == expected
    with pytest.raises(ValueError, match="row 1: chosen is a message; pass render"):
        read(tmp_path, {"prompt": [question], "chosen": [good], "rejected": [bad]})
    with pytest.raises(ValueError, match="row 1: chosen and rejected are the same text"):
        read(tmp_path, {"chosen": [question, good], "rejected": [question, good]}, render=render)
    with pytest.raises(ValueError, match="row 1: prompt: expected a text"):  # nothing is common
        read(tmp_path, {"chosen": [question, good], "rejected": [other, bad]}, render=render)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "completions": ["a"], "ranks": [0]}, "at least 2 completions, got 1"),
        ({"prompt": "p", "completions": "ab", "ranks": [0, 1]}, "completions: expected a list"),
        ({"prompt": "p", "completions": ["a", "b"], "ranks": [2, 2]}, "all ranks are tied"),
        ({"prompt": "p", "completions": ["a", "a"], "ranks": [0, 1]}, "all completions are the same text"),
        ({"prompt": "p", "completions": ["a", ""], "ranks": [0, 1]}, "completions, number 2 is ''"),
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "the same text"),
        ({"prompt": "p", "chosen": "a", "rejected": "\n"}, r"rejected is '\\n'"),
        ({"prompt": "p", "completion": "", "label": 1}, "completion is ''"),
        ({"prompt": "p", "completion": "a", "label": 2}, "label: expected true or false"),
        ({"chosen": "a", "rejected": ["b"]}, "prompt: expected|expected a text"),
        ({"prompt": "p"}, "expected the fields"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    with pytest.raises(ValueError, match=rf"data\.jsonl, row 2: .*({message})"):
        read(tmp_path, {"prompt": "p", "chosen": "a", "rejected": "b"}, row)


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_preferences(tmp_path / "missing.jsonl")
    with pytest.raises(ValueError, match="is empty"):
        read_preferences(write(tmp_path / "data.jsonl"))
