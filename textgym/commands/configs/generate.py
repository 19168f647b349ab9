"""Settings of ``textgym generate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textgym.commands.configs.shared import ReadTokens, Seed, SkipTokens, Truncated
from textgym.numbers import MOST_TOKENS, TEMPERATURES, check, check_given, check_words, count, finite, random_seed


@dataclass(frozen=True)
class GenerateConfig:
    """Sample continuations of prompts."""

    model: str
    """Model: a run, a checkpoint, the directory of any causal language model, or a hub id."""
    prompt: tuple[str, ...] = ()
    """Prompts to continue."""
    prompts: Path | None = None
    """Prompts in a file: JSON Lines, a JSON array, Parquet or a directory saved by datasets, with a field 'prompt'."""
    truncation: Truncated = "error"
    skip_bad: int = 0
    """Maximum number of bad rows of the file to leave out: malformed, empty or too long. They are listed on standard
    error."""
    samples: int = 1
    """Number of continuations of each prompt."""
    max_new_tokens: int = 48
    """Maximum length of a continuation, in tokens."""
    temperature: float | None = None
    """Divisor of the logits. Default, here and below: as the policy was trained, or its whole distribution at 1."""
    min_new_tokens: int | None = None
    """Minimum length of a continuation in tokens; end tokens are masked until then."""
    top_k: int | None = None
    """Sample from the k most probable tokens only; 0 for all."""
    top_p: float | None = None
    """Sample from the smallest set of most probable tokens with this mass; 1 for all."""
    special_tokens: ReadTokens = "text"
    skip_special_tokens: SkipTokens = False
    seed: Seed = 0
    out: Path | None = None
    """File to write as JSON Lines, instead of printing."""

    def __post_init__(self) -> None:
        check(self, count, "samples")
        check(self, count, "max_new_tokens", most=MOST_TOKENS)
        check_given(self, count, "min_new_tokens", "top_k", least=0)
        check_given(self, finite, "temperature", **TEMPERATURES)
        check_given(self, finite, "top_p", above=0, high=1)
        check(self, count, "skip_bad", least=0)
        check(self, random_seed, "seed")
        check_words(self, "model")
