"""Loading of a sequence classifier with its tokenizer, saved whole or as adapters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from textgym.lm.files.adapters import base_of
from textgym.lm.files.bars import without_bars, without_reports
from textgym.lm.files.weights import check_weight_files
from textgym.tokenization import TOKENIZER_FILES, reason

if TYPE_CHECKING:  # a model class costs seconds to import
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

EXPECTED = "Expected a directory with config.json, model.safetensors and a tokenizer, or an id"


def open_classifier(
    directory: str | Path,
    kind: str,
    device: str | torch.device = "auto",
    dtype: torch.dtype = torch.float32,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Open an ``AutoModelForSequenceClassification`` with its tokenizer.

    Args:
        directory: a local directory, or an id on the hub. Adapters are merged into the weights of the model they name.
        kind: the word for the model in error messages, such as ``"reward model"``.
        device: ``"auto"`` uses an accelerator if there is one.
        dtype: dtype of the weights.

    Raises:
        FileNotFoundError: nothing can be loaded from ``directory``.
        ValueError: the weights lack a scoring head; or the adapters do not fit the model that they name.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    _require_source(directory, kind)
    check_weight_files(directory)
    if (base := base_of(directory)) is not None:
        model, tokenizer = _open_adapters(Path(directory), base, kind, dtype)
        return model.to(_device(device)), tokenizer
    try:
        with without_bars(directory):
            model, info = AutoModelForSequenceClassification.from_pretrained(
                directory, dtype=dtype, output_loading_info=True, trust_remote_code=False, use_safetensors=True
            )
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # safetensors, json and the hub client each have their own exception types
        raise FileNotFoundError(_unreadable(directory, kind, error)) from error
    # transformers initialises missing weights at random with a mere warning; a random head would be a silent error.
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"{str(directory)!r} is not a {kind}: it lacks the weights {', '.join(missing)}; a language model becomes "
            "a reward model with RewardModel.from_causal_lm and train_reward_model"
        )
    return model.to(_device(device)), tokenizer


def classifier_config(directory: str | Path, kind: str) -> PreTrainedConfig | None:
    """Read the config alone; None for adapters, which have none. Arguments: see :func:`open_classifier`.

    Raises:
        FileNotFoundError: no config can be read.
    """
    from transformers import AutoConfig

    _require_source(directory, kind)
    if base_of(directory) is not None:
        return None
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # a config may hold anything
        raise FileNotFoundError(_unreadable(directory, kind, error)) from error
    return config


def _unreadable(directory: str | Path, kind: str, error: Exception) -> str:
    return f"no {kind} can be loaded from {str(directory)!r}: {reason(error)}. {EXPECTED} that the hub serves"


def _require_source(directory: str | Path, kind: str) -> None:
    """Reject a mistyped path before the hub is asked, which takes half a minute to fail."""
    path = Path(directory)
    if path.is_dir():
        return
    # Only "owner/name" can be an id on the hub. If the folder "owner" exists, a local path was meant.
    if isinstance(directory, Path) or len(path.parts) != 2 or path.parent.exists():
        raise FileNotFoundError(
            f"no {kind} at {str(directory)!r}: there is no such directory. {EXPECTED} on the hub, owner/name"
        )


def _open_adapters(directory: Path, base: str, kind: str, dtype: torch.dtype) -> tuple[Any, PreTrainedTokenizerBase]:
    """Open adapters and a scoring head; the adapters are merged into the weights of ``base``."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from textgym.lm.files.adapters import PREFIX, read_adapters, read_tensors
    from textgym.lm.parts.lora import merged  # imports transformers' model classes, which takes seconds

    saved = {name.removeprefix(PREFIX): tensor for name, tensor in read_tensors(directory).items()}
    head = next((saved[name] for name in ("score.weight", "classifier.weight") if name in saved), None)
    # The base model may have a head of a different size, or none. The saved head replaces it.
    changes = {} if head is None else {"num_labels": len(head), "ignore_mismatched_sizes": True}
    check_weight_files(base)
    try:
        with without_bars(base), without_reports(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            model, info = AutoModelForSequenceClassification.from_pretrained(
                base, dtype=dtype, output_loading_info=True, trust_remote_code=False, use_safetensors=True, **changes
            )
        has_own = any((directory / name).is_file() for name in TOKENIZER_FILES)
        tokenizer = AutoTokenizer.from_pretrained(directory if has_own else base, trust_remote_code=False)
    except Exception as error:  # safetensors, json and the hub client each have their own exception types
        raise FileNotFoundError(
            f"{str(directory)!r} holds adapters of {base!r}, which cannot be loaded: {reason(error)}. Put that model "
            "there, or write where it is into base_model_name_or_path of adapter_config.json"
        ) from error
    if missing := sorted(info["missing_keys"] - saved.keys()):
        raise ValueError(
            f"{str(directory)!r} is not a {kind}: neither its adapters nor {base!r} hold the weights "
            f"{', '.join(missing)}; adapters keep a scoring head where they are trained with task_type='SEQ_CLS' or "
            "modules_to_save=['score']"
        )
    if tokenizer.pad_token_id is not None:
        model.config.pad_token_id = tokenizer.pad_token_id  # trainers set it, but adapters do not save the config
    return merged(read_adapters(model.eval(), directory)), tokenizer


def _device(device: str | torch.device) -> torch.device:
    if device != "auto":
        return torch.device(device)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
