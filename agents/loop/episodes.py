"""An iteration's episodes: their plan, collection, scoring by the models, and minibatches.

One collection loop serves every algorithm and every vector environment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from textgym.agents.functional.objectives import Advantages, after_last
from textgym.agents.loop.slots import Final, Observation, Slots, SlotStep
from textgym.agents.policy.lm_policy import Acted, LMPolicy, Session
from textgym.env.mdp import Verdict
from textgym.lm.behaviour import Against
from textgym.lm.trunk import Trunk
from textgym.moved import FormerMember
from textgym.rewards.functions import EPISODE_GROUP, Batch
from textgym.rewards.kl import Divergence, shape_rewards
from textgym.types import BoolArray, Episodes, Float32Array, FloatArray, IntArray

OnStep: TypeAlias = Callable[[SlotStep, Acted, BoolArray], bool]
"""``on_step(step, acted, playing [N])`` after each step; False stops the collection."""

SCORED_AT_ONCE = 512
"""Maximum number of responses in one call of the reward, where they are scored together; a reward that compares
responses receives all of a collection."""


@dataclass(frozen=True)
class EpisodePlan:
    """The episodes of an iteration, in order of admission.

    Attributes:
        prompt_index: ``[N]`` index of each episode's prompt; -1 where the environment chooses.
        episode: ``[N]`` running numbers over the whole run, which key the random streams.
        greedy: ``[N]`` bool, True to take the most probable tokens instead of sampling; None for False everywhere.
        group: ``[N]`` group of each episode: responses to one prompt that a reward may compare with each other. None
            for one group of each prompt.
    """

    prompt_index: IntArray
    episode: IntArray
    greedy: BoolArray | None = None
    group: IntArray | None = None


def sampling_plan(seed: int, n_prompts: int, begun: int, count: int, group: int, samples: int) -> EpisodePlan:
    """Plan episodes: prompts in seeded order, each for a group of sampled episodes followed by greedy ones.

    An iteration begins with a new prompt, also if earlier iterations had groups of another size.

    Args:
        seed: seed of the order of prompts.
        n_prompts: number of prompts; 0 where the environment chooses.
        begun: number of episodes in earlier iterations.
        count: number of episodes to plan.
        group: episodes per prompt.
        samples: sampled episodes per prompt; the other ``group - samples`` are greedy.
    """
    place = np.arange(count)
    # Rounded up: a group that an earlier iteration left incomplete does not hand its prompt on.
    prompt = -(-begun // group) + place // group
    order = prompt_order(seed, n_prompts, prompt) if n_prompts else np.full(count, -1)
    # By their number, as a short list of prompts may come twice within an iteration.
    return EpisodePlan(order, begun + place, place % group >= samples if samples < group else None, prompt)


class Recorder:
    """Recorder of steps into the ``[N, T]`` arrays of :class:`textgym.types.Episodes`.

    A sequence is its first observation, followed by the chosen tokens and by what the environment wrote behind them:
    training sees exactly what was sampled. A chosen token stands where the observation that it was chosen on ends. All
    other tokens are the other side's.
    """

    def __init__(self, plan: EpisodePlan, width: int, prompt_length: int) -> None:
        n, horizon = len(plan.episode), width - prompt_length
        self.plan = plan
        self.prompt_length = prompt_length
        self.input_ids: IntArray = np.zeros((n, width), np.int64)
        self.attention_mask = np.zeros((n, width), np.int8)
        self.own = np.zeros((n, horizon), bool)
        self.log_probs = np.zeros((n, horizon), np.float32)
        self.rewards = np.zeros((n, horizon), np.float32)
        self.length: IntArray = np.zeros(n, np.int64)  # response columns in use
        self.last: IntArray = np.zeros(n, np.int64)  # column of the last chosen token
        self.stopped = np.zeros(n, bool)
        self.truncated = np.zeros(n, bool)
        self.components: dict[str, Any] = {}
        self._kept: list[tuple[IntArray, IntArray, NDArray[np.int32]]] = []

    def begin(self, rows: IntArray, episodes: IntArray, observation: Observation) -> None:
        """Record the prompts of episodes that begin in the given rows of an observation."""
        self.input_ids[episodes] = observation["input_ids"][rows]
        self.attention_mask[episodes] = observation["attention_mask"][rows]

    def record(self, rows: IntArray, asked: IntArray, episodes: IntArray, acted: Acted, step: SlotStep) -> None:
        """Record one step of the given rows.

        Args:
            rows: ``[n]`` rows that play recorded episodes.
            asked: ``[m]`` rows that acted, in ascending order, among them ``rows``: the rows of ``acted.kept``.
            episodes: ``[n]`` the episode in each row, as a place in the plan.
            acted: the decisions of all rows.
            step: the environment's step.
        """
        t = self.length[episodes]
        # The chosen token is written, not the observed one; _check_sequence compares the two at the end.
        self.input_ids[episodes, self.prompt_length + t] = acted.actions[rows]
        self.attention_mask[episodes, self.prompt_length + t] = 1
        self.own[episodes, t] = True
        self.log_probs[episodes, t] = acted.log_probs[rows]
        self.rewards[episodes, t] = step.rewards[rows]
        if acted.kept is not None:
            self._kept.append((episodes, t, acted.kept[np.searchsorted(asked, rows)]))
        self.last[episodes] = t
        self.length[episodes] += 1

    def extend(self, rows: IntArray, episodes: IntArray, observation: Observation) -> None:
        """Record what the environment wrote behind the chosen tokens of episodes that go on.

        Args:
            rows: ``[n]`` their rows.
            episodes: ``[n]`` their places in the plan.
            observation: the observation after the step, of all rows.
        """
        column = self.prompt_length + self.length[episodes]
        mask = observation["attention_mask"]
        for i in np.flatnonzero(mask[rows, np.minimum(column, mask.shape[1] - 1)] & (column < mask.shape[1])):
            self._copy(int(episodes[i]), {key: value[rows[i]] for key, value in observation.items()})

    def _copy(self, episode: int, observation: Observation) -> None:
        """Record the columns of one row's observation that are not recorded yet."""
        mask = observation["attention_mask"]
        self.length[episode], begin = mask[self.prompt_length :].sum(), self.prompt_length + self.length[episode]
        new = slice(begin, self.prompt_length + self.length[episode])
        self.input_ids[episode, new] = observation["input_ids"][new]
        self.attention_mask[episode, new] = mask[new]

    def finish(self, episode: int, final: Final, truncated: bool) -> None:
        """Record an episode's end and, unless it is still to be scored, its reward.

        Raises:
            ValueError: the environment changed what it had shown, or a chosen token.
        """
        self._copy(episode, final.observation)
        self._check_sequence(episode, final.observation)
        info = final.info
        self.truncated[episode] = truncated
        # Without a finish_reason, the environment has no horizon of its own: it ended the response, or a wrapper did.
        self.stopped[episode] = info.get("finish_reason", "length" if truncated else "stop") == "stop"
        if final.unscored is None:
            self._note_reward(episode, info)

    def pay(self, episode: int, verdict: Verdict) -> None:
        """Record the reward of an episode that was scored after its end."""
        self.rewards[episode, self.last[episode]] += verdict.paid
        self._note_reward(episode, verdict.info)

    def _note_reward(self, episode: int, info: dict[str, Any]) -> None:
        if "token_rewards" in info:
            # A dense reward becomes known at the end, when its sum already stands on the last token; whatever a wrapper
            # added to that sum stays there.
            self.rewards[episode, self.own[episode]] += info["token_rewards"]
            self.rewards[episode, self.last[episode]] -= sum(info["token_rewards"])
        for name, value in info.get("components", {}).items():
            self.components.setdefault(name, np.full(len(self.length), np.nan))[episode] = value

    def _check_sequence(self, episode: int, last: Observation) -> None:
        mask = self.attention_mask[episode]
        differs = (self.input_ids[episode] != last["input_ids"]) & (mask != 0)
        if differs.any() or (mask != last["attention_mask"]).any():
            raise ValueError(
                f"the last observation of episode {self.plan.episode[episode]} does not extend the ones before it by "
                "the chosen tokens; an environment that rewrites what it has shown can be played (policy.act) but not "
                "trained on"
            )

    def episodes(self) -> Episodes:
        """Return the recorded episodes."""
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
            self.own,
        )

    def _kept_array(self) -> NDArray[np.int32] | None:
        if not self._kept:
            return None
        most = max(kept.shape[1] for _, _, kept in self._kept)
        array = np.full((*self.log_probs.shape, most), -1, np.int32)
        for episodes, t, kept in self._kept:
            array[episodes, t, : kept.shape[1]] = kept
        return array


