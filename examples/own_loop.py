"""Write your own loop

`learn()` repeats two calls: `collect()` plays an iteration's episodes, and `train(episodes)` updates the policy on
them. Call them yourself when you want to decide what `learn()` decides: when to stop, which learning rate an iteration
gets, what is looked at in between. This lesson trains until the mean score of an iteration reaches a target:

    python examples/own_loop.py

Expected output:

```text
iteration  1: score 0.26, KL 0.00 nats, 128 tokens
iteration  2: score 0.33, KL -0.00 nats, 256 tokens
…
iteration  9: score 0.95, KL 1.11 nats, 1152 tokens
Reached 0.9 with 29% of the budget.
```

Between the two calls, `episodes` holds everything that happened: tokens, log-probabilities, rewards and their
components as arrays of one row per response (`textgym.types.Episodes`). Until `train` has completed the iteration,
`collect` plays the same prompts with the same random numbers again.
"""

from __future__ import annotations

import textgym  # noqa: F401 - importing it registers the tasks
from textgym.agents import GRPO

TASK = "textgym/Recall-v0"
BUDGET = 4_000  # tokens
TARGET = 0.9  # mean score of an iteration's responses


def main() -> dict[str, float]:
    """Train until the target is reached or the budget is spent."""
    algorithm = GRPO("LMPolicy", TASK, learning_rate=2e-3, kl=0.01, seed=0)
    metrics: dict[str, float] = {}
    while algorithm.num_timesteps < BUDGET:
        episodes = algorithm.collect()
        assert episodes is not None  # only a callback can stop a collection

        # The learning rate decays to 0 with the share of the budget that remains; 1.0 would keep it as it is.
        remaining = 1 - algorithm.num_timesteps / BUDGET
        metrics = algorithm.train(episodes, remaining)

        score = float(episodes.rewards.sum(1).mean())
        print(
            f"iteration {algorithm.iteration:2}: score {score:.2f}, KL {metrics['rollout/kl']:.2f} nats, "
            f"{algorithm.num_timesteps} tokens"
        )
        if score >= TARGET:
            print(f"Reached {TARGET} with {algorithm.num_timesteps / BUDGET:.0%} of the budget.")
            break
    return metrics


if __name__ == "__main__":
    main()
