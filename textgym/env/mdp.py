"""Definition of the token MDP: everything that a language environment consists of, except its state."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import CloudpickleWrapper
from transformers import PreTrainedTokenizerBase

from textgym.lm.files.loading import ModelSource
from textgym.numbers import MOST_TOKENS, check, check_given, count, finite, shown
from textgym.rewards.builtin import no_reward
from textgym.rewards.combination import leaves, with_all_parts
from textgym.rewards.compose import WeightedRewards, compose
from textgym.rewards.functions import ALWAYS_THERE, EPISODE_GROUP, RESERVED, Batch, compared, reward_name
from textgym.tokenization import decode_response, filler_id
from textgym.types import BoolArray, FinishReason, IntArray, MaskArray, Prompt
from textgym.worlds.glue import Glue, template_glue
from textgym.worlds.world import World, role_of

StopRule: TypeAlias = Callable[[Sequence[int]], bool]
"""``stop(response_ids)``: True if the response ends here, in addition to the end tokens."""

ActionRule: TypeAlias = Callable[[IntArray, MaskArray], BoolArray]
"""``allowed(input_ids [n, P+T], attention_mask [n, P+T]) -> [n, V]``: True for tokens that the task admits next."""


EPISODE_NUMBER = "episode_number"
"""Further column of played episodes: the running number. An enumeration, and data without episodes, have none."""

ENVIRONMENT_COLUMNS = {*RESERVED, *ALWAYS_THERE, EPISODE_NUMBER, EPISODE_GROUP}
"""Names of the arguments that rewards receive from the environment; columns of the data must not use them."""

TURN_COLUMNS = ("response_ids", "turn_rewards")
"""Further columns in tasks with a world: every token of the response, the world's included; the turns' rewards."""
WORLD = "world"
"""Name under which the sum of the turns' rewards is logged."""


CODE = frozenset({"reward", "stop", "allowed", "base_model", "world"})
"""Fields of :class:`TokenMDP` that hold functions, which may be user code."""


@dataclass(frozen=True)
class Verdict:
    """Reward of one response.

    Attributes:
        paid: the task's reward; a dense one's sum. It is paid at the end, in addition to the rewards of turns.
        info: entries for its ``info``: ``score`` of the whole episode, ``components`` (those that apply), and
            ``token_rewards`` of the policy's own tokens if the reward is dense.
    """

    paid: float
    info: dict[str, Any]