def collect(slots: Slots, session: Session, plan: EpisodePlan, on_step: OnStep | None = None) -> Episodes | None:
    """Play the planned episodes.

    Waiting rows are admitted in the plan's order, and finished rows leave the batch. Environments whose rows restart by
    themselves play on until the last planned episode ends: the first N episodes to *begin* are kept, not the first to
    end, which would favour short ones.

    Slots that defer scoring (:class:`textgym.agents.loop.slots.AdmittingSlots`) have all responses scored at the end of
    the collection, in calls of up to :data:`SCORED_AT_ONCE`, with the column ``episode_group``. ``on_step`` then sees
    their rewards as 0, and infos without ``score``, ``components`` and ``token_rewards``; those infos are completed
    before this function returns. A collection that ``on_step`` stops scores nothing.

    Args:
        slots: the rows of the environment.
        session: the policy that plays.
        plan: N episodes.
        on_step: called after each step; see :data:`OnStep`.

    Returns:
        The episodes, or None if ``on_step`` stopped the collection.

    Raises:
        ValueError: the environment rewrites what it has shown.
        textgym.rewards.RewardError: an error in the reward.
    """
    n = len(plan.episode)
    aside: list[tuple[int, Final]] = []  # episodes that ended and are still to be scored
    recorder = Recorder(plan, session.width, session.prompt_length)
    playing: IntArray = np.full(slots.n, -1, np.int64)  # place in the plan of each row's episode; -1 for none
    begun = finished = 0
    observation = slots.start()
    while finished < n:
        ready = ~slots.restarting()
        vacant = np.flatnonzero((playing < 0) & ready)[: n - begun]
        if len(vacant):
            chosen = np.arange(begun, begun + len(vacant))
            if slots.admits:
                observation = slots.admit(vacant, plan.prompt_index[chosen], plan.episode[chosen])
            assert observation is not None
            session.begin(vacant, plan.episode[chosen])  # streams are keyed by the episode, not by its row
            recorder.begin(vacant, chosen, observation)
            playing[vacant] = chosen
            begun += len(vacant)
        assert observation is not None
        # Rows that restart by themselves cannot be left idle: they act even when their episode is not recorded.
        acting = playing >= 0 if slots.admits else ready
        asked = np.flatnonzero(acting)
        greedy = False if plan.greedy is None else plan.greedy[playing[asked]]
        acted = session.act(observation, asked, slots.action_masks(), greedy)
        step = slots.step(acted.actions)
        observation = step.observation
        rows = asked[playing[asked] >= 0]  # only these play a planned episode
        recorder.record(rows, asked, playing[rows], acted, step)
        for row, final in step.finals.items():
            if playing[row] >= 0:
                recorder.finish(int(playing[row]), final, bool(step.truncated[row]))
                if final.unscored is not None:
                    aside.append((int(playing[row]), final))
                playing[row] = -1
                finished += 1
        rows = np.flatnonzero(acting & (playing >= 0))
        recorder.extend(rows, playing[rows], observation)
        if on_step is not None and not on_step(step, acted, acting):
            return None
    score_aside(slots, recorder, aside)
    return recorder.episodes()


