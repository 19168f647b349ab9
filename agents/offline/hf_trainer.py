"""``transformers.Trainer`` as fine-tuning uses it; a separate module, since importing that class takes seconds."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from textgym.agents.functional.stop_rules import LEAST, StopRules
from textgym.agents.offline.data import UNTRAINED, Demonstration, next_token_loss
from textgym.agents.offline.epoch_checkpoints import checkpoint_path, keep_only, last_whole
from textgym.agents.offline.sft_settings import EpochRow, SFTSettings
from textgym.files import MANIFEST, read_json, write_json, write_manifest
from textgym.lm.files.bars import without_bars
from textgym.lm.guards import TrainingError, check_step, check_trained, naming_batch
from textgym.lm.optimizer_state import load_optimizer, optimizer_state
from textgym.lm.parts.lora import is_adapted
from textgym.progress import Progress

OnEpoch: TypeAlias = Callable[[Sequence[EpochRow]], None]
LOGGING_STEPS = 10
FLOOR = 0.1  # share of the learning rate at which the cosine ends
WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
RANDOM_TENSORS, RANDOM_NUMBERS = "random.safetensors", "random.json"
FILES = (WEIGHTS, OPTIMIZER, STATE, RANDOM_TENSORS, RANDOM_NUMBERS, "trainer_state.json", MANIFEST)
"""Files of the training state between epochs."""
BETAS = (0.9, 0.95)  # Adam's (Ouyang et al. 2022, appendix C.1)


def run_trainer(
    model: PreTrainedModel,
    demonstrations: Sequence[Demonstration],
    collate: Callable[[Sequence[Demonstration]], dict[str, Tensor]],
    measure: Callable[[], dict[str, float]],
    settings: SFTSettings,
    keep_by: str,
    seed: int,
    directory: Path,
    resume: bool,
    on_epoch: OnEpoch | None,
    progress: bool,
) -> tuple[list[EpochRow], int, str | None]:
    """Train, and leave the best epoch's weights in the model; see :func:`textgym.agents.offline.sft.fine_tune`.

    Returns:
        The rows of all epochs, the kept epoch, and the reason why training ended early, or None.

    Raises:
        TrainingError: training diverged.
    """
    found = last_whole(directory) if resume else None
    rules = StopRules(patience=settings.stop_patience, metric="score" if keep_by == "score" else f"{LEAST}loss")
    wanted = settings.epochs
    if found is not None:
        check_ours(found)
        # A run may have been killed after its last epoch, but before its best one was written out. Then no epoch is
        # left to train: Trainer only has to load the best checkpoint.
        done = TrainerState.load_from_json(str(found / TRAINER_STATE_NAME))
        if rules.reason(epoch_rows(done.log_history)):
            settings = replace(settings, epochs=round(done.epoch or 0))
    arguments = training_arguments(settings, keep_by, seed, directory, evaluate_first=found is None)
    with undone_afterwards(model):
        trainer = _Trainer(
            model=model,
            args=arguments,
            data_collator=collate,
            train_dataset=list(demonstrations),
            eval_dataset=[],
            compute_loss_func=_loss,
            callbacks=[_Epochs(directory, rules, on_epoch), *([_Bar()] if progress else [])],
        )
        trainer.measure = measure
        trainer.remove_callback(PrinterCallback)  # it prints every log entry
        try:
            with without_bars():  # saving the model after each epoch would show a bar
                trainer.train(resume_from_checkpoint=None if found is None else str(found))
        finally:
            trainer.accelerator.free_memory()  # drop its references to model and optimiser
    state = trainer.state
    if state.best_global_step is None:
        raise TrainingError(f"training diverged: {keep_by} is not a number in any epoch; lower learning_rate")
    # Trainer counts the best checkpoint in steps, of which each epoch has the same number.
    rows, kept = epoch_rows(state.log_history), round(state.best_global_step * settings.epochs / state.max_steps)
    return rows, kept, rules.reason(rows, "epoch") if rows[-1]["iteration"] < wanted else None


def training_arguments(
    settings: SFTSettings, keep_by: str, seed: int, directory: Path, evaluate_first: bool = True
) -> TrainingArguments:
    """Return the settings as arguments of Trainer."""
    return TrainingArguments(
        output_dir=str(directory),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size // settings.accumulate,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.learning_rate,
        optim="adamw_torch",
        weight_decay=0.0,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": FLOOR},
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        seed=seed,
        data_seed=seed,
        eval_strategy="epoch",
        eval_on_start=evaluate_first,
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model=keep_by,
        greater_is_better=keep_by == "score",
        logging_steps=LOGGING_STEPS,
        logging_nan_inf_filter=False,  # or Trainer would replace a NaN loss in its log
        report_to="none",
        use_cpu=not torch.accelerator.is_available(),
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.accelerator.is_available(),
    )


def epoch_rows(history: Sequence[Mapping[str, Any]]) -> list[EpochRow]:
    """Convert Trainer's log to one row for each epoch: its mean training loss, and the measurements after it."""
    rows: list[EpochRow] = []
    row: EpochRow = {}
    loss = first = last = 0.0
    for entry in history:
        if "loss" in entry:  # the mean since the last entry, weighted by its number of steps
            loss += entry["loss"] * (entry["step"] - last)
            last = entry["step"]
            row = {f"train/{name}": entry[name] for name in ("grad_norm", "learning_rate") if name in entry}
            row["train/loss"] = loss / (last - first)
        elif "eval_loss" in entry:
            measured = {f"validation/{k.removeprefix('eval_')}": v for k, v in entry.items() if k.startswith("eval_")}
            numbers = {"train/steps": entry["step"], **row, **measured}
            rows.append({"iteration": round(entry["epoch"]), **dict(sorted(numbers.items()))})
            row, loss, first = {}, 0.0, last
    return rows


