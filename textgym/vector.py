"""The token MDP on arrays: the one implementation, of which the single environment is the one-row case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from textgym.mdp import TokenMDP
from textgym.rendering import Frame, ansi, rgb_array
from textgym.tokenization import decode_response, token_strings
from textgym.types import BoolArray, FinishReason, FloatArray, IntArray, MaskArray

Observation = dict[str, NDArray[Any]]


class TokenVectorEnv(VectorEnv[Observation, IntArray, NDArray[Any]]):
    """``num_envs`` slots that each generate a response; a step appends one token to every live row.

    The observation is ``{"input_ids": [N, P+T], "attention_mask": [N, P+T]}``: the prompt left-padded into the
    first P columns, response token t in column P+t.

    ``reset(options=…)`` accepts, beside Gymnasium's ``reset_mask``, the arrays ``prompt_index`` ``[N]`` and
    ``episode`` ``[N]``, read where the mask is True: which prompt a row begins with, and the running number from
    which ``episode_seed`` (the reward's only source of randomness) is derived. Without them rows draw both from
    their own generator, seeded ``seed + i`` as in Gymnasium.

    Under ``AutoresetMode.DISABLED`` a row that has ended idles until it is reset: its action is ignored, its
    reward is 0, its observation unchanged, and ``info["active"]`` is False for it.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "human", "rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(
        self,
        mdp: TokenMDP,
        num_envs: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs={num_envs}; expected at least 1")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode={render_mode!r} is not one of {self.metadata['render_modes']}")
        self.mdp = mdp
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = mdp.observation_space()  # type: ignore[assignment]
        self.single_action_space = mdp.action_space()  # type: ignore[assignment]
        self.observation_space = batch_space(mdp.observation_space(), num_envs)
        self.action_space = batch_space(mdp.action_space(), num_envs)

        self.generators: list[np.random.Generator | None] = [None] * num_envs
        self.base_seed = 0
        self._is_end = np.zeros(mdp.n_actions, bool)
        self._is_end[list(mdp.end_token_ids)] = True
        self._ids: IntArray = np.full((num_envs, mdp.width), mdp.filler, np.int64)
        self._mask: MaskArray = np.zeros((num_envs, mdp.width), np.int8)
        self._length: IntArray = np.zeros(num_envs, np.int64)
        self._live: BoolArray = np.zeros(num_envs, bool)
        self._prompt_index: IntArray = np.zeros(num_envs, np.int64)
        self._episode_seed: IntArray = np.zeros(num_envs, np.int64)
        self._token_rewards: FloatArray = np.zeros((num_envs, mdp.max_new_tokens))
        self._finish_reason: list[FinishReason | None] = [None] * num_envs
        self._started = False

    # What agents need to know of the layout; found through wrappers with ``get_wrapper_attr``.

    @property
    def prompt_length(self) -> int:
        """``P``."""
        return self.mdp.max_prompt_length

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a response."""
        return self.mdp.end_token_ids

    # --- reset -------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins new episodes in all rows, or in those of ``options["reset_mask"]``."""
        options = options or {}
        chosen = self._reset_mask(options.get("reset_mask"))
        self._seed_rows(seed, chosen)
        rows = np.flatnonzero(chosen)
        if "prompt_index" in options:
            self._begin(rows, *self._given_starts(rows, options))
        else:
            self._begin(rows, *self._drawn_starts(rows))
        self._started = True
        infos: dict[str, Any] = {}
        for row in rows:
            infos = self._add_info(infos, self._row_info(row), row)
        return self.observation(), self._with_active(infos, self._live)

    def _reset_mask(self, mask: Any) -> BoolArray:
        if mask is None:
            return np.ones(self.num_envs, bool)
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise ValueError(
                f"options['reset_mask'] has dtype {mask.dtype} and shape {mask.shape}; expected a bool array "
                f"of shape ({self.num_envs},)"
            )
        if not mask.any():
            raise ValueError("options['reset_mask'] selects no row; expected at least one True")
        return mask

    def _seed_rows(self, seed: int | Sequence[int | None] | None, chosen: BoolArray) -> None:
        if seed is None or isinstance(seed, int | np.integer):
            seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed has {len(seeds)} entries; expected one for each of the {self.num_envs} rows")
        for row in np.flatnonzero(chosen):
            if seeds[row] is not None or self.generators[row] is None:
                self.generators[row], used = seeding.np_random(seeds[row])
                self.base_seed = used if row == 0 else self.base_seed

    def _drawn_starts(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        starts = [(g.integers(len(self.mdp.prompts)), g.integers(2**63)) for g in map(self._generator, rows)]
        index, episode_seed = np.array(starts, np.int64).T
        return index, episode_seed

    def _generator(self, row: int) -> np.random.Generator:
        generator = self.generators[row]
        assert generator is not None, "rows are seeded before they draw"
        return generator

    def _given_starts(self, rows: IntArray, options: dict[str, Any]) -> tuple[IntArray, IntArray]:
        index = np.asarray(options["prompt_index"])
        episode = np.asarray(options.get("episode", index))
        for name, value in (("prompt_index", index), ("episode", episode)):
            if value.shape != (self.num_envs,) or value.dtype.kind not in "iu":
                raise ValueError(f"options[{name!r}] must hold {self.num_envs} integers, got {value!r}")
        bad = [int(i) for i in index[rows] if not 0 <= i < len(self.mdp.prompts)]
        if bad:
            raise ValueError(f"options['prompt_index'] holds {bad}; there are {len(self.mdp.prompts)} prompts")
        seeds = [np.random.SeedSequence([self.base_seed, int(e)]).generate_state(1, np.uint64)[0] for e in episode[rows]]
        return index[rows].astype(np.int64), (np.array(seeds, np.uint64) >> np.uint64(1)).astype(np.int64)

    def _begin(self, rows: IntArray, prompt_index: IntArray, episode_seed: IntArray) -> None:
        width = self.mdp.max_prompt_length
        self._ids[rows] = self.mdp.filler
        self._mask[rows] = 0
        for row, index in zip(rows, prompt_index, strict=True):
            ids = self.mdp.prompts[index].ids
            self._ids[row, width - len(ids) : width] = ids
            self._mask[row, width - len(ids) : width] = 1
            self._finish_reason[row] = None
        self._length[rows] = 0
        self._token_rewards[rows] = 0.0
        self._live[rows] = True
        self._prompt_index[rows] = prompt_index
        self._episode_seed[rows] = episode_seed

    # --- step --------------------------------------------------------------------------------------------

    def step(
        self, actions: IntArray
    ) -> tuple[Observation, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Appends one token to every live row.

        ``terminated`` is True on an end token, on the task's stop rule **and** on the horizon T: the score is
        paid there, so no value lies beyond it, and the state knows the elapsed time (the response's columns), so
        the horizon is part of the state. ``info["finish_reason"]`` tells ``"stop"`` from ``"length"``;
        ``truncated`` is left to wrappers. A dense reward is paid as its sum in the last step, when it becomes
        known, and ``info["token_rewards"]`` holds its parts.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset, or when no row is live.
            ValueError: an action that is not an integer in ``[0, V)``, or that the task's mask forbids.
        """
        live = self._live.copy()
        if not self._started or (self.autoreset_mode is AutoresetMode.DISABLED and not live.any()):
            raise gym.error.ResetNeeded("no row is live: call reset() first, or reset(options={'reset_mask': …})")
        self._append(live, self._checked(actions, live))
        finished = np.flatnonzero(self._ended(live))
        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, bool)
        terminated[finished] = True
        final_infos = self._finish(finished, rewards)
        infos = self._autoreset(live, final_infos)
        return self.observation(), rewards, terminated, np.zeros(self.num_envs, bool), self._with_active(infos, live)

    def _checked(self, actions: Any, live: BoolArray) -> IntArray:
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise ValueError(
                f"actions has shape {actions.shape} and dtype {actions.dtype}; expected {self.num_envs} integers"
            )
        used = actions[live]
        if used.size and not (0 <= used.min() and used.max() < self.mdp.n_actions):
            bad = used[(used < 0) | (used >= self.mdp.n_actions)]
            raise ValueError(f"action {bad[0]} lies outside the {self.mdp.n_actions} tokens of the vocabulary")
        if self.mdp.allowed is not None and not self.action_masks()[live, used].all():
            raise ValueError("an action is forbidden by the task's mask; choose among env.action_masks()")
        return actions.astype(np.int64, copy=False)

    def _append(self, live: BoolArray, actions: IntArray) -> None:
        rows = np.flatnonzero(live)
        columns = self.mdp.max_prompt_length + self._length[rows]
        self._ids[rows, columns] = actions[rows]
        self._mask[rows, columns] = 1
        self._length[rows] += 1

    def _ended(self, live: BoolArray) -> BoolArray:
        last = self._ids[np.arange(self.num_envs), self.mdp.max_prompt_length + self._length - 1]
        stopped = live & self._is_end[np.minimum(last, self.mdp.n_actions - 1)]
        if self.mdp.stop is not None:
            for row in np.flatnonzero(live & ~stopped):
                stopped[row] = self.mdp.stop(self.response(row))
        ended: BoolArray = stopped | (live & (self._length == self.mdp.max_new_tokens))
        for row in np.flatnonzero(ended):
            self._finish_reason[row] = "stop" if stopped[row] else "length"
        return ended

    def _finish(self, rows: IntArray, rewards: FloatArray) -> dict[int, dict[str, Any]]:
        """Scores the rows that ended, writes their rewards and returns what their infos say of it."""
        if not len(rows):
            return {}
        self._live[rows] = False
        responses = {int(row): self.response(row) for row in rows}
        texts = {row: decode_response(self.mdp.tokenizer, ids, self.mdp.end_token_ids) for row, ids in responses.items()}
        infos = {row: {"finish_reason": self._finish_reason[row], "completion": text} for row, text in texts.items()}
        fixed = self.mdp.missing_end_score
        scored = [row for row in responses if fixed is None or self._finish_reason[row] == "stop"]
        for row in set(responses) - set(scored):
            rewards[row] = self._token_rewards[row, self._length[row] - 1] = fixed
        if scored:
            self._score(scored, responses, texts, rewards, infos)
        for row in responses:
            infos[row]["score"] = float(rewards[row])
        return infos

    def _score(
        self,
        rows: list[int],
        responses: dict[int, list[int]],
        texts: dict[int, str],
        rewards: FloatArray,
        infos: dict[int, dict[str, Any]],
    ) -> None:
        prompts = [self.mdp.prompts[self._prompt_index[row]] for row in rows]
        names = sorted({name for prompt in prompts for name in prompt.columns})
        columns: dict[str, list[Any]] = {name: [prompt.columns.get(name) for prompt in prompts] for name in names}
        columns["prompt_ids"] = [list(prompt.ids) for prompt in prompts]
        columns["episode_seed"] = [int(self._episode_seed[row]) for row in rows]
        columns["finish_reason"] = [self._finish_reason[row] for row in rows]
        batch = self.mdp.rewards.score(
            [prompt.content for prompt in prompts], [texts[r] for r in rows], [responses[r] for r in rows], columns
        )
        for position, (row, total) in enumerate(zip(rows, batch.totals, strict=True)):
            length = self._length[row]
            if isinstance(total, float):
                self._token_rewards[row, length - 1] = total
            else:
                self._token_rewards[row, :length] = total
                infos[row]["token_rewards"] = list(total)
            rewards[row] = self._token_rewards[row, :length].sum()
            values = {name: scores[position] for name, scores in batch.components.items()}
            # A component that does not apply is left out: its key's mask says so.
            infos[row]["components"] = {name: value for name, value in values.items() if value == value}

    def _autoreset(self, was_live: BoolArray, final_infos: dict[int, dict[str, Any]]) -> dict[str, Any]:
        """Resets what the autoreset mode resets now, and gathers every row's info as Gymnasium batches it."""
        infos: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            for row, info in final_infos.items():
                final = {"final_obs": self._row_observation(row), "final_info": {**self._masks(row), **info}}
                infos = self._add_info(infos, final, row)
            restarted = np.array(sorted(final_infos), np.int64)
        elif self.autoreset_mode is AutoresetMode.NEXT_STEP:
            restarted = np.flatnonzero(~was_live)
        else:
            restarted = np.array([], np.int64)
        if len(restarted):
            self._begin(restarted, *self._drawn_starts(restarted))
            for row in restarted:
                infos = self._add_info(infos, self._row_info(row), row)
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            for row, info in final_infos.items():
                infos = self._add_info(infos, info, row)
        if self.mdp.allowed is not None:
            infos["action_mask"] = self.action_masks().astype(np.int8)
            infos["_action_mask"] = np.ones(self.num_envs, bool)
        return infos

    # --- what can be seen ----------------------------------------------------------------------------------

    def observation(self) -> Observation:
        """A fresh copy of all rows' observations."""
        return {"input_ids": self._ids.copy(), "attention_mask": self._mask.copy()}

    def response(self, row: int) -> list[int]:
        """The tokens that a row has generated so far."""
        start = self.mdp.max_prompt_length
        ids: list[int] = self._ids[row, start : start + self._length[row]].tolist()
        return ids

    def action_masks(self) -> BoolArray:
        """``[N, V]``: which tokens the task admits; all of them for rows that have ended."""
        masks = np.ones((self.num_envs, self.mdp.n_actions), bool)
        if self.mdp.allowed is not None and self._live.any():
            masks[self._live] = self.mdp.allowed(self._ids[self._live], self._mask[self._live])
        return masks

    def render(self) -> tuple[Any, ...] | None:  # type: ignore[override]
        """One frame per row, as ``render_mode`` says; ``"human"`` prints and returns None."""
        if self.render_mode is None:
            return None
        frames = [self.frame(row) for row in range(self.num_envs)]
        if self.render_mode == "rgb_array":
            return tuple(rgb_array(frame) for frame in frames)
        texts = tuple(ansi(frame) for frame in frames)
        if self.render_mode == "ansi":
            return texts
        print("\n\n".join(texts))
        return None

    def frame(self, row: int) -> Frame:
        """What a picture of one row shows."""
        response = self.response(row)
        return Frame(
            prompt=self.mdp.prompts[self._prompt_index[row]].text,
            tokens=tuple(token_strings(self.mdp.tokenizer, response)),
            rewards=tuple(self._token_rewards[row, : len(response)].tolist()),
            finish_reason=self._finish_reason[row],
        )

    def _row_observation(self, row: int) -> Observation:
        return {"input_ids": self._ids[row].copy(), "attention_mask": self._mask[row].copy()}

    def _row_info(self, row: int) -> dict[str, Any]:
        index = int(self._prompt_index[row])
        return {"prompt": self.mdp.prompts[index].text, "prompt_index": index, **self._masks(row)}

    def _masks(self, row: int) -> dict[str, Any]:
        return {} if self.mdp.allowed is None else {"action_mask": self.action_masks()[row].astype(np.int8)}

    def _with_active(self, infos: dict[str, Any], live: BoolArray) -> dict[str, Any]:
        if self.autoreset_mode is AutoresetMode.DISABLED:
            infos["active"] = live.copy()
        return infos
