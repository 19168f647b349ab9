"""``textgym train --algorithm NAME``: every setting is there, explained, and refused where it means nothing."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from textgym.agents.registry import ALGORITHMS
from textgym.cli import main
from textgym.commands.configs.hyperparameters import Hyperparameters
from textgym.commands.settings import resolve

TINY = [
    *("train", "--task", "textgym/Emit-v0", "--total-timesteps", "64", "--eval-episodes", "8"),
    *("--episodes-per-iteration", "32", "--minibatch-size", "8"),
]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_setting_of_every_algorithm_is_reached(name: str) -> None:
    own = {field.name for field in fields(ALGORITHMS[name].settings_class)}
    assert own <= {field.name for field in fields(Hyperparameters)}
    # Without a flag an algorithm is what its constructor makes of nothing.
    resolved, defaults = resolve(name, Hyperparameters()), ALGORITHMS[name].settings_class()
    assert {field: getattr(resolved, field) for field in own} == {field: getattr(defaults, field) for field in own}


def test_all_algorithms_share_their_defaults() -> None:
    """Only what defines an algorithm differs from the others'."""
    shared = {"episodes_per_iteration", "minibatch_size", "max_grad_norm", "vf_coef", "clip_range_vf", "clip_range"}
    for name in shared:
        kinds = [kind.settings_class() for kind in ALGORITHMS.values()]
        assert len({getattr(settings, name) for settings in kinds if hasattr(settings, name)}) == 1, name


@pytest.mark.parametrize("name", ["grpo", "nlpo", "best-of-n"])
def test_an_algorithm_by_name(name: str, tmp_path: Path) -> None:
    main([*TINY, "--algorithm", name, "--out", str(tmp_path / "run")])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["algorithm"] == name
    settings = ALGORITHMS[name].settings_class()
    assert config["hyperparameters"]["samples_per_prompt"] == settings.samples_per_prompt
    # And goes on from its checkpoint.
    main([*TINY, "--algorithm", name, "--out", str(tmp_path / "run"), "--resume"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--algorithm", "rloo", "--clip-range", "0.3"], "clip_range=0.3: rloo has no such setting"),
        (["--algorithm", "rloo", "--samples-per-prompt", "1"], "samples_per_prompt=1; expected at least 2"),
        (
            ["--algorithm", "nlpo", "--top-mask", "1.5"],
            "top_mask=1.5; expected a finite number",
        ),
        (["--algorithm", "grop"], "did you mean 'grpo'"),
    ],
)
def test_what_means_nothing_is_refused(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*TINY, *flags, "--out", str(tmp_path / "run")])
    assert message in re.sub(r"\s+", " ", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_help_gives_published_values(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    for word in ("Ahmadian 2024", "Shao 2024", "Ramamurthy 2022", "Schulman 2015", "Published: 0.95", *ALGORITHMS):
        assert word in said
