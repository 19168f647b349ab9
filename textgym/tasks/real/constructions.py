"""Prompts as they were published: pure functions from a row of data to examples.

Those of GRUE are RL4LMs' (Ramamurthy et al. 2022), with its errors left out: no text stands in for a reference that the
data do not have, and all references of a prompt are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from textgym.rows import BadRowError
from textgym.tasks.real.data import Row
from textgym.types import Messages

Content: TypeAlias = str | Messages

CONTEXT = 5
"""Utterances of a dialogue in a prompt of DailyDialog."""
END_OF_UTTERANCE = "<EOU>"
POST, CUE = "\n\nPOST: ", "\n\nTL;DR:"
TURN = re.compile(r"\n\n(Human|Assistant): ?")
ROLES = {"Human": "user", "Assistant": "assistant"}
NEWLINE = r"\n"
"""What UnifiedQA writes between question and text: a backslash and an n."""


@dataclass(frozen=True)
class Example:
    """Prompt with its references.

    Attributes:
        text: the prompt as a text.
        references: good answers; blank ones do not count.
        columns: further columns of the prompt.
        messages: the prompt as a conversation, for models with a chat template; empty for a text all the same.
        key: examples of one key are one prompt, with the references of all; by default the text.
    """

    text: str
    references: Sequence[str] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    messages: Messages = ()
    key: str = ""


def half_of_review(row: Row) -> Iterator[Example]:
    """IMDB: the first half of the words of a review, split at spaces; the second half is the reference."""
    words = _text(row, "text").split(" ")
    half = len(words) // 2
    yield Example(" ".join(words[:half]), [" ".join(words[half:])], {"label": row["label"]})


def concepts(row: Row) -> Iterator[Example]:
    """CommonGen: the concepts of a set; each of its sentences is a reference."""
    names = _texts(row, "concepts")
    written = [*_references(row, "target"), *_references(row, "references")]
    prompt = f"generate a sentence with: {' '.join(names)}."
    yield Example(prompt, written, {"concepts": names}, key=str(row["concept_set_id"]))


def article(row: Row) -> Iterator[Example]:
    """CNN/Daily Mail: an article; its highlights are the reference."""
    yield Example(f"Summarize: {_text(row, 'article')}", _references(row, "highlights"))


def highlighted_cells(row: Row) -> Iterator[Example]:
    """ToTTo: the highlighted cells with their headers, twice: without titles, and then with them."""
    cells = linearised(row["table"], row["highlighted_cells"])
    titles = {"page_title": _text(row, "table_page_title"), "section_title": _text(row, "table_section_title")}
    named = "".join(f"{_tagged(tag, title)} " for tag, title in titles.items() if title)
    yield Example(f"{cells}{named}{cells}", _references(row, "sentence_annotations.final_sentence"))


def translation(row: Row) -> Iterator[Example]:
    """IWSLT 2017: an English sentence; its German translation is the reference."""
    yield Example(f"translate English to German: {_text(row, 'translation.en')}", _references(row, "translation.de"))


def question(row: Row) -> Iterator[Example]:
    """NarrativeQA: a question and the summary of its story, in lower case, as UnifiedQA asks; two answers.

    Lines of a summary are joined by spaces; the published data joined them without any, which made one word of two.
    """
    summary = " ".join(_text(row, "document.summary.text").split("\n"))
    asked = f"{_text(row, 'question.text')} {NEWLINE} {summary}"
    yield Example(asked.lower().strip(), [answer.lower().strip() for answer in _references(row, "answers.text")])


def utterances(row: Row) -> Iterator[Example]:
    """DailyDialog: the last five utterances; the next one is the reference, and its intent and emotion are columns.

    A dialogue of up to five utterances gives no example.
    """
    said = _texts(row, "dialog")
    for number, (text, emotion, intent) in enumerate(zip(said, row["emotion"], row["act"], strict=True)):
        if number >= CONTEXT:
            context = END_OF_UTTERANCE.join(said[number - CONTEXT : number])
            columns = {"emotion": emotion, "intent": intent}
            yield Example(f"{context} {END_OF_UTTERANCE}", [f"{text}{END_OF_UTTERANCE}"], columns)


def post(row: Row) -> Iterator[Example]:
    """TL;DR: a post of Reddit in the format of Stiennon et al. (2020); its author's summary is the reference."""
    head = f"SUBREDDIT: r/{_text(row, 'subreddit')}\n\nTITLE: {_text(row, 'title')}"
    yield Example(f"{head}{POST}{_text(row, 'post')}{CUE}", _references(row, "summary"))


