"""The one collect-and-train loop; an algorithm is a declaration on it (see ``ppo.py``)."""

from __future__ import annotations

import time
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env.base_vec_env import VecEnv
from torch import Tensor, nn
from transformers import PreTrainedModel

from textgym.agents.advantages import Advantages
from textgym.agents.batches import Minibatch, Scored, minibatches, score_episodes
from textgym.agents.bridge import SlotVecEnv, is_vector
from textgym.agents.callbacks import TokenProgressBar
from textgym.agents.checkpoint import kl_from_state, load_value, read_state, restore, save_checkpoint
from textgym.agents.collect import EpisodePlan, collect
from textgym.agents.metrics import rollout_metrics
from textgym.agents.policy import Evaluation, LMPolicy
from textgym.agents.session import Acted
from textgym.agents.slots import MAX_SLOTS, SlotStep, make_slots
from textgym.lm.loading import check_fits, context_length, embedding_rows, frozen_copy, load_causal_lm
from textgym.lm.sampling import Sampling
from textgym.lm.scoring import Trunk
from textgym.prompts import prompt_order
from textgym.rewards.kl import FixedKL, KLController
from textgym.types import BoolArray, Episodes


def linear_decay(initial: float) -> Schedule:
    """From ``initial`` to 0 over the whole run."""
    return lambda remaining: initial * remaining


