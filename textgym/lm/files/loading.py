"""Loading of language models, and checks that a model fits a task before any work starts."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from textgym.lm.files.adapters import base_of, read_adapters
from textgym.lm.files.bars import without_bars
from textgym.lm.files.weights import check_weight_files
from textgym.tokenization import check_exists, first_line, reason

ModelSource: TypeAlias = "str | Path | Callable[[], PreTrainedModel]"
"""Source of a model: a directory, a hub id, or a function that builds a new one."""


def load_causal_lm(source: ModelSource, device: str | torch.device = "cpu") -> PreTrainedModel:
    """Load a causal language model in fp32 and eval mode, from a directory, a hub id, or a function that builds it.

    Raises:
        ValueError: the model is an encoder–decoder; it cannot be read, for instance because a weights file is
            truncated; or some of its weights are missing, which transformers would initialise at random.
    """
    return require_causal(load_lm(source, device), f"model={str(source)!r}")


def load_lm(source: ModelSource, device: str | torch.device = "cpu") -> PreTrainedModel:
    """Load a language model, causal or encoder–decoder according to its config. See :func:`load_causal_lm`."""
    if callable(source):
        built: Any = source()
        return frozen_dropout(built.to(device))
    check_exists(source)
    check_weight_files(source)
    if (base := base_of(source)) is not None:
        return frozen_dropout(read_adapters(load_lm(base, device), source))
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM  # take seconds to import

    seq2seq = names_encoder_decoder(source)
    auto: Any = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    kind = "an encoder–decoder" if seq2seq else "a causal"
    try:
        with without_bars(str(source)):
            loaded: Any = auto.from_pretrained(
                str(source),
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
    except Exception as error:
        # safetensors, json and the hub client each have their own exception types.
        raise ValueError(
            f"model={str(source)!r} cannot be loaded as {kind} language model: {type(error).__name__}: "
            f"{reason(error)}. Expected a directory with config.json and intact weights, or a hub id"
        ) from error
    model, found = loaded
    if found["missing_keys"]:
        raise ValueError(
            f"model={str(source)!r} holds no weights for {sorted(found['missing_keys'])}; expected {kind} "
            "language model with its output head"
        )
    return frozen_dropout(own_memory(model.to(device)))


def names_encoder_decoder(source: Any) -> bool:
    """Return True if the config is of an encoder–decoder; False if there is no readable config.

    A directory of adapters alone has none.
    """
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(str(source), trust_remote_code=False)
        return bool(config.is_encoder_decoder)
    except Exception:  # a config may hold anything
        return False  # loading the weights will report the problem


def is_encoder_decoder(model: nn.Module) -> bool:
    """Return True if prompts go to an encoder and responses to a decoder, as in T5 and BART."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def require_causal(model: PreTrainedModel, purpose: str) -> PreTrainedModel:
    """Return the model unchanged, after a check that it is causal.

    Raises:
        ValueError: it is an encoder–decoder.
    """
    if is_encoder_decoder(model):
        raise ValueError(
            f"{type(model).__name__} is an encoder–decoder; expected a causal language model for {purpose}"
        )
    return model


def own_memory(model: Any) -> Any:
    """Copy a loaded model's weights out of the mapped file, into ordinary memory.

    Weights in the file are not aligned, and matrix kernels then round differently: a resumed run would diverge from an
    uninterrupted one.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def shared_copy(make: Callable[[Any], Any], model: PreTrainedModel, names: Callable[[str], str]) -> PreTrainedModel:
    """Make a module of a different class that holds a model's tensors, without copying them.

    Args:
        make: builds the module from the model's config.
        model: has every tensor of the new module.
        names: maps the names of the model's tensors to those of the new module.
    """
    with torch.device("meta"):  # allocates no memory and draws no random numbers
        made = make(model.config)
    tensors = {names(name): tensor for name, tensor in model.state_dict().items()}
    made.load_state_dict({name: tensors[name] for name in made.state_dict()}, assign=True)
    # Buffers that are not saved (rotary frequencies, say) are missing from the state dict.
    for name, buffer in model.named_buffers():
        owner, _, own = names(name).rpartition(".")
        made.get_submodule(owner)._buffers[own] = buffer
    made.tie_weights()
    return frozen_dropout(made)


def in_full_precision(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model with float32 weights, cast in place if they were in half precision.

    A half-precision weight loses updates below its last bit: 1/256 of it in bfloat16, 1/2048 in float16. It also makes
    sampling and training differ by far more than a clipped ratio tolerates. Quantised weights are not changed.

    Warns:
        UserWarning: the model was cast; the message names the precision.
    """
    halves = {p.dtype for p in model.parameters() if p.dtype in (torch.bfloat16, torch.float16)}
    if not halves or getattr(model, "is_quantized", False):
        return model
    names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in halves))
    warnings.warn(
        f"the model's weights are {names}; they are cast to float32, in place, as updates would be lost in them. "
        "Load it with dtype=torch.float32 to choose so yourself",
        stacklevel=3,
    )
    model.float()
    return model


