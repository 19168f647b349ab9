"""Evaluation, checkpoints and early stopping between iterations, and what the progress bar shows."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import (
    BaseCallback,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import KVWriter, Logger

from tests.agents.test_ppo import SMALL, equal, make_ppo, parameters
from tests.helpers import emit, tiny_gpt2, word_mdp
from textgym.agents import NLPO, EvaluateEvery, SaveCheckpoints, StopEarly, StopRules
from textgym.agents.functional.stop_rules import best_row
from textgym.agents.loop import kept
from textgym.agents.loop.callbacks import TokenProgressBar
from textgym.agents.loop.evaluation import evaluate
from textgym.agents.loop.slots import SB3VecEnv
from textgym.agents.ppo import PPO
from textgym.env import TokenEnv
from textgym.env.vector import TokenVectorEnv
from textgym.progress import Progress
from textgym.rewards.kl import AdaptiveKL

TOKENS = 400  # five or six iterations of 16 responses


def row(iteration: int, **measured: float) -> dict[str, float]:
    return {"iteration": iteration, **{f"validation/{name}": value for name, value in measured.items()}}


def scores(*values: float) -> list[dict[str, float]]:
    """Evaluations every 10 iterations, the first one before training."""
    return [row(10 * i, score=value, kl=float(i)) for i, value in enumerate(values)]


class Dumps(KVWriter):
    """Keeps what a logger dumps."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, Any]]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.rows.append((step, dict(key_values)))

    def close(self) -> None: ...


# --- evaluation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [PPO, NLPO])
def test_parameters_are_the_same_with_and_without_evaluations(algorithm: type[PPO], tmp_path: Path) -> None:
    def trained(*callbacks: BaseCallback) -> PPO:
        env = TokenVectorEnv(word_mdp(), 8, "Disabled")
        learner = algorithm("LMPolicy", env, model=tiny_gpt2(), seed=0, **SMALL)
        learner.learn(TOKENS, list(callbacks))
        return learner

    plain = trained()
    evaluation = EvaluateEvery(word_mdp(prompts=["w7 w8", "w9"]), 1, episodes=8)
    watched = trained(evaluation, SaveCheckpoints(tmp_path, 2, keep_last=2, evaluation=evaluation, keep_best="min-kl"))
    assert equal(parameters(plain), parameters(watched))
    assert watched.num_timesteps == plain.num_timesteps


def test_evaluates_before_training_every_k_iterations_and_after_the_last() -> None:
    mdp = word_mdp(prompts=["w7 w8", "w9"])
    evaluation = EvaluateEvery(mdp, 2, episodes=8, seed=3)
    learner = make_ppo()
    dumps = Dumps()
    learner.set_logger(Logger(None, [dumps]))
    learner.learn(TOKENS, evaluation)
    last = learner.iteration
    assert [r["iteration"] for r in evaluation.rows] == sorted({0, *range(2, last, 2), last})
    measured = evaluate(learner.policy, learner.reference_trunk, mdp, 8, 3).summary()
    found = evaluation.rows[-1]
    assert {name: found[f"validation/{name}"] for name in measured} == {n: m["mean"] for n, m in measured.items()}
    assert found["time/total_timesteps"] == learner.num_timesteps
    assert evaluation.rows[0]["validation/kl"] == pytest.approx(0, abs=1e-6)  # the policy begins as its reference
    logged = [(step, values) for step, values in dumps.rows if "validation/score" in values]
    assert [step for step, _ in logged] == [r["time/total_timesteps"] for r in evaluation.rows]
    assert all(set(values) <= set(found) for _, values in logged)  # nothing of an iteration is among them


def test_another_training_begins_with_evaluations_of_its_own(tmp_path: Path) -> None:
    evaluation = EvaluateEvery(word_mdp(), 3, episodes=4)
    learner = make_ppo()
    learner.learn(100, evaluation)
    before = evaluation.rows[-1]
    learner.learn(100, evaluation)
    assert evaluation.rows[0] == {**before, "iteration": 0, "time/total_timesteps": 0}


def test_evaluations_of_a_run_that_goes_on_are_kept_up_to_its_checkpoint(tmp_path: Path) -> None:
    evaluation = EvaluateEvery(word_mdp(), 1, episodes=4)
    whole = make_ppo()
    whole.learn(TOKENS, [evaluation, SaveUntil(tmp_path / "three", 3)])
    again = PPO.load(tmp_path / "three", TokenVectorEnv(word_mdp(), 8, "Disabled"))
    told: list[int] = []
    resumed = EvaluateEvery(
        word_mdp(), 1, episodes=4, rows=evaluation.rows[:6], on_rows=lambda rows: told.append(len(rows))
    )
    again.learn(TOKENS - again.num_timesteps, resumed, reset_num_timesteps=False)
    assert again.iteration == whole.iteration
    assert resumed.rows == evaluation.rows
    assert told[0] == 5  # rows 0 to 3 were there; 4 and 5 belong to work that is done again


