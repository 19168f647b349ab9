"""Repair of a model's generation config, which is saved with its weights and which transformers may refuse to save."""

from __future__ import annotations

from transformers import GenerationConfig, PreTrainedModel

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Settings that ``generate`` ignores unless ``do_sample`` is True; transformers then refuses to save them."""


def make_saveable(model: PreTrainedModel) -> None:
    """Drop unused settings of a model's generation config, so that a checkpoint can be written.

    The behaviour of ``generate`` does not change.

    Raises:
        ValueError: transformers would not save the config for a different reason, which is given.
    """
    config = getattr(model, "generation_config", None)
    if not isinstance(config, GenerationConfig) or _fault(config) is None:
        return
    if not config.do_sample:
        plain = GenerationConfig()
        for name in SAMPLING:
            if hasattr(config, name):
                setattr(config, name, getattr(plain, name, None))
    fault = _fault(config)
    if fault is not None:
        raise ValueError(
            f"model.generation_config is one that transformers will not save, so there could be no checkpoint: {fault}"
        )


def _fault(config: GenerationConfig) -> str | None:
    """Return the reason why transformers would not save a config; None if it would."""
    try:
        config.validate(strict=True)
    except ValueError as error:
        return " ".join(str(error).split())
    return None
