"""Callbacks in stable-baselines3's sense."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

SHOWN = {"score": "rollout/score", "kl": "rollout/kl", "approx_kl": "train/approx_kl"}
"""The last iteration's figures in the progress bar: KL in nats per response, approx_kl in nats per token."""


class TokenProgressBar(BaseCallback):
    """Counts generated tokens, and shows the last iteration's score and KL.

    stable-baselines3's own bar counts every row, idle ones too.
    """

    bar: tqdm[Any]
    total: int

    def _on_training_start(self) -> None:
        self.total = int(self.locals["total_timesteps"])
        done = self.model.num_timesteps
        self.bar = tqdm(total=self.total, initial=done, unit="tok", unit_scale=True, desc="training")

    def _on_rollout_start(self) -> None:
        self._show_metrics()

    def _on_step(self) -> bool:
        # The last iteration may go beyond the total.
        self.bar.update(min(self.model.num_timesteps, self.total) - self.bar.n)
        return True

    def _on_training_end(self) -> None:
        self._show_metrics()
        self.bar.close()

    def _show_metrics(self) -> None:
        metrics: dict[str, float] = getattr(self.model, "metrics", {})
        found = {name: f"{metrics[key]:.3g}" for name, key in SHOWN.items() if key in metrics}
        if found:
            self.bar.set_postfix(found)
