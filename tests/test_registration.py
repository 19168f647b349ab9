"""From an id to an environment, with ``gym.make`` and ``gym.make_vec``."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import lru_cache

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import textgym  # noqa: F401 - registers the tasks
from tests.helpers import emit, word_tokenizer
from textgym import registration
from textgym.env import TokenEnv
from textgym.env.vector import TokenVectorEnv
from textgym.prompts import encode_prompts
from textgym.registration import load_task, named_rewards, task_mdp
from textgym.tasks import TASKS
from textgym.tasks.diagnostic.bandits import NoisyReward
from textgym.tasks.task import Proxy, Task

ID = "textgym/Reviews-v0"
W0, EOS = 2, 1


def one(completions, **_):
    return [1.0 for _ in completions]


@lru_cache(maxsize=1)
def toy() -> Task:
    tokenizer = word_tokenizer()
    return Task(
        name="Toy",
        description="Say w0.",
        tokenizer=tokenizer,
        splits={"train": encode_prompts(["w1", "w2"], tokenizer, 2), "test": encode_prompts(["w3 w3"], tokenizer, 2)},
        gold=emit(W0),
        end_token_ids=(EOS,),
        max_prompt_length=2,
        max_new_tokens=5,
    )


@pytest.fixture
def toy_id(monkeypatch):
    """A small task, registered as the shipped ones are: these tests are about the way there."""
    monkeypatch.setitem(TASKS, "Toy", "tests.test_registration:toy")
    spec = gym.spec(ID)
    gym.register(
        "textgym/Toy-v0",
        entry_point=spec.entry_point,
        vector_entry_point=spec.vector_entry_point,
        kwargs={"task": "Toy"},
    )
    yield "textgym/Toy-v0"
    del gym.registry["textgym/Toy-v0"]


def final_step(env: gym.Env, *actions: int):
    env.reset(seed=0)
    for action in actions:
        step = env.step(action)
    return step


# --- ids ---------------------------------------------------------------------------------------------------------


def test_importing_textgym_registers_every_task():
    assert {f"textgym/{name}-v0" for name in TASKS} <= set(gym.registry)
    assert ID in gym.registry


def test_a_task_is_made_and_played():
    env = gym.make(ID)
    observation, info = env.reset(seed=0)
    assert isinstance(env.unwrapped, TokenEnv)
    assert env.spec.id == ID
    assert observation["attention_mask"].sum() == len(env.unwrapped.mdp.prompts[info["prompt_index"]].ids)
    terminated = False
    while not terminated:
        _, reward, terminated, truncated, info = env.step(5)
    assert not truncated
    assert info["finish_reason"] == "length"
    assert set(info["components"]) == {"gold"}
    assert 0 <= reward <= 1


def test_the_module_prefix_imports_the_package_by_itself():
    program = (
        "import gymnasium as gym, sys\n"
        "assert 'textgym' not in sys.modules\n"
        f"env = gym.make('textgym:{ID}')\n"
        "env.reset(seed=0)\n"
        f"print(env.spec.id, gym.make('{ID}').action_space == env.action_space)\n"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (result.stdout, result.returncode) == (f"{ID} True\n", 0), result.stderr


def test_make_vec_takes_the_vector_environment(toy_id):
    env = gym.make_vec(toy_id, num_envs=3)
    assert isinstance(env, TokenVectorEnv)
    assert (env.num_envs, env.metadata["autoreset_mode"]) == (3, AutoresetMode.NEXT_STEP)
    assert env.spec.id == toy_id
    for mode in ("Disabled", AutoresetMode.SAME_STEP):
        made = gym.make_vec(toy_id, num_envs=2, autoreset_mode=mode, reward=one, max_new_tokens=3, render_mode="ansi")
        assert made.metadata["autoreset_mode"] is AutoresetMode(mode)
        assert made.render_mode == "ansi"
        assert made.mdp.max_new_tokens == 3
        assert made.mdp.rewards.names == ("one",)


def test_make_vec_can_still_build_a_vector_of_single_environments(toy_id):
    env = gym.make_vec(toy_id, num_envs=2, vectorization_mode="sync", reward=one)
    assert isinstance(env, SyncVectorEnv)
    env.reset(seed=0)
    assert env.step(np.array([EOS, W0]))[1].tolist() == [1.0, 0.0]


def test_gymnasium_names_the_nearest_id():
    with pytest.raises(gym.error.NameNotFound, match="Did you mean: `Reviews`"):
        gym.make("textgym/Revews-v0")


# --- tasks by name -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Toy", "Toy-v0", "textgym/Toy-v0", "textgym:textgym/Toy-v0"])
def test_a_task_goes_by_its_name_or_its_id(toy_id, name):
    assert load_task(name) is toy()


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(ValueError, match=r"task='Review' is unknown; did you mean 'Reviews'\? Known tasks: .*textgym/"):
        load_task("Review")
    with pytest.raises(ValueError, match=r"did you mean 'textgym/Reviews-v0'\?"):
        load_task("textgym/reviews-v0")
    with pytest.raises(ValueError, match="task='qqqqqqq' is unknown; Known tasks: "):
        load_task("qqqqqqq")


def test_an_unknown_split_names_those_there_are(toy_id):
    assert [p.text for p in gym.make(toy_id, split="test").unwrapped.mdp.prompts] == ["w3 w3"]
    with pytest.raises(ValueError, match=r"split='dev' is not one of \['test', 'train'\]"):
        gym.make(toy_id, split="dev")


def test_settings_replace_those_of_the_task(toy_id):
    env = gym.make(toy_id, max_new_tokens=2, stop=lambda ids: ids[-1] == 9, missing_end_score=-1.0)
    assert env.observation_space["input_ids"].shape == (4,)
    assert final_step(env, W0, W0)[1] == -1.0
    assert final_step(env, 9)[2]
    with pytest.raises(TypeError, match="max_tokens"):
        gym.make(toy_id, max_tokens=3)


# --- rewards in one line -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reward", "expected", "components"),
    [
        ("gold", 0.25, {"gold": 0.25}),
        (one, 1.0, {"one": 1.0}),
        ([(one, 2.0), "gold"], 2.25, {"one": 1.0, "gold": 0.25}),
        ([one, ("gold", 4.0)], 2.0, {"one": 1.0, "gold": 0.25}),
        ("length,0.1 gold", 0.55, {"length": 3.0, "gold": 0.25}),
        ("distinct", 2 / 3, {"distinct": 2 / 3}),
        ("tests.test_registration:one,3", 3.0, {"one": 1.0}),
    ],
)
def test_a_reward_is_swapped_in_one_line(toy_id, reward, expected, components):
    """The response is ``w0 w1 w1 <eos>``: one token of four is w0, three words, two of them different."""
    for env in (gym.make(toy_id, reward=reward), gym.make_vec(toy_id, vectorization_mode="sync", reward=reward)):
        batch = [np.array([i]) if isinstance(env, SyncVectorEnv) else i for i in (W0, 3, 3, EOS)]
        _, total, _, _, info = final_step(env, *batch)
        assert float(np.squeeze(total)) == pytest.approx(expected)
        plain = {k: float(np.squeeze(v)) for k, v in info["components"].items() if not k.startswith("_")}
        assert plain == pytest.approx(components)


def test_the_tasks_own_reward_is_the_default(toy_id):
    assert final_step(gym.make(toy_id), W0, EOS)[1] == 0.5
    assert task_mdp(toy()).rewards.weights == (1.0,)


def test_gold_and_proxies_go_by_name_and_are_logged_under_it():
    rewards = gym.make(ID, reward=["gold", ("good_words", 0.5)]).unwrapped.mdp.rewards
    assert (rewards.names, rewards.weights) == (("gold", "good_words"), (1.0, 0.5))
    prompt, hack = ['I watched "The Silent Harbor".'], [" It is never superb."]
    assert rewards.score(prompt, hack, [[1]], {}).components == {"gold": [0.0], "good_words": [1.0]}


def test_an_unknown_reward_names_the_known(toy_id):
    with pytest.raises(ValueError, match=r"unknown reward 'lenght': did you mean 'length'\?.*gold"):
        gym.make(toy_id, reward="lenght")


def test_entry_points_are_those_that_are_registered():
    spec = gym.spec(ID)
    for entry, function in (("entry_point", "make_env"), ("vector_entry_point", "make_vector_env")):
        module, name = getattr(spec, entry).split(":")
        assert (module, name) == (registration.__name__, function)
        assert callable(getattr(registration, name))


@pytest.mark.parametrize("name", ["foo", "textgym/Foo-v0", "acme/Foo-v0"])
def test_what_resembles_nothing_gets_no_suggestion(name):
    with pytest.raises(ValueError, match="is unknown") as caught:
        load_task(name)
    assert "did you mean" not in str(caught.value)


def test_an_unknown_setting_is_named_with_the_nearest_and_the_list():
    with pytest.raises(TypeError, match=r"no setting 'sigm'; did you mean 'sigma'\?; it has sigma, .*max_new_tokens"):
        gym.make("textgym/Noise-v0", sigm=2.0)
    with pytest.raises(TypeError, match="no setting 'max_tokens'; did you mean 'max_new_tokens'"):
        gym.make_vec("textgym/Noise-v0", num_envs=2, max_tokens=2)


def test_a_task_is_shown_in_one_line(monkeypatch):
    monkeypatch.setitem(TASKS, "Toy", "tests.test_registration:toy")
    assert repr(load_task("Toy")) == "Task('Toy', V=16, P=2, T=5, prompts={train: 2, test: 1})"


def test_a_reward_keeps_what_it_declares_under_its_name_in_a_task():
    noisy = NoisyReward(lambda ids, _: float(len(ids)), sigma=1.0)
    task = replace(load_task("Emit"), proxies={"rough": Proxy(noisy, "It is cheap.", lambda _: "a")})
    named = named_rewards(task)
    assert task_mdp(task, "rough").rewards.names == ("rough",)
    assert named["rough"].expected == noisy.expected
    assert not hasattr(named["gold"], "expected")
