"""Policies that only act: a plain model, or a saved policy with the sampling of its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_model
from transformers import PreTrainedModel

from textgym.agents.loop.checkpoint import read_state
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.env.mdp import TokenMDP
from textgym.lm.behaviour import NucleusMask
from textgym.lm.sampling import Sampling

MASK_MODEL = "mask_model"
"""Name of NLPO's mask model in a checkpoint."""


def acting_policy(model: str | PreTrainedModel, mdp: TokenMDP, sampling: Sampling | None = None) -> LMPolicy:
    """Return a model as a policy that only acts, without a critic."""
    return LMPolicy(
        mdp.observation_space(),
        mdp.action_space(),
        lambda _: 0.0,
        model=model,
        prompt_length=mdp.max_prompt_length,
        end_token_ids=mdp.end_token_ids,
        value=None,
        sampling=sampling,
    )


def saved_policy(
    source: str, mdp: TokenMDP, model: PreTrainedModel | None = None, **sampling: float | None
) -> LMPolicy:
    """Return a saved policy that only acts, with the checkpoint's sampling settings and, if it has one, NLPO's mask.

    Args:
        source: a checkpoint, or the directory or hub id of any language model, which samples without restriction.
        mdp: the task.
        model: the model in ``source``, if it is loaded already.
        sampling: fields of :class:`textgym.lm.sampling.Sampling` to override; None keeps the checkpoint's.

    Raises:
        ValueError, FileNotFoundError: the model does not fit, or the checkpoint is damaged.
    """
    state = _training_state(Path(source))
    changes: dict[str, Any] = {name: value for name, value in sampling.items() if value is not None}
    chosen = replace(Sampling(**state.get("sampling", {})), **changes)
    policy = acting_policy(source if model is None else model, mdp, chosen)
    mask = Path(source) / "training" / f"{MASK_MODEL}.safetensors"
    if state and mask.is_file():
        settings = state["hyperparameters"]
        nucleus = NucleusMask(policy.lm, settings["top_mask"], settings["min_tokens_to_keep"], mdp.needed_turn_ends)
        load_model(nucleus.model, mask)
        policy.behaviour = replace(policy.behaviour, mask=nucleus)
    return policy


def _training_state(directory: Path) -> dict[str, Any]:
    """Return a checkpoint's state; empty if the directory holds a model alone."""
    return read_state(directory) if (directory / "training" / "state.json").is_file() else {}
