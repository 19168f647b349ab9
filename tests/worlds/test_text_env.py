"""Text environments as worlds: two protocols, states that are values, and global generators that stay as they were."""

from __future__ import annotations

import itertools
import pickle
import random
import threading
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from textgym.types import Completion, Prompt
from textgym.worlds import Reply, WorldError, from_text_env
from textgym.worlds.text_env import Played, TextEnvWorld, random_move
from textgym.worlds.world import ask, begin_episodes

SEEDS = 5


class Dice(gym.Env[str, str]):
    """Bet on the next throw: a right bet pays 1. The bank's name comes from the environment's own generator."""

    observation_space = spaces.Text(99)
    action_space = spaces.Text(9)

    def __init__(self) -> None:
        self.lock = threading.Lock()  # which no copy survives
        self.thrown: list[int] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.thrown = []
        return f"Bank {self.np_random.integers(10**6)} waits.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if action == "fall":
            raise RuntimeError("the table fell over")
        self.thrown.append(random.randrange(100) * 100 + int(np.random.randint(100)))  # noqa: NPY002
        leaves = action == "leave"
        return f"{self.thrown}", float(action == str(self.thrown[-1])), leaves, len(self.thrown) == 4, {}


def turn(text: str) -> Completion:
    return Completion(text, (7,), "stop")


def prompt_of(world: TextEnvWorld, env_seed: int = 3, conversation: bool = False) -> Prompt:
    text = world.first_observation(env_seed)
    content = [{"role": "system", "content": "Play."}, {"role": "user", "content": text}] if conversation else text
    return Prompt(content, text, (1,), {"env_seed": env_seed})


def begun(world: TextEnvWorld, seed: int = 0, env_seed: int = 3) -> Played:
    (state,) = begin_episodes(world, [prompt_of(world, env_seed)], [seed])
    return state


def play(world: TextEnvWorld, state: Played, *texts: str) -> tuple[Played, list[Reply]]:
    replies = []
    for text in texts:
        ((state, reply),) = ask(world, [state], [turn(text)], 10)
        replies.append(reply)
    return state, replies


# --- Gymnasium's protocol --------------------------------------------------------------------------------------


def test_an_episode_is_what_the_environment_says_by_itself() -> None:
    world = from_text_env(Dice)
    env = Dice()
    assert world.first_observation(3) == env.reset(seed=3)[0] != world.first_observation(4)
    state, (first, second) = play(world, begun(world), " 1 \n", "leave")
    (thrown,) = eval(str(first.says))
    assert first == Reply(f"[{thrown}]", 0.0, False)
    # Played again with the right bet: one more stands in the state than the environment was told, no white space.
    _, (right,) = play(world, begun(world), str(thrown))
    assert right == Reply(f"[{thrown}]", 1.0, False)
    assert [action for action, _ in state.turns] == ["1", "leave"]
    assert second.done
    assert len(eval(str(second.says))) == 2


def test_a_truncation_ends_the_episode() -> None:
    world = from_text_env(Dice)
    _, replies = play(world, begun(world), *"abcd")
    assert [reply.done for reply in replies] == [False, False, False, True]


def test_a_conversation_asks_with_its_last_message() -> None:
    world = from_text_env(Dice)
    (state,) = begin_episodes(world, [prompt_of(world, conversation=True)], [0])
    assert state == begun(world)


def test_rows_do_not_depend_on_one_another() -> None:
    world = from_text_env(Dice)
    prompts = [prompt_of(world, env_seed) for env_seed in (3, 4)]
    states = begin_episodes(world, prompts, [0, 1])
    (_, one), (_, other) = ask(world, states, [turn("x"), turn("y")], 10)
    assert [one] == play(world, begun(world, 0, 3), "x")[1]
    assert [other] == play(world, begun(world, 1, 4), "y")[1]
    assert one != other


# --- states are values -----------------------------------------------------------------------------------------


