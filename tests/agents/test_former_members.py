"""Arguments and attributes of version 0.1: they work with a warning, or their error says how to write them now."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.agents.test_ppo import SMALL, equal, make_env, make_ppo, parameters
from tests.helpers import tiny_gpt2
from textgym.agents import PPO
from textgym.lm.sampling import Sampling

LISTING = """
from dataclasses import dataclass

from textgym.agents import SequenceAlgorithm
from textgym.agents.{advantages} import Advantages, spread
from textgym.agents.{batches} import Scored
from textgym.agents.settings import GroupSettings


@dataclass(frozen=True)
class RankedSettings(GroupSettings):
    n_epochs: int = 1
    sharpness: float = 2.0


class Ranked(SequenceAlgorithm):
    settings: RankedSettings
    settings_class = RankedSettings

    def estimate_advantages(self, scored: Scored) -> Advantages:
        k = self.settings.samples_per_prompt
        ranks = scored.returns.reshape(-1, k).argsort(1).argsort(1)
        return spread(self.settings.sharpness * ranks.ravel() / (k - 1) - 1.0, scored.episodes.own)
"""


def ranked(**modules: str) -> Any:
    """An algorithm that imports from the given modules of ``textgym.agents``."""
    names: dict[str, Any] = {}
    exec(LISTING.format(**modules), names)
    return names["Ranked"]


def test_an_algorithm_written_for_0_1_trains_as_with_the_new_names() -> None:
    for name in ("advantages", "batches"):  # which another test may have imported, and so heard the warning
        sys.modules.pop(f"textgym.agents.{name}", None)
    with pytest.warns(DeprecationWarning, match=r"textgym\.agents\.\w+ is now textgym\.agents\."):
        old = ranked(advantages="advantages", batches="batches")
    new = ranked(advantages="functional.objectives", batches="loop.episodes")
    trained = [kind("LMPolicy", make_env(), model=tiny_gpt2(), seed=3, **SMALL).learn(16) for kind in (old, new)]
    assert equal(*map(parameters, trained))
    assert not equal(parameters(trained[0]), {f"lm.{name}": value for name, value in tiny_gpt2().state_dict().items()})


def test_a_checkpoint_opens_with_the_former_name_of_beta_and_a_warning_for_the_caller(tmp_path: Path) -> None:
    make_ppo(beta=0.1).save(tmp_path / "run")
    with pytest.warns(DeprecationWarning, match="kl is called beta now") as caught:
        loaded = PPO.load(tmp_path / "run", make_env(), kl=0.3)
    assert loaded.kl.beta == 0.3
    assert caught[0].filename == __file__


def test_beta_by_both_names_is_refused(tmp_path: Path) -> None:
    """A subclass of 0.1 with a ``kl`` of its own would otherwise override the β of the checkpoint that it opens."""

    class Mild(PPO):
        def __init__(self, *arguments: Any, kl: float = 0.01, **named: Any) -> None:
            super().__init__(*arguments, kl=kl, **named)

    with pytest.warns(DeprecationWarning, match="kl is called beta now"):
        made = Mild("LMPolicy", make_env(), model=tiny_gpt2(), **{k: v for k, v in SMALL.items() if k != "beta"})
    assert made.kl.beta == 0.01
    made.save(tmp_path / "run")
    with pytest.raises(TypeError, match=r"kl=0\.01 and beta=FixedKL\(beta=0\.01\); .* write beta=… alone"):
        Mild.load(tmp_path / "run", make_env())


@pytest.mark.parametrize(("name", "value"), [("sampling", Sampling(0.5)), ("mask", None)])
def test_a_part_of_the_distribution_is_not_set_by_itself(name: str, value: Any) -> None:
    policy = make_ppo().policy
    with pytest.raises(AttributeError, match=rf"policy\.{name} is read-only.*replace\(policy\.behaviour, {name}=…\)"):
        setattr(policy, name, value)
    policy.behaviour = replace(policy.behaviour, **{name: value})
    assert getattr(policy, name) is value


def test_a_policy_still_tells_if_it_truncates() -> None:
    for sampling, truncates in ((Sampling(), False), (Sampling(top_k=2), True)):
        with pytest.warns(DeprecationWarning, match=r"LMPolicy\.truncates is now LMPolicy\.behaviour\.truncates"):
            assert make_ppo(sampling=sampling).policy.truncates is truncates
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(make_ppo().policy.lm, torch.nn.Module)


def test_the_upper_clip_range_says_where_it_is() -> None:
    algorithm = make_ppo(clip_range=0.2, clip_range_high=0.3)
    with pytest.raises(AttributeError, match=r"write self\.clip_high"):
        _ = algorithm.settings.clip_high
    assert algorithm.clip_high == 0.3
