"""The one loop that collects responses and trains on them; an algorithm is a declaration on it (see ``ppo.py``).

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
    make_normalise,
    masked_mean,
    policy_gradient,
)
from textgym.agents.loop.callbacks import TokenProgressBar
from textgym.agents.loop.checkpoint import constructor_arguments, read_state, restore, save_checkpoint, schedule_state
from textgym.agents.loop.checks import (
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
from textgym.agents.policy.reference import Reference, make_reference
from textgym.agents.settings import CriticSettings, Settings, make_settings
from textgym.files import standing
from textgym.lm.guards import Watch, check_first_ratio, check_step, check_trained, naming_batch
from textgym.lm.sampling import Sampling
from textgym.numbers import count, random_seed
from textgym.rewards.kl import KLController, k3
from textgym.types import BoolArray, Episodes


class SequenceAlgorithm(BaseAlgorithm):
    """A stable-baselines3 algorithm that collects whole responses and trains on whole sequences.

    A subclass makes five choices, and leaves to this class whatever it does not choose: the **sampling plan**
    (``samples_per_prompt`` of its settings, :attr:`greedy_companion`), a **critic** or none (:attr:`critic`), the
    **advantages** (:meth:`estimate_advantages`), the **policy loss** (:meth:`policy_loss`), and **where the KL
    stands** (``kl_in_loss`` of its settings).

    Args:
        policy: ``"LMPolicy"``.
        env: an id, a Gymnasium environment or vector environment, or a ``VecEnv``.
        learning_rate: initial value of a linear decay to 0 over the whole run, or stable-baselines3's
            ``LinearSchedule`` or ``ConstantSchedule``; ``warmup_iterations`` of the settings multiplies it.
        model: the language model to train: a directory, a hub id, or a loaded model. By default the base model of
            the environment's task.
        reference: what the KL is measured to: a directory, a hub id, or a loaded model. By default the model as it is
            now, with the adapters that it came with; ``"without-adapters"`` for the model below them.
        value: the critic, where there is one: ``"trunk"``, ``"separate"``, a reward model's directory, or a module.
        kl: β, or a controller of it.
        sampling: the behaviour distribution.
        pretraining: text that every update learns beside the reward (PPO-ptx, for any algorithm); None for none.
        score_together: score the responses of an iteration at its end, in few large calls of the reward; False scores
            them in the step in which they end. It needs a vector environment of this package without wrappers; in any
            other it is False by itself. Callbacks then see, in ``_on_step``, ``locals["rewards"]`` of 0 and ``infos``
            without ``score`` and ``components``; the same ``infos`` hold them by ``_on_rollout_end``.
        seed: of everything random.
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
    """True if each prompt also gets a response of the most probable tokens, which is not trained on."""
    on_policy: ClassVar[bool] = True
    """True if the policy writes what it is trained on; its ratio is then 1 at an iteration's first minibatch."""
    iteration: int
    """Whole iterations so far."""
    episodes_begun: int
    boundary_timesteps: int
    """Tokens at the last iteration boundary, where checkpoints stand."""
    boundary_episodes: list[list[float]]
    """Return and length of the last episodes there."""
    metrics: dict[str, float]
    """Of the last iteration."""
    _watch: Watch

    # --- choices -------------------------------------------------------------------------------------------

    @abstractmethod
    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Estimate advantages and value targets of an iteration."""

    def policy_loss(self, log_probs: Tensor, batch: Minibatch) -> Tensor:
        """Return ``[n, T]`` the loss of each token, given the policy's log-probabilities: the plain policy gradient."""
        return policy_gradient(log_probs, batch.advantages)

    def select(self, scored: Scored) -> Scored:
        """Return the episodes that are trained on: all that were sampled."""
        return scored

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

        With ``reset_num_timesteps=False`` it continues, and ``total_timesteps`` counts from here on.

        Raises:
            ValueError: ``total_timesteps`` is no whole number of at least 1.
        """
        total_timesteps = count("total_timesteps", total_timesteps)
        callbacks = CallbackList([*as_callbacks(callback), *([TokenProgressBar()] if progress_bar else [])])
        bridge_evaluations(callbacks)
        total, running = self._begin(total_timesteps, callbacks, reset_num_timesteps, tb_log_name)
        running.on_training_start({**locals(), "total_timesteps": total}, globals())
        while self.num_timesteps < total:
            # The rate of an iteration is that of its beginning, or the last one would be spent at rate 0.
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
        """Play the next iteration's episodes: the first half of an iteration, for a loop of your own.

        Until :meth:`train` completes the iteration, the same prompts and random streams are played again.

        Args:
            callback: as stable-baselines3 initialises it, called as by :meth:`learn`; None for none.

        Returns:
            The episodes, or None where the callback stopped the collection.

        Raises:
            ValueError: there is no environment, or it writes tokens that were not chosen.
            textgym.rewards.RewardError: a mistake in the reward.
        """
        if self.ep_info_buffer is None:  # nobody called learn()
            self._begin(1, CallbackList([]), reset_num_timesteps=False)
        running = self._init_callback(CallbackList([])) if callback is None else callback
        monitored = False

        def on_step(step: SlotStep, acted: Acted, playing: BoolArray) -> bool:
            nonlocal monitored
            self.num_timesteps += int(playing.sum())
            dones = step.terminated | step.truncated
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
        plan = self.plan()
        running.on_rollout_start()
        episodes = collect(self._slots, self._session, plan, on_step)
        if episodes is not None and not monitored:
            self._note_episodes(episodes)
        running.on_rollout_end()
        return episodes

    def train(self, episodes: Episodes, progress_remaining: float = 1.0) -> dict[str, float]:
        """Train on the episodes of one :meth:`collect`: the second half of an iteration, for a loop of your own.

        Args:
            episodes: all of them, in their order.
            progress_remaining: share of the run that remains, which the learning rate decays with; from 1 to 0.

        Returns:
            The iteration's metrics, which are recorded with the logger as well.

        Raises:
            TrainingError: the policy is not the one that wrote the episodes, or something is not finite.
        """
        with naming_batch(episodes):
            rate = self._set_learning_rate(progress_remaining)
            scored = self.score(episodes)
            chosen = self.select(scored)
            estimated = self.estimate_advantages(chosen)
            logged = self.update(chosen, estimated)
            check_trained(self.policy, rate, self.policy.optimizer)
        self.metrics = {
            **iteration_metrics(scored, logged, explained_variance(chosen, estimated.returns) if self.critic else None),
            "train/learning_rate": rate,
            "train/beta": self.kl.beta,
            "train/n_updates": self._n_updates,
        }
        for name, value in self.metrics.items():
            self.logger.record(name, value)
        self._watch(self.iteration, self.metrics)
        kl = (scored.episodes.log_probs - scored.ref_log_probs).sum(1).mean()
        self.kl.update(float(kl), len(scored.episodes))
        self.iteration += 1
        self.episodes_begun += len(episodes)
        self.boundary_timesteps = self.num_timesteps
        self.boundary_episodes = [[float(info["r"]), float(info["l"])] for info in self.ep_info_buffer or ()]
        return self.metrics

    def score(self, episodes: Episodes) -> Scored:
        """Make one pass of critic and reference over an iteration's episodes, and shape the rewards by the KL."""
        beta = 0.0 if self.settings.kl_in_loss else self.kl.beta
        greedy = np.arange(len(episodes)) % self.group >= self.settings.samples_per_prompt
        sampled, companions = (take(episodes, ~greedy), take(episodes, greedy)) if greedy.any() else (episodes, None)
        return score_episodes(
            self.policy, self.reference_trunk, sampled, beta, self.settings.minibatch_size, companions
        )

    def update(self, scored: Scored, estimated: Advantages) -> list[dict[str, float]]:
        """Make ``n_epochs`` passes over the iteration's minibatches, a gradient step each; return each one's logs.

        It ends early, before the step on a minibatch that :meth:`is_too_far`; that one is logged too.
        """
        order = np.random.default_rng([self.seed or 0, self.iteration])
        size, epochs = self.settings.minibatch_size, self.settings.n_epochs
        logged: list[dict[str, float]] = []
        for batch in minibatches(scored, estimated, size, epochs, order, self.device):
            evaluation = self.policy.evaluate(batch.input_ids, batch.attention_mask, batch.kept, batch.prefix)
            loss, logs = self.loss(evaluation, batch)
            if not logged:
                self.check_ratio(logs)
            if self.is_too_far(logs):
                logged.append(numbers({"loss": loss, **logs}))
                break
            self.policy.optimizer.zero_grad()
            loss.backward()
            text_loss, text_logs = self.pretraining_loss()
            if text_loss.requires_grad:  # its gradients join those that are there
                text_loss.backward()
            norm = self.take_step(loss, self.policy)
            self._n_updates += 1
            logged.append({**numbers({"loss": loss, **logs, **text_logs}), "grad_norm": norm})
        return logged

    # --- the loss ------------------------------------------------------------------------------------------

    def loss(self, evaluation: Evaluation, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a minibatch, policy's and critic's and KL's, and what to log of it."""
        loss, logs = self.actor_loss(evaluation, batch)
        logs = {**logs, **self.watch(evaluation, batch)}
        if evaluation.values is not None:
            logs["value_loss"] = self.value_loss(evaluation.values[:, :-1], batch)
            assert isinstance(self.settings, CriticSettings)
            loss = loss + self.settings.vf_coef * logs["value_loss"]
        return loss, logs

    def actor_loss(self, evaluation: Evaluation, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy's loss less the entropy bonus, and the KL's where it stands in the loss; what to log of them."""
        log_probs = evaluation.log_probs
        loss = policy_loss = self.normalise(self.policy_loss(log_probs, batch), batch.valid)
        logs = {"policy_loss": policy_loss}
        if self.settings.ent_coef:
            loss = loss - self.settings.ent_coef * self.normalise(evaluation.entropy, batch.valid)
        if self.settings.kl_in_loss:
            logs["kl_loss"] = self.normalise(k3(log_probs, batch.ref_log_probs), batch.valid)
            loss = loss + self.kl.beta * logs["kl_loss"]
        return loss, logs

    def value_loss(self, values: Tensor, batch: Minibatch) -> Tensor:
        """Return the critic's loss; ``values [n, T]``."""
        assert isinstance(self.settings, CriticSettings)
        clip = self.settings.clip_range_vf
        return masked_mean(clipped_value_loss(values, batch.values, batch.returns, clip), batch.valid)

    def pretraining_loss(self) -> tuple[Tensor, dict[str, Tensor]]:
        """γ times the loss on the next update's pretraining text, 0 where there is none; what to log of it."""
        if self.pretraining is None:
            return torch.zeros((), device=self.device), {}
        loss = self.pretraining.loss(self.policy.trunk, self.seed or 0, self._n_updates)
        return self.pretraining.coefficient * loss, {"ptx_loss": loss}

    @torch.no_grad()
    def watch(self, evaluation: Evaluation, batch: Minibatch) -> dict[str, Tensor]:
        """How far the policy is from the one that sampled."""
        log_ratio = batch.log_ratio(evaluation.log_probs)
        ratio = log_ratio.exp()
        return {
            "ratio_error": (ratio - 1).abs().max(),
            "approx_kl": masked_mean(ratio - 1 - log_ratio, batch.valid),
            "entropy": masked_mean(evaluation.entropy, batch.valid),
        }

    def is_too_far(self, logs: Mapping[str, Tensor]) -> bool:
        """Return True if a minibatch, by what is logged of it, ends the iteration's update: never."""
        return False

    def check_ratio(self, logs: Mapping[str, Tensor]) -> None:
        """Stop a run, before an iteration's first step, where the policy is not the one that wrote the responses.

        Args:
            logs: of a minibatch on which no step of the iteration was taken yet.
        """
        if self.on_policy:
            check_first_ratio(float(logs["ratio_error"]), self.policy.lm)

    def take_step(self, loss: Tensor, module: nn.Module) -> float:
        """The optimiser's step along a module's gradient, scaled down to ``max_grad_norm``; returns the norm it had.

        Raises:
            TrainingError: the loss or the norm is not finite; no step is taken then.
        """
        norm = float(torch.nn.utils.clip_grad_norm_(module.parameters(), self.settings.max_grad_norm))
        check_step(float(loss.detach()), norm, self.policy.optimizer.param_groups[0]["lr"])
        self.policy.optimizer.step()
        return norm

    def _set_learning_rate(self, progress_remaining: float) -> float:
        """Give the optimiser this iteration's learning rate, and return it."""
        warm = warmup_factor(self.iteration, self.settings.warmup_iterations)
        rate = self.lr_schedule(progress_remaining) * warm
        update_learning_rate(self.policy.optimizer, rate)
        return rate

    # --- what is sampled -----------------------------------------------------------------------------------

    def begin_iteration(self) -> None:
        """Before an iteration's first token."""

    def new_session(self) -> Session:
        """What samples: the policy."""
        return self.policy.session(self.n_rows)

    def plan(self) -> EpisodePlan:
        """Return the next iteration's episodes."""
        n_prompts = len(self._env_attribute("mdp").prompts) if self._slots.admits else 0
        count = self.settings.episodes_per_iteration
        return sampling_plan(
            self.seed or 0, n_prompts, self.episodes_begun, count, self.group, self.settings.samples_per_prompt
        )

    def _begin(
        self,
        total_timesteps: int,
        callbacks: CallbackList,
        reset_num_timesteps: bool,
        tb_log_name: str = "run",
    ) -> tuple[int, BaseCallback]:
        """Make environment, logger and counters ready; return the tokens to reach and the initialised callback."""
        if self.env is None:
            raise ValueError("there is no environment to learn in; call set_env(env) first, or load with env=ENV")
        self.env.seed(self.seed)  # takes effect at the next reset
        total, running = self._setup_learn(total_timesteps, callbacks, reset_num_timesteps, tb_log_name)
        if reset_num_timesteps:
            self.iteration = self.episodes_begun = self.boundary_timesteps = 0
            self.boundary_episodes = []
            self._watch = Watch()
        # The means of episodes go on where the last whole iteration, or a checkpoint, left them.
        assert self.ep_info_buffer is not None
        self.ep_info_buffer.clear()
        self.ep_info_buffer.extend({"r": r, "l": n} for r, n in self.boundary_episodes)
        return total, running

    def _note_episodes(self, episodes: Episodes) -> None:
        """Hands returns and lengths of sampled episodes to stable-baselines3, as a ``Monitor`` would."""
        assert self.ep_info_buffer is not None
        sampled = np.arange(len(episodes)) % self.group < self.settings.samples_per_prompt
        returns, lengths = episodes.rewards.sum(1)[sampled].tolist(), episodes.lengths[sampled].tolist()
        self.ep_info_buffer.extend({"r": r, "l": n} for r, n in zip(returns, lengths, strict=True))

    # --- construction --------------------------------------------------------------------------------------

    def __init__(
        self,
        policy: str | type[BasePolicy] = "LMPolicy",
        env: GymEnv | gym.vector.VectorEnv[Any, Any, Any] | str | None = None,
        learning_rate: float | Schedule = 1e-4,
        *,
        model: str | Path | PreTrainedModel | None = None,
        reference: Reference = None,
        value: str | Path | nn.Module = "trunk",
        kl: float | KLController = 0.05,
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
        self.settings = make_settings(self.settings_class, type(self).__name__, settings)
        self.group = self.settings.samples_per_prompt + self.greedy_companion  # responses to a prompt, in a row
        count = self.settings.episodes_per_iteration
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
        self.kl = make_controller(kl)
        rate = schedule_state(learning_rate)  # one that no checkpoint could hold is refused here
        self.sampling = sampling or Sampling()
        self.pretraining = pretraining
        self.score_together = score_together
        self.iteration = 0
        self.episodes_begun = 0
        self.boundary_timesteps = 0
        self.boundary_episodes = []
        self.metrics = {}
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
    def n_rows(self) -> int:
        """Rows that play at once; 1 where there is no environment."""
        return 1 if self.env is None else self._slots.n

    def check_env(self, env: VecEnv) -> None:
        """ValueError where this algorithm cannot play in an environment; called for each one before it is taken."""
        check_plays(self.policy, env, self.kl.beta)
        if not self._make_slots(env).admits and self.group > 1:
            raise ValueError(
                f"{type(self).__name__} asks for {self.group} responses to each prompt, but the environment's rows "
                "choose their own prompts; give an id, or an environment of textgym, with or without wrappers"
            )

    def extra_modules(self) -> dict[str, nn.Module]:
        """Further models whose weights a checkpoint keeps, by name."""
        return {}

    def hyperparameters(self) -> dict[str, Any]:
        """Constructor arguments that a checkpoint keeps."""
        arguments = {"policy_kwargs": self.policy.saved_arguments(), "score_together": self.score_together}
        return {"learning_rate": schedule_state(self.learning_rate), **arguments, **asdict(self.settings)}

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        bridged = SB3VecEnv(env) if is_vector(env) else env
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
        self.reference, self.reference_trunk = make_reference(self.policy, self.reference_source)
        self.normalise = make_normalise(self.settings.normalisation, self.policy.width - self.policy.prompt_length)
        self._settle()

    def _settle(self) -> None:
        """Readies the slots of the environment, where there is one, and what plays in them."""
        if self.env is not None:
            self._slots = self._make_slots(self.env)
        self._session = self.new_session()

    def _make_slots(self, env: VecEnv) -> Slots:
        return make_slots(env, self.score_together, assign=self.group > 1)

    def _env_attribute(self, name: str, *default: Any) -> Any:
        assert self.env is not None
        return env_attribute(self.env, name, *default)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Reseeds this algorithm's own streams; no global generator is touched."""
        self.seed = 0 if seed is None else random_seed("seed", seed)
        self.policy.seed = self.seed
        self._session = self.new_session()

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Continues in another environment of the same sizes and vocabulary, which passes the constructor's checks.

        Raises:
            ValueError: it does not; the message says what differs, and the algorithm stays in its own environment.
        """
        wrapped = self._wrap_env(env, self.verbose)
        check_spaces(wrapped.observation_space, wrapped.action_space)
        check_same_task(self._trained_in if self.env is None else task_identity(self.env), wrapped)
        self.check_env(wrapped)
        if self.env is None:  # loaded without one: any number of rows will do
            self.n_envs = wrapped.num_envs
            self.observation_space, self.action_space = wrapped.observation_space, wrapped.action_space
        super().set_env(wrapped, force_reset)
        self._settle()

    # --- saving ----------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *_: Any, **__: Any) -> None:  # type: ignore[override]
        """Write a directory that ``from_pretrained`` opens, with the training state beside the model.

        Called in the midst of an iteration (as ``CheckpointCallback`` does) it saves the state at that iteration's
        beginning. ``save("x.zip")`` writes the directory ``x``.
        """
        if self.env is None:
            raise ValueError(
                "there is no environment, of which a checkpoint keeps sizes and tokenizer; copy the directory that was "
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
        """Continues from a checkpoint: the next iteration is the very one that would have followed.

        In an environment whose rows restart by themselves (any but ours under DISABLED autoreset) the prompts come
        from the environment's own generators, which no checkpoint holds: there it goes on, but not to the bit.

        Args:
            path: what :meth:`save` wrote.
            env: the environment to go on in. None loads what predicts; :meth:`learn` then asks for :meth:`set_env`.
            device: as in the constructor.
            changes: constructor arguments that shall differ; and ``pretraining``, whose texts no checkpoint holds.

        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: a file is damaged, the checkpoint is another algorithm's or has another ``pretraining``, or the
                environment has other sizes or another vocabulary than the one it was trained in.
        """
        directory = standing(_directory(path))
        state = read_state(directory)
        if state["algorithm"] != cls.__name__:
            raise ValueError(f"{str(path)!r} is a checkpoint of {state['algorithm']}, not of {cls.__name__}")
        built = {**constructor_arguments(directory, state), **changes}
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
        """Take over weights, as in stable-baselines3: of ``get_parameters()``, or of a checkpoint by its path."""
        given = load_path_or_dict
        if not isinstance(given, dict):
            given = type(self).load(given, device=self.device).get_parameters()
        super().set_parameters(given, exact_match, device)

    # --- logging -------------------------------------------------------------------------------------------

    def dump_logs(self, iteration: int | None = None) -> None:
        """Write what was recorded so far, beside time and the last episodes; stable-baselines3's callbacks call it.

        Args:
            iteration: written as ``time/iterations``; by default how many there were.
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


def numbers(logs: Mapping[str, Tensor]) -> dict[str, float]:
    """Convert logged tensors to plain numbers."""
    return {name: float(value.detach()) for name, value in logs.items()}


def _directory(path: str | Path) -> Path:
    return Path(path).with_suffix("") if Path(path).suffix == ".zip" else Path(path)


def linear_decay(initial: float) -> Schedule:
    """Return a learning rate that decays from ``initial`` to 0, as a function of the progress that remains (1 to 0)."""
    return lambda remaining: initial * remaining


def warmup_factor(iteration: int, warmup_iterations: int) -> float:
    """Share of the learning rate in an iteration, counted from 0: (i+1)/n, at most 1. Ouyang 2022, appendix C.4.

    Args:
        iteration: i.
        warmup_iterations: n; 0 for no warm-up.
    """
    return min(1.0, (iteration + 1) / warmup_iterations) if warmup_iterations else 1.0
