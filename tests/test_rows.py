"""Rows of other people's files: every way to write them down, where each stands, and the account of those left out."""

from __future__ import annotations

import gzip
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tests.helpers import tiny_gpt2, word_tokenizer
from textgym.agents.offline.data import encode_demonstrations, row_layout
from textgym.agents.offline.preferences import encode_comparisons
from textgym.prompts import cut_left, encode_prompts
from textgym.rewards import RewardModel
from textgym.rewards.labels.preferences import Judgement, read_placed_preferences
from textgym.rewards.models.training import encode_preferences
from textgym.rows import BadRowError, Place, Screening, TooLongError, placed, read_placed_rows, read_rows
from textgym.tokenization import chat_renderer
from textgym.types import Ranking, Truncation

END = 1
ROWS = [{"prompt": "w0 \u2028 Ä"}, {"prompt": "w1", "n": 1}]


def start_tokenizer() -> PreTrainedTokenizerFast:
    """Every text begins with the start token 15, as Llama's begin."""
    tokenizer = word_tokenizer()
    tokenizer.bos_token = "w13"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="w13 $A", special_tokens=[("w13", 15)])
    return tokenizer


# --- reading -----------------------------------------------------------------------------------------------------

LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
WRITTEN = {
    "lines.jsonl": LINES.encode(),
    "lines.json": LINES.encode(),
    "bom.jsonl": b"\xef\xbb\xbf" + LINES.encode(),
    "crlf.jsonl": LINES.replace("\n", "\r\n\r\n").encode() + b"\r\n",
    "array.json": json.dumps(ROWS, ensure_ascii=False).encode(),
    "array.jsonl": json.dumps(ROWS).encode(),
    "pretty.json": b"\xef\xbb\xbf\n" + json.dumps(ROWS, indent=2).encode() + b"\n",
    "lines.jsonl.gz": gzip.compress(LINES.encode()),
    "array.json.gz": gzip.compress(json.dumps(ROWS).encode()),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_same_rows_in_every_writing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(WRITTEN[name])
    assert read_rows(tmp_path / name) == ROWS


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=3)), min_size=1, max_size=4),
    gap=st.lists(st.sampled_from([" ", "\n", "\r\n"])).map("".join),
)
def test_blank_lines_move_lines_but_not_rows(tmp_path_factory: pytest.TempPathFactory, rows: Any, gap: str) -> None:
    path = tmp_path_factory.mktemp("rows") / "data.jsonl"
    path.write_bytes("".join(f"{json.dumps(row)}{gap}\n" for row in rows).encode())
    step = gap.count("\n") + 1
    places = [Place(str(path), n, 1 + (n - 1) * step) for n in range(1, len(rows) + 1)]
    assert read_placed_rows(path) == dict(zip(places, rows, strict=True))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"a": 1},\n {"a": 2},\n]', r"a\.json is not JSON: .*line 3"),
        ("a.json", '[{"a": 1}\n {"a": 2}]', r"a\.json is not JSON: .*line 2"),
        ("a.json", '[{"a": 1}, 3]', r"a\.json, row 2: expected a JSON object, got int"),
        ("a.json", "[]", r"a\.json.* is empty"),
        ("a.json", '{\n  "rows": []\n}', r"a\.json holds one JSON object; expected one object a line"),
        ("a.jsonl", '{"a": 1},\n{"a": 2}', r"a\.jsonl, line 1: not JSON"),
        ("a.jsonl", '{"a": 1}\n\n[{"a": 2}]', r"a\.jsonl, line 3: expected a JSON object, got list"),
        ("a.jsonl", '["a"]\n{"a": 2}', r"a\.jsonl, line 1: expected a JSON object, got list"),
        ("a.jsonl", '{"a": 1}\n' + "[" * 100_000, r"a\.jsonl, line 2: the JSON is nested too deeply"),
        ("a.jsonl", '{"a": 1}\n{"a": ' + "1" * 5000 + "}", r"a\.jsonl, line 2: not JSON: .*digits"),
        ("a.jsonl", '{"a": 1}\n{"a": "\\ud800"}', r"a\.jsonl, line 2: .*surrogate"),
        ("a.jsonl.gz", '{"a": 1}', r"a\.jsonl\.gz is not compressed by gzip"),
        ("a.parquet", '{"a": 1}', r"a\.parquet.* cannot be read: "),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path / name)


