"""The settings of the experiment: one set of hyper-parameters for all tasks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """PPO's settings, the same on every task; β alone is the task's.

    Attributes:
        episodes: responses in a run: the budget.
        learning_rate: Adam's, decaying linearly to 0. Large, as the models are tiny.
        episodes_per_iteration: responses between updates.
        minibatch_size: responses in a gradient step.
        n_epochs: passes over an iteration's responses.
        vf_coef: weight of the value loss.
    """

    episodes: int = 4096
    learning_rate: float = 3e-3
    episodes_per_iteration: int = 256
    minibatch_size: int = 128
    n_epochs: int = 4
    vf_coef: float = 0.5
