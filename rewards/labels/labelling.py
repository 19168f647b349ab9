"""Labelling: turns a policy's samples into rankings, by simulated labellers or by people who fill in a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from textgym.files import write_json_lines
from textgym.prompts import plain_content
from textgym.rewards.compose import WeightedRewards
from textgym.rewards.labels.preferences import untied_pairs
from textgym.rows import read_rows
from textgym.tokenization import encode_content, encode_reply
from textgym.types import FloatArray, IntArray, Prompt, Ranking, as_completion

TOO_FEW = "fewer than 2 different completions that are not empty"
TIED = "all completions tied"
SCORED_AT_ONCE = 64  # questions in one call of a reward


@dataclass(frozen=True)
class Question:
    """Completions of one prompt that a labeller ranks.

    Attributes:
        completions: at least 2 texts, all different, none empty.
        prompt: the prompt of the completions, with the columns that a reward receives.
    """

    completions: tuple[str, ...]
    prompt: Prompt

    @property
    def content(self) -> str | list[dict[str, str]]:
        """The prompt's content as a file holds it."""
        return plain_content(self.prompt.content)


@dataclass(frozen=True)
class Labelled:
    """Result of labelling.

    Attributes:
        rankings: rankings of the questions that were not dropped.
        dropped: number of dropped prompts, by reason.
        ceiling: expected pairwise accuracy of the labeller's own scores on the noisy labels; None without noise.
    """

    rankings: tuple[Ranking, ...]
    dropped: Mapping[str, int]
    ceiling: float | None = None


def questions(
    completions: Sequence[Sequence[str]], prompts: Sequence[Prompt]
) -> tuple[tuple[Question, ...], dict[str, int]]:
    """Merge equal completions of a prompt, drop empty ones, and return the prompts that still need a ranking.

    Args:
        completions: ``N`` times ``K`` texts.
        prompts: ``N`` prompts as rewards receive them.

    Returns:
        The questions, and the number of prompts with fewer than 2 texts left, by reason.
    """
    asked = []
    for written, prompt in zip(completions, prompts, strict=True):
        # ``dict.fromkeys`` removes duplicates and keeps the order.
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
    error_rate: float = 0.0,
    threshold: float = 0.0,
) -> Labelled:
    """Rank completions as a labeller who sees the scores of a reward, with the noise of :func:`simulated_ranks`.

    Args:
        reward: the labeller's reward; a dense score counts by its sum.
        asked: the questions.
        tokenizer: makes the ``completion_ids`` that the reward receives.
        temperature: see :func:`plackett_luce_ranks`.
        rng: source of the noise.
        error_rate: see :func:`simulated_ranks`.
        threshold: see :func:`simulated_ranks`.

    Raises:
        RewardError: the reward failed; the message names prompt and completion.
        ValueError: temperature, error rate or threshold is out of its range.
    """
    scores = question_scores(reward, asked, tokenizer)
    ranks = [tuple(simulated_ranks(own, temperature, rng, error_rate, threshold).tolist()) for own in scores]
    found = [Ranking(q.prompt.content, q.completions, own) for q, own in zip(asked, ranks, strict=True)]
    labelled = without_ties(found)
    if not (temperature or error_rate) or not scores:
        return labelled
    # The ceiling is a share of the pairs that labels order, so each question counts by their expected number.
    expected = [_ordered_rightly(own, temperature, error_rate, threshold) for own in scores]
    ordered = sum(ordered for _, ordered in expected)
    ceiling = sum(right for right, _ in expected) / ordered if ordered else None
    return Labelled(labelled.rankings, labelled.dropped, ceiling)


def question_scores(
    reward: WeightedRewards, asked: Sequence[Question], tokenizer: PreTrainedTokenizerBase, progress: bool = True
) -> list[FloatArray]:
    """Return ``[K]`` scores of the completions of each question; a dense score counts by its sum.

    Args:
        reward: the reward.
        asked: the questions.
        tokenizer: makes the ``completion_ids`` that the reward receives.
        progress: show a progress bar.

    Raises:
        RewardError: the reward failed; the message names prompt and completion.
    """
    return [own for part in _parts(asked, progress) for own in _scores(reward, part, tokenizer)]


