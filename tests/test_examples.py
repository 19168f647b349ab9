"""Every lesson in examples/ runs, in short, and shows what its page says.

A new file is run, too. Constants that set a lesson's size are lowered in SHORT; what a lesson must show stands in the
check of its number.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import textgym
from textgym.agents import PPO
from textgym.rewards import RewardModel, read_rankings

FOLDER = Path(__file__).parents[1] / "examples"
FILES = sorted(FOLDER.glob("*.py"))
LESSONS = [path for path in FILES if re.match(r"\d", path.name)]

SHORT: dict[str, dict[str, Any]] = {
    "101": {"TOTAL_TIMESTEPS": 6_000, "EVALUATION_EPISODES": 128},
    "102": {"TOTAL_TIMESTEPS": 500, "EPISODES_PER_ITERATION": 32},
    "103": {"PROMPTS": 384, "TOTAL_TIMESTEPS": 3_000, "EVALUATION_EPISODES": 128},
    "104": {
        "DEMONSTRATIONS": 32,
        "PROMPTS": 64,
        "TOTAL_TIMESTEPS": 2_500,
        "PTX_COEF": 1.0,
        "EVALUATION_PROMPTS": 64,
    },
    "105": {"TOTAL_TIMESTEPS": 4_096, "SEEDS": (0,)},
    "106": {"TOTAL_TIMESTEPS": 5_000, "EVALUATION_EPISODES": 64},
    "107": {"TOTAL_TIMESTEPS": 4_096},
    "108": {"TOTAL_TIMESTEPS": 2_000, "EVALUATION_EPISODES": 32},
    "109": {"TOTAL_TIMESTEPS": 2_400},
    "110": {"TOTAL_TIMESTEPS": 4_000},
    "credit": {"GAPS": (20,), "SEEDS": (0, 1), "TOTAL_TIMESTEPS": 2_048},
}


def load(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a script, which is no module of a package, under a name of its own."""
    name = f"example_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


# --- what each lesson must show --------------------------------------------------------------------------------------


def check_101(_: ModuleType, found: dict[str, float]) -> None:
    assert found["after"] > found["before"] + 0.1
    assert found["loaded_is_same"] == 1.0


def check_102(lesson: ModuleType, found: dict[str, dict[str, float]]) -> None:
    assert lesson.about_music([" Every song is dull.", " A superb plot."]) == [1.0, 0.0]
    for name, weights in {
        "ours": {"about_music": 1.0, "gold": 0.0},
        "composed": {"gold": 1.0, "about_music": 1.0, "length": -0.03},
    }.items():
        parts = {part: found[name][f"rollout/components/{part}"] for part in weights}
        assert found[name]["rollout/score"] == pytest.approx(
            sum(weights[part] * parts[part] for part in parts), abs=1e-6
        )


def check_103(_: ModuleType, found: dict[str, float]) -> None:
    assert found["pairs"] == 384 // 8 * 6  # an eighth of the prompts, four completions each
    assert 0.57 < found["accuracy"] < found["ceiling"] < 1
    assert found["score_after"] > found["score_before"]
    rankings = read_rankings("runs/103/rankings.jsonl")
    assert len(rankings) == 384
    assert all(sorted(ranking.ranks) == [0, 1, 2, 3] for ranking in rankings)
    # The saved reward model is the one that was asked.
    good, bad = RewardModel.load("runs/103/reward_model").score(
        ['I watched "The Silent Harbor" on Friday with my sister.'] * 2, [" It is superb.", " It is dreadful."]
    )
    assert good > bad


def check_104(lesson: ModuleType, found: dict[str, dict[str, float]]) -> None:
    assert list(found) == ["base model", "imitation", "PPO-ptx"]
    # A pretraining text of weight 1 is learned, and short training does not take the grammar away.
    assert found["PPO-ptx"]["stories"] < found["imitation"]["stories"] - 0.005
    assert all(row["grammatical"] > 0.8 for row in found.values())
    policy = AutoModelForCausalLM.from_pretrained("runs/104/policy")
    base = AutoModelForCausalLM.from_pretrained(lesson.task.base_model)
    assert policy.num_parameters() == base.num_parameters()


