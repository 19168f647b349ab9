"""``textgym demo``: a GPT learns by reinforcement from a learned reward model, in one command."""

from __future__ import annotations

from dataclasses import replace

from textgym.agents.offline.sft_settings import SFTSettings
from textgym.commands.configs.demo import DemoConfig
from textgym.commands.configs.hyperparameters import Hyperparameters
from textgym.commands.configs.pipeline import LabelsPart, RewardModelPart, SFTPart, TrainPart
from textgym.commands.pipeline import PipelineConfig, pipeline
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
    if config.kl_coef is None:
        return made
    settings = replace(made.train.hyperparameters, kl_coef=config.kl_coef)
    return replace(made, train=replace(made.train, hyperparameters=settings))


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
            hyperparameters=Hyperparameters(learning_rate=5e-4, kl_coef=0.3),
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
            hyperparameters=Hyperparameters(
                learning_rate=1e-3, episodes_per_iteration=16, minibatch_size=8, kl_coef=0.1
            ),
        ),
        overwrite=config.overwrite,
    )
