"""Worlds reply to turns: the contract, the glue of chat templates, and the environment that plays them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from tests.helpers import byte_tokenizer, word_tokenizer
from tests.talking import TURN_END, Chatter, Silent, count_even, talking_mdp
from textgym.env import TokenEnv, TokenVectorEnv
from textgym.rewards.builtin import no_reward
from textgym.rewards.compose import Named
from textgym.types import Completion, Prompt, before_last_turn, completion_text
from textgym.worlds import Glue, KnownWorld, Outcome, Reply, State, WorldError, template_glue, turn_generator

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# --- what stands in the observation ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scripted(KnownWorld):
    """Gives the listed replies in turn."""

    replies: tuple[Reply, ...]

    def start(self, prompt: Prompt) -> State:
        return 0

    def outcomes(self, state: State, turn: Completion) -> Sequence[Outcome]:
        return [(1.0, state + 1, self.replies[state])]


def play(env: TokenEnv, actions: Sequence[int], seed: int = 0) -> list[tuple[list[int], float, bool, dict[str, Any]]]:
    env.reset(seed=seed, options={"prompt_index": 1})
    steps = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        assert not truncated
        shown = observation["input_ids"][observation["attention_mask"] == 1]
        steps.append((shown.tolist(), reward, terminated, info))
    return steps


def test_a_reply_stands_behind_the_turn_with_its_glue_in_the_same_step():
    world = Scripted((Reply("w3 w4", 0.5), Reply((9,), -0.25), Reply("w5", 1.0, done=True)))
    steps = play(TokenEnv(talking_mdp(world)), [7, TURN_END, 7, 8, 7, 8, TURN_END])
    # The prompt is w2 (id 4). Glue is w10 (12) before and w11 (13) after; w3 w4 are 5 and 6.
    first = [4, 7, 15, 12, 5, 6, 13]
    second = [*first, 7, 8, 7, 8, 12, 9, 13]  # four tokens end a turn without its end token
    assert [shown for shown, *_ in steps] == [
        [4, 7],
        first,
        [*first, 7],
        [*first, 7, 8],
        [*first, 7, 8, 7],
        second,
        [*second, 15],  # the last reply ends the episode and is not written
    ]
    # Own tokens are 7 15 7 8 7 8 15: two of seven are even. The score is added to the last turn's reward.
    assert [reward for _, reward, *_ in steps] == pytest.approx([0, 0.5, 0, 0, 0, -0.25, 1.0 + 2 / 7])
    assert [terminated for *_, terminated, _ in steps] == [False] * 6 + [True]
    final = steps[-1][3]
    assert final["finish_reason"] == "stop"
    assert final["score"] == pytest.approx(0.5 - 0.25 + 1.0 + 2 / 7)
    assert final["components"] == pytest.approx({"world": 1.25, "count_even": 2 / 7})
    assert steps[1][3] == {"reply": "w3 w4", "turn": 1}


def test_the_reward_sees_the_conversation_once():
    calls: list[dict[str, Any]] = []

    def noted(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        calls.append({"prompts": prompts, "completions": completions, **columns})
        return [0.0]

    world = Scripted((Reply("w3 w4", 0.5), Reply("w5", 1.0, done=True)))
    play(TokenEnv(talking_mdp(world, noted)), [7, TURN_END, 8, TURN_END])
    (call,) = calls
    assert call["prompts"] == ["w2"]
    assert [[(m["role"], m["content"].strip()) for m in talk] for talk in call["completions"]] == [
        [("assistant", "w5"), ("user", "w3 w4"), ("assistant", "w6"), ("user", "w5")]
    ]
    assert call["completion_ids"] == [[7, 15, 8, 15]]
    assert call["response_ids"] == [[7, 15, 12, 5, 6, 13, 8, 15]]
    assert call["turn_rewards"] == [[0.5, 1.0]]
    assert call["prompt_ids"] == [[4]]


def test_an_unfinished_turn_ends_the_conversation():
    seen: list[Any] = []

    def noted(completions: list[Any], **_: Any) -> list[float]:
        seen.extend(completions)
        return [0.0]

    # <eos> hangs up in the second turn: the world is not asked about it.
    steps = play(TokenEnv(talking_mdp(Scripted((Reply("w3"),)), noted)), [TURN_END, 7, 1])
    assert steps[-1][3]["finish_reason"] == "stop"
    assert [(m["role"], m["content"].strip()) for m in seen[0]] == [
        ("assistant", ""),
        ("user", "w3"),
        ("assistant", "w5"),
    ]


def test_a_reply_that_leaves_no_column_ends_the_episode_and_its_reward_is_paid():
    # Turn of 2, glue and reply of 3: with T = 6 one column is left, with T = 5 none.
    world = Scripted((Reply("w3", 0.5), Reply("w3", 0.5)))
    fits = play(TokenEnv(talking_mdp(world, no_reward, max_new_tokens=6)), [7, TURN_END])
    ends = play(TokenEnv(talking_mdp(world, no_reward, max_new_tokens=5)), [7, TURN_END])
    assert fits[-1][:3] == ([4, 7, 15, 12, 5, 13], 0.5, False)
    assert ends[-1][:3] == ([4, 7, 15], 0.5, True)
    assert ends[-1][3]["finish_reason"] == "length"
    assert ends[-1][3]["conversation"][-1]["content"] == "w3"
    # A turn that ends in the last column is answered; one that the horizon cuts is not.
    last = play(TokenEnv(talking_mdp(world, no_reward, max_new_tokens=2)), [7, TURN_END])
    cut = play(TokenEnv(talking_mdp(world, no_reward, max_new_tokens=2)), [7, 7])
    assert (last[-1][1], cut[-1][1]) == (0.5, 0.0)
    assert (last[-1][3]["finish_reason"], cut[-1][3]["finish_reason"]) == ("length", "length")


def test_a_missing_end_is_paid_beside_the_turns_rewards():
    world = Scripted((Reply("w3", 0.5),))
    steps = play(TokenEnv(talking_mdp(world, max_new_tokens=5, missing_end_score=-1.0)), [7, TURN_END])
    assert steps[-1][1] == -0.5
    assert steps[-1][3]["score"] == -0.5
    assert steps[-1][3]["components"] == {"world": 0.5}


def test_what_the_world_pays_is_not_shown_beside_a_gold_of_0():
    world = Scripted((Reply("w3", 0.5, done=True),))
    for reward in (no_reward, Named(no_reward, "gold")):
        steps = play(TokenEnv(talking_mdp(world, reward)), [7, TURN_END])
        assert steps[-1][3]["components"] == {"world": 0.5}
        assert steps[-1][3]["score"] == 0.5


def test_a_dense_reward_has_one_number_for_each_own_token():
    def dense(completion_ids: list[list[int]], **_: Any) -> list[list[float]]:
        return [[float(i) for i in ids] for ids in completion_ids]

    env = TokenVectorEnv(talking_mdp(Scripted((Reply("w3 w4", 0.5), Reply("", 0.25, True))), dense), 1, "Disabled")
    env.reset(seed=0, options={"prompt_index": np.array([1])})
    for action in (7, TURN_END, 8, TURN_END):
        info = env.step(np.array([action]))[4]
    assert info["token_rewards"][0] == [7.0, 15.0, 8.0, 15.0]
    assert info["score"][0] == 7 + 15 + 8 + 15 + 0.75
    # 7 15 | w10 w3 w4 w11 | 8 15, with the turns' rewards on their last tokens.
    assert env.frame(0).rewards == (7.0, 15.5, 0.0, 0.0, 0.0, 0.0, 8.0, 15.25)
    assert env.frame(0).own == (True, True, False, False, False, False, True, True)


def test_a_stop_rule_sees_own_tokens_and_ends_the_response():
    seen: list[Any] = []

    def stop(ids: Sequence[int]) -> bool:
        seen.append(list(ids))
        return len(ids) == 3

    steps = play(TokenEnv(talking_mdp(Scripted((Reply("w3"),)), stop=stop)), [7, TURN_END, 8])
    assert seen == [[7], [7, 15], [7, 15, 8]]
    assert steps[-1][2]
    assert steps[-1][3]["finish_reason"] == "stop"


# --- vector, autoreset, randomness ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_the_vector_environment_equals_single_ones(mode: AutoresetMode):
    mdp = talking_mdp(Chatter(last=3))
    ours, theirs = TokenVectorEnv(mdp, 3, mode), SyncVectorEnv([lambda: TokenEnv(mdp)] * 3, autoreset_mode=mode)
    rng = np.random.default_rng(0)
    first, same = ours.reset(seed=5)[0], theirs.reset(seed=5)[0]
    for key in first:
        np.testing.assert_array_equal(first[key], same[key])
    ended = 0
    for _ in range(150):
        actions = rng.choice([1, 5, 6, 7, TURN_END], 3, p=[0.03, 0.3, 0.2, 0.2, 0.27])
        one, other = ours.step(actions), theirs.step(actions)
        for key in one[0]:
            np.testing.assert_array_equal(one[0][key], other[0][key])
        for mine, its in zip(one[1:4], other[1:4], strict=True):
            np.testing.assert_array_equal(mine, its)
        assert one[4].keys() == other[4].keys()
        ended += int(one[2].sum())
    assert ended > 10


def test_a_single_row_restarts_in_the_step_after_its_end():
    env = TokenVectorEnv(talking_mdp(), 1, AutoresetMode.NEXT_STEP)
    env.reset(seed=0)
    assert env.step(np.array([1]))[2][0]
    observation, reward, *_ = env.step(np.array([7]))  # no row is live: its action is ignored
    assert reward[0] == 0
    assert observation["attention_mask"][0, 4:].sum() == 0


def test_replies_are_keyed_by_seed_episode_and_turn():
    def responses(slots: int, order: Sequence[int]) -> dict[int, list[int]]:
        env = TokenVectorEnv(talking_mdp(), slots, "Disabled")
        env.reset(seed=3)
        found = {}
        for start in range(0, len(order), slots):
            part = np.resize(order[start : start + slots], slots)
            env.reset(options={"reset_mask": np.ones(slots, bool), "prompt_index": part % 4, "episode": part})
            for action in [7, TURN_END] * 2:
                env.step(np.full(slots, action))
            found |= {int(episode): env.response(row) for row, episode in enumerate(part)}
        return found

    one, many = responses(1, range(12)), responses(5, range(11, -1, -1))
    assert one == many
    assert len({tuple(ids) for ids in one.values()}) > 4  # and they differ between episodes


def test_turn_generators_are_those_of_their_seed_and_turn():
    first = [turn_generator(1, 0).random(), turn_generator(1, 1).random(), turn_generator(2, 0).random()]
    assert len(set(first)) == 3
    assert first == [turn_generator(1, 0).random(), turn_generator(1, 1).random(), turn_generator(2, 0).random()]


def test_replies_have_their_probabilities():
    world, n = Chatter(), 4000
    states = world.begin([Prompt("w0", "w0", (2,))] * n, list(range(n)))
    said = [reply.says for _, reply in world.reply(states, [Completion("", (15,), "stop")] * n)]
    for text, chance in (("w1", 0.5), ("w2 w3", 0.3), ("w4 w5 w6 w7 w8", 0.2)):
        assert abs(said.count(text) / n - chance) < 4 * np.sqrt(chance * (1 - chance) / n)


@pytest.mark.filterwarnings("error")
def test_the_checkers_of_gymnasium_and_stable_baselines3_are_content():
    def make(render_mode: str | None = None) -> TokenEnv:
        return TokenEnv(talking_mdp(), render_mode)

    env = make()
    env.spec = gym.envs.registration.EnvSpec("t/T-v0", entry_point=make, disable_env_checker=True)
    check_env(env)
    check_env_sb3(make())


def test_a_world_reaches_worker_processes():
    mdp = talking_mdp(Chatter(last=2), lambda completions, **_: [1.0] * len(completions))
    venv = AsyncVectorEnv([lambda: TokenEnv(mdp)] * 2, context="spawn")
    try:
        venv.reset(seed=0)
        for action in (TURN_END, TURN_END):
            rewards, terminated = venv.step(np.full(2, action))[1:3]
    finally:
        venv.close()
    assert rewards.tolist() == [1.0, 1.0]
    assert terminated.all()


def test_an_episode_can_be_forked_from_its_state():
    world = Chatter()
    (state,) = world.begin([Prompt("w0", "w0", (2,))], [7])
    turn = Completion("w1", (3, 15), "stop")
    (after, first), (again, second) = world.reply([state], [turn])[0], world.reply([state], [turn])[0]
    assert (after, first) == (again, second)


# --- pictures -----------------------------------------------------------------------------------------------------


def test_own_and_foreign_tokens_look_different():
    env = TokenEnv(talking_mdp(Scripted((Reply("w3", 0.5),) * 4)), "ansi")
    play(env, [7, TURN_END])
    text = env.render()
    assert "\x1b[2;3m w3\x1b[0m" in text  # dim and in italics
    assert "\x1b[2;3m w5" not in text  # the policy's own word
    assert "own + other 2 + 3 / 24" in text
    picture = TokenEnv(talking_mdp(Scripted((Reply("w3", 0.5),) * 4)), "rgb_array")
    play(picture, [7, TURN_END])
    with_both = picture.render()
    frame = picture.unwrapped._row.frame(0)
    from textgym.env.rendering import rgb_array

    assert (rgb_array(replace(frame, own=(True,) * 5)) != with_both).any()


# --- bad worlds ---------------------------------------------------------------------------------------------------


class Answering:
    """World whose ``reply`` is given."""

    def __init__(self, reply: Any) -> None:
        self._reply = reply

    def begin(self, prompts: list[Prompt], seeds: list[int]) -> list[State]:
        return [f"state of {prompt.text}" for prompt in prompts]

    def reply(self, states: list[State], turns: list[Completion]) -> list[tuple[State, Reply]]:
        return self._reply(states, turns)


def fails(states: list[State], turns: list[Completion]) -> Any:
    for state, turn in zip(states, turns, strict=True):
        if "w5" in turn.text:
            raise KeyError(f"no answer in {state}")
    return [("", Reply("w3"))] * len(turns)


# ruff: noqa: ARG005
@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            lambda s, t: [(s[0], Reply("w3"))] * (len(t) + 1),
            "returned 3 pairs of state and reply; expected a list of 2",
        ),
        (lambda s, t: None, "returned None pairs of state and reply; expected a list of 2"),
        (lambda s, t: [Reply("w3")] * len(t), r"expected pairs \(state, Reply\)"),
        (lambda s, t: [("", "w3")] * len(t), r"returned 'w3'; expected a Reply\(says, reward, done\)"),
        (lambda s, t: [("", Reply("w3", float("nan")))] * len(t), "returned reward=nan; expected a finite number"),
        (lambda s, t: [("", Reply("w3", None))] * len(t), "returned reward=None; expected a finite number"),
        (lambda s, t: [("", Reply((3, 16)))] * len(t), "says the token 16, which lies outside the 16 tokens"),
        (lambda s, t: [("", Reply((3, -1)))] * len(t), "says the token -1, which lies outside"),
        (lambda s, t: [("", Reply(7))] * len(t), "says 7; expected a text or a tuple of token ids"),
        (fails, r"(?s)raised KeyError: 'no answer in state of w2'\nstate: 'state of w2'\nturn: ' w5'"),
    ],
)
def test_a_bad_reply_is_named_with_state_and_turn(reply: Any, message: str):
    env = TokenVectorEnv(talking_mdp(Answering(reply)), 2, "Disabled")
    env.reset(seed=0, options={"prompt_index": np.array([0, 1])})
    env.step(np.array([8, 7]))
    with pytest.raises(WorldError, match=message):
        env.step(np.full(2, TURN_END))


@pytest.mark.parametrize("chances", [(0.5, 0.4), (1.2, -0.2), (0.5, float("nan")), (0.5, None)])
def test_probabilities_must_sum_to_1(chances: tuple[Any, Any]):
    class Wrong(Silent):
        def outcomes(self, state: State, turn: Completion) -> Sequence[Outcome]:
            return [(chance, 1, Reply("w3")) for chance in chances]

    with pytest.raises(WorldError, match="expected numbers from 0 that sum to 1\nstate: 0\nturn: ' w5'"):
        play(TokenEnv(talking_mdp(Wrong())), [7, TURN_END])


def test_a_world_that_cannot_begin_is_named_with_its_prompt():
    class Unwilling(Silent):
        def start(self, prompt: Prompt) -> State:
            raise LookupError("no game today")

    with pytest.raises(WorldError, match=r"Unwilling.begin raised LookupError: no game today on prompt 'w2'"):
        play(TokenEnv(talking_mdp(Unwilling())), [7])


@dataclass(frozen=True)
class Moody(Silent):
    """Fails to begin after one prompt, and to answer one word."""

    def start(self, prompt: Prompt) -> State:
        if prompt.text == "w2":
            raise LookupError("no game")
        return 0

    def outcomes(self, state: State, turn: Completion) -> Sequence[Outcome]:
        if turn.text.strip() == "w5":
            raise LookupError("no answer")
        return super().outcomes(state, turn)


def test_after_an_error_of_the_world_the_environment_waits_for_a_reset():
    env = TokenVectorEnv(talking_mdp(Moody()), 2, AutoresetMode.DISABLED)
    with pytest.raises(WorldError, match="no game"):
        env.reset(seed=0, options={"prompt_index": np.array([1, 1])})
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.array([7, 7]))
    env.reset(seed=0, options={"prompt_index": np.array([0, 0])})
    env.step(np.array([7, 8]))
    with pytest.raises(WorldError, match="no answer"):
        env.step(np.array([TURN_END, 8]))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.array([8, 8]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"turn_end_ids": (), "max_turn_tokens": None}, "turn_end_ids is empty and max_turn_tokens is None"),
        ({"turn_end_ids": (1,)}, r"turn_end_ids and end_token_ids both hold \[1\]"),
        ({"turn_end_ids": (16,)}, r"turn_end_ids=\[16\] lie outside the 16 actions"),
        ({"max_turn_tokens": 0}, "max_turn_tokens=0; expected a whole number"),
        ({"glue": Glue((99,), ())}, r"glue.before holds ids \[99\], the vocabulary has 16 tokens"),
        ({"glue": None}, r"the tokenizer has no chat template; pass glue=Glue\(before, after\)"),
    ],
)
def test_bad_settings_of_turns_fail_before_any_episode(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        talking_mdp(**changes)


def test_a_reward_must_not_have_the_name_of_the_worlds():
    def world(completions: list[Any], **_: Any) -> list[float]:
        return [0.0] * len(completions)

    with pytest.raises(ValueError, match="a reward is called 'world'"):
        talking_mdp(reward=world)


def test_settings_of_turns_need_a_world():
    with pytest.raises(ValueError, match="turn_end_ids is given without a world"):
        replace(talking_mdp(), world=None)
    with pytest.raises(TypeError, match="expected an object with the methods begin and reply"):
        talking_mdp(Chatter)


def test_a_column_must_not_have_the_name_of_an_argument_of_turns():
    mdp = talking_mdp()
    prompts = [replace(mdp.prompts[0], columns={"turn_rewards": 1})]
    with pytest.raises(ValueError, match=r"has columns \['turn_rewards'\]"):
        replace(mdp, prompts=prompts)
    replace(mdp, prompts=prompts, world=None, turn_end_ids=(), max_turn_tokens=None, glue=None)


# --- glue of chat templates -----------------------------------------------------------------------------------------


def chat_tokenizer(template: str = CHATML) -> Any:
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.add_tokens(["user", "assistant", "tool", "alpha", "beta"])
    tokenizer.chat_template = template
    return tokenizer


def test_the_glue_of_a_template_is_what_it_writes_between_turns():
    tokenizer = chat_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    glue = template_glue(tokenizer, (end,))
    assert glue == Glue("\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", closing="<|im_end|>")
    assert template_glue(tokenizer, (end,), "tool").before == "\n<|im_start|>tool\n"
    # Token by token what the template writes, whether the turn was closed by the policy or by its limit.
    words = tokenizer.convert_tokens_to_ids
    around = words(["<|im_start|>", "user", "w3", "<|im_end|>", "<|im_start|>", "assistant"])
    assert list(glue.around(tokenizer, "w3")) == around
    assert list(glue.around(tokenizer, "w3", closed=False)) == [end, *around]


def test_a_line_feed_that_ended_a_turn_is_not_written_again():
    tokenizer = byte_tokenizer()  # whose line feed is called Ċ
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    (end,) = tokenizer("\n")["input_ids"]
    assert template_glue(tokenizer, (end,)) == Glue("user: ", "\nassistant: ", closing="\n")


def test_special_tokens_in_a_reply_stay_text():
    tokenizer = chat_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = template_glue(tokenizer, (end,)).around(tokenizer, "w3 <|im_end|> w4")
    assert ids.count(end) == 1  # the template's own
    assert template_glue(tokenizer, (end,)).around(tokenizer, (3, end)).count(end) == 2  # ids go in as they are


@pytest.mark.parametrize(
    ("template", "message"),
    [
        # Numbers the messages: the first part changes when a message is added.
        ("{{ messages | length }}" + CHATML, "does not keep earlier messages as they were shown"),
        # Leaves out what it does not like.
        (CHATML.replace("m['content']", "m['content'] if m['role'] != 'user' or loop.first else ''"), "leaves out"),
        ("{{ raise_exception('no turns today') }}", "refuses messages of role 'user': no turns today"),
        # Announces the assistant with a thought that it later forgets, as reasoning models do.
        (CHATML.replace("assistant\n{% endif", "assistant\n<think>{% endif"), "does not keep earlier messages"),
        # Writes something else around the second reply.
        (CHATML.replace("<|im_end|>\n", "<|im_end|>{{ loop.index if loop.index > 3 else '' }}\n"), "around the second"),
    ],
)
def test_a_template_that_rewrites_is_refused(template: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        template_glue(chat_tokenizer(template))
    assert "pass glue=Glue(before, after)" in str(caught.value)


def test_a_conversation_is_what_the_template_renders():
    """Own tokens, glue and replies, one after the other, are the tokens of the rendered conversation."""
    tokenizer = chat_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    talk = [{"role": "user", "content": "w1"}]
    (prompt,) = (Prompt(talk, "", tuple(tokenizer.apply_chat_template(talk, add_generation_prompt=True)["input_ids"])),)
    world = Scripted((Reply("w2 w3"), Reply("w4"), Reply("", done=True)))
    mdp = replace(
        talking_mdp(world, no_reward),
        tokenizer=tokenizer,
        prompts=[prompt],
        max_prompt_length=len(prompt.ids),
        turn_end_ids=(end,),
        max_turn_tokens=2,
        glue=None,
        max_new_tokens=40,
    )
    env = TokenEnv(mdp)
    env.reset(seed=0)
    for action in (7, end, 8, 9):  # the second turn is ended by its limit
        observation = env.step(action)[0]
    shown = observation["input_ids"][observation["attention_mask"] == 1].tolist()
    spoken = [("assistant", "w5"), ("user", "w2 w3"), ("assistant", "w6 w7"), ("user", "w4")]
    whole = [*talk, *({"role": role, "content": text} for role, text in spoken)]
    assert shown == tokenizer.apply_chat_template(whole, add_generation_prompt=True)["input_ids"]


# --- conversations as rewards see them -------------------------------------------------------------------------------


def test_text_of_a_conversation_is_the_assistants():
    talk = [
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
    ]
    assert completion_text(talk) == "a\nc"
    assert before_last_turn("p", "a") == ("p", "a")
    assert before_last_turn("p", talk[:1]) == ("p", "a")
    assert before_last_turn("p", talk) == ("p\na\nb\n", "c")
    start = [{"role": "user", "content": "p"}]
    assert before_last_turn(start, [*talk, {"role": "user", "content": "d"}]) == ([*start, *talk[:2]], "c")


def test_a_world_of_ones_own_makes_a_task_of_turns():
    """Given a world, a chat task has turns: the template's end of turn no longer ends the response."""
    from textgym.registration import task_mdp
    from textgym.tasks.task import Task

    tokenizer = chat_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    prompts = (Prompt([{"role": "user", "content": "w1"}], "", (3, 4)),)
    task = Task("T", "Talk.", tokenizer, {"train": prompts}, count_even, (1, end), 2, 24)
    assert task_mdp(task).world is None
    mdp = task_mdp(task, world=Chatter())
    assert (mdp.turn_end_ids, mdp.end_token_ids) == ((end,), (1,))