def check_105(lesson: ModuleType, found: dict[str, list[float]]) -> None:
    assert all(score > 0.3 for scores in found.values() for score in scores)
    # Beyond the clip, PPO gives a good token no gradient; CISPO gives it the weight c = 2. Worked out by hand.
    old = torch.log(torch.tensor([[0.1, 0.5]]))
    new = torch.log(torch.tensor([[0.4, 0.5]])).requires_grad_()  # ratios 4 and 1
    advantages = torch.tensor([[1.0, -3.0]])
    batch: Any = SimpleNamespace(
        advantages=advantages, valid=torch.ones(1, 2, dtype=torch.bool), log_ratio=lambda log_probs: log_probs - old
    )
    gradients = {}
    for kind in (PPO, lesson.CISPO):
        algorithm = kind(env=lesson.TASK, seed=0)
        (gradients[kind.__name__],) = torch.autograd.grad(algorithm.policy_loss(new, batch).sum(), new)
        assert (algorithm.policy.value is None) == (kind is lesson.CISPO)
    assert gradients["PPO"].tolist() == [[0.0, 3.0]]
    assert gradients["CISPO"].flatten().tolist() == pytest.approx([-2.0, 3.0])
    with pytest.raises(TypeError, match="max_weigth"):
        lesson.CISPO(env=lesson.TASK, max_weigth=1.0)


def check_106(lesson: ModuleType, found: dict[str, float]) -> None:
    said = {" Sure, on Friday.": 1.0, " Sure.": 0.5, " No, I work on Friday.": 0.5, " Sure, Friday or Sunday.": 0.5}
    for text, gold in {**said, " No.": 0.0}.items():
        assert lesson.keeps_appointment("", text, {"day": "Friday"}) == gold
    train, test = (gym.make(lesson.ID, split=split).unwrapped.mdp.prompts for split in ("train", "test"))
    assert (len(train), len(test)) == (4 * 5 * 2 * 7, 2 * 2 * 2 * 7)
    assert found["after"] > found["before"] + 0.1


def check_107(_: ModuleType, found: dict[str, float]) -> None:
    assert list(found) == ["sb3 PPO", "sb3 A2C", "textgym PPO"]
    assert all(0.15 < score <= 1 for score in found.values())


