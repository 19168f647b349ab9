"""Learning from preferences without sampling: the loop of DPO, IPO and KTO, which are :class:`Objective` of it.

Each loss is a function of log-ratios log π(y|x) − log π_ref(y|x), where log π is summed over the tokens of a completion
and its end token, and π_ref is the model before training. Adam (ε = 1e-5) with gradients scaled down to a norm of
``max_grad_norm``; the learning rate decays linearly to 0 over all steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor
from transformers import PreTrainedModel

from textgym.agents.offline.data import Demonstration
from textgym.agents.offline.epoch_checkpoints import checkpoint_path, keep_only, last_whole
from textgym.agents.offline.likelihood import check_causal, check_readable, log_likelihood
from textgym.agents.offline.preference_settings import PreferenceSettings
from textgym.agents.offline.sft_settings import EpochRow
from textgym.files import read_json, replaced_directory, write_json
from textgym.intervals import clustered, share_interval
from textgym.lm.guards import TrainingError, check_step, check_trained, naming_batch
from textgym.lm.optimizer_state import load_optimizer, optimizer_state
from textgym.lm.parts.lora import is_adapted, train_adapters, unwrapped
from textgym.lm.trunk import Trunk
from textgym.progress import Progress, short
from textgym.prompts import content_key
from textgym.types import IntArray, Messages

OnEpoch = Callable[[Sequence[EpochRow]], None]


class Preferred(Protocol):
    """An example to learn from: a comparison, or a completion with a label."""

    @property
    def prompt(self) -> str | Messages:
        """The prompt of its completions."""
        ...

    @property
    def texts(self) -> tuple[Demonstration, ...]:
        """Its k completions; all examples of a data set have equally many."""
        ...

    @property
    def record(self) -> Mapping[str, Any]:
        """The example as errors show it."""
        ...


Example = TypeVar("Example", bound=Preferred)


@dataclass(frozen=True)
class Objective(Generic[Example]):
    """A loss on preferences, and the measures that its runs report.

    Attributes:
        name: as the progress bar shows it.
        data: name of the argument that holds the examples, for errors.
        counted: the key of the number of held-out examples.
        loss: maps ``n`` examples, ``[n, k]`` log π of their completions, ``[n, k]`` log π_ref, and ``[m]`` log-ratios
            of ``background`` to losses ``[n]``.
        measures: maps the same without the last to ``margin`` and ``accuracy``, ``[n]`` values each, whose mean is the
            measure and whose deviations from it are each example's part in its error.
        background: texts of a batch whose log-ratios the loss needs as constants; none by default.
        least: the smallest batch that the loss is defined for.
    """

    name: str
    data: str
    counted: str
    loss: Callable[[Sequence[Example], Tensor, Tensor, Tensor], Tensor]
    measures: Callable[[Sequence[Example], Tensor, Tensor], dict[str, Tensor]]
    background: Callable[[Sequence[Example]], Sequence[Demonstration]] = lambda _: ()
    least: int = 1


def completion_log_probs(trunk: Trunk, examples: Sequence[Preferred]) -> Tensor:
    """Compute log π of each example's completions, ``[n, k]``, all in one pass."""
    shown = [text for example in examples for text in example.texts]
    return log_likelihood(trunk, shown)[0].sum(1).view(len(examples), -1)


@torch.no_grad()
def log_probs_of(trunk: Trunk, examples: Sequence[Preferred], batch_size: int) -> Tensor:
    """Compute :func:`completion_log_probs` in batches and without a gradient, ``[N, k]``."""
    shown = [text for example in examples for text in example.texts]
    k = len(shown) // len(examples)
    return text_log_probs(trunk, shown, batch_size * k).view(len(examples), k)


@torch.no_grad()
def text_log_probs(trunk: Trunk, shown: Sequence[Demonstration], batch_size: int) -> Tensor:
    """Compute log π of texts in batches and without a gradient, ``[m]``."""
    starts = range(0, len(shown), batch_size)
    passes = [log_likelihood(trunk, shown[start : start + batch_size])[0].sum(1) for start in starts]
    return torch.cat([torch.empty(0, device=trunk.model.device), *passes])


