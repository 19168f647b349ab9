"""``textgym train``: train a policy on prompts against a reward, each a task's or the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from textgym import runs
from textgym.agents.functional.stop_rules import LEAST, StopRules
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.metrics import named_parts
from textgym.agents.loop.slots import admitting_env
from textgym.agents.offline.alignment_tax import forgetting
from textgym.agents.offline.data import Demonstration
from textgym.agents.offline.pretraining import Pretraining
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.agents.registry import find_algorithm
from textgym.agents.settings import Common
from textgym.commands.configs.hyperparameters import Hyperparameters, as_begun_with, cautious
from textgym.commands.configs.train import TrainConfig
from textgym.env.mdp import TokenMDP
from textgym.lm.files.loading import check_fits, is_encoder_decoder, load_lm, names_encoder_decoder, prompt_room
from textgym.prompts import encode_prompts
from textgym.registration import load_task, named_rewards, task_maker, task_mdp
from textgym.rewards.builtin import NAMED, no_reward
from textgym.rewards.compose import WeightedRewards, compose
from textgym.rewards.kl import AdaptiveKL, FixedKL, KLController
from textgym.rewards.specs.resolve import resolve_reward
from textgym.rows import Place, Screening, read_placed_rows
from textgym.runs.pretraining_texts import measured_texts, pretraining_texts
from textgym.tasks.real.gold import UnsetGold
from textgym.tasks.task import Task
from textgym.tokenization import end_token_ids, load_tokenizer
from textgym.types import Prompt

DEFAULT_NEW_TOKENS = 48
UNLIMITED = 10**9

Rows: TypeAlias = Sequence[Mapping[str, Any]] | Mapping[Place, Mapping[str, Any]]


def train_command(config: TrainConfig) -> Path:
    """Train a policy (see :func:`run_train`), print the result and return the report's path."""
    report = run_train(begun(config))
    print(f"\n{runs.comparison_table(config.out)}\n\n{runs.sample_pairs(config.out, 3)}\n")
    if config.pretraining is not None:
        print(runs.alignment_tax(config.out))
    if config.hyperparameters.has_teacher:
        print(f"KL to the teacher, in nats per response: {runs.kl_change(config.out)}")
    if best := runs.best_line(config.out):
        print(f"best:       {best}")
    print(f"checkpoint: {config.out / runs.CHECKPOINT}\nreport:     {report}")
    return report


def begun(config: TrainConfig) -> TrainConfig:
    """Return the settings of a run; a resumed one keeps its own where the command line leaves the defaults."""
    kept = runs.begun_with(config)
    if kept is None:
        return config
    own = as_begun_with(config.hyperparameters, cautious(config.algorithm), kept)
    return replace(runs.as_begun(config), hyperparameters=own)


def run_train(config: TrainConfig) -> Path:
    """Check everything, then train; return the report's path.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: a setting or an input does not fit; nothing was written then.
    """
    config = resolved(config)
    about = described(config)
    with runs.claimed(config.out, about, config.overwrite, config.resume) as standing:
        screening = Screening(config.truncation, config.skip_bad)
        task = chosen_task(config)  # once: reading published data takes minutes
        mdp = user_mdp(config, screening, task)
        judged = validation_mdp(config, mdp, screening, task)
        check_best(config.keep_best, judged)
        pretraining, held_out = gather_pretraining(config, mdp, screening, task)
        algorithm = make_algorithm(config, mdp, standing.resumed, pretraining)
        measured = measured_texts(task, mdp, held_out, algorithm.policy.trunk)
        if not standing.resumed:
            runs.begin_run(config.out, about, config.overwrite)
            runs.note_screening(config.out, screening)

        def forgotten(policy: LMPolicy) -> dict[str, dict[str, float]]:
            return forgetting(policy.trunk, measured)

        evaluator = runs.Evaluator(config.out, judged, config.eval_episodes, config.seed, forgotten)
        return runs.train(algorithm, config.out, evaluator, config.total_timesteps, keeping(config), standing)


# --- settings --------------------------------------------------------------------------------------------------


def keeping(config: TrainConfig) -> runs.Keeping:
    """Return the run's settings of checkpoints, loggers and early stopping.

    Raises:
        ValueError: a setting is out of its range, or needs evaluations and there are none.
    """
    best = config.keep_best or (f"{LEAST}kl" if config.hyperparameters.has_teacher else "score")
    rules = StopRules(config.stop_score, config.stop_kl, config.stop_patience, best)
    for name in ("keep_best", "stop_score", "stop_kl", "stop_patience"):
        value = getattr(config, name)
        if value is not None and config.eval_every is None:
            raise ValueError(f"{name}={value} looks at evaluations, and there are none; pass --eval-every ITERATIONS")
    kept = (config.checkpoint_every, config.keep_last, config.eval_every, config.keep_best)
    return runs.Keeping(*kept, rules, config.log)


