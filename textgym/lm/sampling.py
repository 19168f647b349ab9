"""Sampling settings of the behaviour distribution; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from textgym.moved import find_moved
from textgym.numbers import TEMPERATURES, check, count, finite


@dataclass(frozen=True)
class Sampling:
    """Rule by which a policy's logits become the distribution that it samples from **and** is trained under."""

    temperature: float = 1.0
    """Divisor of the logits of policy and reference, in sampling and in training, from 1e-6 to 1e6. For the most
    probable tokens, predict deterministically. Published: 0.7 (Ziegler 2019)."""
    min_new_tokens: int = 0
    """Minimum response length in tokens; end tokens are masked until then."""
    top_k: int = 0
    """Sample from the k most probable tokens only; 0 for all."""
    top_p: float = 1.0
    """Sample from the smallest set of most probable tokens with this mass (nucleus sampling, Holtzman 2019); 1 for
    all."""

    def __post_init__(self) -> None:
        check(self, finite, "temperature", **TEMPERATURES)
        check(self, finite, "top_p", above=0, high=1)
        check(self, count, "top_k", "min_new_tokens", least=0)

    @property
    def truncates(self) -> bool:
        """True if the candidate tokens depend on the policy (top-k, top-p); they are then stored per token."""
        return self.top_k > 0 or self.top_p < 1

    @property
    def shared(self) -> Sampling:
        """Part that also defines the reference's distribution: temperature and minimum length."""
        return Sampling(self.temperature, self.min_new_tokens)


if not TYPE_CHECKING:  # a type checker must not take every name for one of this module
    __getattr__ = partial(find_moved, __name__)
