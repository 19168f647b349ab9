"""Checkpoints: a directory that ``from_pretrained`` opens, with the training state inside. No pickle anywhere.

Layout::

    config.json, model.safetensors, tokenizer.json …   the policy
    adapter_config.json, adapter_model.safetensors     or its adapters, if it has any,
    base/                                              with the model that they were added to
    training/state.json                                counters, hyper-parameters, KL controller
    training/optimizer.safetensors
    training/value_head.safetensors                    and value_trunk/, if the critic has its own trunk
    training/reference/                                the KL reference, if it is a separate model; its adapters alone
                                                       if it began as a policy with adapters
    training/NAME.safetensors                          further models of an algorithm, such as NLPO's mask model
    manifest.json                                      a digest of every file
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, load_model, save_file, save_model
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from torch import nn
from transformers import AutoModel

from textgym.agents.loop.checks import task_identity
from textgym.agents.offline.pretraining import check_same
from textgym.agents.policy.lm_policy import SeparateValue, ValueHead
from textgym.agents.policy.reference import save_reference, saved_reference
from textgym.agents.settings import FORMER, Settings, setting_names
from textgym.files import read_json, replaced_directory, verify_manifest, write_json
from textgym.lm.files.bars import without_bars
from textgym.lm.files.loading import own_memory
from textgym.lm.files.weights import check_weight_files
from textgym.lm.guards import check_trained
from textgym.lm.optimizer_state import load_optimizer, optimizer_state
from textgym.lm.parts.lora import save_pretrained
from textgym.lm.sampling import Sampling
from textgym.numbers import LARGEST_RATE, finite, plain
from textgym.rewards.kl import AdaptiveKL, FixedKL, KLController
from textgym.tokenization import write_turn_end

if TYPE_CHECKING:
    from textgym.agents.loop.algorithm import SequenceAlgorithm

FORMAT = 1
KL_CONTROLLERS: dict[str, type[FixedKL] | type[AdaptiveKL]] = {"FixedKL": FixedKL, "AdaptiveKL": AdaptiveKL}


def save_checkpoint(algorithm: SequenceAlgorithm, directory: Path, tokenizer: Any) -> None:
    """Write an algorithm's state as it was at its last iteration boundary.

    Raises:
        TrainingError: weights or the optimiser's state are not finite; an existing checkpoint is left as it is.
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
    """Return a checkpoint's ``state.json``, after checking that every file is intact.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: a file is damaged, or another version wrote it.
    """
    verify_manifest(directory)
    state: dict[str, Any] = read_json(directory / "training" / "state.json")
    if state["format"] != FORMAT:
        raise ValueError(f"{str(directory)!r} has checkpoint format {state['format']}; this version reads {FORMAT}")
    return state


def constructor_arguments(directory: Path, state: dict[str, Any], settings: type[Settings]) -> dict[str, Any]:
    """Return the constructor arguments that rebuild a checkpoint's algorithm.

    Args:
        directory: the checkpoint.
        state: its ``state.json``.
        settings: the settings class of its algorithm.
    """
    return {
        **{name: value for name, value in FORMER.items() if name in setting_names(settings)},
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
        ValueError: the algorithm was built with another ``pretraining``.
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
    """Return a checkpoint's critic with its own trunk; None if the critic reads the policy's trunk."""
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


SCHEDULES: dict[str, tuple[type[LinearSchedule] | type[ConstantSchedule], tuple[str, ...]]] = {
    "LinearSchedule": (LinearSchedule, ("start", "end", "end_fraction")),
    "ConstantSchedule": (ConstantSchedule, ("val",)),
}
"""Schedules of stable-baselines3 that a checkpoint can hold, with the numbers that make them."""


def schedule_state(rate: Any) -> float | dict[str, Any]:
    """Return a learning rate or schedule as a checkpoint keeps it: a number, or a schedule's name and numbers.

    Raises:
        TypeError: it is a custom function, which no checkpoint can hold without pickle.
        ValueError: one of its numbers is negative or not finite.
    """
    if plain(rate) is not None:
        return finite("learning_rate", rate, low=0, high=LARGEST_RATE)
    kind = type(rate).__name__
    if kind not in SCHEDULES or type(rate) is not SCHEDULES[kind][0]:
        raise TypeError(
            f"learning_rate={rate!r}; expected a number, which decays linearly to 0, or stable-baselines3's "
            "LinearSchedule(start, end, end_fraction) or ConstantSchedule(val): checkpoints hold no pickle, so another "
            "function could not be saved"
        )
    numbers = {name: finite(f"learning_rate: {name}", getattr(rate, name), low=0) for name in SCHEDULES[kind][1]}
    return {"schedule": kind, **numbers}


def schedule_from_state(state: float | Mapping[str, Any]) -> float | Schedule:
    """Return the learning rate or schedule of a checkpoint: the inverse of :func:`schedule_state`."""
    if not isinstance(state, Mapping):
        return state
    kind, names = SCHEDULES[state["schedule"]]
    schedule: Schedule = kind(*(state[name] for name in names))
    return schedule
