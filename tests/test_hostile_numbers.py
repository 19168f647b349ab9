"""Numbers without meaning, and empty words, are refused where they are given, by the name of the setting."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import types
from collections.abc import Callable, Iterator
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import gymnasium as gym
import numpy as np
import pytest
import torch

import textgym.commands.configs
from tests.agents.test_ppo import make_ppo
from tests.helpers import tiny_gpt2, word_mdp
from textgym import registration
from textgym.agents.loop.checkpoint import schedule_state
from textgym.agents.loop.checks import make_controller
from textgym.agents.loop.evaluation import evaluate
from textgym.agents.offline.preference_settings import DPOSettings, KTOSettings
from textgym.agents.offline.pretraining import Pretraining
from textgym.agents.offline.sft_settings import SFTSettings
from textgym.agents.registry import ALGORITHMS
from textgym.agents.settings import Common
from textgym.commands.configs.hyperparameters import hyperparameters_class
from textgym.env.vector import TokenVectorEnv
from textgym.lm.parts.lora import add_lora
from textgym.lm.sampling import Sampling
from textgym.registration import load_task, task_maker
from textgym.rewards.compose import compose
from textgym.rewards.kl import AdaptiveKL, FixedKL
from textgym.rewards.models.settings import FitSettings, RewardModelSettings

FILLERS: dict[Any, Any] = {Path: Path("x"), str: "x", tuple[Path, ...]: (Path("x"),)}


def config_classes() -> Iterator[type[Any]]:
    """Every dataclass of settings that a command has, and its parts."""
    for module in pkgutil.iter_modules(textgym.commands.configs.__path__, "textgym.commands.configs."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and is_dataclass(value) and value.__module__ == module.name:
                yield value


def required(kind: type[Any]) -> dict[str, Any]:
    """Values for the fields without a default."""
    hints = get_type_hints(kind)
    return {f.name: FILLERS.get(hints[f.name]) for f in fields(kind) if f.default is f.default_factory is MISSING}


def kinds(kind: type[Any]) -> Iterator[tuple[str, set[type]]]:
    """Names of a dataclass's fields, with the plain types that each may have."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        union = get_origin(bare) in (Union, types.UnionType)
        yield name, set(get_args(bare) if union else [bare])


SETTINGS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    **{kind.__name__: (kind, required(kind)) for kind in config_classes()},
    **{a.settings_class.__name__: (a.settings_class, {}) for a in ALGORITHMS.values()},
    "SFTSettings": (SFTSettings, {}),
    "DPOSettings": (DPOSettings, {}),
    "KTOSettings": (KTOSettings, {}),
    "Common": (Common, {}),
    "Sampling": (Sampling, {}),
    "FixedKL": (FixedKL, {"beta": 0.1}),
    "AdaptiveKL": (AdaptiveKL, {"beta": 0.1}),
    "FitSettings": (FitSettings, {}),
    "RewardModelSettings": (RewardModelSettings, {}),
    "Pretraining": (Pretraining, {"texts": ("a text",)}),
}
NONSENSE = (math.nan, math.inf, -math.inf, True, "3", 10**400, [1])
GIVEN = [
    (kind, name, value)
    for kind, (made, _) in SETTINGS.items()
    for name, types_ in kinds(made)
    if types_ & {int, float}
    for value in (*NONSENSE, *((2.5, 10**30) if int in types_ else (1e300,)))
]


def test_all_settings_are_met() -> None:
    found = {(kind, name) for kind, name, _ in GIVEN}
    assert {
        ("TrainConfig", "total_timesteps"),
        ("Common", "learning_rate"),
        ("Hyperparameters", "ent_coef"),
        ("NLPOSettings", "top_mask"),
    } <= found
    assert len(found) >= 120


@pytest.mark.parametrize(("kind", "name"), sorted({(kind, name) for kind, name, _ in GIVEN}))
def test_a_number_without_meaning_is_refused_by_name(kind: str, name: str) -> None:
    made, others = SETTINGS[kind]
    made(**others)
    for value in (value for k, n, value in GIVEN if (k, n) == (kind, name)):
        with pytest.raises(ValueError, match=rf"^{name}=.*; expected a (whole|finite) number"):
            made(**{**others, name: value})


@pytest.mark.parametrize("kind", SETTINGS)
def test_scalars_of_numpy_and_torch_become_plain(kind: str) -> None:
    """Settings are written into config.json and state.json, which know Python's numbers alone."""
    made, others = SETTINGS[kind]
    plain = made(**others)
    numbers = {name: getattr(plain, name) for name, types_ in kinds(made) if types_ & {int, float}}
    numbers = {name: value for name, value in numbers.items() if value is not None}
    for wrap in (np.asarray, torch.tensor):
        odd = made(**{**others, **{name: wrap(value) for name, value in numbers.items()}})
        assert {type(getattr(odd, name)) for name in numbers} <= {int, float}


@pytest.mark.parametrize("kind", [kind.__name__ for kind in config_classes()])
def test_an_empty_word_is_refused_by_name(kind: str) -> None:
    made, others = SETTINGS[kind]
    free = {"prompt"}
    for name, types_ in kinds(made):
        if str in types_ and name not in free:
            for value in ("", "  "):
                with pytest.raises(ValueError, match=rf"^{name}={value!r} is empty"):
                    made(**{**others, name: value})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_flags_and_constructors_refuse_the_same(algorithm: str) -> None:
    """A hyperparameter of the command line has the bounds that it has in the algorithm, in Common or in Sampling."""
    flags = hyperparameters_class(algorithm)
    numbers = {name for name, types_ in kinds(flags) if types_ & {int, float}}
    seen: set[str] = set()
    for part in (ALGORITHMS[algorithm].settings_class, Common, Sampling):
        for name in numbers & {f.name for f in fields(part)}:
            seen.add(name)
            for value in (-1, -0.5, 0, 0.5, 1, 1.5, 2, 100):
                assert _refuses(flags, name, value) == _refuses(part, name, value), (name, value)
    assert seen == numbers


