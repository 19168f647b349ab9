"""Running a model with some of its modules' outputs given instead of computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def giving(modules: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Inside, the modules return ``output`` and compute nothing; afterwards they are as they were."""
    own = [module.__dict__.get("forward") for module in modules]
    for module in modules:
        module.forward = lambda *_, **__: output
    try:
        yield
    finally:
        for module, forward in zip(modules, own, strict=True):
            del module.forward
            if forward is not None:
                module.forward = forward
