"""The alternatives: ``generate`` of transformers, stable-baselines3's PPO, and replies that are prefilled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import stable_baselines3
import torch
from stable_baselines3.common.distributions import CategoricalDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from textgym.agents.loop.slots import SB3VecEnv
from textgym.benchmarks.throughput.task import (
    MINIBATCHES,
    UPDATE_EPOCHS,
    Conversations,
    Size,
    make_model,
    prompt_ids,
    throughput_env,
)
from textgym.lm.decoding import Observed, PrefixDecoder
from textgym.types import IntArray


class Generation:
    """``model.generate``, sampling from the whole distribution; a call continues every prompt once."""

    def __init__(self, size: Size) -> None:
        self.model: Any = make_model(size)
        self.ids = torch.from_numpy(prompt_ids(size))
        self.new_tokens = size.new_tokens

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        generated: Tensor = self.model.generate(
            self.ids,
            attention_mask=torch.ones_like(self.ids),
            do_sample=True,
            top_k=0,
            max_new_tokens=self.new_tokens,
            min_new_tokens=self.new_tokens,
        )
        return generated


class PrefillingDecoder(PrefixDecoder):
    """Decode rows that grew by one token; prefill those that grew by a reply, as all others."""

    def _growth(self, known: IntArray, observed: Observed, at: IntArray) -> IntArray:
        growth = super()._growth(known, observed, at)
        growth[growth > 1] = 0
        return growth


def prefilled_conversations(size: Size) -> Conversations:
    """Build the same conversations, with each reply prefilled together with all before it."""
    played = Conversations(size)
    played.session.decoder = PrefillingDecoder(played.model, size.prompts, size.prompt_length + size.new_tokens)
    return played


class PrefixPolicy(ActorCriticPolicy):
    """The same model and value head as a stable-baselines3 policy, which encodes one state at a time.

    A transition is an observation, so its whole prefix is encoded for it: in the rollout and in every epoch.
    """

    def __init__(self, *args: Any, make_model: Callable[[], GPT2LMHeadModel], **kwargs: Any) -> None:
        self.make_model = make_model
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        self.lm = self.make_model()
        self.value_head = nn.Linear(self.lm.config.n_embd, 1)
        self.action_dist = CategoricalDistribution(self.lm.config.vocab_size)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr_schedule(1), eps=1e-5)

    def _states(self, observation: Any) -> Tensor:
        """Return the hidden states of the last tokens, ``[n, d]``; columns that no row uses are left out."""
        mask = observation["attention_mask"].long()
        columns = torch.arange(mask.shape[1], device=mask.device)
        last = (mask * columns).argmax(1)
        # Padding on the right of all rows costs time and changes nothing.
        used = slice(0, int(last.max()) + 1)
        mask = mask[:, used]
        states = self.lm.transformer(
            input_ids=observation["input_ids"][:, used].long(),
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        ends: Tensor = states[torch.arange(len(last)), last]
        return ends

    def _act_on(self, states: Tensor) -> Distribution:
        return self.action_dist.proba_distribution(action_logits=self.lm.lm_head(states))

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        states = self._states(obs)
        distribution = self._act_on(states)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.value_head(states), distribution.log_prob(actions)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        states = self._states(obs)
        distribution = self._act_on(states)
        return self.value_head(states), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Any) -> Distribution:
        return self._act_on(self._states(obs))

    def predict_values(self, obs: Any) -> Tensor:
        values: Tensor = self.value_head(self._states(obs))
        return values


class StockIteration:
    """An iteration of stable-baselines3's PPO on a share of the episodes, with as many gradient steps.

    Args:
        size: size of the model and the episodes.
        share: 1/share of the rows are played; multiply the time by it.
    """

    def __init__(self, size: Size, share: int) -> None:
        fewer = size.but(prompts=max(1, size.prompts // share))
        self.share = size.prompts / fewer.prompts
        self.tokens = fewer.prompts * fewer.new_tokens
        self.algorithm = stable_baselines3.PPO(
            PrefixPolicy,
            SB3VecEnv(throughput_env(fewer)),
            learning_rate=1e-4,
            n_steps=fewer.new_tokens,
            batch_size=self.tokens // MINIBATCHES,
            n_epochs=UPDATE_EPOCHS,
            gamma=1.0,
            policy_kwargs={"make_model": lambda: make_model(size)},
            seed=0,
            device="cpu",
        )

    def __call__(self) -> None:
        self.algorithm.learn(self.tokens)
