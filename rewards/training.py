"""Training a reward model from ranked completions, or from labels of single ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from textgym.lm.finite import check_step, check_trained, naming_batch
from textgym.progress import Progress
from textgym.prompts import cut_left
from textgym.rewards.evaluation import accuracy_by_distance, pair_accuracy, pair_margins
from textgym.rewards.model import RewardModel
from textgym.rewards.preferences import Preference, completions_of, untied_pairs
from textgym.rewards.rankings import split_rankings
from textgym.rewards.settings import FitSettings
from textgym.rows import BadRowError, Place, Screening, TooLongError, in_file_order, placed
from textgym.tokenization import encode_content, warn_of_special_strings, words_of
from textgym.types import Messages, Ranking

Value = TypeVar("Value")

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


def binary_loss(scores: Tensor, good: Tensor) -> Tensor:
    """``−log σ(r)`` for a good completion and ``−log σ(−r)`` for a bad one, the mean over ``B``.

    Args:
        scores: ``[B]`` r, differentiable.
        good: ``[B]`` bool.

    Returns:
        ``[]``.
    """
    return -logsigmoid(torch.where(good, scores, -scores)).mean()


def train_reward_model(
    model: RewardModel,
    rankings: Sequence[Ranking],
    *,
    learning_rate: float,
    generator: torch.Generator,
    demonstrations: Sequence[tuple[str | Messages, str]] | None = None,
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
    settings = FitSettings(learning_rate, epochs, batch_size)
    if isinstance(heldout, float | int):
        train, aside = split_rankings(rankings, heldout, generator)
    else:
        train, aside = list(rankings), list(heldout)
    examples = encode_preferences(model, train, "rankings")
    examples_aside = encode_preferences(model, aside, "heldout")
    shown = [model.encode(prompt, completion) for prompt, completion in demonstrations or []]
    losses = fit(model, examples, settings, generator, progress)
    if shown:
        center(model, shown)
    scores = split_like(examples_aside, model.score_ids(sequences_of(examples_aside)))
    pairs = [pair_margins(own, r.ranks) for own, r in zip(scores, aside, strict=True)]
    margins, distances = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return RewardModelReport(
        train_loss=tuple(losses),
        train_pairs=sum(untied_pairs(r.ranks) for r in train),
        heldout_pairs=len(margins),
        heldout_loss=mean_loss(examples_aside, scores),
        heldout_accuracy=pair_accuracy(margins) or 0.0,
        accuracy_by_rank_distance=accuracy_by_distance(margins, distances),
        offset=model.offset,
    )


@dataclass(frozen=True)
class Example:
    """A preference as a reward model reads it: each completion is encoded once.

    Attributes:
        preference: what the labeller said.
        sequences: prompt and completion as tokens, for each completion.
    """

    preference: Preference
    sequences: list[list[int]]

    @property
    def prompt(self) -> str | Messages:
        """The prompt: a text or a conversation."""
        return self.preference.prompt


def encode_preferences(
    model: RewardModel,
    preferences: Sequence[Preference] | Mapping[Place, Preference],
    source: str,
    screening: Screening | None = None,
) -> list[Example]:
    """Encode preferences as the model reads them.

    Args:
        model: reads.
        preferences: of one kind; or preferences by their places in a file.
        source: what an error calls them.
        screening: accounts for those that cannot be learned from; without it they are errors.

    Raises:
        ValueError: there is none, or one cannot be learned from. The message names ``source`` and the row, from 1.
    """
    screening = screening or Screening()
    given = placed(preferences, source)
    if not given:
        raise ValueError(f"{source}: got no rankings, expected at least one")
    examples: dict[Place, Example] = {}
    for place, preference in given.items():
        with screening.row(place):
            try:
                examples[place] = _example(model, preference, screening)
            except BadRowError as error:
                raise type(error)(f"{error} (prompt {words_of(preference.prompt)[-1][:60]!r})") from error
    if model.special_tokens == "text":
        texts = {at: [*words_of(e.prompt), *completions_of(e.preference)] for at, e in examples.items()}
        warn_of_special_strings(model.tokenizer, in_file_order(texts), source)
    screening.require_some(examples, source)
    return list(examples.values())


def _example(model: RewardModel, preference: Preference, screening: Screening) -> Example:
    completions = completions_of(preference)
    if isinstance(preference, Ranking) and not untied_pairs(preference.ranks):
        raise BadRowError("all ranks are tied, which teaches nothing; drop the row")
    if not all(completions) and model.tokenizer.eos_token_id is None:
        raise BadRowError("a completion is empty, and the tokenizer has no end token to read")
    sequences = fitted_sequences(model, preference.prompt, completions, screening)
    return Example(preference, sequences)


def fitted_sequences(
    model: RewardModel, prompt: str | Messages, completions: Sequence[str], screening: Screening
) -> list[list[int]]:
    """Return the tokens that the model reads of each completion of one prompt.

    Where the longest does not fit, under ``truncation="left"``, all of them lose the same tokens from the beginning of
    the prompt, but a start token that stands there.

    Raises:
        BadRowError: there is nothing to read, or the chat template refuses the conversation.
        TooLongError: a sequence is too long, and no prompt may be shortened, or that is not enough.
    """
    try:
        if model.limit is None or model.too_long == "truncate":
            return [model.encode(prompt, completion) for completion in completions]
        sequences = [model.tokens(prompt, completion) for completion in completions]
    except ValueError as error:
        raise BadRowError(str(error)) from error
    if not all(sequences):
        raise BadRowError("prompt and completion are empty, and the tokenizer has no end token to read")
    longest = max(map(len, sequences))
    surplus = longest - model.limit
    if surplus <= 0:
        return sequences
    asked = len(encode_content(model.tokenizer, prompt, special_tokens=model.special_tokens))
    if screening.truncation != "left" or surplus >= asked:
        mend = "leave it out" if screening.truncation == "left" else "set truncation to 'left' or 'drop'"
        raise TooLongError(
            f"prompt and completion have {longest} tokens, the reward model reads at most {model.limit}; shorten the "
            f"row, or {mend}"
        )
    screening.shortened += 1
    return [list(cut_left(ids, len(ids) - surplus, model.tokenizer)) for ids in sequences]


def fit(
    model: RewardModel,
    examples: Sequence[Example],
    settings: FitSettings,
    generator: torch.Generator,
    progress: bool = True,
    on_step: Callable[[Sequence[float]], None] = lambda _: None,
) -> list[float]:
    """Fit the model, in place, and forget its offset; the loss of each step. See :func:`train_reward_model`.

    ``on_step`` is called after each step with all losses up to then.
    """
    parameters = [p for p in model.model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate, eps=1e-5)
    order = torch.cat([torch.randperm(len(examples), generator=generator) for _ in range(settings.epochs)])
    batches = torch.split(order, settings.batch_size)
    losses = []
    with Progress(len(batches), "reward model", "batch", silent=not progress) as bar:
        for step, rows in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _schedule(step, len(batches))
            batch = [examples[i] for i in rows.tolist()]
            loss = _loss(batch, model.raw_scores(sequences_of(batch)))
            optimizer.zero_grad()
            loss.backward()
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM))
            with naming_batch([asdict(example.preference) for example in batch]):
                check_step(float(loss.detach()), norm, optimizer.param_groups[0]["lr"])
            optimizer.step()
            losses.append(loss.item())
            bar.reach(step + 1)
            bar.show(f"loss {losses[-1]:.3f}")
            on_step(losses)
    check_trained(model.model, settings.learning_rate, optimizer)
    model.set_offset(0.0)
    model.set_special_tokens(model.special_tokens)  # as they were read here, they are read from now on
    return losses


def center(model: RewardModel, sequences: Sequence[Sequence[int]]) -> None:
    """Set the model's offset so that these sequences score 0 on average."""
    model.set_offset(0.0)
    model.set_offset(math.fsum(model.score_ids(sequences)) / len(sequences))