def batches(order: IntArray, size: int, least: int) -> list[IntArray]:
    """Split an order into batches of ``size``; a last one of fewer than ``least`` joins the one before it."""
    return np.split(order, range(size, len(order) - least + 1, size))


def surety(measures: Mapping[str, Tensor], prompts: Sequence[Hashable], counted: str = "pairs") -> dict[str, float]:
    """Compute the uncertainty of the means of measures, with values of the same prompt as one cluster.

    Args:
        measures: ``[n]`` values each, ``accuracy`` among them.
        prompts: ``[n]`` the prompt of each value.
        counted: the key of their number.

    Returns:
        The numbers of ``prompts`` and of values; with two or more prompts also the standard error of each mean as
        ``…_sem``, and the accuracy's 95 % interval, ``accuracy_low`` and ``accuracy_high``.
    """
    found: dict[str, float] = {"prompts": len(set(prompts)), counted: len(prompts)}
    arrays = {name: values.double().cpu().numpy() for name, values in measures.items()}
    ends = share_interval(arrays["accuracy"], prompts)
    if ends is None:
        return found
    errors = {f"{name}_sem": clustered(values, prompts).error for name, values in arrays.items()}
    return found | errors | {"accuracy_low": ends[0], "accuracy_high": ends[1]}


class Learning(Generic[Example]):
    """State of a training: model, optimiser, and the reference's log-probabilities.

    The reference is the model at construction. Its log-probabilities are computed here, once, so that no second model
    is held; those of the background depend on who shares a batch, and the batches of all epochs are drawn here.
    """

    def __init__(
        self,
        trunk: Trunk,
        objective: Objective[Example],
        examples: Sequence[Example],
        held_out: Sequence[Example],
        settings: PreferenceSettings,
        seed: int,
    ) -> None:
        self.trunk = trunk
        self.objective = objective
        self.examples = examples
        self.held_out = held_out
        self.settings = settings
        self.last: list[Mapping[str, Any]] = []  # records of the last batch, for errors
        orders = [np.random.default_rng([seed, epoch]).permutation(len(examples)) for epoch in range(settings.epochs)]
        self.plan = [batches(order, settings.batch_size, objective.least) for order in orders]
        self.reference = log_probs_of(trunk, examples, settings.batch_size)
        self.background = [[self._background(self._batch(rows)) for rows in epoch] for epoch in self.plan]
        self.held_out_reference = log_probs_of(trunk, held_out, settings.batch_size)
        self.held_out_background = self._background(held_out)
        self.parameters = [p for p in trunk.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings.learning_rate, eps=1e-5)
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.0, sum(map(len, self.plan)))

    def _batch(self, rows: IntArray) -> list[Example]:
        return [self.examples[row] for row in rows]

    def _background(self, batch: Sequence[Example]) -> Tensor:
        """Compute log π of the texts in a batch's background, ``[m]``."""
        return text_log_probs(self.trunk, self.objective.background(batch), self.settings.batch_size)

    def measured(self) -> dict[str, float]:
        """Measure the model on the held-out examples."""
        log_probs = log_probs_of(self.trunk, self.held_out, self.settings.batch_size)
        background = self._background(self.held_out) - self.held_out_background
        losses = self.objective.loss(self.held_out, log_probs, self.held_out_reference, background)
        measures = {"loss": losses, **self.objective.measures(self.held_out, log_probs, self.held_out_reference)}
        prompts = [content_key(example.prompt) for example in self.held_out]
        found = means(measures) | surety(measures, prompts, self.objective.counted)
        return {f"validation/{name}": value for name, value in found.items()}

    def epoch(self, number: int) -> dict[str, float]:
        """Train for one pass; return the means of its measures, each from before the step on it."""
        losses, log_probs = [], []
        for rows, reference_background in zip(self.plan[number], self.background[number], strict=True):
            batch = self._batch(rows)
            ours = completion_log_probs(self.trunk, batch)
            background = self._background(batch) - reference_background
            loss = self.objective.loss(batch, ours, self.reference[torch.from_numpy(rows)], background)
            self._step(batch, loss.mean())
            losses.append(loss.detach())
            log_probs.append(ours.detach())
        order = np.concatenate(self.plan[number])
        met = self.objective.measures(self._batch(order), torch.cat(log_probs), self.reference[torch.from_numpy(order)])
        return {f"train/{name}": value for name, value in means({"loss": torch.cat(losses), **met}).items()}

    def _step(self, batch: Sequence[Example], loss: Tensor) -> None:
        """Take one step down the loss of a batch.

        Raises:
            TrainingError: loss or gradient is not finite.
        """
        self.optimizer.zero_grad()
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm))
        self.last = [example.record for example in batch]
        with naming_batch(self.last):
            check_step(float(loss.detach()), norm, self.optimizer.param_groups[0]["lr"])
        self.optimizer.step()
        self.schedule.step()

    def save(self, directory: Path, rows: Sequence[EpochRow]) -> None:
        """Save the state that the next epoch needs, and the rows so far; the previous epoch's state is removed."""
        epoch = round(rows[-1]["iteration"])
        tensors, groups = optimizer_state(self.optimizer)
        with replaced_directory(checkpoint_path(directory, epoch)) as scratch:
            save_model(self.trunk.model, str(scratch / "model.safetensors"))
            save_file(tensors, scratch / "optimizer.safetensors")
            state = {"rows": list(rows), "optimizer_groups": groups, "schedule": self.schedule.state_dict()}
            write_json(scratch / "state.json", state)
        keep_only(directory, (epoch,))

    def load(self, path: Path) -> list[EpochRow]:
        """Restore what :meth:`save` wrote; return its rows."""
        state = read_json(path / "state.json")
        load_model(self.trunk.model, path / "model.safetensors")
        load_optimizer(self.optimizer, load_file(path / "optimizer.safetensors"), state["optimizer_groups"])
        self.schedule.load_state_dict(state["schedule"])
        rows: list[EpochRow] = state["rows"]
        return rows


