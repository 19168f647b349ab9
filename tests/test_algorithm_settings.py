"""``textgym train --algorithm NAME``: every setting is there, explained, and refused where it means nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from textgym import cli
from textgym.agents.registry import ALGORITHMS
from textgym.agents.settings import SETTINGS
from textgym.cli import main
from textgym.commands.configs.hyperparameters import cautious, hyperparameters_class
from textgym.commands.configs.train import TrainConfig
from textgym.commands.flags import config_class, with_names_of_today

pytestmark = pytest.mark.usefixtures("unrendered")

TINY = [
    *("train", "--task", "textgym/Emit-v0", "--total-timesteps", "64", "--eval-episodes", "8"),
    *("--episodes-per-iteration", "32", "--minibatch-size", "8"),
]
COMMON = {
    *("learning_rate", "beta", "kl_target", "value", "temperature", "min_new_tokens", "top_k", "top_p"),
    *("episodes_per_iteration", "minibatch_size", "n_epochs", "max_grad_norm", "samples_per_prompt", "normalisation"),
    *("kl_in_loss", "kl_estimator", "warmup_iterations", "ent_coef"),
}
CRITIC, CLIP = {"clip_range_vf", "vf_coef"}, {"clip_range", "clip_range_high", "target_kl"}
GAE = CRITIC | {"gae_lambda", "credit"}
STANDARDISED = {"scale_by_std", "bessel", "target_kl"}
OWN = {
    "ppo": GAE | CLIP,
    "nlpo": GAE | CLIP | {"top_mask", "min_tokens_to_keep", "target_update"},
    "a2c": CRITIC,
    "trpo": GAE | {"target_kl", "cg_steps", "cg_damping", "curvature_share"},
    "reinforce": set(),
    "coach": {"trace_lambda"},
    "e-coach": {"gamma"},
    "deep-coach": CLIP | {"trace_lambda"},
    "rloo": set(),
    "rloo-clipped": CLIP,
    **dict.fromkeys(("grpo", "grpo-published", "dr-grpo", "gspo", "luspo", "gmpo", "cispo"), CLIP | STANDARDISED),
    "dapo": CLIP | STANDARDISED | {"max_resamples"},
    "dppo": STANDARDISED | {"distance", "max_distance"},
    "sapo": STANDARDISED | {"tau", "tau_negative"},
    "vespo": STANDARDISED | {"k_positive", "decay_positive", "k_negative", "decay_negative"},
    "maxrl": CLIP | {"subtract_mean"},
    "reinforce++": CLIP,
    "remax": set(),
    "a-star-po": {"value_samples", "value_beta"},
    "best-of-n": set(),
    "expert-iteration": set(),
    "distill": {"jsd", "teacher_share"},
}
"""Settings that not every algorithm has, as the papers have them."""
DEFAULTS = {
    "ppo": {"n-epochs": "4", "samples-per-prompt": "1", "normalisation": "token", "target-kl": "0.02"},
    "a2c": {"n-epochs": "1", "samples-per-prompt": "1"},
    "trpo": {"n-epochs": "4", "target-kl": "0.01", "cg-steps": "10"},
    "coach": {"n-epochs": "1", "trace-lambda": "0.95"},
    "e-coach": {"n-epochs": "1", "gamma": "0.95"},
    "deep-coach": {"n-epochs": "4", "trace-lambda": "0.35", "ent-coef": "0.01", "target-kl": "0.02"},
    "rloo": {"n-epochs": "1", "samples-per-prompt": "4"},
    "grpo": {
        "normalisation": "sequence",
        "kl-in-loss": "True",
        "samples-per-prompt": "4",
        "target-kl": "0.02",
        "kl-estimator": "exact",
        "bessel": "True",
        "scale-by-std": "True",
    },
    "grpo-published": {"kl-estimator": "k3", "bessel": "False", "normalisation": "sequence"},
    "dr-grpo": {"scale-by-std": "False", "normalisation": "constant", "kl-estimator": "exact"},
    "dapo": {"clip-range-high": "0.28", "normalisation": "token", "max-resamples": "10"},
    "luspo": {"normalisation": "constant"},
    "gmpo": {"clip-range": "0.4", "normalisation": "sequence"},
    "cispo": {"clip-range": "1.0", "clip-range-high": "0.2", "normalisation": "token"},
    "dppo": {"distance": "tv", "max-distance": "None"},
    "sapo": {"tau": "1.0", "tau-negative": "1.05", "normalisation": "sequence"},
    "vespo": {"k-positive": "2.0", "decay-positive": "3.0", "k-negative": "3.0", "decay-negative": "2.0"},
    "maxrl": {"subtract-mean": "True", "normalisation": "constant", "kl-in-loss": "True"},
    "reinforce++": {"samples-per-prompt": "1", "kl-in-loss": "False", "n-epochs": "4"},
    "rloo-clipped": {"kl-in-loss": "False", "normalisation": "sequence", "n-epochs": "4"},
    "best-of-n": {"samples-per-prompt": "16", "n-epochs": "4"},
    "a-star-po": {"samples-per-prompt": "1", "n-epochs": "1", "normalisation": "sequence", "value-samples": "8"},
    "distill": {"n-epochs": "1", "samples-per-prompt": "1", "jsd": "1.0", "teacher-share": "0.0"},
}
"""Defaults that define an algorithm, as its help states them."""


def helped(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*argv, "--help"])
    assert not end.value.code
    return re.sub(r"[\s│]+", " ", capsys.readouterr().out)


def default(said: str, flag: str) -> str:
    """Return the default that a help text states for a flag."""
    found = re.search(rf" --{flag}[ ,].*?\(default: ([^)]*)\)", said)
    assert found is not None, flag
    return found[1]


def test_the_light_table_agrees_with_the_algorithms() -> None:
    assert list(SETTINGS) == list(ALGORITHMS)
    assert {name: kind.settings_class for name, kind in ALGORITHMS.items()} == dict(SETTINGS)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_help_lists_the_settings_of_the_algorithm_with_its_defaults(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = helped(capsys, "train", "--algorithm", name)
    every = COMMON.union(*OWN.values())
    flags = set(re.findall(r"--([a-z-]+)", said))
    assert {one for one in every if one.replace("_", "-") in flags} == COMMON | OWN[name]
    for flag, value in DEFAULTS.get(name, {}).items():
        assert default(said, flag) == value, flag
    assert default(said, "warmup-iterations") == "10"


def test_help_of_a_pipeline_lists_the_settings_of_its_algorithm(capsys: pytest.CaptureFixture[str]) -> None:
    said = helped(capsys, "pipeline", "--train.algorithm", "grpo")
    assert "--train.scale-by-std" in said
    assert "--train.vf-coef" not in said
    # Not those of 'train', which are cautious.
    assert default(said, "train.warmup-iterations") == "0"
    assert "--train.vf-coef" in helped(capsys, "pipeline")


def test_help_of_an_algorithm_in_a_yaml_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.yaml").write_text("algorithm: trpo\n")
    assert "--cg-steps" in helped(capsys, "train", "--config", str(tmp_path / "t.yaml"))
    said = helped(capsys, "train", "--config", str(tmp_path / "t.yaml"), "--algorithm", "rloo")  # flags win
    assert "--cg-steps" not in said


def has_ratio(name: str) -> bool:
    """Return True for algorithms with an importance ratio; the bound of TRPO is that of its own step."""
    return "target_kl" in OWN[name] and name != "trpo"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_without_a_flag_an_algorithm_is_what_its_constructor_makes_of_nothing(name: str) -> None:
    own, defaults = hyperparameters_class(name)(), ALGORITHMS[name].settings_class()
    assert own.settings(ALGORITHMS[name].settings_class) == asdict(defaults)
    careful = cautious(name).settings(ALGORITHMS[name].settings_class)
    changed = {key: value for key, value in careful.items() if value != asdict(defaults)[key]}
    assert changed == {"warmup_iterations": 10, **({"target_kl": 0.02} if has_ratio(name) else {})}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_setting_is_described(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = helped(capsys, "train", "--algorithm", name)
    for field in fields(hyperparameters_class(name)):
        flag = field.name.replace("_", "-")
        assert re.search(rf"--{flag}(?:, --no-{flag}| [^ ]+) [A-ZKλ][^(]{{10,}}", said), flag


def test_settings_of_another_algorithm_are_refused_in_python() -> None:
    with pytest.raises(ValueError, match="GRPOHyperparameters are not those of algorithm='ppo'; expected"):
        TrainConfig(out=Path("run"), hyperparameters=hyperparameters_class("grpo")())


def test_all_algorithms_share_their_defaults() -> None:
    """Only what defines an algorithm differs from the others'."""
    shared = {"episodes_per_iteration", "minibatch_size", "max_grad_norm", "vf_coef", "clip_range_vf", "clip_range"}
    for name in shared:
        others = {"gmpo", "cispo"} if name == "clip_range" else set()  # of log-ratios, and none
        kinds = [kind.settings_class() for algorithm, kind in ALGORITHMS.items() if algorithm not in others]
        assert len({getattr(settings, name) for settings in kinds if hasattr(settings, name)}) == 1, name


