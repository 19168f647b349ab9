"""The learner's side of an online run: what it does before each iteration."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.evaluation import sample_responses
from textgym.commands.configs.online import OnlineConfig
from textgym.commands.online.labeller import RewardLabeller
from textgym.commands.online.reward import CurrentReward
from textgym.commands.online.roles import POLL
from textgym.commands.online.schedule import (
    SCHEDULE,
    ScheduleRow,
    Version,
    read_schedule,
    schedule_row,
    write_schedule,
)
from textgym.commands.online.versions import (
    RewardTrainer,
    forget_versions,
    newest_version,
    open_version,
    publish,
    usable,
)
from textgym.env.mdp import TokenMDP
from textgym.files import read_json_lines, write_json_lines
from textgym.labelling.store import LabelStore, question_id
from textgym.lm.guards import TrainingError
from textgym.prompts import plain_content
from textgym.rewards.builtin import no_reward
from textgym.rewards.labels.acquisition import choose
from textgym.rewards.labels.labelling import Question, questions
from textgym.rewards.labels.schedules import initial_labels, labels_due
from textgym.rewards.models.ensemble import RewardEnsemble
from textgym.rewards.models.normalised import member_scores, normalise
from textgym.types import FloatArray

REFERENCE_SAMPLES = "reference.jsonl"
NORMALISED_ON = 256
"""Samples on which each version gets mean 0 and standard deviation 1 (Ziegler 2019)."""
ASKING, CHOOSING, NORMALISING = 2, 3, 4
"""Keys of random streams beside the run's seed."""


@dataclass(frozen=True)
class Turns:
    """Roles that take turns with the learner in its own process; both are None if they work in processes of their own.

    Attributes:
        labeller: answers questions; None in a replay, too, in which no question is asked.
        trainer: trains reward models.
    """

    labeller: RewardLabeller | None
    trainer: RewardTrainer | None