class StopIn(BaseCallback):
    """Ends training within an iteration, as a signal does."""

    def __init__(self, iteration: int) -> None:
        super().__init__()
        self.iteration = iteration

    def _on_step(self) -> bool:
        learner: Any = self.model
        return learner.iteration < self.iteration


def test_where_training_is_stopped_in_between_nothing_is_measured() -> None:
    evaluation = EvaluateEvery(word_mdp(), 2, episodes=4)
    make_ppo().learn(TOKENS, [evaluation, StopIn(3)])
    assert [r["iteration"] for r in evaluation.rows] == [0, 2]


class SaveUntil(BaseCallback):
    """Saves once, after an iteration."""

    def __init__(self, place: Path, iteration: int) -> None:
        super().__init__()
        self.place, self.iteration = place, iteration

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        learner: Any = self.model
        if learner.iteration == self.iteration:
            learner.save(self.place)


@pytest.mark.parametrize("env", ["textgym/Reviews-v0", "Reviews"])
def test_a_tasks_id_means_its_validation_prompts(env: str) -> None:
    from textgym.registration import load_task

    assert EvaluateEvery(env).mdp.prompts == load_task("Reviews").prompts("validation")


def test_evaluates_on_the_prompts_of_an_environment() -> None:
    env = TokenVectorEnv(word_mdp(), 2, "Disabled")
    for given in (env, env.mdp, SB3VecEnv(env), TokenEnv(env.mdp)):
        assert EvaluateEvery(given).mdp is env.mdp
    with pytest.raises(ValueError, match="expected a task's id"):
        EvaluateEvery(object())
    with pytest.raises(ValueError, match="iterations=0"):
        EvaluateEvery(env, 0)


# --- early stopping --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "rows", "said"),
    [
        (StopRules(score=0.5), scores(0.9, 0.49), None),  # what was before training does not count
        (StopRules(score=0.5), scores(0.1, 0.5), "score is 0.5 at iteration 10 (stop_score=0.5)"),
        (StopRules(kl=2), scores(0, 0, 0), None),
        (StopRules(kl=2), scores(0, 0, 0, 0), "KL is 3 nats per response at iteration 30 (stop_kl=2)"),
        (StopRules(patience=2), scores(0, 0.3, 0.2), None),
        (StopRules(patience=2), scores(0, 0.3, 0.2, 0.4, 0.1), None),
        (StopRules(patience=2), scores(0, 0.3, 0.2, 0.3), "iteration 10 in 2 evaluations in a row, the last at iter"),
        (
            StopRules(patience=1, metric="min-kl"),
            scores(0, 0.3, 0.4),
            "min-kl on validation prompts was no better than at",
        ),
        (StopRules(score=1, kl=9, patience=9), scores(0, 0.3), None),
        (StopRules(), scores(0, 9, 9, 9), None),
        (StopRules(score=0.5), [], None),
    ],
)
def test_rules_of_early_stopping(rules: StopRules, rows: list[dict[str, float]], said: str | None) -> None:
    reason = rules.reason(rows)
    assert (reason is None) if said is None else (said in (reason or ""))


@pytest.mark.parametrize(
    "wrong", [{"score": math.nan}, {"score": math.inf}, {"kl": 0.0}, {"kl": -1.0}, {"patience": 0}, {"kl": math.nan}]
)
def test_rules_without_meaning_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        StopRules(**wrong)


def test_the_best_evaluation() -> None:
    rows = [row(0, score=9, kl=0), row(10, score=1, kl=2), row(20, score=3, kl=4), row(30, score=3, kl=1)]
    assert best_row(rows, "score") is rows[2]  # the first of equal ones, and none from before training
    assert best_row(rows, "min-kl") is rows[3]
    assert best_row(rows[:1], "score") is None
    assert best_row([row(10, score=math.nan), row(20, score=0)], "score") == row(20, score=0)
    assert best_row(rows, "gold") is None


