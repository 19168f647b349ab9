"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290): learning from preferences without sampling.

At the optimum of the KL-regularised objective, r(x, y) = β·log(π(y|x)/π_ref(y|x)) + c(x). Inserted into the
Bradley–Terry likelihood of "chosen over rejected", this gives a loss on the policy itself:

    L = mean over pairs of −log σ( β·[log π(y_c|x) − log π_ref(y_c|x)] − β·[log π(y_r|x) − log π_ref(y_r|x)] )

with y_c the chosen and y_r the rejected completion, log π summed over the tokens of a completion and its end token. β
is ``beta`` of the settings; π_ref is the model before training. Adam (ε = 1e-5) with gradients scaled down to a norm of
``max_grad_norm``; the learning rate decays linearly to 0 over all steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from textgym.agents.offline.data import Comparison
from textgym.agents.offline.dpo_settings import DPOSettings
from textgym.agents.offline.epoch_checkpoints import checkpoint_path, keep_only, last_whole
from textgym.agents.offline.likelihood import check_causal, check_readable, log_likelihood
from textgym.agents.offline.sft_settings import EpochRow
from textgym.files import read_json, replaced_directory, write_json
from textgym.intervals import clustered, share_interval
from textgym.lm.guards import TrainingError, check_step, check_trained, naming_batch
from textgym.lm.optimizer_state import load_optimizer, optimizer_state
from textgym.lm.parts.lora import is_adapted, train_adapters, unwrapped
from textgym.lm.trunk import Trunk
from textgym.progress import Progress, short
from textgym.prompts import content_key
from textgym.types import IntArray


def implicit_margin(log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    """Compute the implied reward of the chosen completion minus that of the rejected one, ``[n]``.

    Args:
        log_probs: ``[n, 2]`` log π of chosen and rejected completion, summed over completion and end token.
        ref_log_probs: ``[n, 2]`` the same for the reference.
        beta: β.
    """
    rewards = beta * (log_probs - ref_log_probs)
    return rewards[:, 0] - rewards[:, 1]


def dpo_loss(log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    """Compute the loss −log σ(margin), ``[n]``: equation 7 of Rafailov 2023. Arguments as :func:`implicit_margin`."""
    return -logsigmoid(implicit_margin(log_probs, ref_log_probs, beta))


def pair_log_probs(trunk: Trunk, comparisons: Sequence[Comparison]) -> Tensor:
    """Compute log π of chosen and rejected completions, ``[n, 2]``, all in one pass."""
    shown = [one for comparison in comparisons for one in (comparison.chosen, comparison.rejected)]
    return log_likelihood(trunk, shown)[0].sum(1).view(-1, 2)


def margin_summary(margins: Tensor) -> dict[str, float]:
    """Compute mean loss, mean margin and accuracy: the share of positive margins, of which zeros count ½."""
    return {name: float(values.mean()) for name, values in _measures(margins).items()}


def _measures(margins: Tensor) -> dict[str, Tensor]:
    """Compute each measure of the comparisons, ``[n]``."""
    accuracy = (margins > 0).double() + 0.5 * (margins == 0).double()
    return {"loss": -logsigmoid(margins), "margin": margins, "accuracy": accuracy}


def surety(margins: Tensor, prompts: Sequence[Hashable]) -> dict[str, float]:
    """Compute the uncertainty of :func:`margin_summary`, with margins of the same prompt as one cluster.

    Args:
        margins: ``[n]``.
        prompts: ``[n]`` the prompt of each margin.

    Returns:
        The numbers of ``prompts`` and ``pairs``; with two or more prompts also the standard errors of all three
        measures as ``…_sem``, and the accuracy's 95 % interval, ``accuracy_low`` and ``accuracy_high``.
    """
    measures = {name: values.double().cpu().numpy() for name, values in _measures(margins).items()}
    found: dict[str, float] = {"prompts": len(set(prompts)), "pairs": len(margins)}
    ends = share_interval(measures["accuracy"], prompts)
    if ends is None:
        return found
    errors = {f"{name}_sem": clustered(values, prompts).error for name, values in measures.items()}
    return found | errors | {"accuracy_low": ends[0], "accuracy_high": ends[1]}


@torch.no_grad()
def log_probs_of(trunk: Trunk, comparisons: Sequence[Comparison], batch_size: int) -> Tensor:
    """Compute :func:`pair_log_probs` in batches and without a gradient, ``[N, 2]``."""
    starts = range(0, len(comparisons), batch_size)
    return torch.cat([pair_log_probs(trunk, comparisons[start : start + batch_size]) for start in starts])


class _Learning:
    """State of a DPO training: model, optimiser, and the reference's log-probabilities.

    The reference is the model at construction, so that its log-probabilities are computed here, once.
    """

    def __init__(
        self, trunk: Trunk, comparisons: Sequence[Comparison], held_out: Sequence[Comparison], settings: DPOSettings
    ) -> None:
        self.trunk = trunk
        self.comparisons = comparisons
        self.held_out = held_out
        self.last: list[dict[str, Any]] = []  # rows of the last batch, for errors
        self.settings = settings
        self.reference = log_probs_of(trunk, comparisons, settings.batch_size)
        self.held_out_reference = log_probs_of(trunk, held_out, settings.batch_size)
        self.parameters = [p for p in trunk.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings.learning_rate, eps=1e-5)
        steps = settings.epochs * -(-len(comparisons) // settings.batch_size)
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.0, steps)

    def measured(self) -> dict[str, float]:
        """Measure the model on the held-out comparisons."""
        log_probs = log_probs_of(self.trunk, self.held_out, self.settings.batch_size)
        margins = implicit_margin(log_probs, self.held_out_reference, self.settings.beta)
        prompts = [content_key(pair.chosen.prompt.content) for pair in self.held_out]
        found = margin_summary(margins) | surety(margins, prompts)
        return {f"validation/{name}": value for name, value in found.items()}

    def epoch(self, order: IntArray) -> Tensor:
        """Train for one pass in the given order; return the margins ``[N]``, each from before the step on it."""
        margins = []
        for rows in np.split(order, range(self.settings.batch_size, len(order), self.settings.batch_size)):
            log_probs = pair_log_probs(self.trunk, [self.comparisons[row] for row in rows])
            reference, beta = self.reference[torch.from_numpy(rows)], self.settings.beta
            self.optimizer.zero_grad()
            loss = dpo_loss(log_probs, reference, beta).mean()
            loss.backward()
            norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm))
            self.last = [self.row(index) for index in rows.tolist()]
            with naming_batch(self.last):
                check_step(float(loss.detach()), norm, self.optimizer.param_groups[0]["lr"])
            self.optimizer.step()
            self.schedule.step()
            margins.append(implicit_margin(log_probs.detach(), reference, beta))
        return torch.cat(margins)

    def row(self, index: int) -> dict[str, Any]:
        """Return a comparison as its prompt's text and the token ids of its completions."""
        chosen, rejected = self.comparisons[index].chosen, self.comparisons[index].rejected
        return {"prompt": chosen.prompt.text, "chosen_ids": chosen.response_ids, "rejected_ids": rejected.response_ids}

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


