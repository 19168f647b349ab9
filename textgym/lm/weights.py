"""Noticing that a model's weights changed, so that what was computed with them can be thrown away."""

from __future__ import annotations

from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

_optimizer_steps = 0


def _count_step(*_: object) -> None:
    global _optimizer_steps
    _optimizer_steps += 1


# Fused optimisers write past torch's version counters.
register_optimizer_step_post_hook(_count_step)


class WeightsWatch:
    """Watches the parameters that a model has now.

    Sees steps of any torch optimiser, loaded states, in-place edits and reassigned ``data``; not in-place edits of
    ``parameter.data``, which leave no trace.

    Args:
        model: a module.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = tuple(model.parameters())  # walking the modules at each token would cost as much as a layer
        self._seen: tuple[object, ...] = ()

    def changed(self) -> bool:
        """Whether anything happened since the last call; True at the first."""
        state = (_optimizer_steps, *((p._version, p.data_ptr()) for p in self._parameters))
        changed, self._seen = state != self._seen, state
        return changed
