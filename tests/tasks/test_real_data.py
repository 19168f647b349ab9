"""Data of real tasks: folders, the hub, checksums, published files, and the listings of docs/real_tasks.md."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.helpers import save_byte_model, tiny_gpt2
from tests.tasks.real_rows import DATA, Row, rows, write_folder
from textgym import cli
from textgym.registration import load_task, task_maker
from textgym.rewards.compose import compose
from textgym.tasks import REAL, task_id
from textgym.tasks.real import gold
from textgym.tasks.real.data import Source, Table, checksum_of, pick
from textgym.tasks.real.published import GSM8K, IMDB, IWSLT, NARRATIVE_QA, TOTTO
from textgym.tasks.real.real_task import RealTask
from textgym.tasks.task import Task

PAGE = Path(__file__).parents[2] / "docs" / "real_tasks.md"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_model(tmp_path_factory.mktemp("bytes"))


def source(name: str) -> Source:
    task = task_maker(task_id(name))
    assert isinstance(task, RealTask)
    return task.source


# --- the hub ---------------------------------------------------------------------------------------------------


def converted(*splits: str, config: str = "*") -> dict[str, Any]:
    files = {split: f"{config}/{split}/*.parquet" for split in splits}
    return {"data_files": files, "revision": "refs/convert/parquet"}


THREE = ("train", "validation", "test")
HUB: dict[str, tuple[str, dict[str, Any]]] = {
    "IMDB": ("stanfordnlp/imdb", {"name": "plain_text"}),
    "CommonGen": ("GEM/common_gen", converted(*THREE, config="common_gen")),
    "CNNDailyMail": ("abisee/cnn_dailymail", {"name": "3.0.0"}),
    "ToTTo": ("google-research-datasets/totto", converted(*THREE)),
    "IWSLT2017": ("IWSLT/iwslt2017", converted(*THREE, config="iwslt2017-de-en")),
    "NarrativeQA": ("deepmind/narrativeqa", {"name": None}),
    "DailyDialog": ("li2017dailydialog/daily_dialog", converted(*THREE)),
    "TLDR": ("vwxyzjn/summarize_from_feedback_tldr_3_filtered", {"name": None}),
    "HH": ("Anthropic/hh-rlhf", {"name": None}),
    "GSM8K": ("openai/gsm8k", {"name": "main"}),
}


@pytest.mark.parametrize("name", HUB)
def test_the_hub_is_asked_for_the_published_data(name: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(repo: str, **settings: Any) -> Any:
        asked.append((repo, settings))
        splits = {split: datasets.Dataset.from_list(own) for split, own in rows(name, 6).items()}
        return datasets.DatasetDict({**splits, "unsupervised": splits["train"]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    task = load_task(task_id(name), model=model, checksum="any", max_prompt_length=900)
    assert asked == [HUB[name]]
    assert [len(own) for own in task.splits.values()][-1] == (12 if name == "DailyDialog" else 6)
    assert len(HUB) == len(REAL) - 2


def test_files_of_a_conversion_are_those_of_the_split_alone(tmp_path: Path) -> None:
    """GEM has further splits, whose names begin alike."""
    for split in ("train", "validation", "test", "challenge_train_sample"):
        place = tmp_path / "common_gen" / split
        place.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.table({"text": [split]}), place / "0000.parquet")
    settings = converted(*THREE, config="common_gen")
    found = datasets.load_dataset(str(tmp_path), data_files=settings["data_files"], cache_dir=str(tmp_path / "cache"))
    assert {split: found[split]["text"][:] for split in found} == {split: [split] for split in THREE}


def test_without_a_network_the_way_out_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(repo: str, **_: Any) -> Any:
        raise ConnectionError(f"Couldn't reach '{repo}' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    told = "'openai/gsm8k' cannot be loaded from the hub: ConnectionError: Couldn't reach .*pass folder="
    with pytest.raises(ValueError, match=told):
        load_task("textgym/GSM8K-v0", model=model)


def test_a_data_set_that_has_lost_a_split_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only = datasets.DatasetDict({"train": datasets.Dataset.from_list(rows("GSM8K")["train"])})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: only)
    with pytest.raises(ValueError, match=r"'openai/gsm8k' has no splits \['test'\]; it has \['train'\]"):
        load_task("textgym/GSM8K-v0", model=model)


@pytest.mark.parametrize("name", ["Sentiment", "Descriptiveness"])
def test_data_that_are_not_on_the_hub_need_a_folder(name: str, model: Path) -> None:
    with pytest.raises(
        ValueError, match=r"not on the hub: pass folder=, .* train, test and the columns text\. .*book_"
    ):
        load_task(task_id(name), model=model)


# --- folders ---------------------------------------------------------------------------------------------------


def as_parquet(folder: Path, split: str, own: list[Row]) -> None:
    datasets.Dataset.from_list(own).to_parquet(folder / f"{split}.parquet")


def as_parts(folder: Path, split: str, own: list[Row]) -> None:
    for number, part in enumerate((own[:3], own[3:])):
        datasets.Dataset.from_list(part).to_parquet(folder / f"{split}-0000{number}-of-00002.parquet")


def as_conversion(folder: Path, split: str, own: list[Row]) -> None:
    (folder / split).mkdir()
    for number, part in enumerate((own[:3], own[3:])):
        datasets.Dataset.from_list(part).to_parquet(folder / split / f"000{number}.parquet")


def as_saved(folder: Path, split: str, own: list[Row]) -> None:
    datasets.Dataset.from_list(own).save_to_disk(folder / split)


def as_lists(folder: Path, split: str, own: list[Row]) -> None:
    """As ``datasets`` stores a sequence of fields: a field of lists."""
    for row in own:
        for column in ("answers", "sentence_annotations"):
            if column in row:
                (name,) = row[column][0]
                row[column] = {name: [each[name] for each in row[column]]}
    datasets.Dataset.from_list(own).save_to_disk(folder / split)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pyarrow, inside datasets
@pytest.mark.parametrize("task", [GSM8K, NARRATIVE_QA, TOTTO], ids=lambda task: task.name)
@pytest.mark.parametrize("write", [as_parquet, as_parts, as_conversion, as_saved, as_lists])
def test_a_folder_of_any_kind_holds_the_same_rows(
    task: RealTask, write: Callable[[Path, str, list[Row]], None], tmp_path: Path, model: Path
) -> None:
    lines, other = write_folder(tmp_path / "lines", rows(task.name)), tmp_path / "other"
    other.mkdir()
    for split, own in rows(task.name).items():
        write(other, split, own)
    made = [task(model, folder, "any", max_prompt_length=600) for folder in (lines, other)]
    assert made[0].splits == made[1].splits
    assert checksum_of(task.source.open(lines)) == checksum_of(task.source.open(other))


def test_a_folder_without_a_split_says_what_is_there(tmp_path: Path, model: Path) -> None:
    folder = write_folder(tmp_path / "data", {"train": rows("GSM8K")["train"], "dev": []})
    told = r"has no split 'test': expected test\.jsonl, test\.parquet, .*; there is dev\.jsonl, train\.jsonl"
    with pytest.raises(FileNotFoundError, match=told):
        load_task("textgym/GSM8K-v0", model=model, folder=folder)
    with pytest.raises(FileNotFoundError, match="no such directory"):
        load_task("textgym/GSM8K-v0", model=model, folder=tmp_path / "none")


def test_a_split_that_is_there_twice_is_refused(tmp_path: Path, model: Path) -> None:
    folder = write_folder(tmp_path, rows("GSM8K"))
    as_parquet(folder, "train", rows("GSM8K")["train"])
    with pytest.raises(ValueError, match=r"'train' more than once: train\.jsonl, train\.parquet; keep one"):
        load_task("textgym/GSM8K-v0", model=model, folder=folder)


@pytest.mark.parametrize(
    ("task", "change", "told"),
    [
        (GSM8K, {"answer": "solution"}, r"line 1|row 1"),
        (
            GSM8K,
            {"answer": "solution"},
            r"no column 'answer'; there are question, solution\. Expected question, answer",
        ),
        (IMDB, {"text": "review", "label": "y"}, r"no column 'text', 'label'; there are review, y\."),
        (IWSLT, {"translation": "pair"}, r"no column 'translation\.en', 'translation\.de'; there are pair\."),
    ],
)
def test_other_columns_are_refused(
    task: RealTask, change: dict[str, str], told: str, tmp_path: Path, model: Path
) -> None:
    splits = rows(task.name)
    splits["test"] = [{change.get(column, column): value for column, value in row.items()} for row in splits["test"]]
    with pytest.raises(ValueError, match=told):
        task(model, write_folder(tmp_path, splits))


def test_a_column_within_a_column_or_in_a_later_row_is_missed(tmp_path: Path, model: Path) -> None:
    splits = rows("NarrativeQA")
    del splits["train"][4]["answers"][1]["text"]
    told = r"train\.jsonl, row 5: no column 'answers\.text'; there are answers, document, question"
    with pytest.raises(ValueError, match=told):
        NARRATIVE_QA(model, write_folder(tmp_path, splits))
    for row in splits["validation"]:
        row["document"] = {"summary": "It rains."}
    with pytest.raises(ValueError, match=r"validation\.jsonl.*no column 'document\.summary\.text'"):
        NARRATIVE_QA(model, write_folder(tmp_path, splits))


def test_an_empty_split_is_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ValueError, match=r"test\.jsonl' is empty"):
        load_task("textgym/GSM8K-v0", model=model, folder=write_folder(tmp_path, {**rows("GSM8K"), "test": []}))


def test_pick_follows_names_through_lists() -> None:
    assert pick({"a": [{"b": [{"c": 1}]}, {"b": []}]}, "a.b") == [[{"c": 1}], []]
    with pytest.raises(KeyError, match="c"):
        pick({"a": [{"b": 1}, {"c": 1}]}, "a.c")


# --- checksums -------------------------------------------------------------------------------------------------


def checksum(task: str, splits: dict[str, list[Row]]) -> str:
    columns = source(task).columns
    return checksum_of({split: Table(split, own, columns=columns) for split, own in splits.items()})


def test_a_checksum_is_that_of_the_canonical_rows() -> None:
    own = rows("IWSLT2017", 1)
    lines = (
        'test\n{"translation.de":"Satz 160.","translation.en":"The baker cooks in the garden."}\n'
        'train\n{"translation.de":"Satz 0.","translation.en":"The baker sings in the harbour."}\n'
        'validation\n{"translation.de":"Satz 80.","translation.en":"The baker sleeps in the orchard."}\n'
    )
    assert checksum("IWSLT2017", own) == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("name", DATA)
def test_a_checksum_changes_with_a_row(name: str) -> None:
    before = checksum(name, rows(name))
    assert checksum(name, rows(name)) == before
    for split in DATA[name]:
        changed = rows(name)
        changed[split][7] = DATA[name][split](239)
        assert checksum(name, changed) != before
        swapped = rows(name)
        swapped[split][0], swapped[split][1] = swapped[split][1], swapped[split][0]
        assert checksum(name, swapped) != before


def test_what_is_not_read_does_not_count() -> None:
    before = checksum("TLDR", rows("TLDR"))
    further = {
        split: [{**dict(reversed(row.items())), "id": "x"} for row in own] for split, own in rows("TLDR").items()
    }
    assert checksum("TLDR", further) == before


def test_the_first_hundred_rows_count() -> None:
    own = {"train": [{"text": str(number)} for number in range(102)]}

    def changed(number: int) -> str:
        train = [{"text": "x"} if i == number else row for i, row in enumerate(own["train"])]
        return checksum("Sentiment", {"train": train})

    before = checksum("Sentiment", own)
    assert changed(100) == changed(101) == before
    assert before not in (changed(99), changed(0))


def test_another_checksum_is_refused_with_the_one_found(tmp_path: Path, model: Path) -> None:
    folder = write_folder(tmp_path, rows("CommonGen"))
    settings: dict[str, Any] = {"model": model, "folder": folder, "max_prompt_length": 60}
    found = checksum("CommonGen", rows("CommonGen"))
    kept = load_task("textgym/CommonGen-v0", **settings, checksum=found)
    assert kept.splits == load_task("textgym/CommonGen-v0", **settings).splits  # no checksum is known
    told = f"checksum='abc' is not that of the first 100 rows of .*train.jsonl and .*pass checksum='{found}'"
    with pytest.raises(ValueError, match=told):
        load_task("textgym/CommonGen-v0", **settings, checksum="abc")
    write_folder(tmp_path, {"test": [*rows("CommonGen")["test"][1:]]})
    with pytest.raises(ValueError, match="the data are others, or have changed"):
        load_task("textgym/CommonGen-v0", **settings, checksum=found)


def test_other_data_under_the_name_of_known_ones_are_refused(tmp_path: Path, model: Path) -> None:
    folder = write_folder(tmp_path, rows("GSM8K"))
    with pytest.raises(ValueError, match=f"checksum='{GSM8K.source.checksum}' is not that"):
        load_task("textgym/GSM8K-v0", model=model, folder=folder)
    assert len(load_task("textgym/GSM8K-v0", model=model, folder=folder, checksum="any").prompts("test")) == 20


def test_no_checksum_is_made_up() -> None:
    """Only of GSM8K was a copy at hand."""
    assert [name for name in REAL if source(name).checksum is not None] == ["GSM8K"]


def test_nothing_is_written_before_the_data_are_checked(tmp_path: Path, model: Path) -> None:
    what = f"train --task textgym/GSM8K-v0 --model {model} --parameters folder {write_folder(tmp_path, rows('GSM8K'))}"
    with pytest.raises(SystemExit):
        cli.main([*what.split(), "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


# --- published files -------------------------------------------------------------------------------------------


def provenance(folder: Path) -> dict[str, int]:
    """The number of rows of each file, as PROVENANCE.txt states it."""
    found = re.findall(r"file: +(\S+) +\(\d+ bytes, (\d+) rows\)", (folder / "PROVENANCE.txt").read_text("utf-8"))
    return {name: int(count) for name, count in found}


def first_row(path: Path) -> Row:
    with path.open(encoding="utf-8") as lines:
        row: Row = json.loads(next(lines))
    return row


def test_gsm8k_is_read_as_it_was_published(assets: Path, model: Path) -> None:
    folder = assets / "data" / "gsm8k"
    counts = provenance(folder)
    task = load_task("textgym/GSM8K-v0", model=model, folder=folder)  # with the known checksum
    sizes = {split: len(own) for split, own in task.splits.items()}
    assert sizes["train"] + sizes["validation"] == counts["train.jsonl"] == 7473
    assert sizes["validation"] == 747
    assert sizes["test"] == counts["test.jsonl"] == 1319
    row, prompt = first_row(folder / "test.jsonl"), task.prompts("test")[0]
    assert prompt.text == row["question"] + "\n"
    assert prompt.columns["reference"] == row["answer"]
    assert prompt.columns["answer"] == row["answer"].split("#### ")[1]
    answers = [own.columns["answer"] for prompts in task.splits.values() for own in prompts]
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", answer) for answer in answers)


def small(arguments: list[str]) -> None:
    extra = "--total-timesteps 8 --episodes-per-iteration 4 --minibatch-size 2 --eval-episodes 2 --max-new-tokens 4"
    cli.main([*arguments, *extra.split()])


def listings() -> list[tuple[str, str, str]]:
    return re.findall(r"(?:Save as `([\w.]+)`:\s+)?```(\w+)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def converter() -> dict[str, Any]:
    """The names of the listing that converts CommonGen."""
    names: dict[str, Any] = {"__name__": "commongen"}
    exec(next(text for name, _, text in listings() if name == "commongen.py"), names)
    return names


def laid_out(assets: Path, place: Path) -> Path:
    """CommonGen's files as they lie in its repository."""
    (place / "commongen").mkdir(parents=True)
    for path in (assets / "data" / "commongen").iterdir():
        os.symlink(path, place / ("commongen" if ".train." in path.name else ".") / path.name)
    return place