def sequences_of(examples: Sequence[Example]) -> list[list[int]]:
    """All sequences, one example's after another's."""
    return [sequence for example in examples for sequence in example.sequences]


def split_like(examples: Sequence[Example], values: Sequence[Value]) -> list[list[Value]]:
    """One value for each of :func:`sequences_of`, as one list for each example."""
    rest = iter(values)
    return [list(islice(rest, len(example.sequences))) for example in examples]


def mean_loss(examples: Sequence[Example], scores: Sequence[Sequence[float]]) -> float:
    """Return the loss that scores have on what the labeller said; log 2 is guessing."""
    return _loss(examples, torch.tensor([score for own in scores for score in own])).item()


def _schedule(step: int, steps: int) -> float:
    """Factor of the learning rate: up over the first 5 % of the steps, then down to 0 after the last."""
    warmup = max(1, round(WARMUP * steps))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def _loss(examples: Sequence[Example], scores: Tensor) -> Tensor:
    """Return the mean over examples of their losses; K may differ between them."""
    parts = torch.split(scores, [len(example.sequences) for example in examples])
    losses = [_example_loss(example.preference, own) for example, own in zip(examples, parts, strict=True)]
    return torch.stack(losses).mean()


def _example_loss(preference: Preference, scores: Tensor) -> Tensor:
    if isinstance(preference, Ranking):
        return kwise_loss(scores[None], torch.tensor([preference.ranks], device=scores.device))
    return binary_loss(scores, torch.tensor([preference.good], device=scores.device))
