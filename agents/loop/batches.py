"""What training reads: an iteration's episodes with what the models say of them, cut into minibatches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from textgym.agents.functional.advantages import Advantages
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.lm.trunk import Trunk
from textgym.rewards.kl import shape_rewards
from textgym.types import BoolArray, Episodes, Float32Array, FloatArray, IntArray


@dataclass(frozen=True)
class Scored:
    """An iteration's episodes with what the models say of them.

    Attributes:
        episodes: as collected.
        ref_log_probs: ``[N, T]`` of the sampled tokens under the reference.
        values: ``[N, T+1]`` at the rollout; zeros without a critic.
        shaped: ``[N, T]`` rewards with the KL penalty, where the KL stands in the reward.
        companions: the greedy responses, one for each prompt in the order of the episodes; None where there are none.
        prefix: ``[N, L, d]`` what the policy's frozen layers compute of the episodes; None where there are none.
    """

    episodes: Episodes
    ref_log_probs: Float32Array
    values: Float32Array
    shaped: Float32Array
    companions: Episodes | None = None
    prefix: Tensor | None = None

    @property
    def returns(self) -> FloatArray:
        """``[N]`` what each response earned, the KL penalty included."""
        returns: FloatArray = self.shaped.sum(1, dtype=np.float64)
        return returns

    def take(self, rows: IntArray) -> Scored:
        """Some of the episodes."""
        arrays = {name: getattr(self, name)[rows] for name in ("ref_log_probs", "values", "shaped")}
        prefix = None if self.prefix is None else self.prefix[torch.from_numpy(rows)]
        return replace(self, episodes=take(self.episodes, rows), prefix=prefix, **arrays)


def take(episodes: Episodes, rows: IntArray | BoolArray) -> Episodes:
    """Some of the episodes."""
    changed: dict[str, Any] = {
        field.name: value[rows]
        for field in fields(episodes)
        if isinstance(value := getattr(episodes, field.name), np.ndarray)
    }
    components = {name: values[rows] for name, values in episodes.components.items()}
    return replace(episodes, **changed, components=components)


@dataclass(frozen=True)
class Minibatch:
    """Rows of an iteration as tensors, ``[n, P+T]`` ids and mask, ``[n, T]`` the rest."""

    input_ids: Tensor
    attention_mask: Tensor
    valid: Tensor
    log_probs: Tensor
    ref_log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    kept: Tensor | None
    prefix: Tensor | None

    def log_ratio(self, log_probs: Tensor) -> Tensor:
        """``[n, T]`` log π − log π of the rollout; 0 where no token stands."""
        return (log_probs - self.log_probs).masked_fill(~self.valid, 0.0)


@torch.no_grad()
def score_episodes(
    policy: LMPolicy,
    reference: Trunk,
    episodes: Episodes,
    beta: float,
    batch_size: int,
    companions: Episodes | None = None,
) -> Scored:
    """One pass of critic and reference over ``N`` episodes, and their rewards shaped by the KL.

    Args:
        policy: whose critic judges, and whose temperature and minimum length the reference shares.
        reference: what the KL is measured to.
        episodes: as collected.
        beta: β.
        batch_size: episodes in one forward pass.
        companions: their greedy companions, which are handed on.
    """
    ref_log_probs = np.zeros_like(episodes.log_probs)
    values = np.zeros((len(episodes), episodes.rewards.shape[1] + 1), np.float32)
    behaviour = policy.behaviour.for_reference()
    kept = policy.behaviour.kept_for_reference(episodes.kept)
    prefixes: list[Tensor | None] = []
    for rows in np.array_split(np.arange(len(episodes)), -(-len(episodes) // batch_size)):
        ids = torch.from_numpy(episodes.input_ids[rows]).to(policy.device)
        mask = torch.from_numpy(episodes.attention_mask[rows]).to(policy.device)
        prefixes.append(policy.trunk.prefix(ids, mask, policy.prompt_length))
        if policy.value is not None:
            states = policy.trunk.hidden_states(ids, mask, policy.prompt_length, prefixes[-1])
            values[rows] = policy.value(states, ids, mask, policy.prompt_length).cpu().numpy()
        scores = behaviour.score(
            reference.head,
            reference.hidden_states(ids, mask, policy.prompt_length, prefixes[-1])[:, :-1],
            ids[:, policy.prompt_length :],
            mask[:, policy.prompt_length :].bool(),
            None if kept is None else torch.from_numpy(kept[rows]).to(policy.device),
        )
        ref_log_probs[rows] = scores.log_probs.cpu().numpy()
    shaped = shape_rewards(episodes.rewards, episodes.log_probs, ref_log_probs, episodes.valid, beta)
    return Scored(episodes, ref_log_probs, values, shaped.astype(np.float32), companions, _joined(prefixes))


def _joined(prefixes: list[Tensor | None]) -> Tensor | None:
    """``[N, L, d]`` of batches ``[n, L_i, d]``; nothing reads what stands beyond a sequence's tokens."""
    parts = [prefix for prefix in prefixes if prefix is not None]
    if not parts:
        return None
    longest = max(part.shape[1] for part in parts)
    return torch.cat([nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])


def minibatches(
    scored: Scored,
    estimated: Advantages,
    size: int,
    n_epochs: int,
    generator: np.random.Generator,
    device: torch.device,
) -> Iterator[Minibatch]:
    """Every episode once per epoch, in an order that the generator draws anew for each.

    Args:
        scored: ``N`` episodes.
        estimated: their advantages and value targets.
        size: episodes in a minibatch; the last of an epoch may be smaller.
        n_epochs: passes over the episodes.
        generator: draws the order.
        device: where the tensors go.
    """
    episodes = scored.episodes
    arrays = {
        "input_ids": episodes.input_ids,
        "attention_mask": episodes.attention_mask,
        "valid": episodes.valid,
        "log_probs": episodes.log_probs,
        "ref_log_probs": scored.ref_log_probs,
        "values": scored.values[:, :-1],
        "advantages": estimated.advantages,
        "returns": estimated.returns,
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    kept = None if episodes.kept is None else torch.from_numpy(episodes.kept)
    for _ in range(n_epochs):
        order = generator.permutation(len(episodes))
        for start in range(0, len(episodes), size):
            rows = torch.from_numpy(order[start : start + size])
            # Columns beyond the longest response of the minibatch hold nothing.
            longest = int(tensors["valid"][rows].sum(1).max())
            columns = dict.fromkeys(tensors, longest)
            columns["input_ids"] = columns["attention_mask"] = episodes.prompt_length + longest
            cut = {name: tensor[rows][:, : columns[name]].to(device) for name, tensor in tensors.items()}
            yield Minibatch(
                **cut,
                kept=None if kept is None else kept[rows][:, :longest].to(device),
                prefix=None if scored.prefix is None else scored.prefix[rows.to(scored.prefix.device)],
            )
