"""Write an algorithm

An algorithm of this package is a short declaration on one training loop: how many responses each prompt gets, a critic
or none, the advantages, the loss of a token. This lesson writes CISPO (MiniMax 2025, arXiv:2506.13585), which the
package does not have, in about twenty lines, and compares it with PPO where the best possible result is known.

    python examples/105_own_algorithm.py

PPO clips the ratio ρ = π/π_old: once ρ is above 1 + ε, a token that was better than expected has no gradient any more.
CISPO keeps the gradient of every token and clips only its weight, treating that as a constant:

    loss = −sg(min(ρ, c)) · A · log π(a|s),   sg = stop gradient, c = `max_weight`

It has no critic. Each prompt gets four responses, and a response's advantage A is its return minus the mean of its
group, divided by the standard deviation of all returns of the iteration.

A subclass of `SequenceAlgorithm` overrides only what differs. Its settings are a frozen dataclass: they become
arguments of the constructor and are saved with checkpoints. Collecting, the KL to the reference, minibatches, saving
and logging are inherited.

The task is `textgym/Copy-v0`: sixteen prompts of two words, each to be repeated. All responses can be enumerated, so
`textgym.optimum` knows the best value of E[R] − β·KL. The score is 0 for the reference model and 1 for that optimum.

Expected output (seconds depend on your machine):

```text
J of the reference 0.250, of the optimum 0.861

           score, by seed          mean   seconds   critic
PPO        0.995  0.997  0.997    0.996       2.3   yes
CISPO      0.998  0.997  0.998    0.998       2.1   no
```

Both come within half a percent of the optimum, CISPO without a critic. One easy task and three seeds say no more than
that. `textgym bench run diagnostic` compares algorithms on tasks that are hard in different ways, and takes
yours, too.

Next: [106](106_own_task.py) makes a task.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from torch import Tensor

import textgym
from textgym.agents import PPO, Advantages, Minibatch, Scored, SequenceAlgorithm
from textgym.agents.functional.objectives import spread
from textgym.agents.settings import GroupSettings

TASK = "textgym/Copy-v0"
BETA = 0.05
TOTAL_TIMESTEPS = 8192
EPISODES_PER_ITERATION, MINIBATCH_SIZE = 256, 128
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class CISPOSettings(GroupSettings):
    """Settings of CISPO, beside those that all algorithms with groups share.

    Attributes:
        max_weight: c, the largest weight that a token's gradient gets.
    """

    max_weight: float = 2.0


class CISPO(SequenceAlgorithm):
    """Policy gradient with clipped importance weights and advantages relative to a prompt's group."""

    settings: CISPOSettings
    settings_class = CISPOSettings

    def estimate_advantages(self, scored: Scored) -> Advantages:
        """Return each response's advantage at all of its tokens."""
        # `returns` is [N]: reward minus β times the KL, summed over each response; groups are consecutive.
        groups = scored.returns.reshape(-1, self.settings.samples_per_prompt)
        centred = (groups - groups.mean(axis=1, keepdims=True)).ravel()
        return spread(centred / (scored.returns.std() + 1e-4), scored.episodes.own)

    def policy_loss(self, log_probs: Tensor, batch: Minibatch) -> Tensor:
        """Return the loss of each token, [n, T]; the loop averages over tokens that are part of a response."""
        weight = batch.log_ratio(log_probs).exp().clamp(max=self.settings.max_weight).detach()
        return -weight * batch.advantages * log_probs


def main() -> dict[str, list[float]]:
    """Train PPO and CISPO on the same task with the same settings, and compare them with the exact optimum."""
    best = textgym.optimum(TASK, beta=BETA)
    print(f"J of the reference {best.reference.objective:.3f}, of the optimum {best.value:.3f}\n")
    print("           score, by seed          mean   seconds   critic")
    scores: dict[str, list[float]] = {}
    for kind in (PPO, CISPO):
        started = time.process_time()
        policies = [train(kind, seed).policy for seed in SEEDS]
        seconds = (time.process_time() - started) / len(SEEDS)
        scores[kind.__name__] = found = [best.evaluate(policy).score for policy in policies]
        by_seed = "  ".join(f"{score:.3f}" for score in found)
        critic = "no" if policies[0].value is None else "yes"
        print(f"{kind.__name__:10s} {by_seed:22s} {np.mean(found):.3f} {seconds:9.1f}   {critic}")
    return scores


def train(kind: type[SequenceAlgorithm], seed: int) -> SequenceAlgorithm:
    """Return an algorithm after training; what it does not set itself is the same for all."""
    algorithm = kind(
        "LMPolicy",
        TASK,
        learning_rate=3e-3,
        beta=BETA,
        episodes_per_iteration=EPISODES_PER_ITERATION,
        minibatch_size=MINIBATCH_SIZE,
        seed=seed,
    )
    return algorithm.learn(TOTAL_TIMESTEPS)


if __name__ == "__main__":
    main()
