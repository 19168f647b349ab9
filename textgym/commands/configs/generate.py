"""Settings of ``textgym generate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textgym.numbers import MOST_TOKENS, TEMPERATURES, check, check_given, check_words, count, finite, random_seed
from textgym.types import SpecialTokens, Truncation


@dataclass(frozen=True)
class GenerateConfig:
    """Sample continuations of prompts."""

    model: str
    """A run, a checkpoint, any causal language model's directory, or a hub id."""
    prompt: tuple[str, ...] = ()
    """Prompts to continue."""
    prompts: Path | None = None
    """A file of prompts: JSON Lines, a JSON array, Parquet or a directory saved by datasets, with a field 'prompt'."""
    truncation: Truncation = "error"
    """Treatment of prompts of the file with more tokens than the model reads beside the new ones: 'error' (they are bad
    rows), 'left' (keep their end) or 'drop' (leave them out)."""
    skip_bad: int = 0
    """How many bad rows of the file may be left out: malformed, empty, too long. They are told on standard error."""
    samples: int = 1
    """Continuations of each prompt."""
    max_new_tokens: int = 48
    """The longest continuation, in tokens."""
    temperature: float | None = None
    """Divides the logits. Default, here and below: as the policy was trained, or all of its distribution at 1."""
    min_new_tokens: int | None = None
    """No end token before so many tokens."""
    top_k: int | None = None
    """Sample only among the k most probable tokens; 0 for all."""
    top_p: float | None = None
    """Sample only among the most probable tokens that hold this mass; 1 for all."""
    special_tokens: SpecialTokens = "text"
    """Reading of special-token strings, such as '<eos>', in prompts: as 'text', or 'parse' for special tokens,
    where a chat template has rendered the prompts already."""
    skip_special_tokens: bool = False
    """Leave all special tokens out of the continuations, rather than only end, padding and start tokens."""
    seed: int = 0
    """Of the random streams."""
    out: Path | None = None
    """Write JSON Lines here instead of printing."""

    def __post_init__(self) -> None:
        check(self, count, "samples")
        check(self, count, "max_new_tokens", most=MOST_TOKENS)
        check_given(self, count, "min_new_tokens", "top_k", least=0)
        check_given(self, finite, "temperature", **TEMPERATURES)
        check_given(self, finite, "top_p", above=0, high=1)
        check(self, count, "skip_bad", least=0)
        check(self, random_seed, "seed")
        check_words(self, "model")
