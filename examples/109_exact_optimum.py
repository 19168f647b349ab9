"""Compare with the exact optimum

The objective of every algorithm here is J(π) = E[R] − β·KL(π‖π_ref). On a small task all responses can be enumerated,
so the policy π* with the best J is known, and so is the distance of a trained policy from it: nothing is sampled and
nothing is estimated. This lesson reads those numbers on one of the diagnostic tasks.

    python examples/109_exact_optimum.py

In `textgym/Prior-v0` the reward works against the habits of the reference model: the word that pays is one that the
reference hardly ever writes. With a price β on each nat of KL, the optimum is a compromise:

    π*(y) = π_ref(y) · exp(R(y) / β) / Z,   J* = β · log Z

and for every policy π the regret is a KL divergence:

    J* − J(π) = β · KL(π‖π*)

Expected output:

```text
4,096 responses; J* = 0.196747, J(π_ref) = 0.020000
At π*: E[R] = 0.568, KL = 9.288

                 E[R]     KL    J(π)   score    J* − J(π)    β·KL(π‖π*)
at the start    0.020   0.00  0.0200   0.000  0.176747372   0.176747372
after 1/8       0.315   3.97  0.1565   0.772  0.040294879   0.040294879
after training  0.502   7.80  0.1901   0.963  0.006614521   0.006614521

Probability of the first word
                   a       b       c       d
reference     0.3017  0.0196  0.6587  0.0200
optimum       0.1329  0.0086  0.2902  0.5683
policy        0.2270  0.0152  0.3804  0.3774
```

The last two columns agree for every policy: the regret identity holds. To maximise J is therefore to come close to π*,
which is not the policy with the greatest reward: it writes the word that pays in 57 of 100 places, since more would
cost more KL than it earns. "score" is (J(π) − J(π_ref)) / (J* − J(π_ref)): 0 for the reference, 1 for the optimum.

The same on the command line: `textgym optimum --task textgym/Prior-v0 --beta 0.04 --policy RUN`.

Next: [a conversation](110_turns.py), whose other side throws dice.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import textgym
from textgym.agents import PPO

TASK = "textgym/Prior-v0"
BETA = 0.04
TOTAL_TIMESTEPS = 12_000


def main() -> dict[str, dict[str, float]]:
    """Compute the optimum, train towards it, and compare at the beginning, half-way and at the end."""
    # 1. The optimum, by enumeration.
    best = textgym.optimum(TASK, beta=BETA)
    print(f"{best.n_sequences:,} responses; J* = {best.value:.6f}, J(π_ref) = {best.reference.objective:.6f}")
    print(f"At π*: E[R] = {best.best.reward:.3f}, KL = {best.best.kl:.3f}\n")

    # 2. Train with the same β, and evaluate exactly.
    model = PPO("LMPolicy", TASK, beta=BETA, learning_rate=3e-3, episodes_per_iteration=64, seed=0)
    print("                 E[R]     KL    J(π)   score    J* − J(π)    β·KL(π‖π*)")
    rows = {"at the start": show("at the start", best, model)}
    model.learn(TOTAL_TIMESTEPS // 8)
    rows["after 1/8"] = show("after 1/8", best, model)
    model.learn(TOTAL_TIMESTEPS)  # goes on from here, with a new decay of the learning rate
    rows["after training"] = show("after training", best, model)

    # 3. The first word: what the reference writes, what would be best, and what was learned.
    words = textgym.load_task(TASK).tokenizer.convert_ids_to_tokens(range(best.mdp.n_actions))
    print("\nProbability of the first word\n            " + "".join(f"{word:>8s}" for word in words))
    print_row("reference", np.exp(best.ref_log_probs[0][0]))
    print_row("optimum", best.next_token_probs(prompt_index=0))
    print_row("policy", np.exp(best.policy_log_probs(model.policy)[0][0]))
    return rows


def show(stage: str, best: Any, model: PPO) -> dict[str, float]:
    """Print a policy's exact value beside its regret, computed in two ways."""
    value = best.evaluate(model.policy)
    regret, divergence = best.value - value.objective, BETA * value.kl_to_optimum
    print(
        f"{stage:14s} {value.reward:6.3f} {value.kl:6.2f} {value.objective:7.4f} {value.score:7.3f} "
        f"{regret:12.9f} {divergence:13.9f}"
    )
    return {"objective": value.objective, "score": value.score, "regret": regret, "divergence": divergence}


def print_row(name: str, probabilities: np.ndarray) -> None:
    """Print a distribution over the vocabulary."""
    print(f"{name:12s}" + "".join(f"{p:8.4f}" for p in probabilities))


if __name__ == "__main__":
    main()
