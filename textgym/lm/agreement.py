"""Enforcing that a model acts as it is trained: a check before work starts, and the choice of how it acts.

Three computations must give the same distributions: a plain pass over each sequence alone, which is what the model
means; the whole-sequence passes of training; and the decoder that acts. Where cached columns give something else (no
cache, a recurrent state, positions that padding shifts), acting reads every prefix anew, which is slower but right.
Where the model's own passes disagree, it is no causal language model, and is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from textgym.lm.decoding import Decoder, PrefixDecoder, no_column_cache
from textgym.lm.loading import accepted, embedding_rows, explained, is_encoder_decoder, release_graphs
from textgym.lm.seq2seq import Seq2SeqDecoder, start_token
from textgym.lm.trunk import Trunk
from textgym.tokenization import first_line
from textgym.types import IntArray, MaskArray

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.4}
"""Allowed difference of log-probabilities, in units of their standard deviation over the vocabulary, by the coarsest
dtype of the weights. Rounding gives 1e-6 to 1e-4 in float32; a wrong position or a look ahead gives 0.1 and more, in
fresh models, too."""
FAST_MATMUL = 1e-2
"""The same where ``torch.set_float32_matmul_precision`` lets float32 matrices be multiplied with fewer bits."""
LAST_BITS = 8
"""Difference that is allowed in any case, in units of the last bit of the largest log-probability: all that is left
where a fresh model's logits are all but equal."""
IMPOSSIBLE = -1e4
"""A log-probability below is that of a token which the model itself forbids; it is not compared."""
POSITIONS = 32
"""Positions, spread over a response, that training passes are compared at, beside those that are played."""


class SlowActingWarning(UserWarning):
    """A model acts without a cache: each token costs a pass over its whole prefix."""


class UncachedDecoder:
    """Reads every row's whole prefix for each token, by the very passes of training.

    The slower path, about T/2 times the work, for models that keep no column cache.

    Args:
        trunk: the model.
        n_rows: ``N``.
        prompt_length: ``P``.
    """

    def __init__(self, trunk: Trunk, n_rows: int, prompt_length: int) -> None:
        self.trunk = trunk
        self.n_rows = n_rows
        self.prompt_length = prompt_length

    @torch.inference_mode()
    def logits(self, input_ids: IntArray, attention_mask: NDArray[np.int8], rows: IntArray) -> Tensor:
        """Return ``[n, V]`` logits of the next token; arguments as :meth:`PrefixDecoder.logits`."""
        mask = torch.from_numpy(attention_mask[rows])
        elapsed = mask[:, self.prompt_length :].sum(1)
        width = self.prompt_length + int(elapsed.max())  # nothing stands beyond
        device = self.trunk.model.device
        ids, mask = torch.from_numpy(input_ids[rows])[:, :width].to(device), mask[:, :width].to(device)
        states = self.trunk.hidden_states(ids, mask, self.prompt_length)
        return self.trunk.head(states[torch.arange(len(rows), device=device), elapsed.to(device)])


# --- choosing a decoder ------------------------------------------------------------------------------------------


def make_decoder(model: PreTrainedModel, n_rows: int, width: int, prompt_length: int) -> Decoder:
    """Return what gives next-token logits to ``n_rows`` observations of ``P + T`` columns.

    It decodes from cached columns where that is right for this kind of model, and reads whole prefixes elsewhere.
    Models of equal configuration are checked once.

    Args:
        model: causal or encoder–decoder.
        n_rows: ``N``.
        width: ``P + T``.
        prompt_length: ``P``.

    Raises:
        ValueError: see :func:`check_agreement`.
    """
    key = _kind(model, width, prompt_length)
    if key not in _CACHED:
        check_agreement(Trunk(model), width, prompt_length)
    if _CACHED[key]:
        return _cached_decoder(model, n_rows, width, prompt_length)
    return UncachedDecoder(Trunk(model), n_rows, prompt_length)


def _cached_decoder(model: PreTrainedModel, n_rows: int, width: int, prompt_length: int) -> PrefixDecoder:
    if is_encoder_decoder(model):
        return Seq2SeqDecoder(model, n_rows, width, prompt_length)
    return PrefixDecoder(model, n_rows, width)


