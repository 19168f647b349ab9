"""Settings of ``textgym evaluate``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from textgym.commands.configs.generate import DecodingName, check_decoding
from textgym.commands.configs.shared import MaxNewTokens, Seed, SkipTokens
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

OWN = {"beams": "beam", "length_penalty": "beam", "best_of": "best-of-n"}
"""Options that belong to one way of decoding, and which."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a policy on a task: its reward, the diversity of its texts, its distance from a reference.

    Every number comes with a 95 % interval over prompts. Nothing is trained.
    """

    model: tyro.conf.Positional[str]
    """Policy: a run, a checkpoint, the directory of any language model, or a hub id. A checkpoint is measured as it was
    trained, with its sampling settings."""
    task: str
    """Id of a task, such as textgym/Reviews-v0. A model with other tokens reads its prompts anew."""
    parameters: dict[str, int | float | str] = field(default_factory=dict)
    """Parameters of the task."""
    split: str = "test"
    """Split whose prompts are asked: 'test', 'validation' or 'train', as far as the task has them."""
    limit: int = 256
    """Number of prompts, at most; drawn by the seed."""
    samples: int = 1
    """Number of responses to each prompt."""
    shots: tuple[int, ...] = (0,)
    """Numbers of examples before each prompt, each number measured by itself: '0 1 4' for zero-, one- and few-shot."""
    examples: str | None = None
    """Split that the examples are drawn from, by the seed and the prompt's text; never the prompt itself. Default:
    'train'."""
    decoding: DecodingName = "sample"
    """Way to write: 'sample'; 'greedy', the most probable token at each step; 'beam', a search for the most probable
    responses; 'best-of-n', the best of n samples by the reward."""
    beams: int | None = None
    """Number of responses that a beam search keeps at each step. Default: 4."""
    length_penalty: float | None = None
    """Exponent of the length by which a beam search divides log-probabilities: above 0 longer responses gain, below 0
    shorter ones. Default: 1."""
    best_of: int | None = None
    """Number n of samples of best-of-n. Default: 4."""
    temperature: float | None = None
    """Divisor of the logits, also for a beam search. Default, here and below: as the policy was trained, or its whole
    distribution at 1."""
    min_new_tokens: int | None = None
    """Minimum length of a response in tokens; end tokens are masked until then."""
    top_k: int | None = None
    """Sample from the k most probable tokens only; 0 for all."""
    top_p: float | None = None
    """Sample from the smallest set of most probable tokens with this mass; 1 for all."""
    max_new_tokens: MaxNewTokens = None
    skip_special_tokens: SkipTokens = False
    reward: str | None = None
    """Reward, written as for 'textgym train'. Default: the task's."""
    metrics: tuple[str, ...] = ()
    """Further rewards to measure beside it, each written as a reward; the task's gold and metrics always are."""
    reference: str | None = None
    """Model that the KL is measured to, with the same tokens: a directory, a run or a hub id. Default: the task's base
    model, if it has the policy's tokens. Only of samples."""
    fixed_model: str | None = None
    """Model, with any tokens, under which the perplexity of the generations is measured. Default: it is not."""
    reference_perplexity: bool = False
    """Measure the perplexity of the task's reference texts under the policy; RL4LMs called it perplexity."""
    at_k: tuple[int, ...] = ()
    """Values of k for pass@k and maj@k, at most 'samples'."""
    right: float | None = None
    """A response counts as right, for pass@k and maj@k, if its gold (or else its score) is at least this. Default:
    1."""
    answer: str | None = None
    """Regular expression that finds the answer for maj@k: its first group in its last match. Default: the whole
    text."""
    paraphrases: str | None = None
    """Other wordings of the prompts, to measure the spread of the score over them: a column of the task that holds a
    list of texts, or a file of rows with 'prompt' and 'paraphrases'."""
    against: str | None = None
    """Other policy, to compare with on the same prompts: win rate under the reward, or by a judge, and samples side by
    side."""
    judge: str | None = None
    """Judge of the win rate, which reads each pair of responses in both orders: 'URL,model=NAME' of an
    OpenAI-compatible endpoint, with further options such as 'cache=DIR', or a function as 'file.py:function'."""
    seed: Seed = 0
    out: Path | None = None
    """Directory of results.json, samples.jsonl, report.html and the table as CSV; an earlier evaluation in it is
    replaced."""

    def __post_init__(self) -> None:
        check(self, count, "limit", "samples")
        check_given(self, count, "beams", "best_of")
        check_given(self, finite, "length_penalty", low=-10, high=10)
        check_given(self, count, "max_new_tokens", most=MOST_TOKENS)
        check_given(self, count, "min_new_tokens", "top_k", least=0)
        check_given(self, finite, "temperature", **TEMPERATURES)
        check_given(self, finite, "top_p", above=0, high=1)
        check_given(self, finite, "right")
        check(self, random_seed, "seed")
        check_words(self, "model", "task", "split", "examples", "reward", "reference", "fixed_model", "answer")
        check_words(self, "paraphrases", "against", "judge")
        if self.judge is not None and self.against is None:
            raise SettingError("judge compares two policies; name the other one with --against")
        self._check_lists()
        self._check_decoding()

    def _check_lists(self) -> None:
        if not self.shots:
            raise SettingError("shots is empty; expected numbers of examples, such as 0 or '0 1 4'")
        for name, least in (("shots", 0), ("at_k", 1)):
            values = getattr(self, name)
            object.__setattr__(self, name, tuple(count(name, value, least) for value in values))
            if len(set(values)) < len(values):
                raise SettingError(f"{name}={values} holds a number twice; give each once")
        if self.at_k and max(self.at_k) > self.samples:
            raise SettingError(
                f"at_k={max(self.at_k)} is more than samples={self.samples}; pass --samples {max(self.at_k)}"
            )
        if any(not spec.strip() for spec in self.metrics):
            raise SettingError(f"metrics={self.metrics} holds an empty one; leave it out")
        if self.examples is not None and not any(self.shots):
            raise SettingError(f"examples={self.examples!r} is for shots; pass --shots 1, or leave it out")
        if self.right is not None and not self.at_k:
            raise SettingError(f"right={self.right} is for pass@k and maj@k; pass --at-k, or leave it out")
        if self.answer is not None:
            if not self.at_k:
                raise SettingError(f"answer={self.answer!r} is for maj@k; pass --at-k, or leave it out")
            try:
                re.compile(self.answer)
            except (re.error, RecursionError, OverflowError) as error:
                raise SettingError(f"answer={self.answer!r} is no regular expression: {error}") from error

    def _check_decoding(self) -> None:
        """Check that every option fits the way of decoding."""
        check_decoding(self, OWN)
        if self.samples > 1 and self.decoding in ("greedy", "beam"):
            raise SettingError(
                f"samples={self.samples}, and decoding={self.decoding!r} gives the same response each time; leave "
                "samples out"
            )
        if self.reference is not None and self.decoding != "sample":
            raise SettingError(
                f"reference={self.reference!r} is for the KL, an expectation over samples, and decoding is "
                f"{self.decoding!r}; leave reference out, or add --decoding sample"
            )
