"""Checks, before work starts, of the services that receive metrics."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from textgym.types import Service

WITHOUT_A_KEY = ("offline", "disabled", "dryrun")
"""Modes of Weights & Biases that need no API key."""


def check_services(names: Sequence[Service]) -> None:
    """Check that metrics can be sent without asking the user for anything.

    Args:
        names: services, each also the name of its package and of the extra that installs it.

    Raises:
        ValueError: a package is missing, or Weights & Biases has no key; the message names the fix.
    """
    for name in names:
        if find_spec(name) is None:
            raise ValueError(f"log={name}: the package {name} is not installed; pip install 'textgym[{name}]'")
    if "wandb" in names:
        _check_key()


def _check_key() -> None:
    import wandb

    client: Any = wandb
    if client.setup().settings.mode not in WITHOUT_A_KEY and not client.login(prompt=False, verify=False):
        raise ValueError(
            "log=wandb: no API key is configured. Run 'wandb login' once, or set WANDB_API_KEY; with "
            "WANDB_MODE=offline the metrics stay in the run's directory, for 'wandb sync' later"
        )
