"""The settings of the experiment: one set of hyper-parameters for all tasks and algorithms."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from textgym.agents.names import find_algorithm


@dataclass(frozen=True)
class Settings:
    """The same on every task; β alone is the task's. None stands for the algorithm's own value.

    Attributes:
        algorithm: its name.
        episodes: responses in a run: the budget.
        learning_rate: Adam's, decaying linearly to 0. Large, as the models are tiny.
        episodes_per_iteration: responses between updates.
        minibatch_size: responses in a gradient step.
        n_epochs: passes over an iteration's responses.
        samples_per_prompt: k of the group algorithms, n of best-of-n.
        vf_coef: weight of the value loss, where there is a critic.
    """

    algorithm: str = "ppo"
    episodes: int = 4096
    learning_rate: float = 3e-3
    episodes_per_iteration: int = 256
    minibatch_size: int = 128
    n_epochs: int | None = None
    samples_per_prompt: int | None = None
    vf_coef: float = 0.5

    def arguments(self) -> dict[str, Any]:
        """What the algorithm's constructor is given."""
        kind = find_algorithm(self.algorithm)
        known = {field.name for field in fields(kind.settings_class)} | {"learning_rate"}
        return {name: value for name, value in asdict(self).items() if name in known and value is not None}