def write_questions(path: Path, asked: Sequence[Question]) -> None:
    """Write a file for people to fill in: ``{"prompt", "completions", "ranks": null}``, one question a line."""
    rows = ({"prompt": q.content, "completions": list(q.completions), "ranks": None} for q in asked)
    write_json_lines(path, rows)


def read_answers(path: Path, asked: Sequence[Question]) -> Labelled | None:
    """Read the ranks that people filled into the file of :func:`write_questions`; None while there are none at all.

    Args:
        path: the file.
        asked: the questions that the file was written from.

    Raises:
        ValueError: some ranks are missing or malformed, or prompts or completions were changed. The message names the
            file and the row, counted from 1.
    """
    rows = read_rows(path)
    # A file without any ranks is unfinished work; one with some is a mistake, reported below.
    if all(row.get("ranks") is None for row in rows):
        return None
    if len(rows) != len(asked):
        raise ValueError(f"{path} has {len(rows)} rows; expected the {len(asked)} that were asked, in their order")
    numbered = enumerate(zip(rows, asked, strict=True), start=1)
    return without_ties([_answer(row, q, f"{path}, row {number}") for number, (row, q) in numbered])


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


def without_ties(rankings: Sequence[Ranking]) -> Labelled:
    """Drop rankings in which all completions tie, and count them."""
    kept = tuple(ranking for ranking in rankings if untied_pairs(ranking.ranks))
    return Labelled(kept, _counted({TIED: len(rankings) - len(kept)}))


def _counted(reasons: Mapping[str, int]) -> dict[str, int]:
    return {reason: count for reason, count in reasons.items() if count}


def _parts(asked: Sequence[Question], progress: bool) -> Iterator[Sequence[Question]]:
    starts = range(0, len(asked), SCORED_AT_ONCE)
    # None for a bar on a terminal only.
    shown = tqdm(starts, desc="labelling", unit="batch", disable=None if progress else True)
    return (asked[start : start + SCORED_AT_ONCE] for start in shown)


def _scores(reward: WeightedRewards, asked: Sequence[Question], tokenizer: PreTrainedTokenizerBase) -> list[FloatArray]:
    """Return ``[K]`` scores for each question; all of them come from one call of the reward."""
    rows = [(q, text) for q in asked for text in q.completions]
    # A call has one value per row for each column, so only columns that all prompts have can be passed.
    names = set.intersection(*(set(q.prompt.columns) for q in asked))
    columns: dict[str, list[Any]] = {name: [q.prompt.columns[name] for q, _ in rows] for name in sorted(names)}
    # Labelled texts are complete, and a noisy reward draws a different seed for each text.
    columns |= {"finish_reason": ["stop"] * len(rows), "episode_seed": list(range(len(rows)))}
    # A prompt that was read back from a store has no tokens.
    before = {id(q): list(q.prompt.ids) or encode_content(tokenizer, q.prompt.content) for q in asked}
    columns["prompt_ids"] = [list(before[id(q)]) for q, _ in rows]
    completions = [as_completion(q.prompt.content, text) for q, text in rows]
    ids = [list(encode_reply(tokenizer, q.prompt.content, text)) for q, text in rows]
    totals = reward.score([q.prompt.content for q, _ in rows], completions, ids, columns).totals
    flat = np.array([float(np.sum(total)) for total in totals])
    return np.split(flat, np.cumsum([len(q.completions) for q in asked])[:-1])


# --- simulated labellers -------------------------------------------------------------------------------------------


def plackett_luce_ranks(scores: ArrayLike, temperature: float, rng: np.random.Generator) -> IntArray:
    """Sample how a noisy labeller ranks ``K`` completions.

    The ranking is drawn from the Plackett–Luce model: the best is chosen with probability softmax(scores/temperature),
    then the second from those that remain, and so on. Its pairwise marginals are Bradley–Terry, the model that the
    K-wise loss fits: ``P(i before j) = σ((s_i − s_j)/temperature)``.

    Args:
        scores: ``[..., K]`` gold scores.
        temperature: the labeller's noise, in the units of the scores. 0 gives the noiseless order, in which equal
            scores share a rank.
        rng: source of the noise.

    Returns:
        ``[..., K]`` ranks, 0 for the best.

    Raises:
        ValueError: the temperature is negative or not finite, or a score is not finite.

    Source: Plackett 1975; sampling by Gumbel noise: Yellott 1977.
    """
    s = _finite_scores(scores)
    _check_temperature(temperature)
    if temperature == 0:
        # The rank is the number of better completions, so equal scores share one.
        better = s[..., None, :] > s[..., :, None]
        ranks: IntArray = better.sum(axis=-1, dtype=np.int64)
        return ranks
    # Sorting scores with Gumbel noise samples exactly from the Plackett–Luce model. The second ``argsort`` inverts the
    # permutation: from "which completion is in place i" to "which place has completion i".
    order = np.argsort(-(s / temperature + rng.gumbel(size=s.shape)), axis=-1)
    return np.argsort(order, axis=-1).astype(np.int64)


