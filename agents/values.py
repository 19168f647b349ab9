"""Value functions: a head on the policy's trunk, a model of its own, or one that begins as the reward model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from textgym.lm.architecture import make_backbone, trunk_of
from textgym.lm.loading import explained, frozen_dropout
from textgym.lm.lora import without_adapters
from textgym.rewards.last_token import linear_head
from textgym.rewards.model import RewardModel


class ValueHead(nn.Module):
    """``hidden [..., d] -> value [...]``, zero at first, so that training begins with plain returns."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.utils.skip_init(nn.Linear, hidden_size, 1)  # its own init draws from the global generator
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, states: Tensor) -> Tensor:
        values: Tensor = self.linear(states)[..., 0]
        return values


class TrunkValue(nn.Module):
    """Reads the policy's own hidden states: cheap, and its gradient shapes the policy's trunk."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.head = ValueHead(hidden_size)

    def forward(self, states: Tensor, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor:
        """Values of the states ``[n, T+1, d]`` that the policy's trunk computed: ``[n, T+1]``."""
        values: Tensor = self.head(states)
        return values


class SeparateValue(nn.Module):
    """Has a trunk of its own, so that the value loss leaves the policy alone."""

    def __init__(self, trunk: PreTrainedModel, head: ValueHead) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self._backbone = make_backbone(trunk)

    def forward(self, states: Tensor, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor:
        """``[n, T+1]`` from the sequences themselves; the policy's states are not used."""
        own = self._backbone.states(input_ids, attention_mask, prompt_length)
        values: Tensor = self.head(own)
        return values


@torch.no_grad()
def hidden_size(model: PreTrainedModel) -> int:
    """Return the width of the states that a backbone gives."""
    ids = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    with explained(f"{type(model).__name__} has no trunk whose states a value head could read"):
        backbone = make_backbone(model)
        return int(backbone.last_states(backbone.inputs(ids)).shape[-1])


def separate_value(model: PreTrainedModel) -> SeparateValue:
    """Begins as a copy of the policy's trunk, without its adapters, with a zero head."""
    trunk: Any = copy.deepcopy(trunk_of(without_adapters(model)))
    return SeparateValue(frozen_dropout(trunk), ValueHead(hidden_size(model)))


def value_from_reward_model(directory: str | Path) -> SeparateValue:
    """Begins as a reward model (Stiennon 2020, Ouyang 2022): its trunk, its head, its offset as the bias."""
    reward_model = RewardModel.load(directory)
    classifier: Any = reward_model.model
    score = linear_head(classifier)
    if score is None:
        raise ValueError(
            f"value={str(directory)!r}: {type(classifier).__name__} has no linear head that reads one position; "
            "expected a reward model on a causal trunk"
        )
    weight = score.weight.detach()
    head = ValueHead(weight.shape[1])
    with torch.no_grad():
        head.linear.weight.copy_(weight)
        head.linear.bias.fill_(-reward_model.offset)
    return SeparateValue(frozen_dropout(classifier.base_model), head)


def make_value(kind: str | Path | nn.Module | None, model: PreTrainedModel) -> nn.Module | None:
    """``"trunk"``, ``"separate"``, the directory of a reward model, or a module as it is; None for no critic.

    Raises:
        ValueError: neither of these.
    """
    if kind is None or isinstance(kind, nn.Module):
        return kind
    if kind == "trunk":
        return TrunkValue(hidden_size(model))
    if kind == "separate":
        return separate_value(model)
    if not Path(kind).is_dir():
        raise ValueError(f"value={str(kind)!r}: expected 'trunk', 'separate' or the directory of a reward model")
    return value_from_reward_model(kind)