def means(measures: Mapping[str, Tensor]) -> dict[str, float]:
    """Compute the mean of each measure."""
    return {name: float(values.mean()) for name, values in measures.items()}


def learn_preferences(
    model: PreTrainedModel,
    objective: Objective[Example],
    examples: Sequence[Example],
    held_out: Sequence[Example],
    settings: PreferenceSettings,
    *,
    seed: int,
    directory: Path | None,
    resume: bool,
    on_epoch: OnEpoch,
    progress: bool,
) -> list[EpochRow]:
    """Train a model on an objective in place; see :func:`textgym.agents.offline.dpo.train_dpo`."""
    model = unwrapped(model)
    if is_adapted(model):
        train_adapters(model)
    trunk = Trunk(model.eval())
    _check_examples(trunk, examples, objective.data)
    _check_examples(trunk, held_out, "held_out")
    check_causal(trunk, [example.texts[0] for example in examples])
    learning = Learning(trunk, objective, examples, held_out, settings, seed)
    rows = _first_rows(learning, directory, resume)
    on_epoch(rows)
    bar = Progress(settings.epochs, objective.name, "epoch", done=len(rows) - 1, silent=not progress)
    for epoch in range(len(rows) - 1, settings.epochs):
        met = learning.epoch(epoch)
        with naming_batch(learning.last):
            check_trained(trunk.model, settings.learning_rate, learning.optimizer)
            rows.append({"iteration": epoch + 1, **met, **learning.measured()})
            if not math.isfinite(rows[-1]["validation/loss"]):
                raise TrainingError(
                    f"training diverged: the loss after epoch {epoch + 1} is not a number; lower learning_rate"
                )
        if directory is not None:
            learning.save(directory, rows)
        on_epoch(rows)
        bar.reach(epoch + 1)
        bar.show(" ".join(f"{name} {short(rows[-1][f'validation/{name}'])}" for name in ("loss", "accuracy")))
    bar.close()
    return rows


def _check_examples(trunk: Trunk, examples: Sequence[Preferred], argument: str) -> None:
    if not examples:
        raise ValueError(f"{argument} is empty; expected at least one example")
    check_readable(trunk.model, [text for example in examples for text in example.texts], f"{argument}, text")


def _first_rows(learning: Learning[Any], directory: Path | None, resume: bool) -> list[EpochRow]:
    """Return the row before training; when resuming, restore the state and return all rows so far."""
    if directory is not None and not resume:
        keep_only(directory, ())  # the state of another run
    found = last_whole(directory) if directory is not None else None
    return [{"iteration": 0, **learning.measured()}] if found is None else learning.load(found)
