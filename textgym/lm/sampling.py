"""The behaviour distribution: what is sampled is what is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How a policy's logits become the distribution that it samples from **and** is trained under.

    Attributes:
        temperature: divides the logits.
        min_new_tokens: responses hold at least so many tokens before an end token may come.
        top_k: only the k most probable tokens; 0 for all.
        top_p: only the smallest set of most probable tokens that holds this mass (Holtzman 2019); 1 for all.
    """

    temperature: float = 1.0
    min_new_tokens: int = 0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature}; expected more than 0 (predict deterministically instead)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}; expected a share in (0, 1]")
        if self.top_k < 0 or self.min_new_tokens < 0:
            raise ValueError(f"top_k={self.top_k}, min_new_tokens={self.min_new_tokens}; expected 0 or more")

    @property
    def truncates(self) -> bool:
        """Whether the kept tokens depend on the policy, and must be stored with an episode."""
        return self.top_k > 0 or self.top_p < 1

    @property
    def shared(self) -> Sampling:
        """The part that also defines the reference's distribution: temperature and minimum length."""
        return Sampling(self.temperature, self.min_new_tokens)


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
    scaled = logits[:, :n_actions].float() / sampling.temperature
    if sampling.min_new_tokens and len(end_ids):
        assert elapsed is not None
        too_early = (elapsed < sampling.min_new_tokens)[:, None]
        scaled[:, list(end_ids)] = scaled[:, list(end_ids)].masked_fill(too_early, -torch.inf)
    if allowed is not None:
        scaled = scaled.masked_fill(~allowed, -torch.inf)
        if not torch.isfinite(scaled).any(-1).all():
            raise ValueError("the task's mask leaves no token to choose; expected at least one per state")
    if sampling.top_k and sampling.top_k < n_actions:
        threshold = scaled.topk(sampling.top_k).values[:, -1:]
        scaled = scaled.masked_fill(scaled < threshold, -torch.inf)
    if sampling.top_p < 1:
        ranked, order = scaled.sort(descending=True)
        mass_before = ranked.softmax(-1).cumsum(-1) - ranked.softmax(-1)
        outside = (mass_before >= sampling.top_p).scatter(1, order, mass_before >= sampling.top_p)
        scaled = scaled.masked_fill(outside, -torch.inf)
    return scaled


def draw(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Samples by inverting the cumulative distribution; on a CPU far faster than ``torch.multinomial``.

    A token depends on its row's logits and uniform alone, so it is the same in every batch.

    Args:
        logits: ``[n, V]``, -inf for tokens that are left out.
        uniforms: ``[n]`` float64 in [0, 1).

    Returns:
        tokens ``[n]`` and their log-probabilities ``[n]`` float32.
    """
    log_probs = torch.log_softmax(logits, -1)
    cumulative = log_probs.exp().cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # Rounding may not lift a target to the total, beyond which no token stands.
    target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, target, right=True)
    return tokens[:, 0], log_probs.gather(1, tokens)[:, 0]


def kept_ids(logits: Tensor) -> Tensor:
    """``[n, M]`` int32: the tokens with finite logits, padded with -1 to the longest row."""
    finite = torch.isfinite(logits)
    counts = finite.sum(-1)
    # A stable sort puts the finite ids first, in ascending order.
    order = finite.byte().sort(-1, descending=True, stable=True).indices[:, : int(counts.max())]
    inside = torch.arange(order.shape[1], device=logits.device) < counts[:, None]
    return order.masked_fill(~inside, -1).to(torch.int32)