def shorter_post(content: Content) -> str | None:
    """Return a post cut before its last newline, or before its last character if it has none; None without a post."""
    assert isinstance(content, str), "a post is a text"
    head, _, written = content.removesuffix(CUE).partition(POST)
    if not written:
        return None
    cut = written.rfind("\n")
    return f"{head}{POST}{written[:cut]}{CUE}"


def dialogue(row: Row) -> Iterator[Example]:
    """HH: a dialogue up to the assistant's last turn; the preferred last turn is the reference."""
    text = _text(row, "chosen")
    turns = list(TURN.finditer(text))
    if not turns or turns[-1][1] != "Assistant":
        raise BadRowError(f"chosen is {text!r:.200}; expected turns of Human and Assistant, with the latter's at last")
    ends = [turn.start() for turn in turns[1:]]
    said = [text[turn.end() : end].strip() for turn, end in zip(turns, ends, strict=False)]
    messages = [{"role": ROLES[turn[1]], "content": words} for turn, words in zip(turns, said, strict=False)]
    yield Example(f"{text[: turns[-1].start()]}\n\nAssistant:", [text[turns[-1].end() :].strip()], {}, messages)


def later_turns(content: Content) -> Content | None:
    """Return a dialogue without what was said before the second turn of its human; None if there is none."""
    if isinstance(content, str):
        second = content.find("\n\nHuman:", 1)
        return content[second:] if second > 0 else None
    starts = [number for number, message in enumerate(content) if message["role"] == "user" and number > 0]
    return content[starts[0] :] if starts else None


def problem(row: Row) -> Iterator[Example]:
    """GSM8K: a question; its solution, which ends in ``#### ANSWER``, is the reference, and the answer is a column."""
    asked, solution = _text(row, "question"), _text(row, "answer")
    _, found, answer = solution.rpartition("####")
    if not found:
        raise BadRowError(f"answer is {solution!r:.200}; expected a solution that ends in '#### ' and its result")
    messages = [{"role": "user", "content": asked}]
    yield Example(f"{asked}\n", [solution], {"answer": answer.strip().replace(",", "")}, messages)


def passage(row: Row) -> Iterator[Example]:
    """Style tasks: a passage of a book, to be cut to whole sentences and continued; there is no reference."""
    yield Example(_text(row, "text"))


# --- tables ----------------------------------------------------------------------------------------------------


def linearised(table: Sequence[Sequence[Row]], highlighted: Sequence[Sequence[int]]) -> str:
    """Return the highlighted cells of a table as ToTTo's baselines read them.

    Headers of a cell are guessed: those to its left in its row, and those above it that share a column with it.
    """
    shown = []
    for row, column in highlighted:
        if not (0 <= row < len(table) and 0 <= column < len(table[row])):
            raise BadRowError(f"highlighted_cells holds {[row, column]}, which is not in the table")
        start, end = _span(table[row], column)
        above = [
            cell
            for line in table[:row]
            for number, cell in enumerate(line)
            if cell["is_header"] and _span(line, number)[0] < end and _span(line, number)[1] > start
        ]
        left = [cell for cell in table[row][:column] if cell["is_header"]]
        headers = [("col_header", cell) for cell in above] + [("row_header", cell) for cell in left]
        words = [table[row][column]["value"], *(_tagged(tag, cell["value"]) for tag, cell in headers)]
        shown.append(f"{_tagged('cell', ' '.join(words))} ")
    return f"<table> {''.join(shown)}</table>"


def _span(line: Sequence[Row], number: int) -> tuple[int, int]:
    """Return the first column of a cell, and the first one after it; a cell may span several."""
    start = sum(cell["column_span"] for cell in line[:number])
    return start, start + line[number]["column_span"]


def _tagged(tag: str, text: str) -> str:
    return f"<{tag}> {text} </{tag}>"


# --- values of a row -------------------------------------------------------------------------------------------


def _text(row: Row, column: str) -> str:
    value = row[column]
    if not isinstance(value, str):
        raise BadRowError(f"{column} is {value!r:.200}; expected a text")
    return value


def _texts(row: Row, column: str) -> list[str]:
    value = row[column]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BadRowError(f"{column} is {value!r:.200}; expected a list of texts")
    return value


def _references(row: Row, column: str) -> list[str]:
    """Return a text, or the texts of a list; splits that are kept secret hold none, or null."""
    value = row[column]
    given = value if isinstance(value, list) else [value]
    found = [each for each in given if each is not None]
    if not all(isinstance(each, str) for each in found):
        raise BadRowError(f"{column} is {value!r:.200}; expected a text, or a list of texts")
    return found