class OnlineLearner:
    """Asks questions, takes reward models, and writes down which iteration took which.

    Rows of the schedule that stand already, of a run that is resumed or replayed, are followed and not decided again.

    Args:
        config: the run's settings.
        algorithm: the algorithm, new or at its last checkpoint.
        reward: the reward of its environment.
        mdp: the prompts.
        store: questions and answers.
        turns: the roles in this process.
        check_roles: raises if a role in another process has ended.
    """

    def __init__(
        self,
        config: OnlineConfig,
        algorithm: SequenceAlgorithm,
        reward: CurrentReward,
        mdp: TokenMDP,
        store: LabelStore,
        turns: Turns,
        check_roles: Callable[[], None],
    ) -> None:
        self.config = config
        self.run, self.part = config.out, config.labels
        self.algorithm = algorithm
        self.reward = reward
        self.mdp = replace(mdp, reward=no_reward)
        self.store = store
        self.turns = turns
        self.check_roles = check_roles
        self.rows: list[ScheduleRow] = read_schedule(self.run)
        self.asked = 0
        self.ensemble: RewardEnsemble | None = None

    # --- an iteration ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take the reward model of the iteration before the present one; in a new run wait for the first answers."""
        self.reference = self._reference()
        if self.algorithm.iteration > len(self.rows):
            raise ValueError(
                f"{str(self.run / SCHEDULE)!r} lists {len(self.rows)} iterations, and the checkpoint is one after "
                f"{self.algorithm.iteration}; put the run's own file back, or begin anew with --overwrite"
            )
        if self.rows:
            self._take(self.rows[max(1, self.algorithm.iteration) - 1])
            return
        self._ask_first()
        version = self._first_version()
        self._use(version)
        self.settle(0)

    def settle(self, iteration: int) -> bool:
        """Settle which reward model an iteration takes, and ask the questions that are due; False if a replay is over.

        An iteration is expected to have at most as many tokens as its responses may have, so that the last label is
        asked for before the last iteration.
        """
        if iteration < len(self.rows):
            self._take(self.rows[iteration])
            return True
        if self.config.replay is not None:
            return False
        self.check_roles()
        if self.turns.trainer is None:
            self._use(self._newest())
        most = self.algorithm.settings.episodes_per_iteration * self.mdp.max_new_tokens
        share = min(1.0, (self.algorithm.boundary_timesteps + most) / self.config.total_timesteps)
        self._ask(labels_due(self.part.count, share, self.part.schedule), iteration)
        self._take_turns()
        assert self.reward.version is not None
        row = schedule_row(iteration, self.reward.version, self.store.ids()[: self.asked])
        self.rows.append(row)
        write_schedule(self.run, self.rows)
        return True

    def _take(self, row: ScheduleRow) -> None:
        if self.turns.trainer is not None:
            self._train_again(self.turns.trainer, row)
        self.asked = row.asked
        self._use(row.version)

    def _use(self, version: Version) -> None:
        if version == self.reward.version:
            return
        self.ensemble = open_version(self.run, version)
        texts = self.reference
        samples = ([row[name] for row in texts] for name in ("prompt", "completion", "ended"))
        self.reward.use(normalise(self.ensemble, *samples), version)
        if self.turns.trainer is not None:
            forget_versions(self.run)

    def _newest(self) -> Version:
        version = newest_version(self.run)
        assert version is not None, "the learner waited for the first"
        return version

    def _take_turns(self) -> None:
        """Let the roles in this process answer all questions, and train if that is due."""
        labeller, trainer = self.turns.labeller, self.turns.trainer
        if labeller is None or trainer is None:
            return
        # Each question has one answer here, so both have one number. Later ones, of a process that died after
        # asking, are left for their own iterations.
        labeller.answer(self.store)
        newest = self.reward.version
        if trainer.is_due(self.store, newest, self.asked):
            number = 1 if newest is None else newest.number + 1
            version = trainer.train(self.store, number, self.asked)
            publish(self.run, version)
            self._use(version)

    def _train_again(self, trainer: RewardTrainer, row: ScheduleRow) -> None:
        """Train a version of the schedule as it was trained then, unless it stands here already."""
        version = trainer.train(self.store, row.reward, row.answers)
        if version != row.version:
            raise TrainingError(
                f"version {row.reward} of the reward model, trained again on the answers up to {row.answers}, has "
                f"other weights (SHA-256 {version.digest[:12]}…) than then ({row.digest[:12]}…); repeat the run on the "
                "same kind of machine with the same number of threads"
            )

    # --- the first answers -----------------------------------------------------------------------------------------

    def _ask_first(self) -> None:
        self._ask(initial_labels(self.part.count), 0)
        if not self.store.ids():
            raise TrainingError(
                "no prompt got two different responses that are not empty, so there is nothing to rank; raise "
                "temperature, or take another model"
            )

    def _first_version(self) -> Version:
        if self.turns.trainer is not None:
            self._take_turns()
            if self.reward.version is None:
                raise self._nothing_ranked()
            return self.reward.version
        first = len(self.store.ids())
        print(f"waiting for the first {first} of {self.part.count} answers; training begins when they are there")
        while (version := newest_version(self.run)) is None:
            self.check_roles()
            time.sleep(POLL)
            known = len(self.store.ids())
            if self.store.answered() == known and not usable(self.store, self.store.count()):
                self._ask(min(known + initial_labels(self.part.count), self.part.count), 0)
                if self.asked == known:
                    raise self._nothing_ranked()
        return version

    def _nothing_ranked(self) -> TrainingError:
        return TrainingError(
            f"the first {self.asked} answers rank nothing, as all are ties or were skipped; raise labels.count"
        )

    # --- questions -------------------------------------------------------------------------------------------------

    def _ask(self, due: int, iteration: int) -> None:
        """Ask about samples of the present policy until ``due`` questions are asked, chosen among more candidates."""
        # In turns a process that died after asking asks the same once more. Otherwise the choice may have become
        # another one, and what was asked stays asked.
        if self.turns.trainer is None:
            self.asked = len(self.store.ids())
        count = due - self.asked
        if count < 1:
            return
        key = [self.config.seed, iteration, self.asked]
        ensemble = None if self.part.acquisition == "random" else self.ensemble
        factor = 1 if ensemble is None else self.part.oversample
        candidates = self._candidates(count * factor, np.random.default_rng([*key, ASKING]))
        rng = np.random.default_rng([*key, CHOOSING])
        if ensemble is None:
            chosen = rng.permutation(len(candidates))[:count]
        else:
            chosen = choose(_scores(ensemble, candidates), count, self.part.acquisition, rng)
        self.store.add([candidates[i] for i in chosen], group=f"iteration {iteration}")
        self.asked += len(chosen)

    def _candidates(self, count: int, rng: np.random.Generator) -> list[Question]:
        """Return new questions on different prompts, at least ``count`` of them if there are so many."""
        known = set(self.store.ids()[: self.asked])
        order = rng.permutation(len(self.mdp.prompts))
        found: list[Question] = []
        while len(found) < count and len(order):
            part, order = np.split(order, [count - len(found)])
            seed = int(rng.integers(2**31))
            made = sample_responses(self.algorithm.policy, self.mdp, part, self.part.completions, seed)
            asked, _ = questions(made.completions, [self.mdp.prompts[int(i)] for i in part])
            found += [q for q in asked if question_id(q.prompt.content, q.completions) not in known]
        return found

    def _reference(self) -> list[dict[str, Any]]:
        """Return samples of the policy before training, which normalise every version; drawn once in a run."""
        path = self.run / REFERENCE_SAMPLES
        if self.algorithm.iteration == 0:
            rng = np.random.default_rng([self.config.seed, NORMALISING])
            order = np.resize(rng.permutation(len(self.mdp.prompts)), NORMALISED_ON)
            made = sample_responses(self.algorithm.policy, self.mdp, order, 1, int(rng.integers(2**31)))
            rows = zip(made.prompts, made.completions, made.stopped[:, 0].tolist(), strict=True)
            write_json_lines(
                path, [{"prompt": plain_content(p), "completion": own[0], "ended": end} for p, own, end in rows]
            )
        return [row for _, row in read_json_lines(path)]


def _scores(ensemble: RewardEnsemble, candidates: Sequence[Question]) -> list[FloatArray]:
    """Return the scores ``[K, M]`` of each question's completions by the members, as training fits them."""
    if not candidates:
        return []
    rows = [(question.prompt.content, text) for question in candidates for text in question.completions]
    prompts, texts = zip(*rows, strict=True)
    scores = member_scores(ensemble, prompts, texts, [True] * len(rows)).T
    return np.split(scores, np.cumsum([len(question.completions) for question in candidates])[:-1])


class BeforeIterations(BaseCallback):
    """Callback that lets the learner settle each iteration before its first token, and logs what was settled."""

    def __init__(self, learner: OnlineLearner) -> None:
        super().__init__()
        self.learner = learner
        self.goes_on = True

    def _on_rollout_start(self) -> None:
        algorithm = cast("SequenceAlgorithm", self.model)
        self.goes_on = self.learner.settle(algorithm.iteration)
        if self.goes_on:
            row = self.learner.rows[algorithm.iteration]
            for name in ("reward", "labels", "asked"):
                self.logger.record(f"online/{name}", getattr(row, name))
        else:
            algorithm.ended = f"the replayed schedule ends after iteration {algorithm.iteration}"

    def _on_step(self) -> bool:
        return self.goes_on
