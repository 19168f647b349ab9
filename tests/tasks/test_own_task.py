"""Tasks of one's own: registered ids, JSON Lines files, and the listings of docs/tasks.md."""

from __future__ import annotations

import functools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import textgym
from tests.helpers import save_byte_model, tiny_gpt2, word_tokenizer
from textgym import cli, registration
from textgym.agents.ppo import PPO
from textgym.prompts import encode_prompts
from textgym.registration import load_task, register_task
from textgym.tasks.jsonl import jsonl_task
from textgym.tasks.task import Task, per_text

ID = "acme/Jokes-v0"
GUIDE = Path(__file__).parents[2] / "docs" / "tasks.md"
EXTRAS = {"textgym/ReasoningGym-v0": "reasoning_gym", "textgym/TextArena-v0": "textarena"}
"""Packages that a listing needs, by the id in it."""
EOS = 1


def zero(prompts: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(prompts)


def jokes(horizon: int = 4) -> Task:
    tokenizer = word_tokenizer()
    return Task(
        name="Jokes",
        description="Be funny.",
        tokenizer=tokenizer,
        splits={"train": encode_prompts(["w1", "w2"], tokenizer, 2)},
        gold=per_text(lambda _, text, __: float("w7" in text)),
        end_token_ids=(EOS,),
        max_prompt_length=2,
        max_new_tokens=horizon,
        base_model=lambda: tiny_gpt2(16),
    )


class Builder:
    def __init__(self, horizon: int = 4) -> None:
        self.horizon = horizon

    def build(self) -> Task:
        return jokes(self.horizon)


class JokesTask(Task):
    """A task that is its own maker."""

    def __init__(self, horizon: int = 4) -> None:
        super().__init__(**vars(jokes(horizon)))


@pytest.fixture(autouse=True)
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it, and so are the modules that it wrote."""
    monkeypatch.setattr(registration, "_own", {})
    ids, modules = set(gym.registry), set(sys.modules)
    yield
    for id in set(gym.registry) - ids:
        del gym.registry[id]
    for name in {"my_tasks", "openings"} & (set(sys.modules) - modules):
        del sys.modules[name]


# --- registered ids ----------------------------------------------------------------------------------------------


MAKERS = {"function": jokes, "builder": Builder, "class": JokesTask, "partial": functools.partial(jokes)}


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_every_way_in_understands_the_id_and_the_parameters(maker: Callable[..., Any]) -> None:
    textgym.register_task(ID, maker)
    env = gym.make(ID, horizon=3, split="train")
    assert env.spec is not None
    assert env.spec.id == ID
    assert env.observation_space["input_ids"].shape == (5,)  # type: ignore[index]
    assert gym.make_vec(ID, num_envs=2, horizon=3).observation_space["input_ids"].shape == (2, 5)  # type: ignore[index]
    assert load_task(ID).max_new_tokens == 4
    assert load_task(ID, horizon=3).name == "Jokes"
    env.reset(seed=0)
    env.step(9)
    assert env.step(EOS)[1:3] == (1.0, True)


def test_a_task_is_registered_as_it_is() -> None:
    task = jokes()
    register_task(ID, task)
    assert load_task(ID) is task
    assert gym.make(ID, max_new_tokens=2).unwrapped.mdp.max_new_tokens == 2  # type: ignore[attr-defined]


def test_an_algorithm_trains_on_it() -> None:
    register_task(ID, jokes)
    ppo = PPO(env=ID, episodes_per_iteration=4, minibatch_size=2, seed=0)
    assert ppo.learn(8).num_timesteps >= 8


def test_a_command_finds_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Two prompts, and one token of 16 in answer to each."""
    register_task(ID, jokes(1))
    cli.main(["optimum", "--task", f"textgym:{ID}", "--beta", "0.1"])
    assert f"textgym:{ID}: 32 responses to 2 prompts, beta 0.1" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        cli.main(["optimum", "--task", "acme/Joke-v0"])
    assert stopped.value.code == 2
    assert f"did you mean '{ID}'?" in capsys.readouterr().err


def test_importing_textgym_stays_light() -> None:
    program = (
        "import sys, textgym\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "print(textgym.register_task.__name__, textgym.jsonl_task.__name__, textgym.load_task('Emit').name)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stdout == "register_task jsonl_task Emit\n", result.stderr
    with pytest.raises(AttributeError, match="no attribute 'register'"):
        _ = textgym.register


def test_to_register_twice_is_harmless_unless_the_maker_is_another() -> None:
    register_task(ID, jokes)
    register_task(ID, jokes)
    again: dict[str, Any] = {"__name__": __name__}
    exec("def jokes():\n    return 'executed anew, as by a notebook or a reload'", again)
    register_task(ID, again["jokes"])
    with pytest.raises(TypeError, match="its maker returned str; expected a textgym"):
        load_task(ID)
    with pytest.raises(ValueError, match=rf"id='{ID}' already belongs to another task: got {__name__}.Builder.*jokes;"):
        register_task(ID, Builder)
    register_task("acme/One-v0", lambda: jokes(1))
    with pytest.raises(
        ValueError, match=r"or the next version\. To define it anew, use a function at the top of a module"
    ):
        register_task("acme/One-v0", lambda: jokes(2))
    with pytest.raises(ValueError, match=r"got the task Jokes, .*; choose another name, or the next version$"):
        register_task("acme/One-v0", jokes())


def reward_named(reward: str) -> Task:
    return jokes(len(reward))


@pytest.mark.parametrize(
    ("id", "maker", "error", "message"),
    [
        ("Jokes-v0", jokes, ValueError, "id='Jokes-v0'; expected 'namespace/Name-v0'.*such as 'acme/Jokes-v0'"),
        ("acme/Jokes", jokes, ValueError, "id='acme/Jokes'; expected"),
        ("mod:acme/Jokes-v0", jokes, ValueError, "expected 'namespace/Name-v0'"),
        ("textgym/Jokes-v0", jokes, ValueError, "a namespace of your own"),
        (7, jokes, ValueError, "id=7; expected"),
        (ID, "jokes", TypeError, "maker of 'acme/Jokes-v0' is 'jokes'; expected a textgym.tasks.task.Task, or a"),
        (ID, reward_named, ValueError, r"has the parameters \['reward'\], names of settings.*rename them"),
    ],
)
def test_what_cannot_be_registered_is_refused(id: Any, maker: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        register_task(id, maker)
    assert id not in gym.registry


def test_an_environment_that_is_no_task_keeps_its_id() -> None:
    gym.register(ID, "tests.test_env:make_case")
    with pytest.raises(ValueError, match="is already an environment that is not a task; choose another name"):
        register_task(ID, jokes)


def test_an_unknown_id_names_the_nearest_and_how_to_be_found() -> None:
    register_task(ID, jokes)
    with pytest.raises(ValueError, match=r"'acme/Joke-v0' is unknown; did you mean 'acme/Jokes-v0'\?.*register_task"):
        load_task("acme/Joke-v0")
    with pytest.raises(
        ValueError, match=r"task='no_module:acme/X-v0': cannot import the module 'no_module'.*PYTHONPATH"
    ):
        load_task("no_module:acme/X-v0")


# --- JSON Lines --------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    tiny_gpt2(16).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*rows: Any) -> Path:
        path = tmp_path / "jokes.jsonl"
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), "utf-8")
        return path

    return write


def numbered(n: int) -> list[dict[str, Any]]:
    return [{"prompt": f"w{i % 13} w{i // 13}", "reference": "w7", "row": i} for i in range(n)]


def from_file(path: Path, model: Path, **settings: Any) -> Task:
    return jsonl_task(path, gold=zero, model=model, description="Be funny.", **settings)


def rows_by_split(task: Task) -> dict[str, list[int]]:
    return {split: [prompt.columns["row"] for prompt in prompts] for split, prompts in task.splits.items()}


def test_a_file_is_a_task(write: Write, model: Path) -> None:
    task = from_file(write(*numbered(40)), model, max_new_tokens=5)
    assert (task.name, task.max_prompt_length, task.max_new_tokens, task.end_token_ids) == ("jokes", 2, 5, (EOS,))
    found = rows_by_split(task)
    assert {split: len(rows) for split, rows in found.items()} == {"train": 32, "validation": 4, "test": 4}
    assert sorted(row for rows in found.values() for row in rows) == list(range(40))
    assert task.prompts("test")[0].columns.keys() == {"reference", "row"}
    register_task(ID, task)
    with pytest.raises(ValueError, match=r"split='dev' is not one of \['test', 'train', 'validation'\]"):
        gym.make(ID, split="dev")


def test_the_split_follows_the_seed(write: Write, model: Path) -> None:
    path = write(*numbered(40))
    first, again, other = (rows_by_split(from_file(path, model, seed=seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert {len(rows) for rows in rows_by_split(from_file(write(*numbered(3)), model)).values()} == {1}


def test_the_files_own_split_is_kept(write: Write, model: Path) -> None:
    splits = ["test", "train", "train", "validation"]
    path = write(*({**row, "split": split} for row, split in zip(numbered(4), splits, strict=True)))
    assert rows_by_split(from_file(path, model)) == {"train": [1, 2], "validation": [3], "test": [0]}


def test_columns_reach_the_gold_reward(write: Write, model: Path) -> None:
    task = from_file(write(*numbered(8)), model)
    register_task(ID, replace(task, gold=per_text(lambda _, __, columns: columns["row"] / 10)))
    env = gym.make(ID)
    _, info = env.reset(seed=0)
    assert env.step(EOS)[1] == task.prompts()[info["prompt_index"]].columns["row"] / 10


FIRST = {"prompt": "w1", "reference": "w7"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([FIRST, "", {"reference": "w7"}], "line 3: no column 'prompt', which .*line 1 has; got .'reference'."),
        ([FIRST, {"prompt": "w2"}], "line 2: no column 'reference', which .*line 1 has"),
        ([FIRST, {**FIRST, "rating": 3}], "line 1: no column 'rating', which .*line 2 has"),
        ([{"text": "w1"}], r"line 1: no column 'prompt'; got \['text'\]"),
        (
            [FIRST, "", "", {"prompt": " ", "reference": "w7"}],
            "line 4: prompt is ' '; expected a text that is not empty",
        ),
        ([FIRST, {"prompt": "w2", "reference": ""}], "line 2: reference is ''; expected a text that is not empty"),
        ([FIRST, {"prompt": "w2", "reference": 3}], "line 2: reference is 3; expected a text"),
        ([FIRST, {"prompt": 3, "reference": "w7"}], "line 2: prompt is 3; expected a text or a conversation"),
        ([FIRST, "{"], "line 2: not JSON"),
        ([FIRST, FIRST], "line 2: the prompt of .*line 1 again, 'w1'; keep one of them"),
        ([FIRST, {"prompt": "w1 w2 w3", "reference": "w7"}], "line 2: the prompt has 3 tokens, max_prompt_length is 2"),
        ([{**FIRST, "split": "trian"}], "line 1: split is 'trian'; expected one of train, validation, test"),
        ([{**FIRST, "split": "test"}], "line 1: no line has the split 'train'"),
        ([{**FIRST, "split": "train"}, {**FIRST, "prompt": "w2"}], "line 2: no column 'split'"),
        ([{**FIRST, "finish_reason": 1}], "line 1: the column 'finish_reason' has the name of a reward argument"),
        ([FIRST, {**FIRST, "prompt": "w2"}], "jokes.jsonl has 2 prompts; expected at least 3"),
    ],
)
def test_a_faulty_line_is_named(rows: list[Any], message: str, write: Write, model: Path) -> None:
    path = write(*rows)
    with pytest.raises(ValueError, match=f"{re.escape(str(path.parent))}.*{message}"):
        from_file(path, model, max_prompt_length=2)


def test_a_missing_file_is_named(tmp_path: Path, model: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
        from_file(tmp_path / "none.jsonl", model)


# --- the guide ---------------------------------------------------------------------------------------------------


def test_the_guides_listings_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    save_byte_model(tmp_path / "models" / "mine")
    listings = re.findall(r"(?:Save as `([\w.]+)`:\s+)?```(\w+)\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert [language for _, language, _ in listings].count("python") == 6
    for name, language, text in listings:
        if name:
            Path(name).write_text(text, "utf-8")
        elif language == "python":
            exec(text, {"__name__": "guide"})
        else:
            program, *arguments = shlex.split(text.replace("\\\n", ""))
            assert program == "textgym"
            package = next((package for id, package in EXTRAS.items() if id in arguments), "textgym")
            if find_spec(package) is not None:
                cli.main(arguments)
    assert (tmp_path / "runs" / "topics" / "report.html").is_file()
