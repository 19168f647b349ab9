"""A model's generation config, which is saved beside its weights and which transformers may refuse to save."""

from __future__ import annotations

from transformers import GenerationConfig, PreTrainedModel

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Settings that ``generate`` reads only where ``do_sample`` is True; elsewhere transformers refuses to save them."""


def make_saveable(model: PreTrainedModel) -> None:
    """Drop settings of a model's generation config that nothing reads, so that a checkpoint can be written.

    ``generate`` does what it did before.

    Raises:
        ValueError: transformers would not save the config for another reason, which is given.
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
    """Why transformers would not save a config, in its words; None where it would."""
    try:
        config.validate(strict=True)
    except ValueError as error:
        return " ".join(str(error).split())
    return None
