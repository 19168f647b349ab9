"""Language task: prompts, reference texts, a gold reward, metrics and sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from transformers import PreTrainedTokenizerBase

from textgym.lm.files.loading import ModelSource
from textgym.rewards.functions import reward_name
from textgym.types import Prompt, RewardFunction, completion_text
from textgym.worlds.glue import Glue
from textgym.worlds.world import World

TextMetric: TypeAlias = Callable[[Sequence[str], Sequence[str]], list[float]]
"""``metric(prompts, completions)``: one number per completion."""


@dataclass(frozen=True)
class Proxy:
    """Reward that looks plausible but can be hacked.

    Attributes:
        reward: a reward function.
        temptation: one sentence: why it looks plausible.
        hack: maps a prompt to a completion that this reward scores at least as high as the reference text, while the
            gold reward scores it lower.
    """

    reward: RewardFunction
    temptation: str
    hack: Callable[[Prompt], str]


TextScore: TypeAlias = Callable[[str, str, Mapping[str, Any]], float]
"""``score(prompt, completion, columns)``: the score of one completion's text."""


@dataclass(frozen=True)
class TextReward:
    """Adapter from a score of one completion's text to the signature of a reward; it has the name of the score.

    It can be pickled if the score can: a function of a module can, a lambda cannot.
    """

    score: TextScore

    @property
    def name(self) -> str:
        """Name in logs."""
        return reward_name(self.score)

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        *,
        completion_ids: list[list[int]],
        **columns: list[Any],
    ) -> list[float]:
        """Return one score for each completion."""
        rows = ({name: values[row] for name, values in columns.items()} for row in range(len(completions)))
        return [self.score(*row) for row in zip(prompts, map(completion_text, completions), rows, strict=True)]


def per_text(score: TextScore) -> RewardFunction:
    """Make a reward function from ``score(prompt, completion, columns)``, which sees one completion at a time."""
    return TextReward(score)


@dataclass(frozen=True, repr=False)
class Task:
    """Definition of a language task; an environment is one task with a reward.

    Attributes:
        name: the name in its id, ``"Reviews"`` for ``textgym/Reviews-v0``.
        description: one sentence: the task of the policy.
        tokenizer: its length is the number of actions ``V``.
        splits: prompts by split; environments draw from ``"train"``. A prompt's column ``reference`` holds a good
            completion.
        gold: the true reward, in [0, 1].
        end_token_ids: tokens that end a response.
        max_prompt_length: ``P``.
        max_new_tokens: ``T``, the horizon.
        metrics: additional measures of a completion, for instance whether it is grammatical.
        base_model: the model that policies start from, and the KL reference: a directory, or a function that builds a
            new one.
        reward: the default reward of environments if it is not the gold reward: with noise, on a different scale, a
            proxy.
        vocabulary_size: ``V``, if prompts use tokens that are no actions; None for the tokenizer's length.
        proxies: rewards that look like the gold one and can be hacked; environments know them by name.
        beta: the KL coefficient at which the task is scored, if its optimum is known.
        world: the other side of an episode, which replies to the policy's turns; None for a single turn.
        turn_end_ids: tokens that end a turn of the policy.
        max_turn_tokens: greatest number of tokens in a turn; None for no limit but T.
        glue: what stands around a reply; None for that of the tokenizer's chat template.
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
    base_model: ModelSource | None = None
    reward: RewardFunction | None = None
    vocabulary_size: int | None = None
    proxies: Mapping[str, Proxy] = field(default_factory=dict)
    beta: float | None = None
    world: World | None = None
    turn_end_ids: tuple[int, ...] = ()
    max_turn_tokens: int | None = None
    glue: Glue | None = None

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}: {len(prompts)}" for name, prompts in self.splits.items())
        n_actions = self.vocabulary_size or len(self.tokenizer)
        sizes = f"V={n_actions}, P={self.max_prompt_length}, T={self.max_new_tokens}"
        return f"Task({self.name!r}, {sizes}, prompts={{{counts}}})"

    def prompts(self, split: str = "train") -> Sequence[Prompt]:
        """Return the prompts of a split.

        Raises:
            ValueError: there is no such split; the message names those that exist.
        """
        if split not in self.splits:
            raise ValueError(f"split={split!r} is not one of {sorted(self.splits)} of task {self.name}")
        return self.splits[split]
