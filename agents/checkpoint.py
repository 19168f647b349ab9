"""Checkpoints: a directory that ``from_pretrained`` opens, beside the training state. No pickle anywhere.

Layout::

    config.json, model.safetensors, tokenizer.json …   the policy
    adapter_config.json, adapter_model.safetensors     or its adapters, where it has some,
    base/                                              with the model that they were added to
    training/state.json                                counters, hyper-parameters, KL controller
    training/optimizer.safetensors
    training/value_head.safetensors                    and value_trunk/, where the critic has a trunk of its own
    training/reference/                                the KL reference, where it is a model of its own, or its
                                                       adapters, where it began as a policy that had some
    training/NAME.safetensors                          what else an algorithm keeps, such as NLPO's mask model
    manifest.json                                      a digest of every file
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from transformers import AutoModel

from textgym.agents.construction import schedule_from_state, task_identity
from textgym.agents.pretraining import check_same
from textgym.agents.reference import save_reference, saved_reference
from textgym.agents.values import SeparateValue, ValueHead
from textgym.files import read_json, replaced_directory, verify_manifest, write_json
from textgym.lm.bars import without_bars
from textgym.lm.finite import check_trained
from textgym.lm.loading import own_memory
from textgym.lm.lora import save_pretrained
from textgym.lm.sampling import Sampling
from textgym.lm.weight_files import check_weight_files
from textgym.rewards.kl import AdaptiveKL, FixedKL, KLController
from textgym.tokenization import write_turn_end

if TYPE_CHECKING:
    from textgym.agents.algorithm import SequenceAlgorithm

FORMAT = 1
KL_CONTROLLERS: dict[str, type[FixedKL] | type[AdaptiveKL]] = {"FixedKL": FixedKL, "AdaptiveKL": AdaptiveKL}


def save_checkpoint(algorithm: SequenceAlgorithm, directory: Path, tokenizer: Any) -> None:
    """Write an algorithm's state as it was at its last iteration boundary.

    Raises:
        TrainingError: its weights or its optimiser's state are not finite; what stands in the directory stays as it is.
    """
    optimizer = algorithm.policy.optimizer
    check_trained(algorithm.policy, optimizer.param_groups[0]["lr"], optimizer)
    with replaced_directory(directory) as scratch:
        save_pretrained(algorithm.policy.lm, scratch, directory)
        if tokenizer is not None:
            tokenizer.save_pretrained(scratch)
            write_turn_end(scratch, tokenizer)
        training = scratch / "training"
        training.mkdir()
        tensors, groups = optimizer_state(algorithm.policy.optimizer)
        save_file(tensors, training / "optimizer.safetensors")
        _save_value(algorithm.policy.value, training)
        if algorithm.reference is not None:
            save_reference(algorithm.reference, algorithm.policy, scratch, directory)
        for name, module in algorithm.extra_modules().items():
            save_model(module, str(training / f"{name}.safetensors"))
        write_json(training / "state.json", {**_state(algorithm), "optimizer_groups": groups})


def read_state(directory: Path) -> dict[str, Any]:
    """Return a checkpoint's ``state.json``, once every file was found intact.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: a file is damaged, or another version wrote it.
    """
    verify_manifest(directory)
    state: dict[str, Any] = read_json(directory / "training" / "state.json")
    if state["format"] != FORMAT:
        raise ValueError(f"{str(directory)!r} has checkpoint format {state['format']}; this version reads {FORMAT}")
    return state


def constructor_arguments(directory: Path, state: dict[str, Any]) -> dict[str, Any]:
    """What an algorithm is built with again."""
    return {
        **state["hyperparameters"],
        "learning_rate": schedule_from_state(state["hyperparameters"]["learning_rate"]),
        "seed": state["seed"],
        "sampling": Sampling(**state["sampling"]),
        "beta": kl_from_state(state["kl"]),
        "model": str(directory),
        "reference": saved_reference(directory),
        "value": load_value(directory) or "trunk",
    }


def restore(algorithm: SequenceAlgorithm, directory: Path, state: dict[str, Any]) -> None:
    """Put the training state of a checkpoint into an algorithm that was built from it.

    Raises:
        ValueError: it was built with another ``pretraining``.
    """
    check_same(state.get("pretraining"), algorithm.pretraining)
    training = directory / "training"
    value: Any = algorithm.policy.value
    if value is not None:
        value.head.load_state_dict(load_file(training / "value_head.safetensors"))
    for name, module in algorithm.extra_modules().items():
        load_model(module, training / f"{name}.safetensors")
    moments = load_file(training / "optimizer.safetensors")
    load_optimizer(algorithm.policy.optimizer, moments, state["optimizer_groups"])
    for name, count in state["counters"].items():
        setattr(algorithm, name, count)


def load_value(directory: Path) -> SeparateValue | None:
    """Return a checkpoint's critic with a trunk of its own; None where it reads the policy's trunk."""
    trunk_directory = directory / "training" / "value_trunk"
    if not trunk_directory.is_dir():
        return None
    check_weight_files(trunk_directory)
    with without_bars():
        opened = AutoModel.from_pretrained(str(trunk_directory), trust_remote_code=False, use_safetensors=True)
    trunk = own_memory(opened.eval())
    weight = load_file(directory / "training" / "value_head.safetensors")["linear.weight"]
    return SeparateValue(trunk, ValueHead(weight.shape[1]))


def kl_from_state(state: dict[str, Any]) -> KLController:
    """Return the controller that a checkpoint describes."""
    return KL_CONTROLLERS[state["controller"]](**state["settings"])


def _state(algorithm: SequenceAlgorithm) -> dict[str, Any]:
    kl: Any = algorithm.kl
    assert algorithm.env is not None
    return {
        "format": FORMAT,
        "algorithm": type(algorithm).__name__,
        "hyperparameters": algorithm.hyperparameters(),
        "sampling": asdict(algorithm.sampling),
        "kl": {"controller": type(kl).__name__, "settings": asdict(kl)},
        "pretraining": None if algorithm.pretraining is None else algorithm.pretraining.described(),
        "seed": algorithm.seed,
        "task": task_identity(algorithm.env),
        "counters": {
            "num_timesteps": algorithm.boundary_timesteps,
            "boundary_timesteps": algorithm.boundary_timesteps,
            "boundary_episodes": algorithm.boundary_episodes,
            "iteration": algorithm.iteration,
            "episodes_begun": algorithm.episodes_begun,
            "_n_updates": algorithm._n_updates,
        },
    }


def _save_value(value: nn.Module | None, training: Path) -> None:
    if value is None:
        return
    head: Any = value.head
    save_file(head.state_dict(), training / "value_head.safetensors")
    if isinstance(value, SeparateValue):
        trunk: Any = value.trunk
        with without_bars():
            trunk.save_pretrained(training / "value_trunk")


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return an optimiser's moments, for safetensors, and its settings, for JSON."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value.contiguous()
        for index, moments in state["state"].items()
        for name, value in moments.items()
    }
    return tensors, state["param_groups"]


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> None:
    """Put back what :func:`optimizer_state` gave."""
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = value.clone()
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