_CACHED: dict[tuple[Any, ...], bool] = {}
"""True where cached columns are right, for each kind of model that was checked."""


def _kind(model: PreTrainedModel, width: int, prompt_length: int) -> tuple[Any, ...]:
    config = model.config
    attention = getattr(config, "_attn_implementation", None)
    return type(model), config.to_json_string(), attention, model.dtype, width, prompt_length


# --- the check -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sequence:
    """A sequence that is played in the check.

    Attributes:
        prompt: ``[p]`` ids, 1 to P of them.
        response: ``[T]`` ids.
        positions: ``[m]`` of the response's tokens, ascending.
        log_probs: ``[m, V]`` before each of these tokens, from a plain pass over this sequence alone.
    """

    prompt: IntArray
    response: IntArray
    positions: IntArray
    log_probs: Tensor

    def before(self, t: int) -> Tensor:
        """``[V]`` before the token at one of the positions."""
        return self.log_probs[int(np.searchsorted(self.positions, t))]


def check_agreement(trunk: Trunk, width: int, prompt_length: int) -> bool:
    """Check that plain passes, training passes and acting agree, over the whole width that will be played.

    Two ragged rows are played: both begin, one restarts beside the other, and both jump to the end of the response.
    The cost is that of about a dozen forward passes of one sequence.

    Args:
        trunk: of the model that will act.
        width: ``P + T``.
        prompt_length: ``P``.

    Returns:
        Whether acting decodes from cached columns.

    Raises:
        ValueError: they disagree beyond the rounding of the model's dtype; the message has the numbers. Or the model
            cannot read tokens alone.

    Warns:
        SlowActingWarning: cached columns would be wrong, or the model keeps none.
    """
    sequences, bound = check_whole_passes(trunk, width, prompt_length)
    reason = _why_not_cached(trunk, sequences, width, prompt_length, bound)
    if reason is not None:
        name = type(trunk.model).__name__
        gap = _played_gap(UncachedDecoder(trunk, 2, prompt_length), sequences, width, prompt_length)
        _require_causal(name, gap, bound)
        warnings.warn(
            f"{name} acts without a cache, by passes over whole prefixes, which is slower: {reason}",
            SlowActingWarning,
            stacklevel=3,
        )
    cached = reason is None
    _CACHED[_kind(trunk.model, width, prompt_length)] = cached
    return cached


def check_whole_passes(trunk: Trunk, width: int, prompt_length: int) -> tuple[list[Sequence], float]:
    """Check that the passes of training agree with plain ones: what a model needs that is trained or measured only.

    Args:
        trunk: of that model.
        width: ``P + T``.
        prompt_length: ``P``.

    Returns:
        The sequences that were read, and how far log-probabilities may differ by rounding, in nats.

    Raises:
        ValueError: they disagree, or are not finite; or the model cannot read tokens alone.
    """
    model, horizon = trunk.model, width - prompt_length
    name = type(model).__name__
    with explained(f"{name} cannot read {prompt_length} + {horizon} tokens by themselves"):
        sequences = _sequences(model, prompt_length, horizon)
    if any(bool(s.log_probs.isnan().any()) for s in sequences):
        raise ValueError(f"the logits of {name} are not finite; its weights hold NaN or infinity, or overflow")
    bound = _bound(model, torch.cat([s.log_probs for s in sequences]))
    begun, half = sequences[0], horizon // 2
    (alone,) = _plain(model, begun.prompt, begun.response[:half], np.array([half]))
    _require_causal(name, _gap(alone, begun.before(half)), bound)
    with explained(f"{name} cannot be trained on whole sequences"):
        _check_training(trunk, sequences, prompt_length, bound)
    return sequences, bound