def test_training_ends_at_the_boundary_where_a_rule_says_so(tmp_path: Path) -> None:
    evaluation = EvaluateEvery(word_mdp(), 2, episodes=4)
    stop = StopEarly(evaluation, StopRules(kl=1e-9))
    learner = make_ppo()
    learner.learn(TOKENS, [evaluation, stop, SaveCheckpoints(tmp_path, 50, evaluation=evaluation)])
    assert learner.iteration == 2
    assert stop.stopped is not None
    assert [r["iteration"] for r in evaluation.rows] == [0, 2]
    whole = make_ppo()
    whole.learn(TOKENS, SaveUntil(tmp_path / "two", 2))
    saved, expected = (PPO.load(place, learner.env) for place in (tmp_path / "checkpoint", tmp_path / "two"))
    assert equal(parameters(saved), parameters(expected))
    assert saved.num_timesteps == expected.num_timesteps  # the step that was begun and dropped does not count
    stopped_again = StopEarly(EvaluateEvery(word_mdp(), 2, episodes=4, rows=evaluation.rows), stop.rules)
    saved.learn(TOKENS, [stopped_again.evaluation, stopped_again], reset_num_timesteps=False)
    assert saved.iteration == 2
    assert stopped_again.stopped == stop.stopped


def test_training_that_ends_by_itself_was_not_stopped_early() -> None:
    evaluation = EvaluateEvery(word_mdp(), 100, episodes=4)
    stop = StopEarly(evaluation, StopRules(kl=1e-9))
    make_ppo().learn(100, [evaluation, stop])
    assert evaluation.rows[-1]["validation/kl"] > 1e-9
    assert stop.stopped is None


@pytest.mark.parametrize(
    ("child", "iterations"),
    [(StopTrainingOnRewardThreshold(-1), 1), (StopTrainingOnNoModelImprovement(1), 3)],
)
def test_stable_baselines3_s_own_stops_read_our_evaluations(child: BaseCallback, iterations: int) -> None:
    mdp = word_mdp(reward=lambda completions, **_: [0.25] * len(completions))  # which never improves
    evaluation = EvaluateEvery(mdp, 1, episodes=4, callback_after_eval=child)
    learner = make_ppo()
    learner.learn(TOKENS, evaluation)
    assert learner.iteration == iterations
    assert evaluation.best_mean_reward == evaluation.last_mean_reward == 0.25


# --- checkpoints -----------------------------------------------------------------------------------------------


def iterations_in(place: Path) -> list[int]:
    return list(kept.numbered(place))


def test_keeps_the_last_n_and_the_best(tmp_path: Path) -> None:
    mdp = word_mdp(prompts=["w7 w8", "w9"])
    evaluation = EvaluateEvery(mdp, 1, episodes=8)
    learner = make_ppo()
    learner.learn(TOKENS, [evaluation, SaveCheckpoints(tmp_path, 1, 2, evaluation, "score")])
    last = learner.iteration
    assert iterations_in(tmp_path / "checkpoints") == [last - 1, last]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best", "checkpoint", "checkpoints"]
    expected = max(evaluation.rows[1:], key=lambda r: (r["validation/score"], -r["iteration"]))
    note = json.loads((tmp_path / "best" / "best.json").read_text())
    assert (note["iteration"], note["metric"]) == (expected["iteration"], "score")
    assert (note["mean"], note["sem"]) == (expected["validation/score"], expected["validation/score_sem"])
    best = PPO.load(tmp_path / "best", learner.env)
    assert best.iteration == expected["iteration"]
    again = evaluate(best.policy, best.reference_trunk, mdp, 8, 0).summary()
    assert again["score"]["mean"] == pytest.approx(note["mean"])
    assert not (tmp_path / "checkpoint" / "best.json").exists()
    newest = PPO.load(tmp_path / "checkpoints" / f"iteration-{last:06d}", learner.env)
    assert equal(parameters(newest), parameters(learner))


def test_copies_take_no_space(tmp_path: Path) -> None:
    learner = make_ppo()
    learner.learn(100, SaveCheckpoints(tmp_path, 1, 3))
    newest = tmp_path / "checkpoint" / "model.safetensors"
    copy = tmp_path / "checkpoints" / f"iteration-{learner.iteration:06d}" / "model.safetensors"
    assert os.path.samefile(newest, copy)


def test_copies_where_the_file_system_has_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    learner = make_ppo()
    learner.learn(100, SaveCheckpoints(tmp_path, 1, 1))
    copy = tmp_path / "checkpoints" / f"iteration-{learner.iteration:06d}"
    assert equal(parameters(PPO.load(copy, learner.env)), parameters(learner))


class CutError(Exception):
    """As if the process died."""