def train_dpo(
    model: PreTrainedModel,
    comparisons: Sequence[Comparison],
    *,
    held_out: Sequence[Comparison],
    settings: DPOSettings | None = None,
    seed: int = 0,
    directory: Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[Sequence[EpochRow]], None] = lambda _: None,
    progress: bool = True,
) -> list[EpochRow]:
    """Train a model on comparisons in place, in eval mode; the reference is the model before training.

    If the model has adapters, only they are trained, and their initial values are part of the reference.

    Args:
        model: the model to train.
        comparisons: the training data.
        held_out: comparisons to measure before training and after each epoch.
        settings: settings of the training.
        seed: random seed of the order.
        directory: directory of the training state between epochs; None to keep none.
        resume: continue from the last complete epoch in ``directory``; the arguments must be those of the first call,
            and the model as it was then.
        on_epoch: called before training and after each epoch, with all rows so far.
        progress: True to show a progress bar.

    Returns:
        A row for each epoch, and one before training: ``validation/`` loss, margin and accuracy on ``held_out`` with
        the figures of :func:`surety`; ``train/`` loss, margin and accuracy, each from before the step on it.

    Raises:
        ValueError: comparisons are missing, or the model cannot read them (nothing was trained then); or the training
            state is damaged.
        TrainingError: training diverged.
    """
    settings = settings or DPOSettings()
    model = unwrapped(model)
    if is_adapted(model):
        train_adapters(model)
    trunk = Trunk(model.eval())
    _check_comparisons(trunk, comparisons, "comparisons")
    _check_comparisons(trunk, held_out, "held_out")
    check_causal(trunk, [pair.chosen for pair in comparisons])
    learning = _Learning(trunk, comparisons, held_out, settings)
    rows = _first_rows(learning, directory, resume)
    on_epoch(rows)
    bar = Progress(settings.epochs, "DPO", "epoch", done=len(rows) - 1, silent=not progress)
    for epoch in range(len(rows) - 1, settings.epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(comparisons))
        met = {f"train/{name}": value for name, value in margin_summary(learning.epoch(order)).items()}
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


def _check_comparisons(trunk: Trunk, comparisons: Sequence[Comparison], argument: str) -> None:
    if not comparisons:
        raise ValueError(f"{argument} is empty; expected at least one comparison")
    check_readable(
        trunk.model, [one for pair in comparisons for one in (pair.chosen, pair.rejected)], f"{argument}, text"
    )


def _first_rows(learning: _Learning, directory: Path | None, resume: bool) -> list[EpochRow]:
    """Return the row before training; when resuming, restore the state and return all rows so far."""
    if directory is not None and not resume:
        keep_only(directory, ())  # the state of another run
    found = last_whole(directory) if directory is not None else None
    return [{"iteration": 0, **learning.measured()}] if found is None else learning.load(found)