def test_a_state_is_asked_again_and_its_forks_go_their_own_ways() -> None:
    world = from_text_env(Dice)
    state, _ = play(world, begun(world), "a", "b")
    before = pickle.dumps(state)
    end, said = play(world, state, "c", "leave")
    again, said_again = play(world, state, "c", "leave")
    other, said_other = play(world, state, "leave")
    assert (said, end) == (said_again, again)
    assert said_other != said[:1]
    assert other.turns[:2] == end.turns[:2] == state.turns
    assert pickle.dumps(state) == before


def test_a_state_survives_a_pickle_and_a_copy_although_the_environment_does_not() -> None:
    world = from_text_env(Dice)
    state, _ = play(world, begun(world), "a")
    (game,) = state.game
    with pytest.raises(TypeError, match="lock"):
        pickle.dumps(game)
    twin = pickle.loads(pickle.dumps(state))
    assert (twin, twin.game) == (state, [])
    assert play(world, twin, "b", "c") == play(world, state, "b", "c")


def test_the_newest_state_needs_no_new_environment() -> None:
    made = []

    def make() -> Dice:
        made.append(1)
        return Dice()

    world = from_text_env(make)
    state = begun(world)
    count = len(made)
    first, _ = play(world, state, "a", "b", "c")
    assert len(made) == count
    play(world, first, "leave")
    play(world, first, "leave")
    assert len(made) == count + 1


# --- seeds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["x", "fall"])
def test_global_generators_stay_as_they_were(action: str) -> None:
    world = from_text_env(Dice)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before, before_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    state = begun(world)
    try:
        play(world, state, action)
    except WorldError as error:
        assert action == "fall"
        assert "RuntimeError: the table fell over" in str(error)  # noqa: PT017
    assert random.getstate() == before
    for one, other in zip(np.random.get_state(), before_numpy, strict=True):  # noqa: NPY002
        np.testing.assert_array_equal(one, other)


