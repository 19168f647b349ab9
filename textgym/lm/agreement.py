"""Agreement of sampling and training: a check that both use the same distribution, and the choice of a decoder.

Three computations must give the same distributions: a plain pass over each sequence alone, which defines the model; the
whole-sequence passes of training; and the decoder that samples. If cached columns give different results (no cache, a
recurrent state, positions that padding shifts), sampling processes the whole prefix for every token, which is slower
but correct. A model whose own passes disagree is not a causal language model, and is rejected.
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
from textgym.lm.files.loading import accepted, embedding_rows, explained, is_encoder_decoder, release_graphs
from textgym.lm.parts.seq2seq import Seq2SeqDecoder, start_token
from textgym.lm.trunk import Trunk
from textgym.tokenization import first_line
from textgym.types import IntArray, MaskArray

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.4}
"""Allowed difference of log-probabilities, in units of their standard deviation over the vocabulary, by the coarsest
dtype of the weights. Rounding gives 1e-6 to 1e-4 in float32; a wrong position or attention to later tokens gives 0.1
and more, also in fresh models."""
FAST_MATMUL = 1e-2
"""The same if ``torch.set_float32_matmul_precision`` allows float32 matrices to be multiplied with fewer bits."""
LAST_BITS = 8
"""Difference that is always allowed, in units of the last bit of the largest log-probability. It matters if a fresh
model's logits are nearly equal, so that their standard deviation is nearly 0."""
IMPOSSIBLE = -1e4
"""Tokens with a log-probability below this are forbidden by the model itself, and are not compared."""
POSITIONS = 32
"""Number of response positions at which training passes are compared, in addition to those that are played."""


class SlowActingWarning(UserWarning):
    """Warning that a model samples without a cache: each token costs a pass over its whole prefix."""


class UncachedDecoder:
    """Decoder that processes every row's whole prefix for each token, by the same passes as training.

    This is the slower path, about T/2 times the work, for models without a column cache.

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
        """Return ``[n, V]`` logits of the next token; arguments: see :meth:`PrefixDecoder.logits`."""
        mask = torch.from_numpy(attention_mask[rows])
        elapsed = mask[:, self.prompt_length :].sum(1)
        width = self.prompt_length + int(elapsed.max())  # all later columns are empty
        device = self.trunk.model.device
        ids, mask = torch.from_numpy(input_ids[rows])[:, :width].to(device), mask[:, :width].to(device)
        states = self.trunk.hidden_states(ids, mask, self.prompt_length)
        return self.trunk.head(states[torch.arange(len(rows), device=device), elapsed.to(device)])

    def branch(self, rows: IntArray, sources: IntArray) -> None:
        """Do nothing, as no row leaves anything behind."""


# --- choosing a decoder ------------------------------------------------------------------------------------------


def make_decoder(model: PreTrainedModel, n_rows: int, width: int, prompt_length: int) -> Decoder:
    """Return a decoder of next-token logits for ``n_rows`` observations of ``P + T`` columns.

    It uses cached columns if that is correct for this kind of model, and otherwise processes whole prefixes. Models of
    equal configuration are checked once.

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
"""True if cached columns are correct, for each kind of model that was checked."""


def _kind(model: PreTrainedModel, width: int, prompt_length: int) -> tuple[Any, ...]:
    # Agreement depends on the architecture, not on the values of the weights, so copies of a model share the result.
    config = model.config
    attention = getattr(config, "_attn_implementation", None)
    return type(model), config.to_json_string(), attention, model.dtype, width, prompt_length


# --- the check -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sequence:
    """Sequence that is played in the check.

    Attributes:
        prompt: ``[p]`` ids, 1 to P of them.
        response: ``[T]`` ids.
        positions: ``[m]`` positions of the response, ascending.
        log_probs: ``[m, V]`` before the token at each position, from a plain pass over this sequence alone.
    """

    prompt: IntArray
    response: IntArray
    positions: IntArray
    log_probs: Tensor

    def before(self, t: int) -> Tensor:
        """Return ``[V]`` log-probabilities before the token at one of the positions."""
        return self.log_probs[int(np.searchsorted(self.positions, t))]


