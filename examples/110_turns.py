"""Talk to the other side

A conversation is an ordinary episode. An action is a token of the policy; when the policy ends its turn, a *world*
replies within the same step. This lesson writes a world, plays it by hand, trains a policy in it, and compares the
policy with the exact optimum.

    python examples/110_turns.py

The world has one of eight numbers in mind and says whether it is lower or higher than a guess. Four guesses are
allowed, a wrong one costs 0.1, and the right one pays 1. So it is best to begin in the middle, and then to halve what
is left.

Expected output:

```text
guess 4: higher, reward -0.1
guess 6: lower, reward -0.1
guess 5: right, reward +1.0
score 0.8

J* = 0.7670, J(π_ref) = 0.1241
after training: E[R] = 0.832, J = 0.7257, score 0.936
own tokens per episode 2.68, of the world 1.68

first guess       1      2      3      4      5      6      7      8
reference     0.125  0.125  0.125  0.125  0.125  0.125  0.125  0.125
optimum       0.004  0.049  0.162  0.284  0.284  0.162  0.049  0.004
policy        0.000  0.000  0.000  0.997  0.000  0.002  0.000  0.000
```

The number is never drawn at the beginning. The world's state is the set of numbers that are still possible, and a reply
draws one of the answers with its probability. An episode looks the same either way, but the optimum becomes known: at a
reply it takes the mean over the answers. With the number inside the state, the "best" policy would simply say it.

Everything about turns: [Turns and tools](../docs/turns.md). Next: [PPO](ppo_by_hand.py) and [GRPO](grpo_by_hand.py)
by hand, in plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

import textgym
from textgym.agents import PPO
from textgym.tasks.diagnostic.build import diagnostic, uniform
from textgym.worlds import KnownWorld, Outcome, Reply

NUMBERS, GUESSES = 8, 4
BETA = 0.02
TOTAL_TIMESTEPS = 40_000


class Number(KnownWorld):
    """Answer a guess by "lower", "higher" or the end of the episode."""

    def start(self, prompt: Any) -> frozenset[int]:
        return frozenset(range(1, NUMBERS + 1))

    def outcomes(self, state: frozenset[int], turn: Any) -> Sequence[Outcome]:
        guess = int(turn.text)
        answers = {
            Reply("lower", -0.1): {n for n in state if n < guess},
            Reply("", 1.0, done=True): {n for n in state if n == guess},
            Reply("higher", -0.1): {n for n in state if n > guess},
        }
        return [(len(left) / len(state), frozenset(left), reply) for reply, left in answers.items() if left]


def guess_the_number() -> textgym.Task:
    """Make the task: one word a turn, and columns for four guesses with three replies between them."""
    return diagnostic(
        "Guess",
        "Find a number, and be told whether it is lower or higher.",
        words=[str(n) for n in range(1, NUMBERS + 1)],
        replies=["lower", "higher"],
        horizon=2 * GUESSES - 1,
        beta=BETA,
        chances=uniform(NUMBERS),
        world=Number(),
        turn_tokens=1,
    )


textgym.register_task("lesson/Guess-v0", guess_the_number)


def main() -> dict[str, Any]:
    """Play by hand, train, and compare with the optimum."""
    # 1. One episode by hand. The reply stands behind the guess in the observation that the step returns.
    env = gym.make("lesson/Guess-v0")
    _, info = env.reset(seed=2)
    low, high, terminated = 1, NUMBERS, False
    while not terminated:
        guess = (low + high) // 2
        _, reward, terminated, _, info = env.step(guess - 1)  # the word "1" is token 0
        print(f"guess {guess}: {info['reply'] or 'right'}, reward {float(reward):+.1f}")
        low, high = (low, guess - 1) if info["reply"] == "lower" else (guess + 1, high)
    print(f"score {info['score']:.1f}\n")

    # 2. The optimum takes the mean over the world's answers.
    best = textgym.optimum("lesson/Guess-v0", beta=BETA)
    print(f"J* = {best.value:.4f}, J(π_ref) = {best.reference.objective:.4f}")

    # 3. Train. A timestep is a token of the policy; what the world says is read, and not trained on.
    model = PPO("LMPolicy", "lesson/Guess-v0", beta=BETA, learning_rate=3e-3, episodes_per_iteration=128, seed=0)
    model.learn(TOTAL_TIMESTEPS)
    value = best.evaluate(model.policy)
    print(f"after training: E[R] = {value.reward:.3f}, J = {value.objective:.4f}, score {value.score:.3f}")
    print(f"own tokens per episode {model.metrics['rollout/length']:.2f}, ", end="")
    print(f"of the world {model.metrics['rollout/foreign_tokens']:.2f}\n")

    # 4. The first guess.
    first = {
        "reference": np.exp(best.ref_log_probs[0][0]),
        "optimum": best.next_token_probs(prompt_index=0),
        "policy": np.exp(best.policy_log_probs(model.policy)[0][0]),
    }
    print("first guess " + "".join(f"{n:7d}" for n in range(1, NUMBERS + 1)))
    for name, probabilities in first.items():
        print(f"{name:12s}" + "".join(f"{p:7.3f}" for p in probabilities))
    return {"best": best, "value": value, "first": first}


if __name__ == "__main__":
    main()
