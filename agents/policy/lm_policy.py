"""The policy: a language model that acts with a cache, its value function, and whole-sequence passes for training."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn
from transformers import PreTrainedModel

from textgym.lm.agreement import check_agreement, make_decoder
from textgym.lm.behaviour import Against, Behaviour, ChosenCounter, NucleusMask, draw, kept_ids
from textgym.lm.files.generation import make_saveable
from textgym.lm.files.loading import (
    check_context,
    embedding_rows,
    explained,
    frozen_dropout,
    in_full_precision,
    load_lm,
)
from textgym.lm.guards import check_loaded
from textgym.lm.parts.freezing import freeze, untie
from textgym.lm.parts.lora import add_lora, is_adapted, train_adapters, unwrapped, without_adapters
from textgym.lm.sampling import Sampling
from textgym.lm.trunk import Trunk, make_backbone, trunk_of
from textgym.moved import FormerMember
from textgym.rewards.models.ensemble import load_text_model
from textgym.rewards.models.last_token import linear_head
from textgym.types import BoolArray, Float32Array, FloatArray, IntArray

UNPLANNED = 2**63
"""First number of unplanned episodes, so that they share no random stream with those of a plan."""


# --- a session: cache and random streams -----------------------------------------------------------------------


class Acted(NamedTuple):
    """Decisions of one step.

    Attributes:
        actions: ``[N]`` tokens; rows that did not act get one that the task allows.
        log_probs: ``[N]`` log-probabilities under the behaviour distribution; 0 for rows that did not act.
        kept: ``[n, M]`` ids that the behaviour distribution kept in each acting row, padded with -1; None if it keeps
            all.
    """

    actions: IntArray
    log_probs: Float32Array
    kept: NDArray[np.int32] | None


def episode_uniforms(seed: int, episode: int, size: int) -> FloatArray:
    """Draw uniforms ``[size]`` in [0, 1), one for each position of an episode.

    They are keyed by (seed, episode) and indexed by position, so that an episode's tokens depend neither on the other
    rows, nor on their number, nor on an evaluation in between.
    """
    key = np.array([seed, episode], np.uint64)  # a list of large numbers would be rounded to floats
    uniforms: FloatArray = np.random.Generator(np.random.Philox(key=key)).random(size)
    return uniforms


class RowStreams:
    """Random streams of the episodes that N rows are playing.

    Args:
        seed: random seed of all streams.
        n_rows: ``N``.
        horizon: ``T``.
    """

    def __init__(self, seed: int, n_rows: int, horizon: int) -> None:
        self.seed = seed
        # One more than there are tokens, since a policy may also be asked to act on a complete response.
        self._uniforms: FloatArray = np.zeros((n_rows, horizon + 1))
        # Length of each row's response at its last draw; at first above all, so that the first draw begins an episode.
        self._length: IntArray = np.full(n_rows, horizon + 1)
        self._unplanned = count(UNPLANNED)

    def begin(self, rows: Iterable[int], episodes: Iterable[int]) -> None:
        """Assign the streams of the given episodes to the given rows."""
        for row, episode in zip(rows, episodes, strict=True):
            self._uniforms[row] = episode_uniforms(self.seed, int(episode), self._uniforms.shape[1])
            self._length[row] = -1

    def draw(self, rows: IntArray, length: IntArray) -> FloatArray:
        """Return uniforms ``[n]`` for responses of ``length [n]`` tokens, the other side's included.

        A row whose response has not grown since its last draw must have begun another episode, and gets a new stream.
        """
        anew = rows[length <= self._length[rows]]
        self.begin(anew, (next(self._unplanned) for _ in anew))
        self._length[rows] = length
        uniforms: FloatArray = self._uniforms[rows, length]
        return uniforms


class Session:
    """Key-value cache and random streams for one set of rows.

    The collection, ``predict`` and every evaluation each have their own, so that none disturbs another.

    Args:
        model: the policy's language model.
        behaviour: the distribution to sample from; the model of its mask, if any, gets its own cache.
        n_rows: ``N``.
        width: ``P + T``.
        prompt_length: ``P``.
        seed: random seed of the streams.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        behaviour: Behaviour,
        n_rows: int,
        width: int,
        prompt_length: int,
        seed: int,
    ) -> None:
        self.decoder = make_decoder(model, n_rows, width, prompt_length)
        mask = behaviour.mask
        self.mask_decoder = None if mask is None else make_decoder(mask.model, n_rows, width, prompt_length)
        self.streams = RowStreams(seed, n_rows, width - prompt_length)
        self.chosen = ChosenCounter(n_rows)
        self.n_rows = n_rows
        self.width = width
        self.prompt_length = prompt_length
        self.behaviour = behaviour

    def begin(self, rows: IntArray, episodes: IntArray) -> None:
        """Announce which episodes begin in which rows; unannounced episodes are numbered in order."""
        self.streams.begin(rows, episodes)
        self.chosen.begin(rows)

    @torch.inference_mode()
    def act(
        self,
        observation: dict[str, NDArray[Any]],
        rows: IntArray | None = None,
        action_masks: BoolArray | None = None,
        deterministic: bool | BoolArray = False,
    ) -> Acted:
        """Choose a token for each acting row.

        Args:
            observation: ``input_ids`` and ``attention_mask``, ``[N, P+T]`` each.
            rows: ``[n]`` the acting rows, in ascending order; None for all.
            action_masks: ``[N, V]`` bool, the actions that the task allows; None for all.
            deterministic: True to take the most probable token instead of sampling; ``[n]`` if the rows differ.

        Raises:
            ValueError: the model's logits are NaN.
        """
        rows = np.arange(self.n_rows) if rows is None else rows
        # Every row needs some allowed token, as a vector environment steps all of its rows.
        actions = np.zeros(self.n_rows, np.int64) if action_masks is None else action_masks.argmax(1)
        log_probs = np.zeros(self.n_rows, np.float32)
        if len(rows) == 0:
            return Acted(actions, log_probs, None)
        # The length of each response so far is the position in the row's stream. The minimum length counts only the
        # tokens that the policy chose.
        length = observation["attention_mask"][rows, self.prompt_length :].sum(1)
        allowed = None if action_masks is None else action_masks[rows]
        logits = self._logits(observation, rows, self.chosen.count(rows, length), allowed)
        tokens, chosen = self._choose(logits, rows, length, np.broadcast_to(deterministic, rows.shape))
        actions[rows], log_probs[rows] = tokens.cpu().numpy(), chosen.cpu().numpy()
        if np.isnan(log_probs).any():
            raise ValueError("the model's logits are NaN; if training has diverged, lower the learning rate")
        # Training renormalises over the candidates of the rollout: a later policy would choose others.
        restricted = allowed is not None or self.behaviour.truncates
        return Acted(actions, log_probs, kept_ids(logits).cpu().numpy() if restricted else None)

    def _choose(self, logits: Tensor, rows: IntArray, length: IntArray, greedy: BoolArray) -> tuple[Tensor, Tensor]:
        """Choose tokens ``[n]``, the most probable where ``greedy [n]``, else samples; return them and their log π."""
        if greedy.any():
            best = logits.log_softmax(-1).max(-1)
            if greedy.all():  # nothing is drawn, so that greedy evaluation consumes no random numbers
                return best.indices, best.values
        uniforms = self.streams.draw(rows, length)
        tokens, chosen = draw(logits, torch.from_numpy(uniforms).to(logits.device))
        if greedy.any():
            is_greedy = torch.from_numpy(greedy.copy()).to(logits.device)
            return torch.where(is_greedy, best.indices, tokens), torch.where(is_greedy, best.values, chosen)
        return tokens, chosen

    def _logits(
        self, observation: dict[str, NDArray[Any]], rows: IntArray, elapsed: IntArray, allowed: BoolArray | None
    ) -> Tensor:
        """Compute the behaviour distribution's logits ``[n, V]``."""
        shown = observation["input_ids"], observation["attention_mask"], rows
        logits = self.decoder.logits(*shown)
        return self.behaviour.logits(
            logits,
            torch.from_numpy(elapsed).to(logits.device),
            None if allowed is None else torch.from_numpy(allowed).to(logits.device),
            None if self.mask_decoder is None else self.mask_decoder.logits(*shown),
        )


