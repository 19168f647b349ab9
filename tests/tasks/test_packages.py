"""Tasks of other packages: questions of reasoning-gym, games of TextArena, and text environments of one's own."""

from __future__ import annotations

import json
import pickle
import random
import re
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from tests.helpers import byte_tokenizer, save_byte_model
from textgym import cli, registration
from textgym.env.single import TokenEnv
from textgym.registration import load_task, task_mdp
from textgym.rewards.builtin import no_reward
from textgym.tasks.task import Task
from textgym.testing import check_task
from textgym.worlds import Glue, random_move

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
RG, TA = "textgym/ReasoningGym-v0", "textgym/TextArena-v0"
SHORT = "--total-timesteps 60 --episodes-per-iteration 4 --minibatch-size 4 --eval-episodes 4"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_model(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_model(tmp_path_factory.mktemp("chat"), TEMPLATE)


@pytest.fixture
def reasoning_gym() -> Any:
    return pytest.importorskip("reasoning_gym", reason="the extra reasoning-gym is missing")


@pytest.fixture
def textarena() -> Any:
    return pytest.importorskip("textarena", reason="the extra textarena is missing")


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


# --- questions -------------------------------------------------------------------------------------------------


def sums(model: Path, **settings: Any) -> Task:
    return Task.from_reasoning_gym("chain_sum", **{"size": 40, "model": model, **settings})


def gold(task: Task, text: str, number: int = 0) -> float:
    prompt = task.prompts()[number]
    columns = {name: [value] for name, value in prompt.columns.items()}
    (score,) = task.gold([prompt.content], [text], completion_ids=[[1]], **columns)
    return score


def result(question: str) -> int:
    """Compute a sum by hand, as its question writes it."""
    signed = re.findall(r"([+-]?) ?(\d+)", question.partition(": ")[2])
    return sum(-int(number) if sign == "-" else int(number) for sign, number in signed)


@pytest.mark.usefixtures("reasoning_gym")
def test_the_verifier_judges_the_whole_completion(model: Path) -> None:
    task = sums(model)
    for number, prompt in enumerate(task.prompts()):
        right = result(str(prompt.content))
        assert prompt.columns["reference"] == str(right)
        assert gold(task, f" \n{right} ", number) == 1
        assert gold(task, f"{right + 1}", number) < 1
        assert gold(task, f"It is {right}.", number) == len(str(right)) / len(f"It is {right}.")  # a rule of its own
        assert gold(task, "", number) == 0


@pytest.mark.usefixtures("reasoning_gym")
def test_a_mark_precedes_the_answer(model: Path) -> None:
    task = sums(model, answer_after="Answer:")
    right = result(str(task.prompts()[0].content))
    assert gold(task, f"Not Answer: 5, but Answer: {right}") == 1
    assert gold(task, f"{right}") == 0
    assert task.prompts()[0].columns["reference"] == f"Answer: {right}"


@pytest.mark.usefixtures("reasoning_gym")
def test_no_question_is_in_two_splits_and_the_seed_decides_all(model: Path) -> None:
    few = {"min_terms": 2, "max_terms": 2, "max_digits": 1}  # 10 · 2 · 10 questions
    task, again, other = (sums(model, size=300, seed=seed, settings=few) for seed in (1, 1, 2))
    asked = [prompt.text for prompts in task.splits.values() for prompt in prompts]
    assert len(set(asked)) == len(asked) < 200
    assert set(task.splits) == {"train", "validation", "test"}
    assert task.splits == again.splits != other.splits
    assert result(asked[0]) in range(-9, 19)


def test_generating_questions_leaves_global_generators_alone(reasoning_gym: Any, model: Path) -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr] # noqa: NPY002
    sums(model)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index, union-attr] # noqa: NPY002


@pytest.mark.usefixtures("reasoning_gym")
def test_a_chat_model_is_asked_in_a_conversation(chat_model: Path) -> None:
    task = sums(chat_model)
    prompt = task.prompts()[0]
    assert [message["role"] for message in prompt.content] == ["user"]  # type: ignore[index]
    assert prompt.text == f"<user>{prompt.content[0]['content']}<end><assistant>"  # type: ignore[index]
    right = str(result(prompt.content[0]["content"]))  # type: ignore[index]
    columns = {name: [value] for name, value in prompt.columns.items()}
    assert task.gold(
        [prompt.content], [[{"role": "assistant", "content": right}]], completion_ids=[[1]], **columns
    ) == [1]