class SequenceAlgorithm(BaseAlgorithm):
    """A stable-baselines3 algorithm that collects whole responses and trains on whole sequences.

    A subclass says how advantages are estimated and what loss a minibatch has; sampling, KL shaping, epochs and
    checkpoints are the same for all.

    Args:
        policy: ``"LMPolicy"``.
        env: an id, a Gymnasium environment or vector environment, or a ``VecEnv``.
        learning_rate: initial value of a linear decay to 0 over the whole run, or a schedule.
        model: the language model to train: a directory, a hub id, or a loaded model. By default the base model of
            the environment's task.
        reference: what the KL is measured to; by default a frozen copy of the model as it is now.
        value: the critic: ``"trunk"``, ``"separate"``, a reward model's directory, or a module.
        episodes_per_iteration: responses collected between updates.
        minibatch_size: responses per gradient step.
        n_epochs: passes over an iteration's responses.
        max_grad_norm: gradients are scaled down to this norm.
        kl: β, or a controller of it.
        sampling: the behaviour distribution.
        samples_per_prompt: consecutive episodes that share a prompt.
        seed: of everything random.
        policy_kwargs, stats_window_size, tensorboard_log, verbose, device: as in stable-baselines3.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"LMPolicy": LMPolicy}
    policy: LMPolicy
    samples_per_prompt = 1

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | gym.vector.VectorEnv[Any, Any, Any] | str | None,
        learning_rate: float | Schedule,
        *,
        model: str | Path | PreTrainedModel | None = None,
        reference: str | Path | PreTrainedModel | None = None,
        value: str | Path | nn.Module = "trunk",
        episodes_per_iteration: int,
        minibatch_size: int,
        n_epochs: int,
        max_grad_norm: float,
        kl: float | KLController,
        sampling: Sampling | None = None,
        seed: int | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        device: str | torch.device = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if episodes_per_iteration < 2 or not 0 < minibatch_size <= episodes_per_iteration:
            raise ValueError(
                f"episodes_per_iteration={episodes_per_iteration}, minibatch_size={minibatch_size}; expected at least "
                "2 episodes, and minibatches of at least 1 and at most all of them"
            )
        if not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm={max_grad_norm}; expected more than 0")
        if n_epochs < 1:
            raise ValueError(f"n_epochs={n_epochs}; expected at least 1")
        if isinstance(env, str):
            slots = min(MAX_SLOTS, episodes_per_iteration)
            env = gym.make_vec(env, num_envs=slots, autoreset_mode=AutoresetMode.DISABLED)
        self.model = model
        self.reference_source = reference
        self.value = value
        self.episodes_per_iteration = episodes_per_iteration
        self.minibatch_size = minibatch_size
        self.n_epochs = n_epochs
        self.max_grad_norm = max_grad_norm
        self.kl = FixedKL(kl) if isinstance(kl, int | float) else kl
        self.sampling = sampling or Sampling()
        self.iteration = 0
        self.episodes_begun = 0
        self.boundary_timesteps = 0  # tokens at the last iteration boundary, where checkpoints stand
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=0 if seed is None else seed,
            supported_action_spaces=(spaces.Discrete,),
        )
        if _init_setup_model:
            self._setup_model()

    # --- what an algorithm chooses -------------------------------------------------------------------------

    @abstractmethod
    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Advantages and value targets of an iteration."""

    @abstractmethod
    def loss(self, evaluation: Evaluation, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a minibatch, and what to log of it."""

    def hyperparameters(self) -> dict[str, Any]:
        """Constructor arguments that a checkpoint keeps; a subclass adds its own."""
        if not isinstance(self.learning_rate, int | float):
            raise TypeError("learning_rate is a schedule of your own, which cannot be saved; pass a number")
        return {
            "learning_rate": float(self.learning_rate),
            "episodes_per_iteration": self.episodes_per_iteration,
            "minibatch_size": self.minibatch_size,
            "n_epochs": self.n_epochs,
            "max_grad_norm": self.max_grad_norm,
        }

    # --- construction --------------------------------------------------------------------------------------

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        bridged = SlotVecEnv(env) if is_vector(env) else env
        return BaseAlgorithm._wrap_env(bridged, verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        rate = self.learning_rate
        self.lr_schedule = linear_decay(float(rate)) if isinstance(rate, int | float) else rate
        assert self.env is not None
        mdp_model = self._env_attribute("mdp", None)
        model = self.model if self.model is not None else getattr(mdp_model, "base_model", None)
        if model is None:
            raise ValueError("model is None and the environment's task has no base model; pass model=DIRECTORY_OR_ID")
        self.policy = LMPolicy(
            self.observation_space,  # type: ignore[arg-type]
            self.action_space,  # type: ignore[arg-type]
            self.lr_schedule,
            model=model,
            prompt_length=self._env_attribute("prompt_length"),
            end_token_ids=self._env_attribute("end_token_ids"),
            value=self.value,
            sampling=self.sampling,
            seed=self.seed or 0,
            **self.policy_kwargs,
        ).to(self.device)
        if mdp_model is not None:
            check_fits(self.policy.lm, mdp_model.tokenizer, self.policy.n_actions, self.policy.width)
        if getattr(mdp_model, "allowed", None) is not None and self.sampling.truncates:
            raise ValueError("top_k and top_p do not go with a task that restricts actions; leave them out")
        self._check_wrapper()
        self.reference = self._load_reference()
        self.reference.to(self.device)  # type: ignore[arg-type]  # transformers wraps it without its types
        self.reference_trunk = Trunk(self.reference)
        self._slots = make_slots(self.env)
        self._session = self.policy.session(self._slots.n)

    def _check_wrapper(self) -> None:
        """A ``ReferenceKL`` wrapper must measure the distribution that is sampled, and be the only one who pays."""
        wrapper = self._env_attribute("kl_sampling", None)
        if wrapper is None:
            return
        if wrapper != self.sampling.shared:
            raise ValueError(f"the ReferenceKL wrapper has {wrapper}, the policy {self.sampling}; make them equal")
        if self.kl.beta > 0:
            raise ValueError(
                f"the environment's ReferenceKL wrapper pays the KL already, and kl={self.kl.beta} would pay it again; "
                "pass kl=0, or leave the wrapper out"
            )

    def _load_reference(self) -> PreTrainedModel:
        source = self.reference_source
        if source is None:
            return frozen_copy(self.policy.lm)
        # A copy, since freezing the caller's model might freeze the policy.
        reference = frozen_copy(source if isinstance(source, PreTrainedModel) else load_causal_lm(source))
        if embedding_rows(reference) < self.policy.n_actions:
            raise ValueError(
                f"the reference embeds {embedding_rows(reference)} tokens, the task has {self.policy.n_actions} actions"
            )
        limit = context_length(reference)
        if limit is not None and limit < self.policy.width:
            raise ValueError(f"the reference's context of {limit} tokens is shorter than P + T = {self.policy.width}")
        return reference

    def _env_attribute(self, name: str, *default: Any) -> Any:
        assert self.env is not None
        try:
            return self.env.get_attr(name, [0])[0]
        except AttributeError as error:
            if default:
                return default[0]
            raise ValueError(
                f"env has no attribute {name!r}: language environments say prompt_length (P) and end_token_ids, as "
                "textgym.env.TokenEnv does"
            ) from error

    def set_random_seed(self, seed: int | None = None) -> None:
        """Reseeds this algorithm's own streams; no global generator is touched."""
        self.seed = 0 if seed is None else seed
        self.policy.seed = self.seed
        self._session = self.policy.session(self._slots.n)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Continues in another environment of the same spaces."""
        super().set_env(env, force_reset)
        assert self.env is not None
        self._slots = make_slots(self.env)
        self._session = self.policy.session(self._slots.n)

    # --- the loop ------------------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Trains until ``total_timesteps`` tokens were generated; a timestep is a token.

        With ``reset_num_timesteps=False`` it continues, and ``total_timesteps`` counts from here on.
        """
        callbacks = CallbackList([*_as_list(callback), *([TokenProgressBar()] if progress_bar else [])])
        assert self.env is not None
        self.env.seed(self.seed)  # takes effect at the next reset
        total, running = self._setup_learn(total_timesteps, callbacks, reset_num_timesteps, tb_log_name)
        if reset_num_timesteps:
            self.iteration = self.episodes_begun = self.boundary_timesteps = 0
        running.on_training_start({**locals(), "total_timesteps": total}, globals())
        while self.num_timesteps < total:
            # The rate of an iteration is that of its beginning, or the last one would be spent at rate 0.
            self._update_current_progress_remaining(self.num_timesteps, total)
            episodes = self._collect(running)
            if episodes is None:
                break
            self._train(episodes)
            self.iteration += 1
            self.episodes_begun += len(episodes)
            self.boundary_timesteps = self.num_timesteps
            if log_interval and self.iteration % log_interval == 0:
                self._dump_logs()
        running.on_training_end()
        return self

    def plan(self) -> EpisodePlan:
        """The next iteration's episodes: prompts in seeded order, ``samples_per_prompt`` in a row."""
        episode = self.episodes_begun + np.arange(self.episodes_per_iteration)
        prompts = self._env_attribute("mdp", None)
        if prompts is None or not self._slots.admits:
            return EpisodePlan(np.full(len(episode), -1), episode)
        order = prompt_order(self.seed or 0, len(prompts.prompts), episode // self.samples_per_prompt)
        return EpisodePlan(order, episode)

    def _collect(self, callback: BaseCallback) -> Episodes | None:
        plan = self.plan()
        callback.on_rollout_start()

        def on_step(step: SlotStep, acted: Acted, playing: BoolArray) -> bool:
            self.num_timesteps += int(playing.sum())
            dones = step.terminated | step.truncated
            infos = [step.info(row) if dones[row] else {} for row in range(len(dones))]
            self._update_info_buffer(infos, dones)
            callback.update_locals(
                {
                    "self": self,
                    "actions": acted.actions,
                    "rewards": step.rewards,
                    "dones": dones,
                    "infos": infos,
                    "new_obs": step.observation,
                }
            )
            return callback.on_step()

        episodes = collect(self._slots, self._session, plan, on_step)
        callback.on_rollout_end()
        return episodes

    def score(self, episodes: Episodes) -> Scored:
        """One pass of policy and reference over an iteration's episodes, and the shaped rewards."""
        return score_episodes(self.policy, self.reference_trunk, episodes, self.kl.beta, self.minibatch_size)

    def _train(self, episodes: Episodes) -> None:
        """``n_epochs`` over the iteration's minibatches."""
        self._update_learning_rate(self.policy.optimizer)
        scored = self.score(episodes)
        estimated = self.estimate_advantages(scored)
        logged: list[dict[str, float]] = []
        order = np.random.default_rng([self.seed or 0, self.iteration])
        for batch in minibatches(scored, estimated, self.minibatch_size, self.n_epochs, order, self.device):
            evaluation = self.policy.evaluate(batch.input_ids, batch.attention_mask, batch.kept)
            loss, logs = self.loss(evaluation, batch)
            self.policy.optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            self._n_updates += 1
            error = (evaluation.log_probs.detach() - batch.log_probs)[batch.valid].exp().sub(1).abs().max()
            logs = {"loss": loss, "ratio_error": error, "grad_norm": norm, **logs}
            logged.append({name: float(value.detach()) for name, value in logs.items()})
        self._record(scored, estimated, logged)
        kl = (episodes.log_probs - scored.ref_log_probs).sum(1).mean()
        self.kl.update(float(kl), len(episodes))

    # --- saving ----------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *_: Any, **__: Any) -> None:  # type: ignore[override]
        """Writes a directory that ``from_pretrained`` opens, with the training state beside the model.

        Called in the midst of an iteration (as ``CheckpointCallback`` does) it saves the state at that iteration's
        beginning. ``save("x.zip")`` writes the directory ``x``.
        """
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
            env: the environment to go on in.
            device: as in the constructor.
            changes: constructor arguments that shall differ.

        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: a file is damaged, or the checkpoint is another algorithm's.
        """
        directory = _directory(path)
        state = read_state(directory)
        if state["algorithm"] != cls.__name__:
            raise ValueError(f"{str(path)!r} is a checkpoint of {state['algorithm']}, not of {cls.__name__}")
        built = {
            **state["hyperparameters"],
            "seed": state["seed"],
            "sampling": Sampling(**state["sampling"]),
            "kl": kl_from_state(state["kl"]),
            "model": str(directory),
            "reference": str(directory / "training" / "reference"),
            "value": load_value(directory) or "trunk",
            **changes,
        }
        algorithm = cls("LMPolicy", env, device=device, **built)
        restore(algorithm, directory, state)
        return algorithm

    # --- logging -------------------------------------------------------------------------------------------

    def _record(self, scored: Scored, estimated: Advantages, logged: list[dict[str, float]]) -> None:
        for name, value in rollout_metrics(scored.episodes, scored.ref_log_probs).items():
            self.logger.record(f"rollout/{name}", value)
        for name in logged[0]:
            self.logger.record(f"train/{name}", float(np.mean([logs[name] for logs in logged])))
        valid = scored.episodes.valid
        returns, residual = estimated.returns[valid], (estimated.returns - scored.values[:, :-1])[valid]
        explained = 1 - residual.var() / returns.var() if returns.var() > 0 else 0.0
        self.logger.record("train/explained_variance", float(explained))
        self.logger.record("train/first_minibatch_ratio_error", logged[0]["ratio_error"])
        self.logger.record("train/beta", self.kl.beta)
        self.logger.record("train/n_updates", self._n_updates)

    def _dump_logs(self) -> None:
        elapsed = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        self.logger.record("time/iterations", self.iteration)
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/time_elapsed", elapsed)
        self.logger.record("time/total_timesteps", self.num_timesteps)
        self.logger.dump(step=self.num_timesteps)


def _directory(path: str | Path) -> Path:
    return Path(path).with_suffix("") if Path(path).suffix == ".zip" else Path(path)


def _as_list(callback: MaybeCallback) -> list[Any]:
    if callback is None:
        return []
    return list(callback) if isinstance(callback, list) else [callback]
