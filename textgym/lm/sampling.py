"""The behaviour distribution: what is sampled is what is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from textgym.lm.settings import Sampling as Sampling


def restrict(
    logits: Tensor,
    sampling: Sampling,
    n_actions: int,
    end_ids: Sequence[int] = (),
    elapsed: Tensor | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """Logits of the behaviour distribution; -inf where a token is left out.

    Args:
        logits: ``[n, V']`` as the model gives them; a head wider than the action space is cut.
        sampling: temperature and restrictions.
        n_actions: ``V``.
        end_ids: tokens that end a response.
        elapsed: ``[n]`` tokens that each response holds already; needed where ``min_new_tokens`` is set.
        allowed: ``[n, V]`` bool, the task's own mask, or None.

    Returns:
        ``[n, V]`` float32.

    Raises:
        ValueError: some row has no token left.
    """
    scaled = logits[:, :n_actions].float()
    if sampling.temperature != 1:
        scaled = scaled / sampling.temperature
    if sampling.min_new_tokens and len(end_ids):
        assert elapsed is not None
        ends = torch.zeros(n_actions, dtype=torch.bool, device=logits.device)
        ends[list(end_ids)] = True
        too_early = (elapsed < sampling.min_new_tokens)[:, None]
        scaled = scaled.masked_fill(too_early & ends, -torch.inf)
    if allowed is not None:
        scaled = scaled.masked_fill(~allowed, -torch.inf)
        if not torch.isfinite(scaled).any(-1).all():
            raise ValueError("the task's mask leaves no token to choose; expected at least one per state")
    if sampling.top_k and sampling.top_k < n_actions:
        threshold = scaled.topk(sampling.top_k).values[:, -1:]
        scaled = scaled.masked_fill(scaled < threshold, -torch.inf)
    if sampling.top_p < 1:
        scaled = scaled.masked_fill(~nucleus(scaled, sampling.top_p), -torch.inf)
    return scaled


def nucleus(logits: Tensor, mass: float) -> Tensor:
    """``[n, V]`` bool: the smallest set of most probable tokens that holds this mass (Holtzman 2019); 1 for all.

    Args:
        logits: ``[n, V]``, -inf for tokens that are left out.
        mass: in (0, 1].
    """
    if mass == 1:
        return torch.isfinite(logits)  # a rounded sum may pass 1 before the last token
    # Stable, so that equally probable tokens are kept alike in every batch.
    ranked, order = logits.sort(descending=True, stable=True)
    probs = ranked.softmax(-1)
    inside = probs.cumsum(-1) - probs < mass
    return inside.scatter(1, order, inside)


BLOCK = 64
"""Tokens whose probabilities are summed before the one is sought; near √V for the usual vocabularies."""


def draw(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Sample by inverting the cumulative distribution; on a CPU far faster than ``torch.multinomial``.

    A token depends on its row's logits and uniform alone, so it is the same in every batch.

    Args:
        logits: ``[n, V]``, -inf for tokens that are left out.
        uniforms: ``[n]`` float64 in [0, 1).

    Returns:
        tokens ``[n]`` and their log-probabilities ``[n]`` float32; NaN where a row holds NaN.
    """
    probs = logits.softmax(-1)
    # First a block of tokens, then a token in it: a cumulative sum over all of V costs more than the softmax.
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
    """Where the cumulative mass goes beyond a fraction of the whole; never where there is none.

    Args:
        mass: ``[n, m]`` float64, 0 or more.
        fraction: ``[n, 1]`` in [0, 1).

    Returns:
        indices ``[n, 1]``, and how far into the mass found the fraction reaches ``[n, 1]``, again in [0, 1).
    """
    cumulative = mass.cumsum(-1)
    target = fraction * cumulative[:, -1:]  # less than the whole, also when rounded
    index = torch.searchsorted(cumulative, target, right=True).clamp(max=mass.shape[1] - 1)  # of NaN, anything
    found = mass.gather(1, index)
    before = cumulative.gather(1, index) - found
    return index, ((target - before) / found).clamp(0, 1 - 2**-53)


def kept_ids(logits: Tensor) -> Tensor:
    """``[n, M]`` int32: the tokens with finite logits in ascending order, padded with -1 to the longest row."""
    finite = torch.isfinite(logits)
    counts = finite.sum(-1)
    row, token = finite.nonzero(as_tuple=True)
    first = counts.cumsum(0) - counts
    kept = token.new_full((len(logits), int(counts.max())), -1, dtype=torch.int32)
    kept[row, torch.arange(len(row), device=row.device) - first[row]] = token.int()
    return kept
