"""``transformers.Trainer`` as fine-tuning uses it; a module of its own, as importing that class takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from tqdm import tqdm
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from textgym.agents.demonstrations import Demonstration, collate, next_token_loss
from textgym.agents.epochs import checkpoint_path, keep_only, last_whole
from textgym.agents.sft_settings import EpochRow, SFTSettings
from textgym.files import write_manifest
from textgym.lm.bars import without_bars
from textgym.lm.finite import check_step, naming_batch
from textgym.lm.lora import is_adapted

OnEpoch: TypeAlias = Callable[[Sequence[EpochRow]], None]
LOGGING_STEPS = 10
FLOOR = 0.1  # of the learning rate, where the cosine ends
TRAINED = "trained.safetensors"  # what is trained of an adapted model, between epochs
BETAS = (0.9, 0.95)  # of Adam (Ouyang et al. 2022, appendix C.1)


def run_trainer(
    model: PreTrainedModel,
    demonstrations: Sequence[Demonstration],
    measure: Callable[[], dict[str, float]],
    settings: SFTSettings,
    keep_by: str,
    seed: int,
    directory: Path,
    resume: bool,
    on_epoch: OnEpoch | None,
    progress: bool,
) -> tuple[list[EpochRow], int]:
    """Trains, and leaves the best epoch's weights in the model; see :func:`textgym.agents.sft.fine_tune`.

    Returns:
        The rows of all epochs, and which epoch is kept.
    """
    found = last_whole(directory) if resume else None
    arguments = training_arguments(settings, keep_by, seed, directory, evaluate_first=found is None)
    with undone_afterwards(model):
        trainer = (_AdapterTrainer if is_adapted(model) else _Trainer)(
            model=model,
            args=arguments,
            data_collator=collate,
            train_dataset=list(demonstrations),
            eval_dataset=[],
            compute_loss_func=_loss,
            callbacks=[_Epochs(directory, on_epoch), *([_Bar()] if progress else [])],
        )
        trainer.measure = measure
        trainer.remove_callback(PrinterCallback)  # prints every log
        try:
            with without_bars():  # it saves the model after each epoch
                trainer.train(resume_from_checkpoint=None if found is None else str(found))
        finally:
            trainer.accelerator.free_memory()
    state = trainer.state
    if state.best_global_step is None:
        raise ValueError(f"no epoch has a {keep_by} that is a number: training diverged; lower learning_rate")
    return epoch_rows(state.log_history), round(state.best_global_step * settings.epochs / state.max_steps)


def training_arguments(
    settings: SFTSettings, keep_by: str, seed: int, directory: Path, evaluate_first: bool = True
) -> TrainingArguments:
    """The settings in Trainer's words."""
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
        logging_nan_inf_filter=False,
        report_to="none",
        use_cpu=not torch.accelerator.is_available(),
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.accelerator.is_available(),
    )


def epoch_rows(history: Sequence[Mapping[str, Any]]) -> list[EpochRow]:
    """Trainer's log with one row for each epoch: the mean training loss of its steps, and what was measured after."""
    rows: list[EpochRow] = []
    row: EpochRow = {}
    loss = first = last = 0.0
    for entry in history:
        if "loss" in entry:
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
    """Takes back what Trainer does to a model beside training it.

    It switches the cache off in the config, which sampling wants on, and mixed precision wraps ``forward``.
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
    """Returns what is descended; Trainer counts the trained tokens of all accumulated parts."""
    return next_token_loss(outputs["logits"], labels, num_items_in_batch)


class _Trainer(Trainer):
    """Trainer whose evaluation is ``measure``: exact over tokens, and with the judge's numbers."""

    measure: Callable[[], dict[str, float]]

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        metrics = {f"eval_{name}": float(value) for name, value in self.measure().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *rest: Any, **named: Any) -> Tensor:
        """Return the loss of a batch, whose gradient is then there.

        Raises:
            TrainingError: the loss or a gradient is not finite; the step on it is not taken.
        """
        pairs = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        rows = [{"ids": ids[mask.bool()].tolist()} for ids, mask in pairs]
        loss = super().training_step(model, inputs, *rest, **named)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        with naming_batch(rows):
            check_step(float(loss), float(get_total_norm(gradients)), self.args.learning_rate)
        return loss

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Silent about weights that are tied to others: a checkpoint holds those once."""
        model: Any = self.model
        if load_result.unexpected_keys or set(load_result.missing_keys) - model.all_tied_weights_keys.keys():
            super()._issue_warnings_after_load(load_result)


class _AdapterTrainer(_Trainer):
    """Keeps between epochs what is trained of a model, and nothing else.

    transformers does not find adapters again in layers that were adapted in place.
    """

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        assert output_dir is not None
        directory = Path(output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        save_file({name: value.detach().clone() for name, value in self._trained().items()}, directory / TRAINED)

    @torch.no_grad()
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        kept = load_file(Path(resume_from_checkpoint) / TRAINED)
        for name, value in self._trained().items():
            value.copy_(kept[name])

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _trained(self) -> dict[str, nn.Parameter]:
        model: Any = self.model
        return {name: value for name, value in model.named_parameters() if value.requires_grad}


class _Epochs(TrainerCallback):
    """Says what each epoch gave, and keeps the training state of the last and of the best one."""

    def __init__(self, directory: Path, on_epoch: OnEpoch | None) -> None:
        self.directory = directory
        self.on_epoch = on_epoch

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.best_global_step:  # the directory may have been moved since
            state.best_model_checkpoint = str(checkpoint_path(self.directory, state.best_global_step))
        self._tell(state)

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_log = True  # so that no logged mean spans two epochs

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._tell(state)

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        write_manifest(checkpoint_path(self.directory, state.global_step))
        keep_only(self.directory, (state.global_step, state.best_global_step))

    def _tell(self, state: TrainerState) -> None:
        if self.on_epoch is not None:
            self.on_epoch(epoch_rows(state.log_history))


class _Bar(TrainerCallback):
    """A progress bar over all steps, with the last logged numbers."""

    bar: tqdm[Any]

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="fine-tuning", unit="step")
        self.shown: dict[str, str] = {}

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.update()

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        names = {"loss": "loss", "eval_loss": "validation", "eval_score": "score"}
        self.shown |= {names[name]: f"{value:.3f}" for name, value in kwargs["logs"].items() if name in names}
        self.bar.set_postfix(self.shown)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.close()
