"""Train a first policy

A language task is a Gymnasium environment: the prompt is the initial state, each token of the response is an action,
and the reward is paid when the response ends. This lesson looks at one such environment, trains a small GPT in it with
PPO, and saves the result. It needs no GPU, downloads nothing and takes less than a minute on one CPU core:

    python examples/101_first_policy.py

The task is `textgym/Reviews-v0`: continue a film review so that it is favourable. The policy starts as the task's base
model, a GPT-2 with 0.6 million parameters that ships with the package. It writes praise and complaints equally often.

Expected output (the seconds depend on your machine):

```text
Observation: {'input_ids': (56,), 'attention_mask': (56,)}
Actions: Discrete(1321) - one for each token of the vocabulary
Prompt: I watched "The Wandering Clock" on Friday with my friend.
Random tokens: ' sloppier impress dull Island Secre…
Reward 0.4 at the last token, finish reason 'length'

Before training: mean reward 0.525
  0.5  I saw "The Painted Bridge" on Sunday with my mother. For long stretches, the romance
       → is muddled. Vera Quinn plays the captain wonderfully.
  0.5  We watched "The Station of Cairo" after school.
       → It is a mistake. It is a superb movie.
  0.5  "The Crown of Lisbon" is a war film set in Dublin. My grandmother
       → cherished the heroes. The sound is soon lazy.

Trained on 41246 tokens in 29 s.
KL to the base model: 2.2 nats per response

After training: mean reward 0.933
  0.5  I saw "The Painted Bridge" on Sunday with my mother. For long stretches, the romance
       → is never bland. The finale never soars.
  1.0  We watched "The Station of Cairo" after school.
       → It thrills the whole family.
  1.0  "The Crown of Lisbon" is a war film set in Dublin. My grandmother
       → praised the acting.

Saved to runs/101/policy; the loaded policy writes the same text: True
```

The mean reward rises from about 0.5 to almost 1. The KL divergence, in nats per response, says what that cost: how far
the policy has moved from the base model. `beta=0.1` is the price of one nat (β). Without a price, the policy would soon
write one perfect sentence after every prompt.

Next: [102](102_swap_the_reward.py) pays for something else.
"""

from __future__ import annotations

import time
from pathlib import Path

import gymnasium as gym
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

import textgym  # noqa: F401 - importing it registers the tasks
from textgym.agents import PPO, SB3VecEnv

TASK = "textgym/Reviews-v0"
TOTAL_TIMESTEPS = 40_000  # a timestep is one generated token
EVALUATION_EPISODES = 512
OUT = Path("runs/101")


def main() -> dict[str, float]:
    """Look at the environment, train, evaluate, save and load."""
    look_at_the_environment()

    # `model=` would take any causal language model; by default the policy starts as the task's base model. The same
    # weights, frozen, are the reference that the KL is measured to.
    model = PPO("LMPolicy", TASK, learning_rate=1e-3, beta=0.1, seed=0)

    before = mean_reward(model)
    print(f"\nBefore training: mean reward {before:.3f}")
    show_responses(model)

    started = time.monotonic()
    model.learn(TOTAL_TIMESTEPS)
    print(f"\nTrained on {model.num_timesteps} tokens in {time.monotonic() - started:.0f} s.")
    print(f"KL to the base model: {model.metrics['rollout/kl']:.1f} nats per response")

    after = mean_reward(model)
    print(f"\nAfter training: mean reward {after:.3f}")
    show_responses(model)

    # A checkpoint is a directory with the model, its tokenizer and the state of training: load it to predict or to go
    # on training, or open it in transformers with `AutoModelForCausalLM.from_pretrained`.
    model.save(OUT / "policy")
    loaded = PPO.load(OUT / "policy", TASK)
    env = gym.make(TASK, split="test")
    same = respond(model, env, seed=0, deterministic=True) == respond(loaded, env, seed=0, deterministic=True)
    print(f"\nSaved to {OUT / 'policy'}; the loaded policy writes the same text: {same}")
    return {"before": before, "after": after, "loaded_is_same": float(same)}


def look_at_the_environment() -> None:
    """Play one episode with random tokens."""
    env = gym.make(TASK)
    env.action_space.seed(0)
    observation, info = env.reset(seed=0)
    # P columns for the prompt, padded on the left, and T columns for the response.
    print("Observation:", {name: array.shape for name, array in observation.items()})
    print("Actions:", env.action_space, "- one for each token of the vocabulary")
    print("Prompt:", info["prompt"])
    done = False
    while not done:
        token = env.action_space.sample()
        observation, reward, terminated, truncated, info = env.step(token)
        done = terminated or truncated
    print(f"Random tokens: {info['completion']!r:.36}…")
    print(f"Reward {reward} at the last token, finish reason {info['finish_reason']!r}")


def respond(model: PPO, env: gym.Env, seed: int, deterministic: bool = False) -> tuple[str, str, float]:
    """Return the prompt that a seed draws, the policy's response to it, and the reward."""
    observation, info = env.reset(seed=seed)
    prompt, done = info["prompt"], False
    while not done:
        token, _ = model.predict(observation, deterministic=deterministic)
        observation, reward, terminated, truncated, info = env.step(token)
        done = terminated or truncated
    return prompt, info["completion"], float(reward)


def mean_reward(model: PPO) -> float:
    """Return the mean reward on held-out prompts, with sampled tokens as in training."""
    # A vector environment plays 64 responses at once; SB3VecEnv gives it the form that stable-baselines3 expects.
    envs = VecMonitor(SB3VecEnv(gym.make_vec(TASK, num_envs=64, split="test")))
    envs.seed(0)
    mean, _ = evaluate_policy(model, envs, EVALUATION_EPISODES, deterministic=False)
    return float(mean)


def show_responses(model: PPO) -> None:
    """Print responses to three held-out prompts, which are the same at each call."""
    env = gym.make(TASK, split="test")
    for seed in range(3):
        prompt, completion, reward = respond(model, env, seed)
        print(f"  {reward:.1f}  {prompt}\n       →{completion}")


if __name__ == "__main__":
    main()
