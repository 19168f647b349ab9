"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290): preferences learned without sampling.

Under the optimum of the KL-regularised objective, r(y) = β·log(π(y)/π_ref(y)) + a constant of the prompt. Put into the
Bradley–Terry likelihood of "chosen before rejected", that is a loss of the policy itself.
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
from textgym.lm.finite import TrainingError, check_step, check_trained, naming_batch
from textgym.lm.lora import is_adapted, train_adapters, unwrapped
from textgym.lm.optimizer_state import load_optimizer, optimizer_state
from textgym.lm.scoring import Trunk
from textgym.progress import Progress, short
from textgym.prompts import content_key
from textgym.types import IntArray


def implicit_margin(log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    """``[n]`` how much more reward the policy implies for the chosen completion than for the rejected one.

    Args:
        log_probs: ``[n, 2]`` log π of chosen and rejected, summed over completion and end token.
        ref_log_probs: ``[n, 2]`` the same of the reference.
        beta: β.
    """
    rewards = beta * (log_probs - ref_log_probs)
    return rewards[:, 0] - rewards[:, 1]


def dpo_loss(log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    """``[n]`` −log σ(margin): equation 7 of Rafailov 2023. Arguments as :func:`implicit_margin`."""
    return -logsigmoid(implicit_margin(log_probs, ref_log_probs, beta))


def pair_log_probs(trunk: Trunk, comparisons: Sequence[Comparison]) -> Tensor:
    """``[n, 2]`` log π of chosen and rejected completions, all in one pass."""
    shown = [one for comparison in comparisons for one in (comparison.chosen, comparison.rejected)]
    return log_likelihood(trunk, shown)[0].sum(1).view(-1, 2)


def summary(margins: Tensor) -> dict[str, float]:
    """Mean loss and margin, and how often the chosen one is given more reward; equal ones count ½."""
    return {name: float(values.mean()) for name, values in _measures(margins).items()}


def _measures(margins: Tensor) -> dict[str, Tensor]:
    """``[n]`` of each measure of comparisons."""
    accuracy = (margins > 0).double() + 0.5 * (margins == 0).double()
    return {"loss": -logsigmoid(margins), "margin": margins, "accuracy": accuracy}


def surety(margins: Tensor, prompts: Sequence[Hashable]) -> dict[str, float]:
    """Return how many prompts the margins are of, and with two or more how sure :func:`summary` is of them.

    Args:
        margins: ``[n]``.
        prompts: ``[n]`` which prompt each is of; those of one prompt are alike.

    Returns:
        ``prompts``, ``pairs``, standard errors over prompts of all three as ``…_sem``, and the ends of the accuracy's
        95 % interval, ``accuracy_low`` and ``accuracy_high``.
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
    """``[N, 2]`` as :func:`pair_log_probs`, in batches and without a gradient."""
    starts = range(0, len(comparisons), batch_size)
    return torch.cat([pair_log_probs(trunk, comparisons[start : start + batch_size]) for start in starts])


class _Learning:
    """A model, its optimiser, and what its reference says of the comparisons; that is the model as it is now."""

    def __init__(
        self, trunk: Trunk, comparisons: Sequence[Comparison], held_out: Sequence[Comparison], settings: DPOSettings
    ) -> None:
        self.trunk = trunk
        self.comparisons = comparisons
        self.held_out = held_out
        self.last: list[dict[str, Any]] = []  # the last batch, in rows
        self.settings = settings
        self.reference = log_probs_of(trunk, comparisons, settings.batch_size)
        self.held_out_reference = log_probs_of(trunk, held_out, settings.batch_size)
        self.parameters = [p for p in trunk.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings.learning_rate, eps=1e-5)
        steps = settings.epochs * -(-len(comparisons) // settings.batch_size)
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.0, steps)

    def measured(self) -> dict[str, float]:
        """Return the held-out comparisons, as the model sees them now."""
        log_probs = log_probs_of(self.trunk, self.held_out, self.settings.batch_size)
        margins = implicit_margin(log_probs, self.held_out_reference, self.settings.beta)
        prompts = [content_key(pair.chosen.prompt.content) for pair in self.held_out]
        found = summary(margins) | surety(margins, prompts)
        return {f"validation/{name}": value for name, value in found.items()}

    def epoch(self, order: IntArray) -> Tensor:
        """One pass; the margins, each from just before the step that its comparison was in."""
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
        """Keep what the next epoch depends on, and the rows up to now; the epoch before is removed."""
        epoch = round(rows[-1]["iteration"])
        tensors, groups = optimizer_state(self.optimizer)
        with replaced_directory(checkpoint_path(directory, epoch)) as scratch:
            save_model(self.trunk.model, str(scratch / "model.safetensors"))
            save_file(tensors, scratch / "optimizer.safetensors")
            state = {"rows": list(rows), "optimizer_groups": groups, "schedule": self.schedule.state_dict()}
            write_json(scratch / "state.json", state)
        keep_only(directory, (epoch,))

    def load(self, path: Path) -> list[EpochRow]:
        """Put back what :meth:`save` kept; its rows."""
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
    """Trains a model in place, in eval mode; its reference is what it was before, whose log-probs are computed once.

    Of a model with adapters nothing else is trained, and they are part of the reference.

    Args:
        model: learns.
        comparisons: what it learns.
        held_out: comparisons that are measured before training and after each epoch.
        settings: of the training.
        seed: of the order.
        directory: where training state lies between epochs; nowhere unless given.
        resume: go on from the last whole epoch in ``directory``; the arguments must be those of the first call, the
            model as it was then.
        on_epoch: called before training and after each epoch, with all rows up to then.
        progress: show a progress bar.

    Returns:
        A row for each epoch, and one before training: ``validation/`` loss, margin and accuracy of what was held out
        with the figures of :func:`surety`, ``train/`` loss, margin and accuracy of the comparisons as they were met.

    Raises:
        ValueError: there is nothing to learn or to measure, or the model cannot read it; nothing was trained then.
            Or training diverged, or its state is damaged.
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
        met = {f"train/{name}": value for name, value in summary(learning.epoch(order)).items()}
        with naming_batch(learning.last):
            check_trained(trunk.model, settings.learning_rate, learning.optimizer)
            rows.append({"iteration": epoch + 1, **met, **learning.measured()})
            if not math.isfinite(rows[-1]["validation/loss"]):
                raise TrainingError(
                    f"training diverged: the loss after epoch {epoch + 1} is no number; lower learning_rate"
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
    check_readable(trunk, [one for pair in comparisons for one in (pair.chosen, pair.rejected)], f"{argument}, text")


def _first_rows(learning: _Learning, directory: Path | None, resume: bool) -> list[EpochRow]:
    """Return the row before training, or those up to where a run goes on."""
    if directory is not None and not resume:
        keep_only(directory, ())  # another run's
    found = last_whole(directory) if directory is not None else None
    return [{"iteration": 0, **learning.measured()}] if found is None else learning.load(found)
