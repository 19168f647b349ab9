"""Rows in the columns of published data sets, from sentences of our own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]

PEOPLE = ("baker", "sailor", "painter", "farmer", "nurse", "pilot", "singer", "tailor")
PLACES = ("harbour", "orchard", "station", "garden", "kitchen")
DEEDS = ("sings", "waits", "cooks", "reads", "sleeps", "works")


def said(number: int) -> tuple[str, str, str]:
    """Return a person, a deed and a place; no two numbers below 240 share them."""
    return (
        PEOPLE[number % 8],
        DEEDS[number // 8 % 6],
        PLACES[number // 48 % 5],
    )


def sentence(number: int) -> str:
    person, deed, place = said(number)
    return f"The {person} {deed} in the {place}."


def review(number: int) -> Row:
    return {"text": f"{sentence(number)} It is a film of {number} scenes.", "label": number % 2}


def concept_set(number: int) -> Row:
    words = list(said(number))
    return {
        "gem_id": f"common_gen-{number}",
        "concept_set_id": number,
        "concepts": words,
        "target": sentence(number),
        "references": [sentence(number), f"In the {words[2]} a {words[0]} {words[1]}."],
    }


def secret_concept_set(number: int) -> Row:
    return {**concept_set(number), "target": "", "references": []}


def news(number: int) -> Row:
    return {"article": f"{sentence(number)} Nobody knows why.", "highlights": sentence(number), "id": str(number)}


def cell(value: str, is_header: bool = False, column_span: int = 1) -> Row:
    return {"value": value, "is_header": is_header, "column_span": column_span, "row_span": 1}


def table(number: int) -> Row:
    person, deed, place = said(number)
    return {
        "table_page_title": f"Days of the {person}",
        "table_section_title": place,
        "table": [
            [cell("Day", True), cell("What", True), cell("Where", True)],
            [cell("Monday", True), cell(deed), cell(place)],
        ],
        "highlighted_cells": [[1, 1], [1, 2]],
        "sentence_annotations": [{"final_sentence": sentence(number)}, {"final_sentence": f"Here a {person} {deed}."}],
    }


def talk(number: int) -> Row:
    return {"translation": {"en": sentence(number), "de": f"Satz {number}."}}


def story(number: int) -> Row:
    person, deed, _ = said(number)
    return {
        "document": {"id": str(number), "summary": {"text": f"{sentence(number)}\nIt rains.", "title": "A Day"}},
        "question": {"text": f"Who {deed}?"},
        "answers": [{"text": f"The {person} "}, {"text": f"a {person}"}],
    }


def conversation(number: int) -> Row:
    lines = [f" {sentence(number + step)}" for step in range(7)]
    return {"dialog": lines, "act": [1, 2, 3, 4, 1, 2, 3], "emotion": [0, 0, 0, 0, 4, 5, 6]}


def reddit_post(number: int) -> Row:
    return {
        "id": str(number),
        "subreddit": "advice",
        "title": f"What the {said(number)[0]} does",
        "post": f"{sentence(number)}\nWhat now?",
        "summary": f"{sentence(number)} Help.",
    }


def preference(number: int) -> Row:
    person, deed, place = said(number)
    asked = f"\n\nHuman: Who {deed} in the {place}?\n\nAssistant: Guess.\n\nHuman: Number {number}?\n\nAssistant:"
    return {"chosen": f"{asked} The {person}.", "rejected": f"{asked} No."}


def word_problem(number: int) -> Row:
    return {
        "question": f"The {said(number)[0]} has {number} eggs and buys 1,000. How many are there?",
        "answer": f"{number} + 1000 = {number + 1000}\n#### {number + 1000:,}",
    }


def book(number: int) -> Row:
    return {"text": f"of the day. {sentence(number)} Then it rains {number} times. And so"}


DATA: Mapping[str, Mapping[str, Callable[[int], Row]]] = {
    "IMDB": {"train": review, "test": review},
    "CommonGen": {"train": concept_set, "validation": concept_set, "test": secret_concept_set},
    "CNNDailyMail": {"train": news, "validation": news, "test": news},
    "ToTTo": {"train": table, "validation": table, "test": table},
    "IWSLT2017": {"train": talk, "validation": talk, "test": talk},
    "NarrativeQA": {"train": story, "validation": story, "test": story},
    "DailyDialog": {"train": conversation, "validation": conversation, "test": conversation},
    "TLDR": {"train": reddit_post, "validation": reddit_post, "test": reddit_post},
    "HH": {"train": preference, "test": preference},
    "GSM8K": {"train": word_problem, "test": word_problem},
    "Sentiment": {"train": book, "test": book},
    "Descriptiveness": {"train": book, "test": book},
}
"""How the rows of each split are made, by task."""


def rows(task: str, n: int = 20) -> dict[str, list[Row]]:
    """Return up to 20 rows of each split; no two splits share one."""
    return {
        split: [make(80 * place + 4 * number) for number in range(n)]
        for place, (split, make) in enumerate(DATA[task].items())
    }


def write_folder(folder: Path, splits: Mapping[str, Iterable[Row]]) -> Path:
    """Write a file of JSON Lines for each split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, own in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in own), "utf-8")
    return folder
