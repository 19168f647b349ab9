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
from textgym.lm.behaviour import Behaviour, NucleusMask, draw, kept_ids
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
from textgym.rewards.models.last_token import linear_head
from textgym.rewards.models.model import RewardModel
from textgym.types import BoolArray, Float32Array, FloatArray, IntArray

UNPLANNED = 2**63
"""Episodes that nobody numbered are numbered from here on, so that they share no stream with those of a plan."""


class Acted(NamedTuple):
    """One decision per row.

    Attributes:
        actions: ``[N]`` tokens; rows that were not asked get one that the task admits.
        log_probs: ``[N]`` under the behaviour distribution; 0 for rows that were not asked.
        kept: for each asked row ``[n, M]`` the ids that the behaviour distribution kept, -1 for none; None where
            it keeps all.
    """

    actions: IntArray
    log_probs: Float32Array
    kept: NDArray[np.int32] | None


def episode_uniforms(seed: int, episode: int, size: int) -> FloatArray:
    """``[size]`` uniforms in [0, 1): one for each position of an episode.

    Keyed by (seed, episode) and drawn by position, so an episode's tokens depend on neither its batch mates nor the
    number of slots nor an evaluation in between.
    """
    key = np.array([seed, episode], np.uint64)  # a list of large numbers would be rounded to floats
    uniforms: FloatArray = np.random.Generator(np.random.Philox(key=key)).random(size)
    return uniforms


class RowStreams:
    """The random streams of the episodes that the rows play now.

    Args:
        seed: of all streams.
        n_rows: ``N``.
        horizon: ``T``.
    """

    def __init__(self, seed: int, n_rows: int, horizon: int) -> None:
        self.seed = seed
        # One more than there are tokens: a response that is already complete may be asked about, too.
        self._uniforms: FloatArray = np.zeros((n_rows, horizon + 1))
        self._elapsed: IntArray = np.full(n_rows, horizon + 1)  # at the last draw; at first, any is a beginning
        self._unplanned = count(UNPLANNED)

    def begin(self, rows: Iterable[int], episodes: Iterable[int]) -> None:
        """Says which episodes begin in which rows."""
        for row, episode in zip(rows, episodes, strict=True):
            self._uniforms[row] = episode_uniforms(self.seed, int(episode), self._uniforms.shape[1])
            self._elapsed[row] = -1

    def draw(self, rows: IntArray, elapsed: IntArray) -> FloatArray:
        """``[n]`` uniforms for responses of ``elapsed`` tokens.

        A row whose response has not grown since its last draw plays another episode than then.
        """
        anew = rows[elapsed <= self._elapsed[rows]]
        self.begin(anew, (next(self._unplanned) for _ in anew))
        self._elapsed[rows] = elapsed
        uniforms: FloatArray = self._uniforms[rows, elapsed]
        return uniforms


