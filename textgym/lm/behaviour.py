"""The behaviour distribution, from which a policy is sampled and under which it is trained.

A model's logits become a distribution over the task's actions: temperature divides them, and the minimum length, the
task's own mask, NLPO's mask, top-k and top-p exclude tokens. :class:`Behaviour` holds all of these settings in one
object, so that sampling, training, the reference and the exact optimum use the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from textgym.lm.files.loading import frozen_copy
from textgym.lm.sampling import Sampling
from textgym.types import IntArray

PLAIN = Sampling()
"""The model's own distribution: temperature 1, no token excluded."""

CHUNK_ELEMENTS = 2**24
"""Maximum number of logits in memory while tokens are scored (64 MB in fp32); beyond it, chunks are recomputed in the
backward pass."""

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class TokenScores:
    """Log-probability and entropy of each response token; 0 beyond each response.

    Attributes:
        log_probs: ``[n, T]`` log-probabilities of the sampled tokens under the behaviour distribution.
        entropy: ``[n, T]`` entropy of that distribution, in nats.
        divergence: ``[n, T]`` divergence from another model's distribution; None where none was asked for.
    """

    log_probs: Tensor
    entropy: Tensor
    divergence: Tensor | None = None


class Against(NamedTuple):
    """Another model, whose distribution a policy's is compared with over the whole vocabulary.

    Attributes:
        head: maps that model's hidden states to logits.
        states: ``[n, T, d]`` its hidden states, in which the same tokens were chosen.
        divergence: ``divergence(log_p [m, V], log_q [m, V]) -> [m]`` of the policy's log-probabilities and the other's.
    """

    head: Callable[[Tensor], Tensor]
    states: Tensor
    divergence: Callable[[Tensor, Tensor], Tensor]


class NucleusMask:
    """NLPO's action mask: the nucleus of a frozen copy of the policy, which is refreshed periodically.

    It keeps the copy's nucleus, its most probable tokens and the end tokens (Ramamurthy 2022, arXiv 2210.01241), of
    responses and of turns.

    Args:
        model: the model to copy and freeze.
        top_mask: probability mass of the nucleus, in (0, 1].
        min_tokens_to_keep: number of most probable tokens that are always kept.
        turn_end_ids: tokens that end a turn.
    """

    def __init__(
        self, model: PreTrainedModel, top_mask: float, min_tokens_to_keep: int, turn_end_ids: tuple[int, ...] = ()
    ) -> None:
        self.model = frozen_copy(model)
        self.top_mask = top_mask
        self.min_tokens_to_keep = min_tokens_to_keep
        self.turn_end_ids = turn_end_ids

    @torch.no_grad()
    def refresh(self, model: PreTrainedModel) -> None:
        """Copy the model's present weights; caches of the copy notice the change."""
        self.model.load_state_dict(model.state_dict())

    def admits(self, logits: Tensor, end_ids: tuple[int, ...]) -> Tensor:
        """Return the tokens that may be sampled, ``[n, V]`` bool, given the copy's behaviour logits ``[n, V]``."""
        kept = nucleus(logits, self.top_mask)
        best = logits.topk(min(self.min_tokens_to_keep, logits.shape[1])).indices
        kept = kept.scatter(1, best, True)
        kept[:, [*end_ids, *self.turn_end_ids]] = True
        return kept & torch.isfinite(logits)  # tokens excluded by the minimum length or the task stay excluded


