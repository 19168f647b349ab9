"""Freezing of a model's lower layers, as in InstructGPT's training (Ouyang 2022, arXiv 2203.02155).

If nothing below layer k is trained, the activations of these layers for a sequence stay the same as long as the
sequence is trained on: for the policy, its critic, and a reference that started as its copy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from textgym.lm.files.loading import is_encoder_decoder
from textgym.lm.parts.patching import fixed_output


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the layers from the embedding up; for an encoder–decoder the encoder's.

    Raises:
        ValueError: the model does not keep its layers in one list.
    """
    config: Any = model.config
    count = config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise ValueError(f"{type(model).__name__} does not keep its {count} layers in one list, as expected here")


def freeze(model: PreTrainedModel, n_layers: int) -> None:
    """Freeze the embeddings and the first layers.

    Args:
        model: changed in place.
        n_layers: 0 for the embeddings alone; all layers of an encoder–decoder freeze the whole encoder.

    Raises:
        ValueError: the model has fewer layers.
    """
    layers = layers_of(model)
    if not 0 <= n_layers <= len(layers):
        raise ValueError(
            f"freeze_layers={n_layers}; expected 0 (the embeddings alone) to {len(layers)}, all layers of this "
            f"{type(model).__name__}"
        )
    head = model.get_output_embeddings()
    learned = isinstance(head, nn.Module) and any(parameter.requires_grad for parameter in head.parameters())
    for module in [*_modules_below(model, layers[0]), *layers[:n_layers]]:
        module.requires_grad_(False)
    # The encoder's final norm is frozen too, so that its output can be kept.
    if is_encoder_decoder(model) and n_layers == len(layers):
        encoder: nn.Module = model.get_encoder()
        encoder.requires_grad_(False)
    # A tied head would be frozen without notice, since it is the embedding.
    if learned and head is not None and head.weight is model.get_input_embeddings().weight:
        warnings.warn(
            "the output head is tied to the embedding, and is frozen with it; for a head that learns pass "
            "untie_head=True",
            stacklevel=2,
        )


def untie(model: PreTrainedModel) -> None:
    """Give the output head a copy of the embedding's weights, so that it is trained separately.

    Raises:
        ValueError: the model is an encoder–decoder, whose states are scaled for a tied head.
    """
    if is_encoder_decoder(model):
        raise ValueError(f"untie_head: the states of {type(model).__name__} are scaled for a head that is tied")
    head: Any = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        weight: Any = head.weight
        head.weight = nn.Parameter(weight.detach().clone())
        model.config.tie_word_embeddings = False


class _ReachedError(Exception):
    """Signal that ends a forward pass early; carries the output that was reached."""


def _stop(_: nn.Module, __: Any, output: Any = None) -> NoReturn:
    raise _ReachedError(output)


@torch.no_grad()
def _modules_below(model: PreTrainedModel, layer: nn.Module) -> list[nn.Module]:
    """Return the modules with parameters that run before a layer: embeddings, their norms, and others."""
    # Found by running the model, as names and nesting differ between architectures.
    ran: list[nn.Module] = []
    owners = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
    hooks = [module.register_forward_pre_hook(lambda module, _: ran.append(module)) for module in owners]
    # The pass ends before the layer itself runs.
    hooks.append(layer.register_forward_pre_hook(_stop))
    try:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device))
    except _ReachedError:
        return ran
    finally:
        for hook in hooks:
            hook.remove()
    raise ValueError(f"{type(model).__name__} does not run its first layer on tokens alone")


class FrozenPrefix:
    """Lowest layers of a stack, whose last activations can be recorded and replayed.

    Args:
        layers: the lowest layers.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers = layers

    def record(self, run: Callable[[], Any]) -> Any:
        """Return the output of the last of the layers in ``run``, which is ended there."""
        hook = self.layers[-1].register_forward_hook(_stop)
        try:
            run()
        except _ReachedError as reached:
            return reached.args[0]
        finally:
            hook.remove()
        raise AssertionError("the frozen layers did not run")

    def replayed(self, states: Tensor) -> AbstractContextManager[None]:
        """Make the layers return recorded states without computing anything, while the block runs."""
        return fixed_output(self.layers, states)