@contextmanager
def undone_afterwards(model: PreTrainedModel) -> Iterator[None]:
    """Undo, on leaving the block, Trainer's changes to a model other than its weights.

    Trainer disables the cache in the config, which sampling needs, and mixed precision wraps ``forward``.
    """
    use_cache, wrapped = getattr(model.config, "use_cache", None), {"forward", "_original_forward"}
    own = {name: value for name, value in vars(model).items() if name in wrapped}
    try:
        yield
    finally:
        model.config.use_cache = use_cache
        for name in wrapped & vars(model).keys():
            del vars(model)[name]
        vars(model).update(own)


def _loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
    """Compute the training loss; Trainer passes the count of trained tokens over all accumulated parts."""
    return next_token_loss(outputs["logits"], labels, num_items_in_batch)


def _read(inputs: Mapping[str, Tensor]) -> list[list[int]]:
    """Return the tokens of each row of a batch: those that are read, and those that an encoder–decoder writes."""
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    if "decoder_input_ids" in inputs:
        rows = [ids + own[own != UNTRAINED].tolist() for ids, own in zip(rows, inputs["labels"], strict=True)]
    return rows


class _Trainer(Trainer):
    """Trainer whose evaluation is ``measure``: the exact mean over tokens, and the judge's metrics."""

    measure: Callable[[], dict[str, float]]
    rows: Sequence[Mapping[str, Any]] = ()  # rows of the last batch, for errors

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        model: Any = self.model
        with naming_batch(self.rows):
            check_trained(model, self.args.learning_rate)
            metrics = {f"eval_{name}": float(value) for name, value in self.measure().items()}
            if not math.isfinite(metrics["eval_loss"]):
                raise TrainingError("training diverged: the validation loss is not a number; lower learning_rate")
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *rest: Any, **named: Any) -> Tensor:
        """Compute the loss of a batch and its gradients, and check that both are finite.

        Raises:
            TrainingError: they are not; no step is taken then.
        """
        rows = [{"ids": ids} for ids in _read(inputs)]
        loss = super().training_step(model, inputs, *rest, **named)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        # The gradient scaler of fp16 expects overflows: it skips such a step and lowers its scale.
        norm = 0.0 if self.accelerator.scaler is not None else float(get_total_norm(gradients))
        self.rows = rows
        with naming_batch(rows):
            check_step(float(loss), norm, self.args.learning_rate)
        return loss

    # Trainer keeps its state in pickles, which can execute code. These overrides write safetensors and JSON instead.

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        assert output_dir is not None  # Trainer calls this with its checkpoint directory
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_weights(self._learner, Path(output_dir, WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_weights(self._learner, Path(resume_from_checkpoint, WEIGHTS))

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        tensors, groups = optimizer_state(self.optimizer)
        save_file(tensors, Path(output_dir, OPTIMIZER))
        scaler = getattr(self.accelerator, "scaler", None)
        state = {
            "optimizer_groups": groups,
            "schedule": self.lr_scheduler.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        write_json(Path(output_dir, STATE), state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        state = read_json(Path(checkpoint, STATE))
        load_optimizer(self.optimizer, load_file(Path(checkpoint, OPTIMIZER)), state["optimizer_groups"])
        self.lr_scheduler.load_state_dict(state["schedule"])
        if state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _save_scaler(self, output_dir: str) -> None:
        """Do nothing: the scaler is saved with the optimiser."""

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Do nothing: the scaler is loaded with the optimiser."""

    def _save_rng_state(self, output_dir: str) -> None:
        tensors, numbers = random_state()
        save_file(tensors, Path(output_dir, RANDOM_TENSORS))
        write_json(Path(output_dir, RANDOM_NUMBERS), numbers)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            tensors = load_file(Path(checkpoint, RANDOM_TENSORS))
            set_random_state(tensors, read_json(Path(checkpoint, RANDOM_NUMBERS)))

    @property
    def _learner(self) -> PreTrainedModel:
        model: Any = self.model
        return cast(PreTrainedModel, model)


def save_weights(model: PreTrainedModel, path: Path) -> None:
    """Save a model's weights; of an adapted model the trained ones alone."""
    if is_adapted(model):
        save_file({name: value.detach().clone() for name, value in _trained(model).items()}, path)
    else:
        save_model(model, str(path))


@torch.no_grad()
def load_weights(model: PreTrainedModel, path: Path) -> None:
    """Load the weights that :func:`save_weights` saved."""
    if not is_adapted(model):
        load_model(model, path)
        return
    kept = load_file(path)
    for name, value in _trained(model).items():
        value.copy_(kept[name])


def _trained(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the states of the global generators, which Trainer uses: torch's as tensors, the others for JSON."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    tensors = {"cpu": torch.get_rng_state(), **{f"cuda.{i}": state for i, state in enumerate(cuda)}}
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - Trainer seeds it
    numpy = [name, np.asarray(keys).tolist(), *rest]
    return tensors, {"python": [version, list(words), gauss], "numpy": numpy}


def set_random_state(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Restore the states that :func:`random_state` returned."""
    torch.set_rng_state(tensors["cpu"])
    for i in range(torch.cuda.device_count()):
        if f"cuda.{i}" in tensors:  # a run may be resumed with another number of accelerators
            torch.cuda.set_rng_state(tensors[f"cuda.{i}"], i)
    version, words, gauss = numbers["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(tuple(numbers["numpy"]))  # noqa: NPY002


def check_ours(directory: Path) -> None:
    """Check that a checkpoint holds no file that textgym does not write, such as a pickle.

    Raises:
        ValueError: it holds one; the file is named.
    """
    strange = sorted(path.name for path in directory.iterdir() if path.name not in FILES)
    if strange:
        raise ValueError(
            f"{directory / strange[0]} is not one of the files that textgym keeps between epochs (another version or "
            "another program wrote it), and nothing in this directory is read; restart the run with --overwrite"
        )


class _Epochs(TrainerCallback):
    """Callback that reports each epoch, and keeps the training state of the last and of the best one."""

    def __init__(self, directory: Path, rules: StopRules, on_epoch: OnEpoch | None) -> None:
        self.directory = directory
        self.rules = rules
        self.on_epoch = on_epoch

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.best_global_step:  # the directory may have been moved since
            state.best_model_checkpoint = str(checkpoint_path(self.directory, state.best_global_step))
        self._report(state)

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_log = True  # so that no logged mean spans two epochs

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._report(state)
        if self.rules.reason(epoch_rows(state.log_history)):
            control.should_training_stop = True

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        write_manifest(checkpoint_path(self.directory, state.global_step))
        keep_only(self.directory, (state.global_step, state.best_global_step))

    def _report(self, state: TrainerState) -> None:
        if self.on_epoch is not None:
            self.on_epoch(epoch_rows(state.log_history))


class _Bar(TrainerCallback):
    """Progress bar over all steps, with the last logged numbers."""

    bar: Progress

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar = Progress(state.max_steps, "fine-tuning", "step", done=state.global_step)
        self.shown: dict[str, str] = {}

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.reach(state.global_step)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        names = {"loss": "loss", "eval_loss": "validation", "eval_score": "score"}
        self.shown |= {names[name]: f"{value:.3f}" for name, value in kwargs["logs"].items() if name in names}
        self.bar.show(" ".join(f"{name} {value}" for name, value in self.shown.items()))

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.close()
