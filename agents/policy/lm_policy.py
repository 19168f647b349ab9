"""The policy: a language model with a value function, as stable-baselines3 knows policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor
from transformers import PreTrainedModel

from textgym.agents.policy.session import Acted, Session
from textgym.agents.policy.values import make_value
from textgym.lm.agreement import check_agreement
from textgym.lm.behaviour import Behaviour, NucleusMask
from textgym.lm.freezing import freeze, untie
from textgym.lm.generation import make_saveable
from textgym.lm.guards import check_loaded
from textgym.lm.loading import check_context, embedding_rows, frozen_dropout, in_full_precision, load_lm
from textgym.lm.lora import add_lora, is_adapted, train_adapters, unwrapped
from textgym.lm.sampling import Sampling
from textgym.lm.trunk import Trunk
from textgym.types import BoolArray


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