def _bound(model: PreTrainedModel, log_probs: Tensor) -> float:
    """Return how far log-probabilities may differ by rounding, in nats, given some ``[n, V]`` of the model's."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    tolerance = TOLERANCE.get(coarsest, TOLERANCE[torch.bfloat16])
    if torch.get_float32_matmul_precision() != "highest":
        tolerance = max(tolerance, FAST_MATMUL)
    possible = log_probs > IMPOSSIBLE
    counts = possible.sum(-1).clamp(min=1)
    mean = log_probs.where(possible, 0.0).sum(-1, keepdim=True) / counts[:, None]
    spread = ((log_probs - mean).where(possible, 0.0).square().sum(-1) / counts).sqrt().mean()
    last_bit = torch.finfo(coarsest).eps * log_probs[possible].abs().max()
    return float(tolerance * spread + LAST_BITS * last_bit)


def _require_causal(name: str, gap: float, bound: float) -> None:
    """ValueError where a prefix alone gives another distribution than the same prefix with more behind it."""
    if not gap <= bound:
        raise ValueError(
            f"{name} predicts a token otherwise once later tokens are there: log-probabilities differ by {gap:.3g} "
            f"nats, more than {bound:.2g} of rounding. It is not causal, or its computation depends on a sequence's "
            "length (is_decoder=False, bidirectional attention, rotary scaling that changes with the length); expected "
            "a causal language model, or a shorter max_prompt_length + max_new_tokens"
        )


def check_backward(trunk: Trunk) -> None:
    """Check that a gradient reaches the lowest trained parameter, on two tokens.

    Raises:
        ValueError: the model's own code refuses, or nothing is trained that its log-probabilities depend on.
    """
    ids = torch.zeros(1, 2, dtype=torch.long, device=trunk.model.device)
    trained = [parameter for parameter in trunk.model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError(f"{type(trunk.model).__name__} has no parameter that is trained; all of them are frozen")
    with explained(f"{type(trunk.model).__name__} cannot be trained as it acts, with dropout off"), torch.enable_grad():
        logits = trunk.head(trunk.hidden_states(ids, torch.ones_like(ids), 1))
        torch.autograd.grad(logits.sum(), trained[:1], allow_unused=True)
    release_graphs(trunk.model)


@torch.no_grad()
def _check_training(trunk: Trunk, sequences: list[Sequence], prompt_length: int, bound: float) -> None:
    """Compare the passes of training with plain ones."""
    rows = [_row(s, len(s.response), prompt_length) for s in sequences]
    ids, mask = (torch.from_numpy(np.stack(part)).to(trunk.model.device) for part in zip(*rows, strict=True))
    states = trunk.hidden_states(ids, mask, prompt_length)
    for own, sequence in zip(states, sequences, strict=True):
        gap = _gap(trunk.head(own[torch.from_numpy(sequence.positions).to(own.device)]), sequence.log_probs)
        if not gap <= bound:
            raise ValueError(
                f"{type(trunk.model).__name__} gives other log-probabilities in a batch than to a sequence alone: they "
                f"differ by {gap:.3g} nats, more than {bound:.2g} of rounding, so it cannot be trained here. Likely "
                "causes: it looks at padding on the right, or its experts have a capacity that other rows use up"
            )


def _why_not_cached(
    trunk: Trunk, sequences: list[Sequence], width: int, prompt_length: int, bound: float
) -> str | None:
    """Says why cached decoding is not the model's own distribution; None where it is."""
    reason = no_column_cache(trunk.model)
    if reason is not None:
        return reason
    try:
        decoder = _cached_decoder(trunk.model, 2, width, prompt_length)
        gap = _played_gap(decoder, sequences, width, prompt_length)
    except Exception as error:
        # Models that take a cache of their own kind alone fail in their own ways.
        return f"cached decoding raises {type(error).__name__} ({first_line(error)})"
    if gap <= bound:
        return None
    return (
        f"cached decoding under left padding differs from plain passes by {gap:.3g} nats (rounding: {bound:.2g}), as "
        "with positions that its forward does not let us tell"
    )


