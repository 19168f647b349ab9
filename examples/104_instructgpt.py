"""InstructGPT in one file

The recipe of Ouyang et al. 2022 (arXiv:2203.02155), whole, on a task that fits a CPU: a GPT imitates a few
demonstrations, its samples are ranked, a reward model learns from the rankings, and PPO trains the GPT against the
reward model, while it goes on learning ordinary text (PPO-ptx).

    python examples/104_instructgpt.py

| stage | paper | here |
| --- | --- | --- |
| 1. imitate | 13,000 demonstrations of labellers | 128 reference texts of the task |
| 2. rank, train a reward model | 33,000 prompts, K = 4 to 9 | 1,024 prompts, K = 4, labels with noise |
| 3. reinforce | PPO, KL to the imitating model, pretraining text beside it | the same |

The critic begins as the reward model (`value=`), and the KL is measured to the model of stage 1, both as in the paper.
The pretraining text stands for whatever else the model should still be able to do: here, answering questions about
little stories, as in another task, `textgym/Stories-v0`. The column "stories" is the loss on held-out answers, in nats
per token; where it rises, something was forgotten.

"gold" is the task's true reward (is the review favourable?) on held-out prompts. Nothing is trained on it: only the
labeller sees it, through noise. "grammatical" is the share of texts that the task's grammar accepts.

Expected output:

```text
                  gold   grammatical   stories
base model       0.507         0.977     0.429
imitation        0.548         0.982     0.430
PPO-ptx          0.934         0.980     0.402

The reward model orders 75.3% of the held-out pairs as the labeller did.
```

With `PTX_COEF = 0` the third row reads 0.939, 0.969, 0.474: as much gold, but the model forgets how to answer
questions.

The same as a command, in stages that can be killed and resumed, with a report: `textgym pipeline`. Next:
[105](105_own_algorithm.py) replaces PPO.
"""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from transformers import PreTrainedModel

import textgym
from textgym.agents import PPO, LMPolicy, Pretraining, SFTSettings, fine_tune, sample_responses, task_demonstrations
from textgym.agents.offline.sft import mean_loss
from textgym.lm import load_causal_lm
from textgym.rewards import RewardModel, plackett_luce_ranks, train_reward_model
from textgym.types import Ranking

TASK, OTHER_TASK = "textgym/Reviews-v0", "textgym/Stories-v0"
DEMONSTRATIONS = 128
PROMPTS, COMPLETIONS, LABEL_TEMPERATURE = 1024, 4, 0.1
TOTAL_TIMESTEPS = 25_000
PTX_COEF = 0.1  # γ, the weight of the pretraining text
EVALUATION_PROMPTS = 512
OUT = Path("runs/104")

task = textgym.load_task(TASK)
other = textgym.load_task(OTHER_TASK)
END = task.end_token_ids[0]


def main() -> dict[str, dict[str, float]]:
    """Run the three stages, and measure the model after each."""
    print("                  gold   grammatical   stories")
    model = load_causal_lm(task.base_model)
    measured = {"base model": show("base model", writer(model))}

    imitate(model)
    measured["imitation"] = show("imitation", writer(model))

    reward_model, accuracy = train_on_rankings(model)
    measured["PPO-ptx"] = show("PPO-ptx", reinforce(model, reward_model))
    print(f"\nThe reward model orders {accuracy:.1%} of the held-out pairs as the labeller did.")
    return measured


def imitate(model: PreTrainedModel) -> None:
    """Stage 1: supervised fine-tuning on prompts with reference texts."""
    shown = task_demonstrations(task, "train", END)[:DEMONSTRATIONS]
    validation = task_demonstrations(task, "validation", END)[:64]
    settings = SFTSettings(epochs=1, learning_rate=4e-4, batch_size=16)
    fine_tune(model, shown, validation=validation, settings=settings, progress=False)


def train_on_rankings(model: PreTrainedModel) -> tuple[Path, float]:
    """Stage 2: sample, rank and fit; return the reward model's directory and its accuracy on held-out prompts."""
    mdp = gym.make(TASK).unwrapped.mdp
    written = sample_responses(writer(model), mdp, np.arange(PROMPTS), COMPLETIONS, seed=1)
    ranks = plackett_luce_ranks(written.rewards, LABEL_TEMPERATURE, np.random.default_rng(1))
    rankings = [
        Ranking(prompt, tuple(texts), tuple(row))
        for prompt, texts, row in zip(written.prompts, written.completions, ranks.tolist(), strict=True)
    ]
    generator = torch.Generator().manual_seed(1)
    reward_model = RewardModel.from_causal_lm(model, task.tokenizer, generator)
    report = train_reward_model(
        reward_model, rankings, learning_rate=2e-3, epochs=2, heldout=0.125, generator=generator, progress=False
    )
    reward_model.save(OUT / "reward_model")
    return OUT / "reward_model", report.heldout_accuracy


def reinforce(model: PreTrainedModel, reward_model: Path) -> LMPolicy:
    """Stage 3: PPO against the reward model, from the imitating model and with the KL to it."""
    texts = task_demonstrations(other, "train", END)[:2000]
    algorithm = PPO(
        "LMPolicy",
        gym.make_vec(TASK, num_envs=64, reward=f"rm:{reward_model}"),
        model=model,  # trained in place; the reference is a copy of it as it is now
        value=reward_model,
        pretraining=Pretraining(texts, coefficient=PTX_COEF, batch_size=16),
        learning_rate=5e-4,
        beta=0.3,
        seed=0,
    )
    algorithm.learn(TOTAL_TIMESTEPS)
    algorithm.save(OUT / "policy")
    return algorithm.policy


def writer(model: PreTrainedModel) -> LMPolicy:
    """Return a policy that writes with a model and is not trained."""
    return PPO("LMPolicy", TASK, model=model, seed=0).policy


def show(stage: str, policy: LMPolicy) -> dict[str, float]:
    """Measure a policy on held-out prompts, print the row of a table, and return it."""
    mdp = gym.make(TASK, split="test").unwrapped.mdp
    written = sample_responses(policy, mdp, np.arange(EVALUATION_PROMPTS), 1, seed=2)
    texts = [completions[0] for completions in written.completions]
    stories = task_demonstrations(other, "test", END)[:128]
    row = {
        "gold": float(written.rewards.mean()),
        "grammatical": float(np.mean(task.metrics["grammatical"](written.prompts, texts))),
        "stories": mean_loss(policy.lm, stories),
    }
    print(f"{stage:14s} {row['gold']:7.3f} {row['grammatical']:13.3f} {row['stories']:9.3f}", flush=True)
    return row


if __name__ == "__main__":
    main()