def check_agreement(trunk: Trunk, width: int, prompt_length: int) -> bool:
    """Check that plain passes, training passes and sampling agree, over the whole width that will be played.

    Two ragged rows are played: both begin, one restarts while the other goes on, both grow by several tokens at once,
    and all this again at the end of the response. The cost is about a dozen forward passes of one sequence.

    Args:
        trunk: trunk of the model that will sample.
        width: ``P + T``.
        prompt_length: ``P``.

    Returns:
        True if sampling may use cached columns.

    Raises:
        ValueError: they disagree beyond the rounding of the model's dtype; the message has the numbers. Or the model
            cannot process tokens alone.

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
    """Check that training passes agree with plain ones, which suffices for a model that is only trained or evaluated.

    Args:
        trunk: trunk of that model.
        width: ``P + T``.
        prompt_length: ``P``.

    Returns:
        The sequences, and the difference of log-probabilities that rounding explains, in nats.

    Raises:
        ValueError: they disagree, or are not finite; or the model cannot process tokens alone.
    """
    model, horizon = trunk.model, width - prompt_length
    name = type(model).__name__
    with explained(f"{name} cannot read {prompt_length} + {horizon} tokens by themselves"):
        sequences = _sequences(model, prompt_length, horizon)
    if any(bool(s.log_probs.isnan().any()) for s in sequences):
        raise ValueError(f"the logits of {name} are not finite; its weights hold NaN or infinity, or overflow")
    bound = _bound(model, torch.cat([s.log_probs for s in sequences]))
    # A causal model gives the same distribution in the middle, whether or not the second half is there.
    begun, half = sequences[0], horizon // 2
    (alone,) = _plain(model, begun.prompt, begun.response[:half], np.array([half]))
    _require_causal(name, _gap(alone, begun.before(half)), bound)
    with explained(f"{name} cannot be trained on whole sequences"):
        _check_training(trunk, sequences, prompt_length, bound)
    return sequences, bound


def _bound(model: PreTrainedModel, log_probs: Tensor) -> float:
    """Return the difference of log-probabilities that rounding explains, in nats, given ``[n, V]`` of the model's."""
    # The coarsest dtype dominates the rounding of a model with mixed dtypes.
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    tolerance = TOLERANCE.get(coarsest, TOLERANCE[torch.bfloat16])
    if torch.get_float32_matmul_precision() != "highest":
        tolerance = max(tolerance, FAST_MATMUL)
    possible = log_probs > IMPOSSIBLE
    # Mean and spread are taken over the tokens that the model allows: its own −inf would make both infinite.
    counts = possible.sum(-1).clamp(min=1)
    mean = log_probs.where(possible, 0.0).sum(-1, keepdim=True) / counts[:, None]
    spread = ((log_probs - mean).where(possible, 0.0).square().sum(-1) / counts).sqrt().mean()
    last_bit = torch.finfo(coarsest).eps * log_probs[possible].abs().max()
    return float(tolerance * spread + LAST_BITS * last_bit)


def _require_causal(name: str, gap: float, bound: float) -> None:
    """Check that a prefix gives the same distribution alone and with later tokens behind it.

    Raises:
        ValueError: the two differ by more than rounding.
    """
    if not gap <= bound:  # negated, so that NaN is rejected too
        raise ValueError(
            f"{name} predicts a token differently once later tokens follow it: log-probabilities differ by {gap:.3g} "
            f"nats, more than {bound:.2g} of rounding. It is not causal, or its computation depends on a sequence's "
            "length (is_decoder=False, bidirectional attention, rotary scaling that changes with the length); expected "
            "a causal language model, or a shorter max_prompt_length + max_new_tokens"
        )


