"""``textgym demo``: train a GPT by reinforcement learning against a learned reward model, in one command."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from textgym.agents.offline.sft_settings import SFTSettings
from textgym.commands.configs.demo import DemoConfig
from textgym.commands.configs.hyperparameters import Hyperparameters, hyperparameters_class
from textgym.commands.configs.pipeline import LabelsPart, PipelineConfig, RewardModelPart, SFTPart, TrainPart
from textgym.commands.pipeline.command import pipeline
from textgym.registration import load_task

LABEL_TEMPERATURE = 0.1  # the labeller sees a difference of 0.1 in gold with odds e : 1


def demo(config: DemoConfig) -> None:
    """Run one round of ``textgym pipeline``, or two."""
    task = load_task(config.task)
    print(f"{task.name}: {task.description}\n")
    pipeline(recipe(config))


def recipe(config: DemoConfig) -> PipelineConfig:
    """Return the pipeline that the demo is."""
    made = (_tiny if config.tiny else _usual)(config)
    if config.beta is None:
        return made
    settings = replace(made.train.hyperparameters, beta=config.beta)
    return replace(made, train=replace(made.train, hyperparameters=settings))


def _ppo(**changes: Any) -> Hyperparameters:
    return hyperparameters_class("ppo")(**changes)


def _usual(config: DemoConfig) -> PipelineConfig:
    return PipelineConfig(
        out=config.out,
        task=config.task,
        iterations=2 if config.full else 1,
        eval_episodes=512,
        seed=config.seed,
        # So few that much is left to learn.
        sft=SFTPart(count=128, settings=SFTSettings(epochs=1, learning_rate=4e-4, batch_size=16)),
        labels=LabelsPart(prompts=1536, completions=4, temperature=LABEL_TEMPERATURE),
        reward_model=RewardModelPart(heldout=0.125, epochs=2, learning_rate=2e-3),
        train=TrainPart(
            total_timesteps=40_000,
            checkpoint_every=50,
            hyperparameters=_ppo(learning_rate=5e-4, beta=0.3),
        ),
        overwrite=config.overwrite,
    )


def _tiny(config: DemoConfig) -> PipelineConfig:
    return PipelineConfig(
        out=config.out,
        task=config.task,
        iterations=2 if config.full else 1,
        eval_episodes=16,
        seed=config.seed,
        sft=SFTPart(count=8, settings=SFTSettings(epochs=1, batch_size=8)),
        labels=LabelsPart(prompts=16, completions=4, temperature=LABEL_TEMPERATURE),
        reward_model=RewardModelPart(heldout=0.125),
        train=TrainPart(
            total_timesteps=600,
            hyperparameters=_ppo(learning_rate=1e-3, episodes_per_iteration=16, minibatch_size=8, beta=0.1),
        ),
        overwrite=config.overwrite,
    )