@pytest.mark.usefixtures("reasoning_gym")
def test_questions_pass_every_check_and_are_made_by_their_id(model: Path) -> None:
    settings = {"name": "chain_sum", "size": 10, "seed": 3, "model": model}
    check_task(RG, **settings)
    env = gym.make(RG, **settings, max_new_tokens=5)
    twin = pickle.loads(pickle.dumps(env.unwrapped))
    assert twin.mdp.prompts == env.unwrapped.mdp.prompts == load_task("ReasoningGym", **settings).prompts()  # type: ignore[attr-defined]
    envs = gym.make_vec(RG, num_envs=2, **settings)
    assert envs.single_action_space.n == len(byte_tokenizer()) + 2  # type: ignore[attr-defined]


@pytest.mark.usefixtures("reasoning_gym")
def test_questions_train_in_one_command(tmp_path: Path, model: Path) -> None:
    what = f"train --task {RG} --parameters name chain_sum size 20 --model {model} --max-new-tokens 5"
    cli.main([*what.split(), "--out", str(tmp_path / "run"), *SHORT.split()])
    assert (tmp_path / "run" / "report.html").is_file()
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert config["parameters"] == {"name": "chain_sum", "size": 20}


@pytest.mark.usefixtures("reasoning_gym")
def test_bad_questions_are_named(model: Path) -> None:
    with pytest.raises(
        ValueError, match=r"name='chain_sun' is no data set of reasoning-gym, .*did you mean 'chain_sum'"
    ):
        Task.from_reasoning_gym("chain_sun", model=model)
    with pytest.raises(ValueError, match=r"refuses the settings .*'min_terms': 0.* of 'chain_sum': min_terms must be"):
        sums(model, settings={"min_terms": 0})
    with pytest.raises(ValueError, match=r"refuses the settings .*terms"):
        sums(model, settings={"terms": 0})
    with pytest.raises(ValueError, match="size=0"):
        sums(model, size=0)
    with pytest.raises(ValueError, match=r"question \d+: the prompt has \d+ tokens, max_prompt_length is 3"):
        sums(model, max_prompt_length=3)


# --- environments ----------------------------------------------------------------------------------------------


class Say(gym.Env[str, str]):
    """Say the word that is shown: 1 for the right one, and a next word, up to three times."""

    observation_space = spaces.Text(99)
    action_space = spaces.Text(99)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.shown = [self.word()]
        return self.shown[-1], {}

    def word(self) -> str:
        return "abcdefgh"[self.np_random.integers(8)]

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        right = action == self.shown[-1]
        self.shown.append(self.word())
        return self.shown[-1], float(right), len(self.shown) == 4, False, {}


def say(model: Path, **settings: Any) -> Task:
    settings = {"size": 12, "name": "Say", "description": "Say it.", "max_new_tokens": 40, **settings}
    return Task.from_text_env(Say, model=model, **settings)


def test_prompts_are_first_observations(model: Path, chat_model: Path) -> None:
    for task in (say(model), say(chat_model)):
        prompts = [prompt for split in task.splits.values() for prompt in split]
        assert [len(split) for split in task.splits.values()] == [10, 1, 1]
        assert len({prompt.columns["env_seed"] for prompt in prompts}) == 12
        for prompt in prompts:
            observed = Say().reset(seed=prompt.columns["env_seed"])[0]
            is_chat = task.tokenizer.chat_template is not None
            assert prompt.content == ([{"role": "user", "content": observed}] if is_chat else observed)
        assert task.gold is no_reward
        assert task.end_token_ids == ()
        assert task.tokenizer.eos_token_id in task.turn_end_ids
    assert say(model, seed=1).splits != say(model).splits == say(model).splits


def test_an_episode_is_played_through_its_tokens(chat_model: Path) -> None:
    mdp = task_mdp(say(chat_model))
    env = TokenEnv(mdp)
    observation, info = env.reset(seed=0)
    rewards, asked = [], [mdp.prompts[info["prompt_index"]].content[0]["content"]]  # type: ignore[index]
    for turn in range(3):
        said = asked[-1] if turn != 1 else "z"
        for token in mdp.tokenizer.encode(f"{said}<end>", add_special_tokens=False):
            observation, reward, terminated, _, info = env.step(token)
            rewards.append(reward)
        text = mdp.tokenizer.decode(observation["input_ids"][observation["attention_mask"] > 0])
        asked.append(text.rpartition("<user>")[2][0])
    assert terminated
    assert rewards == [0, 1, 0, 0, 0, 1]
    assert info["finish_reason"] == "stop"
    assert info["components"] == {"world": 2}
    # The prompt and two replies were shown; the third ended the episode.
    assert text.count("<user>") == 3
    assert len(set(asked)) > 1


def test_environments_pass_every_check(model: Path, chat_model: Path) -> None:
    check_task(say(model))
    check_task(say(chat_model))