def test_equal_seeds_give_equal_games_whatever_the_global_state() -> None:
    world = from_text_env(Dice)
    games = []
    for global_seed in (1, 2):
        random.seed(global_seed)
        np.random.seed(global_seed)  # noqa: NPY002
        games.append(play(world, begun(world, seed=9), *"abc")[1])
    assert games[0] == games[1]
    thrown = eval(str(games[0][-1].says))
    assert len({number // 100 for number in thrown}) > 1  # Python's numbers differ between turns
    assert len({number % 100 for number in thrown}) > 1  # and so do NumPy's
    assert play(world, begun(world, seed=10), *"abc")[1] != games[0]


def test_an_environment_that_ignores_its_seed_is_refused() -> None:
    class Ignoring(Dice):
        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
            return super().reset(seed=None)

    world = from_text_env(Ignoring)
    with pytest.raises(WorldError, match=r"begins with 'Bank \d+ waits\.' after a reset with seed 3"):
        begin_episodes(world, [prompt_of(world)], [0])


def test_an_environment_that_answers_differently_is_found_when_it_is_played_again() -> None:
    numbers = itertools.count()

    class Counting(Dice):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            return f"{next(numbers)}", 0.0, False, False, {}

    world = from_text_env(Counting)
    state, _ = play(world, begun(world), "a")
    play(world, state, "b")
    with pytest.raises(WorldError, match="answers equally whenever seed and actions are equal"):
        play(world, state, "b")


def test_bad_input_is_named() -> None:
    class Numbers(Dice):
        def step(self, action: str) -> Any:
            return 5, 0.0, False, False, {}

    world = from_text_env(Numbers)
    with pytest.raises(WorldError, match=r"TypeError: the environment shows 5; expected a text(.|\n)*turn: 'a'"):
        play(world, begun(world), "a")
    with pytest.raises(WorldError, match="column 'env_seed' of the prompt is None"):
        begin_episodes(world, [Prompt("Hello.", "Hello.", (1,))], [0])
    with pytest.raises(ValueError, match="players=2 with opponent=None"):
        from_text_env(Dice, players=2)
    with pytest.raises(ValueError, match="players=1 with opponent=<function random_move"):
        from_text_env(Dice, opponent=random_move)


# --- TextArena -------------------------------------------------------------------------------------------------


def arena(game: str) -> Callable[[], Any]:
    textarena = pytest.importorskip("textarena", reason="textarena is not installed; its extra is 'textarena'")
    return lambda: textarena.make(game)


def test_a_number_is_guessed_by_halving() -> None:
    world = from_text_env(arena("GuessTheNumber-v0"))
    secrets = set()
    for env_seed in range(SEEDS):
        low, high, state = 1, 20, begun(world, env_seed=env_seed)
        while True:
            guess = (low + high) // 2
            state, (reply,) = play(world, state, str(guess))  # the game's own wrapper adds the brackets
            if reply.done:
                break
            assert reply.reward == 0
            low, high = (guess + 1, high) if "higher" in str(reply.says) else (low, guess - 1)
        assert reply == Reply("Congratulations! You guessed the correct number.", 1.0, True)
        assert len(state.turns) <= 5  # 2^5 > 20
        secrets.add(guess)
        # Two invalid moves end the game, which pays by the distance of the last guess.
        wrong = 1 if guess > 1 else 20
        _, replies = play(world, begun(world, env_seed=env_seed), str(wrong), "nothing", "nothing")
        assert [reply.done for reply in replies] == [False, False, True]
        assert replies[-1].reward == pytest.approx(1 - abs(wrong - guess) / 19)
    assert len(secrets) > 1


def test_what_was_read_is_not_repeated() -> None:
    world = from_text_env(arena("GuessTheNumber-v0"))
    state, (reply,) = play(world, begun(world), "[1]")
    assert reply.says == "The target number is higher."
    assert state.observation.startswith("You are Player 0.")
    assert state.observation.endswith("Enter your guess.")


def test_an_opponent_plays_the_other_side() -> None:
    heard: list[str] = []

    def scripted(text: str) -> str:
        heard.append(text)
        return f"[{[3, 4, 5][text.count('Player 0: ') - 1]}]"  # the middle row, one cell after the other

    world = from_text_env(arena("TicTacToe-v0"), opponent=scripted, players=2)
    _, replies = play(world, begun(world), "[0]", "[1]", "[2]")  # the first row
    assert [(reply.reward, reply.done) for reply in replies] == [(0, False), (0, False), (1, True)]
    assert "Player 1: [3]" in str(replies[0].says)
    assert "Player 0: " not in str(replies[0].says)
    assert str(replies[2].says).endswith("Player 0 has won!")
    assert heard[1].startswith("You are Player 1 in Tic Tac Toe.")
    assert heard[1].startswith(heard[0])
    assert heard[1].count("Player 0: [1]") == 1
    _, replies = play(world, begun(world), "[0]", "[1]", "[8]")  # the opponent completes its row
    assert (replies[2].reward, replies[2].done) == (-1, True)


def test_a_random_opponent_follows_the_episodes_seed() -> None:
    world = from_text_env(arena("TicTacToe-v0"), opponent=random_move, players=2)
    games = [play(world, begun(world, seed), "[0]")[1][0].says for seed in (*range(SEEDS), 0)]
    assert games[0] == games[-1]
    assert len(set(games)) > 1
    assert all("Player 1 placed their symbol" in str(game) for game in games)


def test_a_random_move_is_one_of_the_last_list() -> None:
    assert random_move("For example [9].\nMoves: '[1]', '[2]'\nMoves: '[2]'\nYour turn.") == "[2]"
    assert {random_move("Moves: [up], [down left]") for _ in range(50)} == {"[up]", "[down left]"}
    assert random_move("Say something.") == ""