def label(
    prompts: Sequence[str],
    completions_per_prompt: Sequence[Sequence[str]],
    score_fn: Callable[[list[str], list[str]], Sequence[float]],
    temperature: float,
    rng: np.random.Generator,
) -> list[Ranking]:
    """Rank the completions of each prompt as a noisy labeller who sees the gold score.

    Args:
        prompts: ``N`` texts.
        completions_per_prompt: ``N`` lists of at least 2 texts each.
        score_fn: maps equally long lists of prompts and completions to gold scores.
        temperature: see :func:`plackett_luce_ranks`.
        rng: source of the noise.

    Returns:
        ``N`` rankings.

    Raises:
        ValueError: the lists are not equally long, a prompt has fewer than 2 completions, or a score is not finite.
    """
    rankings = []
    for prompt, completions in zip(prompts, completions_per_prompt, strict=True):
        scores = score_fn([prompt] * len(completions), list(completions))
        if len(scores) != len(completions):
            raise ValueError(f"score_fn gave {len(scores)} scores for the {len(completions)} completions of {prompt!r}")
        ranks = plackett_luce_ranks(scores, temperature, rng)
        rankings.append(Ranking(prompt, tuple(completions), tuple(ranks.tolist())))
    return rankings


def simulated_ranks(
    scores: ArrayLike,
    temperature: float,
    rng: np.random.Generator,
    error_rate: float = 0.0,
    threshold: float = 0.0,
) -> IntArray:
    """Sample how a labeller ranks ``K`` completions who errs and cannot tell close ones apart.

    Two completions whose scores differ by less than the threshold tie. So do the ends of a chain of such neighbours, as
    ranks are a weak order. A tied group is ranked as one completion with the group's mean score, with the noise of
    :func:`plackett_luce_ranks`: ``P(i before j) = σ((S_i − S_j)/temperature)`` for means S of different groups.

    With probability ``error_rate`` the whole answer is instead a permutation drawn uniformly, without ties; for two
    completions it is then right in half of the cases.

    Args:
        scores: ``[..., K]`` gold scores.
        temperature: see :func:`plackett_luce_ranks`.
        rng: source of the noise. Without errors and threshold it is used as there.
        error_rate: share of answers that ignore the scores, from 0 to 1.
        threshold: the least difference that is noticed, in the units of the scores.

    Returns:
        ``[..., K]`` ranks, 0 for the best. A group's rank is the number of completions before it.

    Raises:
        ValueError: a number is out of its range, or a score is not finite.

    Source: error rate of 10 %: Christiano et al. 2017, arXiv:1706.03741, section 2.2.3, for pairs; threshold: the
    "equal" labeller of B-Pref, Lee et al. 2021, arXiv:2111.03026, for pairs.
    """
    s = _finite_scores(scores)
    _check_noise(temperature, error_rate, threshold)
    ranks = _group_ranks(s, temperature, threshold, rng) if threshold else plackett_luce_ranks(s, temperature, rng)
    if not error_rate:
        return ranks
    errs = rng.random(s.shape[:-1]) < error_rate
    uniform = np.argsort(rng.random(s.shape), axis=-1).astype(np.int64)
    return np.where(errs[..., None], uniform, ranks)


def _group_ranks(s: FloatArray, temperature: float, threshold: float, rng: np.random.Generator) -> IntArray:
    means, groups = _groups(s, threshold)
    if temperature == 0:
        return plackett_luce_ranks(means, 0.0, rng)
    # One draw a group: its members share that of the member whose number names the group.
    noise = np.take_along_axis(rng.gumbel(size=s.shape), groups, axis=-1)
    return plackett_luce_ranks(means / temperature + noise, 0.0, rng)


