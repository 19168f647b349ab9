"""The architectures and variants that are tried."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)


@dataclass(frozen=True)
class Configuration:
    """One row of the table.

    Attributes:
        model_type: a key of ``CONFIG_MAPPING``.
        cls: the name of its class.
        varies: what is different from the default; empty for nothing.
        fields: config fields that are given.
    """

    model_type: str
    cls: str
    varies: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


NEEDS: dict[str, dict[str, Any]] = {}
"""Config fields without which a shrunk architecture cannot be built or run."""


def configurations() -> list[Configuration]:
    """Every architecture, then the variants."""
    named = {**MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    both = [*named.items(), *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.items()]
    return [Configuration(model_type, cls, fields=NEEDS.get(model_type, {})) for model_type, cls in both]
