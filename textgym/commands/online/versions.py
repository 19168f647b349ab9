"""Reward models of a run: ``reward/v0001``, …, each trained from the beginning on the first answers.

A version is a function of the run's settings and the answers up to a number, and of nothing else: it can be trained
again at any time, with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from textgym.agents.loop.kept import saved_iteration
from textgym.commands.configs.online import OnlineRewardModelPart
from textgym.commands.learner import open_learner, single_turn_task
from textgym.commands.online.schedule import Version, read_schedule
from textgym.files import (
    fingerprint,
    read_json,
    read_text,
    remove_directory,
    replaced_directory,
    settle_all,
    write_json,
    write_text,
)
from textgym.labelling.store import Answer, LabelStore
from textgym.lm.guards import TrainingError
from textgym.rewards.labels.preferences import untied_pairs
from textgym.rewards.labels.schedules import initial_labels
from textgym.rewards.models.ensemble import RewardEnsemble, load_reward_model
from textgym.rewards.models.model import RewardModel
from textgym.rewards.models.training import encode_preferences, fit
from textgym.rows import Screening
from textgym.runs import CHECKPOINT
from textgym.types import SpecialTokens

REWARD, CURRENT, ABOUT = "reward", "CURRENT", "version.json"


@dataclass(frozen=True)
class RewardTrainer:
    """Trains the versions of a run.

    Attributes:
        run: the run's directory.
        lm: the members begin as copies of it.
        tokenizer: its own.
        settings: settings of the training.
        special_tokens: treatment of strings of special tokens.
        seed: the run's seed.
        retrain_after: new answers that order some pair, after which a version is due.
        total: number of questions in all; one more version is due when all are answered.
        initial: number of questions whose answers the first version needs.
    """

    run: Path
    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: OnlineRewardModelPart
    special_tokens: SpecialTokens
    seed: int
    retrain_after: int
    total: int
    initial: int

    def is_due(self, store: LabelStore, newest: Version | None, answers: int) -> bool:
        """Return True if the answers up to a number are enough for a version after the newest."""
        given = store.answers(answers)
        answered = len({answer.question for answer in given})
        if newest is None:
            return answered >= min(self.initial, len(store.ids())) > 0 and any(map(orders_some, given))
        # Skipped questions and undone answers have numbers, too, and nothing is learned from them.
        new = sum(1 for answer in given if orders_some(answer) and (answer.number or 0) > newest.answers)
        if new >= self.retrain_after:
            return True
        if not new or answered < self.total:
            return False
        # The last answers make one more version, and further ones to the same questions do not.
        return len({answer.question for answer in store.answers(newest.answers)}) < self.total

    def train(self, store: LabelStore, number: int, answers: int, go_on: Callable[[], None] = lambda: None) -> Version:
        """Train a version on the answers up to a number, and write it, completely or not at all.

        A version that stands there already, of these answers, is kept.

        Args:
            store: the answers.
            number: number of the version.
            answers: number of the last answer.
            go_on: called before anything is written; raises if nothing may be written any more.

        Raises:
            TrainingError: the answers rank nothing, or training diverged.
        """
        place, standing = version_directory(self.run, number), read_version(self.run, number)
        if standing is not None and standing.answers == answers:
            return standing
        rankings = usable(store, answers)
        if not rankings:
            raise TrainingError(f"the first {answers} answers rank nothing, as all are ties or were skipped")
        members = tuple(self._member(i, rankings) for i in range(self.settings.ensemble))
        ensemble = RewardEnsemble(members, self.settings.combine, self.settings.uncertainty_weight)
        go_on()
        with replaced_directory(place) as scratch:
            ensemble.save(scratch / CHECKPOINT)
            digest = fingerprint(scratch / CHECKPOINT)
            version = Version(number, answers, len(rankings), digest)
            write_json(scratch / ABOUT, asdict(version))
        return version

    def _member(self, index: int, rankings: Any) -> RewardModel:
        seed = int(np.random.SeedSequence([self.seed, index]).generate_state(1)[0])
        generator = torch.Generator().manual_seed(seed)
        member = RewardModel.from_causal_lm(self.lm, self.tokenizer, generator)
        member.set_special_tokens(self.special_tokens)
        examples = encode_preferences(member, rankings, "labels", Screening("left", 0))
        fit(member, examples, self.settings, generator, progress=False)
        return member


def reward_trainer(run: Path, config: Mapping[str, Any]) -> RewardTrainer:
    """Return the trainer of a run, given its directory and its settings as ``config.json`` keeps them."""
    names = OnlineRewardModelPart.__dataclass_fields__
    task = None if config["task"] is None else single_turn_task(config["task"], config["model"], config["parameters"])
    learner = open_learner(config["model"], task)
    total, given = config["labels"]["count"], config["labels"]["retrain_after"]
    return RewardTrainer(
        run=run,
        lm=learner.model,
        tokenizer=learner.tokenizer,
        settings=OnlineRewardModelPart(**{name: config["reward_model"][name] for name in names}),
        special_tokens=config["special_tokens"],
        seed=config["seed"],
        retrain_after=initial_labels(total) if given is None else given,
        total=total,
        initial=initial_labels(total),
    )


def usable(store: LabelStore, answers: int) -> list[Any]:
    """Return the rankings up to an answer that order some pair."""
    return [ranking for ranking in store.rankings(answers) if untied_pairs(ranking.ranks)]


def orders_some(answer: Answer) -> bool:
    """Return True if an answer orders some pair."""
    return answer.ranks is not None and bool(untied_pairs(answer.ranks))


# --- files ---------------------------------------------------------------------------------------------------------


def version_directory(run: Path, number: int) -> Path:
    """Return the directory of a version."""
    return run / REWARD / f"v{number:04d}"


def read_version(run: Path, number: int) -> Version | None:
    """Read the description of a version; None if it was not trained yet."""
    path = version_directory(run, number) / ABOUT
    if not path.is_file():
        return None
    return Version(**read_json(path))


def newest_version(run: Path) -> Version | None:
    """Return the version that ``CURRENT`` names; None before the first."""
    path = run / REWARD / CURRENT
    return read_version(run, int(read_text(path).strip().removeprefix("v"))) if path.is_file() else None


def publish(run: Path, version: Version) -> None:
    """Name a version, which is complete, as the newest."""
    write_text(run / REWARD / CURRENT, f"{version_directory(run, version.number).name}\n")


def forget_versions(run: Path) -> None:
    """Remove the versions that the run takes no more, even if it is resumed; the lock must be held."""
    try:
        saved = saved_iteration(run / CHECKPOINT) or 0
    except FileNotFoundError:  # another process replaces the checkpoint just now
        return
    rows = read_schedule(run)
    if not rows or saved > len(rows):
        return
    # A run that is resumed begins with the row before its checkpoint, and numbers in the schedule never fall.
    oldest = rows[max(1, saved) - 1].reward
    for path in (run / REWARD).glob("v*"):
        if int(path.name.removeprefix("v")) < oldest:
            remove_directory(path)


def open_version(run: Path, version: Version) -> RewardEnsemble:
    """Load a version.

    Raises:
        ValueError: its files are not those that were trained.
    """
    directory = version_directory(run, version.number) / CHECKPOINT
    if (found := fingerprint(directory)) != version.digest:
        raise ValueError(
            f"{str(directory)!r} has changed since it was trained (SHA-256 {version.digest[:12]}… then, "
            f"{found[:12]}… now); remove it, and it is trained again from the answers"
        )
    ensemble = load_reward_model(directory)
    assert isinstance(ensemble, RewardEnsemble), "a version is saved as an ensemble, of one member too"
    return ensemble


def held_versions(run: Path) -> FileLock:
    """Return the lock of the one process that writes versions."""
    (run / REWARD).mkdir(exist_ok=True)
    return FileLock(run / REWARD / ".lock")


def settle_versions(run: Path) -> None:
    """Clean up after a killed trainer; the lock must be held."""
    settle_all(run / REWARD)
