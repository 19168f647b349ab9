"""Ranked completions: files, simulated labellers, and the accuracy that their noise allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike

from textgym.files import write_json_lines
from textgym.prompts import content_key, plain_content
from textgym.rewards.preferences import Render, read_preferences
from textgym.rows import Screening
from textgym.types import FloatArray, IntArray, Messages, Ranking


class HasPrompt(Protocol):
    """A ranking, a judgement, or either as tokens."""

    @property
    def prompt(self) -> str | Messages: ...


Asked = TypeVar("Asked", bound=HasPrompt)


def read_rankings(path: str | Path, render: Render | None = None, screening: Screening | None = None) -> list[Ranking]:
    """Read rankings and pairs; see :func:`textgym.rewards.preferences.read_preferences`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row cannot be learned from; the message names the file and the row.
    """
    found = read_preferences(path, render, screening)
    rankings = [r for r in found if isinstance(r, Ranking)]
    if len(rankings) < len(found):
        raise ValueError(f"{path} holds labels of single completions; expected rankings or pairs")
    return rankings


def write_rankings(path: str | Path, rankings: Iterable[Ranking]) -> None:
    """Write JSON Lines ``{"prompt", "completions", "ranks"}``, one ranking a line."""
    write_json_lines(
        path,
        (
            {"prompt": plain_content(r.prompt), "completions": list(r.completions), "ranks": list(r.ranks)}
            for r in rankings
        ),
    )


def plackett_luce_ranks(scores: ArrayLike, temperature: float, rng: np.random.Generator) -> IntArray:
    """Sample how a noisy labeller ranks ``K`` completions.

    The ranking is drawn from the Plackett–Luce model: the best is chosen with probability
    softmax(scores/temperature), then the second from those that remain, and so on. Its pairwise marginals
    are Bradley–Terry, the model that the K-wise loss fits: ``P(i before j) = σ((s_i − s_j)/temperature)``.

    Args:
        scores: ``[..., K]`` gold scores.
        temperature: the labeller's noise, in the units of the scores. 0 gives the noiseless order, in which
            equal scores share a rank.
        rng: where the noise comes from.

    Returns:
        ``[..., K]`` ranks, 0 for the best.

    Raises:
        ValueError: the temperature is negative or not finite, or a score is not finite.

    Source: Plackett 1975; sampling by Gumbel noise: Yellott 1977.
    """
    s = _scores(scores)
    _check_temperature(temperature)
    if temperature == 0:
        better = s[..., None, :] > s[..., :, None]
        ranks: IntArray = better.sum(axis=-1, dtype=np.int64)
        return ranks
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
        score_fn: from equally long lists of prompts and completions to gold scores.
        temperature: see :func:`plackett_luce_ranks`.
        rng: where the noise comes from.

    Returns:
        ``N`` rankings.

    Raises:
        ValueError: the lists are not equally long, a prompt has fewer than 2 completions, or a score is not
            finite.
    """
    rankings = []
    for prompt, completions in zip(prompts, completions_per_prompt, strict=True):
        scores = score_fn([prompt] * len(completions), list(completions))
        if len(scores) != len(completions):
            raise ValueError(f"score_fn gave {len(scores)} scores for the {len(completions)} completions of {prompt!r}")
        ranks = plackett_luce_ranks(scores, temperature, rng)
        rankings.append(Ranking(prompt, tuple(completions), tuple(ranks.tolist())))
    return rankings


def agreement_ceiling(scores: ArrayLike, temperature: float) -> float:
    """Return the pairwise accuracy that even the gold scores reach on labels of :func:`plackett_luce_ranks`.

    The mean over pairs of ``σ(|s_i − s_j|/temperature)``: no reward model is expected to agree more with such
    labels. Equal scores count ½.

    Args:
        scores: ``[..., K]`` gold scores, K at least 2.
        temperature: as the labels were drawn.

    Raises:
        ValueError: as :func:`plackett_luce_ranks`, or there is no pair.
    """
    s = _scores(scores)
    _check_temperature(temperature)
    if s.shape[-1] < 2 or s.size == 0:
        raise ValueError(f"scores: expected [..., K] with at least 2 completions, got shape {s.shape}")
    first, second = np.triu_indices(s.shape[-1], k=1)
    gap = np.abs(s[..., first] - s[..., second])
    if temperature == 0:
        return float(np.where(gap > 0, 1.0, 0.5).mean())
    return float((1 / (1 + np.exp(-gap / temperature))).mean())


def split_rankings(
    rankings: Sequence[Asked], heldout: float, generator: torch.Generator
) -> tuple[list[Asked], list[Asked]]:
    """Put about a share ``heldout`` of the *prompts* aside; what was said of one prompt stays
    together.

    Returns:
        What is for training, and those held out, at least one each.

    Raises:
        ValueError: the share is not between 0 and 1, or there is only one prompt.
    """
    prompts = list(dict.fromkeys(content_key(r.prompt) for r in rankings))
    if not 0 < heldout < 1:
        raise ValueError(f"heldout: expected a share between 0 and 1, or a list of rankings, got {heldout!r}")
    if len(prompts) < 2:
        raise ValueError(
            f"heldout: a share is taken by prompt, none being in both parts, but there are {len(prompts)}: "
            "pass the held-out rankings themselves as a list"
        )
    count = min(max(1, round(heldout * len(prompts))), len(prompts) - 1)
    aside = {prompts[i] for i in torch.randperm(len(prompts), generator=generator)[:count].tolist()}
    held = [content_key(r.prompt) in aside for r in rankings]
    kept, out = ([r for r, is_held in zip(rankings, held, strict=True) if is_held is side] for side in (False, True))
    return kept, out


def _scores(scores: ArrayLike) -> FloatArray:
    s = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(s).all():
        raise ValueError(f"scores: expected finite numbers, got {s!r:.200}")
    return s


def _check_temperature(temperature: float) -> None:
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature: expected a finite number of at least 0, got {temperature!r}")