@dataclass(frozen=True)
class TokenMDP:
    """Token MDP: prompt = initial state, vocabulary token = action, prompt + prefix = observation.

    Attributes:
        tokenizer: never changed.
        prompts: the initial states; ``reset`` draws one uniformly.
        reward: called once for all rows that finish in a step; a callable in TRL's signature, or a list of them, or of
            ``(reward, weight)``.
        end_token_ids: tokens that end a response.
        max_prompt_length: ``P``; prompts are left-padded to it.
        max_new_tokens: ``T``, the horizon: part of the task, so reaching it is a termination.
        vocabulary_size: ``V``, the number of actions; the tokenizer's length unless given.
        stop: an additional rule that ends a response, or None.
        allowed: the admitted tokens of each state, or None for all.
        missing_end_score: paid instead of the reward to a response that reached the horizon without an end token (the
            "EOS trick" of Ziegler 2019); None pays the reward as usual.
        base_model: a starting point for policies of this task: a directory, or a function that builds a new model. The
            environment itself never reads it.
        skip_special_tokens: leave all special tokens out of the completions that rewards receive, as TRL does.
            Otherwise only the end token, padding and the tokenizer's start token are left out, so that a reward sees
            ``<think>`` or a second end token.
        world: the other side of an episode, which replies to the policy's turns; None for a single turn.
        turn_end_ids: tokens that end a turn of the policy; none of them ends the response.
        max_turn_tokens: greatest number of tokens in a turn; None for no limit but T.
        glue: what stands around a reply; by default that of the tokenizer's chat template. See
            :func:`textgym.worlds.template_glue`.
    """

    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[Prompt]
    reward: Any
    end_token_ids: tuple[int, ...]
    max_prompt_length: int
    max_new_tokens: int
    vocabulary_size: int | None = None
    stop: StopRule | None = None
    allowed: ActionRule | None = None
    missing_end_score: float | None = None
    base_model: ModelSource | None = None
    skip_special_tokens: bool = False
    world: World | None = None
    turn_end_ids: tuple[int, ...] = ()
    max_turn_tokens: int | None = None
    glue: Glue | None = None

    def __post_init__(self) -> None:
        # Composed and bound once; ``bind`` lets reward models find out whether they share the policy's token ids.
        object.__setattr__(self, "reward", compose(self.reward).bind(self.tokenizer))
        check(self, count, "max_prompt_length", "max_new_tokens", most=MOST_TOKENS)
        check_given(self, count, "vocabulary_size", "max_turn_tokens", most=MOST_TOKENS)
        check_given(self, finite, "missing_end_score")
        outside = [i for i in self.end_token_ids if not 0 <= i < self.n_actions]
        if outside:
            raise ValueError(f"end_token_ids={outside} lie outside the {self.n_actions} actions")
        self._check_world()
        self._check_missing_end_score()
        if not self.prompts:
            raise ValueError("prompts is empty; expected at least one prompt")
        for number, prompt in enumerate(self.prompts, start=1):
            self._check_prompt(number, prompt)
        # Checked here, before any episode, rather than at the end of the first one.
        self.rewards.check_columns((*self.columns, *self._turn_columns))
        self.rewards.check_lengths(self.prompts, self.max_new_tokens, self.end_token_ids, self.stop is not None)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields for pickling, with functions wrapped so that lambdas and local functions pickle too."""
        # AsyncVectorEnv sends environments to its worker processes by pickle, which refuses lambdas.
        return {name: CloudpickleWrapper(value) if name in CODE else value for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: value.fn if name in CODE else value for name, value in state.items()})

    def _check_world(self) -> None:
        """Check the settings of turns, and find the glue."""
        if self.world is None:
            given = [name for name in ("turn_end_ids", "max_turn_tokens", "glue") if getattr(self, name)]
            if given:
                raise ValueError(f"{given[0]} is given without a world; pass world=WORLD, or leave it out")
            return
        for method in ("begin", "reply"):
            if isinstance(self.world, type) or not callable(getattr(self.world, method, None)):
                raise TypeError(f"world={shown(self.world)}; expected an object with the methods begin and reply")
        if not self.turn_end_ids and self.max_turn_tokens is None:
            raise ValueError("turn_end_ids is empty and max_turn_tokens is None; a world needs one of them")
        outside = [i for i in self.turn_end_ids if not 0 <= i < self.n_actions]
        if outside:
            raise ValueError(f"turn_end_ids={outside} lie outside the {self.n_actions} actions")
        if both := sorted(set(self.turn_end_ids) & set(self.end_token_ids)):
            raise ValueError(
                f"turn_end_ids and end_token_ids both hold {both}; a token ends the turn or the response: leave it out "
                "of one of them"
            )
        for part in (part for reward in self.rewards.rewards for part in with_all_parts(reward)):
            if getattr(inspect.unwrap(part), "single_turn", False):
                raise ValueError(
                    f"the reward {reward_name(part)!r} reads the tokens of one turn, and the task has a world "
                    f"({type(self.world).__name__}); use it in a task without a world"
                )
        if WORLD in self.rewards.logged_names:
            raise ValueError(
                f"a reward is called {WORLD!r}, as the sum of the turns' rewards is in logs; rename it, for instance "
                "the function"
            )
        if self.glue is None:
            role = role_of(self.world)
            object.__setattr__(self, "glue", template_glue(self.tokenizer, self.turn_end_ids, role))
        assert self.glue is not None
        for name in ("before", "after", "closing"):
            piece = getattr(self.glue, name)
            if outside := [i for i in (() if isinstance(piece, str) else piece) if not 0 <= i < self.n_tokens]:
                raise ValueError(f"glue.{name} holds ids {outside}, the vocabulary has {self.n_tokens} tokens")

    def _check_missing_end_score(self) -> None:
        """Check that no reward needs the responses that ``missing_end_score`` keeps from it."""
        named = {reward_name(leaf): leaf for reward in self.rewards.rewards for leaf in leaves(reward)}
        whole = [name for name, leaf in named.items() if getattr(inspect.unwrap(leaf), "every_response", False)]
        whole += [name for name, leaf in zip(self.rewards.names, self.rewards.rewards, strict=True) if compared(leaf)]
        if self.missing_end_score is not None and whole:
            raise ValueError(
                f"missing_end_score={self.missing_end_score:g} keeps responses without an end from the reward, and "
                f"{whole[0]!r} needs every response to a prompt; leave missing_end_score out, and let a reward pay by "
                "finish_reason instead"
            )

    def _check_prompt(self, number: int, prompt: Prompt) -> None:
        if not 0 < len(prompt.ids) <= self.max_prompt_length:
            raise ValueError(
                f"prompt {number} has {len(prompt.ids)} tokens; expected 1 to "
                f"max_prompt_length={self.max_prompt_length}: {prompt.text[:80]!r}"
            )
        if not 0 <= min(prompt.ids) <= max(prompt.ids) < self.n_tokens:
            raise ValueError(
                f"prompt {number} holds ids from {min(prompt.ids)} to {max(prompt.ids)}, the vocabulary has "
                f"{self.n_tokens} tokens; encode prompts with the task's own tokenizer"
            )
        # Such a column would be passed to rewards twice, or hide what the environment passes.
        if taken := sorted(prompt.columns.keys() & {*ENVIRONMENT_COLUMNS, *self._turn_columns}):
            raise ValueError(f"prompt {number} has columns {taken}, names of reward arguments; rename them")

    @property
    def rewards(self) -> WeightedRewards:
        """The reward as composed components."""
        composed: WeightedRewards = self.reward
        return composed

    @property
    def _relative(self) -> str:
        """The names of the rewards that compare responses, for a message."""
        named = zip(self.rewards.names, self.rewards.rewards, strict=True)
        return f"the reward {', '.join(repr(name) for name, reward in named if compared(reward))}"

    def check_scores_alone(self, where: str, instead: str) -> None:
        """Check that the reward scores each response by itself.

        Args:
            where: what cannot do otherwise, for the message.
            instead: the mend.

        Raises:
            ValueError: it compares responses with each other; see :mod:`textgym.rewards.relative`.
        """
        if self.rewards.compares is not None:
            raise ValueError(
                f"{self._relative} compares the responses of an iteration with each other, and {where}; {instead}"
            )

    @cached_property
    def _without_reward(self) -> frozenset[str]:
        """Names of components that never pay; beside a world that pays, they would be logged as a gold reward of 0."""
        named = zip(self.rewards.names, self.rewards.rewards, strict=True)
        return frozenset(name for name, reward in named if inspect.unwrap(reward) is no_reward)

    @property
    def _turn_columns(self) -> tuple[str, ...]:
        return () if self.world is None else TURN_COLUMNS

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns that some prompt of the data has."""
        return tuple(sorted({name for prompt in self.prompts for name in prompt.columns}))

    def judge(self, batch: Batch) -> list[Verdict]:
        """Score ``N`` responses that ended.

        Raises:
            textgym.rewards.RewardError: a mistake in the reward.
        """
        scored = self.rewards.score_batch(batch)
        verdicts = []
        for i, total in enumerate(scored.totals):
            dense = {} if isinstance(total, float) else {"token_rewards": list(total)}
            scores = {name: column[i] for name, column in scored.components.items()}
            # A component that does not apply is left out; the mask of its key in the batched infos shows that.
            components = {name: score for name, score in scores.items() if not math.isnan(score)}
            padded = np.zeros(self.max_new_tokens)  # the sum must not depend on the place of the tokens
            padded[: 1 if isinstance(total, float) else len(total)] = total
            paid = float(padded.sum())
            score = paid
            if self.world is not None:
                turns = math.fsum(batch.columns["turn_rewards"][i])
                others = {name: score for name, score in components.items() if name not in self._without_reward}
                score, components = paid + turns, {WORLD: turns, **others}
            verdicts.append(Verdict(paid, {"score": score, "components": components, **dense}))
        return verdicts

    @property
    def n_actions(self) -> int:
        """``V``."""
        return len(self.tokenizer) if self.vocabulary_size is None else self.vocabulary_size

    @property
    def needed_turn_ends(self) -> tuple[int, ...]:
        """Tokens without which a turn would last to the horizon; none if ``max_turn_tokens`` ends turns."""
        return self.turn_end_ids if self.max_turn_tokens is None else ()

    @property
    def n_tokens(self) -> int:
        """Number of ids that an observation may hold: prompts may use tokens that are no actions."""
        # The vocabulary of a model may be larger than its tokenizer's, and prompts may have tokens that are no actions.
        return max(self.n_actions, len(self.tokenizer))

    @property
    def width(self) -> int:
        """``P + T``, the columns of an observation."""
        return self.max_prompt_length + self.max_new_tokens

    @property
    def filler(self) -> int:
        """Id in columns without a token."""
        return filler_id(self.tokenizer, self.end_token_ids, self.n_actions)

    def completion(self, prompt: Prompt, ids: Sequence[int]) -> str:
        """Return the text that a response adds to its prompt; see :func:`textgym.tokenization.decode_response`."""
        return decode_response(self.tokenizer, prompt.ids, ids, self.end_token_ids, self.skip_special_tokens)

    def observation_space(self) -> spaces.Dict:
        """Return the space of ``input_ids`` int64 and ``attention_mask`` int8, both ``[P+T]``.

        The mask is explicit, since a policy may sample the filler id.
        """
        return spaces.Dict(
            {
                "input_ids": spaces.Box(0, self.n_tokens - 1, (self.width,), np.int64),
                "attention_mask": spaces.Box(0, 1, (self.width,), np.int8),
            }
        )

    def action_space(self) -> spaces.Discrete:
        """Return ``Discrete(V)``."""
        return spaces.Discrete(self.n_actions)


def reward_columns(
    prompts: Sequence[Prompt],
    episode_seed: Sequence[int],
    finish_reason: Sequence[FinishReason | None],
    names: Iterable[str],
) -> dict[str, list[Any]]:
    """Return the columns that a reward receives for ``n`` responses: the data's and the environment's.

    Args:
        prompts: ``n`` prompts.
        episode_seed: ``n`` seeds.
        finish_reason: ``n`` reasons.
        names: names of the data's columns; a prompt that lacks one gets None.
    """
    columns: dict[str, list[Any]] = {name: [prompt.columns.get(name) for prompt in prompts] for name in names}
    columns["prompt_ids"] = [list(prompt.ids) for prompt in prompts]
    columns["episode_seed"] = list(episode_seed)
    columns["finish_reason"] = list(finish_reason)
    return columns
