"""Checks of a pipeline's settings and materials, before its first stage."""

from __future__ import annotations

from dataclasses import replace

import torch

from textgym.commands.configs.pipeline import PipelineConfig
from textgym.commands.learner import require_single_turn
from textgym.commands.pipeline.labels import PAGE, PEOPLE
from textgym.commands.pipeline.plan import labelled, reward_model_config, sft_config, train_config
from textgym.commands.reward_model import begin as begin_reward_model
from textgym.commands.reward_model import read_examples
from textgym.commands.sft import gather_demonstrations
from textgym.commands.train import (
    chosen_task,
    gather_pretraining,
    has_gold,
    make_algorithm,
    resolved,
    user_mdp,
    validation_mdp,
)
from textgym.env.mdp import TokenMDP
from textgym.lm.files.loading import context_length
from textgym.rewards.labels.rankings import split_rankings
from textgym.rows import Screening
from textgym.types import Ranking


def check_settings(config: PipelineConfig) -> None:
    """Check numbers and combinations, without reading anything.

    Raises:
        ValueError: a setting is out of its range, or lacks another one.
    """
    if set(str(config.out)) & set(" \t\n,"):
        raise ValueError(
            f"out={str(config.out)!r}; expected a path without spaces and commas, as rewards are named by it"
        )
    if config.task is None and (config.model is None or config.prompts is None):
        raise ValueError("without --task, both --model and --prompts are needed")
    if config.task is None and config.labels.labeller == "gold" and labelled(config):
        raise ValueError(
            "labels.labeller='gold' is a task's true reward; without --task pass --labels.labeller with 'file', "
            "path/to/file.py:function, module:function or rm:DIR, or --labels.preferences FILE for a single iteration"
        )
    if config.prompts is not None and config.validation is None:
        raise ValueError("prompts without validation: pass --validation FILE with prompts that only measure")
    if config.task is None and config.sft.enabled and config.sft.demonstrations is None:
        raise ValueError("nothing to imitate: pass --sft.demonstrations FILE, or --sft.no-enabled")
    if config.train.value_from_reward_model and config.reward_model.ensemble > 1:
        raise ValueError("train.value_from_reward_model needs a single reward model; got an ensemble")
    if config.labels.labeller == PAGE and labelled(config):
        import textgym.labelling.server  # noqa: F401  # its packages are an extra, whose lack is an error now
    resolved(train_config(config, 1))


def check_materials(config: PipelineConfig) -> None:
    """Read models, prompts, texts and labeller, and fit them to one another as the stages will.

    Raises:
        ValueError, FileNotFoundError: something is missing or does not fit.
    """
    # The models of later stages have the sizes of the first; their critic's reward model is not there yet.
    begun = replace(
        train_config(config, 1),
        model=config.model,
        reference=None,
        hyperparameters=config.train.hyperparameters,
    )
    made = resolved(begun)
    task = chosen_task(made)  # once: reading published data takes minutes
    if task is not None:
        require_single_turn(task, str(config.task))
    labeller = config.labels.labeller
    if labeller in PEOPLE or not labelled(config):
        labeller = "gold" if has_gold(task) else "length"
    made = replace(made, reward=labeller)
    screening = Screening(config.truncation, config.skip_bad)
    mdp = user_mdp(made, screening, task)
    if labelled(config) and len(mdp.prompts) < config.labels.prompts:
        raise ValueError(f"labels.prompts={config.labels.prompts}, but there are {len(mdp.prompts)} prompts to ask")
    validation_mdp(made, mdp, screening, task)
    pretraining, _ = gather_pretraining(made, mdp, screening, task)
    algorithm = make_algorithm(made, mdp, resumed=False, pretraining=pretraining)
    check_reward_models_context(mdp, context_length(algorithm.policy.lm))
    if config.sft.enabled:
        gather_demonstrations(sft_config(config))
    _check_preferences(config)


def _check_preferences(config: PipelineConfig) -> None:
    """Check the files that the first reward model reads, with a screening of its own."""
    screening = Screening(config.truncation, config.skip_bad)
    begun = begin_reward_model(replace(reward_model_config(config, 1), model=config.model), screening)
    path = config.labels.preferences
    if path is None:
        return
    examples = read_examples(begun.reader, path, screening)
    split_rankings(examples, config.reward_model.heldout, torch.Generator())
    if labelled(config) and not all(isinstance(example.preference, Ranking) for example in examples):
        raise ValueError(
            f"labels.preferences={str(path)!r} holds labels of single completions, which do not go together with the "
            f"rankings of iterations=2 to {config.iterations}; pass comparisons, or --iterations 1"
        )


def check_reward_models_context(mdp: TokenMDP, limit: int | None) -> None:
    """Check that the model reads the longest text with an end token, which reward models append to every response."""
    longest = max(len(prompt.ids) for prompt in mdp.prompts) + mdp.max_new_tokens
    if limit is not None and longest >= limit:
        raise ValueError(
            f"the longest prompt and max_new_tokens={mdp.max_new_tokens} make {longest} tokens, to which reward models "
            f"add an end token, but the model reads at most {limit}; lower max_new_tokens, or shorten prompts"
        )
