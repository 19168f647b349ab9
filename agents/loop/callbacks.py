"""Callbacks for stable-baselines3's interface: progress, evaluation, checkpoints, early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from stable_baselines3.common.callbacks import BaseCallback, EventCallback
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from textgym.agents.functional.stop_rules import LEAST, Row, StopRules, best_row
from textgym.agents.loop.evaluation import Report, evaluate
from textgym.agents.loop.kept import NUMBERED, copy_checkpoint, prune, saved_iteration
from textgym.agents.loop.slots import env_attribute, is_vector
from textgym.env.mdp import TokenMDP
from textgym.files import settle, settle_all
from textgym.progress import Progress, short
from textgym.registration import load_task, task_mdp
from textgym.rewards.kl import AdaptiveKL

if TYPE_CHECKING:
    from textgym.agents.loop.algorithm import SequenceAlgorithm


SHOWN = {"score": "rollout/score", "kl": "rollout/kl", "len": "rollout/length", "ent": "train/entropy"}
"""Metrics in the progress bar: score, KL in nats per response, length in tokens, and entropy in nats per token."""


class TokenProgressBar(BaseCallback):
    """Progress bar over generated tokens, with score, KL, length and entropy of the last iteration, and β if it adapts.

    stable-baselines3's own bar counts every row in every step, idle rows too.
    """

    progress: Progress

    def _on_training_start(self) -> None:
        total = int(self.locals["total_timesteps"])
        self.progress = Progress(total, "training", "tok", done=self.model.num_timesteps)

    def _on_rollout_start(self) -> None:
        self._show_metrics()

    def _on_step(self) -> bool:
        self.progress.reach(self.model.num_timesteps)
        return True

    def _on_training_end(self) -> None:
        self._show_metrics()
        self.progress.close()

    def _show_metrics(self) -> None:
        metrics: Mapping[str, float] = getattr(self.model, "metrics", {})
        adaptive = isinstance(getattr(self.model, "kl", None), AdaptiveKL)
        names = {**SHOWN, "β": "train/beta"} if adaptive else SHOWN
        found = [f"{name} {short(metrics[key])}" for name, key in names.items() if key in metrics]
        if found:
            self.progress.show(" ".join(found))


# --- between iterations ----------------------------------------------------------------------------------------


class BetweenIterations(EventCallback):
    """Base class of callbacks that act between iterations, where weights and counters are consistent.

    They act before every iteration but the first, and after the last.
    """

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self.seen = 0
        self.proceed = True

    def _on_rollout_start(self) -> None:
        self._visit()

    def _on_step(self) -> bool:
        return self.proceed

    def _on_training_end(self) -> None:
        self._visit()

    def _visit(self) -> None:
        iteration = self.algorithm.iteration
        if iteration > self.seen:
            self.seen = iteration
            self.proceed = self.on_boundary(iteration)

    def on_boundary(self, iteration: int) -> bool:
        """Act after an iteration, counted from 1; return False to end training."""
        raise NotImplementedError

    @property
    def algorithm(self) -> SequenceAlgorithm:
        """The algorithm being trained."""
        return cast("SequenceAlgorithm", self.model)


class EvaluateEvery(BetweenIterations):
    """Callback that evaluates the policy every few iterations, always on the same prompts and random streams.

    Training is not affected: a run has the same parameters, bit for bit, with and without it. An evaluation measures
    score, components of the reward, exact KL to the reference in nats per response, and length, and logs them as
    ``validation/…`` at once. ``best_mean_reward`` and ``last_mean_reward`` refer to the score, so that
    stable-baselines3's ``StopTrainingOnRewardThreshold`` and ``StopTrainingOnNoModelImprovement`` can be
    ``callback_after_eval``.

    Args:
        env: the prompts and the reward: a task's id (its validation prompts, if it has any), an environment of this
            package, or its token MDP.
        iterations: number of iterations between evaluations.
        episodes: number of responses in each.
        seed: random seed of the sampling and of the choice of prompts.
        rows: earlier evaluations of the same run, if it is resumed.
        on_rows: called after each evaluation with all rows.
        further: computes additional measures of an evaluation, as mean and standard error by name.
        callback_after_eval: called after each evaluation; training ends if it returns False.

    Raises:
        ValueError: ``iterations`` or ``episodes`` is below 1, or ``env`` has no token MDP.
    """

    def __init__(
        self,
        env: Any,
        iterations: int = 10,
        episodes: int = 256,
        seed: int = 0,
        rows: Sequence[Row] = (),
        on_rows: Callable[[Sequence[Row]], None] = lambda _: None,
        callback_after_eval: BaseCallback | None = None,
        further: Callable[[Report, TokenMDP], Mapping[str, Mapping[str, float]]] | None = None,
    ) -> None:
        super().__init__(callback_after_eval)
        for name, value in {"iterations": iterations, "episodes": episodes}.items():
            if value < 1:
                raise ValueError(f"{name}={value}; expected at least 1")
        self.mdp = _validation(env)
        self.iterations = iterations
        self.episodes = episodes
        self.seed = seed
        self.rows = list(rows)
        self.on_rows = on_rows
        self.further = further or (lambda *_: {})
        self.latest: tuple[int, Report] | None = None  # the iteration, and the report of the evaluation after it

    def _on_training_start(self) -> None:
        super()._on_training_start()
        done = self.algorithm.iteration
        if not done and self.latest:  # the callback is used for another run
            self.rows = []
        self.rows = [row for row in self.rows if row["iteration"] <= done]
        if not self.rows or self._is_due(done):
            self._measure(done)

    def on_boundary(self, iteration: int) -> bool:
        """Evaluate if an evaluation is due after this iteration."""
        if not self._is_due(iteration):
            return True
        self._measure(iteration)
        return self._on_event()

    def _is_due(self, iteration: int) -> bool:
        return iteration % self.iterations == 0 and all(row["iteration"] != iteration for row in self.rows)

    def _on_training_end(self) -> None:
        super()._on_training_end()
        algorithm = self.algorithm
        complete = (
            algorithm.boundary_timesteps >= self.locals["total_timesteps"]
        )  # otherwise it was stopped, and may be resumed
        if complete and self.rows[-1]["iteration"] < algorithm.iteration:
            self._measure(algorithm.iteration)
            self._on_event()

    def _measure(self, iteration: int) -> None:
        algorithm = self.algorithm
        report = evaluate(algorithm.policy, algorithm.reference_trunk, self.mdp, self.episodes, self.seed)
        self.latest = (iteration, report)
        found = {**report.summary(), **self.further(report, self.mdp)}
        row = evaluation_row(iteration, algorithm.boundary_timesteps, found)
        self.rows.append(row)
        self.on_rows(self.rows)
        log_evaluation(algorithm, row, algorithm.boundary_timesteps)

    def of(self, iteration: int) -> Report | None:
        """Return the report of the evaluation after an iteration; None if it is not the latest evaluation."""
        return self.latest[1] if self.latest is not None and self.latest[0] == iteration else None

    @property
    def best_mean_reward(self) -> float:
        """The highest score of an evaluation after an iteration; -inf before the first."""
        best = best_row(self.rows, "score")
        return -math.inf if best is None else best["validation/score"]

    @property
    def last_mean_reward(self) -> float:
        """The score of the last evaluation."""
        return self.rows[-1]["validation/score"]


def _validation(env: Any) -> TokenMDP:
    """Return the token MDP to evaluate on.

    Raises:
        ValueError: ``env`` has none.
    """
    if isinstance(env, str):
        task = load_task(env)
        return task_mdp(task, split="validation" if "validation" in task.splits else "train")
    if isinstance(env, VecEnv) and not is_vector(env):
        env = env_attribute(env, "mdp", None)
    mdp = env if isinstance(env, TokenMDP) else getattr(getattr(env, "unwrapped", None), "mdp", None)
    if not isinstance(mdp, TokenMDP):
        raise ValueError(f"env={env!r:.200}; expected a task's id, a textgym environment, or its token MDP")
    return mdp


def evaluation_row(iteration: int, tokens: int, summary: Mapping[str, Mapping[str, float]]) -> Row:
    """Return an evaluation as a row: means and standard errors by name, with the iteration and the token count."""
    row: Row = {"iteration": iteration, "time/total_timesteps": tokens}
    for name, measured in summary.items():
        row |= {f"validation/{name}": measured["mean"], f"validation/{name}_sem": measured["sem"]}
    return row


def log_evaluation(algorithm: SequenceAlgorithm, row: Row, tokens: int) -> None:
    """Log an evaluation with an algorithm's logger, as a separate dump at step ``tokens``."""
    for name, value in row.items():
        if name.startswith("validation/"):
            algorithm.logger.record(name, value)
    algorithm.logger.dump(step=tokens)


