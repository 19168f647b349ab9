"""Checks of an online run before it begins: its prompts, and the run that it replays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textgym.commands.configs.online import OnlineConfig
from textgym.commands.online.schedule import LABELS, SCHEDULE, check_store, read_schedule
from textgym.commands.pipeline.check import check_reward_models_context
from textgym.env.mdp import TokenMDP
from textgym.files import json_line, read_json
from textgym.labelling.store import LabelStore
from textgym.reports.settings import EXTENDED, changed_settings
from textgym.rewards.labels.schedules import initial_labels, labels_due
from textgym.runs.directory import CONFIG, is_run, versions
from textgym.runs.inputs import changed_inputs

FREE = ("replay", "background", "page", "checkpoint_every")
"""Settings that a replay may have of its own: they change no parameter."""


def check_questions(config: OnlineConfig, mdp: TokenMDP, limit: int | None) -> None:
    """Check that there are prompts for all questions that are asked at once, and that they can be read and stored.

    Args:
        config: the settings.
        mdp: the prompts.
        limit: greatest number of tokens that the model accepts; None for no limit.

    Raises:
        ValueError: there are too few prompts, another side replies, a text is too long, or a column is not JSON.
    """
    if mdp.world is not None:
        raise ValueError(
            f"task={config.task!r} has a world ({type(mdp.world).__name__}), and questions are about single responses; "
            "use another task"
        )
    check_reward_models_context(mdp, limit)
    total, prompts = config.labels.count, len(mdp.prompts)
    most = config.hyperparameters.episodes_per_iteration * mdp.max_new_tokens
    first = initial_labels(total)
    # The rate of questions never rises, so no later iteration asks for more at once than the first.
    at_once = max(first, labels_due(total, min(1.0, most / config.total_timesteps), config.labels.schedule) - first)
    if at_once > prompts:
        raise ValueError(
            f"labels.count={total} asks {at_once} questions at once, each about another prompt, and there are "
            f"{prompts} prompts; lower it, or pass more prompts"
        )
    for number, prompt in enumerate(mdp.prompts, start=1):
        try:
            json_line(dict(prompt.columns))
        except (TypeError, ValueError) as error:
            raise ValueError(f"prompt {number}: its columns cannot be stored beside the question: {error}") from error


def check_replay(run: Path, out: Path, about: Mapping[str, Any]) -> None:
    """Check that a run can be replayed with the present settings, inputs and packages.

    Args:
        run: the run.
        out: the directory of its replay.
        about: the present settings.

    Raises:
        ValueError: it is no run of this command, had other settings, inputs or packages, was extended, lies in ``out``,
            or lacks its schedule or answers.
    """
    if run.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"replay={str(run)!r} lies in out={str(out)!r}, where the replay is written; pass another out")
    kept = read_json(run / CONFIG) if is_run(run) else {}
    if kept.get("command") != "online":
        raise ValueError(f"replay={str(run)!r} is not a run of textgym online; expected the directory of one")
    here, there = ({name: value for name, value in own.items() if name not in FREE} for own in (about, kept))
    if difference := changed_settings(there, here):
        raise ValueError(f"replay={str(run)!r} has other settings ({difference}); repeat the run's own")
    if EXTENDED in kept:
        raise ValueError(
            f"replay={str(run)!r} was extended from {kept[EXTENDED][0]} to {kept['total_timesteps']} tokens, and its "
            "learning rate and questions were planned for fewer before; replay a run that was made in one piece"
        )
    if edited := changed_inputs(kept.get("inputs"), about):
        raise ValueError(f"replay={str(run)!r}: {edited} has changed since the run began; restore it")
    now = versions()
    if changed := [
        f"{name} {there} there, {now.get(name)} here"
        for name, there in kept["versions"].items()
        if now.get(name) != there
    ]:
        raise ValueError(f"replay={str(run)!r} was made by other versions ({', '.join(changed)}); install those")
    if not (run / LABELS).is_file() or not read_schedule(run):
        raise ValueError(f"replay={str(run)!r} has no {LABELS} or no {SCHEDULE}; it ended before its first iteration")
    check_answers(run)


def check_answers(run: Path) -> None:
    """Check that a run's database belongs to its schedule; see :func:`check_store`."""
    if not (run / LABELS).is_file():
        return
    with LabelStore(run / LABELS) as store:
        check_store(store, read_schedule(run))
