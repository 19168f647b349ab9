"""What commands that learn from data begin with: a model with its tokenizer, and a policy that shows its work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from textgym.agents.policy import LMPolicy
from textgym.commands.run import model_source
from textgym.lm.loading import ModelSource, check_fits, load_causal_lm
from textgym.mdp import TokenMDP
from textgym.registration import load_task
from textgym.tasks.task import Task
from textgym.tokenization import end_token_ids, load_tokenizer


@dataclass(frozen=True)
class Learner:
    """A model that is to learn.

    Attributes:
        model: the user's, or else the task's.
        tokenizer: of the model.
        end_token_ids: end a response; at least one.
        task: the user's choice, or None.
        shipped: the task, where model and tokenizer are its own, so that its prompts stay as they are encoded.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    end_token_ids: tuple[int, ...]
    task: Task | None
    shipped: Task | None


def open_learner(model: str | None, task_id: str | None) -> Learner:
    """Loads a model with its tokenizer.

    Args:
        model: a directory, a run or a hub id; None for the task's base model.
        task_id: a task's id, or None.

    Raises:
        ValueError: neither is given, or something does not fit.
    """
    if model is None and task_id is None:
        raise ValueError("without --task, --model is needed")
    task = None if task_id is None else load_task(task_id)
    shipped = task if model is None else None
    source = _source(model, task)
    tokenizer = shipped.tokenizer if shipped else load_tokenizer(str(source))
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    loaded = load_causal_lm(source, device)
    check_fits(loaded, tokenizer, len(tokenizer), 0)
    ends = shipped.end_token_ids if shipped else end_token_ids(tokenizer, loaded.generation_config)
    if not ends:
        raise ValueError(f"model={str(source)!r} names no end token; set tokenizer.eos_token")
    return Learner(loaded, tokenizer, ends, task, shipped)


def _source(model: str | None, task: Task | None) -> ModelSource:
    if model is not None:
        return model_source(model)
    assert task is not None
    if task.base_model is None:
        raise ValueError(f"task={task.name!r} has no base model; pass --model")
    return task.base_model


def acting_policy(model: PreTrainedModel, mdp: TokenMDP) -> LMPolicy:
    """The model as a policy that only acts."""
    return LMPolicy(
        mdp.observation_space(),
        mdp.action_space(),
        lambda _: 0.0,
        model=model,
        prompt_length=mdp.max_prompt_length,
        end_token_ids=mdp.end_token_ids,
    )


def no_reward(prompts: list[Any], **_: Any) -> list[float]:
    """0 for everything, where nobody judges."""
    return [0.0] * len(prompts)
