"""Training a reward model from ranked completions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from tqdm import tqdm

from textgym.rewards.model import RewardModel
from textgym.rewards.rankings import split_rankings
from textgym.types import Ranking

WARMUP = 0.05  # share of the steps over which the learning rate rises
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class RewardModelReport:
    """What training a reward model gave.

    Attributes:
        train_loss: the K-wise loss of each step, in nats per pair.
        train_pairs: untied pairs that were trained on, in one epoch.
        heldout_pairs: untied pairs that were held out; they are of prompts that training never saw, if a
            share was held out.
        heldout_loss: K-wise loss on the held-out rankings; log 2 is guessing.
        heldout_accuracy: share of held-out pairs that the model orders as the labeller did; an equal score
            counts ½.
        accuracy_by_rank_distance: the same, for pairs 1, 2, … ranks apart.
        offset: what is subtracted so that demonstrations score 0; 0 without demonstrations.
    """

    train_loss: tuple[float, ...]
    train_pairs: int
    heldout_pairs: int
    heldout_loss: float
    heldout_accuracy: float
    accuracy_by_rank_distance: dict[int, float]
    offset: float


def kwise_loss(scores: Tensor, ranks: Tensor) -> Tensor:
    """``−1/C(K,2) · Σ_{w before l} log σ(r_w − r_l)``, the mean over ``B`` prompts.

    All pairs of a prompt stand in one batch element, so each completion is encoded once and no prompt is
    seen K−1 times. Tied pairs contribute nothing, and the divisor stays C(K,2): every pair weighs the same,
    however many of its neighbours are tied.

    Args:
        scores: ``[B, K]`` r, differentiable.
        ranks: ``[B, K]`` integers, 0 for the best.

    Returns:
        ``[]``.

    Raises:
        ValueError: the shapes differ, or K is less than 2.

    Source: Ouyang et al. 2022, arXiv:2203.02155, eq. 1.
    """
    if scores.ndim != 2 or scores.shape != ranks.shape or scores.shape[1] < 2:
        raise ValueError(
            f"expected scores and ranks of one shape [B, K] with K ≥ 2, got {list(scores.shape)} and "
            f"{list(ranks.shape)}"
        )
    k = scores.shape[1]
    margin = scores[:, :, None] - scores[:, None, :]  # [B, w, l]
    before = ranks[:, :, None] < ranks[:, None, :]
    per_prompt = -(logsigmoid(margin) * before).sum(dim=(1, 2)) / (k * (k - 1) / 2)
    return per_prompt.mean()


def train_reward_model(
    model: RewardModel,
    rankings: Sequence[Ranking],
    *,
    learning_rate: float,
    generator: torch.Generator,
    demonstrations: Sequence[tuple[str, str]] | None = None,
    heldout: float | Sequence[Ranking] = 0.1,
    epochs: int = 1,
    batch_size: int = 8,
    progress: bool = True,
) -> RewardModelReport:
    """Fit a reward model, in place, to what a labeller preferred.

    Adam (ε = 1e-5), a short linear warm-up and linear decay to 0, gradients clipped at norm 1, dropout off.
    Every completion is read with its end token.

    Args:
        model: usually from :meth:`RewardModel.from_causal_lm`.
        rankings: labelled completions; K may differ between them.
        learning_rate: at its peak.
        generator: draws the held-out prompts and the order of the batches.
        demonstrations: ``(prompt, completion)`` pairs; their mean score becomes the model's offset.
        heldout: share of the prompts to hold out, or the held-out rankings themselves.
        epochs: passes over the data. More than one overfits quickly (Ouyang et al. 2022, appendix C.2).
        batch_size: prompts in one step; each brings its K completions.
        progress: show a progress bar.

    Raises:
        ValueError: a setting is out of range or a ranking cannot be learned from; the message names the
            row. Nothing has been trained then.
    """
    _check_settings(learning_rate, epochs, batch_size)
    if isinstance(heldout, float | int):
        train, aside = split_rankings(rankings, heldout, generator)
    else:
        train, aside = list(rankings), list(heldout)
    encoded = _encoded(model, train, "rankings")
    encoded_aside = _encoded(model, aside, "heldout")
    shown = [model.encode(prompt, completion) for prompt, completion in demonstrations or []]
    losses = _fit(model, encoded, learning_rate, epochs, batch_size, generator, progress)
    model.set_offset(0.0)
    if shown:
        model.set_offset(sum(model.score_ids(shown)) / len(shown))
    loss, by_distance = _evaluated(model, encoded_aside)
    hits = [hit for distance_hits in by_distance.values() for hit in distance_hits]
    return RewardModelReport(
        train_loss=tuple(losses),
        train_pairs=sum(_untied(item.ranks) for item in encoded),
        heldout_pairs=len(hits),
        heldout_loss=loss,
        heldout_accuracy=sum(hits) / len(hits),
        accuracy_by_rank_distance={d: sum(h) / len(h) for d, h in sorted(by_distance.items())},
        offset=model.offset,
    )


@dataclass(frozen=True)
class _Encoded:
    sequences: list[list[int]]
    ranks: tuple[int, ...]


def _encoded(model: RewardModel, rankings: Sequence[Ranking], argument: str) -> list[_Encoded]:
    if not rankings:
        raise ValueError(f"{argument}: got no rankings, expected at least one")
    encoded = []
    for row, ranking in enumerate(rankings):
        where = f"{argument}, row {row} (prompt {ranking.prompt[:60]!r})"
        if not _untied(ranking.ranks):
            raise ValueError(f"{where}: all ranks are tied, which teaches nothing; drop the row")
        if not all(ranking.completions) and model.tokenizer.eos_token_id is None:
            raise ValueError(f"{where}: a completion is empty, and the tokenizer has no end token to read")
        try:
            sequences = [model.encode(ranking.prompt, completion) for completion in ranking.completions]
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        encoded.append(_Encoded(sequences, ranking.ranks))
    return encoded


def _fit(
    model: RewardModel,
    data: list[_Encoded],
    learning_rate: float,
    epochs: int,
    batch_size: int,
    generator: torch.Generator,
    progress: bool,
) -> list[float]:
    parameters = [p for p in model.model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, eps=1e-5)
    order = torch.cat([torch.randperm(len(data), generator=generator) for _ in range(epochs)])
    batches = torch.split(order, batch_size)
    losses = []
    with tqdm(batches, desc="reward model", unit="batch", disable=not progress) as bar:
        for step, rows in enumerate(bar):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _schedule(step, len(batches))
            loss = _loss(model, [data[i] for i in rows.tolist()])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
            optimizer.step()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
    return losses


def _schedule(step: int, steps: int) -> float:
    """Factor of the learning rate: up over the first 5 % of the steps, then down to 0 after the last."""
    warmup = max(1, round(WARMUP * steps))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def _loss(model: RewardModel, items: Sequence[_Encoded]) -> Tensor:
    """The mean over prompts of the K-wise loss, in one forward pass; K may differ between the prompts."""
    scores = model.raw_scores([sequence for item in items for sequence in item.sequences])
    per_prompt = [
        kwise_loss(own[None], torch.tensor([item.ranks], device=own.device))
        for own, item in zip(torch.split(scores, [len(item.ranks) for item in items]), items, strict=True)
    ]
    return torch.stack(per_prompt).mean()


def _evaluated(model: RewardModel, data: Sequence[_Encoded]) -> tuple[float, dict[int, list[float]]]:
    """The K-wise loss, and by rank distance the hit of each pair: 1, ½ where the scores are equal, or 0."""
    losses: list[float] = []
    by_distance: dict[int, list[float]] = defaultdict(list)
    everyone = iter(model.score_ids([sequence for item in data for sequence in item.sequences]))
    for item in data:
        scores = list(islice(everyone, len(item.ranks)))
        losses.append(kwise_loss(torch.tensor([scores]), torch.tensor([item.ranks])).item())
        for (rank_i, score_i), (rank_j, score_j) in combinations(zip(item.ranks, scores, strict=True), 2):
            if rank_i != rank_j:
                margin = (score_i - score_j) * (rank_j - rank_i)
                by_distance[abs(rank_i - rank_j)].append(0.5 if margin == 0 else float(margin > 0))
    return sum(losses) / len(losses), by_distance


def _untied(ranks: Sequence[int]) -> int:
    return sum(i != j for i, j in combinations(ranks, 2))


def _check_settings(learning_rate: float, epochs: int, batch_size: int) -> None:
    if not learning_rate > 0:
        raise ValueError(f"learning_rate: expected a number greater than 0, got {learning_rate}")
    for name, value in {"epochs": epochs, "batch_size": batch_size}.items():
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
