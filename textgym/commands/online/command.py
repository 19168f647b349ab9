"""``textgym online``: check everything, start the roles, train, and write the report."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from textgym import runs
from textgym.agents.offline.alignment_tax import forgetting
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.commands.configs.online import ERROR_RATE, GOLD, PAGE, SIMULATED, OnlineConfig
from textgym.commands.learner import open_learner, single_turn_task
from textgym.commands.online.check import check_answers, check_questions, check_replay
from textgym.commands.online.labeller import RewardLabeller
from textgym.commands.online.learner import BeforeIterations, OnlineLearner, Turns
from textgym.commands.online.reward import CurrentReward
from textgym.commands.online.roles import started_roles
from textgym.commands.online.schedule import LABELS, SCHEDULE, read_schedule
from textgym.commands.online.versions import reward_trainer, settle_versions
from textgym.commands.train import (
    begun,
    check_best,
    chosen_task,
    gather_pretraining,
    keeping,
    make_algorithm,
    parse_reward,
    resolved,
    user_mdp,
    validation_mdp,
    watched_reward,
)
from textgym.env.mdp import TokenMDP
from textgym.labelling.store import LabelStore
from textgym.rewards.models.model import RewardModel
from textgym.rows import Screening
from textgym.runs.directory import read_kept_rows
from textgym.runs.pretraining_texts import measured_texts
from textgym.tasks.task import Task


def online(config: OnlineConfig) -> Path:
    """Train on what is preferred (see :func:`run_online`), print the result and return the report's path."""
    started: Any = begun(config)
    report = run_online(started)
    print(f"\n{runs.comparison_table(config.out)}\n\n{runs.sample_pairs(config.out, 3)}\n")
    print(online_summary(config.out))
    print(f"checkpoint: {config.out / runs.CHECKPOINT}\nreport:     {report}")
    return report


def run_online(config: OnlineConfig) -> Path:
    """Check everything, then train; return the report's path.

    Raises:
        ValueError, FileNotFoundError, FileExistsError, ImportError: a setting or an input does not fit; nothing was
            written then.
        TrainingError: a role has failed, or training diverged.
    """
    made = resolved(config)
    assert isinstance(made, OnlineConfig)
    config, about = made, {"command": "online", **runs.settings_of(made)}
    if config.labeller == PAGE and config.replay is None:
        import_module("textgym.labelling.server")  # says which extra is missing, before anything is done
    if config.replay is not None:
        check_replay(config.replay, config.out, about)
    with runs.claimed(config.out, about, config.overwrite, config.resume) as standing:
        screening = Screening(config.truncation, config.skip_bad)
        task = chosen_task(config)
        reward, mdp = online_mdp(config, screening, task)
        check_questions(config, mdp, reward.reader.limit)
        judged = validation_mdp(config, mdp, screening, task)
        check_best(config.keep_best, judged)
        turns = turns_of(config, about)
        pretraining, held_out = gather_pretraining(config, mdp, screening, task)
        algorithm = make_algorithm(config, mdp, standing.resumed, pretraining)
        measured = measured_texts(task, mdp, held_out, algorithm.policy.trunk)
        if config.resume:
            check_answers(config.out)
        if not standing.resumed:
            runs.begin_run(config.out, about, config.overwrite)
            runs.note_screening(config.out, screening)
            if config.replay is not None:
                copy_answers(config.replay, config.out)
                check_answers(config.out)

        def forgotten(policy: LMPolicy) -> dict[str, dict[str, float]]:
            return forgetting(policy.trunk, measured)

        evaluator = runs.Evaluator(config.out, judged, config.eval_episodes, config.seed, forgotten)
        # The database must exist before a role opens it.
        with LabelStore(config.out / LABELS) as store, started_roles(background_roles(config), config.out) as check:
            if turns.trainer is not None:
                settle_versions(config.out)
            learner = OnlineLearner(config, algorithm, reward, mdp, store, turns, check)
            learner.begin()
            own = (BeforeIterations(learner),)
            return runs.train(algorithm, config.out, evaluator, config.total_timesteps, keeping(config), standing, own)


def background_roles(config: OnlineConfig) -> tuple[str, ...]:
    """Return the roles that work in processes of their own."""
    if not config.in_background or config.replay is not None:
        return ()
    return ("reward trainer", "page" if config.labeller == PAGE else "labeller")


def turns_of(config: OnlineConfig, about: Mapping[str, Any]) -> Turns:
    """Return the roles that work in the learner's process, given the settings as ``config.json`` keeps them.

    In a replay nobody answers; with roles in the background nobody takes turns, and the labeller is only checked.
    """
    labeller = None if config.labeller == PAGE else reward_labeller(about)
    if background_roles(config):
        return Turns(None, None)
    return Turns(None if config.replay else labeller, reward_trainer(config.out, about))


def online_mdp(config: OnlineConfig, screening: Screening, task: Task | None) -> tuple[CurrentReward, TokenMDP]:
    """Return the reward that changes between iterations, and the token MDP that it scores."""
    # The MDP is made with a reward that is there already: reward models need its prompts first.
    placeholder = "length" if task is None else GOLD
    mdp = user_mdp(replace(config, reward=placeholder), screening, task)
    assert mdp.base_model is not None, "make_algorithm needs one, too"
    learner = open_learner(config.model, task)
    reader = RewardModel.from_causal_lm(learner.model, learner.tokenizer, torch.Generator().manual_seed(0))
    reward = CurrentReward(reader)
    return reward, replace(mdp, reward=watched_reward(reward, task))


def reward_labeller(config: Mapping[str, Any]) -> RewardLabeller:
    """Return the labeller with scores that a run's settings describe, as ``config.json`` keeps them.

    Raises:
        ValueError, FileNotFoundError: there is no such reward.
    """
    task = None if config["task"] is None else single_turn_task(config["task"], config["model"], config["parameters"])
    labeller, part = config["labeller"], config["labels"]
    reward = parse_reward(GOLD if labeller == SIMULATED else labeller, task)
    tokenizer = open_learner(config["model"], task).tokenizer
    default = ERROR_RATE if labeller == SIMULATED else 0.0
    error_rate = default if part["error_rate"] is None else part["error_rate"]
    noise = (part["temperature"], error_rate, part["threshold"])
    return RewardLabeller(reward.bind(tokenizer), tokenizer, noise, config["seed"], labeller[:80])


def copy_answers(source: Path, target: Path) -> None:
    """Copy the answers and the schedule of a run, which may still be going on."""
    # The schedule first: whatever it lists is in the database already.
    shutil.copyfile(source / SCHEDULE, target / SCHEDULE)
    with closing(sqlite3.connect(source / LABELS)) as there, closing(sqlite3.connect(target / LABELS)) as here:
        there.backup(here)


def online_summary(out: Path) -> str:
    """Return the labels, the versions of the reward model, and gold in the course of training."""
    rows = read_schedule(out)
    last = rows[-1]
    lines = [
        f"labels:     {last.labels} rankings learned from, {last.asked} questions asked",
        f"rewards:    {len({row.reward for row in rows})} versions in {len(rows)} iterations",
    ]
    metrics = read_kept_rows(out / "metrics.jsonl")
    gold = [row["rollout/components/gold"] for row in metrics if "rollout/components/gold" in row]
    if gold:
        some = [gold[i] for i in sorted({round(i * (len(gold) - 1) / 4) for i in range(5)})]
        lines.append(f"gold:       {' → '.join(f'{value:.3f}' for value in some)}, in the course of training")
    return "\n".join(lines)
