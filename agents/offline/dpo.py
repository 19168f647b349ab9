"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290) and IPO (Azar et al. 2023, arXiv:2310.12036).

Both learn from comparisons without sampling. With y_c the chosen and y_r the rejected completion, let

    h = [log π(y_c|x) − log π_ref(y_c|x)] − [log π(y_r|x) − log π_ref(y_r|x)]

*DPO* (``loss="sigmoid"``). At the optimum of the KL-regularised objective, r(x, y) = β·log(π(y|x)/π_ref(y|x)) + c(x).
Inserted into the Bradley–Terry likelihood of "chosen over rejected", this gives the loss −log σ(β·h). If a share p of
the labels prefers y_c, its minimum is at h = log(p/(1 − p))/β. If all do, it has none: h grows without bound, whatever
β is.

*IPO* (``loss="ipo"``). The loss is (h − 1/(2β))², equation 17 with τ = β. Its minimum is at h = (2p − 1)/(2β), which
is 1/(2β) where all labels agree. log π is the sum over a completion's tokens, as in the paper, so that β is a price
per response, as everywhere in this library. TRL divides each log-ratio by the number of tokens; for completions of T
tokens its loss at β is 1/T² times this one at β/T.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from textgym.agents.offline.preference_loop import Objective, learn_preferences
from textgym.agents.offline.preference_settings import DPOSettings, PairLoss
from textgym.agents.offline.preferences import Comparison
from textgym.agents.offline.sft_settings import EpochRow


def implicit_margin(log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    """Compute the implied reward of the chosen completion minus that of the rejected one, β·h, ``[n]``.

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


def ipo_loss(log_probs: Tensor, ref_log_probs: Tensor, beta: float) -> Tensor:
    """Compute the loss (h − 1/(2β))², ``[n]``: equation 17 of Azar 2023. Arguments as :func:`implicit_margin`."""
    return (implicit_margin(log_probs, ref_log_probs, 1.0) - 1 / (2 * beta)).square()


LOSSES: Mapping[PairLoss, Callable[[Tensor, Tensor, float], Tensor]] = {"sigmoid": dpo_loss, "ipo": ipo_loss}
LOSS_NAMES: Mapping[PairLoss, str] = {"sigmoid": "dpo", "ipo": "ipo"}
"""The algorithm of each loss."""


def margin_measures(margins: Tensor) -> dict[str, Tensor]:
    """Return each comparison's margin and accuracy, ``[n]``: 1 for a positive margin, ½ for zero, 0 for a negative."""
    return {"margin": margins, "accuracy": (margins > 0).double() + 0.5 * (margins == 0).double()}


def pair_objective(settings: DPOSettings) -> Objective[Comparison]:
    """Return the objective of DPO or IPO."""
    loss = LOSSES[settings.loss]
    return Objective(
        LOSS_NAMES[settings.loss].upper(),
        data="comparisons",
        counted="pairs",
        loss=lambda _, ours, reference, __: loss(ours, reference, settings.beta),
        measures=lambda _, ours, reference: margin_measures(implicit_margin(ours, reference, settings.beta)),
    )


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
        the figures of :func:`textgym.agents.offline.preference_loop.surety`; ``train/`` loss, margin and accuracy,
        each from before the step on it.

    Raises:
        ValueError: comparisons are missing, or the model cannot read them (nothing was trained then); or the training
            state is damaged.
        TrainingError: training diverged.
    """
    settings = settings or DPOSettings()
    return learn_preferences(
        model,
        pair_objective(settings),
        comparisons,
        held_out,
        settings,
        seed=seed,
        directory=directory,
        resume=resume,
        on_epoch=on_epoch,
        progress=progress,
    )
