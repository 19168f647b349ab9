"""The collection loop: one for every algorithm and every vector environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from textgym.agents.session import Acted, Session
from textgym.agents.slots import Slots, SlotStep
from textgym.types import BoolArray, Episodes, IntArray

OnStep: TypeAlias = Callable[[SlotStep, Acted, BoolArray], bool]
"""``on_step(step, acted, playing [N])`` after each step; False stops the collection."""


@dataclass(frozen=True)
class EpisodePlan:
    """Which episodes an iteration needs: ``[N]`` prompts and ``[N]`` running numbers, in order of admission."""

    prompt_index: IntArray
    episode: IntArray


class Recorder:
    """Writes steps into the ``[N, T]`` arrays of :class:`textgym.types.Episodes`."""

    def __init__(self, plan: EpisodePlan, width: int, prompt_length: int) -> None:
        n, horizon = len(plan.episode), width - prompt_length
        self.plan = plan
        self.prompt_length = prompt_length
        self.input_ids: IntArray = np.zeros((n, width), np.int64)
        self.attention_mask = np.zeros((n, width), np.int8)
        self.log_probs = np.zeros((n, horizon), np.float32)
        self.rewards = np.zeros((n, horizon), np.float32)
        self.length: IntArray = np.zeros(n, np.int64)
        self.stopped = np.zeros(n, bool)
        self.truncated = np.zeros(n, bool)
        self.components: dict[str, Any] = {}
        self._kept: list[tuple[IntArray, IntArray, Any]] = []

    def record(self, rows: IntArray, asked: IntArray, episodes: IntArray, acted: Acted, step: SlotStep) -> None:
        """One step of the ``rows`` that play the given ``episodes``; ``asked`` are the rows of ``acted.kept``."""
        t = self.length[episodes]
        self.log_probs[episodes, t] = acted.log_probs[rows]
        self.rewards[episodes, t] = step.rewards[rows]
        if acted.kept is not None:
            self._kept.append((episodes, t, acted.kept[np.searchsorted(asked, rows)]))
        self.length[episodes] += 1

    def finish(self, row: int, episode: int, step: SlotStep) -> None:
        """The end of an episode: its whole sequence, and what its info says."""
        last, info = step.last(row), step.info(row)
        self.input_ids[episode] = last["input_ids"]
        self.attention_mask[episode] = last["attention_mask"]
        self.truncated[episode] = step.truncated[row]
        self.stopped[episode] = info.get("finish_reason", "stop") == "stop"
        length = self.length[episode]
        if "token_rewards" in info:
            # A dense reward becomes known at the end; what a wrapper added to its sum stays on the last token.
            self.rewards[episode, :length] += info["token_rewards"]
            self.rewards[episode, length - 1] -= sum(info["token_rewards"])
        for name, value in info.get("components", {}).items():
            self.components.setdefault(name, np.full(len(self.length), np.nan))[episode] = value

    def episodes(self) -> Episodes:
        """What was recorded."""
        return Episodes(
            self.input_ids,
            self.attention_mask,
            self.log_probs,
            self.rewards,
            self.prompt_length,
            self.plan.prompt_index,
            self.plan.episode,
            self.stopped,
            self.truncated,
            self.components,
            self._kept_array(),
        )

    def _kept_array(self) -> Any:
        if not self._kept:
            return None
        most = max(kept.shape[1] for _, _, kept in self._kept)
        array = np.full((*self.log_probs.shape, most), -1, np.int32)
        for episodes, t, kept in self._kept:
            array[episodes, t, : kept.shape[1]] = kept
        return array


def collect(slots: Slots, session: Session, plan: EpisodePlan, on_step: OnStep | None = None) -> Episodes | None:
    """Plays the planned episodes.

    Rows that wait are admitted in the plan's order, and rows that finished leave the batch. Environments whose rows
    restart by themselves play on until the last planned episode ends: the first N episodes *begun* are kept, not the
    first to end, which would favour short ones.

    Returns:
        The episodes, or None where ``on_step`` stopped the collection.
    """
    n = len(plan.episode)
    recorder = Recorder(plan, session.decoder.cache.width, session.prompt_length)
    playing: IntArray = np.full(slots.n, -1, np.int64)  # which of the plan's episodes; -1 none
    begun = finished = 0
    observation = slots.start()
    while finished < n:
        restarting = slots.restarting()
        vacant = np.flatnonzero((playing < 0) & ~restarting)[: n - begun]
        if len(vacant):
            chosen = slice(begun, begun + len(vacant))
            if slots.admits:
                observation = slots.admit(vacant, plan.prompt_index[chosen], plan.episode[chosen])
            session.begin(vacant, plan.episode[chosen])
            playing[vacant] = np.arange(begun, begun + len(vacant))
            begun += len(vacant)
        assert observation is not None
        asked = np.flatnonzero(playing >= 0 if slots.admits else ~restarting)
        acted = session.act(observation, asked, slots.action_masks())
        step = slots.step(acted.actions)
        observation = step.observation
        rows = asked[playing[asked] >= 0]
        recorder.record(rows, asked, playing[rows], acted, step)
        for row in rows[(step.terminated | step.truncated)[rows]]:
            recorder.finish(int(row), int(playing[row]), step)
            playing[row] = -1
            finished += 1
        if on_step is not None and not on_step(step, acted, np.isin(np.arange(slots.n), asked)):
            return None
    return recorder.episodes()
