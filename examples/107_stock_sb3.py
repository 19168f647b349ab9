"""Use stable-baselines3's own algorithms

Our environments are ordinary Gymnasium environments, so the algorithms of stable-baselines3 train on them. They need a
policy that reads tokens: `TokenActorCriticPolicy`, a language model with a value head. Whatever you built on
stable-baselines3, such as a subclass of its PPO, goes on working.

    python examples/107_stock_sb3.py

Three things are different from a usual environment:

- **The reference.** Algorithms of this package know the KL to a reference model and price it by themselves. A stock
  algorithm only sees rewards, so the wrapper `VectorReferenceKL` pays β·log π_ref(token) in every step, and the entropy
  bonus of the algorithm (`ent_coef=β`) stands for the other half, −β·log π(token).
- **Discounting.** A response is paid at its end, whole: `gamma=1.0`.
- **Cost.** A stock algorithm stores each state of a response as a transition of its own and reads the whole prefix anew
  for each when it learns. Algorithms of this package read each response once.

The task is `textgym/Copy-v0`, where the best value of E[R] − β·KL is known: a score of 0 is the reference model, 1 the
optimum.

Expected output (seconds depend on your machine):

```text
sb3 PPO      score 0.956   E[R] 0.963   KL 2.57     7.0 s
sb3 A2C      score 0.990   E[R] 0.984   KL 2.58     3.0 s
textgym PPO  score 1.000   E[R] 1.000   KL 2.76     5.9 s
```

All three come close to the optimum; none of the settings was tuned. With responses of two tokens the cost is much the
same. It is not with longer ones: with 48 new tokens, an iteration of stock PPO takes 36 times as long as one of ours.

Next: [108](108_lora.py) trains adapters instead of a whole model.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import stable_baselines3 as sb3
from stable_baselines3.common.vec_env import VecMonitor

import textgym
from textgym.agents import PPO, SB3VecEnv
from textgym.agents.stock import TokenActorCriticPolicy
from textgym.env import VectorReferenceKL
from textgym.lm import load_causal_lm

TASK = "textgym/Copy-v0"
BETA = 0.05
TOTAL_TIMESTEPS = 16_384
ENVS = 32


def main() -> dict[str, float]:
    """Train stock PPO and A2C, and PPO of this package, and score all of them exactly."""
    best = textgym.optimum(TASK, beta=BETA)
    scores: dict[str, float] = {}

    # The settings of stable-baselines3 count transitions, that is, tokens.
    started = time.process_time()
    ppo = stock(sb3.PPO, n_steps=8, batch_size=128, n_epochs=4, learning_rate=1e-3)
    scores["sb3 PPO"] = show("sb3 PPO", best.evaluate(ppo.policy.lm), started)

    started = time.process_time()
    a2c = stock(sb3.A2C, n_steps=8, learning_rate=1e-3)
    scores["sb3 A2C"] = show("sb3 A2C", best.evaluate(a2c.policy.lm), started)

    # The settings of this package count responses.
    started = time.process_time()
    own = PPO("LMPolicy", TASK, beta=BETA, learning_rate=3e-3, episodes_per_iteration=128, minibatch_size=64, seed=0)
    own.learn(TOTAL_TIMESTEPS)
    scores["textgym PPO"] = show("textgym PPO", best.evaluate(own.policy), started)
    return scores


def stock(kind: type[sb3.PPO] | type[sb3.A2C], **settings: Any) -> sb3.PPO | sb3.A2C:
    """Train an algorithm of stable-baselines3 under a KL to the task's base model."""
    base_model = textgym.load_task(TASK).base_model
    envs = VectorReferenceKL(gym.make_vec(TASK, num_envs=ENVS), load_causal_lm(base_model), BETA)
    algorithm = kind(
        TokenActorCriticPolicy,
        VecMonitor(SB3VecEnv(envs)),
        gamma=1.0,
        ent_coef=BETA,
        policy_kwargs={"model": base_model},
        seed=0,
        device="cpu",
        **settings,
    )
    return algorithm.learn(TOTAL_TIMESTEPS)


def show(name: str, value: Any, started: float) -> float:
    """Print what a policy reaches, and return its score."""
    seconds = time.process_time() - started
    print(f"{name:12s} score {value.score:.3f}   E[R] {value.reward:.3f}   KL {value.kl:.2f}   {seconds:5.1f} s")
    return value.score


if __name__ == "__main__":
    main()