def score_aside(slots: Slots, recorder: Recorder, aside: list[tuple[int, Final]]) -> None:
    """Score deferred episodes and complete their infos; in the plan's order, so that no result depends on the rows."""
    aside = sorted(aside, key=lambda ended: ended[0])
    plan = recorder.plan
    groups = (plan.prompt_index if plan.group is None else plan.group).tolist()
    at_once = max(len(aside), 1) if slots.compares else SCORED_AT_ONCE
    for start in range(0, len(aside), at_once):
        part = aside[start : start + at_once]
        batch = Batch.joined([final.unscored for _, final in part if final.unscored is not None])
        columns = {**batch.columns, EPISODE_GROUP: [groups[episode] for episode, _ in part]}
        found = slots.judge(replace(batch, columns=columns))
        for (episode, final), verdict in zip(part, found, strict=True):
            final.info.update(verdict.info)
            recorder.pay(episode, verdict)


@dataclass(frozen=True)
class Scored:
    """An iteration's episodes with the outputs of reference and critic.

    Attributes:
        episodes: the collected episodes.
        ref_log_probs: ``[N, T]`` log-probabilities of the sampled tokens under the reference.
        values: ``[N, T+1]`` the critic's values before the update, of the state before each token; behind the last
            chosen token, of the state after the response; zeros without a critic.
        shaped: ``[N, T]`` rewards; less the KL penalty, unless the KL is in the loss.
        companions: the greedy responses, one for each prompt in the order of the episodes; None without any.
        prefix: ``[N, L, d]`` activations of the policy's frozen layers; None without such layers.
        ref_states: ``[N, T, d]`` hidden states of the reference before each token; None where no loss compares
            distributions over the vocabulary.
        divergence: ``[N, T]`` KL of the sampling policy from the reference in the state of each chosen token, exact
            over the vocabulary; None likewise.
    """

    episodes: Episodes
    ref_log_probs: Float32Array
    values: Float32Array
    shaped: Float32Array
    companions: Episodes | None = None
    prefix: Tensor | None = None
    ref_states: Tensor | None = None
    divergence: Float32Array | None = None

    @property
    def returns(self) -> FloatArray:
        """Sum of each response's shaped rewards, ``[N]``."""
        returns: FloatArray = self.shaped.sum(1, dtype=np.float64)
        return returns

    def take(self, rows: IntArray) -> Scored:
        """Return the episodes of the given rows; companions are kept whole."""
        arrays = {name: getattr(self, name)[rows] for name in ("ref_log_probs", "values", "shaped")}
        optional = {name: getattr(self, name) for name in ("prefix", "ref_states", "divergence")}
        found = {name: value[rows] for name, value in optional.items() if value is not None}
        return replace(self, episodes=take(self.episodes, rows), **arrays, **found)