def check_best(keep_best: str | None, mdp: TokenMDP) -> None:
    """Check that the metric that chooses the best checkpoint is measured.

    Raises:
        ValueError: it is not.
    """
    known = ("score", *named_parts(dict.fromkeys(mdp.rewards.logged_names, np.zeros(0))), "kl", "length")
    if keep_best is not None and keep_best.removeprefix(LEAST) not in known:
        raise ValueError(
            f"keep_best={keep_best!r} is not measured; expected one of {', '.join(known)}, or min-NAME for the least"
        )


def resolved(config: TrainConfig) -> TrainConfig:
    """Return the settings with the directories of runs replaced by those of their models.

    Raises:
        ValueError: a setting is out of its range, or lacks another one.
    """
    keeping(config)
    return replace(
        config,
        model=config.model and runs.model_source(config.model),
        reference=config.reference and runs.model_source(config.reference),
    )


def described(config: TrainConfig) -> dict[str, Any]:
    """Return the settings as ``config.json`` keeps them, without the run's directory and the flags that start it."""
    settings = runs.settings_of(config)
    del settings["reward_timeout"]  # it changes no number, and may differ when a run is resumed
    return {"command": "distill" if config.hyperparameters.has_teacher else "train", **settings}


# --- the task and its texts ------------------------------------------------------------------------------------


def chosen_task(config: TrainConfig) -> Task | None:
    """Return the task of a run, made with its parameters; None without one.

    Raises:
        ValueError: there is no such task, or it does not have such parameters.
    """
    if config.task is None:
        if config.parameters:
            raise ValueError(f"parameters={config.parameters} belong to a task; pass --task ID")
        return None
    given = {name: getattr(config, name) for name in ("model", "max_prompt_length", "max_new_tokens")}
    return task_with(config.task, config.parameters, given)


def has_gold(task: Task | None) -> bool:
    """Return True if there is a task, and it has a gold reward; that of some published tasks must be chosen first."""
    return task is not None and not isinstance(task.gold, UnsetGold)


def task_with(task_id: str, parameters: Mapping[str, Any], given: Mapping[str, Any]) -> Task:
    """Load a task with its parameters, and with those settings of a command, if they are given, that it is made with.

    Raises:
        ValueError: there is no such task, or it does not have such parameters.
    """
    if "model" in parameters:
        raise ValueError(f"parameters={dict(parameters)}: pass the model of a task as --model")
    made_with = inspect.signature(task_maker(task_id)).parameters
    own = {name: value for name, value in given.items() if value is not None and name in made_with}
    try:
        return load_task(task_id, **{**own, **parameters})
    except TypeError as error:
        raise ValueError(f"parameters={dict(parameters)}: {error}") from error


def _is_made_with(config: TrainConfig) -> bool:
    """Return True if the run's model is a parameter of the task, whose prompts then are encoded for it already."""
    if config.task is None or config.model is None:
        return False
    return "model" in inspect.signature(task_maker(config.task)).parameters


def gather_pretraining(
    config: TrainConfig, mdp: TokenMDP, screening: Screening, task: Task | None = None
) -> tuple[Pretraining | None, tuple[Demonstration, ...]]:
    """Return the text to learn beside the reward, or None, and the held-out text that measures forgetting."""
    own = {"coefficient": config.ptx_coef, "batch_size": config.ptx_batch_size}
    given: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
    if config.pretraining is None:
        if given:
            raise ValueError("ptx_coef and ptx_batch_size need a text: pass --pretraining FILE, 'task' or 'mini'")
        return None, ()
    task = task or chosen_task(config)
    learned, held_out = pretraining_texts(config.pretraining, task, mdp, config.special_tokens, screening)
    return Pretraining(learned, **given), held_out


