"""Labelling: from samples of a policy to rankings, by a reward that scores them or by people who fill in a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from textgym.files import write_json_lines
from textgym.prompts import plain_content
from textgym.rewards.compose import WeightedRewards
from textgym.rewards.preferences import untied_pairs
from textgym.rewards.rankings import agreement_ceiling, plackett_luce_ranks
from textgym.rows import read_rows
from textgym.tokenization import encode_reply
from textgym.types import FloatArray, Prompt, Ranking, as_completion

TOO_FEW = "fewer than 2 different completions that are not empty"
TIED = "all completions tied"
SCORED_AT_ONCE = 64  # questions in one call of a reward


@dataclass(frozen=True)
class Question:
    """What a labeller is to rank.

    Attributes:
        completions: at least 2 texts, all different, none empty.
        prompt: what they follow, and what a reward receives: a text or a conversation, and further fields.
    """

    completions: tuple[str, ...]
    prompt: Prompt

    @property
    def content(self) -> str | list[dict[str, str]]:
        """The prompt of the completions, as a file holds it."""
        return plain_content(self.prompt.content)


@dataclass(frozen=True)
class Labelled:
    """What came of labelling.

    Attributes:
        rankings: of the questions that were not dropped.
        dropped: how many prompts were left out, by reason.
        ceiling: the share of pairs that even the labeller's own scores order as the noisy labels do, expected; None
            where there is no noise.
    """

    rankings: tuple[Ranking, ...]
    dropped: Mapping[str, int]
    ceiling: float | None = None


def questions(
    completions: Sequence[Sequence[str]], prompts: Sequence[Prompt]
) -> tuple[tuple[Question, ...], dict[str, int]]:
    """What is left to ask once equal completions of a prompt are merged and empty ones dropped.

    Args:
        completions: ``N`` times ``K`` texts.
        prompts: ``N`` prompts as rewards receive them.

    Returns:
        The questions, and how many prompts have fewer than 2 texts left, by reason.
    """
    asked = []
    for written, prompt in zip(completions, prompts, strict=True):
        kept = tuple(dict.fromkeys(completion for completion in written if completion.strip()))
        if len(kept) > 1:
            asked.append(Question(kept, prompt))
    return tuple(asked), _counted({TOO_FEW: len(prompts) - len(asked)})


def label_by_reward(
    reward: WeightedRewards,
    asked: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    temperature: float,
    rng: np.random.Generator,
) -> Labelled:
    """Rankings by a labeller who sees the scores of a reward, with the noise of Plackett and Luce.

    Args:
        reward: in TRL's signature; the sum of a dense score counts.
        asked: the questions.
        tokenizer: gives the reward its ``completion_ids``.
        temperature: see :func:`textgym.rewards.rankings.plackett_luce_ranks`.
        rng: where the noise comes from.

    Raises:
        RewardError: the reward failed; prompt and completion are named.
        ValueError: the temperature is negative or not finite.
    """
    scores = [own for part in _parts(asked) for own in _scores(reward, part, tokenizer)]
    ranks = [tuple(plackett_luce_ranks(own, temperature, rng).tolist()) for own in scores]
    found = [Ranking(q.prompt.content, q.completions, own) for q, own in zip(asked, ranks, strict=True)]
    labelled = _without_ties(found)
    if temperature == 0 or not scores:
        return labelled
    pairs = [len(own) * (len(own) - 1) / 2 for own in scores]
    ceiling = float(np.average([agreement_ceiling(own, temperature) for own in scores], weights=pairs))
    return Labelled(labelled.rankings, labelled.dropped, ceiling)


def write_questions(path: Path, asked: Sequence[Question]) -> None:
    """A file for people: ``{"prompt", "completions", "ranks": null}``, one question a line."""
    rows = ({"prompt": q.content, "completions": list(q.completions), "ranks": None} for q in asked)
    write_json_lines(path, rows)


def read_answers(path: Path, asked: Sequence[Question]) -> Labelled | None:
    """Return the ranks that people filled into the file of :func:`write_questions`; None while there are none at all.

    Args:
        path: the file.
        asked: the questions it was made from.

    Raises:
        ValueError: some ranks are missing or no ranks, or prompts or completions were changed. The message names the
            file and the row, counted from 1.
    """
    rows = read_rows(path)
    if all(row.get("ranks") is None for row in rows):
        return None
    if len(rows) != len(asked):
        raise ValueError(f"{path} has {len(rows)} rows; expected the {len(asked)} that were asked, in their order")
    numbered = enumerate(zip(rows, asked, strict=True), start=1)
    return _without_ties([_answer(row, q, f"{path}, row {number}") for number, (row, q) in numbered])


def _answer(row: Mapping[str, Any], question: Question, where: str) -> Ranking:
    if row.get("prompt") != question.content or row.get("completions") != list(question.completions):
        raise ValueError(f"{where}: prompt or completions differ from what was asked; change nothing but the ranks")
    ranks = row.get("ranks")
    if ranks is None:
        raise ValueError(f"{where}: ranks is null; fill in all rows before going on")
    if not (isinstance(ranks, list) and all(type(rank) is int for rank in ranks)):
        raise ValueError(f"{where}: ranks is {ranks!r:.200}; expected a list of integers, 0 for the best")
    if len(ranks) != len(question.completions):
        raise ValueError(f"{where}: {len(ranks)} ranks for {len(question.completions)} completions; expected one each")
    return Ranking(question.prompt.content, question.completions, tuple(ranks))


def _without_ties(rankings: Sequence[Ranking]) -> Labelled:
    kept = tuple(ranking for ranking in rankings if untied_pairs(ranking.ranks))
    return Labelled(kept, _counted({TIED: len(rankings) - len(kept)}))


def _counted(reasons: Mapping[str, int]) -> dict[str, int]:
    return {reason: count for reason, count in reasons.items() if count}


def _parts(asked: Sequence[Question]) -> Iterator[Sequence[Question]]:
    starts = range(0, len(asked), SCORED_AT_ONCE)
    return (
        asked[start : start + SCORED_AT_ONCE] for start in tqdm(starts, desc="labelling", unit="batch", disable=None)
    )


def _scores(reward: WeightedRewards, asked: Sequence[Question], tokenizer: PreTrainedTokenizerBase) -> list[FloatArray]:
    """For each question ``[K]`` scores; all are asked in one call."""
    rows = [(q, text) for q in asked for text in q.completions]
    names = set.intersection(*(set(q.prompt.columns) for q in asked))
    columns: dict[str, list[Any]] = {name: [q.prompt.columns[name] for q, _ in rows] for name in sorted(names)}
    columns |= {"finish_reason": ["stop"] * len(rows), "episode_seed": list(range(len(rows)))}
    completions = [as_completion(q.prompt.content, text) for q, text in rows]
    ids = [list(encode_reply(tokenizer, q.prompt.content, text)) for q, text in rows]
    totals = reward.score([q.prompt.content for q, _ in rows], completions, ids, columns).totals
    flat = np.array([float(np.sum(total)) for total in totals])
    return np.split(flat, np.cumsum([len(q.completions) for q in asked])[:-1])