@dataclass(frozen=True)
class Behaviour:
    """The distribution that a policy samples from **and** is trained under.

    Attributes:
        n_actions: ``V``; the logits of a wider head are cut to it.
        end_ids: tokens that end a response.
        sampling: temperature, minimum length, top-k and top-p.
        mask: NLPO's mask; None without one.
    """

    n_actions: int
    end_ids: tuple[int, ...] = ()
    sampling: Sampling = PLAIN
    mask: NucleusMask | None = None

    @property
    def truncates(self) -> bool:
        """True if the candidate tokens depend on the policy (top-k, top-p, NLPO's mask).

        They are then stored per token and not applied to the reference.
        """
        return self.sampling.truncates or self.mask is not None

    def for_reference(self) -> Behaviour:
        """Return the part that also defines the reference's distribution: temperature and minimum length."""
        return replace(self, sampling=self.sampling.shared, mask=None)

    def kept_for_reference(self, kept: Kept | None) -> Kept | None:
        """Return the kept ids that also apply to the reference.

        A task's restriction applies to the reference, too; top-k, top-p and NLPO's mask belong to the policy alone.

        Args:
            kept: the ids that this distribution kept, in any layout; None for all.
        """
        return None if self.truncates else kept

    def logits(
        self,
        logits: Tensor,
        elapsed: Tensor | None = None,
        allowed: Tensor | None = None,
        mask_logits: Tensor | None = None,
    ) -> Tensor:
        """Compute the logits of the distribution; -inf for excluded tokens.

        Args:
            logits: ``[n, V']`` logits of the model; a head wider than the action space is cut.
            elapsed: ``[n]`` number of tokens chosen so far in each response; required if ``min_new_tokens`` is set.
            allowed: ``[n, V]`` bool, the task's own mask; None for all.
            mask_logits: ``[n, V']`` logits of the mask's model; required if there is a mask.

        Returns:
            ``[n, V]`` float32.

        Raises:
            ValueError: a row has no token left.
        """
        sampling = self.sampling
        # NLPO's mask comes first: a nucleus of the mask model's distribution under the same temperature.
        if self.mask is not None:
            assert mask_logits is not None, "a nucleus mask needs the logits of its own model"
            allowed = self.mask.admits(self.for_reference().logits(mask_logits, elapsed, allowed), self.end_ids)
        scaled = logits[:, : self.n_actions].float()
        if sampling.temperature != 1:
            scaled = scaled / sampling.temperature
        if sampling.min_new_tokens and self.end_ids:
            assert elapsed is not None
            ends = torch.zeros(self.n_actions, dtype=torch.bool, device=logits.device)
            ends[list(self.end_ids)] = True
            too_early = (elapsed < sampling.min_new_tokens)[:, None]
            scaled = scaled.masked_fill(too_early & ends, -torch.inf)
        if allowed is not None:
            scaled = scaled.masked_fill(~allowed, -torch.inf)
            if not torch.isfinite(scaled).any(-1).all():
                raise ValueError("the task's mask leaves no token to choose; expected at least one per state")
        # Top-k and top-p come last, and so rank the remaining tokens only. Ties with the k-th token are kept.
        if sampling.top_k and sampling.top_k < self.n_actions:
            threshold = scaled.topk(sampling.top_k).values[:, -1:]
            scaled = scaled.masked_fill(scaled < threshold, -torch.inf)
        if sampling.top_p < 1:
            scaled = scaled.masked_fill(~nucleus(scaled, sampling.top_p), -torch.inf)
        return scaled

    def kept_logits(self, logits: Tensor, elapsed: Tensor, kept: Tensor | None) -> Tensor:
        """Compute the logits of a distribution whose candidate tokens were stored when it was sampled.

        Args:
            logits: ``[n, V']`` logits of the model.
            elapsed: ``[n]`` number of tokens chosen so far in each response.
            kept: ``[n, M]`` ids, -1 for none; None for all.

        Returns:
            ``[n, M]`` in the order of ``kept``, -inf for ids of -1; ``[n, V]`` without ``kept``.
        """
        # The stored candidates replace top-k, top-p and masks: a changed policy would choose others.
        scaled = self.for_reference().logits(logits, elapsed)
        if kept is None:
            return scaled
        return scaled.gather(1, kept.clamp(min=0).long()).masked_fill(kept < 0, -torch.inf)

    def score(
        self,
        head: Callable[[Tensor], Tensor],
        states: Tensor,
        actions: Tensor,
        own: Tensor,
        kept: Tensor | None = None,
        against: Against | None = None,
    ) -> TokenScores:
        """Compute log-probability and entropy of every chosen token, without holding ``[n, T, V]`` in memory.

        Args:
            head: maps hidden states to logits.
            states: ``[n, T, d]`` the states in which the tokens were chosen.
            actions: ``[n, T]`` the chosen tokens.
            own: ``[n, T]`` bool, True for tokens that the policy chose.
            kept: ``[n, T, M]`` ids that the distribution kept at the rollout, -1 for none; None for all.
            against: another model to compare the distribution with; None for no comparison.
        """
        elapsed = chosen_before(own)

        def chunk(
            states: Tensor, actions: Tensor, elapsed: Tensor, kept: Tensor | None, others: Tensor | None
        ) -> tuple[Tensor, ...]:
            log_probs = self.kept_logits(head(states), elapsed, kept).log_softmax(-1)
            if kept is None:
                chosen = log_probs.gather(1, actions[:, None])
            else:  # columns are candidates, not token ids; a token outside them has probability 0
                is_chosen = kept == actions[:, None]
                chosen = log_probs.gather(1, is_chosen.int().argmax(-1, keepdim=True))
                chosen = chosen.masked_fill(~is_chosen.any(-1, keepdim=True), -torch.inf)
            # 0 · log 0 counts as 0, in the gradient as well.
            finite = log_probs.masked_fill(log_probs == -torch.inf, 0.0)
            scores = chosen[:, 0], -(log_probs.exp() * finite).sum(-1)
            if against is None or others is None:
                return scores
            with torch.no_grad():  # the other model may share weights with the one that is trained
                other_logits = against.head(others)
            return *scores, against.divergence(*self._comparable(log_probs, other_logits, elapsed, kept))

        inputs = (
            states[own],
            actions[own],
            elapsed[own],
            None if kept is None else kept[own],
            None if against is None else against.states[own],
        )
        # Chunks are recomputed in the backward pass: a second product with the head instead of an [n, T, V] tensor.
        size = max(1, CHUNK_ELEMENTS // self.n_actions)
        if len(inputs[0]) <= size:
            parts = [chunk(*inputs)]
        else:
            starts = range(0, len(inputs[0]), size)
            slices = [[None if x is None else x[i : i + size] for x in inputs] for i in starts]
            parts = [checkpoint(chunk, *one, use_reentrant=False, preserve_rng_state=False) for one in slices]
        empty = torch.zeros(own.shape, dtype=parts[0][0].dtype, device=own.device)
        return TokenScores(*(empty.masked_scatter(own, torch.cat(column)) for column in zip(*parts, strict=True)))

    def _comparable(
        self, log_probs: Tensor, other_logits: Tensor, elapsed: Tensor, kept: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return this distribution and another model's over the same columns: log p and log q, ``[m, K]`` each.

        Args:
            log_probs: ``[m, V]`` of this distribution, or ``[m, M]`` over ``kept``.
            other_logits: ``[m, V']`` of the other model, to which only what also restricts a reference applies.
            elapsed: ``[m]`` number of tokens chosen so far in each response.
            kept: ``[m, M]`` ids, -1 for none; None for all.
        """
        log_q = self.kept_logits(other_logits, elapsed, self.kept_for_reference(kept)).log_softmax(-1)
        if kept is None or not self.truncates:
            return log_probs, log_q
        # The other model is not truncated. Beside its V columns stands one for absent candidates, which is cut off.
        place = kept.long().masked_fill(kept < 0, self.n_actions)
        wide = log_probs.new_full((len(kept), self.n_actions + 1), -torch.inf)
        return wide.scatter(1, place, log_probs)[:, :-1], log_q


# --- numbers of chosen tokens ----------------------------------------------------------------------------------


def chosen_before(own: Tensor) -> Tensor:
    """Return how many tokens the policy chose before each column, ``[n, T]`` int64, given its own tokens ``[n, T]``."""
    return own.long().cumsum(1) - own.long()


class ChosenCounter:
    """Counter of the tokens that a policy has chosen in the present episodes of N rows.

    Each time that a row acts, its response has grown by the token chosen before; whatever else it has grown by is the
    other side's. A response that has not grown is a new one's.

    Args:
        n_rows: ``N``.
    """

    def __init__(self, n_rows: int) -> None:
        self._seen: IntArray = np.full(n_rows, np.iinfo(np.int64).max)  # length at the row's last token
        self._foreign: IntArray = np.zeros(n_rows, np.int64)

    def begin(self, rows: IntArray) -> None:
        """Announce that new episodes begin in rows."""
        self._seen[rows] = np.iinfo(np.int64).max

    def count(self, rows: IntArray, length: IntArray) -> IntArray:
        """Return ``[n]`` numbers of chosen tokens; call it once for every token.

        Args:
            rows: ``[n]`` the acting rows.
            length: ``[n]`` numbers of their response tokens, all included.
        """
        goes_on = length > self._seen[rows]
        self._foreign[rows] = np.where(goes_on, self._foreign[rows] + length - self._seen[rows] - 1, 0)
        self._seen[rows] = length
        chosen: IntArray = length - self._foreign[rows]
        return chosen


# --- functions of logits ---------------------------------------------------------------------------------------


def nucleus(logits: Tensor, mass: float) -> Tensor:
    """Return the smallest set of most probable tokens with this mass, ``[n, V]`` bool (Holtzman 2019); 1 for all.

    Args:
        logits: ``[n, V]``, -inf for excluded tokens.
        mass: probability mass, in (0, 1].
    """
    if mass == 1:
        return torch.isfinite(logits)  # a rounded sum may reach 1 before the last token
    # Stable, so that the choice among equally probable tokens does not depend on the batch.
    ranked, order = logits.sort(descending=True, stable=True)
    probs = ranked.softmax(-1)
    inside = probs.cumsum(-1) - probs < mass  # the mass before a token, so that the one that crosses it is kept
    return inside.scatter(1, order, inside)


BLOCK = 64
"""Block size of the two-level search in :func:`draw`; of the order of √V for usual vocabularies."""


def draw(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Sample tokens by inverting the cumulative distribution; on a CPU much faster than ``torch.multinomial``.

    A token depends only on its row's logits and uniform, so that it is the same in every batch.

    Args:
        logits: ``[n, V]``, -inf for excluded tokens.
        uniforms: ``[n]`` float64 in [0, 1).

    Returns:
        Tokens ``[n]`` and their log-probabilities ``[n]`` float32; NaN where a row holds NaN.
    """
    probs = logits.softmax(-1)
    # First find a block of tokens, then a token in it: a cumulative sum over all of V costs more than the softmax.
    whole = probs.shape[1] // BLOCK * BLOCK
    blocks = probs[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1, dtype=torch.float64)
    rest = probs[:, whole:].sum(-1, keepdim=True, dtype=torch.float64)
    block, fraction = _invert(torch.cat([blocks, rest], 1), uniforms[:, None])
    inside = block * BLOCK + torch.arange(BLOCK, device=logits.device)
    beyond = inside >= probs.shape[1]
    among = probs.gather(1, inside.masked_fill(beyond, 0)).double().masked_fill(beyond, 0.0)
    token = (block * BLOCK + _invert(among, fraction)[0]).clamp(max=probs.shape[1] - 1)
    return token[:, 0], probs.gather(1, token)[:, 0].log()


def _invert(mass: Tensor, fraction: Tensor) -> tuple[Tensor, Tensor]:
    """Find where the cumulative mass exceeds a fraction of the total; entries of mass 0 are never found.

    Args:
        mass: ``[n, m]`` float64, not negative.
        fraction: ``[n, 1]`` in [0, 1).

    Returns:
        Indices ``[n, 1]``, and the position ``[n, 1]`` within the mass found, again in [0, 1).
    """
    cumulative = mass.cumsum(-1)
    target = fraction * cumulative[:, -1:]  # below the total even when rounded
    index = torch.searchsorted(cumulative, target, right=True).clamp(max=mass.shape[1] - 1)  # with NaN any index
    found = mass.gather(1, index)
    before = cumulative.gather(1, index) - found
    return index, ((target - before) / found).clamp(0, 1 - 2**-53)


def kept_ids(logits: Tensor) -> Tensor:
    """Return the tokens with finite logits, ``[n, M]`` int32 in ascending order, padded with -1 to the longest row."""
    finite = torch.isfinite(logits)
    counts = finite.sum(-1)
    row, token = finite.nonzero(as_tuple=True)
    first = counts.cumsum(0) - counts
    kept = token.new_full((len(logits), int(counts.max())), -1, dtype=torch.int32)
    kept[row, torch.arange(len(row), device=row.device) - first[row]] = token.int()
    return kept
