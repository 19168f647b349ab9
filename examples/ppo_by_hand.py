"""PPO by hand: the whole algorithm in plain PyTorch

A GPT-2 of two layers learns to repeat the two words of its prompt (``textgym/Copy-v0``), in a few seconds on one core:

    python examples/ppo_by_hand.py

Expected output:

```text
iteration   0   score 0.31
iteration   8   score 0.89
iteration  16   score 0.99
iteration  24   score 1.00
iteration  31   score 1.00
PPO: score 0.31 -> 1.00 in 32 iterations; β is 0.050
```

This page is for reading, and it is the oracle of the library's tests: ``tests/agents/test_by_hand.py`` hands the
episodes that ``textgym.agents.PPO`` collected to :func:`train`, and demands the same weights and the same β.

An iteration, from top to bottom (Schulman 2017, arXiv 1707.06347, as Ziegler 2019 and Ouyang 2022 use it on text):

1. The policy writes N responses; the environment pays each at its end.
2. Every token costs β·(log π − log π_ref): k1, the KL penalty *in the reward*.
3. The critic, a linear head on the policy's hidden states, judges each state; GAE with γ = 1; whitened advantages.
4. Some epochs over shuffled minibatches: clipped ratio, clipped value loss, clipped gradients, Adam with ε = 1e-5.
5. The learning rate decays linearly to 0 over the run; β follows a target KL.

Left out, since the library has it: a key-value cache (here every token costs a pass over the whole text), temperature
and top-p, frozen layers and adapters, checkpoints, logging, the guard against a ratio that does not begin at 1.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

import textgym  # noqa: F401 - registers the tasks


@dataclass(frozen=True)
class Settings:
    """Numbers of the algorithm; the names are those of ``textgym.agents.PPO``."""

    total_tokens: int = 8_000
    learning_rate: float = 3e-3
    minibatch_size: int = 32  # divides the number of episodes
    n_epochs: int = 4
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    clip_range_high: float = 0.2
    clip_range_vf: float = 0.2
    vf_coef: float = 0.1
    max_grad_norm: float = 1.0
    beta: float = 0.05  # where β begins
    kl_target: float = 2.5  # nats per response
    kl_horizon: float = 10_000  # episodes over which β changes by up to 20 %
    seed: int = 0


class Episodes(NamedTuple):
    """Responses of an iteration: ``N`` of up to ``T`` tokens to prompts of up to ``P``.

    ``input_ids`` and ``attention_mask`` are ``[N, P+T]``, the prompt padded on the left, the response on the right;
    ``log_probs`` (of the sampled tokens, as they were sampled) and ``rewards`` are ``[N, T]``, 0 after the end.
    """

    input_ids: Tensor
    attention_mask: Tensor
    log_probs: Tensor
    rewards: Tensor
    prompt_length: int


class ActorCritic(nn.Module):
    """A language model and a value head on its last hidden states, which begins at 0."""

    def __init__(self, lm: Any, n_actions: int) -> None:
        super().__init__()
        self.lm = lm
        self.n_actions = n_actions
        self.value_weight = nn.Parameter(torch.zeros(lm.config.hidden_size))
        self.value_bias = nn.Parameter(torch.zeros(()))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``[n, L, V]`` log-probabilities of the token after each one, and ``[n, L]`` values of each prefix."""
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)  # padding on the left has no position
        out = self.lm(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, output_hidden_states=True
        )
        logits = out.logits[..., : self.n_actions]  # a model may know tokens that no action writes, such as padding
        values = out.hidden_states[-1] @ self.value_weight + self.value_bias
        return logits - logits.logsumexp(-1, keepdim=True), values


