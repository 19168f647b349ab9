"""Output heads: the map from a backbone's states to logits, exactly as the model itself computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from textgym.lm.files.loading import embedding_rows
from textgym.lm.parts.backbones import Backbone
from textgym.lm.parts.patching import fixed_output

Head: TypeAlias = Callable[[Tensor], Tensor]
"""``head(states [..., d]) -> logits [..., V]``."""

AMPLIFIED = 1e3
"""Factor of the head's output in the probe: a fresh model's logits are too small for a cap to show."""


@torch.no_grad()
def make_head(model: PreTrainedModel, backbone: Backbone) -> Head:
    """Return the map from the backbone's states to the model's logits.

    This is the output head itself if the model applies nothing else. Otherwise the model's own ``forward`` runs around
    the given states, so that caps, scales and transforms of the logits (Gemma 2, Granite, Cohere, T5, BERT) are
    computed by the model's own code.

    Args:
        model: causal or encoder–decoder.
        backbone: the backbone of this model.

    Raises:
        ValueError: the logits do not follow from the backbone's states alone.
    """
    ids = torch.arange(4, device=model.device)[None] % embedding_rows(model)
    inputs = backbone.inputs(ids)
    states = backbone.last_states(inputs)
    head: Any = model.get_output_embeddings()
    if isinstance(head, nn.Module) and _is_all(head, model, inputs, states):
        return head
    around = ForwardAround(model, backbone)
    logits = model(**inputs).logits
    # A probe on four tokens shows whether anything between states and logits depends on more than the states.
    found = around(states)
    if found.shape != logits.shape or not torch.allclose(found, logits, rtol=1e-4, atol=1e-6, equal_nan=True):
        raise ValueError(
            f"the logits of {type(model).__name__} do not follow from its trunk's last states alone, so it cannot be "
            "trained on whole sequences here; expected a trunk with an output head"
        )
    return around


def _is_all(head: nn.Module, model: PreTrainedModel, inputs: dict[str, Any], states: Tensor) -> bool:
    """Return True if, in one pass, the head reads the backbone's states and its output is the logits."""
    read: list[Tensor] = []
    gave: list[Tensor] = []  # both lists also show whether the head runs exactly once

    def amplify(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        read.append(arguments[0])
        gave.append(AMPLIFIED * output)
        return gave[-1]

    hook = head.register_forward_hook(amplify)
    try:
        logits = model(**inputs).logits
    finally:
        hook.remove()
    return _equal(read, states) and _equal(gave, logits)


def _equal(passed: list[Tensor], expected: Tensor) -> bool:
    return (
        len(passed) == 1
        and passed[0].shape == expected.shape
        and torch.allclose(passed[0], expected, rtol=1e-4, equal_nan=True)
    )


class ForwardAround:
    """Model's ``forward`` with its stacks' output replaced: ``states [..., d] -> logits [..., V]``.

    Args:
        model: a model whose stacks return an output with ``last_hidden_state``.
        backbone: the backbone of this model.
    """

    def __init__(self, model: PreTrainedModel, backbone: Backbone) -> None:
        self.model = model
        self.backbone = backbone
        self.output_type = self._output_type()

    @torch.no_grad()
    def _output_type(self) -> Callable[..., Any]:
        """Return the class of the last stack's output."""
        outputs: list[Any] = []
        hook = self.backbone.stacks[-1].register_forward_hook(lambda *passed: outputs.append(passed[-1]))
        try:
            self.model(**self.backbone.inputs(torch.zeros(1, 1, dtype=torch.long, device=self.model.device)))
        finally:
            hook.remove()
        return type(outputs[-1])

    def __call__(self, states: Tensor) -> Tensor:
        # The head treats positions independently, so all states can pass as one sequence of dummy tokens.
        row = states.reshape(1, -1, states.shape[-1])
        blank = torch.zeros(row.shape[:2], dtype=torch.long, device=row.device)
        with fixed_output(self.backbone.stacks, self.output_type(last_hidden_state=row)):
            logits: Tensor = self.model(**self.backbone.inputs(blank)).logits
        return logits.reshape(*states.shape[:-1], -1)