def user_mdp(config: TrainConfig, screening: Screening, task: Task | None = None) -> TokenMDP:
    """Return the token MDP that the flags describe, checked against the model's sizes; ``task`` is theirs, if made."""
    taught = config.hyperparameters.has_teacher
    if config.task is None and (config.model is None or config.prompts is None or not (config.reward or taught)):
        needed = "both --model and --prompts" if taught else "all of --model, --prompts and --reward"
        raise ValueError(f"without --task, {needed} are needed")
    task = task or chosen_task(config)
    tokenizer = _tokenizer(config, task)
    default = no_reward if task is None else task.reward or "gold"
    reward = watched_reward(config.reward or default, task)
    reward = compose(reward, timeout=config.reward_timeout)
    if task is not None and config.prompts is None and (config.model is None or _is_made_with(config)):
        overrides = {"max_prompt_length": config.max_prompt_length, "max_new_tokens": config.max_new_tokens}
        given: dict[str, Any] = {key: value for key, value in overrides.items() if value is not None}
        given |= {"missing_end_score": config.missing_end_score, "skip_special_tokens": config.skip_special_tokens}
        return task_mdp(task, reward, **given)
    return _encoded_mdp(config, task, tokenizer, reward, screening)


def _encoded_mdp(
    config: TrainConfig, task: Task | None, tokenizer: PreTrainedTokenizerBase, reward: Any, screening: Screening
) -> TokenMDP:
    """Return prompts encoded by the user's tokenizer, checked against the user's model."""
    source = config.model or (task.base_model if task else None)
    assert source is not None, "a task without a base model needs --model"
    model = load_lm(source)
    longest, new = config.max_prompt_length, config.max_new_tokens
    if longest is None and task is not None and config.prompts is None:
        longest = task.max_prompt_length
    if new is None:
        new = task.max_new_tokens if task else DEFAULT_NEW_TOKENS
    try:
        prompts = encode_prompts(
            _rows(config, task, screening),
            tokenizer,
            longest_prompt(model, new) if longest is None else longest,
            source=str(config.prompts or config.task),
            special_tokens=config.special_tokens,
            closing=is_encoder_decoder(model),
            screening=screening,
        )
    except ValueError as error:
        if task is None or config.prompts is not None or tokenizer.get_vocab() == task.tokenizer.get_vocab():
            raise
        raise ValueError(
            f"model={config.model!r} has a vocabulary of {len(tokenizer)} tokens, which is not that of task "
            f"{task.name}, of {len(task.tokenizer)} tokens; its prompts do not fit when they are encoded anew: {error}"
        ) from error
    mdp = TokenMDP(
        tokenizer=tokenizer,
        prompts=prompts,
        reward=reward,
        **{"end_token_ids": end_token_ids(tokenizer, model.generation_config), **_turns(config, task, tokenizer)},
        max_prompt_length=max(len(prompt.ids) for prompt in prompts) if longest is None else longest,
        max_new_tokens=new,
        missing_end_score=config.missing_end_score,
        base_model=source,
        skip_special_tokens=config.skip_special_tokens,
    )
    check_fits(model, tokenizer, mdp.n_actions, mdp.width, mdp.max_prompt_length)
    return mdp


