"""Training a reward model from ranked completions, or from labels of single ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from textgym.lm.guards import check_step, check_trained, naming_batch
from textgym.progress import Progress
from textgym.prompts import cut_left
from textgym.rewards.labels.pairs import accuracy_by_distance, pair_accuracy, pair_margins
from textgym.rewards.labels.preferences import Preference, completions_of, untied_pairs
from textgym.rewards.labels.rankings import split_rankings
from textgym.rewards.models.model import RewardModel
from textgym.rewards.models.settings import FitSettings
from textgym.rows import BadRowError, Place, Screening, TooLongError, in_file_order, placed
from textgym.tokenization import encode_content, warn_of_special_strings, words_of
from textgym.types import Messages, Ranking

Value = TypeVar("Value")
Taught = TypeVar("Taught")

WARMUP = 0.05  # share of the steps over which the learning rate rises
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class RewardModelReport:
    """Results of training a reward model.

    Attributes:
        train_loss: the K-wise loss of each step, in nats per pair.
        train_pairs: number of untied training pairs in one epoch.
        heldout_pairs: number of untied held-out pairs; if a share was held out, training saw none of their prompts.
        heldout_loss: K-wise loss on the held-out rankings; log 2 is chance.
        heldout_accuracy: share of held-out pairs that the model orders as the labeller did; an equal score counts ½.
        accuracy_by_rank_distance: the same, for pairs 1, 2, … ranks apart.
        offset: value that is subtracted so that demonstrations score 0; 0 without demonstrations.
    """

    train_loss: tuple[float, ...]
    train_pairs: int
    heldout_pairs: int
    heldout_loss: float
    heldout_accuracy: float
    accuracy_by_rank_distance: dict[int, float]
    offset: float


def kwise_loss(scores: Tensor, ranks: Tensor) -> Tensor:
    """Compute ``−1/C(K,2) · Σ_{w before l} log σ(r_w − r_l)``, the mean over ``B`` prompts.

    All pairs of a prompt are in one batch element, so each completion is encoded once and no prompt is seen K−1 times.
    Tied pairs contribute nothing, but the divisor stays C(K,2): every pair has the same weight, however many ties there
    are.

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
    # ``logsigmoid`` is finite for all margins. log(sigmoid) would be −inf for some that the mask then multiplies by 0,
    # which gives NaN.
    per_prompt = -(logsigmoid(margin) * before).sum(dim=(1, 2)) / (k * (k - 1) / 2)
    return per_prompt.mean()


def binary_loss(scores: Tensor, good: Tensor) -> Tensor:
    """Compute ``−log σ(r)`` for good and ``−log σ(−r)`` for bad completions, the mean over ``B``.

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
    """Fit a reward model, in place, to a labeller's preferences.

    The optimizer is Adam (ε = 1e-5) with a short linear warm-up, linear decay to 0, and gradients clipped at norm 1.
    Dropout is off. Every completion is read with its end token.

    Args:
        model: usually from :meth:`RewardModel.from_causal_lm`.
        rankings: labelled completions; K may differ between them.
        learning_rate: the peak learning rate.
        generator: draws the held-out prompts and the order of the batches.
        demonstrations: ``(prompt, completion)`` pairs; their mean score becomes the model's offset.
        heldout: share of the prompts to hold out, or the held-out rankings themselves.
        epochs: passes over the data. More than one overfits quickly (Ouyang et al. 2022, appendix C.2).
        batch_size: prompts in one step, each with its K completions.
        progress: show a progress bar.

    Raises:
        ValueError: a setting is out of range or a ranking cannot be used; the message names the row. It is raised
            before training starts.
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
        heldout_loss=mean_preference_loss(examples_aside, scores),
        heldout_accuracy=pair_accuracy(margins) or 0.0,
        accuracy_by_rank_distance=accuracy_by_distance(margins, distances),
        offset=model.offset,
    )