def _groups(s: FloatArray, threshold: float) -> tuple[FloatArray, IntArray]:
    """Return each completion's group as ``[..., K]``: its mean score, and the number of one of its members."""
    order = np.argsort(s, axis=-1, kind="stable")
    ascending = np.take_along_axis(s, order, axis=-1)
    # In ascending order a group ends where the step to the next score is at least the threshold.
    steps = np.diff(ascending, axis=-1) >= threshold
    label = np.concatenate([np.zeros((*s.shape[:-1], 1), np.int64), np.cumsum(steps, axis=-1)], axis=-1)
    together = label[..., :, None] == label[..., None, :]
    means = (together * ascending[..., None, :]).sum(axis=-1) / together.sum(axis=-1)
    back = np.argsort(order, axis=-1)
    leaders = np.take_along_axis(order, together.argmax(axis=-1), axis=-1)
    return np.take_along_axis(means, back, axis=-1), np.take_along_axis(leaders, back, axis=-1)


def agreement_ceiling(scores: ArrayLike, temperature: float, error_rate: float = 0.0, threshold: float = 0.0) -> float:
    """Compute the expected pairwise accuracy of the gold scores on labels of :func:`simulated_ranks`.

    No reward model can be expected to agree more with such labels. Without errors and threshold it is the mean over
    pairs of ``σ(|s_i − s_j|/temperature)``, and equal scores count ½. With an error rate e it is the share of the
    expected number of pairs that a label orders: of a pair in different groups ``(1 − e)·σ(|S_i − S_j|/temperature) +
    e/2`` are right, and a pair that ties is ordered in errors alone, where half are right.

    Args:
        scores: ``[..., K]`` gold scores, K at least 2.
        temperature: the temperature with which the labels were drawn.
        error_rate: their error rate.
        threshold: their threshold.

    Raises:
        ValueError: see :func:`simulated_ranks`; or there is no pair, or none that a label would order.
    """
    right, ordered = _ordered_rightly(_finite_scores(scores), temperature, error_rate, threshold)
    if ordered == 0:
        raise ValueError(f"threshold={threshold!r} ties all completions, so no pair is ordered; expected a smaller one")
    return right / ordered


def _ordered_rightly(s: FloatArray, temperature: float, error_rate: float, threshold: float) -> tuple[float, float]:
    """Return the expected number of pairs that labels order as the scores do, and of those that they order."""
    _check_noise(temperature, error_rate, threshold)
    if s.shape[-1] < 2 or s.size == 0:
        raise ValueError(f"scores: expected [..., K] with at least 2 completions, got shape {s.shape}")
    first, second = np.triu_indices(s.shape[-1], k=1)
    means = _groups(s, threshold)[0] if threshold else s
    gap = np.abs(means[..., first] - means[..., second])
    # The gap is at least 0, so the exponential cannot overflow.
    right = np.where(gap > 0, 1.0, 0.5) if temperature == 0 else 1 / (1 + np.exp(-gap / temperature))
    if not (error_rate or threshold):
        return float(right.sum()), float(right.size)
    tied = gap == 0 if threshold or temperature == 0 else np.zeros(gap.shape, bool)
    ordered = np.where(tied, 0.0, 1 - error_rate)
    return float((ordered * right + error_rate / 2).sum()), float((ordered + error_rate).sum())


def _finite_scores(scores: ArrayLike) -> FloatArray:
    s = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(s).all():
        raise ValueError(f"scores: expected finite numbers, got {s!r:.200}")
    return s


def _check_temperature(temperature: float) -> None:
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature: expected a finite number of at least 0, got {temperature!r}")


def _check_noise(temperature: float, error_rate: float, threshold: float) -> None:
    _check_temperature(temperature)
    if not 0 <= error_rate <= 1:
        raise ValueError(f"error_rate: expected a share from 0 to 1, got {error_rate!r}")
    if not (math.isfinite(threshold) and threshold >= 0):
        raise ValueError(f"threshold: expected a finite number of at least 0, got {threshold!r}")