def score(policy: ActorCritic, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> tuple[Tensor, Tensor]:
    """Return ``[n, T]`` log π of the response tokens, and ``[n, T]`` values of the states that they were chosen in."""
    log_probs, values = policy(input_ids, attention_mask)
    before = slice(prompt_length - 1, -1)  # the state before response token t ends in column P+t−1
    chosen = log_probs[:, before].gather(2, input_ids[:, prompt_length:, None])[..., 0]
    return chosen, values[:, before]


def gae(rewards: Tensor, values: Tensor, valid: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """Return ``[N, T]`` advantages A_t = Σ_l λ^l δ_{t+l} and value targets A + V; a response's end is worth 0."""
    advantages = torch.zeros_like(rewards)
    for row in range(len(rewards)):
        following, running = 0.0, 0.0
        for t in reversed(range(int(valid[row].sum()))):
            delta = float(rewards[row, t]) + following - float(values[row, t])
            running = delta + lam * running
            advantages[row, t], following = running, float(values[row, t])
    return advantages, advantages + values


def whiten(x: Tensor, valid: Tensor) -> Tensor:
    """Return ``x`` with mean 0 and variance 1 over the tokens of the iteration."""
    mean = x[valid].mean()
    deviation = (x[valid] - mean).square().mean().sqrt()
    return (x - mean) / (deviation + 1e-8)


def update(
    policy: ActorCritic,
    reference: ActorCritic,
    optimizer: torch.optim.Optimizer,
    episodes: Episodes,
    beta: float,
    settings: Settings,
    order: np.random.Generator,
) -> float:
    """Train on an iteration's episodes; return the KL to the reference that they had, in nats per response."""
    ids, mask, old_log_probs, rewards, p = episodes
    valid = mask[:, p:].bool()
    with torch.no_grad():
        ref_log_probs = score(reference, ids, mask, p)[0]
        old_values = score(policy, ids, mask, p)[1]
    kl = (old_log_probs - ref_log_probs).masked_fill(~valid, 0.0)
    advantages, returns = gae(rewards - beta * kl, old_values, valid, settings.gae_lambda)
    advantages = whiten(advantages, valid)

    for _ in range(settings.n_epochs):
        for rows in order.permutation(len(ids)).reshape(-1, settings.minibatch_size):
            keep = valid[rows]
            log_probs, values = score(policy, ids[rows], mask[rows], p)

            ratio = (log_probs - old_log_probs[rows])[keep].exp()
            clipped = ratio.clamp(1 - settings.clip_range, 1 + settings.clip_range_high)
            gain = advantages[rows][keep]
            policy_loss = -torch.minimum(ratio * gain, clipped * gain).mean()

            new, old, target = values[keep], old_values[rows][keep], returns[rows][keep]
            near = old + (new - old).clamp(-settings.clip_range_vf, settings.clip_range_vf)
            value_loss = 0.5 * torch.maximum((new - target) ** 2, (near - target) ** 2).mean()

            optimizer.zero_grad()
            (policy_loss + settings.vf_coef * value_loss).backward()
            nn.utils.clip_grad_norm_(policy.parameters(), settings.max_grad_norm)
            optimizer.step()
    return float(kl.sum(1).mean())


def train(
    policy: ActorCritic, reference: ActorCritic, collect: Callable[[], Episodes], settings: Settings
) -> tuple[float, list[float]]:
    """Train until ``total_tokens`` were written; return the last β, and the mean score of each iteration.

    Args:
        policy: learns.
        reference: stays as it is; the KL is measured to it.
        collect: gives the next iteration's episodes, written by the policy as it then is.
        settings: the numbers.
    """
    optimizer = torch.optim.Adam(policy.parameters(), settings.learning_rate, eps=1e-5)
    beta, tokens, scores = settings.beta, 0, []
    while tokens < settings.total_tokens:
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 - tokens / settings.total_tokens)
        episodes = collect()
        order = np.random.default_rng([settings.seed, len(scores)])
        kl = update(policy, reference, optimizer, episodes, beta, settings, order)
        # At most 20 % wrong counts, or one odd iteration would move β for good (Ziegler 2019, section 2.2).
        error = min(max(kl / settings.kl_target - 1, -0.2), 0.2)
        beta *= 1 + error * len(episodes.input_ids) / settings.kl_horizon
        tokens += int(episodes.attention_mask[:, episodes.prompt_length :].sum())
        scores.append(float(episodes.rewards.sum(1).mean()))
    return beta, scores


@torch.no_grad()
def play(env: gym.vector.VectorEnv[Any, Any, Any], policy: ActorCritic, generator: torch.Generator) -> Episodes:
    """Write one response in every row of an environment whose rows wait after their end (DISABLED autoreset)."""
    observation, _ = env.reset()
    p = env.unwrapped.prompt_length
    n, width = observation["input_ids"].shape
    log_probs, rewards = torch.zeros(n, width - p), torch.zeros(n, width - p)
    for t in range(width - p):
        ids, mask = (torch.tensor(observation[name][:, : p + t]) for name in ("input_ids", "attention_mask"))
        next_log_probs = policy(ids, mask.long())[0][:, -1]
        tokens = torch.multinomial(next_log_probs.exp(), 1, generator=generator)
        observation, paid, *_ = env.step(tokens[:, 0].numpy())
        wrote = torch.tensor(observation["attention_mask"][:, p + t]).bool()  # False where a response had ended
        log_probs[:, t] = next_log_probs.gather(1, tokens)[:, 0] * wrote
        rewards[:, t] = torch.tensor(paid)
    whole = (torch.tensor(observation[name]).long() for name in ("input_ids", "attention_mask"))
    return Episodes(*whole, log_probs, rewards, p)


def main(settings: Settings = Settings()) -> list[float]:
    env = gym.make_vec("textgym/Copy-v0", num_envs=128, autoreset_mode=gym.vector.AutoresetMode.DISABLED)
    env.reset(seed=settings.seed)
    policy = ActorCritic(env.unwrapped.mdp.base_model(), int(env.single_action_space.n))
    generator = torch.Generator().manual_seed(settings.seed)
    reference = copy.deepcopy(policy)
    beta, scores = train(policy, reference, lambda: play(env, policy, generator), settings)
    for iteration in (*range(0, len(scores) - 1, 8), len(scores) - 1):
        print(f"iteration {iteration:3d}   score {scores[iteration]:.2f}")
    print(f"PPO: score {scores[0]:.2f} -> {scores[-1]:.2f} in {len(scores)} iterations; β is {beta:.3f}")
    return scores


if __name__ == "__main__":
    main()
