"""``textgym train --preset``: published numbers, and what wins over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import save_byte_model
from textgym.cli import main, parse, with_yaml
from textgym.commands.configs.train import TrainConfig
from textgym.commands.presets import preset_names

ROOT = Path(__file__).parents[1]
RL4LMS = """
                    algorithm   rate   beta target/tok  n/it   mini  iters P   T    top_k min eval save mask keep fresh
imdb-ppo            ppo         1e-6   0.1     0.1         27     1   50    64  48   50  48   10   10   -    -    -
imdb-nlpo           nlpo        1e-6   0.1     0.1         27     1   50    64  48   50  48   10   10   0.9  100  5
imdb-ppo-sft        ppo         1e-6   0.1     0.1         27     1   50    64  48   50  48   10   10   -    -    -
imdb-nlpo-sft       nlpo        1e-6   0.1     0.1         27     1   50    64  48   50  48   10   10   0.9  100  5
imdb-a2c            a2c         1e-6   0.1     0.5         2      2   100   64  48   50  48   20   1    -    -    -
commongen-ppo       ppo         2e-6   0.001   2           128    3   200   20  20   0   5    20   1    -    -    -
commongen-nlpo      nlpo        2e-6   0.001   2           64     3   100   15  20   50  10   10   20   0.9  100  20
commongen-ppo-sft   ppo         2e-6   0.01    1           64     3   100   20  20   50  5    5    20   -    -    -
commongen-nlpo-sft  nlpo        2e-6   0.01    1           64     3   100   20  20   50  5    5    20   0.9  100  20
cnndm-ppo           ppo         2e-6   0.001   0.2         51     1   100   512 100  50  50   10   1    -    -    -
cnndm-nlpo          nlpo        2e-6   0.001   0.2         51     1   100   512 100  100 50   10   1    0.9  100  20
cnndm-ppo-sft       ppo         2e-6   0.01    0.2         51     1   50    512 100  100 50   10   1    -    -    -
cnndm-nlpo-sft      nlpo        2e-6   0.01    0.2         51     1   50    512 100  100 50   10   1    0.9  100  30
totto-ppo           ppo         2e-6   0.001   2           51     1   100   512 50   0   10   20   1    -    -    -
totto-nlpo          nlpo        2e-6   0.001   2           51     1   100   512 50   0   10   20   1    0.9  100  20
totto-ppo-sft       ppo         5e-7   0.01    0.2         51     1   100   512 50   50  10   20   1    -    -    -
totto-nlpo-sft      nlpo        5e-7   0.01    0.2         51     1   100   512 50   0   10   20   1    0.9  100  20
narrativeqa-ppo     ppo         2e-6   0.001   1           51     1   100   512 50   50  0    10   1    -    -    -
narrativeqa-nlpo    nlpo        2e-6   0.001   1           51     1   100   512 50   50  0    10   1    0.9  100  20
narrativeqa-ppo-sft ppo         5e-7   0.001   0.2         102    1   100   512 50   50  0    10   1    -    -    -
narrativeqa-nlpo-sft nlpo       5e-7   0.001   0.2         51     1   100   512 50   50  0    10   1    0.9  100  20
iwslt-ppo           ppo         1e-6   0.001   0.2         40     1   50    128 128  10  0    10   1    -    -    -
iwslt-nlpo          nlpo        1e-6   0.001   0.2         40     1   50    128 128  10  0    10   1    0.5  100  20
iwslt-ppo-sft       ppo         5e-7   0.001   0.2         40     1   50    128 128  5   0    10   1    -    -    -
iwslt-nlpo-sft      nlpo        5e-7   0.001   0.2         40     1   50    128 128  10  0    10   1    0.5  100  20
dailydialog-ppo     ppo         1e-6   0.2     0.5         64     3   50    128 20   20  2    5    10   -    -    -
dailydialog-nlpo    nlpo        1e-6   0.2     0.5         64     3   100   128 20   20  2    5    10   0.9  100  20
dailydialog-ppo-sft ppo         1e-6   0.2     0.05        64     3   50    128 20   20  2    5    10   -    -    -
dailydialog-nlpo-sft nlpo       1e-6   0.2     0.05        64     3   50    128 20   20  2    5    10   0.9  100  20
"""
"""The published settings; n/it and mini are tokens over T, by hand."""
ROWS = [line.split() for line in RL4LMS.strip().splitlines()[1:]]
TOKENS = {"imdb-a2c": 96, "commongen-ppo": 2560, "narrativeqa-ppo-sft": 5120}
"""Tokens of an iteration, n_envs × n_steps, where they are not those of the other files of the task."""
TOKENS_OF_TASK = {
    "imdb": 1280,
    "commongen": 1280,
    "cnndm": 5120,
    "totto": 2560,
    "narrativeqa": 2560,
    "iwslt": 5120,
    "dailydialog": 1280,
}


def preset(name: str, *flags: str) -> TrainConfig:
    config = parse(with_yaml(["train", "--preset", name, "--out", "run", *flags]))
    assert isinstance(config, TrainConfig)
    return config


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_published_numbers_of_rl4lms(row: list[str]) -> None:
    name, algorithm, *numbers = row
    rate, beta, target, episodes, mini, iterations, longest, new, top_k, least, evaluate, save = map(
        float, numbers[:12]
    )
    config = preset(f"rl4lms/{name}")
    own: Any = config.hyperparameters
    assert config.algorithm == algorithm
    assert (own.learning_rate, own.beta) == (rate, beta)
    assert own.kl_target == pytest.approx(target * new, rel=1e-12)
    assert config.kl_horizon == 10 * episodes
    assert (own.episodes_per_iteration, own.minibatch_size) == (episodes, mini)
    assert own.n_epochs == (1 if algorithm == "a2c" else 5)
    tokens = TOKENS.get(name, TOKENS_OF_TASK[name.partition("-")[0]])
    assert config.total_timesteps == iterations * tokens
    assert episodes == max(2, round(tokens / new))
    assert (config.max_prompt_length, config.max_new_tokens) == (longest, new)
    assert (own.top_k, own.min_new_tokens, own.temperature, own.top_p) == (top_k, least, 1, 1)
    assert (config.eval_every, config.checkpoint_every) == (evaluate, save)
    assert own.ent_coef == (0.01 if name in ("commongen-ppo", "commongen-ppo-sft", "commongen-nlpo-sft") else 0)
    assert (own.vf_coef, own.max_grad_norm, own.clip_range_vf, own.value) == (0.5, 0.5, 1e6, "separate")
    assert own.warmup_iterations == 0
    if algorithm != "a2c":
        assert (own.gae_lambda, own.clip_range, own.target_kl) == (0.95, 0.2, 0)
    if algorithm == "nlpo":
        assert (own.top_mask, own.min_tokens_to_keep, own.target_update) == tuple(map(float, numbers[12:]))


REWARDS = {
    "imdb": "clf:lvwerra/distilbert-imdb,label=POSITIVE,too_long=truncate",
    "commongen-ppo": "meteor regex:(?i)generate|sentence,-1",
    "commongen-nlpo": "meteor regex:(?i)generate|sentence,-1",
    "commongen-ppo-sft": "FILE.py:function",
    "commongen-nlpo-sft": "meteor",
    "cnndm-ppo": "rouge,kind=1,stem=true",
    "cnndm": "meteor",
    "totto": "meteor",
    "narrativeqa": "rouge,kind=Lmax,stem=true",
    "iwslt": "ter",
    "dailydialog-ppo-sft": "FILE.py:intent,0.5 meteor,0.5",
    "dailydialog-nlpo-sft": "FILE.py:intent,0.25 meteor,0.75",
    "dailydialog": "FILE.py:intent,0.75 meteor,0.25",
}


@pytest.mark.parametrize("name", [row[0] for row in ROWS])
def test_published_rewards_of_rl4lms(name: str) -> None:
    assert preset(f"rl4lms/{name}").reward == REWARDS.get(name, REWARDS.get(name.partition("-")[0]))


PUBLISHED: dict[str, dict[str, Any]] = {
    "ziegler/sentiment": {
        "learning_rate": 1e-5,
        "beta": 0.15,
        "kl_target": 6,
        "kl_horizon": 10_000,
        "episodes_per_iteration": 512,
        "max_prompt_length": 64,
        "max_new_tokens": 24,
        "temperature": 0.7,
        "total_timesteps": 24_000_000,
        "n_epochs": 4,
        "vf_coef": 0.1,
        "gae_lambda": 0.95,
        "minibatch_size": 512,
        "seed": 1,
        "value": "trunk",
    },
    "ziegler/descriptiveness": {"learning_rate": 1e-5, "beta": 0.15, "kl_target": 6, "episodes_per_iteration": 512},
    "ziegler/cnndm": {
        "learning_rate": 2e-6,
        "beta": 0.01,
        "kl_target": None,
        "episodes_per_iteration": 32,
        "temperature": 0.5,
        "max_prompt_length": 500,
        "max_new_tokens": 75,
        "total_timesteps": 75_000_000,
    },
    "ziegler/tldr": {"learning_rate": 2e-6, "beta": 0.03, "temperature": 0.7, "max_new_tokens": 75},
    "stiennon/tldr-1.3b": {
        "learning_rate": 1.5e-5,
        "beta": 0.05,
        "kl_target": None,
        "episodes_per_iteration": 512,
        "n_epochs": 4,
        "max_prompt_length": 512,
        "max_new_tokens": 48,
        "gae_lambda": 0.95,
        "total_timesteps": 48_000_000,
    },
    "stiennon/tldr-6.7b": {"learning_rate": 7e-6, "beta": 0.05, "episodes_per_iteration": 256},
    "huang/tldr": {
        "learning_rate": 3e-6,
        "beta": 0.05,
        "episodes_per_iteration": 512,
        "minibatch_size": 512,
        "n_epochs": 4,
        "max_new_tokens": 53,
        "temperature": 0.7,
        "missing_end_score": -1,
        "vf_coef": 0.1,
        "gae_lambda": 0.95,
        "clip_range": 0.2,
        "clip_range_vf": 0.2,
        "total_timesteps": 53_000_000,
        "seed": 44413,
    },
    "ouyang/instructgpt": {
        "beta": 0.02,
        "episodes_per_iteration": 512,
        "minibatch_size": 64,
        "n_epochs": 1,
        "clip_range": 0.2,
        "warmup_iterations": 10,
        "temperature": 1,
        "ptx_coef": None,
        "total_timesteps": 256_000 * 1024,
    },
    "ouyang/instructgpt-ptx": {"beta": 0.02, "ptx_coef": 27.8, "ptx_batch_size": 8 * 64},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_of_others(name: str) -> None:
    config = preset(name)
    found = {key: getattr(config, key, getattr(config.hyperparameters, key, "missing")) for key in PUBLISHED[name]}
    assert found == PUBLISHED[name]


def test_every_preset_is_tested_and_told() -> None:
    assert preset_names() == sorted([*(f"rl4lms/{row[0]}" for row in ROWS), *PUBLISHED])
    page = (ROOT / "docs" / "migrating.md").read_text("utf-8")
    for name in preset_names():
        assert name in page or name.removeprefix("rl4lms/").partition("-")[0] in page


def test_config_and_flags_win(tmp_path: Path) -> None:
    """Wherever they stand, and whether --preset comes first, last, or in the file."""
    (tmp_path / "mine.yaml").write_text("beta: 0.2\nseed: 7\n", "utf-8")
    mine = ["--config", str(tmp_path / "mine.yaml")]
    for argv in (
        ["--preset", "rl4lms/imdb-nlpo", *mine, "--seed", "8"],
        [*mine, "--seed", "8", "--preset=rl4lms/imdb-nlpo"],
        ["--seed", "8", *mine, "--preset", "rl4lms/imdb-nlpo"],
    ):
        config = parse(with_yaml(["train", *argv, "--out", "run"]))
        assert (config.hyperparameters.beta, config.seed, config.algorithm) == (0.2, 8, "nlpo")
        assert config.hyperparameters.top_mask == 0.9
    (tmp_path / "mine.yaml").write_text("preset: rl4lms/imdb-nlpo\nbeta: 0.2\n", "utf-8")
    config = parse(with_yaml(["train", *mine, "--out", "run"]))
    assert (config.hyperparameters.beta, config.hyperparameters.top_mask) == (0.2, 0.9)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--preset", "rl4lms/imbd-ppo"], "did you mean 'rl4lms/imdb-ppo'? Known: huang/tldr, "),
        (["--preset", "../../secret"], "preset='../../secret' is unknown"),
        (["--preset"], "--preset needs a name such as rl4lms/imdb-ppo"),
        (["--preset", "ouyang/instructgpt", "--out", "run"], "without --task"),
        (["--kl-horizon", "100", "--out", "run"], "kl_horizon=100.0 is for a beta that is steered; pass --kl-target"),
    ],
)
def test_bad_presets(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", *argv])
    assert end.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_preset_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_byte_model(Path("model"))
    Path("prompts.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n', "utf-8")
    size = "--total-timesteps 17 --episodes-per-iteration 8 --minibatch-size 4 --max-new-tokens 4 --eval-episodes 2"
    own = "--model model --value trunk --prompts prompts.jsonl --reward length --max-prompt-length 8 --out run"
    main(["train", "--preset", "ouyang/instructgpt", *size.split(), *own.split()])
    kept = json.loads(Path("run/config.json").read_text("utf-8"))["hyperparameters"]
    assert (kept["beta"], kept["warmup_iterations"], kept["n_epochs"]) == (0.02, 10, 1)