# --- stopping and saving, decided by the rows of evaluations ---------------------------------------------------


class StopEarly(BetweenIterations):
    """Callback that ends training between two iterations, as soon as a rule about the evaluations holds.

    Args:
        evaluation: the evaluating callback; it must come before this one in the list of callbacks.
        rules: the rules.

    Attributes:
        stopped: the reason why training ended early; None if it did not.
    """

    def __init__(self, evaluation: EvaluateEvery, rules: StopRules) -> None:
        super().__init__()
        self.evaluation = evaluation
        self.rules = rules
        self.stopped: str | None = None

    def on_boundary(self, iteration: int) -> bool:
        """Apply the rules."""
        self.stopped = self.rules.reason(self.evaluation.rows)
        return self.stopped is None

    def _on_training_end(self) -> None:
        """Do nothing: training that reached its end was not stopped early."""


class SaveCheckpoints(BetweenIterations):
    """Callback that saves a checkpoint every few iterations and at the end, and keeps earlier ones and the best.

    The directory holds ``checkpoint``, the newest; ``checkpoints/iteration-000040`` and others, numbered by iterations;
    and ``best``, whose ``best.json`` names the metric that chose it. Each is written atomically, as a directory like
    those that ``save`` writes. Copies are hard links where the file system supports them.

    Args:
        directory: the run's directory.
        iterations: number of iterations between checkpoints.
        keep_last: number of latest numbered checkpoints to keep; None for none.
        evaluation: the evaluating callback; it must come before this one in the list of callbacks.
        keep_best: the metric that chooses the best: ``"score"``, another one of the evaluation, or ``"min-kl"``,
            ``"min-length"`` … if less is better; None to keep no best. The best is saved when it is measured.

    Raises:
        ValueError: a number is out of its range, or ``keep_best`` is given without ``evaluation``.
    """

    def __init__(
        self,
        directory: str | Path,
        iterations: int = 10,
        keep_last: int | None = None,
        evaluation: EvaluateEvery | None = None,
        keep_best: str | None = None,
    ) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"iterations={iterations}; expected at least 1")
        if keep_last is not None and keep_last < 1:
            raise ValueError(f"keep_last={keep_last}; expected at least 1")
        if keep_best is not None and evaluation is None:
            raise ValueError(f"keep_best={keep_best!r} needs evaluations to compare; pass evaluation=EvaluateEvery(…)")
        self.directory = Path(directory)
        self.newest = self.directory / "checkpoint"
        self.iterations = iterations
        self.keep_last = keep_last
        self.evaluation = evaluation
        self.keep_best = keep_best

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self.seen = self.algorithm.iteration
        self.catch_up(self.seen)

    def catch_up(self, iteration: int) -> None:
        """Make the copies that are missing because the run was killed right after saving this iteration."""
        settle(self.directory / "best")
        settle_all(self.directory / "checkpoints")
        self.saved = iteration if iteration and saved_iteration(self.newest) == iteration else None
        if self.saved:
            self._copy(iteration, only_missing=True)

    def on_boundary(self, iteration: int) -> bool:
        """Save if a checkpoint is due, or if this iteration's policy is the best so far."""
        if iteration % self.iterations == 0 or self._is_best(iteration):
            self._save(iteration)
        return True

    def _on_training_end(self) -> None:
        super()._on_training_end()
        if self.saved != self.algorithm.iteration:
            self._save(self.algorithm.iteration)

    def _save(self, iteration: int) -> None:
        self.algorithm.save(self.newest)
        self.saved = iteration
        self._copy(iteration)

    def _copy(self, iteration: int, only_missing: bool = False) -> None:
        """Make the copies of the newest checkpoint that are due, and remove what they replace."""
        if self.keep_last is not None and iteration % self.iterations == 0:
            place = self.directory / "checkpoints"
            copy = place / NUMBERED.format(iteration)
            if not (only_missing and saved_iteration(copy) == iteration):
                copy_checkpoint(self.newest, copy)
            prune(place, self.keep_last)
        best = self.directory / "best"
        if self._is_best(iteration) and not (only_missing and saved_iteration(best) == iteration):
            copy_checkpoint(self.newest, best, self._note())

    def _is_best(self, iteration: int) -> bool:
        best = self._best()
        return best is not None and best["iteration"] == iteration

    def _best(self) -> Row | None:
        if self.evaluation is None or self.keep_best is None:
            return None
        return best_row(self.evaluation.rows, self.keep_best)

    def _note(self) -> dict[str, Any]:
        best, metric, evaluation = self._best(), self.keep_best, self.evaluation
        assert best is not None
        assert evaluation is not None
        assert metric is not None
        key = f"validation/{metric.removeprefix(LEAST)}"
        measured = {"mean": best[key], "sem": best[f"{key}_sem"], "n": evaluation.episodes}
        return {"iteration": int(best["iteration"]), "metric": metric, **measured}
