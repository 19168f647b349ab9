"""A*PO: regression on optimal advantages, whose values are estimated from the reference's responses."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.vec_env.base_vec_env import VecEnv
from torch import Tensor, nn

from textgym.agents.functional.objectives import Advantages, advantage_regression, soft_value, spread
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.episodes import EpisodePlan, Minibatch, OnStep, Scored, collect
from textgym.agents.policy.lm_policy import Evaluation
from textgym.agents.settings import AStarPOSettings, require
from textgym.types import BoolArray, Episodes, FloatArray, IntArray, Prompt

REFERENCE_EPISODES = 2**62
"""First number of the reference's episodes, so that they share no random stream with the policy's."""


class AStarPO(SequenceAlgorithm):
    """Optimal advantage regression (A*PO, Brantley 2025, arXiv 2505.20686): least squares, without critic or group.

    The optimum π* of E[R] − β·KL(π‖π_ref) has β·log(π*(y|x) / π_ref(y|x)) = R(x, y) − V*(x) for every response, with
    V*(x) = β·log E_{y ~ π_ref}[exp(R(x, y)/β)]. V* depends on the reference alone, which does not change: it is
    estimated once, and π is fitted to the identity.

    1. The iteration in which a prompt x first appears samples n = ``value_samples`` responses z_1 … z_n to it from
       π_ref:

        V̂*(x) = β₁·log( 1/n Σ_j exp(R(x, z_j)/β₁) )

    2. Every iteration samples one response y_i to each of ``episodes_per_iteration`` prompts x_i from π_old, the policy
       as it is then. One shuffled pass over them (``n_epochs`` = 1), in minibatches of m = ``minibatch_size``
       responses, takes a gradient step on L for each minibatch:

        A_i = R(x_i, y_i) − V̂*(x_i)

        L   = 1/m Σ_i [ (β·Σ_t (log π(y_it|s_it) − log π_ref(y_it|s_it)) − A_i)² − c_H·1/|y_i| Σ_t H(π(·|s_it)) ]

    - R is the sum of a response's rewards, without a KL penalty.
    - β is the present value of ``beta``. β₁ is ``value_beta``, by default the present β as well. Returns are kept, not
      values, so that V̂* follows a β that adapts.
    - π, π_old and π_ref are behaviour distributions, after temperature and masks of ``sampling``; top-k and top-p do
      not bind π_ref. c_H is ``ent_coef``, 0 by default.

    Where π = π_old, the expected gradient of L is −2β times that of E[R] − β·KL(π‖π_ref), whatever V̂* is: an error of
    V̂* adds variance there. On responses of another policy, as in the steps after the first, it also adds bias. V̂* is
    too low on average, most for small β₁ and rare success: with scores 0 and 1, a pass rate of 0.1 and β₁ = 0.1 its
    mean is 0.30 for n = 4 and 0.76 for n = 64, while V* = 0.77.

    The reference's responses count towards the token budget (``rollout/value_tokens``), are shown to callbacks, and are
    scored as the policy's are. Their random streams are their own, of the prompt alone. Checkpoints hold the returns;
    :meth:`set_env` discards them. ``train/advantage`` is the mean of A_i, and ``train/implicit_advantage`` that of
    β·Σ_t log(π/π_ref), which approaches it.

    Each step is Adam's (ε = 1e-5), after the gradient was scaled down to a global norm of ``max_grad_norm``. The
    learning rate is constant within an iteration and decays linearly to 0 over the run; in iteration
    i < ``warmup_iterations`` it is multiplied by (i + 1) / ``warmup_iterations``.

    Differences:

    - The paper samples from π_ref before training, for every prompt; here prompts that the budget does not reach cost
      nothing.
    - It takes β₁ = 0.5 and β = 0.001, with which no policy has loss 0.
    - TRL discards prompts to which the reference's responses all score 0; here they stay.

    In a task whose world replies by chance, V̂* tends to a value that is too high, since it counts on the world's luck.
    """

    settings: AStarPOSettings
    settings_class = AStarPOSettings
    scores_alone = "compares scores with those of the reference's responses, which are scored apart"
    sampled: ReferenceReturns
    """Returns of the reference's responses to the prompts met so far."""

    @property
    def reward_beta(self) -> float:
        """0: the regression holds the log-ratio to the reference itself."""
        return 0.0

    @property
    def prompt_need(self) -> str:
        """Reason why the algorithm must choose the prompts."""
        return "samples the reference's responses to each prompt first"

    @property
    def value_beta(self) -> float:
        """β₁."""
        return self.settings.value_beta or self.kl.beta

    def check_env(self, env: VecEnv) -> None:
        """Check what every algorithm checks, and that β is above 0."""
        super().check_env(env)
        require(self.kl.beta > 0, "beta", self.kl.beta, "more than 0, as AStarPO divides by it; use PPO or RLOO for 0")

    def play(self, on_step: OnStep) -> Episodes | None:
        """Play the reference's responses to new prompts, then the policy's; None if ``on_step`` stopped them."""
        plan = self.plan()
        if not self.meet(np.unique(plan.prompt_index), on_step):
            return None
        return collect(self._slots, self._session, plan, on_step)

    def meet(self, prompts: IntArray, on_step: OnStep) -> bool:
        """Play the reference's responses to the prompts that no earlier iteration met, and keep their returns.

        Returns:
            False if ``on_step`` stopped them.
        """
        n, tokens = self.settings.value_samples, 0
        keys = self._keys(prompts)
        new = ~self.sampled.known(keys, self.iteration)
        if new.any():
            # As in the KL, the reference has the policy's temperature and minimum length alone.
            session = self.reference_session(self.policy.sampling.shared)
            played = collect(self._slots, session, reference_plan(prompts[new], n), on_step)
            if played is None:
                return False
            self.sampled.add(keys[new], played.rewards.sum(1, dtype=np.float64).reshape(-1, n), self.iteration)
            tokens = int(played.lengths.sum())
        self.logger.record("rollout/value_tokens", tokens)
        return True

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Subtract from each return the estimated optimal value of its prompt."""
        keys = self._keys(scored.episodes.prompt_index)
        values = soft_value(self.sampled.find(keys), self.value_beta)
        return spread(scored.returns - values, scored.episodes.own)

    def policy_loss(self, log_probs: Tensor, batch: Minibatch) -> Tensor:
        """Return each response's squared residual at all of its tokens, ``[n, T]``."""
        return advantage_regression(log_probs - batch.ref_log_probs, batch.advantages, self.kl.beta)

    @torch.no_grad()
    def watch(self, evaluation: Evaluation, batch: Minibatch) -> dict[str, Tensor]:
        """Return the logs of every algorithm, and both sides of the regression, means over responses."""
        implicit = self.kl.beta * (evaluation.log_probs - batch.ref_log_probs).sum(1)
        sides = {"implicit_advantage": implicit.mean(), "advantage": self.normalise(batch.advantages, batch.own)}
        return {**super().watch(evaluation, batch), **sides}

    def _keys(self, prompt_index: IntArray) -> IntArray:
        return prompt_keys(self._env_attribute("mdp").prompts, prompt_index)

    # --- construction and saving ---------------------------------------------------------------------------

    def _setup_model(self) -> None:
        self.sampled = ReferenceReturns(self.settings.value_samples)
        super()._setup_model()

    def _begin(
        self, total_timesteps: int, callbacks: CallbackList, reset_num_timesteps: bool, tb_log_name: str = "run"
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps:  # a new run meets its prompts anew, whatever was trained before
            self.sampled = ReferenceReturns(self.settings.value_samples)
        return super()._begin(total_timesteps, callbacks, reset_num_timesteps, tb_log_name)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Switch environments as every algorithm does, and discard what the reference scored in the former one."""
        fresh = self.sampled if self.env is None else ReferenceReturns(self.settings.value_samples)
        super().set_env(env, force_reset)
        self.sampled = fresh

    def extra_modules(self) -> dict[str, nn.Module]:
        """Return the reference's returns, which a checkpoint must keep."""
        return {"reference_returns": self.sampled}


class ReferenceReturns(nn.Module):
    """Returns of n responses of the reference to each of m prompts; a module, so that a checkpoint holds it.

    Args:
        samples: n.

    Attributes:
        keys: ``[m]`` int64, from :func:`prompt_keys`.
        met: ``[m]`` int64, the iteration that met each prompt.
        returns: ``[m, n]`` float64.
    """

    keys: Tensor
    met: Tensor
    returns: Tensor

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("met", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("returns", torch.zeros(0, samples, dtype=torch.float64))
        self.register_load_state_dict_pre_hook(_fit_buffers)  # type: ignore[no-untyped-call]  # torch leaves it so

    def known(self, keys: IntArray, iteration: int) -> BoolArray:
        """Return True for prompts ``[k]`` that an iteration before the given one met.

        What an unfinished iteration met does not count: repeated, or resumed from a checkpoint, the iteration plays the
        same episodes again.
        """
        earlier: BoolArray = np.isin(keys, self.keys[self.met < iteration].numpy())
        return earlier

    def add(self, keys: IntArray, returns: FloatArray, iteration: int) -> None:
        """Keep the returns ``[k, n]`` of prompts that an iteration met, in place of former ones."""
        others = torch.from_numpy(~np.isin(self.keys.numpy(), keys))
        added = {"keys": keys, "met": np.full(len(keys), iteration), "returns": returns}
        for name, array in added.items():
            setattr(self, name, torch.cat([getattr(self, name)[others], torch.from_numpy(array)]))

    def find(self, keys: IntArray) -> FloatArray:
        """Return the returns of prompts, ``[k, n]``.

        Raises:
            ValueError: one of them was not met.
        """
        place = {key: row for row, key in enumerate(self.keys.tolist())}
        if unmet := [i for i, key in enumerate(keys.tolist()) if key not in place]:
            raise ValueError(
                f"the reference has not responded to the prompt of episode {unmet[0]}; train on the episodes of "
                "collect(), which lets it"
            )
        found: FloatArray = self.returns[[place[key] for key in keys.tolist()]].numpy()
        return found


def _fit_buffers(module: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Give a module's buffers the sizes of those that are about to be loaded."""
    for name, buffer in list(module.named_buffers()):
        setattr(module, name, buffer.new_empty(state[prefix + name].shape))


def prompt_keys(prompts: Sequence[Prompt], index: IntArray) -> IntArray:
    """Return ``[k]`` int64 keys of prompts by their indices: digests of index and tokens.

    A checkpoint that is continued with other prompts then knows none of them.
    """
    named = (repr((i, prompts[i].ids)) for i in index.tolist())
    digests = [hashlib.sha256(name.encode()).digest()[:8] for name in named]
    return np.array([int.from_bytes(digest, "big", signed=True) for digest in digests], np.int64)


def reference_plan(prompts: IntArray, samples: int) -> EpisodePlan:
    """Plan the reference's episodes, ``samples`` for each prompt; their numbers depend on the prompt alone."""
    index = np.repeat(prompts, samples)
    return EpisodePlan(index, REFERENCE_EPISODES + index * samples + np.arange(len(index)) % samples)
