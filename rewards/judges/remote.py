"""A reward that another server computes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from textgym.numbers import check, count
from textgym.rewards.functions import RESERVED, RewardError, as_score
from textgym.rewards.judges.cache import digest
from textgym.rewards.judges.client import ServerError, Service, Session, together
from textgym.rewards.judges.template import as_text, described
from textgym.types import Score


@dataclass(frozen=True)
class RemoteReward(Service):
    """Score of a completion by a reward server, in the protocol of OpenRLHF's ``--remote_rm_url``.

    The server receives ``{"query": […], "prompts": […], "completions": […]}`` by POST, and a list for each column that
    is asked for; a query is a prompt with its completion. It answers ``{"rewards": […]}``, or the list alone: a number
    for each row, of any range; ``null`` where the reward does not apply, or a list with a number for each token. Other
    answers raise a RewardError. An empty completion is sent as any other. A row's score must not depend on the rows
    beside it: batches differ from run to run, and the cache keeps rows.
    """

    columns: str = ""
    """Columns of the data that the server receives, with + between them."""
    batch: int = 64
    """Largest number of rows in one request."""

    name: ClassVar[str] = "remote"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, count, "batch")
        if clash := [name for name in self.required_columns if not name or name in (*RESERVED, "query")]:
            raise ValueError(
                f"columns={self.columns!r} has {clash[0]!r}; expected names of columns with + between them, such as "
                "answer+level"
            )

    @property
    def required_columns(self) -> tuple[str, ...]:
        """Columns of the data that the server receives."""
        return tuple(self.columns.split("+")) if self.columns else ()

    async def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[Score]:
        """Score ``N`` completions; equal rows are sent once.

        Raises:
            RewardError: the server failed, or returned something that is not a score for each row.
        """
        asked = [columns[name] for name in self.required_columns]
        rows = [
            {
                "query": _query(prompt, completion),
                "prompts": prompt,
                "completions": completion,
                **dict(zip(self.required_columns, values, strict=True)),
            }
            for prompt, completion, *values in zip(prompts, completions, *asked, strict=True)
        ]
        keys = [Key.of(self.url, row, len(ids)) for row, ids in zip(rows, completion_ids, strict=True)]
        async with self.session() as session:
            scores = self._recalled(session, keys)
            missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in scores}
            if missing and self.replay:
                key, row = next(iter(missing.items()))
                raise RewardError(
                    f"replay=True, and the cache {str(self.cache)!r} lacks the row {key.text}:\n{described(row)}"
                )
            new = list(missing.items())
            parts = [dict(new[i : i + self.batch]) for i in range(0, len(new), self.batch)]
            for part in await together(self._asked(session, part) for part in parts):
                scores.update(part)
        return [scores[key] for key in keys]

    def _recalled(self, session: Session, keys: Sequence[Key]) -> dict[Key, Score]:
        """Return the scores that the cache holds."""
        scores: dict[Key, Score] = {}
        for key in dict.fromkeys(keys):
            # An answer is never empty: even a score that does not apply is kept as "null".
            if answer := session.recall(key.text) or session.recall(key.sampled):
                scores[key] = json.loads(answer)
        self.traffic.add(cache_hits=len(scores))
        return scores

    async def _asked(self, session: Session, rows: dict[Key, dict[str, Any]]) -> dict[Key, Score]:
        """Return the server's scores of rows, by key."""
        body = {name: [row[name] for row in rows.values()] for name in next(iter(rows.values()))}
        try:
            answer = await session.post(self.url, body)
            scores = _scores(answer, [key.tokens for key in rows], session.shown(answer))
        except (ServerError, TypeError, ValueError) as error:
            reason = session.redacted(str(error))
            first = described(next(iter(rows.values())))
            raise RewardError(f"{reason}, about {len(rows)} rows, of which the first is\n{first}") from None
        # Python writes floats so that they are read back exactly.
        return {
            key: json.loads(session.keep(key.sampled if isinstance(score, list) else key.text, json.dumps(score)))
            for key, score in zip(rows, scores, strict=True)
        }


@dataclass(frozen=True)
class Key:
    """Key of a row's score in the cache.

    Attributes:
        text: of a score of the text.
        sampled: of scores of its tokens, which another number of tokens does not have.
        tokens: number of tokens that it was sampled by.
    """

    text: str
    sampled: str
    tokens: int

    @classmethod
    def of(cls, url: str, row: Mapping[str, Any], tokens: int) -> Key:
        """Return the key of a row that a server is sent."""
        asked = {"url": url, "row": row}
        return cls(digest(asked), digest({**asked, "tokens": tokens}), tokens)


def _query(prompt: Any, completion: Any) -> str:
    texts = isinstance(prompt, str) and isinstance(completion, str)
    return prompt + completion if texts else f"{as_text(prompt)}\n{as_text(completion)}"


def _scores(answer: Any, tokens: Sequence[int], shown: str) -> list[Score]:
    """Return the scores of an answer to ``N`` rows, given the number of tokens of each.

    Raises:
        TypeError, ValueError: it has none, or another number of them, or some that are no scores.
    """
    scores = answer.get("rewards") if isinstance(answer, dict) else answer
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ValueError(
            f"the reward server must answer {{'rewards': [...]}} with {len(tokens)} scores, or the list alone, got "
            f"{shown}"
        )
    return [as_score(one, number) for one, number in zip(scores, tokens, strict=True)]
