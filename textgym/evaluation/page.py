"""Results of an evaluation as findings: a table of measures, win rates, and samples side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textgym.evaluation.decoders import Answers
from textgym.evaluation.measured import Measured
from textgym.evaluation.paired import WinRate
from textgym.prompts import plain_content
from textgym.reports.findings import Findings, Table
from textgym.reports.formatting import decimals, number, percent

SAMPLES = 12
"""Prompts whose samples are shown side by side."""
LABELS = {
    "score": "score (the reward)",
    "kl": "KL to the reference, nats",
    "length": "length, tokens",
    "end_rate": "ended by itself, share",
    "length_correlation": "correlation of reward with length",
    "msttr": "MSTTR",
    "self_bleu": "self-BLEU",
    "perplexity": "perplexity of the generations, fixed model",
    "reference_perplexity": "perplexity of the references, this policy",
    "wording_deviation": "spread over wordings, standard deviation",
    "wording_range": "spread over wordings, range",
}


@dataclass(frozen=True)
class Result:
    """Measures of one policy at one number of shots.

    Attributes:
        model: the policy, as it was named.
        shots: number of examples before each prompt.
        answers: its responses.
        measures: by name.
    """

    model: str
    shots: int
    answers: Answers
    measures: Mapping[str, Measured]

    @property
    def row(self) -> dict[str, Any]:
        """The result as an object of JSON, without the responses."""
        return {
            "model": self.model,
            "shots": self.shots,
            "measures": {name: one.row for name, one in self.measures.items()},
        }


@dataclass(frozen=True)
class Duel:
    """Win rate of a policy against another one, at a number of shots."""

    model: str
    against: str
    shots: int
    found: WinRate
    by: str = "the reward"


def findings(title: str, results: Sequence[Result], duels: Sequence[Duel]) -> Findings:
    """Return the findings of an evaluation.

    Args:
        title: what was asked, such as "256 test prompts of textgym/Reviews-v0".
        results: of each policy at each number of shots.
        duels: win rates.
    """
    columns = labels(results)
    tables = [measure_table(results, columns), *([duel_table(duels)] if duels else []), sample_table(results, columns)]
    return Findings(_headline(title, results, duels), tuple(tables))


def labels(results: Sequence[Result]) -> list[str]:
    """Return a short name for each result: what distinguishes it."""
    names = short_names(list(dict.fromkeys(result.model for result in results)))
    several = sum(result.shots == results[0].shots for result in results) > 1
    shots = [f"{result.shots}-shot" for result in results]
    return [f"{names[r.model]}, {shot}" if several else shot for r, shot in zip(results, shots, strict=True)]


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Return the shortest end of each path that no other one has; 'checkpoint' is no name by itself."""
    parts = {model: [part for part in model.split("/") if part] or [model] for model in models}
    found = {}
    for model, own in parts.items():
        least = 2 if own[-1] == "checkpoint" and len(own) > 1 else 1
        others = [other for name, other in parts.items() if name != model]
        taken = next((n for n in range(least, len(own)) if all(own[-n:] != other[-n:] for other in others)), len(own))
        found[model] = "/".join(own[-taken:]) if taken < len(own) else model
    return found


def shown(measured: Measured | None, as_percent: bool = False) -> str:
    """Return a measure with its interval, in as many places as the interval supports."""
    if measured is None or measured.value is None:
        return "–"
    if as_percent:
        return f"{percent(measured.value)}{_bounds(measured, lambda bound: number(100 * bound, 1))}"
    width = 0.0 if measured.low is None or measured.high is None else (measured.high - measured.low) / 2
    places = decimals(width) if width > 0 else None
    return f"{number(measured.value, places)}{_bounds(measured, lambda bound: number(bound, places))}"


def _bounds(measured: Measured, written: Any) -> str:
    if measured.low is None or measured.high is None:
        return ""
    return f" ({written(measured.low)} … {written(measured.high)})"


def measure_table(results: Sequence[Result], columns: Sequence[str]) -> Table:
    """Return a row for each measure, and a column for each result."""
    names = dict.fromkeys(name for result in results for name in result.measures)
    rows = [(LABELS.get(name, name), *(shown(result.measures.get(name)) for result in results)) for name in names]
    several = results[0].answers.questions_asked > 1
    over = "over prompts" if several else "over samples: there is one prompt"
    return Table("Measures", ("measure", *columns), tuple(rows), f"In parentheses 95 % intervals {over}.")


def duel_table(duels: Sequence[Duel]) -> Table:
    """Return a row for each win rate."""
    names = short_names(list(dict.fromkeys(name for duel in duels for name in (duel.model, duel.against))))
    rows = tuple(
        (
            names[duel.model],
            names[duel.against],
            f"{duel.shots}-shot",
            shown(duel.found.rate, as_percent=True),
            percent(duel.found.won),
            percent(duel.found.tied),
        )
        for duel in duels
    )
    columns = ("policy", "against", "prompts", "win rate", "won", "tied")
    by = " and ".join(dict.fromkeys(duel.by for duel in duels))
    note = f"Responses to the same prompt, compared by {by}; a tie counts half. 95 % intervals over prompts."
    return Table("Win rate", columns, rows, note)


def sample_table(results: Sequence[Result], columns: Sequence[str], count: int = SAMPLES) -> Table:
    """Return the first response to each of the first prompts, of all results side by side."""
    first = results[0].answers
    places = first.first_rows[:count]
    rows = tuple((_prompt_text(first, row), *(_scored(result, row) for result in results)) for row in places)
    return Table("Samples", ("prompt", *columns), rows, "The score stands in brackets.")


def _scored(result: Result, row: int) -> str:
    return f"{result.answers.texts[row]} [{number(float(result.answers.scores[row]))}]"


def _prompt_text(answers: Answers, row: int) -> str:
    content = plain_content(answers.prompts[row].content)
    return content if isinstance(content, str) else "\n".join(f"{m['role']}: {m['content']}" for m in content)


def sample_rows(result: Result) -> list[dict[str, Any]]:
    """Return every response as an object of JSON."""
    answers = result.answers
    return [
        {
            "model": result.model,
            "shots": result.shots,
            "prompt": plain_content(answers.prompts[row].content),
            "completion": answers.texts[row],
            "length": int(answers.lengths[row]),
            "finish_reason": "stop" if answers.ended[row] else "length",
            "score": float(answers.scores[row]),
            "components": {name: _number(values[row]) for name, values in answers.components.items()},
        }
        for row in range(len(answers))
    ]


def _number(value: Any) -> float | None:
    return None if value != value else float(value)  # NaN where a component does not apply


def _headline(title: str, results: Sequence[Result], duels: Sequence[Duel]) -> str:
    if duels:
        duel = duels[0]
        rate = shown(duel.found.rate, as_percent=True)
        names = short_names(list(dict.fromkeys((duel.model, duel.against))))
        return f"{names[duel.model]} wins {rate} against {names[duel.against]} on {title}"
    scores = [shown(result.measures["score"]) for result in results]
    if len(scores) > 1:
        scores = [f"{name}: {score}" for name, score in zip(labels(results), scores, strict=True)]
    return f"Score on {title}: {', '.join(scores)}"
