"""Settings of sampling; :mod:`textgym.lm.behaviour` makes the distribution of them."""

from __future__ import annotations

from dataclasses import dataclass

from textgym.numbers import TEMPERATURES, check, count, finite


@dataclass(frozen=True)
class Sampling:
    """How a policy's logits become the distribution that it samples from **and** is trained under.

    Attributes:
        temperature: divides the logits; from 10⁻⁶ to 10⁶. To write the most probable tokens, predict deterministically.
        min_new_tokens: responses hold at least so many tokens before an end token may come.
        top_k: only the k most probable tokens; 0 for all.
        top_p: only the smallest set of most probable tokens that holds this mass (Holtzman 2019); 1 for all.
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
        """True if the kept tokens depend on the policy, so that they must be stored with an episode."""
        return self.top_k > 0 or self.top_p < 1

    @property
    def shared(self) -> Sampling:
        """The part that also defines the reference's distribution: temperature and minimum length."""
        return Sampling(self.temperature, self.min_new_tokens)