def take(episodes: Episodes, rows: IntArray | BoolArray) -> Episodes:
    """Return the episodes of the given rows, or of a mask ``[N]``."""
    changed: dict[str, Any] = {
        field.name: value[rows]
        for field in fields(episodes)
        if isinstance(value := getattr(episodes, field.name), np.ndarray)
    }
    components = {name: values[rows] for name, values in episodes.components.items()}
    return replace(episodes, **changed, components=components)


def joined(parts: Sequence[Episodes]) -> Episodes:
    """Return the episodes of several collections in one task, in their order.

    A component that a collection does not have is NaN there.
    """
    first = parts[0]
    changed: dict[str, Any] = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(first)
        if isinstance(getattr(first, field.name), np.ndarray) and field.name != "kept"
    }
    names = dict.fromkeys(name for part in parts for name in part.components)
    absent = {len(part): np.full(len(part), np.nan) for part in parts}
    components = {
        name: np.concatenate([np.asarray(part.components.get(name, absent[len(part)])) for part in parts])
        for name in names
    }
    kept = [part.kept for part in parts if part.kept is not None]
    if kept:
        most = max(ids.shape[2] for ids in kept)
        wide = [np.pad(ids, ((0, 0), (0, 0), (0, most - ids.shape[2])), constant_values=-1) for ids in kept]
        changed["kept"] = np.concatenate(wide)
    return replace(first, **changed, components=components)