def test_environments_are_pickled_with_their_task(model: Path) -> None:
    mdp = task_mdp(say(model))
    twin = pickle.loads(pickle.dumps(mdp))
    assert (twin.prompts, twin.world, twin.glue) == (mdp.prompts, mdp.world, Glue("\n", "\n"))


class Falling(Say):
    """Fall over at the second action."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if len(self.shown) == 2:
            raise RuntimeError("it fell over")
        return super().step(action)


def test_a_fault_of_an_environment_ends_a_command_with_state_and_turn(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Task.from_text_env(Falling, 12, model=model, name="Fall", description="Fall.", max_turn_tokens=2)
    monkeypatch.setattr(registration, "_own", {"acme/Fall-v0": made})
    with pytest.raises(SystemExit, match="1"):
        cli.main(["train", "--task", "acme/Fall-v0", "--out", str(tmp_path / "run"), *SHORT.split()])
    said = capsys.readouterr().err
    assert "error: TextEnvWorld.reply raised RuntimeError: it fell over" in said
    assert "state: Played(env_seed=" in said
    assert 'raise RuntimeError("it fell over")' in said  # the user's own line


# --- games -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("textarena", "unrendered")
def test_a_game_trains_in_one_command(tmp_path: Path, model: Path) -> None:
    what = f"train --task {TA} --parameters game GuessTheNumber-v0 size 8 --model {model} --max-new-tokens 480"
    cli.main([*what.split(), "--out", str(tmp_path / "run"), *SHORT.split()])
    assert (tmp_path / "run" / "report.html").is_file()
    assert all(line["rollout/foreign_tokens"] > 0 for line in metrics(tmp_path / "run"))


@pytest.mark.usefixtures("textarena", "unrendered")
def test_a_small_real_model_plays_a_game(tmp_path: Path, assets: Path) -> None:
    model = assets / "models" / "stories260K"
    what = f"train --task {TA} --parameters game GuessTheNumber-v0 size 8 --model {model} --max-new-tokens 140"
    cli.main([*what.split(), "--out", str(tmp_path / "run"), *SHORT.split()])
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.usefixtures("textarena")
def test_games_are_made_by_their_id(model: Path) -> None:
    settings = {"game": "TicTacToe-v0", "players": 2, "size": 4, "model": model, "max_new_tokens": 400}
    check_task(TA, **settings)
    assert gym.make_vec(TA, num_envs=2, **settings).num_envs == 2
    task = load_task("TextArena", **settings)
    assert task.name == "TicTacToe"
    assert task.world.opponent is random_move  # type: ignore[union-attr]
    named = load_task(TA, **settings, opponent="textgym.worlds.text_env:random_move")
    assert named.world.opponent is random_move  # type: ignore[union-attr]
    assert pickle.loads(pickle.dumps(task_mdp(task))).world == task.world


@pytest.mark.usefixtures("textarena")
def test_bad_games_are_named(model: Path) -> None:
    with pytest.raises(ValueError, match=r"game='TicTacTo-v0' is no game of textarena, .*did you mean 'TicTacToe-v0'"):
        Task.from_textarena("TicTacTo-v0", model=model)
    with pytest.raises(ValueError, match=r"players=1: TicTacToe-v0 refuses it: .* has to be 2"):
        Task.from_textarena("TicTacToe-v0", model=model)
    with pytest.raises(ValueError, match="opponent 'nowhere:x': cannot import 'nowhere'"):
        Task.from_textarena("TicTacToe-v0", model=model, players=2, opponent="nowhere:x")


# --- parameters and packages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("id", "package"), [(RG, "reasoning_gym"), (TA, "textarena")])
def test_a_missing_package_is_named_with_its_extra(
    id: str, package: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    key = "name" if id == RG else "game"
    with pytest.raises(ImportError, match=rf"install textgym\[{package.replace('_', '-')}\]"):
        load_task(id, **{key: "chain_sum"}, model=model)


def test_missing_parameters_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    with pytest.raises(ValueError, match="needs the parameters name, model; got none"):
        load_task(RG)
    out, prompts = ["--out", str(tmp_path / "run")], tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Hello."}\n', encoding="utf-8")
    for given, said in {
        f"--task {RG}": "needs the parameters name, model",
        f"--task {RG} --model {model}": r"needs the parameters name; got \['model'\]",
        f"--task {RG} --parameters model {model}": "pass the model of a task as --model",
        "--task Emit --parameters nothing 5": "parameters={'nothing': 5}: .*nothing",
        f"--model {model} --prompts {prompts} --reward length --parameters size 5": "belong to a task; pass --task ID",
    }.items():
        with pytest.raises(SystemExit):
            cli.main(["train", *given.split(), *out])
        assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()
