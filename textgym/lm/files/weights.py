"""Check that weights are safetensors, which hold only numbers; a pickle is a program, so textgym opens none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SAFE = ("model.safetensors", "model.safetensors.index.json")
ADAPTER_CONFIG, ADAPTERS = "adapter_config.json", "adapter_model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
"""File names of other weight formats; they are ignored if safetensors lie next to them."""


def check_weight_files(source: str | Path) -> None:
    """Reject a directory that would lead transformers or peft to weights in a pickle.

    Args:
        source: a directory. A hub id passes; for hub downloads ``use_safetensors=True`` applies.

    Raises:
        ValueError: the weights are in a different format, or the index or config names such a file.
    """
    directory = Path(source)
    if not directory.is_dir():
        return
    if (directory / ADAPTER_CONFIG).is_file() and not (directory / ADAPTERS).is_file():
        _refuse(directory, ADAPTERS)
    if (directory / "config.json").is_file() and not any((directory / name).is_file() for name in SAFE):
        _refuse(directory, SAFE[0])
    named = _read(directory / "config.json").get("transformers_weights")
    index = _read(directory / SAFE[1]).get("weight_map")
    shards = set(index.values()) if isinstance(index, dict) else set()
    for name in [*shards, *([] if named is None else [named])]:
        if not str(name).endswith((".safetensors", ".safetensors.index.json")):
            raise ValueError(
                f"{str(directory)!r} names {str(name)[:80]!r} as a file of its weights; expected *.safetensors: "
                "textgym opens no other, as a pickle is a program"
            )


def _refuse(directory: Path, expected: str) -> None:
    """Raise ValueError if weights of a different format lie where the expected file should be."""
    found = sorted(path.name for pattern in PICKLES for path in directory.glob(pattern))
    if found:
        raise ValueError(
            f"{str(directory)!r} has its weights in {found[0]} and no {expected}. textgym opens safetensors alone, as "
            "a pickle is a program that would run. If you trust its source, open it with transformers' or peft's "
            "from_pretrained and save it again with save_pretrained, which writes safetensors"
        )


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object; return an empty one if that fails, as opening the model will report the problem."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
