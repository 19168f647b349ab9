"""Settings of ``textgym migrate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import tyro

Source: TypeAlias = Literal["rl4lms", "trl-ppo"]


@dataclass(frozen=True)
class MigrateConfig:
    """Convert the settings of another library into a file for --config, and list what becomes of each.

    Nothing is executed or downloaded: a script is only read.
    """

    source: tyro.conf.Positional[Source]
    """Library: 'rl4lms', or 'trl-ppo' for TRL's PPOConfig and PPOTrainer of any version."""
    file: tyro.conf.Positional[Path]
    """Its settings: a YAML file of RL4LMs; for TRL a Python script (.py), or a .yaml, .yml or .json file."""
    out: Path | None = None
    """File to write, which must not exist. Default: the converted file is printed, with the list in its comments."""
