"""Training of Ĥ on scalar feedback: TAMER (a linear head, exactly) and Deep TAMER (the whole model, by gradients)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from textgym.rewards.feedback.credit import credit_weights
from textgym.rewards.feedback.delays import Delay, Uniform
from textgym.rewards.feedback.model import FeedbackModel
from textgym.rewards.feedback.records import ShownResponse, feedback_row
from textgym.rewards.feedback.settings import FeedbackSettings
from textgym.rewards.labels.rankings import split_rankings
from textgym.rewards.models.last_token import linear_head, read_every_score, read_states
from textgym.rewards.models.model import READS_FEEDBACK, RewardModel
from textgym.rewards.models.training import descend
from textgym.rewards.shaping import last_tokens
from textgym.rows import BadRowError, Place, Screening, TooLongError, placed
from textgym.tokenization import decode_response, encode_content, encode_reply
from textgym.types import FloatArray, IntArray, Messages

ROUNDING = 1e-6
"""Singular values of the states below this share of the largest count as 0."""


@dataclass(frozen=True)
class FeedbackReport:
    """Results of training Ĥ.

    Attributes:
        train_loss: the loss of each step, per event; a single number for the exact solution.
        events: number of events that can mean some token, of all responses.
        without_credit: number of events that can mean none, which teach nothing.
        heldout: results of :func:`measure_feedback` on held-out prompts; None without any.
    """

    train_loss: tuple[float, ...]
    events: int
    without_credit: int
    heldout: dict[str, float] | None


@dataclass(frozen=True)
class CreditedResponse:
    """Response as a model of feedback reads it, with the credit of each event.

    Attributes:
        response: the record.
        ids: prompt and response as tokens.
        start: number of the prompt's tokens.
        weights: ``[E, n]`` credit of the events for the n tokens of the response; each row sums to 1.
        values: ``[E]`` values of the events.
        targets: ``[E, n]`` what each token is to predict of them: h, or h/m if it is one of a text's m tokens.
        without_credit: number of events that can mean no token, which are left out.
    """

    response: ShownResponse
    ids: list[int]
    start: int
    weights: FloatArray
    values: FloatArray
    targets: FloatArray
    without_credit: int = 0

    @property
    def prompt(self) -> str | Messages:
        """The prompt: a text or a conversation."""
        return self.response.prompt


def feedback_loss(scores: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
    """Compute Σ_e Σ_t w_et·(Ĥ_t − h_et)² of one response.

    Args:
        scores: ``[n]`` Ĥ, differentiable.
        weights: ``[E, n]`` w.
        targets: ``[E, n]`` h: an event's value, of which each of a text's m tokens has to predict 1/m.

    Source: Warnell 2018 (arXiv 1709.10163), eq. 2 and 3.
    """
    return (weights * (scores - targets) ** 2).sum()


def train_feedback_model(
    model: RewardModel,
    responses: Sequence[ShownResponse],
    *,
    generator: torch.Generator,
    delay: Delay | None = None,
    settings: FeedbackSettings | None = None,
    progress: bool = True,
) -> tuple[FeedbackModel, FeedbackReport]:
    """Fit Ĥ to a person's feedback, in the given reward model's weights.

    Training is that of :func:`textgym.rewards.train_reward_model`: Adam (ε = 1e-5) with warm-up and linear decay, no
    dropout; or the exact solution for the head alone.

    Args:
        model: usually from :meth:`textgym.rewards.RewardModel.from_causal_lm`; it is changed in place.
        responses: what was shown, with the feedback.
        generator: draws the held-out prompts and the order of the batches.
        delay: distribution of the delay of feedback; None for ``Uniform(0.2, 4.0)`` seconds.
        settings: None for the defaults.
        progress: show a progress bar.

    Raises:
        ValueError: a response cannot be used, or no event can mean any token.
    """
    settings = settings or FeedbackSettings()
    examples = encode_feedback(model, responses, Uniform() if delay is None else delay, "responses")
    learned, aside = split_feedback(examples, settings.heldout, generator)
    losses = fit_feedback(model, learned, settings, generator, progress)
    fitted = FeedbackModel(model)
    report = FeedbackReport(
        train_loss=tuple(losses),
        events=sum(len(example.values) for example in examples),
        without_credit=sum(example.without_credit for example in examples),
        heldout=measure_feedback(fitted, aside) if aside else None,
    )
    return fitted, report


# --- from texts that were shown to tokens ------------------------------------------------------------------------


def encode_feedback(
    model: RewardModel,
    responses: Sequence[ShownResponse] | Mapping[Place, ShownResponse],
    delay: Delay,
    source: str,
    screening: Screening | None = None,
) -> list[CreditedResponse]:
    """Encode responses as the model reads them, and give each token its credit.

    Args:
        model: the model.
        responses: responses, optionally keyed by their places in a file.
        delay: distribution of the delay of feedback.
        source: the name of the data in error messages.
        screening: records rows that cannot be used; without it they are errors.

    Raises:
        ValueError: a response cannot be used (the message names the row, from 1), or no event can mean any token.
    """
    screening = screening or Screening()
    found: dict[Place, CreditedResponse] = {}
    for place, response in placed(responses, source).items():
        with screening.row(place):
            found[place] = _encoded(model, response, delay)
    screening.require_some(found, source)
    if not any(len(example.values) for example in found.values()):
        n = sum(example.without_credit for example in found.values())
        raise ValueError(
            f"{source}: {n} events of feedback, none of which can mean a token under {delay}; check the clock of "
            "'shown' and 'events', or pass another delay"
        )
    return list(found.values())


def _encoded(model: RewardModel, response: ShownResponse, delay: Delay) -> CreditedResponse:
    tokenizer, special = model.tokenizer, model.special_tokens
    try:
        before = encode_content(tokenizer, response.prompt, special_tokens=special)
        own = list(encode_reply(tokenizer, response.prompt, response.completion, special))
    except ValueError as error:
        raise BadRowError(str(error)) from error
    whole = model.closed([*before, *own], response.prompt) if response.shows_end else [*before, *own]
    if len(whole) == len(before):
        raise BadRowError("the response has no token to give feedback on")
    if response.shows_end and len(whole) == len(before) + len(own):
        raise BadRowError(
            "the end is shown, and the model's tokenizer has no end token; leave out the last, empty text"
        )
    if model.limit is not None and len(whole) > model.limit:
        raise TooLongError(f"prompt and response have {len(whole)} tokens, the model reads at most {model.limit}")
    units = credit_weights(response.shown, [event.time for event in response.events], delay)
    place = token_shares(tokenizer, before, own, response)
    meant = units.sum(1) > 0
    values, weights = np.array([event.value for event in response.events])[meant], (units @ place)[meant]
    # The m tokens of a text are paid h/m each, so that a text is paid h once. As place is 1/m, its square is the credit
    # times that part; a token of several texts predicts the mean of their parts.
    parts = np.divide((units @ place**2)[meant], weights, out=np.zeros_like(weights), where=weights > 0)
    return CreditedResponse(response, whole, len(before), weights, values, values[:, None] * parts, int((~meant).sum()))


def token_shares(tokenizer: Any, before: list[int], own: list[int], response: ShownResponse) -> FloatArray:
    """Return the share of each shown text that belongs to each of the model's tokens, ``[T, n]``; rows sum to 1.

    The credit of a text is shared equally by the tokens that it is made of. A token that is made of several texts gets
    the credit of all of them. White space at the end of a text belongs to the next one, as tokens begin with theirs;
    that at the end of the response belongs to the last text. The end, where it was shown, is the last token.

    Args:
        tokenizer: the model's tokenizer.
        before: the prompt's tokens.
        own: the response's tokens, without its end.
        response: the texts that were shown.

    Raises:
        BadRowError: the tokens do not spell the response.
    """
    texts = response.tokens[: len(response.tokens) - response.shows_end]
    written = decode_response(tokenizer, before, own, ())
    if written.strip() != response.completion.strip():
        raise BadRowError(
            f"the model's tokens spell {written!r:.80}, expected the completion {response.completion!r:.80}; texts "
            "that its tokenizer does not know cannot be credited to tokens"
        )
    # A tokenizer may write a space before every text.
    shift = len(written.rstrip()) - len(response.completion.rstrip())
    stops = np.cumsum([len(text) for text in texts]) + shift
    # A text of white space alone keeps it.
    stops -= [len(text) - len(text.rstrip()) if text.strip() else 0 for text in texts]
    ends = last_tokens(tokenizer, before, own, written, np.clip(stops, 1, max(len(written), 1)).tolist())
    ends[-1:] = [max(len(own) - 1, 0)] * bool(ends)
    shares = np.zeros((len(response.tokens), len(own) + response.shows_end))
    for i, (last, end) in enumerate(pairwise([-1, *ends])):
        first = min(last + 1, end)  # a text within a token belongs to that token
        shares[i, first : end + 1] = 1 / (end + 1 - first)
    if response.shows_end:
        shares[-1, -1] = 1.0
    return shares


def split_feedback(
    examples: Sequence[CreditedResponse], heldout: float, generator: torch.Generator
) -> tuple[list[CreditedResponse], list[CreditedResponse]]:
    """Hold out a share of the prompts that have feedback; responses without any are left out of both parts."""
    judged = [example for example in examples if len(example.values)]
    return split_rankings(judged, heldout, generator) if heldout else (judged, [])


# --- fitting and measuring -----------------------------------------------------------------------------------------


def fit_feedback(
    model: RewardModel,
    examples: Sequence[CreditedResponse],
    settings: FeedbackSettings,
    generator: torch.Generator,
    progress: bool = True,
    on_step: Callable[[Sequence[float]], None] = lambda _: None,
) -> list[float]:
    """Fit Ĥ in place; return the loss of each step, per event. ``on_step`` is called with all losses so far."""
    losses = (
        [fit_head(model, examples)]
        if settings.fitted == "head"
        else _descend(model, examples, settings, generator, progress, on_step)
    )
    if settings.fitted == "head":
        on_step(losses)
    model.set_offset(0.0)  # 0 means that a person says nothing
    model.set_special_tokens(model.special_tokens)
    setattr(model.model.config, READS_FEEDBACK, any(example.response.shows_end for example in examples))
    return losses


def _descend(
    model: RewardModel,
    examples: Sequence[CreditedResponse],
    settings: FeedbackSettings,
    generator: torch.Generator,
    progress: bool,
    on_step: Callable[[Sequence[float]], None],
) -> list[float]:
    # One divisor for all batches, so that an event has the same weight in each.
    per_response = sum(len(example.values) for example in examples) / len(examples)
    return descend(
        model,
        examples,
        settings,
        generator,
        loss=lambda batch: total_loss(model, batch) / (len(batch) * per_response),
        described=lambda example: feedback_row(example.response),
        name="" if not progress else "model of feedback",
        on_step=on_step,
    )


def total_loss(model: RewardModel, examples: Sequence[CreditedResponse]) -> Tensor:
    """Compute the sum of :func:`feedback_loss` over responses, differentiable."""
    scores = read_every_score(model.model, [example.ids for example in examples])
    parts = [
        feedback_loss(own[example.start :], *(torch.as_tensor(x).to(own) for x in (example.weights, example.targets)))
        for own, example in zip(scores, examples, strict=True)
    ]
    return torch.stack(parts).sum()


@torch.no_grad()
def fit_head(model: RewardModel, examples: Sequence[CreditedResponse]) -> float:
    """Replace the linear head by the weighted least-squares solution on the trunk's states; return the loss per event.

    Minimises Σ_e Σ_t w_et·(wᵀφ_t − h_et)² over w; of several minima the one with the smallest norm.

    Raises:
        ValueError: the model has no linear head.
    """
    head = linear_head(model.model)
    if head is None:
        raise ValueError(f"{type(model.model).__name__} has no linear head named score; expected a decoder")
    features, weights, targets = (np.concatenate(part) for part in zip(*_tokens(model, examples), strict=True))
    if head.bias is not None:
        features = np.column_stack([features, np.ones(len(features))])
    scale = np.sqrt(weights)
    # States are float32, and normalised ones lie in a plane: directions within rounding of 0 are noise.
    solution = np.linalg.lstsq(scale[:, None] * features, scale * targets, rcond=ROUNDING)[0]
    size = head.in_features
    head.weight.copy_(torch.from_numpy(solution[None, :size]))
    if head.bias is not None:
        head.bias.copy_(torch.from_numpy(solution[size:]))
    events = sum(len(example.values) for example in examples)
    return float(sum(total_loss(model, [example]) for example in examples)) / events


def _tokens(
    model: RewardModel, examples: Sequence[CreditedResponse]
) -> list[tuple[FloatArray, FloatArray, FloatArray]]:
    """Return for each response states ``[m, d]``, weights ``[m]`` and mean feedback ``[m]`` of its credited tokens.

    The squares of all events on a token differ from its weight times the square around their mean by a constant.
    """
    found = []
    for first in range(0, len(examples), model.batch_size):
        batch = examples[first : first + model.batch_size]
        states = read_states(model.model, [example.ids for example in batch]).double().cpu().numpy()
        for own, example in zip(states, batch, strict=True):
            weight = example.weights.sum(0)
            meant: IntArray = np.flatnonzero(weight > 0)
            mean = (example.weights * example.targets).sum(0)[meant] / weight[meant]
            found.append((own[example.start + meant], weight[meant], mean))
    return found


def measure_feedback(model: FeedbackModel, examples: Sequence[CreditedResponse]) -> dict[str, float]:
    """Measure Ĥ on feedback that it was not trained on.

    Returns:
        ``events``, their number; ``error``, the loss per event; ``baseline``, the same for the constant that fits these
        events best; ``sign``, the share of events whose sign Σ_t w_et·Ĥ_t has.
    """
    scores = model.predict([example.ids for example in examples])
    own = [np.array(s[example.start :]) for s, example in zip(scores, examples, strict=True)]
    errors = [float((e.weights * (s - e.targets) ** 2).sum()) for s, e in zip(own, examples, strict=True)]
    weights, targets = (np.concatenate([getattr(e, name).ravel() for e in examples]) for name in ("weights", "targets"))
    values = np.concatenate([example.values for example in examples])
    expected = np.concatenate([e.weights @ s for s, e in zip(own, examples, strict=True)])
    return {
        "events": float(len(values)),
        "error": sum(errors) / len(values),
        "baseline": float(weights @ (targets - np.average(targets, weights=weights)) ** 2) / len(values),
        "sign": float((np.sign(expected) == np.sign(values)).mean()),
    }
