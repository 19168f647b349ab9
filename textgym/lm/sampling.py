"""Settings of sampling; :mod:`textgym.lm.behaviour` turns them into a distribution."""

from __future__ import annotations

from dataclasses import dataclass

from textgym.numbers import TEMPERATURES, check, count, finite


@dataclass(frozen=True)
class Sampling:
    """Sampling settings, which define the distribution that a policy samples from **and** is trained under.

    Attributes:
        temperature: divides the logits; from 10⁻⁶ to 10⁶. For the most probable tokens predict deterministically.
        min_new_tokens: minimum response length; end tokens are masked until then.
        top_k: number of most probable tokens to keep; 0 for all.
        top_p: probability mass to keep, in the smallest set of most probable tokens (Holtzman 2019); 1 for all.
    """

    temperature: float = 1.0
    min_new_tokens: int = 0
    top_k: int = 0
    top_p: float = 1.0

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
        """The settings that also apply to the reference: temperature and minimum length."""
        return Sampling(self.temperature, self.min_new_tokens)
