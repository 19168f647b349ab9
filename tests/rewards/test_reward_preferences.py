"""Files of preferences: each layout by its columns, and each mistake by its row."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgym.rewards import Judgement, read_preferences, read_rankings
from textgym.rewards.labels.preferences import best_completion, read_placed_preferences, split_texts
from textgym.rows import Place, Screening
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
    assert split_texts(start + " This way", start + " That way") == (start, " This way", " That way")
    # They part ways before the second turn of the assistant.
    early = "\n\nHuman: Hi\n\nAssistant:"
    chosen, rejected = early + " Yes\n\nHuman: Why\n\nAssistant: So", early + " Yes\n\nHuman: What\n\nAssistant: So"
    assert split_texts(chosen, rejected)[0] == early
    with pytest.raises(ValueError, match="common beginning that holds 'Assistant:'"):
        split_texts("Human: Hi\n\nAssistant: A", "Human: Ho\n\nAssistant: A")
    with pytest.raises(ValueError, match="common beginning that holds 'Assistant:'"):
        split_texts("Human: Hi\n\nHuman: Ho\n\nAssistant: A", "Human: Hi\n\nI agree")


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is"),  # as TRL's page on data sets has it
        ("The sky is blue.", "The sky is black.", "The sky is"),  # the common beginning ends within a word
        ("The sky is", "The sky is blue", "The sky"),  # one is the beginning of the other
        ("The sky is ", "The sky is blue", "The sky"),
        ("Q: 2+2?\nA: 4", "Q: 2+2?\nA: 5", "Q: 2+2?\nA:"),
        ("Q: 2+2?\n4", "Q: 2+2?\n5", "Q: 2+2?\n"),  # a line break stays with the prompt
        ("You don't know", "You don't care", "You don't"),
        ("You don't", "You do", "You"),
        ("So:yes", "So:no", "So:"),
        ("one  two", "one  three", "one "),  # one space of two
        (
            "\u5929\u7a7a\u662f\u84dd\u7684",
            "\u5929\u7a7a\u662f\u7eff\u7684",
            "\u5929\u7a7a\u662f",
        ),  # Chinese has no spaces
        ("Caf\u00e9 au lait", "Caf\u00e9 noir", "Caf\u00e9"),
        ("Le cafe\u0301", "Le cafe\u0300", "Le"),  # combining accents belong to their letter
        ("Look: \U0001f469\u200d\U0001f52c", "Look: \U0001f469\u200d\U0001f680", "Look:"),  # one sign of three
        ("Wave \U0001f44b\U0001f3fb", "Wave \U0001f44b\U0001f3ff", "Wave"),  # and of two
    ],
)
def test_texts_part_after_their_last_common_word(chosen, rejected, prompt):
    assert split_texts(chosen, rejected) == (prompt, chosen[len(prompt) :], rejected[len(prompt) :])
    assert split_texts(rejected, chosen)[0] == prompt


@pytest.mark.parametrize(
    ("chosen", "rejected", "message"),
    [
        ("Yes", "No", "must have a common beginning"),
        ("Yes.", "Yep.", "must have a common beginning"),
        ("", "No", "must have a common beginning"),
        ("Yes", "Yes", "the same text"),
        ("Yes", "Yes ", "must have a common beginning"),
        ("  Yes", "  No", "must have a common beginning"),
    ],
)
def test_texts_without_a_common_beginning_are_no_pair(chosen, rejected, message):
    with pytest.raises(ValueError, match=message):
        split_texts(chosen, rejected)


@given(begin=st.text(max_size=8), chosen=st.text(max_size=6), rejected=st.text(max_size=6))
def test_nothing_of_a_text_is_lost(begin, chosen, rejected):
    try:
        prompt, one, other = split_texts(begin + chosen, begin + rejected)
    except ValueError:
        return
    assert (prompt + one, prompt + other) == (begin + chosen, begin + rejected)
    assert one != other
    assert all(text.strip() for text in (prompt, one, other))


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
    with pytest.raises(ValueError, match=r"row 1: chosen and rejected must begin with the same messages.*'Hi'.*'Ho'"):
        read(tmp_path, {"chosen": [question, good], "rejected": [other, bad]}, render=render)


def message(role, content, **more):
    return {"role": role, "content": content, **more}


HI, YO, NO = message("user", "Hi"), message("assistant", "Yo"), message("assistant", "No")
KIND, RUDE = message("system", "Be kind."), message("system", "Be rude.")
MORE = message("user", "More?")


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"chosen": [KIND, HI, YO], "rejected": [KIND, HI, NO]}, [KIND, HI]),
        ({"prompt": "Hi", "chosen": [KIND, HI, YO], "rejected": [KIND, HI, NO]}, [KIND, HI]),
        ({"prompt": "Be kind. Hi", "chosen": [KIND, HI, YO], "rejected": [KIND, HI, NO]}, [KIND, HI]),
        ({"prompt": [HI], "chosen": [KIND, HI, YO], "rejected": [KIND, HI, NO]}, [KIND, HI]),
        ({"prompt": [KIND, HI], "chosen": [HI, YO], "rejected": [HI, NO]}, [KIND, HI]),
        ({"prompt": [HI], "chosen": [NO, MORE, YO], "rejected": [NO, MORE, NO]}, [HI, NO, MORE]),  # it goes on
        ({"chosen": [HI, NO, MORE, YO], "rejected": [HI, NO, MORE, NO]}, [HI, NO, MORE]),
        ({"prompt": "Hi", "chosen": [HI, YO], "rejected": [HI, NO]}, [HI]),
        ({"prompt": None, "chosen": [HI, YO], "rejected": [HI, NO]}, [HI]),  # as Parquet fills columns
        ({"chosen": [message("user", "Hi", name=None), YO], "rejected": [HI, NO]}, [message("user", "Hi", name=None)]),
        ({"prompt": "So:", "chosen": [YO], "rejected": [NO]}, "So:"),
    ],
)
def test_the_common_messages_are_the_prompt(tmp_path, row, prompt):
    (found,) = read(tmp_path, row, render=str)
    assert found == Ranking(prompt, ("Yo", "No"), (0, 1))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"chosen": [KIND, HI, YO], "rejected": [RUDE, HI, NO]},
            "begin with system: 'Be kind.' and system: 'Be rude.'",
        ),
        ({"prompt": "Hi", "chosen": [KIND, HI, YO], "rejected": [RUDE, HI, NO]}, "must begin with the same messages"),
        ({"prompt": "Ho", "chosen": [HI, YO], "rejected": [HI, NO]}, "prompt is 'Ho', which does not occur"),
        ({"prompt": [MORE], "chosen": [HI, YO], "rejected": [HI, NO]}, "prompt is .*'More.'.*, which does not occur"),
        ({"chosen": [YO], "rejected": [NO]}, "must begin with the same messages"),
        ({"chosen": [], "rejected": []}, "begin with no message and no message"),
        ({"chosen": [HI, YO, MORE, YO], "rejected": [HI, NO]}, "chosen: .*assistant, user, assistant"),
        # Calls of tools differ though their contents do not, and are no texts to learn.
        (
            {
                "chosen": [HI, message("assistant", "", tool_calls=[1]), message("tool", "4"), YO],
                "rejected": [HI, message("assistant", "", tool_calls=[2]), message("tool", "4"), NO],
            },
            "chosen: .*assistant, tool, assistant",
        ),
        (
            {"chosen": [HI, {"role": "assistant", "tool_calls": [1]}], "rejected": [HI, NO]},
            "prompt is None; expected a text",
        ),
    ],
)
def test_conversations_that_are_no_pair(tmp_path, row, said):
    with pytest.raises(ValueError, match=rf"data\.jsonl, row 1: .*{said}"):
        read(tmp_path, row, render=str)


def test_the_best_completion_is_the_first_of_those_with_the_best_rank():
    assert best_completion(Ranking("p", ("a", "b", "c"), (2, 1, 1))) == "b"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "completions": ["a"], "ranks": [0]}, "at least 2 completions, got 1"),
        ({"prompt": "p", "completions": "ab", "ranks": [0, 1]}, "completions: expected a list"),
        ({"prompt": "p", "completions": ["a", "b"], "ranks": [2, 2]}, "all ranks are tied"),
        ({"prompt": "p", "completions": ["a", "a"], "ranks": [0, 1]}, "all completions are the same text"),
        ({"prompt": "p", "completions": ["a", "b", "a"], "ranks": [0, 1, 2]}, "two completions of different rank"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "prompt is ''; expected a text, or a list"),
        ({"prompt": "p", "completions": ["a", "b"], "ranks": [0]}, "one rank for each completion"),
        ({"prompt": "p", "completions": ["a", ""], "ranks": [0, 1]}, "completions, number 2 is ''"),
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "the same text"),
        ({"prompt": "p", "chosen": "a", "rejected": "\n"}, r"rejected is '\\n'"),
        ({"prompt": "p", "completion": "", "label": 1}, "completion is ''"),
        ({"prompt": "p", "completion": "a", "label": 2}, "label: expected true or false"),
        ({"chosen": "a", "rejected": ["b"]}, "prompt is None; expected a text"),
        ({"prompt": "p", "text": "a"}, "expected the fields"),
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


def test_rows_that_are_left_out_do_not_move_the_numbers_of_others(tmp_path):
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    path = write(tmp_path / "data.jsonl", {"prompt": "p"}, good, {**good, "rejected": "a"}, good)
    screening = Screening(skip_bad=2)
    assert list(read_placed_preferences(path, screening=screening)) == [Place(str(path), n, n) for n in (2, 4)]
    assert [(o.place.row, o.dropped) for o in screening.omissions] == [(1, False), (3, False)]
    with pytest.raises(
        ValueError, match=r"2 bad rows, more than skip_bad=1 allows: .*row 1: .*; .*row 3: .*skip-bad 2"
    ):
        read_preferences(path, screening=Screening(skip_bad=1))
    with pytest.raises(ValueError, match=r"data\.jsonl, row 1: expected the fields"):
        read_preferences(path)


def test_columns_that_are_null_tell_no_layout(tmp_path):
    """Tables have every column in every row."""
    empty = dict.fromkeys(("completions", "ranks", "chosen", "rejected"))
    found = read(
        tmp_path,
        {**empty, "prompt": "p", "chosen": "a", "rejected": "b"},
        {**empty, "prompt": "p", "completions": ["a", "b"], "ranks": [1, 0]},
    )
    assert found == [Ranking("p", ("a", "b"), (0, 1)), Ranking("p", ("a", "b"), (1, 0))]
    with pytest.raises(ValueError, match="row 1: rejected: expected a text or one message, got None"):
        read(tmp_path, {"prompt": "p", "chosen": "a", "rejected": None})


def test_comparisons_and_labels_need_files_of_their_own(tmp_path):
    with pytest.raises(ValueError, match=r"data\.jsonl, row 2: a file holds comparisons or labels"):
        read(tmp_path, {"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p", "completion": "a", "label": 1})
