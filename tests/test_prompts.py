"""Prompts: what a data file may hold, what is refused and in which words, and the order of visits."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from tests.helpers import word_tokenizer
from textgym.agents.loop.episodes import prompt_order
from textgym.prompts import encode_prompts, read_prompts
from textgym.rows import read_rows
from textgym.types import Prompt

TOKENIZER = word_tokenizer()
CONVERSATION = [
    {"role": "user", "content": "w0 w1"},
    {"role": "assistant", "content": "w2"},
    {"role": "user", "content": "w3"},
]


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- reading -----------------------------------------------------------------------------------------------------


def test_json_lines_become_prompts_with_their_columns(tmp_path):
    path = lines(tmp_path / "data.jsonl", {"prompt": "w0 w1", "answer": 4}, {"prompt": "w2", "tags": ["a", "b"]})
    assert read_prompts(path, TOKENIZER, 4) == (
        Prompt("w0 w1", "w0 w1", (2, 3), {"answer": 4}),
        Prompt("w2", "w2", (4,), {"tags": ["a", "b"]}),
    )
    assert read_prompts(str(path), TOKENIZER, 4) == read_prompts(path, TOKENIZER, 4)


def test_blank_lines_and_a_missing_last_newline_are_fine(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "w0"}\n\n  \n{"prompt": "w1"}', encoding="utf-8")
    assert [row["prompt"] for row in read_rows(path)] == ["w0", "w1"]


def test_a_line_ends_at_a_newline_only(tmp_path):
    """JSON strings may hold U+2028, U+0085 and their like unescaped; ``str.splitlines`` would cut there."""
    text = "one\u2028two\u0085three\u2029four"
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"prompt": text}, ensure_ascii=False) + '\r\n{"prompt": "w1"}\n', encoding="utf-8")
    assert [row["prompt"] for row in read_rows(path)] == [text, "w1"]


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "w0"}\n', encoding="utf-8-sig")
    assert read_rows(path) == [{"prompt": "w0"}]


def test_a_saved_data_set_and_parquet_read_the_same(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": "w0 w1", "answer": 4}, {"prompt": "w2", "answer": 5}]
    saved = datasets.Dataset.from_list(rows)
    saved.to_parquet(str(tmp_path / "data.parquet"))
    saved.save_to_disk(str(tmp_path / "data"))
    datasets.DatasetDict({"train": saved, "test": saved}).save_to_disk(str(tmp_path / "splits"))
    assert read_rows(tmp_path / "data.parquet") == rows
    assert read_rows(tmp_path / "data") == rows
    assert read_rows(tmp_path / "splits" / "test") == rows
    with pytest.raises(ValueError, match=r"splits.*\['test', 'train'\]"):
        read_rows(tmp_path / "splits")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl.*no such file"):
        read_rows(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
def test_an_empty_file_is_refused(tmp_path, content):
    path = tmp_path / "data.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"data\.jsonl.* is empty; expected at least one row"):
        read_rows(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "w0"', r"data\.jsonl, line 3: not JSON"),
        ('["w0"]', r"data\.jsonl, line 3: expected a JSON object, got list"),
        ('"w0"', r"data\.jsonl, line 3: expected a JSON object, got str"),
    ],
)
def test_a_malformed_line_is_named_with_its_file(tmp_path, line, message):
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "w0"}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_rows(path)


def test_a_file_that_is_not_utf_8_is_named(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes('{"prompt": "w0"}\n{"prompt": "Ä"}\n'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"data\.jsonl.*UTF-8"):
        read_rows(path)


def test_a_row_without_a_prompt_is_named_with_the_fields_it_has(tmp_path):
    path = lines(tmp_path / "data.jsonl", {"prompt": "w0"}, {"question": "w1", "answer": 2})
    with pytest.raises(ValueError, match=r"data\.jsonl, row 2: no field 'prompt'.*\['answer', 'question'\]"):
        read_prompts(path, TOKENIZER, 4)


# --- encoding ----------------------------------------------------------------------------------------------------


def test_no_rows_at_all():
    with pytest.raises(ValueError, match="prompts is empty"):
        encode_prompts([], TOKENIZER, 4)


@pytest.mark.parametrize("prompt", ["", "   ", [], None, 7, b"w0", ["w0"], [{"role": "user"}], [{"content": "w0"}]])
def test_what_is_no_prompt_is_refused_and_its_row_named(prompt):
    with pytest.raises(ValueError, match=r"prompts, row 2: "):
        encode_prompts(["w0", {"prompt": prompt}], TOKENIZER, 4)


def test_a_prompt_that_is_too_long():
    rows = ["w0", "w1 w2 w3 w4", "w5"]
    with pytest.raises(ValueError, match=r"prompts, row 2: the prompt has 4 tokens, max_prompt_length is 3"):
        encode_prompts(rows, TOKENIZER, 3)
    assert [p.ids for p in encode_prompts(rows, TOKENIZER, 3, "left")] == [(2,), (4, 5, 6), (7,)]  # its end is kept
    assert [p.ids for p in encode_prompts(rows, TOKENIZER, 3, "drop")] == [(2,), (7,)]
    assert [p.ids for p in encode_prompts(rows, TOKENIZER, 4)] == [(2,), (3, 4, 5, 6), (7,)]
    with pytest.raises(ValueError, match="every prompt has more than 3 tokens"):
        encode_prompts([rows[1]], TOKENIZER, 3, "drop")
    with pytest.raises(ValueError, match="truncation='right' is not one of"):
        encode_prompts(rows, TOKENIZER, 3, "right")


def with_start_token() -> object:
    """Return a tokenizer that begins every text with ``w13``, as Llama's begins with its BOS."""
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="w13 $A", special_tokens=[("w13", 15)])
    return tokenizer


