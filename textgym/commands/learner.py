"""Parts of the commands that learn from data: opening a model with its tokenizer, and the run around training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from textgym import runs
from textgym.agents.loop.acting import acting_policy
from textgym.agents.offline.sft_settings import EpochRow
from textgym.commands.train import task_with
from textgym.files import read_json_lines, remove_directory, replaced_directory, write_json_lines
from textgym.lm.files.loading import ModelSource, check_fits, frozen_copy, load_causal_lm, load_lm
from textgym.lm.parts.lora import save_pretrained
from textgym.lm.trunk import Trunk
from textgym.prompts import cut_left
from textgym.reports.run import write_report
from textgym.rows import Screening
from textgym.tasks.task import Task
from textgym.tokenization import end_token_ids, load_tokenizer, write_turn_end
from textgym.types import Prompt, Service, Truncation


@dataclass(frozen=True)
class Learner:
    """Model to train, with its tokenizer.

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


class LearningConfig(Protocol):
    """Settings of a command that may learn with a task."""

    @property
    def task(self) -> str | None:
        """Id of the task."""

    @property
    def model(self) -> str | None:
        """The model to begin with."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Parameters of the task."""


def open_learner(model: str | None, task: Task | None, causal: bool = True) -> Learner:
    """Load a model with its tokenizer.

    Args:
        model: a directory, a run or a hub id; None for the task's base model.
        task: the task, or None; see :func:`single_turn_task`.
        causal: False where an encoder–decoder can learn, too.

    Raises:
        ValueError: neither is given, or something does not fit.
    """
    if model is None and task is None:
        raise ValueError("without --task, --model is needed")
    shipped = task if model is None else None
    source = _source(model, task)
    tokenizer = shipped.tokenizer if shipped else load_tokenizer(str(source))
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    loaded = load_causal_lm(source, device) if causal else load_lm(source, device)
    check_fits(loaded, tokenizer, len(tokenizer), 0)
    ends = shipped.end_token_ids if shipped else end_token_ids(tokenizer, loaded.generation_config)
    if not ends:
        raise ValueError(f"model={str(source)!r} names no end token; set tokenizer.eos_token")
    return Learner(loaded, tokenizer, ends, task, shipped)


def single_turn_task(task_id: str, model: str | None = None, parameters: Mapping[str, Any] | None = None) -> Task:
    """Load a task for a command that learns from single responses; a task that is made with a model gets this one.

    Raises:
        ValueError: there is no such task, or another side replies in it.
    """
    return require_single_turn(
        task_with(task_id, parameters or {}, {"model": model and runs.model_source(model)}), task_id
    )


def require_single_turn(task: Task, task_id: str) -> Task:
    """Return the task unchanged, after a check that nobody replies in it.

    Raises:
        ValueError: somebody does.
    """
    if task.world is not None:
        raise ValueError(
            f"task={task_id!r} has a world ({type(task.world).__name__}), and this command learns from single "
            "responses, in which nobody replies; use textgym train, or pass --model without --task"
        )
    return task


def learning_task(config: LearningConfig) -> Task | None:
    """Return the task of a command that learns from single responses, made with its parameters; None without one.

    Raises:
        ValueError: there is no such task, it does not have such parameters, or another side replies in it.
    """
    if config.task is not None:
        return single_turn_task(config.task, config.model, config.parameters)
    if config.parameters:
        raise ValueError(f"parameters={config.parameters} belong to a task; pass --task ID")
    return None


def _source(model: str | None, task: Task | None) -> ModelSource:
    if model is not None:
        return runs.model_source(model)
    assert task is not None
    if task.base_model is None:
        raise ValueError(f"task={task.name!r} has no base model; pass --model")
    return task.base_model


def answerable(
    prompts: Sequence[Prompt], new: int, limit: int | None, tokenizer: PreTrainedTokenizerBase, truncation: Truncation
) -> tuple[Prompt, ...]:
    """Return the prompts to measure on; under ``truncation="left"`` they leave room for responses of ``new`` tokens."""
    if truncation != "left" or limit is None or limit <= new:
        return tuple(prompts)
    return tuple(replace(prompt, ids=cut_left(prompt.ids, limit - new, tokenizer)) for prompt in prompts)


def longest_answer(wanted: int, prompts: Sequence[Prompt], limit: int | None, truncation: Truncation) -> int:
    """Return the length of a response to measure, at most ``wanted``, that fit beside the prompts.

    Where prompts may be shortened (``truncation="left"``), a response may have half of the context at least.
    """
    if limit is None:
        return wanted
    room = limit - max(len(prompt.ids) for prompt in prompts)
    return min(wanted, max(room, limit // 2) if truncation == "left" else room)


# --- a run that learns from data, in epochs ----------------------------------------------------------------


class Begun(Protocol):
    """Settings of a run that every command that learns from data has."""

    @property
    def out(self) -> Path: ...
    @property
    def overwrite(self) -> bool: ...
    @property
    def resume(self) -> bool: ...
    @property
    def log(self) -> Sequence[Service]: ...


OnEpoch: TypeAlias = Callable[[Sequence[EpochRow]], None]
"""Function that keeps the numbers of all epochs up to now."""


def run_learning(
    config: Begun,
    described: Mapping[str, Any],
    finished: bool,
    model: PreTrainedModel,
    evaluator: runs.Evaluator,
    train: Callable[[Trunk, OnEpoch], None],
    screening: Screening,
) -> Path:
    """Measure the model, train it unless that is done, measure the result; return the report's path.

    Args:
        config: of the run, checked already.
        described: its settings.
        finished: the run's checkpoint holds the trained model, and only what follows training is done again.
        model: as it is before training.
        evaluator: measures, before and after.
        train: called with the model as it was before and with what keeps the numbers of its epochs, leaves the trained
            one in the run's checkpoint. State between epochs may lie in the run's ``training``, which is removed
            afterwards.
        screening: rows of the data that were left out or shortened.
    """
    reference = Trunk(frozen_copy(model))
    if not finished:
        runs.begin_run(config.out, described, config.overwrite)
        runs.note_screening(config.out, screening)
        evaluator.measure("before", acting_policy(model, evaluator.mdp), reference)
        runs.first_result(config.out)
    with runs.printed_warnings(), runs.opened_loggers(() if finished else config.log, config.out) as loggers:
        sent = runs.Rows(loggers)

        def keep(rows: Sequence[EpochRow]) -> None:
            keep_epochs(config.out, rows)
            sent.send(rows)

        if not finished:
            with runs.stops_noted(config.out):
                train(reference, keep)
        if (config.out / runs.TRAINING).is_dir():
            remove_directory(config.out / runs.TRAINING)
        trained = load_lm(config.out / runs.CHECKPOINT, model.device)
        evaluator.measure("after", acting_policy(trained, evaluator.mdp), reference)
        for stage in ("before", "after"):
            sent.send_values({f"samples/{stage}": runs.Samples.of(config.out, stage)})
    return write_report(config.out)


def keep_epochs(out: Path, rows: Sequence[EpochRow]) -> None:
    """Write the numbers of all epochs up to now into the run."""
    write_json_lines(out / "metrics.jsonl", rows)


def kept_epochs(out: Path) -> list[EpochRow]:
    """Return the rows that :func:`keep_epochs` wrote last."""
    return [row for _, row in read_json_lines(out / "metrics.jsonl")]


def save_learned(out: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the trained model into the run's checkpoint."""
    with replaced_directory(out / runs.CHECKPOINT) as scratch:
        save_pretrained(model, scratch, out / runs.CHECKPOINT)
        tokenizer.save_pretrained(scratch)
        write_turn_end(scratch, tokenizer)
