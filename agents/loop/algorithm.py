"""The loop that collects responses and trains on them; each algorithm is a short declaration on it (see ``ppo.py``).

An iteration reads from top to bottom: :meth:`SequenceAlgorithm.collect` plays the planned episodes,
:meth:`~SequenceAlgorithm.train` scores them, estimates advantages and updates the policy, and
:meth:`~SequenceAlgorithm.learn` repeats both until the tokens of the budget are spent.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import safe_mean, update_learning_rate
from stable_baselines3.common.vec_env.base_vec_env import VecEnv
from torch import Tensor, nn
from transformers import PreTrainedModel

from textgym.agents.functional.objectives import (
    Advantages,
    clipped_value_loss,
    future_kl,
    make_normalise,
    masked_mean,
    policy_gradient,
    token_ratio,
    whole_kl,
)
from textgym.agents.loop.callbacks import TokenProgressBar
from textgym.agents.loop.checkpoint import constructor_arguments, read_state, restore, save_checkpoint, schedule_state
from textgym.agents.loop.checks import (
    check_comparisons,
    check_plays,
    check_policy,
    check_same_task,
    check_spaces,
    check_trainable,
    layout_from_state,
    layout_of,
    make_admitting,
    make_controller,
    require_env,
    task_identity,
)
from textgym.agents.loop.episodes import (
    EpisodePlan,
    Minibatch,
    OnStep,
    Scored,
    collect,
    minibatches,
    sampling_plan,
    score_episodes,
    take,
)
from textgym.agents.loop.metrics import explained_variance, iteration_metrics
from textgym.agents.loop.slots import (
    MAX_SLOTS,
    SB3VecEnv,
    Slots,
    SlotStep,
    as_callbacks,
    bridge_evaluations,
    env_attribute,
    is_vector,
    make_slots,
)
from textgym.agents.offline.pretraining import Pretraining, check_pretraining
from textgym.agents.policy.lm_policy import Acted, Evaluation, LMPolicy, Session
from textgym.agents.policy.reference import Reference, check_tokens, make_reference
from textgym.agents.settings import Common, CriticSettings, Settings, former_beta, make_settings
from textgym.env.mdp import TokenMDP
from textgym.files import standing
from textgym.lm.behaviour import Against
from textgym.lm.guards import Watch, check_first_ratio, check_step, check_trained, naming_batch
from textgym.lm.parts.lora import without_adapters
from textgym.lm.sampling import Sampling
from textgym.numbers import count, random_seed
from textgym.rewards.kl import Divergence, KLController, k3, vocabulary_kl
from textgym.types import BoolArray, Episodes, Float32Array


class SequenceAlgorithm(BaseAlgorithm):
    """A stable-baselines3 algorithm that collects whole responses and trains on whole sequences.

    A subclass makes five choices and inherits the rest: the **sampling plan** (``samples_per_prompt`` of its settings,
    :attr:`greedy_companion`), a **critic** or none (:attr:`critic`), the **advantages** (:meth:`estimate_advantages`),
    the **policy loss** (:meth:`policy_loss`), and the **place of the KL** in reward or loss (``kl_in_loss`` of its
    settings).

    Args:
        policy: ``"LMPolicy"``.
        env: an id, a Gymnasium environment or vector environment, or a ``VecEnv``.
        learning_rate: initial value of a linear decay to 0 over the whole run, or stable-baselines3's
            ``LinearSchedule`` or ``ConstantSchedule``; ``warmup_iterations`` of the settings multiplies it.
        model: the language model to train: a directory, a hub id, or a loaded model. By default the base model of
            the environment's task.
        reference: the model that the KL is measured to: a directory, a hub id, or a loaded model. By default the
            initial model, with the adapters that it came with; ``"without-adapters"`` for the model below them.
        value: the critic, for algorithms with one: ``"trunk"``, ``"separate"``, a reward model's directory, or a
            module.
        beta: β, the price of a nat of KL, or a controller of it, such as ``AdaptiveKL``.
        sampling: settings of the behaviour distribution.
        pretraining: text whose likelihood every update also raises (PPO-ptx, for any algorithm); None for none.
        score_together: score the responses of an iteration at its end, in few large calls of the reward; False scores
            each in the step in which it ends. It needs a vector environment of this package without wrappers, and has
            no effect in any other. Callbacks then see, in ``_on_step``, ``locals["rewards"]`` of 0 and ``infos``
            without ``score`` and ``components``; the same ``infos`` hold them by ``_on_rollout_end``.
        seed: random seed of all streams.
        policy_kwargs: ``lora``, ``freeze_layers``, ``untie_head``, ``frozen``, as :class:`LMPolicy` explains them.
        stats_window_size, tensorboard_log, verbose, device: as in stable-baselines3.
        settings: the fields of :attr:`settings_class`.
    """

    policy: LMPolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"LMPolicy": LMPolicy}
    settings: Settings
    settings_class: ClassVar[type[Settings]] = Settings
    critic: ClassVar[bool] = False
    """True if there is a value function; without one no value is computed."""
    greedy_companion: ClassVar[bool] = False
    """True if each prompt also gets a greedy response, which is not trained on."""
    on_policy: ClassVar[bool] = True
    """True if the policy samples its own training data; its ratio is then 1 at an iteration's first minibatch."""
    shared_advantage: ClassVar[bool] = False
    """True if a response's tokens share one ratio or weight, and so must share one advantage: with the exact KL in the
    loss, each then answers for the KL of the whole response and not for that of later tokens alone."""
    scores_alone: ClassVar[str] = ""
    """Reason why a response's score must not depend on the others of an iteration; empty if it may."""
    iteration: int
    """Number of complete iterations."""
    episodes_begun: int
    """Number of episodes in the complete iterations, which the next plan counts on from."""
    boundary_timesteps: int
    """Tokens at the last iteration boundary, the state that a checkpoint keeps."""
    boundary_episodes: list[list[float]]
    """Return and length of the last episodes at that boundary."""
    metrics: dict[str, float]
    """Metrics of the last iteration."""
    ended: str | None
    """Reason why the algorithm found nothing more to train on, and ended training by itself; None if it did not."""
    _watch: Watch

    # --- choices -------------------------------------------------------------------------------------------

    @abstractmethod
    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Estimate the advantages and value targets of an iteration, ``[N, T]`` each."""

    def policy_loss(self, log_probs: Tensor, batch: Minibatch) -> Tensor:
        """Return each token's loss ``[n, T]`` given log-probabilities ``[n, T]``; here the plain policy gradient."""
        return policy_gradient(log_probs, batch.advantages)

    def select(self, scored: Scored) -> Scored:
        """Return the episodes to train on; here all that were sampled."""
        return scored

    def described(self, scored: Scored) -> Scored:
        """Return the episodes that an iteration's metrics describe; here all that were sampled."""
        return scored

    @property
    def reward_beta(self) -> float:
        """β of the KL penalty in the rewards; 0 if the loss has the KL, so that it is counted once."""
        return 0.0 if self.settings.kl_in_loss else self.kl.beta

    @property
    def prompt_need(self) -> str:
        """Reason why the algorithm must choose the prompts; empty if the environment's rows may choose them."""
        return f"needs {self.group} responses to each prompt" if self.group > 1 else ""

    # --- an iteration --------------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train until ``total_timesteps`` tokens were generated; a timestep is a token.

        With ``reset_num_timesteps=False`` training continues, and ``total_timesteps`` counts from here on.

        Raises:
            ValueError: ``total_timesteps`` is not a whole number of at least 1.
        """
        total_timesteps = count("total_timesteps", total_timesteps)
        callbacks = CallbackList([*as_callbacks(callback), *([TokenProgressBar()] if progress_bar else [])])
        bridge_evaluations(callbacks)  # an EvalCallback may have been given a Gymnasium vector environment
        total, running = self._begin(total_timesteps, callbacks, reset_num_timesteps, tb_log_name)
        # stable-baselines3's callbacks look up these names in ``self.locals``.
        running.on_training_start({**locals(), "total_timesteps": total}, globals())
        while self.num_timesteps < total:
            # An iteration keeps the learning rate of its first token; at the rate of its end, the last iteration would
            # train at rate 0.
            self._update_current_progress_remaining(self.num_timesteps, total)
            episodes = self.collect(running)
            if episodes is None:
                break
            self.train(episodes, self._current_progress_remaining)
            if log_interval and self.iteration % log_interval == 0:
                self.dump_logs()
        running.on_training_end()
        return self

    def collect(self, callback: BaseCallback | None = None) -> Episodes | None:
        """Play the next iteration's episodes: the first half of an iteration, for a custom training loop.

        Until :meth:`train` completes the iteration, every call plays the same prompts with the same random streams.

        Args:
            callback: an initialised callback of stable-baselines3, called as by :meth:`learn`; None for none.

        Returns:
            The episodes, or None if the callback stopped the collection, or the algorithm found nothing more to train
            on; :attr:`ended` then says why.

        Raises:
            ValueError: there is no environment, or it rewrites what it has shown.
            textgym.rewards.RewardError: an error in the reward.
        """
        self._begin_without_learn()
        self.ended = None
        running = self._init_callback(CallbackList([])) if callback is None else callback
        monitored = False

        def on_step(step: SlotStep, acted: Acted, playing: BoolArray) -> bool:
            nonlocal monitored  # True once an environment has a Monitor of its own, whose figures then count
            self.num_timesteps += int(playing.sum())
            dones = step.terminated | step.truncated
            # As from a VecEnv: callbacks expect one dict per row, and read it only where an episode ended.
            infos = [step.info(row) if dones[row] else {} for row in range(len(dones))]
            monitored = monitored or any("episode" in info for info in infos)
            self._update_info_buffer(infos, dones)
            running.update_locals(
                {
                    "self": self,
                    "actions": acted.actions,
                    "rewards": step.rewards,
                    "dones": dones,
                    "infos": infos,
                    "new_obs": step.observation,
                }
            )
            return running.on_step()

        self.begin_iteration()
        running.on_rollout_start()
        episodes = self.play(on_step)
        if episodes is not None and not monitored:
            self._note_episodes(episodes)
        running.on_rollout_end()
        return episodes

    def train(self, episodes: Episodes, progress_remaining: float = 1.0) -> dict[str, float]:
        """Train on the episodes of one :meth:`collect`: the second half of an iteration, for a custom training loop.

        Args:
            episodes: all episodes of the iteration, in their order.
            progress_remaining: share of the run that remains, from 1 to 0; the learning rate decays with it.

        Returns:
            The iteration's metrics, which are also recorded with the logger.

        Raises:
            TrainingError: the policy is not the one that sampled the episodes, or a number is not finite.
        """
        self._begin_without_learn()
        with naming_batch(episodes):
            rate = self._set_learning_rate(progress_remaining)
            scored = self.score(episodes)
            chosen = self.select(scored)
            estimated = self.advantages(chosen)
            logged = self.update(chosen, estimated)
            # A step with finite loss and gradient can still make a weight overflow.
            check_trained(self.policy, rate, self.policy.optimizer)
        described = self.described(scored)
        explained = explained_variance(chosen, estimated.returns) if self.critic else None
        self.metrics = {
            **iteration_metrics(described, logged, explained),
            "train/learning_rate": rate,
            "train/beta": self.kl.beta,
            "train/n_updates": self._n_updates,
        }
        for name, value in self.metrics.items():
            self.logger.record(name, value)
        self._watch(self.iteration, self.metrics)
        # β adapts to the KL of all sampled responses, also where only some were selected for training.
        if len(described.episodes):
            kl = (described.episodes.log_probs - described.ref_log_probs).sum(1).mean()
            self.kl.update(float(kl), len(described.episodes))
        self.iteration += 1
        self.episodes_begun += len(episodes)
        self.boundary_timesteps = self.num_timesteps
        self.boundary_episodes = [[float(info["r"]), float(info["l"])] for info in self.ep_info_buffer or ()]
        return self.metrics

    def score(self, episodes: Episodes) -> Scored:
        """Run critic and reference over an iteration's episodes, and subtract the KL penalty from the rewards.

        Greedy companions are split off first: they are never trained on.
        """
        # Each group of the plan is its sampled responses followed by its greedy companion, if any.
        greedy = np.arange(len(episodes)) % self.group >= self.settings.samples_per_prompt
        sampled, companions = (take(episodes, ~greedy), take(episodes, greedy)) if greedy.any() else (episodes, None)
        return score_episodes(
            self.policy,
            self.reference_trunk,
            sampled,
            self.reward_beta,
            self.settings.minibatch_size,
            companions,
            # Measured as a KL also where the loss has another divergence.
            None if self.divergence is None else vocabulary_kl,
        )

    def update(self, scored: Scored, estimated: Advantages) -> list[dict[str, float]]:
        """Take a gradient step on every minibatch of ``n_epochs`` passes; return each minibatch's logs.

        The update ends early, before the step on a minibatch for which :meth:`is_too_far` returns True; that minibatch
        is logged too.
        """
        # Keyed by the iteration, so that a run resumed from a checkpoint shuffles as the uninterrupted one.
        order = np.random.default_rng([self.seed or 0, self.iteration])
        size, epochs = self.settings.minibatch_size, self.settings.n_epochs
        logged: list[dict[str, float]] = []
        for batch in minibatches(scored, estimated, size, epochs, order, self.device):
            loss, logs = self.loss(self.evaluate(batch), batch)
            # Before the first step the policy is still the one that sampled, so every ratio must be 1.
            if not logged:
                self.check_ratio(logs)
            # Checked before the step: these logs show where the previous steps have led.
            if self.is_too_far(logs):
                logged.append(_floats({"loss": loss, **logs}))
                break
            self.policy.optimizer.zero_grad()
            loss.backward()
            text_loss, text_logs = self.pretraining_loss()
            if text_loss.requires_grad:  # adds to the gradients; two backward passes need less memory than one
                text_loss.backward()
            norm = self.take_step(loss, self.policy)
            self._n_updates += 1
            logged.append({**_floats({"loss": loss, **logs, **text_logs}), "grad_norm": norm})
        return logged

    # --- the loss ------------------------------------------------------------------------------------------

    @property
    def divergence(self) -> Divergence | None:
        """Divergence of policy and reference that the loss needs at each token; None for none.

        With ``kl_estimator="exact"`` it is the KL over the vocabulary.
        """
        return vocabulary_kl if self.settings.kl_in_loss and self.settings.kl_estimator == "exact" else None

    def evaluate(self, batch: Minibatch) -> Evaluation:
        """Run the policy over a minibatch; compare it with the reference over the vocabulary if the loss needs that."""
        divergence, states = self.divergence, batch.ref_states
        against = Against(self.reference_trunk.head, states, divergence) if divergence and states is not None else None
        return self.policy.evaluate(batch.input_ids, batch.attention_mask, batch.kept, batch.prefix, batch.own, against)

    def advantages(self, scored: Scored) -> Advantages:
        """Estimate the advantages that the loss weights tokens with, less the price of later KL if that is due."""
        return self.less_later_kl(self.estimate_advantages(scored), scored)

    def less_later_kl(self, estimated: Advantages, scored: Scored) -> Advantages:
        """Subtract from each advantage β times the KL of later tokens, if the loss has each token's own exact KL.

        Together both have the gradient of β·KL(π‖π_ref) of whole responses.

        Raises:
            ValueError: :meth:`select` left groups that are not whole.
        """
        if scored.divergence is None:
            return estimated
        k, prompts = self.settings.samples_per_prompt, scored.episodes.prompt_index
        if len(prompts) % k or (np.ptp(prompts.reshape(-1, k), axis=1) > 0).any():
            raise ValueError(
                f"{type(self).__name__}.select left groups of other than {k} responses to a prompt, and the exact KL "
                "in the loss compares the responses of a group; select whole groups, or override later_kl"
            )
        later = self.later_kl(scored.divergence, scored.episodes.own)
        return estimated._replace(advantages=estimated.advantages - np.float32(self.kl.beta) * later)

    def later_kl(self, divergence: Float32Array, own: BoolArray) -> Float32Array:
        """Return the KL that each token's advantage answers for, ``[N, T]``, given that of each token's state."""
        estimate = whole_kl if self.shared_advantage else future_kl
        return estimate(divergence, own, self.settings.samples_per_prompt)

    def loss(self, evaluation: Evaluation, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute a minibatch's total loss, of policy, entropy, KL and critic; return it with its logs."""
        loss, logs = self.actor_loss(evaluation, batch)
        logs = {**logs, **self.watch(evaluation, batch)}
        if evaluation.values is not None:
            logs["value_loss"] = self.value_loss(evaluation.values[:, :-1], batch)
            assert isinstance(self.settings, CriticSettings)
            loss = loss + self.settings.vf_coef * logs["value_loss"]
        return loss, logs

    def actor_loss(self, evaluation: Evaluation | Tensor, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of policy, entropy bonus and, with ``kl_in_loss``, KL; return it with its logs."""
        # Version 0.1 passed log-probabilities alone, and policy.evaluate(...) has no reference to compare with.
        if isinstance(evaluation, Tensor) or (evaluation.divergence is None and self.divergence is not None):
            evaluation = self.evaluate(batch)
        loss = policy_loss = self.normalise(self.token_loss(evaluation, batch), batch.own)
        logs = {"policy_loss": policy_loss}
        if self.settings.ent_coef:
            loss = loss - self.settings.ent_coef * self.normalise(evaluation.entropy, batch.own)
        if self.settings.kl_in_loss:
            logs["kl_loss"] = self.normalise(self.kl_loss(evaluation, batch), batch.own)
            loss = loss + self.kl.beta * logs["kl_loss"]
        return loss, logs

    def token_loss(self, evaluation: Evaluation, batch: Minibatch) -> Tensor:
        """Return each token's loss ``[n, T]``, without entropy bonus and KL; here :meth:`policy_loss`."""
        return self.policy_loss(evaluation.log_probs, batch)

    def kl_loss(self, evaluation: Evaluation, batch: Minibatch) -> Tensor:
        """Return the KL to the reference at each token by ``kl_estimator``, ``[n, T]``, to be differentiated.

        Raises:
            ValueError: the estimator needs the reference's states, and the episodes were scored without them.
        """
        if evaluation.divergence is not None:
            return evaluation.divergence
        if self.divergence is not None:  # k3 would take its place in silence
            raise ValueError(
                f"kl_estimator={self.settings.kl_estimator!r} compares policy and reference over the vocabulary, and "
                "the minibatch has no ref_states; score the episodes with self.score(episodes), or pass "
                "divergence=self.divergence to score_episodes"
            )
        estimated = k3(evaluation.log_probs, batch.ref_log_probs)
        if self.settings.kl_estimator == "k3-corrected":
            # d(ρ·k3)/dθ at ρ = 1 is (log π − log π_ref)·∇log π, whose mean is the gradient of KL(π‖π_ref).
            return token_ratio(batch.log_ratio(evaluation.log_probs)) * estimated
        return estimated

    def value_loss(self, values: Tensor, batch: Minibatch) -> Tensor:
        """Compute the critic's clipped loss, a mean over tokens; ``values`` is ``[n, T]``."""
        assert isinstance(self.settings, CriticSettings)
        clip = self.settings.clip_range_vf
        return masked_mean(clipped_value_loss(values, batch.values, batch.returns, clip), batch.own)

    def pretraining_loss(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute γ times the loss on the update's pretraining text, or 0 without any; return it with its logs."""
        if self.pretraining is None:
            return torch.zeros((), device=self.device), {}
        loss = self.pretraining.loss(self.policy.trunk, self.seed or 0, self._n_updates)
        return self.pretraining.coefficient * loss, {"ptx_loss": loss}

    @torch.no_grad()
    def watch(self, evaluation: Evaluation, batch: Minibatch) -> dict[str, Tensor]:
        """Return logs of a minibatch: distance from the sampling policy, and entropy in nats per token.

        ``ratio_error`` is max |ρ − 1|; ``approx_kl`` is the mean of ρ − 1 − log ρ, in nats per token.
        """
        log_ratio = batch.log_ratio(evaluation.log_probs)
        ratio = log_ratio.exp()
        return {
            "ratio_error": (ratio - 1).abs().max(),
            "approx_kl": masked_mean(ratio - 1 - log_ratio, batch.own),
            "entropy": masked_mean(evaluation.entropy, batch.own),
        }

    def is_too_far(self, logs: Mapping[str, Tensor]) -> bool:
        """Return True if a minibatch with these logs must end the iteration's update; here never."""
        return False

    def check_ratio(self, logs: Mapping[str, Tensor]) -> None:
        """Raise TrainingError if an on-policy algorithm trains another policy than the one that sampled.

        Args:
            logs: the logs of a minibatch before the iteration's first step.
        """
        if self.on_policy:
            check_first_ratio(float(logs["ratio_error"]), self.policy.lm)

    def take_step(self, loss: Tensor, module: nn.Module) -> float:
        """Scale a module's gradient down to ``max_grad_norm`` and take the optimiser's step; return the norm before.

        Raises:
            TrainingError: the loss or the norm is not finite; no step is taken then.
        """
        norm = float(torch.nn.utils.clip_grad_norm_(module.parameters(), self.settings.max_grad_norm))
        check_step(float(loss.detach()), norm, self.policy.optimizer.param_groups[0]["lr"])
        self.policy.optimizer.step()
        return norm

    def _set_learning_rate(self, progress_remaining: float) -> float:
        """Set the optimiser's learning rate for this iteration, and return it."""
        warm = warmup_factor(self.iteration, self.settings.warmup_iterations)
        rate = self.lr_schedule(progress_remaining) * warm
        update_learning_rate(self.policy.optimizer, rate)
        return rate

    # --- sampling ------------------------------------------------------------------------------------------

    def begin_iteration(self) -> None:
        """Prepare an iteration before its first token; here do nothing."""

    def new_session(self) -> Session:
        """Return the session that samples; here one of the policy."""
        return self.policy.session(self.n_rows)

    def reference_session(self, sampling: Sampling | None = None) -> Session:
        """Return a session in which the reference samples; adapters that are new with this training are left out.

        Args:
            sampling: settings of the behaviour distribution; None for the policy's.
        """
        model = without_adapters(self.policy.lm) if self.reference is None else self.reference
        return self.policy.session(self.n_rows, sampling=sampling, model=model)

    def play(self, on_step: OnStep) -> Episodes | None:
        """Play the episodes of an iteration: here those of one plan; None if ``on_step`` stopped them."""
        return collect(self._slots, self._session, self.plan(), on_step)

    def plan(self, played: int = 0, count: int | None = None) -> EpisodePlan:
        """Return the plan of the next episodes.

        Args:
            played: number of episodes that this iteration has played already.
            count: number of episodes to plan; None for ``episodes_per_iteration``.
        """
        # Without admission the rows choose their own prompts, and the plan holds numbers of episodes alone.
        n_prompts = len(self._env_attribute("mdp").prompts) if self._slots.admits else 0
        return sampling_plan(
            self.seed or 0,
            n_prompts,
            self.episodes_begun + played,
            self.settings.episodes_per_iteration if count is None else count,
            self.group,
            self.settings.samples_per_prompt,
        )

    def _begin(
        self,
        total_timesteps: int,
        callbacks: CallbackList,
        reset_num_timesteps: bool,
        tb_log_name: str = "run",
    ) -> tuple[int, BaseCallback]:
        """Prepare environment, logger and counters; return the total of tokens and the initialised callback."""
        if self.env is None:
            raise ValueError("there is no environment to learn in; call set_env(env) first, or load with env=ENV")
        self.env.seed(self.seed)  # takes effect at the next reset
        total, running = self._setup_learn(total_timesteps, callbacks, reset_num_timesteps, tb_log_name)
        if reset_num_timesteps:
            self.iteration = self.episodes_begun = self.boundary_timesteps = 0
            self.boundary_episodes = []
            self._watch = Watch()
        # Running means continue from the last complete iteration or checkpoint, not from an aborted iteration.
        assert self.ep_info_buffer is not None
        self.ep_info_buffer.clear()
        self.ep_info_buffer.extend({"r": r, "l": n} for r, n in self.boundary_episodes)
        return total, running

    def _begin_without_learn(self) -> None:
        """Make logger and buffers ready where :meth:`learn` has never done so."""
        if self.ep_info_buffer is None:
            self._begin(1, CallbackList([]), reset_num_timesteps=False)

    def _note_episodes(self, episodes: Episodes) -> None:
        """Add returns and lengths of sampled episodes to ``ep_info_buffer``, as a ``Monitor`` would."""
        assert self.ep_info_buffer is not None
        sampled = np.arange(len(episodes)) % self.group < self.settings.samples_per_prompt
        returns, lengths = episodes.rewards.sum(1)[sampled].tolist(), episodes.lengths[sampled].tolist()
        self.ep_info_buffer.extend({"r": r, "l": n} for r, n in zip(returns, lengths, strict=True))

    # --- construction --------------------------------------------------------------------------------------

    def __init__(
        self,
        policy: str | type[BasePolicy] = "LMPolicy",
        env: GymEnv | gym.vector.VectorEnv[Any, Any, Any] | str | None = None,
        learning_rate: float | Schedule = Common.learning_rate,
        *,
        model: str | Path | PreTrainedModel | None = None,
        reference: Reference = None,
        value: str | Path | nn.Module = Common.value,
        beta: float | KLController = Common.beta,
        sampling: Sampling | None = None,
        pretraining: Pretraining | None = None,
        score_together: bool = True,
        seed: int | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        device: str | torch.device = "auto",
        _init_setup_model: bool = True,
        **settings: Any,
    ) -> None:
        check_policy(policy, env)
        if _init_setup_model:
            require_env(env)
        beta = former_beta(settings, beta)
        self.settings = make_settings(self.settings_class, type(self).__name__, settings)
        self.group = self.settings.samples_per_prompt + self.greedy_companion  # responses to a prompt, in a row
        count = self.settings.episodes_per_iteration
        # A group that an iteration cuts off would have a baseline of too few responses.
        if count % self.group:
            raise ValueError(
                f"episodes_per_iteration={count}; expected a multiple of {self.group}, as each prompt gets "
                f"{self.settings.samples_per_prompt} samples{' and a greedy one' * self.greedy_companion}"
            )
        if isinstance(env, str):
            env = make_admitting(env, min(MAX_SLOTS, count))
        self.model = model
        self.reference_source = reference
        self.value = value
        self.kl = make_controller(beta)
        rate = schedule_state(learning_rate)  # raises for a schedule that no checkpoint could hold
        self.sampling = sampling or Sampling()
        self.pretraining = pretraining
        self.score_together = score_together
        self.iteration = 0
        self.episodes_begun = 0
        self.boundary_timesteps = 0
        self.boundary_episodes = []
        self.metrics = {}
        self.ended = None
        self._trained_in: dict[str, Any] | None = None  # the task of the checkpoint that it was loaded from
        self._watch = Watch()
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate if isinstance(rate, dict) else rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=0 if seed is None else random_seed("seed", seed),
            supported_action_spaces=(spaces.Discrete,),
        )
        if _init_setup_model:
            self._setup_model()

    @property
    def n_updates(self) -> int:
        """Number of gradient steps of the policy so far."""
        return int(self._n_updates)

    @property
    def n_rows(self) -> int:
        """Number of rows that play at once; 1 without an environment."""
        return 1 if self.env is None else self._slots.n

    def check_env(self, env: VecEnv) -> None:
        """Check that this algorithm can play in an environment; called for each one before it is used.

        Raises:
            ValueError: it cannot; see :func:`textgym.agents.loop.checks.check_plays` and
                :func:`~textgym.agents.loop.checks.check_comparisons`. Or the algorithm must choose the prompts, for
                instance to get several responses to each, and the environment chooses its own.
        """
        check_plays(self.policy, env, self.kl.beta)
        if self.prompt_need and not self._make_slots(env).admits:
            raise ValueError(
                f"{type(self).__name__} {self.prompt_need}, but the environment's rows choose their own prompts; pass "
                "a task's id, or an environment of textgym, with or without wrappers"
            )
        mdp = env_attribute(env, "mdp", None)
        if isinstance(mdp, TokenMDP) and mdp.rewards.compares is not None:
            slots, samples = self._make_slots(env), self.settings.samples_per_prompt
            check_comparisons(mdp, slots, type(self).__name__, self.scores_alone, samples, self.score_together)

    def extra_modules(self) -> dict[str, nn.Module]:
        """Return further models whose weights a checkpoint keeps, by name."""
        return {}

    def hyperparameters(self) -> dict[str, Any]:
        """Return the constructor arguments that a checkpoint keeps."""
        arguments = {"policy_kwargs": self.policy.saved_arguments(), "score_together": self.score_together}
        return {"learning_rate": schedule_state(self.learning_rate), **arguments, **asdict(self.settings)}

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        bridged = SB3VecEnv(env, steps=False) if is_vector(env) else env
        return BaseAlgorithm._wrap_env(bridged, verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        self.lr_schedule = (
            self.learning_rate if callable(self.learning_rate) else linear_decay(float(self.learning_rate))
        )
        layout = layout_from_state(self._trained_in) if self.env is None else layout_of(self.env)
        self.observation_space, self.action_space = layout.observation_space, layout.action_space
        mdp = None if self.env is None else self._env_attribute("mdp", None)
        model = self.model if self.model is not None else getattr(mdp, "base_model", None)
        if model is None:
            raise ValueError("model is None and the environment's task has no base model; pass model=DIRECTORY_OR_ID")
        self.policy = LMPolicy(
            layout.observation_space,
            layout.action_space,
            self.lr_schedule,
            model=model,
            prompt_length=layout.prompt_length,
            end_token_ids=layout.end_token_ids,
            value=self.value if self.critic else None,
            sampling=self.sampling,
            seed=self.seed or 0,
            **self.policy_kwargs,
        ).to(self.device)
        if self.env is not None:
            self.check_env(self.env)
        check_trainable(self.policy)
        if self.pretraining is not None:
            check_pretraining(self.pretraining, self.policy.trunk)
        if mdp is not None:
            check_tokens(self.reference_source, mdp.tokenizer)
        # Before any step: by default the reference is a copy of the policy as it is here.
        self.reference, self.reference_trunk = make_reference(self.policy, self.reference_source)
        self.normalise = make_normalise(self.settings.normalisation, self.policy.width - self.policy.prompt_length)
        self._settle()

    def _settle(self) -> None:
        """Make the slots of the environment, if there is one, and the session that plays in them."""
        if self.env is not None:
            self._slots = self._make_slots(self.env)
        self._session = self.new_session()

    def _make_slots(self, env: VecEnv) -> Slots:
        return make_slots(env, self.score_together, assign=bool(self.prompt_need))

    def _env_attribute(self, name: str, *default: Any) -> Any:
        assert self.env is not None
        return env_attribute(self.env, name, *default)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Reseed this algorithm's own streams; no global generator is touched."""
        self.seed = 0 if seed is None else random_seed("seed", seed)
        self.policy.seed = self.seed
        self._session = self.new_session()

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Switch to another environment of the same sizes and vocabulary, after the constructor's checks.

        Raises:
            ValueError: a check fails; the message names the difference, and the algorithm keeps its environment.
        """
        wrapped = self._wrap_env(env, self.verbose)
        check_spaces(wrapped.observation_space, wrapped.action_space)
        check_same_task(self._trained_in if self.env is None else task_identity(self.env), wrapped)
        self.check_env(wrapped)
        if self.env is None:  # loaded without one, so that any number of rows fits
            self.n_envs = wrapped.num_envs
            self.observation_space, self.action_space = wrapped.observation_space, wrapped.action_space
        super().set_env(wrapped, force_reset)
        self._settle()

    # --- saving ----------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *_: Any, **__: Any) -> None:  # type: ignore[override]
        """Write a directory that ``from_pretrained`` opens, with the model and the training state.

        Called during an iteration (as ``CheckpointCallback`` does), it saves the state at that iteration's beginning.
        ``save("x.zip")`` writes the directory ``x``.

        Raises:
            ValueError: there is no environment.
        """
        if self.env is None:
            raise ValueError(
                "there is no environment, and a checkpoint needs its sizes and tokenizer; copy the directory that was "
                "loaded, or call set_env(env) first"
            )
        mdp = self._env_attribute("mdp", None)
        save_checkpoint(self, _directory(path), None if mdp is None else mdp.tokenizer)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | Path,
        env: Any = None,
        device: str | torch.device = "auto",
        **changes: Any,
    ) -> Self:
        """Load a checkpoint; the next iteration is, bit for bit, the one that would have followed.

        In an environment whose rows restart by themselves (any but ours under DISABLED autoreset) the prompts come
        from the environment's own generators, which no checkpoint holds: training continues, but not bit for bit.

        Args:
            path: a directory that :meth:`save` wrote.
            env: the environment to continue in. None loads a model to predict with; call :meth:`set_env` before
                :meth:`learn`.
            device: as in the constructor.
            changes: constructor arguments to override; and ``pretraining``, whose texts no checkpoint holds.

        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: a file is damaged, the checkpoint is of another algorithm or another ``pretraining``, or the
                environment has other sizes or another vocabulary than the one of the checkpoint.
        """
        if "kl" in changes:
            changes["beta"] = former_beta(changes, changes.get("beta"))
        directory = standing(_directory(path))
        state = read_state(directory)
        if state["algorithm"] != cls.__name__:
            raise ValueError(f"{str(path)!r} is a checkpoint of {state['algorithm']}, not of {cls.__name__}")
        built = {**constructor_arguments(directory, state, cls.settings_class), **changes}
        # The model is built after the check, whose message names the difference between the tasks.
        algorithm = cls("LMPolicy", env, device=device, _init_setup_model=False, **built)
        algorithm._trained_in = state.get("task")
        if algorithm.env is not None:
            check_same_task(algorithm._trained_in, algorithm.env)
        algorithm._setup_model()
        restore(algorithm, directory, state)
        return algorithm

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: str | torch.device = "auto"
    ) -> None:
        """Load weights, as in stable-baselines3: the result of ``get_parameters()``, or a checkpoint's path."""
        given = load_path_or_dict
        if not isinstance(given, dict):
            given = type(self).load(given, device=self.device).get_parameters()
        super().set_parameters(given, exact_match, device)

    # --- logging -------------------------------------------------------------------------------------------

    def dump_logs(self, iteration: int | None = None) -> None:
        """Write the recorded metrics, the time and the means of recent episodes to the logger's outputs.

        Callbacks of stable-baselines3 call it, too.

        Args:
            iteration: written as ``time/iterations``; by default the number of complete iterations.
        """
        if self.ep_info_buffer:
            for key, name in (("r", "ep_rew_mean"), ("l", "ep_len_mean")):
                self.logger.record(f"rollout/{name}", safe_mean([info[key] for info in self.ep_info_buffer]))
        if self.ep_success_buffer:
            self.logger.record("rollout/success_rate", safe_mean(self.ep_success_buffer))
        elapsed = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        self.logger.record("time/iterations", self.iteration if iteration is None else iteration)
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/time_elapsed", elapsed)
        self.logger.record("time/total_timesteps", self.num_timesteps)
        self.logger.dump(step=self.num_timesteps)


def _floats(logs: Mapping[str, Tensor]) -> dict[str, float]:
    """Convert logged tensors to floats."""
    return {name: float(value.detach()) for name, value in logs.items()}


def _directory(path: str | Path) -> Path:
    return Path(path).with_suffix("") if Path(path).suffix == ".zip" else Path(path)


def linear_decay(initial: float) -> Schedule:
    """Return a learning rate that decays from ``initial`` to 0, as a function of the progress that remains (1 to 0)."""
    return lambda remaining: initial * remaining


def warmup_factor(iteration: int, warmup_iterations: int) -> float:
    """Return the factor of the learning rate in iteration i, counted from 0: (i+1)/n, at most 1.

    Source: Ouyang 2022 (arXiv 2203.02155), appendix C.4.

    Args:
        iteration: i.
        warmup_iterations: n; 0 for no warm-up.
    """
    return min(1.0, (iteration + 1) / warmup_iterations) if warmup_iterations else 1.0