def test_a_shortened_gz_file_and_an_empty_directory_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(LINES.encode())[:-10])
    with pytest.raises(ValueError, match=r"a\.gz is not compressed by gzip, or was cut short"):
        read_rows(tmp_path / "a.gz")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"folder.* cannot be read"):
        read_rows(tmp_path / "folder")


# --- the account -------------------------------------------------------------------------------------------------


def test_malformed_lines_are_left_out_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a":\n[1]\n{"a": 2}\n{"a": 3},\n', encoding="utf-8")
    screening = Screening(skip_bad=3)
    found = read_placed_rows(path, screening)
    assert found == {Place(str(path), 1, 1): {"a": 1}, Place(str(path), 4, 5): {"a": 2}}
    records = [omission.record for omission in screening.omissions]
    assert [(r["file"], r["row"], r["line"], r["kind"]) for r in records] == [
        (str(path), None, line, "bad") for line in (3, 4, 6)
    ]
    assert records[1]["reason"] == "expected a JSON object, got list"
    with pytest.raises(
        BadRowError, match=r"3 bad rows, more than skip_bad=2 allows: .*line 3: .*line 4: .*line 6: .*--skip-bad 3"
    ):
        read_placed_rows(path, Screening(skip_bad=2))


def test_a_message_spells_out_the_first_bad_rows_and_counts_the_others() -> None:
    screening = Screening(skip_bad=0)
    for number in range(1, 6):
        with screening.row(Place("a", number)):
            raise BadRowError("it is bad")
    with pytest.raises(BadRowError) as caught:
        screening.check()
    assert "5 bad rows" in str(caught.value)
    assert "a, row 3: it is bad; and 2 more" in str(caught.value)
    assert "row 4" not in str(caught.value)


