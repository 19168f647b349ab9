"""Detection of changed weights, so that results computed with the old ones can be discarded."""

from __future__ import annotations

from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

_optimizer_steps = 0


def _count_step(*_: object) -> None:
    global _optimizer_steps
    _optimizer_steps += 1


# Fused optimisers write to memory without raising torch's version counters, so steps are counted too.
register_optimizer_step_post_hook(_count_step)


class WeightsWatch:
    """Detector of changes to a model's present parameters.

    It detects steps of any torch optimiser, loaded states, in-place edits and reassigned ``data``, but not in-place
    edits of ``parameter.data``, which leave no trace.

    Args:
        model: a module.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = tuple(model.parameters())  # collected once: walking the modules costs as much as a layer
        self._seen: tuple[object, ...] = ()

    def changed(self) -> bool:
        """Return True if the weights may have changed since the last call; True at the first."""
        state = (_optimizer_steps, *((p._version, p.data_ptr()) for p in self._parameters))
        changed, self._seen = state != self._seen, state
        return changed