def test_texts_get_the_tokens_that_the_tokenizer_adds():
    assert encode_prompts(["w0"], with_start_token(), 4)[0].ids == (15, 2)


def test_a_conversation_without_a_chat_template_is_written_as_plain_turns():
    prompt = encode_prompts([{"prompt": CONVERSATION, "answer": 1}], with_start_token(), 32)[0]
    assert prompt.content == CONVERSATION
    assert prompt.text == "Human: w0 w1\n\nAssistant: w2\n\nHuman: w3\n\nAssistant:"
    assert prompt.columns == {"answer": 1}
    assert prompt.ids[0] == 15  # plain text, so the tokenizer's own start token stands


def test_a_chat_template_writes_the_conversation_and_its_own_special_tokens():
    tokenizer = with_start_token()
    tokenizer.chat_template = (
        "w13 {% for m in messages %}{{ 'w8' if m.role == 'user' else 'w9' }} {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}w9{% endif %}"
    )
    prompt = encode_prompts([{"prompt": CONVERSATION}], tokenizer, 32)[0]
    assert prompt.text == "w13 w8 w0 w1 w9 w2 w8 w3 w9"
    assert prompt.ids == (15, 10, 2, 3, 11, 4, 10, 5, 11)  # one w13, not two
    assert prompt.content == CONVERSATION


def test_the_rows_are_not_changed():
    row = {"prompt": "w0", "answer": 1}
    encode_prompts([row], TOKENIZER, 4)
    assert row == {"prompt": "w0", "answer": 1}


# --- order -------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32), n=st.integers(1, 20), epochs=st.integers(1, 4))
def test_every_epoch_visits_every_prompt_once(seed, n, epochs):
    order = prompt_order(seed, n, np.arange(n * epochs))
    assert Counter(order.tolist()) == Counter(dict.fromkeys(range(n), epochs))
    for epoch in order.reshape(epochs, n):
        assert sorted(epoch) == list(range(n))


@given(seed=st.integers(0, 99), start=st.integers(0, 60))
def test_the_order_depends_on_the_episode_numbers_alone(seed, start):
    """So a run that resumes at episode ``start`` goes on as if it had not stopped."""
    whole = prompt_order(seed, 7, np.arange(90))
    assert prompt_order(seed, 7, np.arange(start, 90)).tolist() == whole[start:].tolist()


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = {tuple(prompt_order(seed, 20, np.arange(e * 20, e * 20 + 20))) for seed in (0, 1) for e in range(3)}
    assert len(orders) == 6
