"""Core data types: prompts, completions, rewards, rankings and episodes.

Shape letters used in every docstring: ``N`` rows (slots or episodes), ``P`` prompt columns, ``T`` response columns,
``V`` vocabulary size, ``K`` completions ranked together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from textgym.moved import FormerMember

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
"""Treatment of a row with too many tokens: count it as a bad row, cut its prompt from the left, or drop the row."""

SpecialTokens: TypeAlias = Literal["text", "parse"]
"""Treatment of strings such as ``<eos>`` in user text: they stay text, or become special tokens."""

Combine: TypeAlias = Literal["mean", "min", "uncertainty"]
"""Combination of an ensemble's scores: mean, minimum, or mean minus weighted variance."""

Service: TypeAlias = Literal["tensorboard", "wandb", "trackio"]
"""A service that metrics are sent to, by the name of its package and of the extra that installs it."""

Score: TypeAlias = float | Sequence[float] | None
"""A reward's score of one completion: a number, one number per token (dense), or None (does not apply)."""


@dataclass(frozen=True)
class Prompt:
    """Initial state of an episode.

    Attributes:
        content: the user's input: a text, or a conversation that a chat template renders.
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
    """Finished response, or one turn of a response to which a world replies.

    Attributes:
        text: the text that the response adds to its prompt, without its end token.
        ids: every sampled token, the end token included.
        finish_reason: the reason why it ended.
    """

    text: str
    ids: tuple[int, ...]
    finish_reason: FinishReason


class RewardFunction(Protocol):
    """TRL's reward signature, so that a reward written for TRL works unchanged.

    It is called with equally long lists: ``prompts`` (texts, or conversations), ``completions``, ``completion_ids``
    (every sampled token, the end token included) and one list for each column of the data. ``**kwargs`` must be
    accepted, since columns differ between data sets. Two columns are always present: ``episode_seed`` (the only
    permitted source of randomness) and ``finish_reason``. Environments add ``episode_number``, which counts episodes: a
    reward that changes with time takes it with a default, as there is none where no episode is played. Where the
    responses of an iteration are scored together, there also is ``episode_group``: responses to one prompt that were
    sampled together have the same. A reward that compares responses takes it with a default, and has the attribute
    ``compares``, ``"group"`` or ``"batch"``; it is then called once, with all responses of an iteration
    (:mod:`textgym.rewards.relative`).

    A completion is the text that follows a text, including its first space. After a conversation, the completion is a
    conversation too: ``[{"role": "assistant", "content": text}]``. In a task with a world it always is one, with the
    world's messages between the policy's; ``completion_ids`` are then the policy's own tokens of all turns. A reward
    for all kinds calls :func:`completion_text`.

    It returns one score per completion: a float; None where the reward does not apply; or, as an extension, a list with
    one float per token of ``completion_ids`` (a dense reward). It may be a coroutine function; a large batch is then
    split into concurrent calls. The lists are copies, which the reward may change.
    """

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        *,
        completion_ids: list[list[int]],
        **columns: list[Any],
    ) -> Sequence[Score] | Awaitable[Sequence[Score]]:
        """Score completions."""
        ...


def as_completion(content: str | Messages, text: str) -> Any:
    """Convert a response to the form that rewards receive: a text after a text, a message after a conversation."""
    return text if isinstance(content, str) else [{"role": "assistant", "content": text}]


def completion_text(completion: str | Messages) -> str:
    """Return the policy's text: the completion itself, or the assistant's messages, one a line."""
    if isinstance(completion, str):
        return completion
    return "\n".join(message["content"] for message in completion if message["role"] == "assistant")


def before_last_turn(prompt: str | Messages, completion: str | Messages) -> tuple[str | Messages, str]:
    """Split a conversation before the policy's last words: return what stood before them, and them.

    Of a single turn, that is the prompt and the completion's text. What the other side says after the last words is
    left out.
    """
    if isinstance(completion, str):
        return prompt, completion
    own = [place for place, message in enumerate(completion) if message["role"] == "assistant"]
    before, words = (completion[: own[-1]], completion[own[-1]]["content"]) if own else (completion, "")
    if isinstance(prompt, str):
        return "\n".join([prompt, *(message["content"] for message in before)]) + ("\n" if before else ""), words
    return [*prompt, *before], words


@dataclass(frozen=True)
class Ranking:
    """K completions of one prompt, ranked by a labeller.

    Attributes:
        prompt: a text or a conversation.
        completions: K texts that follow it.
        ranks: K integers, 0 for the best; equal ranks are ties, which carry no information.
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
    """Episodes collected in one iteration; each sequence is stored once.

    Attributes:
        input_ids: ``[N, P+T]`` int64; the prompt left-padded into the first P columns, response token t in column P+t.
        attention_mask: ``[N, P+T]`` int8; 1 for tokens, 0 for padding.
        log_probs: ``[N, T]`` float32, of the chosen tokens under the behaviour distribution; 0 elsewhere.
        rewards: ``[N, T]`` float32, rewards from the environment; 0 where nothing was chosen.
        prompt_length: ``P``.
        prompt_index: ``[N]`` the prompt of each episode.
        episode: ``[N]`` running numbers, which key the random streams.
        stopped: ``[N]`` bool; True where ``finish_reason`` is ``"stop"``.
        truncated: ``[N]`` bool; True where an outside wrapper cut the episode short.
        components: scores of every reward component, ``[N]`` each, by name.
        kept: ``[N, T, M]`` int32 ids of the candidate tokens, -1 for none, if the action set was restricted (top-k,
            top-p, a task's mask); otherwise None.
        own: ``[N, T]`` bool; True for tokens that the policy chose, False for those of the other side and padding. By
            default all tokens of the response.
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
    own: BoolArray = None  # type: ignore[assignment]  # an array once constructed

    def __post_init__(self) -> None:
        if cast(BoolArray | None, self.own) is None:
            object.__setattr__(self, "own", self.attention_mask[:, self.prompt_length :].astype(bool))

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def actions(self) -> IntArray:
        """``[N, T]`` the response tokens, the other side's included."""
        return self.input_ids[:, self.prompt_length :]

    valid = FormerMember("own")

    @property
    def lengths(self) -> IntArray:
        """``[N]`` number of tokens that the policy chose, the end token included."""
        lengths: IntArray = self.own.sum(axis=1, dtype=np.int64)
        return lengths

    @property
    def extents(self) -> IntArray:
        """``[N]`` number of response tokens, the other side's included."""
        extents: IntArray = self.attention_mask[:, self.prompt_length :].sum(axis=1, dtype=np.int64)
        return extents