def check_backward(trunk: Trunk) -> None:
    """Check, on two tokens, that a gradient can be computed with respect to the trained parameters.

    Raises:
        ValueError: the model's own code fails, or its log-probabilities depend on no trained parameter.
    """
    ids = torch.zeros(1, 2, dtype=torch.long, device=trunk.model.device)
    trained = [parameter for parameter in trunk.model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError(f"{type(trunk.model).__name__} has no parameter that is trained; all of them are frozen")
    with explained(f"{type(trunk.model).__name__} cannot be trained as it acts, with dropout off"), torch.enable_grad():
        logits = trunk.head(trunk.hidden_states(ids, torch.ones_like(ids), 1))
        # The lowest parameter suffices: its gradient passes through all layers above.
        torch.autograd.grad(logits.sum(), trained[:1], allow_unused=True)
    release_graphs(trunk.model)


@torch.no_grad()
def _check_training(trunk: Trunk, sequences: list[Sequence], prompt_length: int, bound: float) -> None:
    """Compare training passes with plain ones."""
    rows = [_row(s, len(s.response), prompt_length) for s in sequences]
    ids, mask = (torch.from_numpy(np.stack(part)).to(trunk.model.device) for part in zip(*rows, strict=True))
    states = trunk.hidden_states(ids, mask, prompt_length)
    for own, sequence in zip(states, sequences, strict=True):
        gap = _gap(trunk.head(own[torch.from_numpy(sequence.positions).to(own.device)]), sequence.log_probs)
        if not gap <= bound:
            raise ValueError(
                f"{type(trunk.model).__name__} gives a sequence other log-probabilities in a batch than alone: they "
                f"differ by {gap:.3g} nats, more than {bound:.2g} of rounding, so it cannot be trained here. Likely "
                "causes: it looks at padding on the right, or its experts have a capacity that other rows use up"
            )


def _why_not_cached(
    trunk: Trunk, sequences: list[Sequence], width: int, prompt_length: int, bound: float
) -> str | None:
    """Return the reason why cached decoding does not give the model's own distribution; None if it does."""
    reason = no_column_cache(trunk.model)
    if reason is not None:
        return reason
    try:
        decoder = _cached_decoder(trunk.model, 2, width, prompt_length)
        gap = _played_gap(decoder, sequences, width, prompt_length)
    except Exception as error:
        # A model that accepts only its own cache class may raise anything.
        return f"cached decoding raises {type(error).__name__} ({first_line(error)})"
    if gap <= bound:
        return None
    return (
        f"cached decoding under left padding differs from plain passes by {gap:.3g} nats (rounding: {bound:.2g}), as "
        "with positions that its forward does not let us set"
    )


def _sequences(model: PreTrainedModel, prompt_length: int, horizon: int) -> list[Sequence]:
    """Draw three sequences: with the longest prompt, with a shorter one, and with a prompt of a single token."""
    rng = np.random.default_rng(0)
    tokens = _tokens(model)
    named = getattr(model.config.get_text_config(), "pad_token_id", None)  # some configs have no such field
    padding = named if isinstance(named, int) and named in tokens else int(tokens[0])
    words = np.setdiff1d(tokens, [padding]) if len(tokens) > 1 else tokens
    lengths = (prompt_length, -(-prompt_length // 3), 1)
    drawn = [(rng.choice(words, n), rng.choice(tokens, horizon)) for n in lengths]
    for _, response in drawn:
        response[horizon // 3] = padding  # a policy may sample PAD, and some models ignore it wherever it occurs
    positions = _positions(horizon)
    return [Sequence(p, r, positions, _plain(model, p, r, positions)) for p, r in drawn]


def _positions(horizon: int) -> IntArray:
    """Return the positions that are played, the middle, and others spread over the whole length."""
    played = {t for shown in _schedule(horizon) for _, t in shown}
    spread = np.linspace(0, horizon - 1, POSITIONS).astype(np.int64)
    return np.array(sorted({*played, horizon // 2, *spread.tolist()}), np.int64)


def _tokens(model: PreTrainedModel) -> IntArray:
    """Return every id except those that mark something other than text, such as an image."""
    config: Any = model.config
    marks = {
        value
        for name, value in config.to_dict().items()
        if name.endswith(("_token_id", "_token_index")) and name.partition("_")[0] not in ("bos", "eos", "pad")
    }
    return np.array([i for i in range(embedding_rows(model)) if i not in marks], np.int64)


@torch.no_grad()
def _plain(model: PreTrainedModel, prompt: IntArray, response: IntArray, positions: IntArray) -> Tensor:
    """Compute ``[m, V]`` log-probabilities at positions of a response, from one pass over one sequence without padding.

    Args:
        model: causal or encoder–decoder.
        prompt: ``[p]`` ids.
        response: ``[t]`` ids.
        positions: ``[m]``, 0 to t.
    """
    prompt_ids, response_ids = (torch.from_numpy(part)[None].to(model.device) for part in (prompt, response))
    if is_encoder_decoder(model):
        decoder_ids = torch.cat([response_ids.new_full((1, 1), start_token(model)), response_ids], 1)
        masks = {"attention_mask": torch.ones_like(prompt_ids), "decoder_attention_mask": torch.ones_like(decoder_ids)}
        logits: Tensor = model(input_ids=prompt_ids, decoder_input_ids=decoder_ids, **masks).logits[0]
    else:
        ids = torch.cat([prompt_ids, response_ids], 1)
        further = accepted(model, attention_mask=torch.ones_like(ids), logits_to_keep=len(response) + 1)
        logits = model(input_ids=ids, **further).logits[0, -len(response) - 1 :]
    return _log_softmax(logits[torch.from_numpy(positions).to(logits.device)])


def _schedule(horizon: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield the observations of two rows: for each row the index of its sequence and the number of response tokens."""
    last = horizon - 1
    begun = [((0, 0), (1, 0)), ((0, 1), (1, 1))]
    restarted = [((0, 2), (2, 0)), ((0, 3), (2, 1))]
    # A reply may be shorter than that to the other row, or come while the other row writes.
    replies = [((0, 6), (2, 3)), ((0, 7), (2, 8)), ((0, 8), (2, 9))]
    # The rows exchange their sequences, so that both begin again with much behind them.
    end = [((2, last - 4), (0, last - 6)), ((2, last - 1), (0, last - 1)), ((2, last), (0, last))]
    for (first, m), (second, n) in (*begun, *restarted, *replies, *end):
        yield (first, min(max(m, 0), last)), (second, min(max(n, 0), last))


def _played_gap(decoder: Decoder, sequences: list[Sequence], width: int, prompt_length: int) -> float:
    """Play the schedule and return the largest difference from the plain passes, in nats."""
    gaps = []
    for shown in _schedule(width - prompt_length):
        rows = [_row(sequences[which], elapsed, prompt_length) for which, elapsed in shown]
        ids, mask = (np.stack(part) for part in zip(*rows, strict=True))
        logits = decoder.logits(ids, mask, np.arange(2))
        gaps += [_gap(own, sequences[which].before(t)) for own, (which, t) in zip(logits, shown, strict=True)]
    return float(np.max(gaps))  # unlike ``max``, NaN if any gap is NaN


def _row(sequence: Sequence, elapsed: int, prompt_length: int) -> tuple[IntArray, MaskArray]:
    """Return ``[P+T]`` ids and mask of an observation that shows the first tokens of a response."""
    ids: IntArray = np.zeros(prompt_length + len(sequence.response), np.int64)
    mask: MaskArray = np.zeros(ids.shape, np.int8)
    begin, end = prompt_length - len(sequence.prompt), prompt_length + elapsed
    ids[begin:end] = np.concatenate([sequence.prompt, sequence.response[:elapsed]])
    mask[begin:end] = 1
    return ids, mask


def _gap(logits: Tensor, log_probs: Tensor) -> float:
    """Return the largest difference of log-probabilities, in nats, over tokens that the plain pass does not forbid."""
    return float((_log_softmax(logits) - log_probs)[log_probs > IMPOSSIBLE].abs().max())


def _log_softmax(logits: Tensor) -> Tensor:
    """Compute log-probabilities in float32 at least; half precision would round the result itself."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
