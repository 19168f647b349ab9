"""Proximal policy optimisation (Schulman 2017, arXiv 1707.06347), as it is used on language."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor, nn
from transformers import PreTrainedModel

from textgym.agents.advantages import Advantages, gae, whiten
from textgym.agents.algorithm import SequenceAlgorithm
from textgym.agents.batches import Minibatch, Scored
from textgym.agents.losses import clipped_surrogate, clipped_value_loss, masked_mean
from textgym.agents.policy import Evaluation
from textgym.lm.sampling import Sampling
from textgym.rewards.kl import KLController


class PPO(SequenceAlgorithm):
    """PPO with a KL penalty in the reward; defaults as published (Ziegler 2019, Ouyang 2022, Huang 2024).

    Args:
        gae_lambda: λ of the advantages; γ is 1.
        clip_range: ε of the ratio.
        clip_range_vf: ε of the value, in units of the value.
        vf_coef: weight of the value loss.

    The other arguments are those of :class:`textgym.agents.algorithm.SequenceAlgorithm`.
    """

    def __init__(
        self,
        policy: str | type[BasePolicy] = "LMPolicy",
        env: GymEnv | gym.vector.VectorEnv[Any, Any, Any] | str | None = None,
        learning_rate: float | Schedule = 1e-4,
        *,
        model: str | Path | PreTrainedModel | None = None,
        reference: str | Path | PreTrainedModel | None = None,
        value: str | Path | nn.Module = "trunk",
        episodes_per_iteration: int = 128,
        minibatch_size: int = 32,
        n_epochs: int = 4,
        gae_lambda: float = 0.95,
        clip_range: float = 0.2,
        clip_range_vf: float = 0.2,
        vf_coef: float = 0.1,
        max_grad_norm: float = 1.0,
        kl: float | KLController = 0.05,
        sampling: Sampling | None = None,
        **settings: Any,
    ) -> None:
        if not 0 <= gae_lambda <= 1:
            raise ValueError(f"gae_lambda={gae_lambda}; expected a number in [0, 1]")
        if clip_range <= 0 or clip_range_vf <= 0:
            raise ValueError(f"clip_range={clip_range}, clip_range_vf={clip_range_vf}; expected more than 0")
        self.gae_lambda = gae_lambda
        self.clip_range = clip_range
        self.clip_range_vf = clip_range_vf
        self.vf_coef = vf_coef
        super().__init__(
            policy,
            env,
            learning_rate,
            model=model,
            reference=reference,
            value=value,
            episodes_per_iteration=episodes_per_iteration,
            minibatch_size=minibatch_size,
            n_epochs=n_epochs,
            max_grad_norm=max_grad_norm,
            kl=kl,
            sampling=sampling,
            **settings,
        )

    def hyperparameters(self) -> dict[str, Any]:
        own = ("gae_lambda", "clip_range", "clip_range_vf", "vf_coef")
        return {**super().hyperparameters(), **{name: getattr(self, name) for name in own}}

    def estimate_advantages(self, scored: Scored) -> Advantages:
        episodes = scored.episodes
        estimated = gae(scored.shaped, scored.values, episodes.valid, self.gae_lambda, episodes.truncated)
        return Advantages(whiten(estimated.advantages, episodes.valid), estimated.returns)

    def loss(self, evaluation: Evaluation, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        log_ratio = (evaluation.log_probs - batch.log_probs).masked_fill(~batch.valid, 0.0)
        ratio = log_ratio.exp()
        policy_loss = masked_mean(clipped_surrogate(ratio, batch.advantages, self.clip_range), batch.valid)
        values = evaluation.values[:, :-1]
        value_loss = masked_mean(
            clipped_value_loss(values, batch.values, batch.returns, self.clip_range_vf), batch.valid
        )
        with torch.no_grad():
            logs = {
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                "entropy": masked_mean(evaluation.entropy, batch.valid),
                "approx_kl": masked_mean(ratio - 1 - log_ratio, batch.valid),
                "clip_fraction": masked_mean(((ratio - 1).abs() > self.clip_range).float(), batch.valid),
            }
        return policy_loss + self.vf_coef * value_loss, logs
