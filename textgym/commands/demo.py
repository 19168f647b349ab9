"""``textgym demo``: a GPT learns by reinforcement from a learned reward model, in one command."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from textgym.agents.evaluation import play
from textgym.agents.policy import LMPolicy
from textgym.agents.slots import admitting_env
from textgym.commands import run as runs
from textgym.commands.settings import Hyperparameters, build, controller
from textgym.files import write_json
from textgym.lm.loading import load_causal_lm
from textgym.mdp import TokenMDP
from textgym.registration import load_task, task_mdp
from textgym.rewards.model import RewardModel
from textgym.rewards.rankings import agreement_ceiling, label, write_rankings
from textgym.rewards.training import train_reward_model
from textgym.tasks.task import Task
from textgym.tokenization import decode_response
from textgym.types import Ranking

K = 4  # completions ranked together
LABEL_TEMPERATURE = 0.1  # the labeller sees a difference of 0.1 in gold with odds e : 1


@dataclass(frozen=True)
class Budget:
    """How much of everything the demo does."""

    rankings: int
    reward_epochs: int
    total_timesteps: int
    eval_episodes: int
    settings: Hyperparameters


FULL = Budget(
    rankings=1536,
    reward_epochs=2,
    total_timesteps=50_000,
    eval_episodes=512,
    settings=Hyperparameters(learning_rate=5e-4, episodes_per_iteration=128, minibatch_size=32, kl_coef=0.3),
)
TINY = Budget(
    rankings=16,
    reward_epochs=1,
    total_timesteps=600,
    eval_episodes=16,
    settings=Hyperparameters(learning_rate=1e-3, episodes_per_iteration=16, minibatch_size=8, kl_coef=0.1),
)


@dataclass(frozen=True)
class DemoConfig:
    """Watch a GPT learn: rank samples, train a reward model on the rankings, train the GPT against it."""

    out: Path = Path("runs/demo")
    """The run's directory."""
    task: str = "textgym/Reviews-v0"
    """The task, by its id."""
    kl_coef: float | None = None
    """β, the price of one nat of KL to the base model; by default the demo's own."""
    seed: int = 0
    """Of everything random."""
    tiny: bool = False
    """Only see that everything runs: a few samples, a few updates."""
    overwrite: bool = False
    """Replace the run that stands in 'out'."""


def demo(config: DemoConfig) -> Path:
    """Runs all three stages; returns the report's path."""
    started = time.monotonic()
    budget = TINY if config.tiny else FULL
    settings = budget.settings
    if config.kl_coef is not None:
        settings = Hyperparameters(**{**asdict(settings), "kl_coef": config.kl_coef})
    task = load_task(config.task)
    _check(config, task, budget, settings)
    described = _described(config, settings)
    runs.check_run(config.out, described, config.overwrite, resume=False)
    runs.begin_run(config.out, described, config.overwrite)
    print(f"{task.name}: {task.description}\n\n1. rank samples of the base model, K = {K}")
    rankings, gold = ranked_samples(task, budget.rankings, config.seed)
    write_rankings(config.out / "rankings.jsonl", rankings)
    print("2. train the reward model on the rankings")
    reward_model = learned_reward(task, rankings, gold, budget.reward_epochs, config.out, config.seed)
    print("3. train the policy against the reward model")
    mdp = demo_mdp(task, reward_model, "train")
    env = admitting_env(mdp, settings.episodes_per_iteration)
    algorithm = build("ppo", env, task.base_model, settings, config.seed)
    heldout = demo_mdp(task, reward_model, "validation")
    evaluator = runs.Evaluator(config.out, heldout, budget.eval_episodes, config.seed)
    report = runs.run(algorithm, config.out, evaluator, budget.total_timesteps, checkpoint_every=50, resumed=False)
    print(f"\nheld-out prompts, mean ± 95 % interval\n{runs.comparison_table(config.out)}")
    print(f"\n{runs.sample_pairs(config.out, 3)}\n\n{time.monotonic() - started:.0f} s; report: {report}")
    return report


