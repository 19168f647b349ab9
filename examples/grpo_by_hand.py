"""GRPO by hand: the whole algorithm in plain PyTorch

A GPT-2 of two layers learns to repeat the two words of its prompt (``textgym/Copy-v0``), in a few seconds on one core:

    python examples/grpo_by_hand.py

Expected output:

```text
iteration   0   score 0.23
iteration   8   score 0.84
iteration  16   score 1.00
iteration  24   score 0.99
iteration  31   score 1.00
GRPO: score 0.23 -> 1.00 in 32 iterations; β is 0.050
```

This page is for reading, and it is the oracle of the library's tests: ``tests/agents/test_by_hand.py`` hands the
episodes that ``textgym.agents.GRPO`` collected to :func:`train`, and demands the same weights and the same β.

An iteration, from top to bottom (Shao 2024, arXiv 2402.03300):

1. The policy writes k responses to each of some prompts; the environment pays each at its end.
2. No critic: a response's advantage is its score less the group's mean, divided by the group's standard deviation.
3. A token also leads to the states after it, and answers for their KL to the reference: β times that KL, less its mean
   over the other responses to the prompt, is subtracted from its advantage.
4. Some epochs over shuffled minibatches. The loss of a token is that of PPO's clipped ratio, plus β times the KL in its
   own state, the sum over the vocabulary.
5. Each response counts alike: mean over its tokens first, then over responses.
6. Clipped gradients, Adam with ε = 1e-5, a learning rate that decays linearly to 0 over the run, β after a target KL.

Shao's own KL penalty is k3 of the sampled token alone, r − 1 − log r with r = π_ref/π, and has no step 3. As a loss it
has the gradient of KL(π_ref‖π) in each state, not of the KL(π‖π_ref) that the objective holds; steps 3 and 4 have that
one. They are the library's defaults, ``kl_estimator="exact"`` and ``bessel=True``.

``clip_range_high`` above ``clip_range`` is DAPO's clip-higher (Yu 2025, arXiv 2503.14476).

Left out, since the library has it: a key-value cache (here every token costs a pass over the whole text), temperature
and top-p, other ways to average (Dr. GRPO, DAPO), frozen layers and adapters, checkpoints, logging.
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
    """Numbers of the algorithm; the names are those of ``textgym.agents.GRPO``."""

    total_tokens: int = 8_000
    learning_rate: float = 3e-3
    samples_per_prompt: int = 8
    minibatch_size: int = 32  # divides the number of episodes
    n_epochs: int = 4
    clip_range: float = 0.2
    clip_range_high: float = 0.2
    max_grad_norm: float = 1.0
    beta: float = 0.05  # where β begins
    kl_target: float = 2.5  # nats per response
    kl_horizon: float = 10_000  # episodes over which β changes by up to 20 %
    seed: int = 0


class Episodes(NamedTuple):
    """Responses of an iteration: ``N`` of up to ``T`` tokens, those to one prompt in a row.

    ``input_ids`` and ``attention_mask`` are ``[N, P+T]``, the prompt padded on the left, the response on the right;
    ``log_probs`` (of the sampled tokens, as they were sampled) and ``rewards`` are ``[N, T]``, 0 after the end.
    """

    input_ids: Tensor
    attention_mask: Tensor
    log_probs: Tensor
    rewards: Tensor
    prompt_length: int


class Policy(nn.Module):
    """A language model as a distribution over actions."""

    def __init__(self, lm: Any, n_actions: int) -> None:
        super().__init__()
        self.lm = lm
        self.n_actions = n_actions

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return ``[n, L, V]`` log-probabilities of the token after each one."""
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)  # padding on the left has no position
        out = self.lm(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions)
        logits = out.logits[..., : self.n_actions]  # a model may know tokens that no action writes, such as padding
        return logits - logits.logsumexp(-1, keepdim=True)


def score(policy: Policy, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor:
    """Return ``[n, T, V]`` log π at the response tokens; that of token t is in column P+t−1 of what the model says."""
    return policy(input_ids, attention_mask)[:, prompt_length - 1 : -1]


def chosen(log_probs: Tensor, input_ids: Tensor, prompt_length: int) -> Tensor:
    """Return ``[n, T]`` log π of the response tokens themselves."""
    return log_probs.gather(2, input_ids[:, prompt_length:, None])[..., 0]


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return ``[n, T]`` KL(p‖q) in each state: the sum over the vocabulary."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def group_relative(returns: Tensor, k: int) -> Tensor:
    """Return ``[N]`` advantages: how many standard deviations a response stands above the k to its prompt."""
    groups = returns.reshape(-1, k)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + 1e-4)).reshape(-1)  # equal scores teach nothing