@pytest.fixture(scope="module")
def common_gen(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("commongen")
    converter()["convert"](laid_out(assets, place / "source"), place / "folder")
    return place / "folder"


def test_common_gen_is_read_as_it_was_published(assets: Path, common_gen: Path, model: Path) -> None:
    counts = provenance(assets / "data" / "commongen")
    source_of = assets / "data" / "commongen"
    lines = {path.stem: path.read_text("utf-8").splitlines() for path in common_gen.iterdir()}
    assert len(lines["train"]) == counts["commongen.train.tgt.txt"] == 39069
    assert len(lines["validation"]) == counts["commongen.dev.jsonl"] == 993
    assert len(lines["test"]) == counts["commongen.test.jsonl"] == 1497
    task = load_task("textgym/CommonGen-v0", model=model, folder=common_gen, max_prompt_length=200)
    # Some sets differ only in the part of speech of a word, which no prompt tells: their prompts are one.
    sets = {split: {tuple(json.loads(line)["concepts"]) for line in own} for split, own in lines.items()}
    sets["validation"] -= sets["test"]
    sets["train"] -= sets["test"] | sets["validation"]
    assert {split: len(own) for split, own in task.splits.items()} == {split: len(own) for split, own in sets.items()}
    assert [len(sets[split]) for split in ("train", "validation", "test")] == [26749, 991, 1497]
    row, prompt = first_row(source_of / "commongen.dev.jsonl"), task.prompts("validation")[0]
    words = " ".join(part[:-2] for part in row["concept_set"].split("#"))
    assert prompt.text == f"generate a sentence with: {words}."
    assert prompt.columns["references"] == list(dict.fromkeys(row["scene"]))
    told: dict[tuple[str, ...], set[str]] = {}
    for line in map(json.loads, lines["train"]):
        told.setdefault(tuple(line["concepts"]), set()).add(line["target"])
    for own in task.prompts():
        assert set(own.columns["references"]) == told[tuple(own.columns["concepts"])]


def test_a_changed_row_of_published_data_is_an_error(assets: Path, tmp_path: Path, model: Path) -> None:
    for name in ("train", "test"):
        text = (assets / "data" / "gsm8k" / f"{name}.jsonl").read_text("utf-8")
        (tmp_path / f"{name}.jsonl").write_text(text.replace("#### 72", "#### 73", 1), "utf-8")
    with pytest.raises(ValueError, match=f"checksum='{GSM8K.source.checksum}' is not that of the first 100 rows"):
        load_task("textgym/GSM8K-v0", model=model, folder=tmp_path)


# --- the page --------------------------------------------------------------------------------------------------


def save_word_model(folder: Path) -> None:
    """Save a tiny model of words, for which P is as long as for the models of the papers."""
    texts = [str(row) for own in rows("GSM8K").values() for row in own]
    words = sorted(set(re.findall(r"\w+|[^\w\s]+", f"generate a sentence with: e f. g h. b. c d.\n {texts}")))
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<pad>", "<eos>", *words])}, "<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    tiny_gpt2(len(words) + 2, positions=256, n_embd=8, n_layer=1, n_head=1).save_pretrained(folder)


def words_of_references(completions: list[Any], references: list[Any], **_: Any) -> list[float]:
    return [float(len(own)) for own in references]


@pytest.mark.filterwarnings("ignore::textgym.lm.guards.TrainingWarning")
def test_the_listings_of_real_tasks_md_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On small files of our own, with rewards that need no package in the place of METEOR and answers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gold, "shelf_reward", lambda _: compose(words_of_references))
    monkeypatch.setattr(Source, "check", lambda *_: "")
    save_word_model(tmp_path / "MODEL")
    write_folder(tmp_path / "grade-school-math" / "grade_school_math" / "data", rows("GSM8K"))
    place = tmp_path / "CommonGen" / "dataset" / "final_data"
    (place / "commongen").mkdir(parents=True)
    (place / "commongen" / "commongen.train.cs_str.txt").write_text("a_N#b_V\na_N#b_V\nc_N#d_V\n", "utf-8")
    (place / "commongen" / "commongen.train.tgt.txt").write_text("A bs.\nAn a bs.\nC ds.\n", "utf-8")
    for split, names in {"dev": "e_N#f_V", "test": "g_N#h_V"}.items():
        line = json.dumps({"concept_set": names, "scene": ["It is.", "So it is."], "reason": ["x"]})
        (place / f"commongen.{split}.jsonl").write_text(f"{line}\n", "utf-8")
    names: dict[str, Any] = {}
    for saved, language, text in listings():
        if saved:
            Path(saved).write_text(text, "utf-8")
        elif language == "python":
            exec(text, names)
        else:
            for command in filter(None, text.replace("\\\n", " ").splitlines()):
                program, *arguments = shlex.split(command)
                if program == "python":
                    exec(Path(arguments[0]).read_text("utf-8"), {"__name__": "__main__"})
                else:
                    assert program == "textgym"
                    small(arguments)
    task: Task = names["task"]
    assert {split: len(own) for split, own in task.splits.items()} == {"train": 2, "validation": 1, "test": 1}
    assert names["prompt"].text == "generate a sentence with: e f."
    assert task.prompts()[0].columns["references"] == ["A bs.", "An a bs."]
    assert (tmp_path / "runs" / "gsm8k" / "report.html").is_file()


def test_the_page_has_a_line_for_each_task_with_its_sizes() -> None:
    lines = [line.split(" | ") for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    told = {name: cells for cells in lines for name in re.findall(r"`(\w+)`", cells[0])}
    assert list(told) == list(REAL)
    for name, (_, data, _, p, t, paid, _) in told.items():
        task: Any = task_maker(task_id(name))
        assert p.rstrip("*") == str(task.max_prompt_length or "longest")
        assert t.rstrip("*") == str(task.max_new_tokens)
        assert paid.strip("`") == (task.gold or "needs a model")
        assert data.startswith(task.source.repo or "none")