def check_108(_: ModuleType, found: dict[str, float]) -> None:
    model = textgym.load_task("textgym/Reviews-v0").base_model
    sizes = AutoConfig.from_pretrained(model)
    # Rank 8 beside the four maps of a GPT-2 block of width d: 8·((d + 3d) + (d + d) + (d + 4d) + (4d + d)).
    assert found["trained"] == sizes.n_layer * 8 * 16 * sizes.n_embd
    assert 0 < found["difference"] < 1e-3
    # The weights below the adapters are the base model's, bit for bit.
    base = load_file(Path(model) / "model.safetensors")
    kept = load_file("runs/108/policy/base/model.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in base.items())


def check_109(_: ModuleType, found: dict[str, dict[str, float]]) -> None:
    for row in found.values():
        assert row["regret"] == pytest.approx(row["divergence"], abs=1e-6)
    assert found["at the start"]["score"] == pytest.approx(0, abs=1e-6)
    assert found["after training"]["score"] > 0.5
    assert found["at the start"]["objective"] == pytest.approx(0.02, abs=1e-4)  # as docs/diagnostic.md has it


def check_110(_: ModuleType, found: dict[str, Any]) -> None:
    assert found["best"].value == pytest.approx(guessing_optimum(frozenset(range(1, 9)), 4), abs=1e-5)
    assert 0.3 < found["value"].score <= 1
    assert found["first"]["optimum"][[3, 4]] == pytest.approx(0.284, abs=5e-4)


def guessing_optimum(possible: frozenset[int], guesses: int, beta: float = 0.02) -> float:
    """Return the value of the guessing game of lesson 110, from its rules alone."""
    if not guesses:
        return 0.0
    values = []
    for guess in range(1, 9):
        value = (guess in possible) / len(possible)
        for part in ({n for n in possible if n < guess}, {n for n in possible if n > guess}):
            if part:
                value += len(part) / len(possible) * (guessing_optimum(frozenset(part), guesses - 1) - 0.1)
        values.append(value)
    return float(beta * np.log(np.mean(np.exp(np.array(values) / beta))))


def check_credit(lesson: ModuleType, found: dict[int, dict[str, list[float]]]) -> None:
    assert found[20]["PPO"][0] > 0.8
    assert found[20]["NaivePPO"][0] < 0
    # The first word's share of a reward that the second one is paid, with a critic of zeros: λ, and λ once a column.
    own = np.zeros((1, 22), bool)
    own[0, [0, 21]] = True
    episodes: Any = SimpleNamespace(own=own, attention_mask=np.ones((1, 23)), prompt_length=1, truncated=None)
    scored: Any = SimpleNamespace(
        episodes=episodes, shaped=np.float32([[0] * 21 + [1]]), values=np.zeros((1, 23), np.float32)
    )
    share = {}
    for kind in (PPO, lesson.NaivePPO):
        returns = kind(env=lesson.TASK, seed=0).estimate_advantages(scored).returns
        assert returns[~own].tolist() == [0] * 20
        share[kind.__name__] = returns[0, 0] / returns[0, 21]
    assert share == pytest.approx({"PPO": 0.95, "NaivePPO": 0.95**21})


CHECKS: dict[str, Callable[[ModuleType, Any], None]] = {
    name.removeprefix("check_"): check for name, check in dict(globals()).items() if name.startswith("check_")
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_runs_and_shows_what_it_says(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # whatever is written, is written below the folder that it is started in
    lesson = load(path, monkeypatch)
    number = path.stem.partition("_")[0]
    for name, value in SHORT.get(number, {}).items():
        assert hasattr(lesson, name), f"{path.name} has no constant {name}"
        monkeypatch.setattr(lesson, name, value)
    found = lesson.main()
    assert len(capsys.readouterr().out.splitlines()) >= 3
    written = [each.relative_to(tmp_path).parts[:2] for each in tmp_path.rglob("*") if each.is_file()]
    assert set(written) <= {("runs", number)}
    if number in CHECKS:
        CHECKS[number](lesson, found)


def test_lora_takes_a_model_of_ones_own(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Llama whose tokenizer has no PAD, as lesson 108 would take it from the hub."""
    monkeypatch.chdir(tmp_path)
    (path,) = FOLDER.glob("108_*.py")
    lesson = load(path, monkeypatch)
    for name, value in {"TOTAL_TIMESTEPS": 1_000, "EVALUATION_EPISODES": 16}.items():
        monkeypatch.setattr(lesson, name, value)
    found = lesson.main(assets / "models" / "stories260K")
    assert found["total"] > 250_000
    assert found["difference"] < 1e-3


# --- how they are written --------------------------------------------------------------------------------------------


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_docstring_begins_with_a_title(path: Path) -> None:
    title, blank, *text = docstring(path).splitlines()
    assert re.fullmatch(r"[A-Z].{5,78}", title)
    assert blank == ""
    assert len(text) > 5


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_its_page_shows_the_output_and_leads_on(path: Path) -> None:
    page = docstring(path)
    assert f"python examples/{path.name}" in page
    outputs = re.findall(r"```text\n(.*?)\n```", page, re.DOTALL)
    assert outputs
    assert all(len(output.splitlines()) >= 3 for output in outputs)
    assert all((FOLDER / target).is_file() for target in re.findall(r"\]\((\S+?\.py)\)", page))
    assert re.search(r"\bNext:\s", page)


def test_lessons_are_numbered_without_gaps() -> None:
    numbers = [int(path.name[:3]) for path in LESSONS]
    assert numbers == list(range(101, 101 + len(numbers)))
    assert all(re.fullmatch(r"\d{3}_[a-z0-9_]+\.py", path.name) for path in LESSONS)


def imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Modules of the package, with each name that is imported from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "textgym":
            yield from ((str(node.module), alias.name) for alias in node.names)
        if isinstance(node, ast.Import):
            deep = [alias.name for alias in node.names if alias.name.startswith("textgym.")]
            assert not deep, f"import {deep[0]}: import the names that are used"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_uses_public_names_from_where_they_are_public(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    for module, name in imported(tree):
        assert not any(part.startswith("_") for part in (*module.split("."), name))
        parents = module.split(".")[:-1]
        while parents:
            package = importlib.import_module(".".join(parents))
            assert not hasattr(package, name), f"{name} is public in {package.__name__}, imported from {module}"
            parents.pop()
    private = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
    }
    assert private == set()


def test_constants_of_size_are_where_they_are_expected() -> None:
    """A lesson without a short form would run in full with every test."""
    assert {path.name[:3] for path in LESSONS} == set(SHORT) == set(CHECKS)
    assert np.all([check.__name__ == f"check_{number}" for number, check in CHECKS.items()])
