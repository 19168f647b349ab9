"""Tasks on published data: prompts by hand, sizes, splits, references, gold rewards."""

from __future__ import annotations

import inspect
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from tokenizers import processors

from tests.helpers import byte_tokenizer, save_byte_model, tiny_t5, word_tokenizer
from tests.tasks import real_rows
from tests.tasks.real_rows import DATA, cell, rows, write_folder
from textgym import cli
from textgym.registration import load_task, task_maker, task_mdp
from textgym.rewards.functions import RewardError
from textgym.tasks import REAL, task_id
from textgym.tasks.real import constructions, fitting, gold, published
from textgym.tasks.real.data import Source
from textgym.tasks.real.fitting import Encoder
from textgym.tasks.real.gold import UnsetGold
from textgym.tasks.real.real_task import RealTask
from textgym.tasks.task import Task
from textgym.testing import check_task
from textgym.tokenization import load_tokenizer
from textgym.types import Prompt

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SHORT = "--total-timesteps 16 --episodes-per-iteration 4 --minibatch-size 4 --eval-episodes 4 --max-new-tokens 4"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_model(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_model(tmp_path_factory.mktemp("chat"), TEMPLATE)


@pytest.fixture(scope="module")
def encoder_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder–decoder whose tokenizer closes every text."""
    folder = tmp_path_factory.mktemp("t5")
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "</s>", "pad_token": "<pad>"})
    ends = [("</s>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=ends)
    tokenizer.save_pretrained(folder)
    tiny_t5(len(tokenizer), d_model=8, d_ff=8, num_layers=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each task's data."""
    place = tmp_path_factory.mktemp("data")
    for name in DATA:
        write_folder(place / name, rows(name))
    return place


def real(name: str, model: Path, folder: Path, **settings: Any) -> Task:
    return load_task(task_id(name), model=model, folder=folder, **{"checksum": "any", **settings})


def of(task: Task, text: str) -> Prompt:
    """The one prompt with a text."""
    (found,) = (prompt for prompts in task.splits.values() for prompt in prompts if prompt.text == text)
    return found


# --- every task ------------------------------------------------------------------------------------------------


PROMPTS: dict[str, tuple[str, list[str], str | None]] = {
    # 10 + 2 words of "The baker sings in the harbour. It is a film of 0 scenes."
    "IMDB": ("The baker sings in the harbour.", ["It is a film of 0 scenes."], " It is a film of 0 scenes."),
    "CommonGen": (
        "generate a sentence with: baker sings harbour.",
        ["The baker sings in the harbour.", "In the harbour a baker sings."],
        " The baker sings in the harbour.",
    ),
    "CNNDailyMail": (
        "Summarize: The baker sings in the harbour. Nobody knows why.",
        ["The baker sings in the harbour."],
        " The baker sings in the harbour.",
    ),
    "ToTTo": (
        "<table> <cell> sings <col_header> What </col_header> <row_header> Monday </row_header> </cell> "
        "<cell> harbour <col_header> Where </col_header> <row_header> Monday </row_header> </cell> </table>"
        "<page_title> Days of the baker </page_title> <section_title> harbour </section_title> "
        "<table> <cell> sings <col_header> What </col_header> <row_header> Monday </row_header> </cell> "
        "<cell> harbour <col_header> Where </col_header> <row_header> Monday </row_header> </cell> </table>",
        ["The baker sings in the harbour.", "Here a baker sings."],
        " The baker sings in the harbour.",
    ),
    "IWSLT2017": ("translate English to German: The baker sings in the harbour.", ["Satz 0."], " Satz 0."),
    "NarrativeQA": (
        "who sings? \\n the baker sings in the harbour. it rains.",
        ["the baker", "a baker"],
        " the baker",
    ),
    "DailyDialog": (
        " The baker sings in the harbour.<EOU> The sailor sings in the harbour.<EOU>"
        " The painter sings in the harbour.<EOU> The farmer sings in the harbour.<EOU>"
        " The nurse sings in the harbour. <EOU>",
        [" The pilot sings in the harbour.<EOU>"],
        " The pilot sings in the harbour.<EOU>",
    ),
    "TLDR": (
        "SUBREDDIT: r/advice\n\nTITLE: What the baker does\n\n"
        "POST: The baker sings in the harbour.\nWhat now?\n\nTL;DR:",
        ["The baker sings in the harbour. Help."],
        " The baker sings in the harbour. Help.",
    ),
    "HH": (
        "\n\nHuman: Who sings in the harbour?\n\nAssistant: Guess.\n\nHuman: Number 0?\n\nAssistant:",
        ["The baker."],
        " The baker.",
    ),
    "GSM8K": (
        "The baker has 0 eggs and buys 1,000. How many are there?\n",
        ["0 + 1000 = 1000\n#### 1,000"],
        "0 + 1000 = 1000\n#### 1,000",
    ),
    "Sentiment": (" The baker sings in the harbour. Then it rains 0 times.", [], None),
    "Descriptiveness": (" The baker sings in the harbour. Then it rains 0 times.", [], None),
}
"""The first row's prompt, its references, and the reference as a causal model writes it, by hand."""
COLUMNS = {
    "IMDB": {"label": 0},
    "CommonGen": {"concepts": ["baker", "sings", "harbour"]},
    "DailyDialog": {"emotion": 5, "intent": 2},
    "GSM8K": {"answer": "1000"},
}


def test_every_task_is_here() -> None:
    assert set(PROMPTS) == set(DATA) == set(REAL)


@pytest.mark.parametrize("name", REAL)
def test_the_prompt_is_the_published_one(name: str, model: Path, folders: Path) -> None:
    text, references, reference = PROMPTS[name]
    task = real(name, model, folders / name, max_prompt_length=600)
    prompt = of(task, text)
    assert prompt.ids == tuple(byte_tokenizer()(text)["input_ids"])
    written = {"reference": reference, "references": references} if references else {}
    assert prompt.columns == {**COLUMNS.get(name, {}), **written}


@pytest.mark.parametrize("name", REAL)
def test_the_sizes_are_the_published_ones(name: str) -> None:
    sizes = {
        "IMDB": (64, 48),
        "CommonGen": (20, 20),
        "CNNDailyMail": (512, 100),
        "ToTTo": (512, 50),
        "IWSLT2017": (128, 128),
        "NarrativeQA": (512, 50),
        "DailyDialog": (128, 20),
        "TLDR": (512, 48),
        "HH": (896, 128),
        "GSM8K": (None, 400),
        "Sentiment": (64, 24),
        "Descriptiveness": (64, 24),
    }
    task = task_maker(task_id(name))
    assert isinstance(task, RealTask)
    assert task.name == name
    assert (task.max_prompt_length, task.max_new_tokens) == sizes[name]


@pytest.mark.parametrize("name", REAL)
def test_a_gold_reward_is_on_the_shelf_or_the_user_is_told_what_to_pass(name: str) -> None:
    task: Any = task_maker(task_id(name))
    assert (task.gold is None) == bool(task.gold_needed)
    assert task.gold is not None or "gold='" in task.gold_needed
    assert task.reward
    assert task.metrics


def test_all_have_the_same_parameters() -> None:
    (parameters,) = {tuple(inspect.signature(task_maker(task_id(name))).parameters) for name in REAL}
    assert parameters[:4] == ("model", "folder", "checksum", "gold")
    with pytest.raises(ValueError, match="needs the parameters model"):
        load_task("textgym/GSM8K-v0")


def test_an_encoder_decoder_reads_closed_prompts_and_writes_references_of_their_own(
    encoder_decoder: Path, folders: Path
) -> None:
    task = real("CommonGen", encoder_decoder, folders / "CommonGen", max_prompt_length=60)
    prompt = of(task, PROMPTS["CommonGen"][0])
    assert prompt.ids == (*byte_tokenizer()(prompt.text)["input_ids"], task.tokenizer.eos_token_id)
    assert prompt.columns["reference"] == "The baker sings in the harbour."


# --- references ------------------------------------------------------------------------------------------------


def test_sentences_of_a_concept_set_are_gathered(tmp_path: Path, model: Path) -> None:
    splits = rows("CommonGen", 3)
    first = splits["train"][0]
    splits["train"] += [{**first, "target": "A baker sings.", "references": []}, {**first, "references": ["  "]}]
    splits["train"].append({**first, "concepts": first["concepts"][::-1], "target": "Sings a baker?"})
    task = real("CommonGen", model, write_folder(tmp_path, splits), max_prompt_length=60)
    assert len(task.prompts()) == 3
    gathered = of(task, PROMPTS["CommonGen"][0]).columns["references"]
    sentences = ["The baker sings in the harbour.", "In the harbour a baker sings.", "A baker sings.", "Sings a baker?"]
    assert gathered == sentences


def needs_references(completions: list[Any], references: list[Any], **_: Any) -> list[float]:
    return [float(len(own)) for own in references]


class Overlap:
    """A reward that declares its column, as those of the shelf do."""

    name = "overlap"
    required_columns = ("references",)

    def __call__(self, completions: list[Any], **columns: Any) -> list[float]:
        return [len(own) / 9 for own in columns["references"]]


def test_a_secret_split_has_no_references_and_a_metric_of_them_is_refused_by_name(model: Path, folders: Path) -> None:
    task = real("CommonGen", model, folders / "CommonGen", gold=Overlap(), max_prompt_length=60)
    assert {column for prompt in task.prompts("test") for column in prompt.columns} == {"concepts"}
    assert not any("empty" in str(prompt.columns) for prompt in task.prompts("test"))
    told = "task CommonGen: the split 'test' has no references, which the reward '{}' requires; use a reward without it"
    with pytest.raises(ValueError, match=told.format("overlap")):
        task_mdp(task, Overlap(), "test")
    with pytest.raises(ValueError, match=f"{told.format('gold')}, or one of the splits train, validation"):
        task_mdp(task, split="test")
    with pytest.raises(ValueError, match="reward 'needs_references' requires 'references'"):
        task_mdp(task, needs_references, "test")
    for split in ("train", "validation"):
        assert "references" in task_mdp(task, Overlap(), split).columns
    assert task_mdp(task, "length", "test").columns == ("concepts",)


def test_totto_keeps_its_test_secret_too(tmp_path: Path, model: Path) -> None:
    splits = rows("ToTTo", 3)
    for row, kept in zip(splits["test"], ([], [{"final_sentence": None}], [{"final_sentence": ""}]), strict=True):
        row["sentence_annotations"] = kept
    task = real("ToTTo", model, write_folder(tmp_path, splits))
    assert [prompt.columns for prompt in task.prompts("test")] == [{}, {}, {}]


def test_a_row_without_a_reference_among_others_is_left_out_and_reported(tmp_path: Path, model: Path) -> None:
    splits = rows("CNNDailyMail", 4)
    splits["validation"][1]["highlights"] = " \n"
    splits["validation"][2]["article"] = 7
    splits["validation"].append({**splits["validation"][0], "article": "", "highlights": "x"})
    with pytest.warns(UserWarning, match=r"'validation'.*left out: 1 malformed .*row 3.*article is 7.*, 1 without a r"):
        task = real("CNNDailyMail", model, write_folder(tmp_path, splits))
    assert len(task.prompts("validation")) == 3  # "Summarize: " alone is a prompt
    for row in splits["validation"]:
        row["article"] = None
    with pytest.raises(ValueError, match=r"split 'validation': no row is left to use: 1 malformed .*, 4 malformed"):
        real("CNNDailyMail", model, write_folder(tmp_path, splits))


# --- constructions ---------------------------------------------------------------------------------------------


def test_half_of_an_odd_number_of_words_is_rounded_down_and_spaces_count() -> None:
    (one,) = constructions.half_of_review({"text": "a b  c d", "label": 1})  # a, b, "", c, d
    assert (one.text, one.references) == ("a b", [" c d"])


def test_headers_of_a_cell_are_above_it_and_to_its_left() -> None:
    wide = [
        [cell("Year", True), cell("Games", True, column_span=2), cell("Sum", True)],
        [cell("", True), cell("home", True), cell("away"), cell("", False)],
        [cell("1990", True), cell("3"), cell("4"), cell("7")],
    ]
    assert constructions.linearised(wide, [[2, 2]]) == (
        "<table> <cell> 4 <col_header> Games </col_header> <row_header> 1990 </row_header> </cell> </table>"
    )
    assert constructions.linearised(wide, [[2, 1], [2, 3]]) == (
        "<table> <cell> 3 <col_header> Games </col_header> <col_header> home </col_header> "
        "<row_header> 1990 </row_header> </cell> "
        "<cell> 7 <col_header> Sum </col_header> <row_header> 1990 </row_header> </cell> </table>"
    )
    assert constructions.linearised(wide, [[1, 1]]) == (  # a header is none of its own
        "<table> <cell> home <col_header> Games </col_header> <row_header>  </row_header> </cell> </table>"
    )
    assert constructions.linearised(wide, []) == "<table> </table>"
    with pytest.raises(ValueError, match=r"holds \[2, 4\], which is not in the table"):
        constructions.linearised(wide, [[2, 4]])


def test_a_table_without_titles_is_told_twice_alike() -> None:
    row = {
        "table": [[cell("x")]],
        "table_page_title": "",
        "table_section_title": "",
        "highlighted_cells": [[0, 0]],
        "sentence_annotations.final_sentence": [],
    }
    (one,) = constructions.highlighted_cells(row)
    assert one.text == "<table> <cell> x </cell> </table>" * 2


def test_a_dialogue_gives_an_example_from_its_sixth_utterance_on() -> None:
    row = {"dialog": list("abcdefg"), "act": [1, 2, 3, 4, 1, 2, 3], "emotion": [0, 0, 0, 0, 4, 5, 6]}
    found = [(one.text, one.references, one.columns) for one in constructions.utterances(row)]
    assert found == [
        ("a<EOU>b<EOU>c<EOU>d<EOU>e <EOU>", ["f<EOU>"], {"emotion": 5, "intent": 2}),
        ("b<EOU>c<EOU>d<EOU>e<EOU>f <EOU>", ["g<EOU>"], {"emotion": 6, "intent": 3}),
    ]
    assert list(constructions.utterances({"dialog": list("abcde"), "act": [1] * 5, "emotion": [0] * 5})) == []


@pytest.mark.parametrize(
    ("construct", "row", "told"),
    [
        (constructions.dialogue, {"chosen": "Hello"}, "chosen is 'Hello'; expected turns"),
        (constructions.dialogue, {"chosen": "\n\nHuman: Hi\n\nAssistant: Hi\n\nHuman: Bye"}, "the latter's at last"),
        (constructions.problem, {"question": "1 + 1?", "answer": "It is 2."}, "ends in '#### ' and its result"),
        (constructions.passage, {"text": None}, "text is None; expected a text"),
        (constructions.concepts, {"concepts": "a b", "target": "", "references": []}, "concepts is 'a b'; expected a"),
        (constructions.translation, {"translation.en": "a", "translation.de": 3}, "translation.de is 3; expected a"),
    ],
)
def test_a_malformed_row_is_refused(construct: Any, row: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        list(construct(row))


# --- fitting ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encode() -> Encoder:
    return Encoder(byte_tokenizer(), closing=False)


def read(prompt: Prompt | None) -> str:
    assert prompt is not None
    return str(byte_tokenizer().decode([i for i in prompt.ids if i < 256]))


def test_a_review_keeps_its_end_for_the_policy_and_all_of_it_for_a_classifier(model: Path, tmp_path: Path) -> None:
    splits = rows("IMDB", 5)
    text = " ".join(f"word{i:02}" for i in range(40))
    splits["train"].append({"text": text, "label": 1})
    half = " ".join(f"word{i:02}" for i in range(20))
    prompt = of(real("IMDB", model, write_folder(tmp_path, splits)), half)
    assert (read(prompt), prompt.content) == (half[-64:], half)


def test_other_prompts_keep_their_beginning(encode: Encoder, encoder_decoder: Path) -> None:
    assert read(fitting.keep_beginning("abcdefgh", 5, encode)) == "abcde"
    assert read(fitting.keep_beginning("abcd", 5, encode)) == "abcd"
    tokenizer = load_tokenizer(encoder_decoder)
    closed = fitting.keep_beginning("abcdefgh", 5, Encoder(tokenizer, closing=True))
    assert (read(closed), closed.ids[-1], len(closed.ids)) == ("abcd", tokenizer.eos_token_id, 5)
    ended = fitting.keep_end("abcdefgh", 5, Encoder(tokenizer, closing=True))
    assert (read(ended), ended.ids[-1]) == ("efgh", tokenizer.eos_token_id)


def test_a_post_is_cut_at_its_last_new_line_and_then_by_characters(encode: Encoder) -> None:
    fit = fitting.Shortened(constructions.shorter_post)
    row = {"subreddit": "a", "title": "b", "post": "one\n\ntwo three\nfour", "summary": "s"}
    (example,) = constructions.post(row)
    frame = "SUBREDDIT: r/a\n\nTITLE: b\n\nPOST: {}\n\nTL;DR:"
    whole = len(example.text)
    lengths = {
        whole: "one\n\ntwo three\nfour",
        whole - 1: "one\n\ntwo three",
        whole - 6: "one\n",
        whole - 15: "one\n",
        whole - 16: "one",
        whole - 17: "on",
        whole - 19: "",
    }
    assert {length: read(fit(example.text, length, encode)) for length in lengths} == {
        length: frame.format(post) for length, post in lengths.items()
    }
    assert fit(example.text, whole - 20, encode) is None


def test_a_dialogue_loses_its_first_turns(encode: Encoder) -> None:
    fit = fitting.Shortened(constructions.later_turns)
    last = "\n\nHuman: c\n\nAssistant:"
    text = f"\n\nHuman: a\n\nAssistant: b{last}"
    assert read(fit(text, len(text), encode)) == text
    assert read(fit(text, len(text) - 1, encode)) == last
    assert fit(text, len(last) - 1, encode) is None
    longer = f"\n\nHuman: 0\n\nAssistant: 1{text}"
    assert read(fit(longer, len(longer) - 1, encode)) == text
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant", "user")]
    assert constructions.later_turns(turns) == turns[2:]
    assert constructions.later_turns(turns[4:]) is None


@pytest.mark.parametrize(
    ("text", "limit", "kept"),
    [
        ("the end. A b. C d. And", 64, " A b. C d."),
        ("the end. A b. C d. And", 9, " A b."),
        ("the end. A b. C d. And", 4, None),
        ("no stop here", 64, None),
        ("all of it.", 64, "all of it."),
        (" A b", 64, None),
    ],
)
def test_a_passage_is_whole_sentences(text: str, limit: int, kept: str | None, encode: Encoder) -> None:
    found = fitting.sentences(text, limit, encode)
    assert (None if found is None else read(found)) == kept
    assert kept is None or (found is not None and found.text == kept)


def test_a_tokenizer_without_a_full_stop_cannot_cut_passages() -> None:
    with pytest.raises(ValueError, match=r"has no token '\.'"):
        fitting.sentences("w1 w2", 9, Encoder(word_tokenizer(), closing=False))


def test_a_prompt_that_cannot_be_made_to_fit_is_left_out_and_reported(model: Path, folders: Path) -> None:
    longest = len("The baker has 10 eggs and buys 1,000. How many are there?\n")
    with pytest.warns(UserWarning, match=f"split 'test': rows are left out: 15 not to be brought to {longest} tokens"):
        task = real("GSM8K", model, folders / "GSM8K", max_prompt_length=longest)
    assert [len(prompts) for prompts in task.splits.values()] == [18, 2, 5]  # eggs: 80 to 96 of 80 to 156
    assert task.max_prompt_length == longest
    with pytest.raises(ValueError, match="no row is left to use: 18 not to be brought to 9 tokens"):
        real("GSM8K", model, folders / "GSM8K", max_prompt_length=9)


def test_p_is_the_longest_question_where_none_is_published(model: Path, folders: Path) -> None:
    task = real("GSM8K", model, folders / "GSM8K")
    assert task.max_prompt_length == max(len(prompt.ids) for own in task.splits.values() for prompt in own)
    assert real("GSM8K", model, folders / "GSM8K", max_new_tokens=9).max_new_tokens == 9


# --- splits ----------------------------------------------------------------------------------------------------


def texts(task: Task) -> dict[str, list[str]]:
    return {split: [prompt.text for prompt in prompts] for split, prompts in task.splits.items()}


def test_a_fifth_of_imdb_is_held_out_and_its_test_is_a_sample(model: Path, folders: Path) -> None:
    assert published.IMDB.test_size == 5_000
    imdb = replace(published.IMDB, test_size=7, source=replace(published.IMDB.source))
    one, again, other = (texts(imdb(model, folders / "IMDB", "any", seed=seed)) for seed in (1, 1, 2))
    assert {split: len(own) for split, own in one.items()} == {"train": 16, "validation": 4, "test": 7}
    assert one == again
    assert all(set(one[split]) != set(other[split]) for split in one)
    given = {row["text"].split(" It")[0] for row in rows("IMDB")["train"]}
    assert set(one["train"]) | set(one["validation"]) == given


def test_size_draws_prompts_of_each_split(model: Path, folders: Path) -> None:
    whole = texts(real("CNNDailyMail", model, folders / "CNNDailyMail"))
    one, other = (texts(real("CNNDailyMail", model, folders / "CNNDailyMail", size=6, seed=seed)) for seed in (1, 2))
    assert {len(own) for own in one.values()} == {6}
    for split, own in one.items():
        assert own == [text for text in whole[split] if text in own]  # in their order
        assert set(own) != set(other[split])
    assert one["train"] != whole["train"][:6]


def test_a_prompt_of_two_splits_stays_in_the_later_one(tmp_path: Path, model: Path) -> None:
    splits = rows("IWSLT2017", 3)
    one, two = splits["test"][0], splits["validation"][0]
    splits["train"] += [one, two, {"translation": {"en": one["translation"]["en"], "de": "Anders."}}]
    splits["validation"] += [one, {"translation": {**two["translation"], "de": "Auch."}}]
    task = real("IWSLT2017", model, write_folder(tmp_path, splits))
    assert {split: len(own) for split, own in task.splits.items()} == {"train": 3, "validation": 3, "test": 3}
    assert task.prompts("validation")[0].columns["references"] == [two["translation"]["de"], "Auch."]
    assert task.prompts("test")[0].columns["references"] == [one["translation"]["de"]]


def test_prompts_that_are_equal_once_they_are_cut_are_one(tmp_path: Path, model: Path) -> None:
    splits = rows("IWSLT2017", 2)
    for number, row in enumerate(splits["train"]):
        row["translation"]["en"] = f"{'x' * 99} {number}"
    with pytest.warns(UserWarning, match="task IWSLT2017: 1 prompts have other texts, but the same tokens"):
        task = real("IWSLT2017", model, write_folder(tmp_path, splits), max_prompt_length=100)
    assert [prompt.columns["references"] for prompt in task.prompts()] == [["Satz 0.", "Satz 4."]]
    splits["validation"] = splits["test"]
    with pytest.raises(ValueError, match="every prompt of the split 'validation' is in a later split"):
        real("IWSLT2017", model, write_folder(tmp_path, splits), max_prompt_length=100)


# --- conversations ---------------------------------------------------------------------------------------------


def test_a_chat_model_is_asked_in_a_conversation(chat_model: Path, folders: Path) -> None:
    problem = of(
        real("GSM8K", chat_model, folders / "GSM8K"),
        "<user>The baker has 0 eggs and buys 1,000. How many are there?<end><assistant>",
    )
    assert problem.content == [{"role": "user", "content": "The baker has 0 eggs and buys 1,000. How many are there?"}]
    assert problem.columns["reference"] == "0 + 1000 = 1000\n#### 1,000"
    turns = "<user>Who sings in the harbour?<end><assistant>Guess.<end><user>Number 0?<end><assistant>"
    reply = of(real("HH", chat_model, folders / "HH"), turns)
    assert reply.columns["reference"] == "The baker."
    review = of(real("IMDB", chat_model, folders / "IMDB"), PROMPTS["IMDB"][0])  # continued, not answered
    assert isinstance(review.content, str)


# --- gold ------------------------------------------------------------------------------------------------------


def right_answer(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    return [
        float(str(text).rpartition("####")[2].strip() == own) for text, own in zip(completions, answer, strict=True)
    ]


def test_a_task_with_a_gold_reward_of_ones_own_passes_every_check(model: Path, folders: Path) -> None:
    settings = {"model": model, "folder": folders / "GSM8K", "checksum": "any", "gold": right_answer}
    check_task(task_id("GSM8K"), **settings)
    env = gym.make("textgym/GSM8K-v0", **settings, max_new_tokens=5)
    twin = pickle.loads(pickle.dumps(env.unwrapped))
    assert twin.mdp.prompts == env.unwrapped.mdp.prompts  # type: ignore[attr-defined]
    assert gym.make_vec("textgym/GSM8K-v0", num_envs=2, **settings).num_envs == 2


def test_a_gold_reward_that_needs_a_model_says_which_parameter_to_give(model: Path, folders: Path) -> None:
    task = real("IMDB", model, folders / "IMDB")
    assert isinstance(task.gold, UnsetGold)
    told = "gold reward of task IMDB needs a model: pass gold='clf:DIR,label=POSITIVE'.*--reward SPEC"
    with pytest.raises(ValueError, match=told):
        task_mdp(task)
    with pytest.raises(ValueError, match=told):
        task.gold(prompts=[""], completions=[""], completion_ids=[[1]])
    assert task_mdp(task, "length").rewards.names == ("length",)


def test_a_gold_reward_is_a_specification_or_a_function(model: Path, folders: Path) -> None:
    task = real("IMDB", model, folders / "IMDB", gold="distinct,0.5 length")
    batch: dict[str, Any] = {"prompts": ["", ""], "completions": ["a a", ""], "completion_ids": [[1], [1]]}
    assert task.gold(**batch) == [2.25, 0]  # 0.5 · 1/2 + 2
    mdp = task_mdp(task)
    assert mdp.rewards.names == ("gold",)
    with pytest.raises(ValueError, match="unknown reward 'distant': did you mean 'distinct'"):
        real("IMDB", model, folders / "nowhere", gold="distant")  # before any data are read


class Bindable:
    """A reward that must know the policy's tokenizer, as reward models do."""

    name = "bindable"

    def __init__(self, tokenizer: Any = None) -> None:
        self.tokenizer = tokenizer

    def bind(self, tokenizer: Any) -> Bindable:
        return Bindable(tokenizer)

    def __call__(self, completions: list[Any], **_: Any) -> list[float]:
        return [float(len(self.tokenizer)) for _ in completions]


def test_gold_knows_the_policys_tokenizer(model: Path, folders: Path) -> None:
    task = real("IMDB", model, folders / "IMDB", gold=Bindable())
    assert task_mdp(task).rewards.score(["a"], ["b"], [[1]], {}).totals == [len(task.tokenizer)]


def test_gold_of_the_shelf_is_made_when_training_needs_it(
    model: Path, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def absent(spec: Any) -> Any:
        asked.append(spec)
        raise ImportError("METEOR needs nltk: install textgym[metrics]")

    monkeypatch.setattr(gold, "shelf_reward", absent)
    task = real("CommonGen", model, folders / "CommonGen", max_prompt_length=60)
    assert task_mdp(task, "length").rewards.names == ("length",)
    assert asked == []
    with pytest.raises(ImportError, match="install textgym"):
        task_mdp(task)
    assert asked == ["meteor"]


def test_a_missing_column_of_gold_is_found_before_training(model: Path, folders: Path) -> None:
    with pytest.raises(ValueError, match="requires 'references', which the data does not have"):
        task_mdp(real("Sentiment", model, folders / "Sentiment", gold=Overlap()))


def test_a_reward_that_fails_is_reported_as_gold(model: Path, folders: Path) -> None:
    def broken(prompts: list[Any], **_: Any) -> list[float]:
        raise KeyError("oops")

    mdp = task_mdp(real("IMDB", model, folders / "IMDB", gold=broken))
    with pytest.raises(RewardError, match="oops"):
        mdp.rewards.score(["a"], ["b"], [[1]], {})


# --- commands --------------------------------------------------------------------------------------------------


def test_a_task_trains_in_one_command_and_its_data_are_read_once(
    tmp_path: Path, model: Path, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    original = Source.open

    def counted(source: Source, folder: Any) -> Any:
        opened.append(folder)
        return original(source, folder)

    monkeypatch.setattr(Source, "open", counted)
    given = f"--parameters folder {folders / 'CommonGen'} gold distinct"
    what = f"train --task textgym/CommonGen-v0 --model {model} {given}"
    cli.main([*what.split(), "max_prompt_length", "60", "--out", str(tmp_path / "run"), *SHORT.split()])
    config = json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))
    assert config["parameters"]["gold"] == "distinct"
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert any("gold" in key for key in rows[0])
    assert opened == [str(folders / "CommonGen")]


def test_another_reward_trains_a_task_without_gold(tmp_path: Path, model: Path, folders: Path) -> None:
    what = f"train --task textgym/IMDB-v0 --model {model} --parameters folder {folders / 'IMDB'}"
    with pytest.raises(SystemExit):
        cli.main([*what.split(), "--out", str(tmp_path / "none"), *SHORT.split()])
    assert not (tmp_path / "none").exists()
    cli.main([*what.split(), "--reward", "distinct", "--out", str(tmp_path / "run"), *SHORT.split()])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert not any("gold" in key for key in rows[0])


def test_rows_of_the_fixtures_are_distinct() -> None:
    assert len({real_rows.said(number) for number in range(240)}) == 240


# --- imitation -------------------------------------------------------------------------------------------------


def test_references_of_published_data_are_imitated(folders: Path, tmp_path: Path) -> None:
    save_byte_model(tmp_path / "model")
    where = ["--model", str(tmp_path / "model"), "--parameters", "folder", str(folders / "CommonGen")]
    sizes = ["max_prompt_length", "64", "checksum", "any"]
    small = ["--epochs", "1", "--eval-episodes", "2", "--max-new-tokens", "4", "--reward", "token_f1"]
    out = ["--out", str(tmp_path / "sft")]
    cli.main(["sft", "--task", "textgym/CommonGen-v0", *where, *sizes, *small, *out])
    kept = json.loads((tmp_path / "sft" / "config.json").read_text())
    assert kept["parameters"] == {"folder": str(folders / "CommonGen"), "max_prompt_length": 64, "checksum": "any"}
    after = json.loads((tmp_path / "sft" / "evaluation.json").read_text())["after"]
    assert 0 <= after["score"]["mean"] <= 1
    assert "0·Meteor(" in json.loads((tmp_path / "sft" / "evaluation.json").read_text())["reward"]


def test_parameters_without_a_task_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_byte_model(tmp_path / "model")
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    argv = ["sft", "--model", str(tmp_path / "model"), "--data", str(tmp_path / "data.jsonl")]
    with pytest.raises(SystemExit, match="2"):
        cli.main([*argv, "--parameters", "folder", "x", "--out", str(tmp_path / "run")])
    assert "parameters={'folder': 'x'} belong to a task; pass --task ID" in capsys.readouterr().err
