"""Settings of ``textgym generate``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from textgym.commands.configs.shared import ReadTokens, Seed, SkipTokens, Truncated
from textgym.numbers import (
    MOST_TOKENS,
    TEMPERATURES,
    SettingError,
    check,
    check_given,
    check_words,
    count,
    finite,
    random_seed,
)

DecodingName: TypeAlias = Literal["sample", "greedy", "beam", "best-of-n"]

DEFAULT_BEAMS = 4
"""Number of beams, unless it is given."""
DEFAULT_BEST_OF = 4
"""Number of samples to choose among, unless it is given."""
OWN = {"beams": "beam", "length_penalty": "beam", "best_of": "best-of-n", "reward": "best-of-n"}
"""Options that belong to one way of decoding, and which."""
WITHOUT_EFFECT = {"greedy": ("temperature", "top_k", "top_p"), "beam": ("top_k", "top_p")}
"""Options of sampling that a way of decoding has no use for."""


def check_decoding(config: Any, own: Mapping[str, str]) -> None:
    """Check that no option is given that belongs to another way of decoding than the chosen one.

    Args:
        config: settings with ``decoding`` and its options.
        own: options that belong to one way of decoding, and which.

    Raises:
        SettingError: one is; it is named.
    """
    for name, decoding in own.items():
        if (value := getattr(config, name)) is not None and decoding != config.decoding:
            raise SettingError(
                f"{name}={value!r} belongs to decoding={decoding!r}, and decoding is {config.decoding!r}; add "
                f"--decoding {decoding}, or leave {name} out"
            )
    for name in WITHOUT_EFFECT.get(config.decoding, ()):
        if (value := getattr(config, name)) is not None:
            raise SettingError(
                f"{name}={value!r} is for sampling, and decoding={config.decoding!r} draws nothing; leave {name} out, "
                "or add --decoding sample"
            )


@dataclass(frozen=True)
class GenerateConfig:
    """Write continuations of prompts: sampled, greedy, by beam search, or the best of n samples."""

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
    """Number of continuations of each prompt; of a beam search or of n samples the best ones."""
    decoding: DecodingName = "sample"
    """Way to write: 'sample'; 'greedy', the most probable token at each step; 'beam', a search for the most probable
    continuations; 'best-of-n', the samples with the greatest reward."""
    beams: int | None = None
    """Number of continuations that a beam search keeps at each step. Default: 4."""
    length_penalty: float | None = None
    """Exponent of the length by which a beam search divides log-probabilities: above 0 longer continuations gain, below
    0 shorter ones. Default: 1."""
    best_of: int | None = None
    """Number n of samples of best-of-n. Default: 4."""
    reward: str | None = None
    """Reward that chooses among n samples, as in 'textgym train'."""
    max_new_tokens: int = 48
    """Maximum length of a continuation, in tokens."""
    temperature: float | None = None
    """Divisor of the logits, also for a beam search. Default, here and below: as the policy was trained, or its whole
    distribution at 1."""
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
        check_given(self, count, "beams", "best_of")
        check_given(self, finite, "length_penalty", low=-10, high=10)
        check_words(self, "model", "reward")
        self._check_decoding()

    def _check_decoding(self) -> None:
        """Check that every option fits the way of decoding."""
        check_decoding(self, OWN)
        if self.decoding == "best-of-n" and self.reward is None:
            raise SettingError("reward=None, and decoding='best-of-n' chooses by a reward; pass --reward REWARD")
        most = {"greedy": 1, "beam": self.beams or DEFAULT_BEAMS, "best-of-n": self.best_of or DEFAULT_BEST_OF}
        if self.samples > most.get(self.decoding, self.samples):
            why = {
                "greedy": "gives the same continuation each time; leave samples out",
                "beam": f"ends with beams={most['beam']} continuations; raise beams",
                "best-of-n": f"chooses among best_of={most['best-of-n']}; raise best_of",
            }
            raise SettingError(f"samples={self.samples}, and decoding={self.decoding!r} {why[self.decoding]}")
