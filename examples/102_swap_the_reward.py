"""Swap the reward

A reward is a Python function. It gets the completions of a batch and returns one number for each:

```python
def about_music(completions, **kwargs):
    return [float(any(word in text for word in MUSIC)) for text in completions]


env = gym.make("textgym/Reviews-v0", reward=about_music)
```

`completions` are the texts that the policy wrote. A reward that needs more names it as an argument: `prompts`,
`completion_ids`, or any column of the task's data; `**kwargs` takes the rest. This is also the signature of TRL, so a
reward written for TRL works as it is. An exception in a reward stops the run and shows the prompt and the completion
that caused it; it never becomes a reward of 0.

    python examples/102_swap_the_reward.py

The lesson trains twice. First our reward alone is paid, and the task's own (`"gold"`: is the review favourable?) is
only watched, with a weight of 0. Then three rewards are added up, each with its weight: the task's own, ours, and a
small price for each word (`"length"` is a named reward of the package). Each component is logged under its name, so you
see what was learned, and what was traded for it.

Expected output:

```text
about_music: [1.0, 0.0]

Ours alone; gold is watched
  iteration  1   score  0.094   gold  0.507   about_music  0.094   kl  0.000
  iteration  7   score  0.898   gold  0.620   about_music  0.898   kl  4.879
  iteration 11   score  0.875   gold  0.526   about_music  0.875   kl  4.907

1·gold + 1·about_music - 0.03·length
  iteration  1   score  0.249   gold  0.507   about_music  0.094   length 11.734   kl  0.000
  iteration  7   score  1.325   gold  0.850   about_music  0.727   length  8.398   kl  4.904
  iteration 13   score  1.637   gold  0.939   about_music  0.961   length  8.773   kl  7.417
  iteration 15   score  1.656   gold  0.947   about_music  0.961   length  8.398   kl  7.059
```

Both policies write about music; only the second one praises it, and it has become shorter. Look at `kl`, too: wanting
more leads farther from the base model.

Next: [103](103_reward_model_from_rankings.py) learns a reward from rankings instead of writing it down.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback

import textgym  # noqa: F401 - importing it registers the tasks
from textgym.agents import PPO

TASK = "textgym/Reviews-v0"
TOTAL_TIMESTEPS = 30_000
EPISODES_PER_ITERATION = 128
MUSIC = ("music", "song", "sound", "melod", "tune")


def about_music(completions: list[str], **kwargs: Any) -> list[float]:
    """Pay 1 for a text that mentions music."""
    return [float(any(word in text for word in MUSIC)) for text in completions]


# A list of rewards with their weights. A name stands for a reward of the task or of the package.
OURS = [(about_music, 1.0), ("gold", 0.0)]
COMPOSED = [("gold", 1.0), (about_music, 1.0), ("length", -0.03)]


def main() -> dict[str, dict[str, float]]:
    """Try the reward, then train on it alone, and on a sum of rewards."""
    # 1. A reward is a plain function: try it before you train on it.
    print("about_music:", about_music([" The songs are dull.", " The plot is superb."]))

    # 2. Ours alone. In a training script, only `reward=` changes.
    print("\nOurs alone; gold is watched")
    ours = train(gym.make_vec(TASK, num_envs=64, reward=OURS))

    # 3. The weighted sum.
    print("\n1·gold + 1·about_music - 0.03·length")
    composed = train(gym.make_vec(TASK, num_envs=64, reward=COMPOSED))
    return {"ours": ours, "composed": composed}


def train(env: gym.vector.VectorEnv) -> dict[str, float]:
    """Train PPO in an environment and return what its last iteration logged."""
    model = PPO("LMPolicy", env, learning_rate=1e-3, seed=0, episodes_per_iteration=EPISODES_PER_ITERATION)
    model.learn(TOTAL_TIMESTEPS, callback=PrintComponents())
    return model.metrics


class PrintComponents(BaseCallback):
    """A callback of stable-baselines3 that prints the score and its components now and then."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        # `metrics` are those of the last iteration: the same numbers that go to the logger, or to TensorBoard.
        if self.model.iteration % 6 == 1:
            print_row(self.model.iteration, self.model.metrics)

    def _on_training_end(self) -> None:
        print_row(self.model.iteration, self.model.metrics)


def print_row(iteration: int, metrics: dict[str, float]) -> None:
    """Print an iteration's mean score, its components and the KL to the base model."""
    names = ("score", "components/gold", "components/about_music", "components/length", "kl")
    logged = {name: metrics[f"rollout/{name}"] for name in names if f"rollout/{name}" in metrics}
    columns = (f"{name.removeprefix('components/')} {value:6.3f}" for name, value in logged.items())
    print(f"  iteration {iteration:2d}  ", "   ".join(columns))


if __name__ == "__main__":
    main()
