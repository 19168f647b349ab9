"""Questions of the ``reasoning-gym`` package, with its verifiers as gold reward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from textgym.names import suggest
from textgym.numbers import count, random_seed
from textgym.tasks.fields import as_prompt, prompt_fields
from textgym.tokenization import load_tokenizer
from textgym.types import completion_text
from textgym.worlds.text_env import seeded_globals

QUESTION = "question_number"
"""Column of a prompt with the number of its question."""


@dataclass(frozen=True)
class Verifier:
    """Gold reward of a data set: the score in [0, 1] that its verifier gives to an answer.

    Attributes:
        dataset: data set of ``reasoning-gym``.
        entries: its questions by number, with what the verifier knows of them.
        answer_after: the answer is what follows the last of these marks, and without it the score is 0; None if the
            whole completion is the answer. White space around an answer is left out.
    """

    dataset: Any = field(repr=False)
    entries: Mapping[int, Mapping[str, Any]] = field(repr=False)
    answer_after: str | None = None

    name = "verifier"

    def __call__(
        self, prompts: list[Any], completions: list[Any], *, question_number: list[int], **_: Any
    ) -> list[float]:
        """Return the score of each completion."""
        texts = map(completion_text, completions)
        return [self.score(text, number) for text, number in zip(texts, question_number, strict=True)]

    def score(self, text: str, number: int) -> float:
        """Return the score of one text."""
        if self.answer_after is not None:
            _, found, text = text.rpartition(self.answer_after)
            if not found:
                return 0.0
        return float(self.dataset.score_answer(text.strip(), dict(self.entries[number])))


def reasoning_gym_fields(
    name: str,
    size: int,
    seed: int,
    model: str | Path,
    answer_after: str | None,
    settings: Mapping[str, Any],
    max_prompt_length: int | None,
) -> dict[str, Any]:
    """Return the fields of a task that a data set determines; see :meth:`textgym.Task.from_reasoning_gym`."""
    count("size", size)
    random_seed("seed", seed)
    entries: dict[int, Any] = {}
    # Some data sets draw from the global generators.
    with seeded_globals(seed, 0):
        dataset = _dataset(name, {**settings, "size": size, "seed": seed})
        asked: set[str] = set()
        for number in range(size):
            entry = dataset[number]
            if entry["question"] not in asked:  # else two splits might share it
                asked.add(entry["question"])
                entries[number] = entry
    tokenizer = load_tokenizer(model)
    rows: dict[str, dict[str, Any]] = {
        f"{name}, question {number}": {"prompt": as_prompt(tokenizer, entry["question"]), QUESTION: number}
        for number, entry in entries.items()
    }
    answers = [entry.get("answer") for entry in entries.values()]
    if all(isinstance(answer, str) and answer.strip() for answer in answers):
        before = "" if answer_after is None else f"{answer_after} "
        for row, answer in zip(rows.values(), answers, strict=True):
            row["reference"] = f"{before}{answer}"
    gold = Verifier(dataset, entries, answer_after)
    return {"gold": gold, **prompt_fields(rows, model, name, (), seed, max_prompt_length)}


def _dataset(name: str, settings: Mapping[str, Any]) -> Any:
    try:
        package = import_module("reasoning_gym")
        known = import_module("reasoning_gym.factory").DATASETS
    except ImportError as error:
        raise ImportError("questions of reasoning-gym need its package: install textgym[reasoning-gym]") from error
    if name not in known:
        hint = suggest(name, known, before="; ")
        raise ValueError(f"name={name!r} is no data set of reasoning-gym, which has {len(known)}{hint}")
    try:
        return package.create_dataset(name, **settings)
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"reasoning-gym refuses the settings {dict(settings)} of {name!r}: {error}") from error
