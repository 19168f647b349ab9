"""Settings of a run, as ``config.json`` keeps them, and their comparison with present ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from textgym.agents.settings import FORMER, SETTINGS, Settings, effective, setting_names
from textgym.rows import NO_LIMIT

LATER: Mapping[str, Any] = {
    "skip_bad": 0,
    "special_tokens": "parse",
    "truncation": "error",
    "skip_special_tokens": True,
    "warmup_iterations": 0,
    "ent_coef": None,
    "eval_every": None,
    "keep_best": None,
    "credit": "token",
    "loss": "sigmoid",
    "kl_horizon": None,
    **dict.fromkeys(("error_rate", "threshold", "labels.error_rate", "labels.threshold"), 0.0),
    **FORMER,
}
"""Settings added in later versions, with the values that reproduce the behaviour of runs without them."""
MAY_DIFFER = ("log", "keep_last", "stop_score", "stop_kl", "stop_patience")
"""Settings that may change when a run is resumed: they affect logging and the end of the run, but no number."""
EXTENDED = "extended_from"
"""Key in ``config.json`` of the earlier token budgets of a run that was extended."""
ZERO_IS_NONE = ("target_kl", "ent_coef")
"""Settings for which 0 and None both mean "off"."""
FORMER_BETA = "kl_coef"
"""Name of β in the runs of version 0.1."""
NAMELESS = ("hyperparameters", "settings")  # sections whose settings are named without the section
NO_SETTINGS = ("versions", "inputs")


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Describe the settings that differ between a run's config and present ones; empty if none do."""
    # Through JSON, so that tuples and lists compare equal, as the old settings were read from a file.
    here = effective(_comparable(json.loads(json.dumps(new))))
    # A run of an earlier version lacks later settings; it behaved as if they had these values.
    there = effective({name: value for name, value in LATER.items() if name in here} | _comparable(old))
    changed = [key for key in sorted({*there, *here}) if there.get(key) != here.get(key)]
    return ", ".join(f"{key}: {there.get(key)!r} there, {here.get(key)!r} here" for key in changed)


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by name, normalised so that equivalent values are equal."""
    free = (*MAY_DIFFER, EXTENDED)
    found = {name: value for name, value in by_name(config).items() if name.rpartition(".")[2] not in free}
    return {**found, **{name: found.get(name) or None for name in ZERO_IS_NONE}}


def by_name(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by their present names.

    Earlier versions wrote ``bad_rows: skip`` for an unlimited ``skip_bad``.
    """
    settings = _with_own_settings(flat(config))
    former = [value for name, value in settings.items() if name.rpartition(".")[2] == "bad_rows"]
    kept = {name: value for name, value in settings.items() if name.rpartition(".")[2] != "bad_rows"}
    return {**({"skip_bad": NO_LIMIT if "skip" in former else 0} if former else {}), **kept}


def _with_own_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of version 0.1 as they are kept today; others as they are.

    There β was ``kl_coef``, and a run had the settings of all algorithms, with None for those that its algorithm lacks
    and, in stages of a pipeline, for its defaults.
    """
    for name in [name for name in settings if name.rpartition(".")[2] == FORMER_BETA]:
        part = name.removesuffix(FORMER_BETA)
        kind = SETTINGS.get(str(settings.get(f"{part}algorithm", "ppo")), Settings)
        own = asdict(kind())
        lacking = {
            f"{part}{other}"
            for other_kind in SETTINGS.values()
            for other in setting_names(other_kind)
            if other not in own
        }
        defaults = {f"{part}{other}": value for other, value in own.items()}
        settings = {
            f"{part}beta" if key == name else key: defaults.get(key) if value is None else value
            for key, value in settings.items()
            if key not in lacking
        }
    return settings


def flat(config: Mapping[str, Any], part: str = "") -> dict[str, Any]:
    """Return settings by their command-line names; those of a section are prefixed with its name and a dot."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if not isinstance(value, dict):
            found[part + name] = value
        elif name not in NO_SETTINGS:
            found |= flat(value, part if name in NAMELESS else f"{part}{name}.")
    return found
