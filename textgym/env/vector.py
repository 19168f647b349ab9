"""Token MDP on arrays. The single environment is its one-row case, so there is one implementation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import seeding
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from textgym.env.mdp import EPISODE_NUMBER, WORLD, TokenMDP, reward_columns
from textgym.env.rendering import Frame, ansi, rgb_array
from textgym.env.turns import Conversation, answered, begin, ends_turn, messages_at_end, present_turn
from textgym.numbers import count
from textgym.rewards.functions import Batch
from textgym.tokenization import token_strings
from textgym.types import (
    BoolArray,
    FinishReason,
    FloatArray,
    IntArray,
    MaskArray,
    Prompt,
    as_completion,
    completion_text,
)
from textgym.worlds.world import WorldError, ask

Observation = dict[str, NDArray[Any]]
RowInfos: TypeAlias = dict[int, dict[str, Any]]
"""Infos by row, before Gymnasium's batching."""

OPTIONS = ("reset_mask", "prompt_index", "episode")


_FOR_ALGORITHMS = (
    "give the environment itself, without wrappers, to an algorithm of textgym with score_together=True and several "
    "samples_per_prompt"
)


def check_mapping(options: Any) -> None:
    """Check that the options of a reset are a mapping.

    Raises:
        ValueError: they are not.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f"options={options!r}; expected a dict with some of {', '.join(OPTIONS)}, or None")


def with_horizon(spec: EnvSpec | None, mdp: TokenMDP) -> EnvSpec | None:
    """Return a spec whose ``max_episode_steps`` is T.

    No ``TimeLimit`` is needed for it: the task itself ends there.
    """
    if spec is None:
        return None
    # Gymnasium passes ``max_episode_steps`` of a spec on to the entry point, but it is no setting of the task.
    settings = {name: value for name, value in spec.kwargs.items() if name != "max_episode_steps"}
    return replace(spec, max_episode_steps=mdp.max_new_tokens, kwargs=settings)


class TokenVectorEnv(VectorEnv[Observation, IntArray, NDArray[Any]]):
    """Vector environment of ``num_envs`` slots that each generate a response.

    A step appends one token to every live row. In a task with a world, a step that ends the policy's turn also appends
    the world's reply: the observation that it returns is again one in which the policy chooses.

    The observation is ``{"input_ids": [N, P+T], "attention_mask": [N, P+T]}``: the prompt left-padded into the first P
    columns, response token t in column P+t.

    In addition to Gymnasium's ``reset_mask``, ``reset(options=…)`` accepts the arrays ``prompt_index`` ``[N]`` and
    ``episode`` ``[N]``, which are read where the mask is True: the prompt of a row, and its running number. The number
    and the last given seed determine ``episode_seed``, the reward's only source of randomness. Options that are not
    given are drawn from the row's own generator, seeded ``seed + i`` as in Gymnasium.

    Rewards receive the running number as the column ``episode_number``, so that they can change with time. An episode
    without a given number has that of the episodes which have begun without one since the last seed.

    Under ``AutoresetMode.DISABLED`` a row that has ended idles until it is reset: its action is ignored, its reward is
    0, its observation is unchanged, and its ``info["active"]`` is False.
    """

    _spec: EnvSpec | None = None
    metadata: dict[str, Any] = {"render_modes": ["ansi", "human", "rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(
        self,
        mdp: TokenMDP,
        num_envs: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        num_envs = count("num_envs", num_envs)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode={render_mode!r} is not one of {self.metadata['render_modes']}")
        if AutoresetMode(autoreset_mode) is not AutoresetMode.DISABLED:
            mdp.check_scores_alone(
                f"with autoreset_mode={AutoresetMode(autoreset_mode).value!r} each is scored in the step that ends it",
                "make the environment with autoreset_mode='Disabled', for an algorithm of textgym",
            )
        self.mdp = mdp
        self._scores_alone = mdp.rewards.compares is None
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = mdp.observation_space()
        self.single_action_space = mdp.action_space()
        self.observation_space = batch_space(mdp.observation_space(), num_envs)
        self.action_space = batch_space(mdp.action_space(), num_envs)

        self.generators: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int] = [-1] * num_envs  # the seed of each generator
        self.base_seed: int | None = None
        # A table over the vocabulary: one indexing operation per step finds the rows that ended.
        self._is_end = np.isin(np.arange(mdp.n_actions), mdp.end_token_ids)
        # The state is kept as arrays in the layout of observations, so that a step writes one column in place.
        self._ids: IntArray = np.full((num_envs, mdp.width), mdp.filler, np.int64)
        self._mask: MaskArray = np.zeros((num_envs, mdp.width), np.int8)
        self._length: IntArray = np.zeros(num_envs, np.int64)
        self._live: BoolArray = np.zeros(num_envs, bool)
        self._prompt_index: IntArray = np.zeros(num_envs, np.int64)
        self._episode_seed: IntArray = np.zeros(num_envs, np.int64)
        self._episode_number: IntArray = np.zeros(num_envs, np.int64)
        self._begun = 0  # episodes without a given number, since the last seed
        self._token_rewards: FloatArray = np.zeros((num_envs, mdp.max_new_tokens))
        self._finish_reason: list[FinishReason | None] = [None] * num_envs
        self._admitted: BoolArray | None = None  # cached action masks of the present state
        self._started: BoolArray = np.zeros(num_envs, bool)
        # Only used with a world: the turns of each row, and the columns that hold the policy's own tokens.
        self._conversations: list[Conversation | None] = [None] * num_envs
        self._own: BoolArray = np.zeros((num_envs, mdp.max_new_tokens), bool)

    @property
    def spec(self) -> EnvSpec | None:
        """The spec that ``gym.make_vec`` used; ``max_episode_steps`` is the horizon T, at which rows end anyway."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = with_horizon(spec, self.mdp)

    # Properties that agents read, through wrappers with ``get_wrapper_attr``.

    @property
    def prompt_length(self) -> int:
        """Columns of the prompt, ``P``."""
        return self.mdp.max_prompt_length

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a response."""
        return self.mdp.end_token_ids

    @property  # type: ignore[misc]  # read-only, as in SyncVectorEnv
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each row's generator, as in Gymnasium's own vector environments."""
        self._seed_rows(None, [row for row in range(self.num_envs) if self.generators[row] is None])
        return tuple(generator for generator in self.generators if generator is not None)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each row's generator."""
        return tuple(self._seeds) if self.np_random else ()

    @property
    def prompt_index(self) -> IntArray:
        """``[N]`` the prompt of each row."""
        return self._prompt_index.copy()

    @property
    def episode_seed(self) -> IntArray:
        """``[N]`` the seed of each row's episode, the source of its reward's and world's random numbers."""
        return self._episode_seed.copy()

    # --- reset -------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin new episodes in all rows, or in those of ``options["reset_mask"]``."""
        infos = self._batch(self.restart(seed, {} if options is None else options))
        if self.autoreset_mode is AutoresetMode.DISABLED:
            infos["active"] = self._live.copy()
        return self.observation(), infos

    def restart(self, seed: int | Sequence[int | None] | None, options: Mapping[str, Any]) -> RowInfos:
        """Do the work of :meth:`reset`, without copying observations and batching infos."""
        check_mapping(options)
        if unknown := sorted(set(options) - set(OPTIONS), key=str):
            raise ValueError(f"options {unknown} are unknown; expected some of {', '.join(OPTIONS)}")
        chosen = self._reset_mask(options.get("reset_mask"))
        rows = np.flatnonzero(chosen).tolist()
        given = {name: self._given(name, options[name], rows) for name in OPTIONS[1:] if name in options}
        self._seed_rows(seed, rows)
        infos = self._begin(rows, given)
        self._show()
        return infos

    def _reset_mask(self, mask: Any) -> BoolArray:
        if mask is None:
            return np.ones(self.num_envs, bool)
        chosen: NDArray[Any] = np.asarray(mask)
        if chosen.dtype != np.bool_ or chosen.shape != (self.num_envs,):
            raise ValueError(
                f"options['reset_mask'] has dtype {chosen.dtype} and shape {chosen.shape}; expected a bool array "
                f"of shape ({self.num_envs},)"
            )
        if not chosen.any():
            raise ValueError("options['reset_mask'] selects no row; expected at least one True")
        return chosen

    def _given(self, name: str, values: Any, rows: list[int]) -> IntArray:
        """Check an option that holds one integer for each row."""
        array = np.asarray(values)
        if array.shape != (self.num_envs,) or array.dtype.kind not in "iu":
            raise ValueError(f"options[{name!r}] must hold {self.num_envs} integers, got {values!r}")
        n_prompts = len(self.mdp.prompts)
        # Values of rows that are not reset are ignored, so they are not checked either.
        if name == "prompt_index" and any(not 0 <= i < n_prompts for i in array[rows]):
            raise ValueError(f"options['prompt_index'] holds {array[rows]}; there are {n_prompts} prompts")
        if name == "episode" and any(array[rows] < 0):
            raise ValueError(f"options['episode'] holds {array[rows]}; expected running numbers from 0")
        return array

    def _seed_rows(self, seed: int | Sequence[int | None] | None, rows: list[int]) -> None:
        seeds: Sequence[int | None]
        if seed is None or isinstance(seed, int | np.integer):
            seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        elif isinstance(seed, Sequence | np.ndarray):
            seeds = [int(each) if isinstance(each, np.integer) else each for each in seed]
        else:
            raise ValueError(f"seed={seed!r}; expected None, an integer, or one of these for each row")
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed has {len(seeds)} entries; expected one for each of the {self.num_envs} rows")
        if bad := [each for each in seeds if each is not None and not (isinstance(each, int) and each >= 0)]:
            raise ValueError(f"seed holds {bad[0]!r}; expected integers of 0 or more, or None")
        for row in rows:
            # As in Gymnasium, a reset without a seed continues the row's generator.
            if seeds[row] is not None or self.generators[row] is None:
                self.generators[row], self._seeds[row] = seeding.np_random(seeds[row])
        if any(each is not None for each in seeds):
            self._begun = 0
        # One seed for all rows, so that an episode draws the same in every slot.
        self.base_seed = next((s for s in seeds if s is not None), self.base_seed)
        if self.base_seed is None:
            self.base_seed = seeding.np_random()[1]

    def _begin(self, rows: list[int], given: Mapping[str, IntArray] | None = None) -> RowInfos:
        """Begin new episodes in rows, and return their infos."""
        for row in rows:
            self._draw_start(row, given or {})
            ids, width = self._prompt(row).ids, self.mdp.max_prompt_length
            self._ids[row] = self.mdp.filler
            self._mask[row] = 0
            self._ids[row, width - len(ids) : width] = ids
            self._mask[row, width - len(ids) : width] = 1
            self._finish_reason[row] = None
        self._length[rows] = 0
        self._token_rewards[rows] = 0.0
        self._admitted = None
        if self.mdp.world is not None:
            self._begin_conversations(rows)
        self._live[rows] = self._started[rows] = True
        return {row: self._start_info(row) for row in rows}

    def _begin_conversations(self, rows: list[int]) -> None:
        begun = begin(self.mdp, [self._prompt(row) for row in rows], self._episode_seed[rows].tolist())
        for row, conversation in zip(rows, begun, strict=True):
            self._conversations[row] = conversation
        self._own[rows] = False

    def _draw_start(self, row: int, given: Mapping[str, IntArray]) -> None:
        """Set a row's prompt and ``episode_seed``: as given, otherwise from the row's generator."""
        generator = self.generators[row]
        assert generator is not None, "rows are seeded before they draw"
        index, episode = given.get("prompt_index"), given.get("episode")
        self._prompt_index[row] = generator.integers(len(self.mdp.prompts)) if index is None else index[row]
        self._episode_seed[row] = generator.integers(2**63) if episode is None else self._seed_of(int(episode[row]))
        self._episode_number[row] = self._begun if episode is None else episode[row]
        self._begun += episode is None

    def _seed_of(self, episode: int) -> int:
        """Return the ``episode_seed`` of a numbered episode: 63 bits, like the seeds that a generator draws."""
        state = np.random.SeedSequence([self.base_seed or 0, episode]).generate_state(1, np.uint64)
        # One bit less, so that the seed fits a signed int64.
        return int(state[0]) >> 1

    # --- step --------------------------------------------------------------------------------------------

    def step(self, actions: IntArray) -> tuple[Observation, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Append one token to every live row.

        ``terminated`` is True on an end token, on the task's stop rule **and** on the horizon T. The score is paid
        there, so no value lies beyond it; and the elapsed time is part of the state (the response's columns), so the
        horizon is too. ``info["finish_reason"]`` distinguishes ``"stop"`` from ``"length"``; ``truncated`` is left to
        wrappers. A dense reward is paid as its sum in the last step, when it becomes known, and
        ``info["token_rewards"]`` holds its parts.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset, or when no row is live.
            ValueError: an action is not an integer in ``[0, V)``, or the task's mask forbids it.
            textgym.rewards.RewardError: a mistake in the reward.
        """
        active = self._live.copy()
        rewards, terminated, row_infos = self.advance(actions)
        infos = self._batch(row_infos)
        if self.autoreset_mode is AutoresetMode.DISABLED:
            infos["active"] = active
        return self.observation(), rewards, terminated, np.zeros(self.num_envs, bool), infos

    def advance(self, actions: Any, score: bool = True) -> tuple[FloatArray, BoolArray, RowInfos]:
        """Do the work of :meth:`step`, without copying observations and batching infos: rewards, terminated, infos.

        With ``score=False`` the reward is not called. The reward of an ended row is then 0, and its info has, in place
        of ``score``, the key ``unscored`` with a batch of one, for :meth:`textgym.env.mdp.TokenMDP.judge` later.
        """
        if score and not self._scores_alone:
            self.mdp.check_scores_alone("a step scores only those that it ends", _FOR_ALGORITHMS)
        ready = self._live.any() if self.autoreset_mode is AutoresetMode.DISABLED else self._started.all()
        if not ready:
            raise gym.error.ResetNeeded("no row is live: call reset() first, or reset(options={'reset_mask': …})")
        # Rows that are idle before the step: under NEXT_STEP they ended in the last one, and are reset in this one.
        live, idle = np.flatnonzero(self._live), np.flatnonzero(~self._live).tolist()
        self._append(live, self._checked(actions, live))
        turned, ended = self._ended(live)
        rewards, terminated = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        infos: RowInfos = {}
        if turned:
            infos = self._answer(turned, rewards)
            ended += [row for row in turned if self._finish_reason[row] is not None]
        final_infos = self._finish(ended, score, rewards)
        terminated[ended] = True
        infos = self._autoreset(idle, {row: {**infos.get(row, {}), **info} for row, info in final_infos.items()}, infos)
        self._show()
        return rewards, terminated, infos

    def _checked(self, actions: Any, live: NDArray[np.intp]) -> IntArray:
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise ValueError(
                f"actions has shape {actions.shape} and dtype {actions.dtype}; expected {self.num_envs} integers"
            )
        used = actions[live]
        if len(bad := used[(used < 0) | (used >= self.mdp.n_actions)]):
            raise ValueError(f"action {bad[0]} lies outside the {self.mdp.n_actions} tokens of the vocabulary")
        if self.mdp.allowed is not None and len(forbidden := used[~self._admits()[live, used]]):
            raise ValueError(f"action {forbidden[0]} is forbidden by the task's mask; choose among env.action_masks()")
        checked: IntArray = actions.astype(np.int64, copy=False)
        return checked

    def _append(self, live: NDArray[np.intp], actions: IntArray) -> None:
        columns = self.mdp.max_prompt_length + self._length[live]
        self._ids[live, columns] = actions[live]
        self._mask[live, columns] = 1
        if self.mdp.world is not None:
            self._own[live, self._length[live]] = True
        self._length[live] += 1
        self._admitted = None

    def _ended(self, live: NDArray[np.intp]) -> tuple[list[int], list[int]]:
        """Return the rows whose turn their last token has ended, and those whose episode it has; note the reasons."""
        last = self._ids[live, self.mdp.max_prompt_length + self._length[live] - 1]
        stopped = self._is_end[last]
        if self.mdp.stop is not None:
            # A stop rule is the task's own code and sees one response at a time.
            stopped |= np.array([bool(self.mdp.stop(self.own_tokens(int(row)))) for row in live], bool)
        ended = stopped | (self._length[live] == self.mdp.max_new_tokens)
        turned: list[int] = []
        if self.mdp.world is not None:
            # With its type: under NEXT_STEP there may be no live row.
            turns = ~stopped & np.array([self._ends_turn(*pair) for pair in zip(live, last, strict=True)], bool)
            turned, ended = live[turns].tolist(), ended & ~turns
        rows: list[int] = live[ended].tolist()
        for row, stop in zip(rows, stopped[ended], strict=True):
            self._finish_reason[row] = "stop" if stop else "length"
        return turned, rows

    def _ends_turn(self, row: int, token: int) -> bool:
        return ends_turn(self.mdp, int(token), int(self._length[row]) - self._conversation(row).begun)

    def _answer(self, rows: list[int], rewards: FloatArray) -> RowInfos:
        """Ask the world about the turns that ended; write its replies, and add their rewards to ``rewards [N]``."""
        world = self.mdp.world
        assert world is not None
        before = [self._conversation(row) for row in rows]
        turns = [
            present_turn(self.mdp, conversation, self.response(row))
            for row, conversation in zip(rows, before, strict=True)
        ]
        try:
            answers = ask(world, [conversation.state for conversation in before], turns, self.mdp.n_tokens)
        except WorldError:
            self.idle()  # no turn of this step can be answered any more
            raise
        infos: RowInfos = {}
        for row, conversation, turn, (state, reply) in zip(rows, before, turns, answers, strict=True):
            length = int(self._length[row])
            rewards[row] += reply.reward
            self._token_rewards[row, length - 1] += reply.reward
            after, appended, self._finish_reason[row] = answered(self.mdp, conversation, turn, length, state, reply)
            self._conversations[row] = after
            columns = slice(self.mdp.max_prompt_length + length, self.mdp.max_prompt_length + length + len(appended))
            self._ids[row, columns] = appended
            self._mask[row, columns] = 1
            self._length[row] += len(appended)
            infos[row] = {"reply": after.messages[-1]["content"], "turn": len(after.rewards)}
        return infos

    def _finish(self, rows: list[int], score: bool, rewards: FloatArray) -> RowInfos:
        """Score the rows that ended, add the scores to ``rewards [N]``, and return their infos."""
        if not rows:
            return {}
        self._live[rows] = False
        infos: RowInfos = {row: self._final_info(row) for row in rows}
        # The EOS trick pays a constant for responses without an end, which the reward then does not judge.
        unended: list[int] = []
        if self.mdp.missing_end_score is not None:
            unended = [row for row in rows if self._finish_reason[row] == "length"]
        for row in unended:
            self._token_rewards[row, self._columns(row)[-1]] += self.mdp.missing_end_score
            rewards[row] += self.mdp.missing_end_score
            infos[row]["score"] = float(self._token_rewards[row].sum())
            if self.mdp.world is not None:
                infos[row]["components"] = {WORLD: math.fsum(self._conversation(row).rewards)}
        self._score([row for row in rows if row not in unended], infos, score, rewards)
        return infos

    def _score(self, rows: list[int], infos: RowInfos, score: bool, rewards: FloatArray) -> None:
        """Call the reward once for all rows and store its verdicts.

        Without ``score``, store its arguments for later.
        """
        if not rows:
            return
        prompts = [self._prompt(row) for row in rows]
        reasons = [self._finish_reason[row] for row in rows]
        columns = reward_columns(prompts, self._episode_seed[rows].tolist(), reasons, self.mdp.columns)
        columns[EPISODE_NUMBER] = self._episode_number[rows].tolist()
        if self.mdp.world is None:
            texts = [infos[row]["completion"] for row in rows]
            completions = [as_completion(prompt.content, text) for prompt, text in zip(prompts, texts, strict=True)]
        else:
            completions = [list(infos[row]["conversation"]) for row in rows]
            columns["response_ids"] = [self.response(row) for row in rows]
            columns["turn_rewards"] = [list(self._conversation(row).rewards) for row in rows]
        responses = [self.own_tokens(row) for row in rows]
        batch = Batch([prompt.content for prompt in prompts], completions, responses, columns)
        if not score:
            for i, row in enumerate(rows):
                infos[row]["unscored"] = batch.row(i)
            return
        for row, verdict in zip(rows, self.mdp.judge(batch), strict=True):
            own = self._columns(row)
            if "token_rewards" in verdict.info:
                self._token_rewards[row, own] += verdict.info["token_rewards"]
            else:
                # The score is known only when the response is complete, so it is paid for the last token.
                self._token_rewards[row, own[-1]] += verdict.paid
            rewards[row] += verdict.paid
            infos[row] |= verdict.info

    def _autoreset(self, idle: list[int], final_infos: RowInfos, turn_infos: RowInfos) -> RowInfos:
        """Begin the episodes that the autoreset mode begins in this step, and return every row's info."""
        infos = {**turn_infos, **final_infos}
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            # Collected before the rows are reset, which overwrites their observations and masks.
            finals: RowInfos = {
                row: {"final_obs": self._row_observation(row), "final_info": {**info, **self._mask_info(row)}}
                for row, info in final_infos.items()
            }
            begun = self._begin(list(finals))
            infos = {**turn_infos, **{row: {**info, **finals[row]} for row, info in begun.items()}}
        elif self.autoreset_mode is AutoresetMode.NEXT_STEP:
            infos = {**infos, **self._begin(idle)}
        if self.mdp.allowed is not None:
            # With a restricted action set every row needs the mask of its present state, whether or not anything else
            # happened.
            infos = {row: {**infos.get(row, {}), **self._mask_info(row)} for row in range(self.num_envs)}
        return infos

    def env_is_wrapped(self, *_: Any, **__: Any) -> NoReturn:
        """Reject stable-baselines3, which calls this first; its ``VecEnv`` has a different ``reset`` and ``step``."""
        raise TypeError(
            "this is a Gymnasium vector environment; give stable-baselines3 textgym.agents.SB3VecEnv(env), where env "
            "is what gym.make_vec made"
        )

    def idle(self) -> None:
        """End all episodes unscored; every row waits for its next reset."""
        self._live[:] = False

    # --- observations, masks and frames --------------------------------------------------------------------

    def observation(self) -> Observation:
        """Return a fresh copy of all rows' observations."""
        return {"input_ids": self._ids.copy(), "attention_mask": self._mask.copy()}

    def response(self, row: int) -> list[int]:
        """Return the tokens of a row's response so far, the world's included."""
        start = self.mdp.max_prompt_length
        ids: list[int] = self._ids[row, start : start + self._length[row]].tolist()
        return ids

    def own_tokens(self, row: int) -> list[int]:
        """Return the tokens that a row has generated so far."""
        if self.mdp.world is None:
            return self.response(row)
        ids: list[int] = self._ids[row, self.mdp.max_prompt_length + self._columns(row)].tolist()
        return ids

    def _columns(self, row: int) -> IntArray:
        """Return the response columns of a row's own tokens."""
        if self.mdp.world is None:
            return np.arange(self._length[row])
        return np.flatnonzero(self._own[row])

    def _conversation(self, row: int) -> Conversation:
        conversation = self._conversations[row]
        assert conversation is not None, "a row has a conversation from its first reset on"
        return conversation

    def action_masks(self) -> BoolArray:
        """Return ``[N, V]``: True for tokens that the task admits; all True for rows that have ended."""
        return self._admits().copy()

    def _admits(self) -> BoolArray:
        """Return :meth:`action_masks` without a copy, computed once per state."""
        if self._admitted is None:
            self._admitted = np.ones((self.num_envs, self.mdp.n_actions), bool)
            if self.mdp.allowed is not None and self._live.any():
                self._admitted[self._live] = self.mdp.allowed(self._ids[self._live], self._mask[self._live])
        return self._admitted

    def render(self) -> tuple[Any, ...] | None:
        """Render one frame per row, according to ``render_mode``.

        As in Gymnasium, ``"human"`` returns None and prints by itself at every reset and step.
        """
        if self.render_mode is None:
            return None
        if not self._started.any():
            raise gym.error.ResetNeeded("nothing can be rendered before the first reset()")
        frames = [self.frame(row) for row in range(self.num_envs)]
        if self.render_mode == "rgb_array":
            return tuple(rgb_array(frame) for frame in frames)
        texts = tuple(ansi(frame) for frame in frames)
        if self.render_mode == "ansi":
            return texts
        print("\n\n".join(texts))
        return None

    def _show(self) -> None:
        if self.render_mode == "human":
            self.render()

    def frame(self, row: int) -> Frame:
        """Return the data of a picture of one row."""
        response = self.response(row)
        prompt = self._prompt(row)
        return Frame(
            prompt=prompt.text if self._started[row] else "",
            tokens=tuple(token_strings(self.mdp.tokenizer, response, before=prompt.ids)),
            rewards=tuple(self._token_rewards[row, : len(response)].tolist()),
            finish_reason=self._finish_reason[row],
            horizon=self.mdp.max_new_tokens,
            own=None if self.mdp.world is None else tuple(self._own[row, : len(response)].tolist()),
        )

    def _prompt(self, row: int) -> Prompt:
        return self.mdp.prompts[int(self._prompt_index[row])]

    def _row_observation(self, row: int) -> Observation:
        return {"input_ids": self._ids[row].copy(), "attention_mask": self._mask[row].copy()}

    def _start_info(self, row: int) -> dict[str, Any]:
        return {"prompt": self._prompt(row).text, "prompt_index": int(self._prompt_index[row]), **self._mask_info(row)}

    def _final_info(self, row: int) -> dict[str, Any]:
        reason = self._finish_reason[row]
        if self.mdp.world is None:
            return {"finish_reason": reason, "completion": self.mdp.completion(self._prompt(row), self.response(row))}
        messages = messages_at_end(self.mdp, self._conversation(row), self.response(row))
        return {"finish_reason": reason, "completion": completion_text(messages), "conversation": messages}

    def _mask_info(self, row: int) -> dict[str, Any]:
        return {} if self.mdp.allowed is None else {"action_mask": self._admits()[row].astype(np.int8)}

    def _batch(self, infos: RowInfos) -> dict[str, Any]:
        """Batch infos as Gymnasium does: an array for each key, and a mask of the rows that have it."""
        batch: dict[str, Any] = {}
        for row, info in infos.items():
            batch = self._add_info(batch, info, row)
        return batch


def find_attribute(env: Any, name: str) -> Any:
    """Find an attribute of an environment or of one that it wraps; for a vector of environments, of its first row.

    Raises:
        AttributeError: none of them has it.
    """
    layer = env
    while layer is not None:
        if hasattr(layer, name):
            return getattr(layer, name)
        layer = getattr(layer, "env", None)
    inner = getattr(env, "unwrapped", env)
    # Checked first, since a worker process of AsyncVectorEnv dies if an attribute is missing.
    if isinstance(inner, SyncVectorEnv | AsyncVectorEnv) and inner.call("has_wrapper_attr", name)[0]:
        return inner.get_attr(name)[0]
    raise AttributeError(f"{type(env).__name__} has no attribute {name!r}")


def find_action_masks(env: Any) -> Callable[[], BoolArray | None]:
    """Return a function that returns the admitted tokens, or None if the task admits all.

    The masks are ``[N, V]`` for a vector environment, ``[V]`` for a single one.

    Raises:
        AttributeError: the environment is not from this package.
    """
    if find_attribute(env, "mdp").allowed is None:
        return lambda: None
    inner = env.unwrapped
    if isinstance(inner, SyncVectorEnv | AsyncVectorEnv):
        return lambda: np.stack(inner.call("action_masks"))
    masks: Callable[[], BoolArray] = find_attribute(env, "action_masks")
    return masks