@dataclass(frozen=True)
class Minibatch:
    """Some episodes of an iteration as tensors: ``[n, P+T]`` for ids and mask, ``[n, T]`` for the rest.

    T is the length of the longest response among them. ``own`` is True for tokens that the policy chose. ``kept`` is
    ``[n, T, M]``, ``prefix`` ``[n, L, d]`` and ``ref_states`` ``[n, T, d]``, or None.
    """

    input_ids: Tensor
    attention_mask: Tensor
    own: Tensor
    log_probs: Tensor
    ref_log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    kept: Tensor | None
    prefix: Tensor | None
    ref_states: Tensor | None = None

    valid = FormerMember("own")

    def log_ratio(self, log_probs: Tensor) -> Tensor:
        """Return log π − log π_old, ``[n, T]``, given log π; 0 where nothing was chosen, as both are 0 there."""
        return log_probs - self.log_probs


@torch.no_grad()
def score_episodes(
    policy: LMPolicy,
    reference: Trunk,
    episodes: Episodes,
    beta: float,
    batch_size: int,
    companions: Episodes | None = None,
    divergence: Divergence | None = None,
) -> Scored:
    """Compute values and reference log-probabilities of ``N`` episodes, and rewards less the KL penalty.

    Args:
        policy: the policy with its critic; the reference shares its temperature and minimum length.
        reference: the trunk of the model that the KL is measured to.
        episodes: the collected episodes.
        beta: β, the coefficient of the KL in the reward; 0 if the KL is in the loss.
        batch_size: episodes in one forward pass.
        companions: their greedy companions, which are passed through.
        divergence: compares policy and reference over the vocabulary; None where no loss needs that.
    """
    ref_log_probs = np.zeros_like(episodes.log_probs)
    ref_states: list[Tensor] = []
    diverged = np.zeros_like(episodes.log_probs)
    values = np.zeros((len(episodes), episodes.rewards.shape[1] + 1), np.float32)
    # Of the stored candidates, only those of a task's own restriction also bind the reference.
    behaviour = policy.behaviour.for_reference()
    kept = policy.behaviour.kept_for_reference(episodes.kept)
    prefixes: list[Tensor | None] = []
    for rows in np.array_split(np.arange(len(episodes)), -(-len(episodes) // batch_size)):
        ids = torch.from_numpy(episodes.input_ids[rows]).to(policy.device)
        mask = torch.from_numpy(episodes.attention_mask[rows]).to(policy.device)
        prefixes.append(policy.trunk.prefix(ids, mask, policy.prompt_length))
        actions, own = ids[:, policy.prompt_length :], torch.from_numpy(episodes.own[rows]).to(policy.device)
        before = reference.hidden_states(ids, mask, policy.prompt_length, prefixes[-1])[:, :-1]
        bound = None if kept is None else torch.from_numpy(kept[rows]).to(policy.device)
        ref_log_probs[rows] = behaviour.score(reference.head, before, actions, own, bound).log_probs.cpu().numpy()
        if policy.value is None and divergence is None:
            continue
        states = policy.trunk.hidden_states(ids, mask, policy.prompt_length, prefixes[-1])
        if policy.value is not None:
            values[rows] = policy.value(states, ids, mask, policy.prompt_length).cpu().numpy()
        if divergence is not None:
            candidates = None if episodes.kept is None else torch.from_numpy(episodes.kept[rows]).to(policy.device)
            against = Against(reference.head, before, divergence)
            found = policy.behaviour.score(policy.trunk.head, states[:, :-1], actions, own, candidates, against)
            assert found.divergence is not None
            diverged[rows] = found.divergence.cpu().numpy()
            ref_states.append(before)
    # Behind the last chosen token, advantages expect the value of the state after the response.
    every = np.arange(len(episodes))
    values[every, after_last(episodes.own)] = values[every, episodes.extents]
    shaped = shape_rewards(episodes.rewards, episodes.log_probs, ref_log_probs, episodes.own, beta)
    compared = (None, None) if divergence is None else (torch.cat(ref_states), diverged)
    return Scored(episodes, ref_log_probs, values, shaped.astype(np.float32), companions, _joined(prefixes), *compared)


def _joined(prefixes: list[Tensor | None]) -> Tensor | None:
    """Concatenate batches ``[n, L_i, d]`` to ``[N, L, d]``; None if there are none."""
    parts = [prefix for prefix in prefixes if prefix is not None]
    if not parts:
        return None
    longest = max(part.shape[1] for part in parts)
    # Padded with zeros, which nothing reads: the attention mask ends where a sequence's tokens end.
    return torch.cat([nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])


def minibatches(
    scored: Scored,
    estimated: Advantages,
    size: int,
    n_epochs: int,
    generator: np.random.Generator,
    device: torch.device,
) -> Iterator[Minibatch]:
    """Yield every episode once per epoch, in an order drawn anew for each epoch.

    Args:
        scored: ``N`` episodes.
        estimated: their advantages and value targets.
        size: episodes in a minibatch; the last of an epoch may be smaller.
        n_epochs: passes over the episodes.
        generator: draws the orders.
        device: device of the tensors.
    """
    episodes = scored.episodes
    arrays = {
        "input_ids": episodes.input_ids,
        "attention_mask": episodes.attention_mask,
        "own": episodes.own,
        "log_probs": episodes.log_probs,
        "ref_log_probs": scored.ref_log_probs,
        "values": scored.values[:, :-1],
        "advantages": estimated.advantages,
        "returns": estimated.returns,
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    kept = None if episodes.kept is None else torch.from_numpy(episodes.kept)
    extents = torch.from_numpy(episodes.extents)
    states = scored.ref_states
    for _ in range(n_epochs):
        order = generator.permutation(len(episodes))
        for start in range(0, len(episodes), size):
            rows = torch.from_numpy(order[start : start + size])
            # Columns beyond the longest response of the minibatch hold no token: left out, they cost nothing.
            longest = int(extents[rows].max())
            columns = dict.fromkeys(tensors, longest)
            columns["input_ids"] = columns["attention_mask"] = episodes.prompt_length + longest
            cut = {name: tensor[rows][:, : columns[name]].to(device) for name, tensor in tensors.items()}
            yield Minibatch(
                **cut,
                kept=None if kept is None else kept[rows][:, :longest].to(device),
                prefix=None if scored.prefix is None else scored.prefix[rows.to(scored.prefix.device)],
                ref_states=None if states is None else states[rows.to(states.device), :longest],
            )


def prompt_order(seed: int, n_prompts: int, episodes: IntArray) -> IntArray:
    """Return the prompt of each episode: every prompt once per epoch, each epoch in its own order.

    This is a pure function of its arguments, so a resumed run needs only its episode counter.

    Args:
        seed: the run's seed.
        n_prompts: number of prompts.
        episodes: ``[n]`` running numbers.

    Returns:
        ``[n]`` indices in ``[0, n_prompts)``.
    """
    # Episode e is number e mod n of its epoch's permutation.
    return np.array([_epoch_order(seed, n_prompts, int(e) // n_prompts)[int(e) % n_prompts] for e in episodes], int)


@lru_cache(maxsize=4)
def _epoch_order(seed: int, n_prompts: int, epoch: int) -> IntArray:
    # Seeded by the pair, so that any epoch can be computed without those before it.
    order: IntArray = np.random.default_rng([seed, epoch]).permutation(n_prompts)
    return order