def later_kl(state_kl: Tensor, k: int) -> Tensor:
    """Return ``[N, T]`` KL at the tokens after each one, less the mean of that over the other responses to the prompt.

    What other responses do is independent of the token: the baseline lowers the variance alone.
    """
    later = state_kl.flip(1).cumsum(1).flip(1) - state_kl
    groups = later.reshape(-1, k, later.shape[1])
    others = (groups.sum(1, keepdim=True) - groups) / (k - 1)
    return (groups - others).reshape(later.shape)


def mean_of_means(x: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over responses of each one's mean over its tokens."""
    return ((x * valid).sum(1) / valid.sum(1)).mean()


def update(
    policy: Policy,
    reference: Policy,
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
        ref_log_probs = score(reference, ids, mask, p)
        state_kl = kl(score(policy, ids, mask, p), ref_log_probs) * valid
    advantages = group_relative(rewards.double().sum(1), settings.samples_per_prompt).float()[:, None]
    advantages = advantages - beta * later_kl(state_kl, settings.samples_per_prompt)

    for _ in range(settings.n_epochs):
        for rows in order.permutation(len(ids)).reshape(-1, settings.minibatch_size):
            keep = valid[rows]
            log_probs = score(policy, ids[rows], mask[rows], p)

            log_ratio = chosen(log_probs, ids[rows], p) - old_log_probs[rows]
            ratio = log_ratio.masked_fill(~keep, 0.0).exp()
            clipped = ratio.clamp(1 - settings.clip_range, 1 + settings.clip_range_high)
            gain = advantages[rows]
            policy_loss = mean_of_means(-torch.minimum(ratio * gain, clipped * gain), keep)
            kl_loss = mean_of_means(kl(log_probs, ref_log_probs[rows]), keep)

            optimizer.zero_grad()
            (policy_loss + beta * kl_loss).backward()
            nn.utils.clip_grad_norm_(policy.parameters(), settings.max_grad_norm)
            optimizer.step()
    return float((old_log_probs - chosen(ref_log_probs, ids, p)).masked_fill(~valid, 0.0).sum(1).mean())


def train(
    policy: Policy, reference: Policy, collect: Callable[[], Episodes], settings: Settings
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
def play(
    env: gym.vector.VectorEnv[Any, Any, Any], policy: Policy, prompts: np.ndarray[Any, Any], generator: torch.Generator
) -> Episodes:
    """Write one response in every row, to ``prompts [N]``; rows wait after their end (DISABLED autoreset)."""
    observation, _ = env.reset(options={"prompt_index": prompts})
    p = env.unwrapped.prompt_length
    n, width = observation["input_ids"].shape
    log_probs, rewards = torch.zeros(n, width - p), torch.zeros(n, width - p)
    for t in range(width - p):
        ids, mask = (torch.tensor(observation[name][:, : p + t]) for name in ("input_ids", "attention_mask"))
        next_log_probs = policy(ids, mask.long())[:, -1]
        tokens = torch.multinomial(next_log_probs.exp(), 1, generator=generator)
        observation, paid, *_ = env.step(tokens[:, 0].numpy())
        wrote = torch.tensor(observation["attention_mask"][:, p + t]).bool()  # False where a response had ended
        log_probs[:, t] = next_log_probs.gather(1, tokens)[:, 0] * wrote
        rewards[:, t] = torch.tensor(paid)
    whole = (torch.tensor(observation[name]).long() for name in ("input_ids", "attention_mask"))
    return Episodes(*whole, log_probs, rewards, p)


def main(settings: Settings = Settings()) -> list[float]:
    k, n = settings.samples_per_prompt, 128
    env = gym.make_vec("textgym/Copy-v0", num_envs=n, autoreset_mode=gym.vector.AutoresetMode.DISABLED)
    env.reset(seed=settings.seed)
    mdp = env.unwrapped.mdp
    policy = Policy(mdp.base_model(), int(env.single_action_space.n))
    reference = copy.deepcopy(policy)
    generator, rng = torch.Generator().manual_seed(settings.seed), np.random.default_rng(settings.seed)

    def collect() -> Episodes:
        prompts = rng.choice(len(mdp.prompts), n // k, replace=False)
        return play(env, policy, prompts.repeat(k), generator)

    beta, scores = train(policy, reference, collect, settings)
    for iteration in (*range(0, len(scores) - 1, 8), len(scores) - 1):
        print(f"iteration {iteration:3d}   score {scores[iteration]:.2f}")
    print(f"GRPO: score {scores[0]:.2f} -> {scores[-1]:.2f} in {len(scores)} iterations; β is {beta:.3f}")
    return scores


if __name__ == "__main__":
    main()