class Session:
    """Plays one set of rows: collector, ``predict`` and each evaluation hold their own.

    Args:
        model: the policy's language model.
        behaviour: the distribution to sample from; the model of its mask, if any, gets a cache of its own.
        n_rows: ``N``.
        width: ``P + T``.
        prompt_length: ``P``.
        seed: of the random streams.
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
        self.n_rows = n_rows
        self.width = width
        self.prompt_length = prompt_length
        self.behaviour = behaviour

    def begin(self, rows: IntArray, episodes: IntArray) -> None:
        """Announces which episodes begin in which rows; rows that begin unannounced are numbered in turn."""
        self.streams.begin(rows, episodes)

    @torch.inference_mode()
    def act(
        self,
        observation: dict[str, NDArray[Any]],
        rows: IntArray | None = None,
        action_masks: BoolArray | None = None,
        deterministic: bool | BoolArray = False,
    ) -> Acted:
        """Chooses a token for each asked row.

        Args:
            observation: ``input_ids`` and ``attention_mask``, ``[N, P+T]`` each.
            rows: ``[n]`` the rows that are asked; None for all.
            action_masks: ``[N, V]`` bool, the task's own restriction, or None.
            deterministic: the most probable token instead of a sampled one; ``[n]`` where the asked rows differ.

        Raises:
            ValueError: the model's logits are NaN.
        """
        rows = np.arange(self.n_rows) if rows is None else rows
        actions = np.zeros(self.n_rows, np.int64) if action_masks is None else action_masks.argmax(1)
        log_probs = np.zeros(self.n_rows, np.float32)
        if len(rows) == 0:
            return Acted(actions, log_probs, None)
        elapsed = observation["attention_mask"][rows, self.prompt_length :].sum(1)
        allowed = None if action_masks is None else action_masks[rows]
        logits = self._logits(observation, rows, elapsed, allowed)
        tokens, chosen = self._choose(logits, rows, elapsed, np.broadcast_to(deterministic, rows.shape))
        actions[rows], log_probs[rows] = tokens.cpu().numpy(), chosen.cpu().numpy()
        if np.isnan(log_probs).any():
            raise ValueError("the model's logits are NaN; if training has diverged, lower the learning rate")
        restricted = allowed is not None or self.behaviour.truncates
        return Acted(actions, log_probs, kept_ids(logits).cpu().numpy() if restricted else None)

    def _choose(self, logits: Tensor, rows: IntArray, elapsed: IntArray, greedy: BoolArray) -> tuple[Tensor, Tensor]:
        """``[n]`` tokens and their log-probabilities: the most probable where ``greedy [n]``, else sampled."""
        if greedy.any():
            best = logits.log_softmax(-1).max(-1)
            if greedy.all():
                return best.indices, best.values
        uniforms = self.streams.draw(rows, elapsed)
        tokens, chosen = draw(logits, torch.from_numpy(uniforms).to(logits.device))
        if greedy.any():
            is_greedy = torch.from_numpy(greedy.copy()).to(logits.device)
            return torch.where(is_greedy, best.indices, tokens), torch.where(is_greedy, best.values, chosen)
        return tokens, chosen

    def _logits(
        self, observation: dict[str, NDArray[Any]], rows: IntArray, elapsed: IntArray, allowed: BoolArray | None
    ) -> Tensor:
        """Return ``[n, V]`` logits of the behaviour distribution."""
        shown = observation["input_ids"], observation["attention_mask"], rows
        logits = self.decoder.logits(*shown)
        return self.behaviour.logits(
            logits,
            torch.from_numpy(elapsed).to(logits.device),
            None if allowed is None else torch.from_numpy(allowed).to(logits.device),
            None if self.mask_decoder is None else self.mask_decoder.logits(*shown),
        )


class ValueHead(nn.Module):
    """``hidden [..., d] -> value [...]``, zero at first, so that training begins with plain returns."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.utils.skip_init(nn.Linear, hidden_size, 1)  # its own init draws from the global generator
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, states: Tensor) -> Tensor:
        values: Tensor = self.linear(states)[..., 0]
        return values


class TrunkValue(nn.Module):
    """Reads the policy's own hidden states: cheap, and its gradient shapes the policy's trunk."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.head = ValueHead(hidden_size)

    def forward(self, states: Tensor, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor:
        """Values of the states ``[n, T+1, d]`` that the policy's trunk computed: ``[n, T+1]``."""
        values: Tensor = self.head(states)
        return values