def test_long_rows_are_bad_unless_they_are_to_be_dropped() -> None:
    for truncation, bad, dropped in (("error", 2, 0), ("left", 2, 0), ("drop", 1, 1)):
        screening = Screening(truncation, skip_bad=9)  # type: ignore[arg-type]
        for error in (TooLongError("long"), BadRowError("bad")):
            with screening.row(Place("a", 1)):
                raise error
        assert (len(screening.bad), len(screening.dropped)) == (bad, dropped)
        with screening.row(Place("a", 1)):
            raise BadRowError("bad")  # the file is read once more, for something else
        assert (len(screening.bad), len(screening.dropped)) == (bad, dropped)
    strict = Screening("drop")
    with strict.row(Place("a", 1)):
        raise TooLongError("long")
    with pytest.raises(BadRowError, match=r"^a, row 2: bad$"), strict.row(Place("a", 2)):
        raise BadRowError("bad")
    with pytest.raises(ZeroDivisionError), strict.row(Place("a", 3)):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("setting", "message"), [({"skip_bad": -1}, "skip_bad=-1"), ({"truncation": "right"}, "truncation='right'")]
)
def test_settings_without_meaning(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Screening(**setting)


def test_nothing_left_is_an_error() -> None:
    screening = Screening(skip_bad=9)
    with pytest.raises(ValueError, match=r"prompts: no row is left to use\. prompts, row 1: no field 'prompt'"):
        encode_prompts([{}], word_tokenizer(), 4, screening=screening)


# --- prompts -----------------------------------------------------------------------------------------------------


def test_a_prompt_keeps_its_end_and_its_start_token() -> None:
    tokenizer = start_tokenizer()
    ids = (15, 2, 3, 4, 5)
    assert [cut_left(ids, n, tokenizer) for n in (5, 4, 3, 2, 1)] == [ids, (15, 3, 4, 5), (15, 4, 5), (15, 5), (5,)]
    assert cut_left((2, 3, 4), 2, tokenizer) == (3, 4)  # a conversation that a template wrote without one
    assert cut_left((2, 3, 4), 2, word_tokenizer()) == (3, 4)
    (prompt,) = encode_prompts(["w0 w1 w2 w3"], tokenizer, 3, "left")
    assert prompt.ids == (15, 4, 5)
    assert prompt.content == "w0 w1 w2 w3"


def test_prompts_that_are_left_out_do_not_move_the_numbers_of_others() -> None:
    screening = Screening("drop", skip_bad=1)
    rows = ["w0 w1 w2 w3 w4 w5", {"question": "w0"}, "w0 <eos>", "w3"]
    with pytest.warns(UserWarning, match="prompts, row 3: the text holds '<eos>'"):
        prompts = encode_prompts(rows, word_tokenizer(), 5, screening=screening)
    assert [prompt.text for prompt in prompts] == ["w0 <eos>", "w3"]
    assert [str(omission.place) for omission in screening.bad] == ["prompts, row 2"]
    assert [str(omission.place) for omission in screening.dropped] == ["prompts, row 1"]


# --- demonstrations and comparisons ------------------------------------------------------------------------------

words = st.integers(1, 9).map(lambda n: " ".join(f"w{i}" for i in range(n)))


@given(prompt=words, completion=words, limit=st.integers(1, 14), start=st.booleans())
def test_only_the_beginning_of_a_prompt_is_ever_cut(prompt: str, completion: str, limit: int, start: bool) -> None:
    tokenizer = start_tokenizer() if start else word_tokenizer()
    (whole,) = encode_demonstrations([{"prompt": prompt, "completion": completion}], tokenizer, END)
    screening = Screening("left", skip_bad=1)
    row = {"prompt": prompt, "completion": completion}
    if len(whole.response_ids) + 1 > limit:
        with pytest.raises(ValueError, match=r"no row is left to use.*leave it out"):
            encode_demonstrations([row], tokenizer, END, limit, screening=screening)
        return
    (shown,) = encode_demonstrations([row], tokenizer, END, limit, screening=screening)
    assert shown.response_ids == whole.response_ids
    assert shown.n_tokens == min(limit, whole.n_tokens)  # no more is cut than must be
    assert screening.shortened == (limit < whole.n_tokens)
    assert shown.prompt.ids[-1] == whole.prompt.ids[-1]
    kept = shown.prompt.ids[1:] if start and len(shown.prompt.ids) > 1 else shown.prompt.ids
    assert kept == whole.prompt.ids[len(whole.prompt.ids) - len(kept) :]
    if start and len(shown.prompt.ids) > 1:
        assert shown.prompt.ids[0] == 15


LONG = {"prompt": "w0 w1 w2 w3", "completion": "w5"}  # 4 + 1 + 1 tokens
OVERLONG = {"prompt": "w0", "completion": "w5 w6 w7 w8"}  # 1 + 4 + 1
SHORT = {"prompt": "w0", "completion": "w5"}


@pytest.mark.parametrize(
    ("truncation", "kept", "bad", "dropped", "shortened"),
    [
        ("error", [(2, 7, 1)], 2, 0, 0),
        ("left", [(4, 5, 7, 1), (2, 7, 1)], 1, 0, 1),
        ("drop", [(2, 7, 1)], 0, 2, 0),
    ],
)
def test_long_demonstrations(truncation: Truncation, kept: list[Any], bad: int, dropped: int, shortened: int) -> None:
    screening = Screening(truncation, skip_bad=2)
    shown = encode_demonstrations([LONG, OVERLONG, SHORT], word_tokenizer(), END, 4, screening=screening)
    assert [(*one.prompt.ids, *one.response_ids) for one in shown] == kept
    assert (len(screening.bad), len(screening.dropped), screening.shortened) == (bad, dropped, shortened)


def test_both_sides_of_a_pair_follow_the_same_tokens() -> None:
    ranking = Ranking("w0 w1 w2 w3", ("w5", "w6 w7 w8", "w9 w9"), (0, 1, 2))
    screening = Screening("left")
    pairs = encode_comparisons([ranking], word_tokenizer(), END, 6, screening=screening)
    assert {one.prompt.ids for pair in pairs for one in (pair.chosen, pair.rejected)} == {(4, 5)}  # 6 - 3 - 1
    assert [pair.chosen.response_ids for pair in pairs] == [(7, 1), (7, 1), (8, 9, 10, 1)]
    assert screening.shortened == 1
    with pytest.raises(ValueError, match=r"comparisons, row 1: prompt, completion and end token have 4 \+ 3 \+ 1"):
        encode_comparisons([ranking], word_tokenizer(), END, 6)
    with pytest.raises(ValueError, match="comparisons: no row is left to use"):
        encode_comparisons([ranking], word_tokenizer(), END, 6, screening=Screening("drop"))
    with pytest.raises(ValueError, match=r"row 1: .*more than the model's context of 4; .*leave it out"):
        encode_comparisons([ranking], word_tokenizer(), END, 4, screening=Screening("left"))


@pytest.mark.parametrize("start", [False, True])
def test_a_reward_model_reads_all_completions_after_the_same_tokens(start: bool) -> None:
    import torch

    tokenizer = start_tokenizer() if start else word_tokenizer()
    model = RewardModel.from_causal_lm(tiny_gpt2(positions=8), tokenizer, torch.Generator().manual_seed(0))
    ranking = Ranking("w0 w1 w2 w3 w4 ", ("w5", "w6 w7 w8"), (0, 1))
    whole = [[2, 3, 4, 5, 6, 7, 1], [2, 3, 4, 5, 6, 8, 9, 10, 1]]  # the second has 9 tokens, or 10 with a start token
    screening = Screening("left", skip_bad=1)
    (example,) = encode_preferences(model, [ranking], "given", screening)
    assert example.sequences == ([[15, *ids[2:]] for ids in whole] if start else [ids[1:] for ids in whole])
    assert screening.shortened == 1
    with pytest.raises(ValueError, match=f"given, row 1: prompt and completion have {9 + start} tokens, .*at most 8"):
        encode_preferences(model, [ranking], "given")
    with pytest.raises(ValueError, match="no row is left to use"):
        encode_preferences(model, [ranking], "given", Screening("drop"))
    label = Judgement("w0 w1", "w5 " * 9, True)
    with pytest.raises(ValueError, match=r"given, row 2: .*at most 8; .*leave it out"):
        encode_preferences(model, [Judgement("w0 ", "w5", False), label], "given", Screening("left"))


USER, GOOD, BAD = ({"role": r, "content": c} for r, c in (("user", "w0 w1"), ("assistant", "w5"), ("assistant", "w6")))
TEXTS = [
    {"prompt": "w0 w1", "chosen": "w5", "rejected": "w6"},
    {"chosen": "w0 w1 w5", "rejected": "w0 w1 w6"},
    {"prompt": "w0 w1", "completions": ["w6", "w5", "w7"], "ranks": [1, 0, 1]},
    {"prompt": "w0 w1", "completion": "w5", "label": True},
    {"prompt": "w0 w1", "completion": "w5", "label": 3},  # somebody's own column
    {"prompt": "w0 w1", "completion": "w5", "chosen": "w6", "rejected": "w7"},
    {"prompt": "w0 w1", "completion": None, "chosen": "w5", "rejected": "w7", "messages": None, "label": None},
    {"prompt": "w0 w1", "completion": None, "completions": ["w5", "w6"], "ranks": [0, 1], "chosen": None},
]
CONVERSATIONS = [
    {"messages": [USER, GOOD]},
    {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    {"prompt": "w0 w1", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    {"prompt": [USER], "completion": [GOOD], "label": True},
    {"prompt": None, "text": None, "completion": None, "messages": [USER, GOOD]},
]


@pytest.mark.parametrize(
    ("row", "same_as"),
    [
        *((row, {"prompt": "w0 w1", "completion": "w5"}) for row in TEXTS),
        *((row, {"prompt": [USER], "completion": [GOOD]}) for row in CONVERSATIONS),
    ],
)
def test_the_preferred_completion_is_a_demonstration(row: dict[str, Any], same_as: dict[str, Any]) -> None:
    tokenizer = word_tokenizer()
    (found,) = encode_demonstrations([{**row, "source": "x"}], tokenizer, END)
    (expected,) = encode_demonstrations([same_as], tokenizer, END)
    assert (found.prompt.content, found.prompt.ids) == (expected.prompt.content, expected.prompt.ids)
    assert found.response_ids == expected.response_ids
    assert found.prompt.columns["source"] == "x"  # other columns reach rewards; the losing side does not
    assert not {"rejected", "ranks"} & found.prompt.columns.keys() or "completion" in row


def test_completions_that_are_labelled_bad_are_passed_over() -> None:
    rows = [{"prompt": "w0", "completion": f"w{i}", "label": good} for i, good in ((5, True), (6, False), (7, True))]
    screening = Screening(skip_bad=0)
    shown = encode_demonstrations(rows, word_tokenizer(), END, screening=screening)
    assert [one.response_ids for one in shown] == [(7, END), (9, END)]
    assert not screening.omissions
    with pytest.raises(ValueError, match="no row is left to use"):
        encode_demonstrations(rows[1:2], word_tokenizer(), END)


def test_running_text_is_learned_whole() -> None:
    (plain,) = encode_demonstrations([{"text": "w0 w1 w2"}], word_tokenizer(), END)
    assert (plain.prompt.ids, plain.response_ids, plain.running) == ((2,), (3, 4, END), True)
    assert plain.prompt.text == "w0"
    (begun,) = encode_demonstrations([{"text": "w0 w1 w2"}], start_tokenizer(), END)
    assert (begun.prompt.ids, begun.response_ids) == ((15,), (2, 3, 4, END))
    for text, message in ((" ", "text is ' '"), (3, "text is 3"), ("w0 w1 w2 w3", "5 tokens, more than .* 4")):
        with pytest.raises(ValueError, match=f"demonstrations, row 1: .*{message}"):
            encode_demonstrations([{"text": text}], word_tokenizer(), END, 4)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "w0", "chosen": "w5", "rejected": " "}, "rejected is ' '"),
        ({"prompt": "w0", "chosen": "w5", "rejected": "w5"}, "the same text"),
        ({"prompt": "w0", "completion": "w5 ", "label": False, "extra": 1}, None),
        ({"prompt": "w0", "completion": " ", "label": True}, "completion is ' '"),
        ({"prompt": "w0", "completion": "\t"}, "completion is"),
        ({"messages": [USER]}, "messages is"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "completion is ' '"),
        ({"prompt": "w0", "chosen": "w5"}, "no field 'completion'"),
        ({"prompt": "w0", "text": "w5"}, "no field 'completion'"),
        ({}, "no field 'prompt'"),
    ],
)
def test_rows_that_are_no_demonstration(row: dict[str, Any], message: str | None) -> None:
    rows = [SHORT, row]
    if message is None:
        assert len(encode_demonstrations(rows, word_tokenizer(), END)) == 1
        return
    with pytest.raises(BadRowError, match=f"demonstrations, row 2: .*{message}"):
        encode_demonstrations(rows, word_tokenizer(), END)
    screening = Screening(skip_bad=1)
    assert len(encode_demonstrations(rows, word_tokenizer(), END, screening=screening)) == 1
    assert [omission.place.row for omission in screening.bad] == [2]