def _sequences(model: PreTrainedModel, prompt_length: int, horizon: int) -> list[Sequence]:
    """Draws three sequences: of the longest prompt, of a shorter one, and of a single token."""
    rng = np.random.default_rng(0)
    tokens = _tokens(model)
    named = getattr(model.config.get_text_config(), "pad_token_id", None)  # some configs have no such field
    padding = named if isinstance(named, int) and named in tokens else int(tokens[0])
    words = np.setdiff1d(tokens, [padding]) if len(tokens) > 1 else tokens
    lengths = (prompt_length, -(-prompt_length // 3), 1)
    drawn = [(rng.choice(words, n), rng.choice(tokens, horizon)) for n in lengths]
    for _, response in drawn:
        response[horizon // 3] = padding  # which a policy may write, and a model may overlook
    positions = _positions(horizon)
    return [Sequence(p, r, positions, _plain(model, p, r, positions)) for p, r in drawn]


def _positions(horizon: int) -> IntArray:
    """Those that are played, the middle, and some more over the whole length."""
    played = {t for shown in _schedule(horizon) for _, t in shown}
    spread = np.linspace(0, horizon - 1, POSITIONS).astype(np.int64)
    return np.array(sorted({*played, horizon // 2, *spread.tolist()}), np.int64)


def _tokens(model: PreTrainedModel) -> IntArray:
    """Every id but those that stand for something else than text, such as an image."""
    config: Any = model.config
    marks = {
        value
        for name, value in config.to_dict().items()
        if name.endswith(("_token_id", "_token_index")) and name.partition("_")[0] not in ("bos", "eos", "pad")
    }
    return np.array([i for i in range(embedding_rows(model)) if i not in marks], np.int64)


@torch.no_grad()
def _plain(model: PreTrainedModel, prompt: IntArray, response: IntArray, positions: IntArray) -> Tensor:
    """``[m, V]`` log-probabilities before tokens of a response, from one pass over one sequence without padding.

    Args:
        model: causal or encoder–decoder.
        prompt: ``[p]`` ids.
        response: ``[t]`` ids.
        positions: ``[m]``, 0 to t.
    """
    asked, written = (torch.from_numpy(part)[None].to(model.device) for part in (prompt, response))
    if is_encoder_decoder(model):
        begun = torch.cat([written.new_full((1, 1), start_token(model)), written], 1)
        masks = {"attention_mask": torch.ones_like(asked), "decoder_attention_mask": torch.ones_like(begun)}
        logits: Tensor = model(input_ids=asked, decoder_input_ids=begun, **masks).logits[0]
    else:
        ids = torch.cat([asked, written], 1)
        further = accepted(model, attention_mask=torch.ones_like(ids), logits_to_keep=len(response) + 1)
        logits = model(input_ids=ids, **further).logits[0, -len(response) - 1 :]
    return _log_softmax(logits[torch.from_numpy(positions).to(logits.device)])


def _schedule(horizon: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield what two rows show: which sequence, and how many of its response's tokens."""
    last = horizon - 1
    plan = [(0, 0), (1, 1)]  # both begin
    restarted = [(2, 0), (3, 1), (4, 2), (5, 3)]  # the second begins another sequence
    end = [(last - 1, last - 1), (last, last)]
    for rows, other in ((plan, 1), (restarted, 2), (end, 2)):
        for first, second in rows:
            yield (0, min(max(first, 0), last)), (other, min(max(second, 0), last))


def _played_gap(decoder: Decoder, sequences: list[Sequence], width: int, prompt_length: int) -> float:
    """Plays the schedule; returns the largest difference to the plain passes, in nats."""
    gaps = []
    for shown in _schedule(width - prompt_length):
        rows = [_row(sequences[which], elapsed, prompt_length) for which, elapsed in shown]
        ids, mask = (np.stack(part) for part in zip(*rows, strict=True))
        logits = decoder.logits(ids, mask, np.arange(2))
        gaps += [_gap(own, sequences[which].before(t)) for own, (which, t) in zip(logits, shown, strict=True)]
    return float(np.max(gaps))  # NaN, if one is


def _row(sequence: Sequence, elapsed: int, prompt_length: int) -> tuple[IntArray, MaskArray]:
    """``[P+T]`` ids and mask of an observation that shows the first tokens of a response."""
    ids: IntArray = np.zeros(prompt_length + len(sequence.response), np.int64)
    mask: MaskArray = np.zeros(ids.shape, np.int8)
    begin, end = prompt_length - len(sequence.prompt), prompt_length + elapsed
    ids[begin:end] = np.concatenate([sequence.prompt, sequence.response[:elapsed]])
    mask[begin:end] = 1
    return ids, mask


def _gap(logits: Tensor, log_probs: Tensor) -> float:
    """Return the largest difference of log-probabilities, in nats, of tokens that the plain pass does not forbid."""
    return float((_log_softmax(logits) - log_probs)[log_probs > IMPOSSIBLE].abs().max())


def _log_softmax(logits: Tensor) -> Tensor:
    """In float32 at least: in half precision the result itself would be rounded."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