def frozen_dropout(model: Any) -> PreTrainedModel:
    """Put the model into eval mode: during RL, dropout would make rollout and training two different policies."""
    evaluated: PreTrainedModel = model.eval()
    return evaluated


def release_graphs(model: nn.Module) -> None:
    """Detach tensors that modules keep of their last pass, as RecurrentGemma's do.

    A model with graphs cannot be copied.
    """
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                setattr(module, name, value.detach())


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy without gradients, such as the KL reference."""
    release_graphs(model)
    twin = frozen_dropout(copy.deepcopy(model))
    twin.requires_grad_(False)
    return twin


def context_length(model: PreTrainedModel) -> int | None:
    """Return the model's number of positions; None if its config names no limit."""
    limit = getattr(model.config, "max_position_embeddings", None)
    return int(limit) if limit and limit > 0 else None  # XLNet writes −1 for none


def columns_read(model: PreTrainedModel, width: int, prompt_length: int) -> int:
    """Return how many of an observation's ``P + T`` columns share one context: all, or prompt or response alone."""
    if not is_encoder_decoder(model):
        return width
    return max(prompt_length, width - prompt_length + 1)  # the decoder reads one token before the response


def check_fits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, n_actions: int, width: int, prompt_length: int = 0
) -> None:
    """Check that a model fits a task.

    Args:
        model: the policy or the reference.
        tokenizer: the task's tokenizer.
        n_actions: ``V``.
        width: ``P + T``.
        prompt_length: ``P``, if known; an encoder–decoder processes prompt and response separately.

    Raises:
        ValueError: the tokenizer or the action space is larger than the model's embedding, or ``P + T`` exceeds its
            context.
    """
    rows = embedding_rows(model)
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, the model embeds {rows}; use the model's own tokenizer, "
            f"or model.resize_token_embeddings({len(tokenizer)})"
        )
    if n_actions > rows:
        raise ValueError(f"the task has {n_actions} actions, the model's vocabulary only {rows} tokens")
    check_context(model, width, prompt_length)


def check_context(model: PreTrainedModel, width: int, prompt_length: int) -> None:
    """Check that ``P + T`` columns fit into the model's context; arguments: see :func:`check_fits`.

    Raises:
        ValueError: they do not fit.
    """
    limit = context_length(model)
    if limit is not None and columns_read(model, width, prompt_length) > limit:
        raise ValueError(
            f"max_prompt_length + max_new_tokens = {width} is more than the model's context of {limit} tokens; "
            "make one of them smaller"
        )


def prompt_room(model: PreTrainedModel, max_new_tokens: int) -> int | None:
    """Return the number of prompt tokens that leave room for a response; None for no limit."""
    limit = context_length(model)
    return limit if limit is None or is_encoder_decoder(model) else limit - max_new_tokens


def embedding_rows(model: PreTrainedModel) -> int:
    """Return the number of tokens that the model embeds."""
    embedding: Any = model.get_input_embeddings()
    while not hasattr(embedding, "weight"):  # peft may have wrapped it
        embedding = getattr(embedding, "base_layer", None) or embedding.original_module
    return int(embedding.weight.shape[0])


CACHE_NAMES = ("cache", "past_key_values")
"""Names of the cache argument of ``forward``: since transformers 5.24, and before."""


def cache_argument(model: Any) -> str | None:
    """Return the name of the cache argument of the model's ``forward``; None if it has none."""
    return next(iter(accepted(model, **dict.fromkeys(CACHE_NAMES))), None)


def accepted(model: Any, **arguments: Any) -> dict[str, Any]:
    """Return those arguments that the model's ``forward`` accepts, or passes on to a trunk that accepts them."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # peft's wrappers pass everything on
    parameters = dict(inspect.signature(inner.forward).parameters)
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        parameters |= inspect.signature(getattr(inner, "base_model", inner).forward).parameters
    return {name: value for name, value in arguments.items() if name in parameters}


@contextmanager
def explained(problem: str) -> Iterator[None]:
    """Turn any exception of a model's own code in the block into a ValueError that begins with ``problem``."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        # Third-party model code may raise anything.
        raise ValueError(f"{problem}: {type(error).__name__}: {first_line(error)}") from error
