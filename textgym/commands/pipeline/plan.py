"""Stages of a pipeline, made from its settings: the command, inputs and outputs of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

from textgym import runs
from textgym.commands.configs.pipeline import PipelineConfig
from textgym.commands.configs.reward_model import RewardModelConfig
from textgym.commands.configs.sft import SFTConfig
from textgym.commands.configs.train import TrainConfig
from textgym.commands.pipeline.labels import COMPARISONS, FILE, RANKINGS, SAMPLES, LabelsConfig
from textgym.reports.pipeline_stages import TO_LABEL
from textgym.rewards.specs.addresses import model_directory

Kind: TypeAlias = Literal["sft", "labels", "reward-model", "train"]
StageConfig: TypeAlias = SFTConfig | LabelsConfig | RewardModelConfig | TrainConfig


@dataclass(frozen=True)
class Stage:
    """Stage of a pipeline.

    Attributes:
        name: name in messages.
        kind: kind of stage.
        iteration: counts from 1; 0 before the first.
        config: settings of its command; ``config.out`` is the stage's directory.
        inputs: files and directories that it reads.
        outputs: files in its directory that later stages read.
    """

    name: str
    kind: Kind
    iteration: int
    config: StageConfig
    inputs: tuple[Path, ...]
    outputs: tuple[str, ...]


def plan(config: PipelineConfig) -> tuple[Stage, ...]:
    """Return all stages, in the order in which they run."""
    first = (_sft_stage(config),) if config.sft.enabled else ()
    rounds = [
        ([_labels(config, i)] if i in labelled(config) else []) + [_reward_model(config, i), _policy(config, i)]
        for i in range(1, config.iterations + 1)
    ]
    return (*first, *(stage for stages in rounds for stage in stages))


def labelled(config: PipelineConfig) -> range:
    """Return the iterations in which samples are ranked; with preferences that exist, all but the first."""
    return range(1 if config.labels.preferences is None else 2, config.iterations + 1)


def stage_directory(config: PipelineConfig, name: str, iteration: int) -> Path:
    """Return the directory of a stage of an iteration."""
    return config.out / f"iteration-{iteration}" / name


def sft_config(config: PipelineConfig) -> SFTConfig:
    """Return the first stage, as ``textgym sft`` takes it."""
    return SFTConfig(
        out=config.out / "sft",
        data=config.sft.demonstrations,
        task=config.task,
        parameters=config.parameters,
        count=config.sft.count,
        truncation=config.truncation,
        skip_bad=config.skip_bad,
        special_tokens=config.special_tokens,
        model=config.model,
        eval_episodes=config.eval_episodes,
        max_new_tokens=config.max_new_tokens,
        log=config.log,
        seed=config.seed,
        settings=config.sft.settings,
    )


def train_config(config: PipelineConfig, iteration: int) -> TrainConfig:
    """Return the reinforcement of an iteration, as ``textgym train`` takes it."""
    part = config.train
    reward = stage_directory(config, "reward_model", iteration)
    settings = part.hyperparameters
    if part.value_from_reward_model:
        settings = replace(settings, value=str(reward / runs.CHECKPOINT))
    return TrainConfig(
        out=stage_directory(config, "policy", iteration),
        task=config.task,
        parameters=config.parameters,
        model=_current(config, iteration),
        reference=_reference(config, iteration),
        prompts=config.prompts,
        validation=config.validation,
        reward=f"rm:{reward}",
        algorithm=part.algorithm,
        total_timesteps=part.total_timesteps,
        max_prompt_length=config.max_prompt_length,
        max_new_tokens=config.max_new_tokens,
        truncation=config.truncation,
        skip_bad=config.skip_bad,
        special_tokens=config.special_tokens,
        skip_special_tokens=config.skip_special_tokens,
        missing_end_score=part.missing_end_score,
        pretraining=part.pretraining,
        ptx_coef=part.ptx_coef,
        ptx_batch_size=part.ptx_batch_size,
        eval_episodes=config.eval_episodes,
        checkpoint_every=part.checkpoint_every,
        eval_every=part.eval_every,
        stop_score=part.stop_score,
        stop_kl=part.stop_kl,
        stop_patience=part.stop_patience,
        log=config.log,
        seed=config.seed,
        hyperparameters=settings,
    )


def reward_model_config(config: PipelineConfig, iteration: int) -> RewardModelConfig:
    """Return the reward model of an iteration, as ``textgym reward-model`` takes it; it begins as the first stage's."""
    return RewardModelConfig(
        out=stage_directory(config, "reward_model", iteration),
        data=_comparisons(config, iteration),
        task=config.task,
        parameters=config.parameters,
        model=_current(config, 1),
        demonstrations=config.sft.demonstrations,
        prompts=config.prompts,
        truncation=config.truncation,
        skip_bad=config.skip_bad,
        special_tokens=config.special_tokens,
        log=config.log,
        seed=config.seed,
        settings=config.reward_model,
    )