class SeparateValue(nn.Module):
    """Has a trunk of its own, so that the value loss leaves the policy alone."""

    def __init__(self, trunk: PreTrainedModel, head: ValueHead) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self._backbone = make_backbone(trunk)

    def forward(self, states: Tensor, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor:
        """``[n, T+1]`` from the sequences themselves; the policy's states are not used."""
        own = self._backbone.states(input_ids, attention_mask, prompt_length)
        values: Tensor = self.head(own)
        return values


@torch.no_grad()
def hidden_size(model: PreTrainedModel) -> int:
    """Return the width of the states that a backbone gives."""
    ids = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    with explained(f"{type(model).__name__} has no trunk whose states a value head could read"):
        backbone = make_backbone(model)
        return int(backbone.last_states(backbone.inputs(ids)).shape[-1])


def separate_value(model: PreTrainedModel) -> SeparateValue:
    """Begins as a copy of the policy's trunk, without its adapters, with a zero head."""
    trunk: Any = copy.deepcopy(trunk_of(without_adapters(model)))
    return SeparateValue(frozen_dropout(trunk), ValueHead(hidden_size(model)))


def value_from_reward_model(directory: str | Path) -> SeparateValue:
    """Begins as a reward model (Stiennon 2020, Ouyang 2022): its trunk, its head, its offset as the bias."""
    reward_model = RewardModel.load(directory)
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
    """``"trunk"``, ``"separate"``, the directory of a reward model, or a module as it is; None for no critic.

    Raises:
        ValueError: neither of these.
    """
    if kind is None or isinstance(kind, nn.Module):
        return kind
    if kind == "trunk":
        return TrunkValue(hidden_size(model))
    if kind == "separate":
        return separate_value(model)
    if not Path(kind).is_dir():
        raise ValueError(f"value={str(kind)!r}: expected 'trunk', 'separate' or the directory of a reward model")
    return value_from_reward_model(kind)


class Evaluation(NamedTuple):
    """What one pass over whole sequences gives.

    Attributes:
        log_probs: ``[n, T]`` of the response tokens under the behaviour distribution.
        entropy: ``[n, T]`` of that distribution.
        values: ``[n, T+1]`` of the states before each token, and after the last; None without a critic.
    """

    log_probs: Tensor
    entropy: Tensor
    values: Tensor | None


class LMPolicy(BasePolicy):
    """A language model that acts with a key-value cache and is evaluated once per sequence.

    Args:
        observation_space: ``input_ids`` and ``attention_mask``, ``[P+T]`` each.
        action_space: ``Discrete(V)``.
        lr_schedule: gives the optimiser its first learning rate.
        model: a directory, a hub id, or a loaded model, which is then trained in place.
        prompt_length: ``P``.
        end_token_ids: tokens that end a response.
        value: ``"trunk"``, ``"separate"``, a reward model's directory, or a module; None for no critic.
        lora: adapters to train instead of the model: a rank, or a configuration of peft's. A model that comes with
            adapters (a ``PeftModel``, or the directory of one) needs none.
        freeze_layers: the embeddings and so many of the lower layers are not trained; None for none. What they compute
            is then computed once per iteration.
        untie_head: gives an output head that is tied to the embedding weights of its own, so that it learns where the
            embedding is frozen. Not with adapters, beside which no head learns.
        frozen: parameters of this policy, by name (``lm.…``, ``value.…``), that are not trained. Those of a loaded
            model that ask for no gradient need not be named.
        sampling: the behaviour distribution.
        seed: of the random streams of ``predict``.
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
        self.fresh_adapters = lora is not None  # or they came with the model, and are part of where it begins
        mask: NucleusMask | None = None  # NLPO sets it; no module of the policy, which would save and count it
        self.behaviour = Behaviour(int(action_space.n), tuple(end_token_ids), sampling or Sampling(), mask)
        rows = embedding_rows(self.lm)
        if rows < self.n_actions:
            raise ValueError(f"the model's vocabulary has {rows} tokens, fewer than the {self.n_actions} actions")
        self.width = int(observation_space["input_ids"].shape[0])  # type: ignore[index]
        check_context(self.lm, self.width, prompt_length)
        self.prompt_length = prompt_length
        self.seed = seed
        self.freeze_layers = freeze_layers
        if untie_head:
            if lora is not None or is_adapted(self.lm):
                raise ValueError(
                    "untie_head=True does not go with adapters: they are all that is trained, and a head of its own "
                    "would never learn; leave untie_head or the adapters out"
                )
            untie(self.lm)
        if lora is not None:
            add_lora(self.lm, lora, freeze_layers or 0, seed)
        elif is_adapted(self.lm):
            train_adapters(self.lm)
        self.value = make_value(value, self.lm)  # before any layer is frozen, which its own copy need not be
        self._freeze_named(frozen)
        self._frozen = self._frozen_by_caller()
        if freeze_layers is not None:
            freeze(self.lm, freeze_layers)
        self.trunk = Trunk(self.lm, freeze_layers or 0)
        check_agreement(self.trunk, self.width, prompt_length)
        # Adam's ε is part of the published recipe (Huang 2024).
        trained = [p for p in self.parameters() if p.requires_grad]
        # As a group, since a policy that only acts may have nothing to train.
        self.optimizer = torch.optim.Adam([{"params": trained}], lr=lr_schedule(1), eps=1e-5)
        self._own_session: Session | None = None

    @property
    def n_actions(self) -> int:
        """``V``."""
        return self.behaviour.n_actions

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a response."""
        return self.behaviour.end_ids

    @property
    def sampling(self) -> Sampling:
        """Temperature, minimum length, top-k and top-p."""
        return self.behaviour.sampling

    @property
    def mask(self) -> NucleusMask | None:
        """NLPO's mask; None for none."""
        return self.behaviour.mask

    def saved_arguments(self) -> dict[str, Any]:
        """What the constructor must be told again, beside the saved model."""
        layers = {} if self.freeze_layers is None else {"freeze_layers": self.freeze_layers}
        return {**layers, **({"frozen": self._frozen} if self._frozen else {})}

    def _freeze_named(self, names: Sequence[str]) -> None:
        parameters = dict(self.named_parameters())
        unknown = sorted(set(names) - parameters.keys())
        if unknown:
            raise ValueError(
                f"frozen names {unknown}; expected parameters of the policy, such as {next(iter(parameters))!r}"
            )
        for name in names:
            parameters[name].requires_grad_(False)

    def _frozen_by_caller(self) -> list[str]:
        """What is not trained before any layer is frozen; what adapters freeze, they freeze again by themselves."""
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
        """Return a cache and random streams for ``n_rows`` rows; each player holds its own.

        ``seed``, ``sampling`` and ``model`` are the policy's where none are given.
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
        """Chooses a token for every row of a vector observation, with this policy's own session."""
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
        """stable-baselines3's ``predict``; the returned state carries the session, as evaluation passes it back.

        Raises:
            ValueError: the observation is what Gymnasium's ``reset`` returns, with its info.
        """
        given: Any = observation
        if isinstance(given, tuple):
            raise ValueError("observation is a tuple; reset() returns (observation, info): give the first of them")
        single = observation["input_ids"].ndim == 1
        rows = {k: np.asarray(v)[None] if single else np.asarray(v) for k, v in observation.items()}
        masks = action_masks[None] if single and action_masks is not None else action_masks
        if state is None:
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
        self, input_ids: Tensor, attention_mask: Tensor, kept: Tensor | None = None, prefix: Tensor | None = None
    ) -> Evaluation:
        """Log-probabilities, entropies and values of whole sequences, in one pass.

        Args:
            input_ids: ``[n, P+T]``.
            attention_mask: ``[n, P+T]``.
            kept: ``[n, T, M]`` what the behaviour distribution kept, or None.
            prefix: ``[n, L, d]`` what the frozen layers compute, where it was kept.
        """
        valid = attention_mask[:, self.prompt_length :].bool()
        states = self.trunk.hidden_states(input_ids, attention_mask, self.prompt_length, prefix)
        scores = self.behaviour.score(self.trunk.head, states[:, :-1], input_ids[:, self.prompt_length :], valid, kept)
        values = None
        if self.value is not None:
            values = self.value(states, input_ids, attention_mask, self.prompt_length)
        return Evaluation(scores.log_probs, scores.entropy, values)

    def set_training_mode(self, mode: bool) -> None:
        """Stays in eval mode: dropout is off in every model during RL (DESIGN: ratio 1 at the first update)."""
        self.train(False)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        raise TypeError("LMPolicy is saved as a directory: use the algorithm's save(), not policy.save()")