@pytest.mark.parametrize("name", ["grpo", "nlpo", "best-of-n"])
def test_an_algorithm_by_name(name: str, tmp_path: Path) -> None:
    main([*TINY, "--algorithm", name, "--out", str(tmp_path / "run")])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["algorithm"] == name
    settings = ALGORITHMS[name].settings_class()
    assert config["hyperparameters"]["samples_per_prompt"] == settings.samples_per_prompt
    assert set(config["hyperparameters"]) == COMMON | OWN[name]
    # And goes on from its checkpoint.
    main([*TINY, "--algorithm", name, "--out", str(tmp_path / "run"), "--resume"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--algorithm", "rloo", "--clip-range", "0.3"],
            "clip_range: rloo has no such setting, which belongs to ppo, ",
        ),
        (
            ["--algorithm=trpo", "--no-scale-by-std"],
            "scale_by_std: trpo has no such setting, which belongs to grpo, grpo-published,",
        ),
        (["--cg-steps=3"], "cg_steps: ppo has no such setting, which belongs to trpo; leave it out"),
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
    with pytest.raises(SystemExit) as stop:
        main([*TINY, *flags, "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert message in re.sub(r"\s+", " ", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "yaml", "message"),
    [
        (
            "train",
            "algorithm: remax\nvf_coef: 0.2\n",
            "vf_coef: remax has no such setting, which belongs to ppo, nlpo,",
        ),
        ("train", "algorithm: a2c\nscale_by_std: false\n", "scale_by_std: a2c has no such setting"),
        ("pipeline", "train: {algorithm: grpo, gae_lambda: 1}\n", "gae_lambda: grpo has no such setting"),
    ],
)
def test_a_yaml_file_with_a_setting_of_another_algorithm_is_refused(
    command: str, yaml: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.yaml").write_text(yaml)
    with pytest.raises(SystemExit) as stop:
        main([command, "--config", str(tmp_path / "t.yaml"), "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "algorithm"),
    [
        ("train --out run", "ppo"),
        ("train --algorithm grpo --out run", "grpo"),
        ("train --algorithm=grpo --algorithm rloo", "rloo"),
        ("train --algorithm --out run", "ppo"),  # which tyro then refuses
        ("pipeline --train.algorithm a2c", "a2c"),
    ],
)
def test_the_algorithm_is_read_first(argv: str, algorithm: str) -> None:
    made = config_class(argv.split())
    assert made is not None
    config = made(out=Path("run"))
    found = config if argv.startswith("train") else config.train
    assert found.algorithm == algorithm
    assert type(found.hyperparameters) is hyperparameters_class(algorithm)


def test_a_command_without_algorithms_has_one_class() -> None:
    assert config_class(["dpo", "--beta", "0.1"]) is None
    assert config_class([]) is None


@pytest.mark.parametrize(
    ("argv", "today", "told"),
    [
        ("train --kl-coef 0.1", "train --beta 0.1", "--kl-coef (kl_coef in YAML) is called --beta now"),
        ("pipeline --train.kl-coef=1", "pipeline --train.beta=1", "is called --train.beta now"),
        ("demo --kl-coef 1", "demo --beta 1", "is called --beta now"),
        ("train --kl-in-loss False", "train --no-kl-in-loss", "--kl-in-loss False is written --no-kl-in-loss now"),
        ("train --scale-by-std True", "train --scale-by-std", "is written --scale-by-std now"),
        ("train --kl-in-loss=False", "train --no-kl-in-loss", "--kl-in-loss False is written --no-kl-in-loss now"),
        ("pipeline --train.scale-by-std=True", "pipeline --train.scale-by-std", "is written --train.scale-by-std now"),
        # None stood for the algorithm's default, and for settings that an algorithm does not have.
        ("train --clip-range None --seed 1", "train --seed 1", "--clip-range None is left out now"),
        ("train --kl-in-loss=None", "train", "--kl-in-loss None is left out now"),
        ("pipeline --train.n-epochs None", "pipeline", "--train.n-epochs None is left out now"),
        ("train --target-kl None --keep-best None", "train --target-kl None --keep-best None", None),  # both mean "off"
        ("train --beta 0.1 --no-kl-in-loss", "train --beta 0.1 --no-kl-in-loss", None),
        ("dpo --kl-coef 0.1", "dpo --kl-coef 0.1", None),  # it never had one
    ],
)
def test_flags_of_the_version_before_are_read_with_a_note(argv: str, today: str, told: str | None) -> None:
    made, notes = with_names_of_today(argv.split())
    assert made == today.split()
    assert len(notes) == (told is not None)
    assert (told or "") in " ".join(notes)


def test_a_yaml_file_of_the_version_before_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(cli, "run_command", seen.append)
    (tmp_path / "t.yaml").write_text(
        "algorithm: grpo\nkl_coef: 0.2\nkl_in_loss: false\nscale_by_std: true\ngae_lambda: null\n"
    )
    main(["train", "--config", str(tmp_path / "t.yaml"), "--out", str(tmp_path / "run")])
    found = seen[0].hyperparameters
    assert (found.beta, found.kl_in_loss, found.scale_by_std) == (0.2, False, True)
    assert capsys.readouterr().err.startswith("note: --kl-coef (kl_coef in YAML) is called --beta now")
    (tmp_path / "p.yaml").write_text("train: {kl_coef: 0.3}\n")
    main(["pipeline", str(tmp_path / "p.yaml"), "--out", str(tmp_path / "run"), "--train.beta", "0.4"])
    assert seen[1].train.hyperparameters.beta == 0.4  # flags win over the file


def test_help_gives_published_values(capsys: pytest.CaptureFixture[str]) -> None:
    words: dict[str, Sequence[str]] = {
        "ppo": ("Ziegler 2019", "Stiennon 2020", "Published: 0.95", *ALGORITHMS),
        "rloo": ("Ahmadian 2024",),
        "grpo": ("Shao 2024", "Liu 2025", "Yu 2025"),
        "nlpo": ("Published: 0.9.", "Published: 100"),
        "trpo": ("Published: 0.01",),
    }
    for name, expected in words.items():
        said = helped(capsys, "train", "--algorithm", name)
        for word in expected:
            assert word in said, (name, word)