def labels_config(config: PipelineConfig, iteration: int) -> LabelsConfig:
    """Return the labelling of an iteration: samples are drawn as reinforcement draws them."""
    part = config.labels
    return LabelsConfig(
        out=stage_directory(config, "labels", iteration),
        task=config.task,
        parameters=config.parameters,
        model=_current(config, iteration),
        prompts=config.prompts,
        max_prompt_length=config.max_prompt_length,
        max_new_tokens=config.max_new_tokens,
        truncation=config.truncation,
        skip_bad=config.skip_bad,
        special_tokens=config.special_tokens,
        skip_special_tokens=config.skip_special_tokens,
        sampling=config.train.hyperparameters.sampling,
        labeller=part.labeller,
        count=part.prompts,
        completions=part.completions,
        temperature=part.temperature,
        error_rate=part.error_rate,
        threshold=part.threshold,
        enough=part.enough,
        page=part.page,
        iteration=iteration,
        seed=config.seed,
        previous=None if iteration == 1 else _comparisons(config, iteration - 1),
    )


def _comparisons(config: PipelineConfig, iteration: int) -> Path:
    """Return the file that the reward model of an iteration learns from."""
    if config.labels.preferences is not None and iteration not in labelled(config):
        return config.labels.preferences
    return stage_directory(config, "labels", iteration) / COMPARISONS


def _current(config: PipelineConfig, iteration: int) -> str | None:
    """Return the model that an iteration begins with; None for the task's base model."""
    if iteration > 1:
        return str(stage_directory(config, "policy", iteration - 1) / runs.CHECKPOINT)
    return str(config.out / "sft" / runs.CHECKPOINT) if config.sft.enabled else config.model


def _reference(config: PipelineConfig, iteration: int) -> str | None:
    """Return the reference of the KL in every iteration: the model that the first one began with."""
    if config.sft.enabled or iteration == 1:
        return _current(config, 1)
    return str(stage_directory(config, "policy", 1) / runs.CHECKPOINT / "training" / "reference")


def _sft_stage(config: PipelineConfig) -> Stage:
    made = sft_config(config)
    return Stage("sft", "sft", 0, made, _paths(made.data, config.model), (runs.CHECKPOINT,))


def _labels(config: PipelineConfig, i: int) -> Stage:
    made = labels_config(config, i)
    filled = (TO_LABEL,) if made.labeller == FILE else ()
    inputs = _paths(made.model, made.prompts, made.previous, *_sources(made.labeller))
    return Stage(f"labels {i}", "labels", i, made, inputs, (SAMPLES, *filled, RANKINGS, COMPARISONS))


def _reward_model(config: PipelineConfig, i: int) -> Stage:
    made = reward_model_config(config, i)
    inputs = _paths(made.data, made.model, made.demonstrations, made.prompts)
    return Stage(f"reward model {i}", "reward-model", i, made, inputs, (runs.CHECKPOINT,))


def _policy(config: PipelineConfig, i: int) -> Stage:
    made = train_config(config, i)
    text = made.pretraining if made.pretraining not in ("task", "mini") else None
    learned = stage_directory(config, "reward_model", i) / runs.CHECKPOINT
    critic = made.hyperparameters.value if made.hyperparameters.value not in ("trunk", "separate") else None
    inputs = _paths(made.model, made.reference, made.prompts, made.validation, text, learned, critic)
    return Stage(f"policy {i}", "train", i, made, inputs, (runs.CHECKPOINT,))


def _sources(labeller: str) -> list[str | None]:
    """List where the rewards of a labeller come from: files, those of modules, directories of models."""
    return [model_directory(item) or _code(item.partition(",")[0].rpartition(":")[0]) for item in labeller.split()]


def _code(source: str) -> str | None:
    """Return the file of a module, or the file that is named; None for names of rewards and for unknown modules."""
    if not source or source.endswith(".py"):
        return source
    try:
        found = find_spec(source)
    except (ImportError, ValueError):  # which the check of the labeller will tell
        return None
    return found.origin if found else None


def _paths(*sources: str | Path | None) -> tuple[Path, ...]:
    """Return sources as paths, each once; ids of a hub name no file here and are harmless."""
    return tuple(dict.fromkeys(Path(source) for source in sources if source))
