"""Count the labels that a reward model needs, with questions chosen by an ensemble or at random.

Usage: python -m scripts.active_labels OUT.jsonl [SEEDS]

A labeller of the gold reward, with 10 % of errors (Christiano 2017), ranks four responses of the base model
of textgym/Concepts-v0. Each arm begins with the same few labels, trains an ensemble, and chooses the next from the same
pool with it. The rows of finished arms are kept, so a run that was stopped continues.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.evaluation import Responses, sample_responses
from textgym.benchmarks.analysis.suite_scores import over_seeds
from textgym.benchmarks.proxies.models import agreement, base_responses
from textgym.benchmarks.runner.limit_process import limit_process
from textgym.files import append_line, json_line, read_json_lines
from textgym.intervals import Estimate
from textgym.lm.files.loading import load_causal_lm
from textgym.registration import load_task, task_mdp
from textgym.rewards import RewardEnsemble, RewardModel, choose, simulated_ranks
from textgym.rewards.labels.acquisition import Acquisition
from textgym.rewards.labels.preferences import untied_pairs
from textgym.rewards.models.normalised import member_scores
from textgym.rewards.models.settings import FitSettings
from textgym.rewards.models.training import encode_preferences, fit
from textgym.tasks.task import Task
from textgym.types import FloatArray, Ranking

TASK = "textgym/Concepts-v0"
ARMS: tuple[Acquisition, ...] = ("random", "disagreement", "information")
TARGETS = (0.65, 0.70, 0.75, 0.80)


@dataclass(frozen=True)
class Settings:
    """Settings of all arms.

    Attributes:
        rounds: labels in all after each round; the first are chosen at random.
        pool: prompts, each with one question that may be asked.
        completions: responses to a prompt that are ranked together, K.
        members: of the ensemble.
        agree: give all members one seed, so that they agree.
        heldout: validation prompts, with four responses each, on which accuracy is measured.
        error_rate: of the labeller.
        seen: labels that a training sees in all; it takes between 2 and 16 passes.
        learning_rate, batch_size: of the reward model.
    """

    rounds: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    pool: int = 512
    completions: int = 4
    members: int = 3
    agree: bool = False
    heldout: int = 96
    error_rate: float = 0.1
    seen: int = 384
    learning_rate: float = 2e-3
    batch_size: int = 8


def learning_curve(acquisition: Acquisition, settings: Settings, seed: int) -> list[float]:
    """Return the held-out accuracy of the ensemble after each round: the share of pairs that it orders as gold does."""
    task = load_task(TASK)
    pool = sampled_questions(task, settings, seed)
    heldout = base_responses(task, settings.heldout, 4, seed)
    ranks = simulated_ranks(pool.rewards, 0.0, np.random.default_rng([seed, 1]), settings.error_rate)
    open_ = [i for i in range(settings.pool) if len(set(pool.completions[i])) > 1]
    asked: list[int] = []
    ensemble: RewardEnsemble | None = None
    curve = []
    for number, (before, count) in enumerate(pairwise((0, *settings.rounds))):
        rng = np.random.default_rng([seed, 2, number])
        rule = acquisition if ensemble else "random"
        scores = pool_scores(ensemble, pool, open_)
        chosen = {open_[i] for i in choose(scores, count - before, rule, rng)}
        asked += sorted(chosen)
        open_ = [i for i in open_ if i not in chosen]
        ensemble = learn(task, [ranking(pool, i, ranks[i]) for i in asked], settings, seed)
        found = member_scores(ensemble, *texts(heldout))
        curve.append(agreement(found.mean(axis=0).reshape(-1, 4), heldout.rewards))
    return curve


def sampled_questions(task: Task, settings: Settings, seed: int) -> Responses:
    """Sample the base model's responses to some training prompts."""
    mdp = task_mdp(task, "gold")
    assert mdp.base_model is not None
    order = np.random.default_rng([seed, 0]).permutation(len(mdp.prompts))[: settings.pool]
    policy = acting_policy(load_causal_lm(mdp.base_model), mdp)
    return sample_responses(policy, mdp, order, settings.completions, seed)


def ranking(pool: Responses, i: int, ranks: Any) -> Ranking:
    """Return a labelled question."""
    return Ranking(pool.prompts[i], tuple(pool.completions[i]), tuple(ranks.tolist()))


def texts(responses: Responses) -> tuple[list[Any], list[str], list[bool]]:
    """Return prompts, completions and ends, one for each text."""
    k = responses.rewards.shape[1]
    prompts = [prompt for prompt in responses.prompts for _ in range(k)]
    return prompts, [text for own in responses.completions for text in own], responses.stopped.ravel().tolist()


