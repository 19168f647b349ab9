"""A task: prompts, reference texts, a gold reward, metrics and sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from transformers import PreTrainedTokenizerBase

from textgym.types import Prompt, RewardFunction

TextMetric: TypeAlias = Callable[[Sequence[str], Sequence[str]], list[float]]
"""``metric(prompts, completions)``: one number per completion."""


@dataclass(frozen=True)
class Task:
    """Everything that defines a language task; an environment is one task with a reward.

    Attributes:
        name: as in its id, ``"Reviews"`` for ``textgym/Reviews-v0``.
        description: one sentence: what is asked of the policy.
        tokenizer: its length is the number of actions ``V``.
        splits: prompts by split; ``"train"`` is what environments draw from. A prompt's column ``reference``
            holds a text that a good writer might continue it with.
        gold: the true reward, in [0, 1].
        end_token_ids: tokens that end a response.
        max_prompt_length: ``P``.
        max_new_tokens: ``T``, the horizon.
        metrics: further measures of a completion, such as whether it is grammatical.
        base_model: directory of the model that policies start from, and the KL reference.
    """

    name: str
    description: str
    tokenizer: PreTrainedTokenizerBase
    splits: Mapping[str, Sequence[Prompt]]
    gold: RewardFunction
    end_token_ids: tuple[int, ...]
    max_prompt_length: int
    max_new_tokens: int
    metrics: Mapping[str, TextMetric] = field(default_factory=dict)
    base_model: Path | None = None

    def prompts(self, split: str = "train") -> Sequence[Prompt]:
        """The prompts of a split; ValueError names the splits there are."""
        if split not in self.splits:
            raise ValueError(f"split={split!r} is not one of {sorted(self.splits)} of task {self.name}")
        return self.splits[split]
