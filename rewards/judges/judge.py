"""A language model as a judge, behind an OpenAI-compatible chat endpoint: scores of texts, and verdicts on pairs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

from textgym.calls import Raised, await_all
from textgym.numbers import LARGEST_SEED, check, check_words, count, finite
from textgym.rewards.functions import RewardError
from textgym.rewards.judges.cache import digest
from textgym.rewards.judges.client import ServerError, Service, Session, shortened, together
from textgym.rewards.judges.template import Template, described
from textgym.types import completion_text

T = TypeVar("T")

OPENAI = "https://api.openai.com/v1"
PATH = "/chat/completions"

NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
ABOUT = r"[\"'*_\s]*"  # quotes of JSON, and emphasis
OPENED = r"[\"'*_\s(\[]*"
SCORE = re.compile(
    # "Score: 7", "**Score (1-10):** 7/10" and {"score": 7}. The number may be lacking, so that the last "Score:" counts
    # even if nothing can be read there; it is no part of a longer one ("7,5") and no range ("7-8").
    rf"\bscore\b{ABOUT}(?:\([^()\n]*\){ABOUT})?[:=]{OPENED}"
    rf"(?:({NUMBER})(?![\d.,]*\d)(?![ \t]*[-–—][ \t]*\d)(?:[*_ \t]*/\s*(\d+))?)?",
    re.IGNORECASE,
)
VERDICT = re.compile(
    # "Verdict: A", "**Verdict:** Response B", {"verdict": "tie"} and "Verdict: A tie"; letters are capital.
    rf"(?i:\bverdict\b){ABOUT}[:=]{OPENED}(?i:response\s+|a\s+(?=tie\b))?"
    # … but not "A or B", nor "A and B tie", which decide nothing.
    rf"((?:A|B|(?i:tie))\b(?!\s*(?:/|,|(?i:or|and)\b)\s*(?:A|B|(?i:tie))\b))?"
)

PREFERENCES = {"a": 1, "b": -1, "tie": 0, "c": 0}
"""Preferences for the text that is shown first, by the word of a verdict; some templates write C for a tie."""


@dataclass(frozen=True)
class ChatService(Service):
    """Settings of a model that judges. Temperature 0 and a fixed seed, so that it repeats as far as a server can."""

    url: str = OPENAI
    """Base address of an OpenAI-compatible endpoint."""
    key: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; "none" for a server that needs none."""
    model: str = ""
    """Name of the model; required."""
    template: Path | None = None
    """File of what the judge is asked; None for the one that ships."""
    parse: str = ""
    """Regular expression whose first group is the verdict; its last match counts. Empty for that of the template that
    ships."""
    temperature: float = 0.0
    """Sampling temperature of the judge."""
    seed: int = 0
    """Seed that the server is given; -1 for servers that take none."""

    template_digest: str = field(default="", init=False)
    asked: Template = field(default=Template(""), init=False, repr=False, compare=False)
    pattern: re.Pattern[str] | None = field(default=None, init=False, repr=False, compare=False)

    shipped: ClassVar[str] = "score.txt"
    needed: ClassVar[tuple[str, ...]] = ("completion",)
    given: ClassVar[tuple[str, ...]] = ("prompt", "completion")
    """Fields that every template may have; others are columns of the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_words(self, "template")
        if not self.model.strip():
            raise ValueError(f"model={self.model!r}: name the model that judges with model=NAME")
        if self.url.rstrip("/").endswith(PATH):
            raise ValueError(f"url={self.url!r}: expected the base address, without {PATH}, which is added to it")
        check(self, finite, "temperature", low=0)
        check(self, count, "seed", least=-1, most=LARGEST_SEED - 1)
        path = Path(__file__).with_name(self.shipped) if self.template is None else Path(self.template)
        asked = Template.read(path, self.needed)
        object.__setattr__(self, "asked", asked)
        object.__setattr__(self, "template_digest", asked.digest)
        object.__setattr__(self, "pattern", _compiled(self.parse))

    @property
    def required_columns(self) -> tuple[str, ...]:
        """Columns of the data that the template shows."""
        return tuple(name for name in self.asked.fields if name not in self.given)

    async def verdicts(self, rows: Sequence[Mapping[str, Any]], read: Callable[[str], T | None]) -> list[T]:
        """Ask about ``N`` rows; rows that make the same request are asked about once.

        Args:
            rows: values of the template's fields.
            read: reads a verdict; None if it cannot be read.

        Raises:
            RewardError: the server failed, or gave a verdict that cannot be read, twice; it shows the row.
        """
        texts = [self.asked.filled(row) for row in rows]
        first: dict[str, Mapping[str, Any]] = {}  # the first row of each text
        for text, row in zip(texts, rows, strict=True):
            first.setdefault(text, row)

        async def one(text: str, row: Mapping[str, Any]) -> T:
            try:
                key = digest({"url": self.url, **self._request(text, 0)})
                return await session.once(key, lambda: self._verdict(session, key, text, read))
            except ServerError as error:
                shown = {name: row[name] for name in ("prompt", *self.needed)}
                raise RewardError(f"{error}, about\n{described(shown)}") from None

        async with self.session() as session:
            found = await together(one(text, row) for text, row in first.items())
        by_text = dict(zip(first, found, strict=True))
        return [by_text[text] for text in texts]

    async def _verdict(self, session: Session, key: str, text: str, read: Callable[[str], T | None]) -> T:
        """Return the verdict on one text: from the cache, or from the server, which is asked twice at most."""
        cached = session.recall(key)
        if cached is not None and (verdict := read(cached)) is not None:
            self.traffic.add(cache_hits=1)
            return verdict
        if self.replay:
            lack = "no answer" if cached is None else f"an answer that cannot be read ({shortened(cached)!r})"
            raise ServerError(f"replay=True, and the cache {str(self.cache)!r} has {lack} to the request {key}")
        for attempt in range(2):
            said = await self._said(session, text, attempt)
            verdict = read(said)
            if verdict is not None:
                # Another process may have been first; its answer counts, unless only this judge's parser reads its own.
                kept = session.keep(key, said, instead=cached)
                first = read(kept)
                return verdict if first is None else first
        raise ServerError(f"the verdict of {self.model!r} cannot be read, twice; the second was {shortened(said)!r}")

    async def _said(self, session: Session, text: str, attempt: int) -> str:
        answer = await session.post(PATH, self._request(text, attempt))
        usage = answer.get("usage") if isinstance(answer, dict) else None
        if isinstance(usage, dict):
            tokens = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
            self.traffic.add(**{name: number for name, number in tokens.items() if isinstance(number, int)})
        try:
            content = answer["choices"][0]["message"]["content"]
        except (TypeError, LookupError):
            said = session.shown(answer)
            raise ServerError(f"the server at {self.url} answered what is no chat completion: {said}") from None
        return session.redacted(content) if isinstance(content, str) else ""  # None where the model refuses

    def _request(self, text: str, attempt: int) -> dict[str, Any]:
        request: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": text}]}
        request["temperature"] = self.temperature
        if self.seed >= 0:
            request["seed"] = self.seed + attempt  # the same seed would repeat a verdict that could not be read
        return request


@dataclass(frozen=True)
class Judge(ChatService):
    """Score of a completion by a language model, behind an OpenAI-compatible endpoint (LLM as a judge).

    The judge is asked for a number from ``low`` to ``high`` (by default 1 to 10), and the reward is that number, or
    ``(number − low)/(high − low)`` with ``unit``. Verdicts are read from the last "Score: N", or ``{"score": N}``. One
    without a number, or with one out of range, is asked for once more and then raises a RewardError: a judge that fails
    gives no score. An empty completion is judged as any other. Zheng et al. 2023, arXiv:2306.05685 (single answer
    grading).
    """

    low: float = 1.0
    """Lowest score."""
    high: float = 10.0
    """Highest score."""
    unit: bool = False
    """Map the scores from low to high to those from 0 to 1."""

    name: ClassVar[str] = "judge"
    given: ClassVar[tuple[str, ...]] = ("prompt", "completion", "low", "high")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "low", "high")
        if self.low >= self.high:
            raise ValueError(f"low={self.low:g} and high={self.high:g}; expected low to be below high")

    async def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """Score ``N`` completions.

        Raises:
            RewardError: see :meth:`ChatService.verdicts`.
        """
        limits = {"low": f"{self.low:g}", "high": f"{self.high:g}"}
        rows = [
            {**dict(zip(columns, values, strict=True)), "prompt": prompt, "completion": completion_text(text), **limits}
            for prompt, text, *values in zip(prompts, completions, *columns.values(), strict=True)
        ]
        numbers = await self.verdicts(rows, self.number)
        return [(number - self.low) / (self.high - self.low) for number in numbers] if self.unit else numbers

    def number(self, verdict: str) -> float | None:
        """Return the number of a verdict; None if there is none from ``low`` to ``high``."""
        found = _last(self.pattern or SCORE, verdict)
        if found is None or found[1] is None:
            return None
        if not self.pattern and found[2] is not None and float(found[2]) != self.high:
            return None  # "7/100" is on another scale
        try:
            number = float(found[1])
        except ValueError:
            return None
        return number if self.low <= number <= self.high else None


@dataclass(frozen=True)
class PairwiseJudge(ChatService):
    """Verdict of a language model on two texts, in the order in which they are shown: see :func:`compare`.

    Verdicts are read from the last "Verdict: A", "B" or "tie", or ``{"verdict": "A"}``. Zheng et al. 2023,
    arXiv:2306.05685 (pairwise comparison).
    """

    name: ClassVar[str] = "pairwise_judge"
    signed: ClassVar[bool] = True
    shipped: ClassVar[str] = "pair.txt"
    needed: ClassVar[tuple[str, ...]] = ("first", "second")
    given: ClassVar[tuple[str, ...]] = ("prompt", "first", "second")

    async def __call__(
        self, prompts: Sequence[Any], first: Sequence[Any], second: Sequence[Any], **columns: Any
    ) -> list[int]:
        """Judge ``N`` pairs in one order: 1 if the first text is better, -1 if the second is, 0 for a tie.

        Raises:
            RewardError: see :meth:`ChatService.verdicts`.
        """
        rows = [
            {**dict(zip(columns, values, strict=True)), "prompt": prompt, "first": a, "second": b}
            for prompt, a, b, *values in zip(
                prompts, map(completion_text, first), map(completion_text, second), *columns.values(), strict=True
            )
        ]
        return await self.verdicts(rows, self.preference)

    def preference(self, verdict: str) -> int | None:
        """Return the preference of a verdict for the text that is shown first; None if there is none."""
        found = _last(self.pattern or VERDICT, verdict)
        return None if found is None or found[1] is None else PREFERENCES.get(found[1].strip().lower())


Preferences: TypeAlias = Callable[..., "Sequence[int] | Awaitable[Sequence[int]]"]
"""A :class:`PairwiseJudge`, or a function ``judge(prompts, first, second, **columns)`` that returns 1, -1 or 0 for each
pair, in the order in which the texts are shown."""


def compare(
    judge: Preferences,
    prompts: Sequence[Any],
    first: Sequence[Any],
    second: Sequence[Any],
    **columns: Sequence[Any],
) -> list[int]:
    """Compare ``N`` pairs of completions, each in both orders; a verdict that changes with the order is a tie.

    Judges favour a position (Zheng et al. 2023, arXiv:2306.05685, section 3.3); asked in both orders, one that goes by
    the position alone says nothing.

    Args:
        judge: see :data:`Preferences`.
        prompts: ``N`` prompts.
        first: ``N`` completions.
        second: ``N`` other completions.
        **columns: ``N`` entries for each column of the data.

    Returns:
        For each pair 1 if ``first`` is better, -1 if ``second`` is, 0 for a tie.

    Raises:
        RewardError: the judge failed.
        ValueError: the lists differ in length.
    """
    lengths = {len(values) for values in (prompts, first, second, *columns.values())}
    if len(lengths) > 1:
        raise ValueError(f"expected lists of one length, got lengths {sorted(lengths)}")
    doubled = {name: [*values, *values] for name, values in columns.items()}
    answer = judge([*prompts, *prompts], [*first, *second], [*second, *first], **doubled)
    if inspect.isawaitable(answer):
        (answer,) = await_all([answer])
    if isinstance(answer, Raised):
        raise answer.error
    if len(answer) != 2 * len(prompts):
        raise RewardError(f"the judge was shown {2 * len(prompts)} pairs, and gave {len(answer)} verdicts")
    return [settled(*both) for both in zip(answer[: len(prompts)], answer[len(prompts) :], strict=True)]


compare.signed = True  # type: ignore[attr-defined]  # what it returns, for Pairwise


def settled(there: int, back: int) -> int:
    """Return the preference between two texts that both orders agree on; 0 if they do not agree.

    Args:
        there: preference for the text that is shown first (1, -1 or 0) where that is the first text.
        back: the same where the second text is shown first.

    Returns:
        1 if the first text is better, -1 if the second is.
    """
    return there if there == -back else 0


def _compiled(pattern: str) -> re.Pattern[str] | None:
    if not pattern:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"parse={pattern!r} is not a regular expression: {error}") from error
    if not compiled.groups:
        raise ValueError(f"parse={pattern!r} has no group; put the part that is the verdict into brackets")
    return compiled


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007  # the last one is what is looked for
        pass
    return found