# --- anything at all ---------------------------------------------------------------------------------------------

roles = st.sampled_from(["user", "assistant", "system", "tool", ""])
texts = st.one_of(st.text(max_size=4), st.sampled_from(["w0 w1", "w5", " ", "<eos>"]))
messages = st.lists(
    st.fixed_dictionaries({"role": roles, "content": texts}, optional={"name": st.none(), "tool_calls": st.just([1])}),
    max_size=3,
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-2, 3), st.floats(), texts)
values = st.recursive(st.one_of(scalars, messages), lambda inner: st.lists(inner, max_size=3), max_leaves=6)
names = ("prompt", "completion", "chosen", "rejected", "completions", "ranks", "label", "messages", "text")
any_row = st.dictionaries(st.sampled_from(names), values, max_size=5)


@given(
    rows=st.lists(any_row, min_size=1, max_size=4), template=st.booleans(), truncation=st.sampled_from(["left", "drop"])
)
def test_whatever_rows_hold_they_are_used_or_left_out(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], template: bool, truncation: Truncation
) -> None:
    """And every row is accounted for: used, left out, or labelled bad."""
    tokenizer = start_tokenizer()
    if template:
        tokenizer.chat_template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    path = tmp_path_factory.mktemp("any") / "rows.json"
    path.write_text(json.dumps(rows))
    rows = read_rows(path)

    def account(read: Any) -> tuple[int, int]:
        screening = Screening(truncation, skip_bad=99)
        try:
            used = len(read(screening))
        except ValueError as error:
            if not re.search("no row is left to use|comparisons or labels|every prompt has more", str(error)):
                raise
            return 0, len(rows)
        return used, used + len(screening.omissions)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, counted = account(lambda s: encode_prompts(placed(rows, "x"), tokenizer, 4, screening=s))
        assert counted == len(rows)
        used, counted = account(lambda s: encode_demonstrations(rows, tokenizer, END, 6, screening=s))
        passed_over = sum(row_layout(row) == "label" and row["label"] is False for row in rows)
        assert counted <= len(rows) <= counted + (passed_over if used else 0)
        _, counted = account(lambda s: read_placed_preferences(path, chat_renderer(tokenizer), s))
        assert counted == len(rows)