@dataclass(frozen=True)
class EncodedPreference:
    """Preference as a reward model reads it: each completion is encoded once.

    Attributes:
        preference: the ranking or judgement.
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
) -> list[EncodedPreference]:
    """Encode preferences as the model reads them.

    Args:
        model: the reward model.
        preferences: preferences of one kind, optionally keyed by their places in a file.
        source: the name of the data in error messages.
        screening: records rows that cannot be used; without it they are errors.

    Raises:
        ValueError: there is no preference, or one cannot be used. The message names ``source`` and the row, from 1.
    """
    screening = screening or Screening()
    given = placed(preferences, source)
    if not given:
        raise ValueError(f"{source}: got no rankings, expected at least one")
    examples: dict[Place, EncodedPreference] = {}
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


def _example(model: RewardModel, preference: Preference, screening: Screening) -> EncodedPreference:
    completions = completions_of(preference)
    if isinstance(preference, Ranking) and not untied_pairs(preference.ranks):
        raise BadRowError("all ranks are tied, which teaches nothing; drop the row")
    if not all(completions) and model.tokenizer.eos_token_id is None:
        raise BadRowError("a completion is empty, and the tokenizer has no end token to read")
    sequences = fitted_sequences(model, preference.prompt, completions, screening)
    return EncodedPreference(preference, sequences)


def fitted_sequences(
    model: RewardModel, prompt: str | Messages, completions: Sequence[str], screening: Screening
) -> list[list[int]]:
    """Return the tokens of each completion of one prompt, at most as many as the model accepts.

    If the longest does not fit, ``truncation="left"`` removes the same tokens from the beginning of the prompt for all
    of them; a start token there is kept.

    Raises:
        BadRowError: there is nothing to read, or the chat template rejects the conversation.
        TooLongError: a sequence is too long, and prompts may not be shortened, or that is not enough.
    """
    try:
        if model.limit is None or model.too_long == "truncate":
            return [model.encode(prompt, completion) for completion in completions]
        sequences = [model.tokens(prompt, completion) for completion in completions]
    except ValueError as error:
        raise BadRowError(str(error)) from error
    if not all(sequences):
        raise BadRowError("prompt and completion are empty, and the tokenizer has no end token to read")
    # All completions of a prompt must follow the same prompt, or their scores would not be comparable.
    longest = max(map(len, sequences))
    surplus = longest - model.limit
    if surplus <= 0:
        return sequences
    asked = len(encode_content(model.tokenizer, prompt, special_tokens=model.special_tokens))
    if screening.truncation != "left" or surplus >= asked:
        fix = "leave it out" if screening.truncation == "left" else "set truncation to 'left' or 'drop'"
        raise TooLongError(
            f"prompt and completion have {longest} tokens, the reward model reads at most {model.limit}; shorten the "
            f"row, or {fix}"
        )
    screening.shortened += 1
    return [list(cut_left(ids, len(ids) - surplus, model.tokenizer)) for ids in sequences]


def fit(
    model: RewardModel,
    examples: Sequence[EncodedPreference],
    settings: FitSettings,
    generator: torch.Generator,
    progress: bool = True,
    on_step: Callable[[Sequence[float]], None] = lambda _: None,
) -> list[float]:
    """Fit the model in place, reset its offset to 0, and return the loss of each step. See :func:`train_reward_model`.

    ``on_step`` is called after each step with all losses so far.
    """
    losses = descend(
        model,
        examples,
        settings,
        generator,
        loss=lambda batch: _loss(batch, model.raw_scores(sequences_of(batch))),
        described=lambda example: asdict(example.preference),
        name="" if not progress else "reward model",
        on_step=on_step,
    )
    model.set_offset(0.0)  # the old offset belonged to the old scores
    model.set_special_tokens(model.special_tokens)  # writes the treatment used in training into the config
    return losses


def descend(
    model: RewardModel,
    examples: Sequence[Taught],
    settings: FitSettings,
    generator: torch.Generator,
    *,
    loss: Callable[[Sequence[Taught]], Tensor],
    described: Callable[[Taught], Mapping[str, Any]],
    name: str,
    on_step: Callable[[Sequence[float]], None],
) -> list[float]:
    """Take a gradient step for each batch of shuffled examples, with Adam, and return the loss of each.

    Args:
        model: its trainable weights are changed in place.
        examples: what it learns from.
        settings: learning rate, epochs and batch size.
        generator: shuffles; each epoch is a permutation, and a batch may span two of them.
        loss: of a batch.
        described: an example as an error shows it.
        name: of the work, on the progress bar; empty for no bar.
        on_step: called after each step with all losses so far.

    Raises:
        TrainingError: a loss, a gradient or a weight is not finite.
    """
    parameters = [p for p in model.model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate, eps=1e-5)
    order = torch.cat([torch.randperm(len(examples), generator=generator) for _ in range(settings.epochs)])
    batches = torch.split(order, settings.batch_size)
    losses: list[float] = []
    with Progress(len(batches), name, "batch", silent=not name) as bar:
        for step, rows in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * rate_factor(step, len(batches))
            batch = [examples[i] for i in rows.tolist()]
            value = loss(batch)
            optimizer.zero_grad()
            value.backward()
            # The norm before clipping. A NaN in one gradient makes it NaN, and check_step stops before any weight is.
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM))
            with naming_batch([described(example) for example in batch]):
                check_step(float(value.detach()), norm, optimizer.param_groups[0]["lr"])
            optimizer.step()
            losses.append(value.item())
            bar.reach(step + 1)
            bar.show(f"loss {losses[-1]:.3f}")
            on_step(losses)
    # The last step is not followed by a check_step that would notice its result.
    check_trained(model.model, settings.learning_rate, optimizer)
    return losses


def center(model: RewardModel, sequences: Sequence[Sequence[int]]) -> None:
    """Set the model's offset so that these sequences score 0 on average."""
    model.set_offset(0.0)
    # ``score_ids`` subtracts the offset, so it was set to 0 first.
    # ``fsum`` makes the mean independent of the order of the sequences.
    model.set_offset(math.fsum(model.score_ids(sequences)) / len(sequences))


