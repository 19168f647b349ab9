"""Kahneman–Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306): learning from completions with a label.

No pairs are needed: each completion y of a prompt x is desirable or undesirable. With r = log(π(y|x)/π_ref(y|x)),

    L = mean of λ_y − v,   v = λ_D·σ(β·(r − z)) if y is desirable,   v = λ_U·σ(β·(z − r)) if it is undesirable

(equation 8). The reference point z stands for the KL of π from π_ref: it is the mean log-ratio of a batch's prompts
with completions of other rows of the batch, at least 0. No gradient flows through it. Each prompt gets the completion
of the row before it, as in TRL; where such a text exceeds the model's context, it loses its end.

The loss saturates on both sides of z. Where labels of one completion disagree, its minimum is the majority's label,
while DPO and IPO fit the share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from textgym.agents.offline.data import Demonstration
from textgym.agents.offline.preference_loop import Objective, learn_preferences
from textgym.agents.offline.preference_settings import KTOSettings
from textgym.agents.offline.preferences import LabelledCompletion, require_both_labels
from textgym.agents.offline.sft_settings import EpochRow
from textgym.lm.files.loading import context_length


def kto_loss(log_ratios: Tensor, desirable: Tensor, background: Tensor, settings: KTOSettings) -> Tensor:
    """Compute λ_y − v, ``[n]``: equation 8 of Ethayarajh 2024.

    Args:
        log_ratios: ``[n]`` r, log π − log π_ref of the completions.
        desirable: ``[n]`` bool.
        background: ``[m]`` log-ratios of the prompts with other completions.
        settings: β, λ_D and λ_U.
    """
    z = background.detach().mean().clamp(min=0)
    gains = torch.where(desirable, log_ratios - z, z - log_ratios)
    weights = torch.where(desirable, settings.desirable_weight, settings.undesirable_weight)
    return weights * torch.sigmoid(-settings.beta * gains)  # 1 − σ(x) = σ(−x)


def mismatched(batch: Sequence[LabelledCompletion], limit: int | None) -> list[Demonstration]:
    """Return each prompt of a batch with the completion of the row before it, the first with that of the last, ``[n]``.

    Args:
        batch: at least two completions.
        limit: the model's context in tokens, or None; longer texts lose their end.
    """
    others = [*batch[-1:], *batch[:-1]]
    rooms = [None if limit is None else limit - len(one.shown.prompt.ids) for one in batch]
    return [
        replace(one.shown, response_ids=other.shown.response_ids[:room])
        for one, other, room in zip(batch, others, rooms, strict=True)
    ]


def label_measures(rewards: Tensor, desirable: Tensor) -> dict[str, Tensor]:
    """Return values ``[n]`` whose means are margin and accuracy, and whose deviations give their errors.

    The margin is the mean reward of desirable completions minus that of undesirable ones. The accuracy is the share of
    all pairs of a desirable and an undesirable completion in which the desirable one has the higher reward; ties count
    ½, so that chance is ½ whatever the share of labels. Deviations are influence functions (Obuchowski 1997 for the
    accuracy, the area under the ROC curve).

    Args:
        rewards: ``[n]`` implied rewards, β·r.
        desirable: ``[n]`` bool, with both values.
    """
    rewards = rewards.double()
    signed = torch.where(desirable, rewards, -rewards)
    placed = torch.empty_like(rewards)
    good, bad = rewards[desirable], rewards[~desirable]
    placed[desirable], placed[~desirable] = _share_below(good, bad), 1 - _share_below(bad, good)
    margin = signed[desirable].mean() + signed[~desirable].mean()
    return {
        "margin": margin + _influences(signed, desirable),
        "accuracy": placed[desirable].mean() + _influences(placed, desirable),
    }


def _share_below(values: Tensor, others: Tensor) -> Tensor:
    """Return for each value the share of other ones below it; equal ones count ½."""
    ordered = others.sort().values
    below, up_to = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    return (below + up_to).double() / (2 * len(others))


def _influences(values: Tensor, desirable: Tensor) -> Tensor:
    """Return the influence of each value on the sum of both labels' means, ``[n]``; their mean is 0."""
    found = torch.empty_like(values)
    for of_label in (desirable, ~desirable):
        own = values[of_label]
        found[of_label] = (own - own.mean()) * len(values) / len(own)
    return found


def label_objective(settings: KTOSettings, limit: int | None) -> Objective[LabelledCompletion]:
    """Return the objective of KTO for a model with a context of ``limit`` tokens; None for no limit."""

    def labels(batch: Sequence[LabelledCompletion], like: Tensor) -> Tensor:
        return torch.tensor([one.desirable for one in batch], device=like.device)

    return Objective(
        "KTO",
        data="labelled",
        counted="completions",
        loss=lambda batch, ours, reference, background: kto_loss(
            (ours - reference)[:, 0], labels(batch, ours), background, settings
        ),
        measures=lambda batch, ours, reference: label_measures(
            settings.beta * (ours - reference)[:, 0], labels(batch, ours)
        ),
        background=lambda batch: mismatched(batch, limit),
        least=2,
    )


def train_kto(
    model: PreTrainedModel,
    labelled: Sequence[LabelledCompletion],
    *,
    held_out: Sequence[LabelledCompletion],
    settings: KTOSettings | None = None,
    seed: int = 0,
    directory: Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[Sequence[EpochRow]], None] = lambda _: None,
    progress: bool = True,
) -> list[EpochRow]:
    """Train a model on labelled completions in place, in eval mode; the reference is the model before training.

    Args:
        model: the model to train.
        labelled: the training data, with both labels.
        held_out: completions with both labels to measure before training and after each epoch.
        settings: settings of the training.
        seed: random seed of the order, and of who is paired with whom on ``held_out``.
        directory: as in :func:`textgym.agents.offline.dpo.train_dpo`, and so are the others.
        resume: continue from the last complete epoch in ``directory``.
        on_epoch: called before training and after each epoch, with all rows so far.
        progress: True to show a progress bar.

    Returns:
        Rows as of :func:`textgym.agents.offline.dpo.train_dpo`; for margin and accuracy see :func:`label_measures`.

    Raises:
        ValueError: completions or a label are missing, or the model cannot read them (nothing was trained then); or the
            training state is damaged.
        TrainingError: training diverged.
    """
    settings = settings or KTOSettings()
    require_both_labels(labelled, "labelled")
    require_both_labels(held_out, "held_out")
    # In the order of a file, neighbours may have the same prompt.
    shuffled = [held_out[row] for row in np.random.default_rng(seed).permutation(len(held_out))]
    return learn_preferences(
        model,
        label_objective(settings, context_length(model)),
        labelled,
        shuffled,
        settings,
        seed=seed,
        directory=directory,
        resume=resume,
        on_epoch=on_epoch,
        progress=progress,
    )