# --- value functions -------------------------------------------------------------------------------------------


class ValueHead(nn.Module):
    """Linear map from states ``[..., d]`` to values ``[...]``, zero at first."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.utils.skip_init(nn.Linear, hidden_size, 1)  # its own init draws from the global generator
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, states: Tensor) -> Tensor:
        values: Tensor = self.linear(states)[..., 0]
        return values


class TrunkValue(nn.Module):
    """Critic on the policy's own hidden states: cheap, but its gradient also changes the policy's trunk."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.head = ValueHead(hidden_size)

    def forward(self, states: Tensor, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor:
        """Compute values ``[n, T+1]`` of the states ``[n, T+1, d]`` of the policy's trunk."""
        values: Tensor = self.head(states)
        return values


class SeparateValue(nn.Module):
    """Critic with its own trunk, so that the value loss does not change the policy."""

    def __init__(self, trunk: PreTrainedModel, head: ValueHead) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self._backbone = make_backbone(trunk)

    def forward(self, states: Tensor, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor:
        """Compute values ``[n, T+1]`` from the sequences; the policy's states are not used."""
        own = self._backbone.states(input_ids, attention_mask, prompt_length)
        values: Tensor = self.head(own)
        return values


@torch.no_grad()
def hidden_size(model: PreTrainedModel) -> int:
    """Return the width of the hidden states of a model's backbone."""
    ids = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    with explained(f"{type(model).__name__} has no trunk whose states a value head could read"):
        backbone = make_backbone(model)
        return int(backbone.last_states(backbone.inputs(ids)).shape[-1])


def separate_value(model: PreTrainedModel) -> SeparateValue:
    """Return a critic that begins as a copy of the policy's trunk, without adapters, with a zero head."""
    trunk: Any = copy.deepcopy(trunk_of(without_adapters(model)))
    return SeparateValue(frozen_dropout(trunk), ValueHead(hidden_size(model)))


def value_from_reward_model(directory: str | Path) -> SeparateValue:
    """Return a critic that begins as a reward model: its trunk, its head, and its negative offset as the bias.

    Source: Stiennon 2020 (arXiv 2009.01325), Ouyang 2022 (arXiv 2203.02155).

    Raises:
        ValueError: the reward model has no linear head on one position, or is a model of feedback on single tokens.
    """
    reward_model = load_text_model(directory)
    classifier: Any = reward_model.model
    score = linear_head(classifier)
    if score is None:
        raise ValueError(
            f"value={str(directory)!r}: {type(classifier).__name__} has no linear head that reads one position; "
            "expected a reward model on a causal trunk"
        )
    weight = score.weight.detach()
    head = ValueHead(weight.shape[1])
    with torch.no_grad():
        head.linear.weight.copy_(weight)
        head.linear.bias.fill_(-reward_model.offset)
    return SeparateValue(frozen_dropout(classifier.base_model), head)


def make_value(kind: str | Path | nn.Module | None, model: PreTrainedModel) -> nn.Module | None:
    """Make a critic from ``"trunk"``, ``"separate"``, a reward model's directory, or a module; None for no critic.

    Raises:
        ValueError: ``kind`` is a string, but none of these.
    """
    if kind is None or isinstance(kind, nn.Module):
        return kind
    if kind == "trunk":
        return TrunkValue(hidden_size(model))
    if kind == "separate":
        return separate_value(model)
    if not Path(kind).is_dir():
        raise ValueError(f"value={str(kind)!r}; expected 'trunk', 'separate' or the directory of a reward model")
    return value_from_reward_model(kind)


# --- the policy ------------------------------------------------------------------------------------------------


class Evaluation(NamedTuple):
    """Result of one pass over whole sequences.

    Attributes:
        log_probs: ``[n, T]`` log-probabilities of the chosen tokens under the behaviour distribution; 0 elsewhere.
        entropy: ``[n, T]`` entropy of that distribution, in nats; 0 elsewhere.
        values: ``[n, T+1]`` values of the states before each token, and after the last; None without a critic.
        divergence: ``[n, T]`` divergence of that distribution from another model's; None where none was asked for.
    """

    log_probs: Tensor
    entropy: Tensor
    values: Tensor | None
    divergence: Tensor | None = None


def _read_only(name: str) -> AttributeError:
    """Return the error for setting a part of the behaviour distribution by itself, as version 0.1 did."""
    return AttributeError(
        f"policy.{name} is read-only, as sampling and training share one distribution; write "
        f"policy.behaviour = dataclasses.replace(policy.behaviour, {name}=…)"
    )


class LMPolicy(BasePolicy):
    """Language model policy: it acts with a key-value cache, and training evaluates whole sequences in one pass.

    Args:
        observation_space: ``input_ids`` and ``attention_mask``, ``[P+T]`` each.
        action_space: ``Discrete(V)``.
        lr_schedule: the learning rate as a function of the remaining progress; the optimiser starts with its value at
            1.
        model: a directory, a hub id, or a loaded model, which is then trained in place.
        prompt_length: ``P``.
        end_token_ids: tokens that end a response.
        value: ``"trunk"``, ``"separate"``, a reward model's directory, or a module; None for no critic.
        lora: adapters to train instead of the model: a rank, or a configuration of peft. A model that already has
            adapters (a ``PeftModel``, or the directory of one) needs none.
        freeze_layers: freeze the embeddings and the first n layers, whose activations are then computed once per
            iteration; None freezes nothing.
        untie_head: give an output head that is tied to the embedding its own weights, so that it is trained even if the
            embedding is frozen. It cannot be combined with adapters.
        frozen: names of parameters of this policy (``lm.…``, ``value.…``) to freeze. Parameters of a loaded model that
            do not require a gradient stay frozen without being named.
        sampling: settings of the behaviour distribution.
        seed: random seed of the streams of ``predict``.

    Raises:
        ValueError: the model has too few tokens or too short a context for the task, comes with weights that are not
            finite, or does not fit an option.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        *,
        model: str | Path | PreTrainedModel,
        prompt_length: int,
        end_token_ids: Sequence[int] = (),
        value: str | Path | torch.nn.Module | None = "trunk",
        lora: Any = None,
        freeze_layers: int | None = None,
        untie_head: bool = False,
        frozen: Sequence[str] = (),
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(observation_space, action_space)
        if isinstance(model, torch.nn.Module):
            self.lm = frozen_dropout(in_full_precision(unwrapped(model)))
        else:
            self.lm = load_lm(model)
        make_saveable(self.lm)
        check_loaded(self.lm, f"model={model!r}" if isinstance(model, str | Path) else "model")
        self.fresh_adapters = lora is not None  # adapters that came with the model are part of the initial policy
        mask: NucleusMask | None = None  # set by NLPO; no module of the policy, or its weights would be saved twice
        self.behaviour = Behaviour(int(action_space.n), tuple(end_token_ids), sampling or Sampling(), mask)
        rows = embedding_rows(self.lm)
        if rows < self.n_actions:
            raise ValueError(
                f"the model's vocabulary has {rows} tokens; expected at least the {self.n_actions} actions"
            )
        self.width = int(observation_space["input_ids"].shape[0])  # type: ignore[index]
        check_context(self.lm, self.width, prompt_length)
        self.prompt_length = prompt_length
        self.seed = seed
        self.freeze_layers = freeze_layers
        if untie_head:
            if lora is not None or is_adapted(self.lm):
                raise ValueError(
                    "untie_head=True cannot be combined with adapters: only the adapters are trained, and an untied "
                    "head would never change; leave out untie_head or the adapters"
                )
            untie(self.lm)
        if lora is not None:
            add_lora(self.lm, lora, freeze_layers or 0, seed)
        elif is_adapted(self.lm):
            train_adapters(self.lm)
        self.value = make_value(value, self.lm)  # before freezing, so that a separate critic's trunk stays trainable
        self._freeze_named(frozen)
        self._frozen = self._frozen_by_caller()
        if freeze_layers is not None:
            freeze(self.lm, freeze_layers)
        self.trunk = Trunk(self.lm, freeze_layers or 0)
        # Cached and whole passes must agree, or the ratio would not be 1 before the first step.
        check_agreement(self.trunk, self.width, prompt_length)
        trained = [p for p in self.parameters() if p.requires_grad]
        # Adam's ε is part of the published recipe (Huang 2024). The parameters are passed as a group, since a policy
        # that only acts may have none to train, and Adam rejects an empty list.
        self.optimizer = torch.optim.Adam([{"params": trained}], lr=lr_schedule(1), eps=1e-5)
        self._own_session: Session | None = None

    @property
    def n_actions(self) -> int:
        """Number of actions ``V``."""
        return self.behaviour.n_actions

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a response."""
        return self.behaviour.end_ids

    @property
    def sampling(self) -> Sampling:
        """Temperature, minimum length, top-k and top-p of the behaviour distribution."""
        return self.behaviour.sampling

    @sampling.setter
    def sampling(self, sampling: Sampling) -> None:
        raise _read_only("sampling")

    @property
    def mask(self) -> NucleusMask | None:
        """NLPO's mask; None without one."""
        return self.behaviour.mask

    @mask.setter
    def mask(self, mask: NucleusMask | None) -> None:
        raise _read_only("mask")

    truncates = FormerMember("behaviour.truncates")

    def saved_arguments(self) -> dict[str, Any]:
        """Return the constructor arguments that a saved model does not hold by itself."""
        layers = {} if self.freeze_layers is None else {"freeze_layers": self.freeze_layers}
        return {**layers, **({"frozen": self._frozen} if self._frozen else {})}

    def _freeze_named(self, names: Sequence[str]) -> None:
        parameters = dict(self.named_parameters())
        unknown = sorted(set(names) - parameters.keys())
        if unknown:
            raise ValueError(
                f"frozen={unknown}; expected names of the policy's parameters, such as {next(iter(parameters))!r}"
            )
        for name in names:
            parameters[name].requires_grad_(False)

    def _frozen_by_caller(self) -> list[str]:
        """Return the names of parameters that the caller froze.

        With adapters the model's parameters are left out, as adding adapters freezes them again.
        """
        prefix = "lm." if is_adapted(self.lm) else ()
        named = self.named_parameters()
        return [name for name, parameter in named if not parameter.requires_grad and not name.startswith(prefix)]

    # --- acting --------------------------------------------------------------------------------------------

    def session(
        self,
        n_rows: int,
        seed: int | None = None,
        sampling: Sampling | None = None,
        model: PreTrainedModel | None = None,
    ) -> Session:
        """Return a cache and random streams for ``n_rows`` rows.

        Args:
            n_rows: number of rows.
            seed: random seed; None for the policy's.
            sampling: settings of the behaviour distribution; None for the policy's.
            model: the language model that samples; None for the policy's.
        """
        return Session(
            self.lm if model is None else model,
            self.behaviour if sampling is None else replace(self.behaviour, sampling=sampling),
            n_rows,
            self.width,
            self.prompt_length,
            self.seed if seed is None else seed,
        )

    def act(
        self,
        observation: dict[str, NDArray[Any]],
        action_masks: BoolArray | None = None,
        deterministic: bool = False,
    ) -> Acted:
        """Choose a token for every row of a vector observation, with this policy's own session."""
        n_rows = len(observation["input_ids"])
        if self._own_session is None or self._own_session.n_rows != n_rows:
            self._own_session = self.session(n_rows)
        return self._own_session.act(observation, None, action_masks, deterministic)

    def predict(  # type: ignore[override]
        self,
        observation: dict[str, NDArray[Any]],
        state: tuple[Session] | None = None,
        episode_start: BoolArray | None = None,
        deterministic: bool = False,
        action_masks: BoolArray | None = None,
    ) -> tuple[NDArray[Any], tuple[Session] | None]:
        """Choose actions under stable-baselines3's contract of ``predict``.

        The returned state holds a session, which stable-baselines3's evaluation passes back in the next call.

        Raises:
            ValueError: the observation is a tuple of observation and info, as Gymnasium's ``reset`` returns it.
        """
        given: Any = observation
        if isinstance(given, tuple):
            raise ValueError("observation is a tuple; reset() returns (observation, info): pass the observation alone")
        single = observation["input_ids"].ndim == 1
        rows = {k: np.asarray(v)[None] if single else np.asarray(v) for k, v in observation.items()}
        masks = action_masks[None] if single and action_masks is not None else action_masks
        if state is None:
            # evaluate_policy passes episode_start: it gets a session of its own, so that training is not disturbed.
            state = (self.session(len(rows["input_ids"])),) if episode_start is not None else None
        if state is None:
            acted = self.act(rows, masks, deterministic)
        else:
            acted = state[0].act(rows, None, masks, deterministic)
        return (acted.actions.squeeze(0) if single else acted.actions), state

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        arrays = {key: value.cpu().numpy() for key, value in observation.items()}
        return torch.from_numpy(self.act(arrays, deterministic=deterministic).actions)

    # --- training ------------------------------------------------------------------------------------------

    def evaluate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        kept: Tensor | None = None,
        prefix: Tensor | None = None,
        own: Tensor | None = None,
        against: Against | None = None,
    ) -> Evaluation:
        """Compute log-probabilities, entropies and values of whole sequences in one pass.

        Args:
            input_ids: ``[n, P+T]``.
            attention_mask: ``[n, P+T]``.
            kept: ``[n, T, M]`` ids that the behaviour distribution kept at the rollout, -1 for none; None for all.
            prefix: ``[n, L, d]`` activations of the frozen layers, if they were stored.
            own: ``[n, T]`` bool, True for tokens that the policy chose; None for all response tokens.
            against: another model to compare the distribution with at each token; None for no comparison.
        """
        chosen = attention_mask[:, self.prompt_length :].bool() if own is None else own
        states = self.trunk.hidden_states(input_ids, attention_mask, self.prompt_length, prefix)
        actions = input_ids[:, self.prompt_length :]
        scores = self.behaviour.score(self.trunk.head, states[:, :-1], actions, chosen, kept, against)
        values = None
        if self.value is not None:
            values = self.value(states, input_ids, attention_mask, self.prompt_length)
        return Evaluation(scores.log_probs, scores.entropy, values, scores.divergence)

    def set_training_mode(self, mode: bool) -> None:
        """Keep eval mode whatever ``mode`` is: dropout would make sampled and trained policy differ."""
        self.train(False)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        raise TypeError("LMPolicy is saved as a directory: use the algorithm's save(), not policy.save()")