def _refuses(made: Callable[..., Any], name: str, value: float) -> bool:
    try:
        made(**{name: value})
    except ValueError as error:
        return str(error).startswith(f"{name}=")
    return False


# --- constructors that are no settings ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, 2.5, math.nan, math.inf, True, "5", 10**30])
@pytest.mark.parametrize("name", ["max_new_tokens", "max_prompt_length", "vocabulary_size"])
def test_sizes_of_a_task(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}=.*; expected a whole number"):
        replace(word_mdp(), **{name: value})


@pytest.mark.parametrize("value", [0, -1, 2.5, math.nan, True, 10**30])
def test_the_number_of_rows(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^num_envs=.*; expected a whole number, "):
        TokenVectorEnv(word_mdp(), value)


@pytest.mark.parametrize("value", [0, -1, 2.5, math.nan, math.inf, True, 10**30])
def test_learning_for_no_tokens(value: Any) -> None:
    algorithm = make_ppo()
    with pytest.raises(ValueError, match=r"^total_timesteps=.*; expected a whole number, "):
        algorithm.learn(value)
    assert algorithm.num_timesteps == 0


@pytest.mark.parametrize("value", [-1, 2.5, math.nan, True, 2**32])
def test_seeds(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^seed=.*; expected a whole number, from 0 to 4294967295"):
        make_ppo(seed=value)


@pytest.mark.parametrize("value", [0, -1, 2.5, math.nan, True])
def test_evaluating_nothing(value: Any) -> None:
    algorithm, mdp = make_ppo(), word_mdp()
    with pytest.raises(ValueError, match=r"^n_episodes=.*; expected a whole number, at least 1"):
        evaluate(algorithm.policy, algorithm.policy.trunk, mdp, value, 0)
    with pytest.raises(ValueError, match=r"^seed=-1; expected a whole number"):
        evaluate(algorithm.policy, algorithm.policy.trunk, mdp, 1, -1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 1e300, 10**400])
def test_rates_and_prices(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^learning_rate=.*; expected a finite number"):
        schedule_state(value)
    with pytest.raises(ValueError, match=r"^beta=.*; expected a finite number"):
        make_controller(value)


def test_rates_and_prices_are_numbers() -> None:
    for value in (True, "0.1"):
        with pytest.raises(TypeError, match="learning_rate="):
            schedule_state(value)
        with pytest.raises(TypeError, match="beta="):
            make_controller(value)
    for rate in (np.float32(0.5), torch.tensor(0.5)):
        assert schedule_state(rate) == 0.5
        assert asdict(make_controller(rate)) == {"beta": 0.5}  # type: ignore[call-overload]


@pytest.mark.parametrize("value", [math.nan, math.inf, True, "2", 1e300, 10**400])
def test_weights_of_rewards(value: Any) -> None:
    def nothing(completions: list[str], **_: Any) -> list[float]:
        return [0.0 for _ in completions]

    with pytest.raises(ValueError, match=r"^weight of 'nothing'=.*; expected a finite number"):
        compose([(nothing, value)])


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, 1e18])
def test_time_limits(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^timeout=.*; expected a finite number, more than 0"):
        compose(print, timeout=value)


@pytest.mark.parametrize("value", [0, -1, 2.5, math.nan])
def test_ranks_of_adapters(value: Any) -> None:
    pytest.importorskip("peft")
    with pytest.raises(ValueError, match=r"^lora=.*; expected a whole number, at least 1"):
        add_lora(tiny_gpt2(), value, 0, 0)


DIAGNOSTIC = ("Emit", "Noise", "Scale", "Vocabulary", "Needle", "Copy", "Recall", "Delayed", "Dense", "Prior", "Trap")


@pytest.mark.parametrize("task", DIAGNOSTIC)
def test_parameters_of_tasks(task: str) -> None:
    """Also through gym.make, which hands its settings to them."""
    parameters = inspect.signature(task_maker(task)).parameters
    assert parameters
    for name, parameter in parameters.items():
        for value in (math.nan, math.inf, -1, "2", *([2.5, True] if parameter.annotation == "int" else [10**400])):
            with pytest.raises(
                ValueError, match=rf"^{name}=.*; expected (a whole number|a finite number|True or False)"
            ):
                load_task(task, **{name: value})
    with pytest.raises(ValueError, match=r"^horizon=2.5; expected a whole number"):
        gym.make("textgym/Delayed-v0", horizon=2.5)


def test_parameters_of_ones_own_task_may_be_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    def maker(offset: int = 0, scale: float = 1.0) -> Any:
        raise LookupError(f"{offset!r} {scale!r}")

    monkeypatch.setattr(registration, "_own", {"hostile/Own-v0": maker})
    with pytest.raises(LookupError, match=r"-2 -0\.5"):
        load_task("hostile/Own-v0", offset=np.int64(-2), scale=np.float32(-0.5))
    with pytest.raises(ValueError, match=r"^offset=1\.5; expected a whole number"):
        load_task("hostile/Own-v0", offset=1.5)
