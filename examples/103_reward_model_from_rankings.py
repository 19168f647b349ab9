"""Train a reward model from rankings

Sometimes nobody can write the reward down, but people can say which of several texts they prefer. A reward model learns
from such rankings: it is the language model with a linear head, trained so that the preferred text of every pair gets
the higher score. For K ranked completions of one prompt the loss is the mean over all K(K−1)/2 pairs of
−log σ(r_better − r_worse) (Ouyang et al. 2022, equation 1).

    python examples/103_reward_model_from_rankings.py

1. The base model writes four reviews to each of 1,024 prompts.
2. A labeller ranks them. Here it is simulated: it sees the task's gold reward, with noise, as people are not consistent
   either. Rankings of people come in the same form: `textgym.rewards.read_rankings("rankings.jsonl")`, one line
   `{"prompt": …, "completions": […], "ranks": [0, 2, 1, …]}` each, 0 for the best.
3. A reward model is trained on seven eighths of the prompts, and asked about the others.
4. The reward model is the reward: `reward="rm:DIRECTORY"`. Gold, with a weight of 0, is only watched.

Expected output:

```text
A ranking: I watched "The Valley of Naples" on Saturday with my grandmother. The soundtrack
  0  is magical. Still, the acting is tedious.
  1  is sloppy. It is a thin movie. It is a gem.
  2  is mostly muddled. Although the climax is serious, it is lifeless.
  3  disgusts everyone. Still, the twists rather drag.

Held-out pairs: 768, of prompts that training never saw
Accuracy 0.757 (chance 0.5, ceiling 0.863)
By distance in rank: 0.674 at 1, 0.820 at 2, 0.875 at 3

Scores: I watched "The Silent Harbor" on Friday with my sister.
  +0.95  The acting is superb.
  -0.07  It is set in the fifties.
  -3.64  The acting is dreadful.

               reward model    gold     KL
base model            -0.30   0.518    0.0
after PPO              2.36   0.927    3.6
```

The reward model orders about three pairs of four as the labeller did, and pairs that are three ranks apart more
reliably than neighbours. Even gold itself would reach only the "ceiling", because the labels are noisy. The policy
never saw the gold reward, yet gold rises: the reward model has learned what the labeller wants. Far from the base
model, where it has seen no texts, a reward model may be wrong; that is why the price of the KL is higher here
(`beta=0.3`).

Next: [104](104_instructgpt.py) puts imitation in front of it and makes the whole loop.
"""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

import textgym  # noqa: F401 - importing it registers the tasks
from textgym.agents import PPO, evaluate, sample_responses
from textgym.rewards import (
    RewardModel,
    RewardModelReport,
    agreement_ceiling,
    plackett_luce_ranks,
    train_reward_model,
    write_rankings,
)
from textgym.types import Ranking

TASK = "textgym/Reviews-v0"
PROMPTS, COMPLETIONS = 1024, 4
LABEL_TEMPERATURE = 0.1  # two texts whose gold differs by 0.1 are ranked with odds of e : 1
TOTAL_TIMESTEPS = 25_000
EVALUATION_EPISODES = 512
OUT = Path("runs/103")


def main() -> dict[str, float]:
    """Sample, rank, train the reward model, and train a policy on it."""
    OUT.mkdir(parents=True, exist_ok=True)
    base = PPO("LMPolicy", TASK, seed=0)  # not trained: it only writes

    # 1. Responses of the base model, with what the task would pay for each.
    mdp = gym.make(TASK).unwrapped.mdp
    written = sample_responses(base.policy, mdp, np.arange(PROMPTS), COMPLETIONS, seed=0)

    # 2. Ranks: 0 for the best.
    ranks = plackett_luce_ranks(written.rewards, LABEL_TEMPERATURE, np.random.default_rng(0))
    rankings = [
        Ranking(prompt, tuple(texts), tuple(row))
        for prompt, texts, row in zip(written.prompts, written.completions, ranks.tolist(), strict=True)
    ]
    write_rankings(OUT / "rankings.jsonl", rankings)
    show_ranking(rankings[0])

    # 3. The reward model begins as a copy of the base model, with a fresh head.
    reward_model = RewardModel.from_causal_lm(base.policy.lm, mdp.tokenizer, torch.Generator().manual_seed(0))
    report = train_reward_model(
        reward_model,
        rankings,
        learning_rate=2e-3,
        epochs=2,
        heldout=0.125,
        generator=torch.Generator().manual_seed(0),
        progress=False,
    )
    reward_model.save(OUT / "reward_model")
    ceiling = agreement_ceiling(written.rewards, LABEL_TEMPERATURE)
    show_report(report, ceiling)
    show_scores(reward_model)

    # 4. The reward model is the reward; gold is only watched.
    rewards = [(f"rm:{OUT / 'reward_model'}", 1.0), ("gold", 0.0)]
    model = PPO("LMPolicy", gym.make_vec(TASK, num_envs=64, reward=rewards), learning_rate=1e-3, beta=0.3, seed=0)
    before = measure(model, rewards)
    model.learn(TOTAL_TIMESTEPS)
    after = measure(model, rewards)
    print("\n               reward model    gold     KL")
    for stage, row in (("base model", before), ("after PPO", after)):
        print(f"{stage:<14s} {row['reward_model']:12.2f} {row['gold']:7.3f} {row['kl']:6.1f}")
    return {
        "accuracy": report.heldout_accuracy,
        "pairs": report.heldout_pairs,
        "ceiling": ceiling,
        "gold_before": before["gold"],
        "gold_after": after["gold"],
        "score_before": before["reward_model"],
        "score_after": after["reward_model"],
    }


def measure(model: PPO, rewards: list[tuple[str, float]]) -> dict[str, float]:
    """Return means on held-out prompts: each component of the reward, and the KL to the base model."""
    mdp = gym.make(TASK, split="test", reward=rewards).unwrapped.mdp
    report = evaluate(model.policy, model.reference_trunk, mdp, EVALUATION_EPISODES, seed=0)
    return {name: value["mean"] for name, value in report.summary().items()}


def show_ranking(ranking: Ranking) -> None:
    """Print the completions of a prompt, the best first."""
    print(f"A ranking: {ranking.prompt}")
    for rank, text in sorted(zip(ranking.ranks, ranking.completions, strict=True)):
        print(f"  {rank} {text}")


def show_report(report: RewardModelReport, ceiling: float) -> None:
    """Print how often the reward model agrees with labels that it never saw."""
    print(f"\nHeld-out pairs: {report.heldout_pairs}, of prompts that training never saw")
    print(f"Accuracy {report.heldout_accuracy:.3f} (chance 0.5, ceiling {ceiling:.3f})")
    apart = ", ".join(f"{value:.3f} at {distance}" for distance, value in report.accuracy_by_rank_distance.items())
    print(f"By distance in rank: {apart}")


def show_scores(reward_model: RewardModel) -> None:
    """Print the reward model's scores of three texts."""
    prompt = 'I watched "The Silent Harbor" on Friday with my sister.'
    texts = [" The acting is superb.", " It is set in the fifties.", " The acting is dreadful."]
    print(f"\nScores: {prompt}")
    for text, score in zip(texts, reward_model.score([prompt] * len(texts), texts), strict=True):
        print(f"  {score:+.2f} {text}")


if __name__ == "__main__":
    main()