def pool_scores(ensemble: RewardEnsemble | None, pool: Responses, which: Sequence[int]) -> FloatArray:
    """Return ``[Q, K, M]`` scores of questions by the members; zeros without an ensemble."""
    k = pool.rewards.shape[1]
    if ensemble is None:
        return np.zeros((len(which), k, 1))
    prompts = [pool.prompts[i] for i in which for _ in range(k)]
    completions = [text for i in which for text in pool.completions[i]]
    scores = member_scores(ensemble, prompts, completions, [True] * len(prompts))
    return scores.T.reshape(len(which), k, -1)


def learn(task: Task, rankings: Sequence[Ranking], settings: Settings, seed: int) -> RewardEnsemble:
    """Train an ensemble on all labels, from the base model."""
    assert task.base_model is not None
    ordered = [own for own in rankings if untied_pairs(own.ranks)]  # equal gold ties, and teaches nothing
    epochs = int(np.clip(settings.seen // len(rankings), 2, 16))
    fitted = FitSettings(settings.learning_rate, epochs, settings.batch_size)
    members = []
    for member in range(settings.members):
        generator = torch.Generator().manual_seed(1000 * seed + (0 if settings.agree else member))
        model = RewardModel.from_causal_lm(load_causal_lm(task.base_model), task.tokenizer, generator, batch_size=64)
        fit(model, encode_preferences(model, ordered, "labels"), fitted, generator, progress=False)
        members.append(model)
    return RewardEnsemble(tuple(members))


# --- results -------------------------------------------------------------------------------------------------------


def labels_needed(rounds: Sequence[int], curve: Sequence[float], target: float) -> float:
    """Return the labels at which a curve first reaches an accuracy, between rounds by their logarithm; inf if never."""
    if curve[0] >= target:
        return float(rounds[0])
    for (a, b), (low, high) in zip(pairwise(rounds), pairwise(curve), strict=True):
        if high >= target:
            return float(a * (b / a) ** ((target - low) / (high - low)))
    return float("inf")


def table(curves: Mapping[Acquisition, Mapping[int, Sequence[float]]], rounds: Sequence[int]) -> str:
    """Return labels needed and accuracies of each arm, with differences to random paired by seed, as Markdown."""
    lines = ["| labels needed for | " + " | ".join(curves) + " |", "| --- |" + " --- |" * len(curves)]
    for target in TARGETS:
        needed = {
            arm: {s: labels_needed(rounds, curve, target) for s, curve in own.items()} for arm, own in curves.items()
        }
        cells = [_needed(needed[arm], needed["random"] if arm != "random" else None) for arm in curves]
        lines.append(f"| {target:.0%} | {' | '.join(cells)} |")
    for i, count in enumerate(rounds):
        cells = []
        for arm, own in curves.items():
            text = f"{np.mean([curve[i] for curve in own.values()]):.3f}"
            if arm != "random":
                text += f" ({_interval([own[s][i] - curves['random'][s][i] for s in own])})"
            cells.append(text)
        lines.append(f"| accuracy at {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _needed(own: Mapping[int, float], base: Mapping[int, float] | None) -> str:
    reached = [value for value in own.values() if np.isfinite(value)]
    if len(reached) < len(own):
        return f"reached by {len(reached)} of {len(own)} seeds"
    text = f"{np.exp(np.mean(np.log(reached))):.0f}"
    if base is None or not np.isfinite(list(base.values())).all():
        return text
    found = over_seeds([float(np.log(own[s] / base[s])) for s in own])
    if not isinstance(found, Estimate):
        return text
    ratio, low, high = (np.exp(value) for value in (found.value, found.low, found.high))
    return f"{text} (× {ratio:.2f} [{low:.2f}, {high:.2f}])"


def _interval(differences: Sequence[float]) -> str:
    found = over_seeds(list(differences))
    if not isinstance(found, Estimate):
        return f"{found:+.3f}"
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def main(arguments: Sequence[str]) -> None:
    """Run what is missing in a file, one line an arm and seed, and print the table."""
    limit_process()
    out, seeds, settings = Path(arguments[0]), int(arguments[1]) if len(arguments) > 1 else 5, Settings()
    done = [row for _, row in read_json_lines(out)] if out.exists() else []
    for seed in range(seeds):
        for arm in ARMS:
            if any(row["arm"] == arm and row["seed"] == seed for row in done):
                continue
            started = time.process_time()
            curve = learning_curve(arm, settings, seed)
            row = {"arm": arm, "seed": seed, "rounds": settings.rounds, "accuracy": curve}
            row["cpu_seconds"] = round(time.process_time() - started, 1)
            append_line(out, json_line(row))
            done.append(row)
            print(f"seed {seed}, {arm}: {' '.join(f'{value:.3f}' for value in curve)} ({row['cpu_seconds']} CPU s)")
    curves = {arm: {row["seed"]: row["accuracy"] for row in done if row["arm"] == arm} for arm in ARMS}
    print(table(curves, settings.rounds))


if __name__ == "__main__":
    main(sys.argv[1:])