@pytest.mark.parametrize("place", ["checkpoints/iteration", "best"])
def test_copies_that_a_kill_prevented_are_made_by_the_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    made = kept.copy_checkpoint

    def cut(source: Path, target: Path, note: Any = None) -> None:
        if str(target.relative_to(tmp_path)).startswith(place) and kept.saved_iteration(source) == 2:
            raise CutError
        made(source, target, note)

    evaluation = EvaluateEvery(word_mdp(), 1, episodes=4)
    with monkeypatch.context() as patched:
        patched.setattr("textgym.agents.loop.callbacks.copy_checkpoint", cut)
        with pytest.raises(CutError):  # the KL is higher after the second iteration than after the first
            make_ppo().learn(TOKENS, [evaluation, SaveCheckpoints(tmp_path, 1, 2, evaluation, "kl")])
    again = PPO.load(tmp_path / "checkpoint", TokenVectorEnv(word_mdp(), 8, "Disabled"))
    assert again.iteration == 2
    resumed = EvaluateEvery(word_mdp(), 100, episodes=4, rows=evaluation.rows)
    saves = SaveCheckpoints(tmp_path, 1, 2, resumed, "kl")
    saves.catch_up(again.iteration)  # as it is called when learning begins, and where nothing is left to learn
    assert iterations_in(tmp_path / "checkpoints") == [1, 2]
    assert kept.saved_iteration(tmp_path / "best") == 2
    assert (kept.best_note(tmp_path / "best") or {})["iteration"] == 2


def test_only_numbered_checkpoints_are_removed(tmp_path: Path) -> None:
    for iteration in (1, 2, 3):
        (tmp_path / f"iteration-{iteration:06d}").mkdir()
    (tmp_path / "iteration-notes").mkdir()
    kept.prune(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["iteration-000002", "iteration-000003", "iteration-notes"]


def test_a_best_checkpoint_without_evaluations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_best='score' needs evaluations"):
        SaveCheckpoints(tmp_path, keep_best="score")
    for wrong in ({"iterations": 0}, {"keep_last": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SaveCheckpoints(tmp_path, **wrong)  # type: ignore[arg-type]


# --- progress --------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_progress_bar_shows_score_kl_length_and_entropy(monkeypatch: pytest.MonkeyPatch, adaptive: bool) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("os.get_terminal_size", lambda *_: os.terminal_size((80, 24)))
    learner = make_ppo(kl=AdaptiveKL(0.05, 6.0) if adaptive else 0.05)
    bar = TokenProgressBar()
    learner.learn(200, bar)
    found = learner.metrics
    shown = (
        f"score {found['rollout/score']:.3g} kl {found['rollout/kl']:.3g} len {found['rollout/length']:.3g} "
        f"ent {found['train/entropy']:.3g}" + (f" β {found['train/beta']:.3g}" if adaptive else "")
    )
    assert bar.progress.bar.postfix == shown
    assert bar.progress.bar.n == 200  # the last iteration goes beyond the total


@pytest.mark.parametrize("columns", [80, 50])
def test_a_narrow_terminal_cuts_off_the_times_and_not_the_figures(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda _: (columns, 24))
    progress = Progress(200_000, "training", "tok")
    progress.reach(90_000)
    progress.show("score 0.931 kl 4.21 len 31 ent 1.31")
    progress.bar.refresh()
    progress.close()
    lines = [line for line in stream.getvalue().replace("\n", "\r").split("\r") if line.strip()]
    assert "90.0k/200k, score 0.931 kl 4.21" in lines[-1]
    assert all(len(line) <= columns for line in lines)


def test_a_log_file_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(1000, "training", "tok")
    for done in range(0, 1001, 10):
        progress.reach(done)
        progress.show(f"score {done}")
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 0%, 0.00 of 1.00k tok, score 0"
    assert lines[1] == "training: 5%, 50.0 of 1.00k tok, score 50"
    assert lines[-1] == "training: 100%, 1.00k of 1.00k tok, score 1000"
    assert len(lines) == 21
    assert not any("\r" in line for line in lines)


def test_a_silent_one_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(10, "x", "step", silent=True)
    progress.reach(5)
    progress.show("y")
    progress.close()
    assert capsys.readouterr().err == ""


def test_learning_in_a_log_file_prints_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    learner = make_ppo()
    learner.learn(200, progress_bar=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("training: 100%, 200 of 200 tok, score ")
    assert f"ent {learner.metrics['train/entropy']:.3g}" in lines[-1]
    assert len(lines) == learner.iteration


def test_the_seed_of_an_evaluation_chooses_its_prompts() -> None:
    evaluation = EvaluateEvery(word_mdp(reward=emit(7)), 1, episodes=3, seed=1)
    learner = make_ppo()
    learner.learn(60, evaluation)
    assert evaluation.latest is not None
    _, report = evaluation.latest
    assert report.episodes.prompt_index.tolist() == np.random.default_rng(1).permutation(3).tolist()