def sequences_of(examples: Sequence[EncodedPreference]) -> list[list[int]]:
    """Return all sequences, in the order of their examples."""
    return [sequence for example in examples for sequence in example.sequences]


def split_like(examples: Sequence[EncodedPreference], values: Sequence[Value]) -> list[list[Value]]:
    """Group one value for each of :func:`sequences_of` into one list for each example."""
    rest = iter(values)
    return [list(islice(rest, len(example.sequences))) for example in examples]


def mean_preference_loss(examples: Sequence[EncodedPreference], scores: Sequence[Sequence[float]]) -> float:
    """Compute the loss of scores on preferences; log 2 is chance."""
    return _loss(examples, torch.tensor([score for own in scores for score in own])).item()


def rate_factor(step: int, steps: int) -> float:
    """Return the factor of the learning rate: up over the first 5 % of the steps, then down to 0 after the last."""
    # At least one step, so that the division is defined and a single step trains at the full rate.
    warmup = max(1, round(WARMUP * steps))
    # The minimum of a rising and a falling line, which cross where the warm-up ends.
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def _loss(examples: Sequence[EncodedPreference], scores: Tensor) -> Tensor:
    """Return the mean of the losses of examples; K may differ between them."""
    parts = torch.split(scores, [len(example.sequences) for example in examples])
    losses = [_example_loss(example.preference, own) for example, own in zip(examples, parts, strict=True)]
    return torch.stack(losses).mean()


def _example_loss(preference: Preference, scores: Tensor) -> Tensor:
    if isinstance(preference, Ranking):
        return kwise_loss(scores[None], torch.tensor([preference.ranks], device=scores.device))
    return binary_loss(scores, torch.tensor([preference.good], device=scores.device))
