"""β under its former name, ``kl``: in constructors, when a checkpoint is loaded, and in checkpoints of version 0.1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.agents.test_algorithms import make, make_env
from tests.agents.test_ppo import equal, make_ppo, parameters
from textgym.agents import GRPO
from textgym.files import write_manifest
from textgym.rewards.kl import AdaptiveKL

STATE = {
    "format": 1,
    "algorithm": "GRPO",
    "hyperparameters": {
        "learning_rate": 0.003,
        "policy_kwargs": {},
        "score_together": True,
        "episodes_per_iteration": 16,
        "minibatch_size": 4,
        "n_epochs": 4,
        "max_grad_norm": 1.0,
        "samples_per_prompt": 4,
        "normalisation": "sequence",
        "kl_in_loss": True,
        "warmup_iterations": 0,
        "ent_coef": 0.0,
        "clip_range": 0.3,
        "clip_range_high": None,
        "target_kl": None,
        "scale_by_std": True,
    },
    "sampling": {"temperature": 1.0, "min_new_tokens": 0, "top_k": 0, "top_p": 1.0},
    "kl": {"controller": "AdaptiveKL", "settings": {"beta": 0.2, "target": 3.0, "horizon": 100.0}},
    "pretraining": None,
    "seed": 0,
}
"""What version 0.1 wrote into ``training/state.json``, beside counters, task and the optimiser's groups."""
LATER: dict[str, Any] = {"kl_estimator": "k3", "bessel": False}
"""Settings that it did not have, with the values of what it did."""


def test_the_former_name_works_with_a_warning_that_names_the_new_one() -> None:
    with pytest.warns(DeprecationWarning, match="kl is called beta now"):
        algorithm = make_ppo(kl=0.3)
    assert algorithm.kl.beta == 0.3
    steered = AdaptiveKL(0.1, target=2.0)
    with pytest.warns(DeprecationWarning, match="write beta="):
        assert make_ppo(kl=steered).kl is steered


def test_the_new_name_takes_numbers_and_controllers_in_silence() -> None:
    steered = AdaptiveKL(0.1, target=2.0)
    assert make_ppo(beta=0.3).kl.beta == 0.3
    assert make_ppo(beta=steered).kl is steered


def test_a_mistaken_value_is_named_by_the_new_name() -> None:
    with pytest.warns(DeprecationWarning, match="beta"), pytest.raises(TypeError, match=r"beta='0\.1'; expected a"):
        make_ppo(kl="0.1")


def as_version_0_1(directory: Path) -> None:
    """Put the state of version 0.1 into a checkpoint, with the counters and tensors that it has."""
    path = directory / "training" / "state.json"
    now = json.loads(path.read_text())
    written: dict[str, Any] = {**STATE, **{name: now[name] for name in ("task", "counters", "optimizer_groups")}}
    path.write_text(json.dumps(written))
    write_manifest(directory)


def test_a_checkpoint_of_the_version_before_goes_on(tmp_path: Path) -> None:
    """Controller and settings are those that were kept, and training goes on with them."""
    settings: dict[str, Any] = {"beta": AdaptiveKL(0.2, target=3.0, horizon=100), "clip_range": 0.3}
    begun = make("grpo", **settings)
    begun.learn(30)
    begun.save(tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "training" / "state.json").read_text())
    as_version_0_1(tmp_path / "run")
    loaded = GRPO.load(tmp_path / "run", make_env())
    assert isinstance(loaded.kl, AdaptiveKL)
    assert (loaded.kl.beta, loaded.kl.target, loaded.kl.horizon) == (0.2, 3.0, 100.0)
    assert loaded.settings.clip_range == 0.3
    assert (loaded.settings.kl_estimator, loaded.settings.bessel) == ("k3", False)
    assert loaded.num_timesteps == begun.num_timesteps
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps >= begun.num_timesteps + 20
    assert set(saved) == {*STATE, "task", "counters", "optimizer_groups"}
    assert set(saved["hyperparameters"]) == {*STATE["hyperparameters"], *LATER}  # type: ignore[misc]


@pytest.mark.parametrize("name", ["grpo", "gspo", "rloo"])
def test_a_checkpoint_from_before_the_estimators_goes_on_as_it_ran(name: str, tmp_path: Path) -> None:
    """It trained on k3, with a divisor of k in the standard deviation, and named neither."""
    own = {setting: value for setting, value in LATER.items() if name != "rloo" or setting != "bessel"}
    begun = make(name, kl_in_loss=True, beta=0.5, **own)
    begun.learn(100)
    for path in (tmp_path / "now", tmp_path / "before"):
        begun.save(path)
    state = json.loads((tmp_path / "before" / "training" / "state.json").read_text())
    for setting in own:
        del state["hyperparameters"][setting]
    (tmp_path / "before" / "training" / "state.json").write_text(json.dumps(state))
    write_manifest(tmp_path / "before")
    weights = []
    for path in (tmp_path / "now", tmp_path / "before"):
        loaded = type(begun).load(path, make_env())
        assert loaded.settings == begun.settings
        loaded.learn(100, reset_num_timesteps=False)
        weights.append(parameters(loaded))
    assert equal(*weights)
    assert not equal(weights[0], parameters(begun))


def test_beta_is_changed_as_a_checkpoint_is_loaded(tmp_path: Path) -> None:
    algorithm = make_ppo(beta=0.2)
    algorithm.learn(20)
    algorithm.save(tmp_path / "run")
    env = algorithm.get_env()
    kept, changed = type(algorithm).load(tmp_path / "run", env), type(algorithm).load(tmp_path / "run", env, beta=0.5)
    with pytest.warns(DeprecationWarning, match="beta"):
        former = type(algorithm).load(tmp_path / "run", env, kl=0.5)
    assert [one.kl.beta for one in (kept, changed, former)] == [0.2, 0.5, 0.5]
    for one, other in zip(kept.policy.parameters(), former.policy.parameters(), strict=True):
        assert torch.equal(one, other)