def _turns(config: TrainConfig, task: Task | None, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the settings of turns of a task with a world, for a model with the task's tokens.

    Raises:
        ValueError: the model has other tokens, or the prompts are not the task's, for which its world is made.
    """
    if task is None or task.world is None:
        return {}
    if config.prompts is not None or tokenizer.get_vocab() != task.tokenizer.get_vocab():
        raise ValueError(
            f"task {task.name} has a world, which knows its own prompts and tokens; leave out --prompts, and pass a "
            "--model with the task's tokens"
        )
    return {name: getattr(task, name) for name in ("end_token_ids", "world", "turn_end_ids", "max_turn_tokens", "glue")}


def longest_prompt(model: PreTrainedModel, max_new_tokens: int) -> int:
    """Return the default of P: the tokens that fit beside a response, or no limit if none do."""
    room = prompt_room(model, max_new_tokens)
    return UNLIMITED if room is None or room < 1 else room


def validation_mdp(config: TrainConfig, mdp: TokenMDP, screening: Screening, task: Task | None = None) -> TokenMDP:
    """Return the token MDP with validation prompts, or unchanged if there are none.

    Raises:
        ValueError, FileNotFoundError: the file of ``validation`` does not fit.
    """
    task = task or chosen_task(config)
    if config.validation is not None:
        rows: Rows = read_placed_rows(config.validation, screening)
    elif task is None or config.prompts is not None or "validation" not in task.splits:
        return mdp
    elif config.model is None or _is_made_with(config):
        return replace(mdp, prompts=task.prompts("validation"))
    else:
        rows = _as_rows(task.prompts("validation"))
    source = str(config.validation or f"task {config.task}, split 'validation'")
    closing = mdp.base_model is not None and names_encoder_decoder(mdp.base_model)
    how = (config.truncation, source, config.special_tokens, closing, screening)
    prompts = encode_prompts(rows, mdp.tokenizer, mdp.max_prompt_length, *how)
    return replace(mdp, prompts=prompts)


def _rows(config: TrainConfig, task: Task | None, screening: Screening) -> Rows:
    if config.prompts is not None:
        return read_placed_rows(config.prompts, screening)
    assert task is not None
    return _as_rows(task.prompts())


def _as_rows(prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    return [{"prompt": prompt.content, **prompt.columns} for prompt in prompts]


def _tokenizer(config: TrainConfig, task: Task | None) -> PreTrainedTokenizerBase:
    if config.model is not None:
        return load_tokenizer(config.model)
    assert task is not None
    return task.tokenizer


# --- the reward ------------------------------------------------------------------------------------------------


def watched_reward(spec: Any, task: Task | None) -> Any:
    """Parse a ``--reward`` specification; log the task's gold and metrics beside the reward.

    Raises:
        ValueError, FileNotFoundError: there is no such reward.
    """
    return _with_metrics(parse_reward(spec, task), task)


def load_variant(task_id: str, parameters: Mapping[str, Any]) -> Task:
    """Load a task with parameters from the command line.

    Raises:
        ValueError: there is no such task, or no such parameter.
    """
    try:
        return load_task(task_id, **parameters)
    except TypeError as error:
        raise ValueError(f"parameters={dict(parameters)}: {error}") from error


def parse_reward(spec: Any, task: Task | None) -> WeightedRewards:
    """Parse a ``--reward`` specification.

    Raises:
        ValueError, FileNotFoundError: there is no such reward.
    """
    try:
        return resolve_reward(spec, named_rewards(task) if task else NAMED)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(str(error)) from error


def _with_metrics(reward: Any, task: Task | None) -> Any:
    """Return the reward, with the task's gold and metrics logged beside it at weight 0.

    Raises:
        ValueError: another reward than the task's gold is called "gold", so that the two would be taken for each other.
    """
    if task is None:
        return reward
    for name, own in zip(reward.names, reward.rewards, strict=True):
        if name == "gold" and inspect.unwrap(own) is not inspect.unwrap(task.gold):
            raise ValueError(
                f"a reward is called 'gold', as the true reward of task {task.name} is, which is measured beside it; "
                "give your function another name"
            )
    named = named_rewards(task)
    watched = [*(["gold"] if has_gold(task) else []), *task.metrics]
    return [reward, *((named[name], 0.0) for name in watched if name not in reward.names)]


# --- the algorithm ---------------------------------------------------------------------------------------------


def make_algorithm(
    config: TrainConfig, mdp: TokenMDP, resumed: bool, pretraining: Pretraining | None = None
) -> SequenceAlgorithm:
    """Return the algorithm in its environment: new, or from the run's checkpoint."""
    settings = config.hyperparameters
    env = admitting_env(mdp, settings.episodes_per_iteration)
    if resumed:
        return find_algorithm(config.algorithm).load(config.out / runs.CHECKPOINT, env, pretraining=pretraining)
    model = config.model or mdp.base_model
    own = (settings, config.seed, pretraining, config.reference, config.kl_horizon)
    return build_algorithm(config.algorithm, env, model, *own)


def build_algorithm(
    algorithm: str,
    env: Any,
    model: Any,
    settings: Hyperparameters,
    seed: int,
    pretraining: Pretraining | None = None,
    reference: str | None = None,
    kl_horizon: float | None = None,
) -> SequenceAlgorithm:
    """Return an algorithm in an environment.

    Args:
        algorithm: its name.
        env: an environment of textgym.
        model: the language model to train.
        settings: its hyperparameters.
        seed: the random seed.
        pretraining: text that every update learns beside the reward.
        reference: the model that the KL is measured to; None for the model as it is.
        kl_horizon: the horizon of an adaptive β, in episodes; None for the published one.
    """
    kind = find_algorithm(algorithm)
    return kind(
        "LMPolicy",
        env,
        settings.learning_rate,
        model=model,
        reference=reference,
        value=settings.value,
        beta=controller(settings, kl_horizon),
        sampling=settings.sampling,
        pretraining=pretraining,
        seed=seed,
        **settings.settings(kind.settings_class),
    )


def controller(settings: Common, horizon: float | None = None) -> KLController:
    """Return a fixed β, or one that is steered to ``kl_target``, over a horizon in episodes."""
    if settings.kl_target is None:
        return FixedKL(settings.beta)
    return AdaptiveKL(settings.beta, settings.kl_target, horizon or AdaptiveKL.horizon)
