"""Callbacks in stable-baselines3's sense."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm


class TokenProgressBar(BaseCallback):
    """Counts generated tokens; stable-baselines3's own bar counts every row, idle ones too."""

    bar: tqdm[Any]
    total: int

    def _on_training_start(self) -> None:
        self.total = int(self.locals["total_timesteps"])
        done = self.model.num_timesteps
        self.bar = tqdm(total=self.total, initial=done, unit="tok", unit_scale=True, desc="training")

    def _on_step(self) -> bool:
        # The last iteration may go beyond the total.
        self.bar.update(min(self.model.num_timesteps, self.total) - self.bar.n)
        return True

    def _on_training_end(self) -> None:
        self.bar.close()
