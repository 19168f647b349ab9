"""The nouns of textgym: prompts, completions, rewards, rankings and episodes.

Shape letters used in every docstring: ``N`` rows (slots or episodes), ``P`` prompt columns,
``T`` response columns, ``V`` vocabulary size, ``K`` completions ranked together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float64]
Float32Array: TypeAlias = NDArray[np.float32]
BoolArray: TypeAlias = NDArray[np.bool_]
MaskArray: TypeAlias = NDArray[np.int8]

Messages: TypeAlias = Sequence[Mapping[str, str]]
"""A conversation in the usual form: ``[{"role": "user", "content": "..."}]``."""

FinishReason: TypeAlias = Literal["stop", "length"]
"""``"stop"``: an end token or the task's stop rule. ``"length"``: the horizon ``T`` was reached."""

Truncation: TypeAlias = Literal["error", "left", "drop"]
"""Treatment of a row with too many tokens: it is a bad row, its prompt loses its beginning, or it is left out."""

SpecialTokens: TypeAlias = Literal["text", "parse"]
"""Reading of strings such as ``<eos>`` in what users wrote: they stay text, or they become special tokens."""

Combine: TypeAlias = Literal["mean", "min", "uncertainty"]
"""Combination of an ensemble's scores: their mean, the least, or the mean less the weighted variance."""

Service: TypeAlias = Literal["tensorboard", "wandb", "trackio"]
"""A service that metrics are sent to, by the name of its package and of the extra that installs it."""

Score: TypeAlias = float | Sequence[float] | None
"""What a reward gives one completion: a number, one number per token (dense), or None (does not apply)."""


@dataclass(frozen=True)
class Prompt:
    """An initial state.

    Attributes:
        content: what the user wrote: a text, or a conversation that a chat template renders.
        text: the text that was encoded.
        ids: its token ids, at most ``P``.
        columns: the other fields of its data row; reward functions receive them by name.
    """

    content: str | Messages
    text: str
    ids: tuple[int, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Completion:
    """A finished response.

    Attributes:
        text: what the response adds to its prompt, without its end token.
        ids: every sampled token, the end token included.
        finish_reason: why it ended.
    """

    text: str
    ids: tuple[int, ...]
    finish_reason: FinishReason


class RewardFunction(Protocol):
    """TRL's reward signature, so that a reward written for TRL drops in unchanged.

    Called with equally long lists: ``prompts`` (texts, or conversations), ``completions``, ``completion_ids`` (every
    sampled token, the end token included) and one list for each column of the data; ``**kwargs`` must be accepted,
    since columns differ between data sets. Two columns are always there: ``episode_seed`` (the only source of
    randomness that a reward may use) and ``finish_reason``.

    A completion is the text that follows a text: with its first space, where it has one. Where the prompt is a
    conversation, the completion is one, too: ``[{"role": "assistant", "content": text}]``. A reward for both asks
    :func:`completion_text`.

    Returns one score per completion: a float; None where the reward does not apply; or, as an extension, a
    list with one float per token of ``completion_ids`` (a dense reward). May be a coroutine function; a large batch
    then comes in several calls at the same time. The lists are the reward's own: it may change them.
    """

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        *,
        completion_ids: list[list[int]],
        **columns: list[Any],
    ) -> Sequence[Score] | Awaitable[Sequence[Score]]: ...


def as_completion(content: str | Messages, text: str) -> Any:
    """Convert a response to what a reward receives: a text after a text, the assistant's message in a conversation."""
    return text if isinstance(content, str) else [{"role": "assistant", "content": text}]


def completion_text(completion: str | Messages) -> str:
    """Return the text of a completion, which is a text or the assistant's message."""
    return completion if isinstance(completion, str) else "".join(message["content"] for message in completion)


@dataclass(frozen=True)
class Ranking:
    """K completions of one prompt, ranked by a labeller.

    Attributes:
        prompt: a text or a conversation.
        completions: K texts that follow it.
        ranks: K integers, 0 for the best; equal ranks are ties and teach nothing.
    """

    prompt: str | Messages
    completions: tuple[str, ...]
    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.completions) != len(self.ranks):
            raise ValueError(
                f"a ranking needs one rank for each completion, got {len(self.completions)} completions "
                f"and {len(self.ranks)} ranks"
            )
        if len(self.completions) < 2:
            raise ValueError(f"a ranking compares at least 2 completions, got {len(self.completions)}")


@dataclass(frozen=True)
class Episodes:
    """What one iteration collected: each sequence stored once.

    Attributes:
        input_ids: ``[N, P+T]`` int64; the prompt left-padded into the first P columns, response token t in
            column P+t.
        attention_mask: ``[N, P+T]`` int8; 1 where a token stands.
        log_probs: ``[N, T]`` float32, of the sampled tokens under the behaviour distribution; 0 after the end.
        rewards: ``[N, T]`` float32, as the environment paid them; 0 after the end.
        prompt_length: ``P``.
        prompt_index: ``[N]`` which prompt each episode began with.
        episode: ``[N]`` running numbers, which key the random streams.
        stopped: ``[N]`` bool; True where ``finish_reason`` is ``"stop"``.
        truncated: ``[N]`` bool; True where an outside wrapper cut the episode short.
        components: every reward component's score, ``[N]`` each, under its own name.
        kept: ``[N, T, M]`` int32 ids of the tokens that the behaviour distribution kept, -1 for none, where the
            action set was restricted (top-k, top-p, a task's mask); None where nothing was.
    """

    input_ids: IntArray
    attention_mask: MaskArray
    log_probs: Float32Array
    rewards: Float32Array
    prompt_length: int
    prompt_index: IntArray
    episode: IntArray
    stopped: BoolArray
    truncated: BoolArray
    components: Mapping[str, FloatArray] = field(default_factory=dict)
    kept: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def actions(self) -> IntArray:
        """``[N, T]`` the response tokens."""
        return self.input_ids[:, self.prompt_length :]

    @property
    def valid(self) -> BoolArray:
        """``[N, T]`` True where a response token stands."""
        return self.attention_mask[:, self.prompt_length :].astype(bool)

    @property
    def lengths(self) -> IntArray:
        """``[N]`` response tokens of each episode, the end token included."""
        lengths: IntArray = self.valid.sum(axis=1, dtype=np.int64)
        return lengths