def _check(config: DemoConfig, task: Task, budget: Budget, settings: Hyperparameters) -> None:
    """Everything that could fail for the user's settings, before a run's directory is touched."""
    controller(settings)
    if config.seed < 0:
        raise ValueError(f"seed={config.seed}; expected 0 or more")
    prompts = task.prompts("train")
    if not isinstance(task.base_model, Path) or "validation" not in task.splits or len(prompts) < budget.rankings:
        raise ValueError(f"task={config.task!r} has no shipped model and splits to show; use textgym/Reviews-v0")


def _described(config: DemoConfig, settings: Hyperparameters) -> dict[str, Any]:
    return {
        "command": "demo",
        "task": config.task,
        "algorithm": "ppo",
        "seed": config.seed,
        "labels": {"K": K, "temperature": LABEL_TEMPERATURE},
        "hyperparameters": asdict(settings),
    }


def demo_mdp(task: Task, reward_model: RewardModel, split: str) -> TokenMDP:
    """The task paid by the reward model, with gold and metrics watched at weight 0."""
    return task_mdp(task, [reward_model, *((name, 0.0) for name in ("gold", *task.metrics))], split)


def ranked_samples(task: Task, n_prompts: int, seed: int) -> tuple[list[Ranking], np.ndarray[Any, Any]]:
    """Rankings of K samples of the base model for each prompt by a noisy labeller, and their gold ``[n, K]``."""
    mdp = task_mdp(task)
    policy = LMPolicy(
        mdp.observation_space(),
        mdp.action_space(),
        lambda _: 0.0,
        model=load_causal_lm(str(task.base_model)),
        prompt_length=mdp.max_prompt_length,
        end_token_ids=mdp.end_token_ids,
    )
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(mdp.prompts), n_prompts, replace=False)
    texts: list[list[str]] = []
    scores: list[Any] = []
    for part in tqdm(np.array_split(chosen, -(-n_prompts // 64)), desc="sampling", unit="batch"):
        episodes = play(policy, mdp, np.repeat(part, K), seed=int(rng.integers(2**31)))
        responses = zip(episodes.actions, episodes.lengths, strict=True)
        decoded = [decode_response(mdp.tokenizer, ids[:n].tolist(), mdp.end_token_ids) for ids, n in responses]
        texts += [decoded[i : i + K] for i in range(0, len(decoded), K)]
        scores.append(episodes.rewards.sum(1).reshape(-1, K))

    def gold(prompts: list[str], completions: list[str]) -> Any:
        return task.gold(prompts, completions, completion_ids=[[] for _ in completions])

    prompts = [mdp.prompts[int(i)].text for i in chosen]
    return label(prompts, texts, gold, LABEL_TEMPERATURE, rng), np.concatenate(scores)


def learned_reward(
    task: Task, rankings: list[Ranking], gold: np.ndarray[Any, Any], epochs: int, out: Path, seed: int
) -> RewardModel:
    """A reward model trained on the rankings; its demonstrations (the task's reference texts) score 0."""
    generator = torch.Generator().manual_seed(seed)
    model = RewardModel.from_causal_lm(str(task.base_model), task.tokenizer, generator)
    references = [(p.text, str(p.columns["reference"])) for p in task.prompts("train")[:256]]
    report = train_reward_model(
        model,
        rankings,
        learning_rate=2e-3,
        generator=generator,
        demonstrations=references,
        heldout=0.125,
        epochs=epochs,
    )
    model.save(out / "reward_model")
    ceiling = agreement_ceiling(gold, LABEL_TEMPERATURE)
    described = {
        "heldout_accuracy": report.heldout_accuracy,
        "ceiling": ceiling,
        "pairs": report.heldout_pairs,
        "offset": report.offset,
        "accuracy_by_distance": {str(k): v for k, v in report.accuracy_by_rank_distance.items()},
        "loss_curve": list(report.train_loss),
    }
    write_json(out / "reward_model.json", described)
    print(
        f"   orders {report.heldout_accuracy:.1%} of {report.heldout_pairs} held-out pairs as the labeller did "
        f"(gold itself: {ceiling:.1%})"
    )
    return model
