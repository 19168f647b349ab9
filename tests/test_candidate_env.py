"""CandidateEnv: proposals against sampling by hand, the observation against plain passes, play, and the checkers."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from transformers import PreTrainedModel

import textgym.env.candidates
from tests.helpers import emit, next_logits, tiny_gpt2, tiny_llama, tiny_t5, word_mdp
from textgym.env import CandidateEnv, TokenEnv
from textgym.env.candidates import candidate_generator
from textgym.env.wrappers import ReferenceKL
from textgym.lm.sampling import Sampling
from textgym.types import Completion, Prompt
from textgym.worlds import Glue, KnownWorld, Outcome, Reply, turn_generator

EOS, W0, W1, STOP = 1, 2, 3, 15  # STOP is w13
GPT2, LLAMA = tiny_gpt2(seed=1), tiny_llama(seed=2)
TEXTS = ("a fact", "a joke", "a question")


class Counting(KnownWorld):
    """World that says w0 w1, pays 1 for each w1 of a turn, and ends after three turns."""

    def start(self, prompt: Prompt) -> int:
        return 0

    def outcomes(self, state: int, turn: Completion) -> list[Outcome]:
        return [(1.0, state + 1, Reply("w0 w1", float(turn.ids.count(W1)), state == 2))]


def talk(**settings: Any) -> TokenEnv:
    """Return a task of three turns of up to 4 tokens."""
    own: dict[str, Any] = {"world": Counting(), "turn_end_ids": (STOP,), "max_turn_tokens": 4, "glue": Glue()}
    return TokenEnv(word_mdp(emit(W0), **{"max_new_tokens": 20, **own, **settings}))


def chat(render_mode: str | None = None, **settings: Any) -> CandidateEnv:
    env = gym.make("textgym/Candidates-v0", menu=False, render_mode=render_mode)
    return CandidateEnv(env, **{"k": 2, **settings})


def tokens(env: CandidateEnv) -> list[int]:
    """Return the tokens of the conversation."""
    observation = env._conversation
    ids: list[int] = observation["input_ids"][observation["attention_mask"] == 1].tolist()
    return ids


def parts(env: CandidateEnv, observation: np.ndarray) -> np.ndarray:
    """Return the observation as ``[k+1, d]``."""
    assert env.observation_space.contains(observation)
    return observation.reshape(env.k + 1, -1)


# --- proposals -------------------------------------------------------------------------------------------------


def by_hand(
    model: PreTrainedModel,
    before: list[int],
    generator: np.random.Generator,
    most: int,
    ends: tuple[int, ...],
    least: int,
) -> tuple[int, ...]:
    """Sample an utterance with uncached passes, by inverting the cumulative distribution; no EOS before ``least``."""
    found: list[int] = []
    while len(found) < most and not set(found[-1:]) & set(ends):
        logits = next_logits(model, before, found).detach()
        logits[EOS] = -torch.inf if len(found) < least else logits[EOS]
        found.append(int(np.searchsorted(np.cumsum(logits.double().softmax(0).numpy()), generator.random())))
    return tuple(found)


@pytest.mark.parametrize("model", [GPT2, LLAMA])
@pytest.mark.parametrize("least", [0, 7])
def test_the_generator_samples_a_turn_with_each_candidates_own_numbers(model: PreTrainedModel, least: int) -> None:
    """The minimum length counts the policy's tokens of all turns."""
    env = CandidateEnv(talk(), 3, model, sampling=Sampling(min_new_tokens=least))
    turns, early = set(), []
    for episode in range(6):
        env.reset(seed=4, options={"episode": episode})
        seed = env.env.unwrapped.episode_seed  # type: ignore[attr-defined]
        turn, own, terminated = 0, 0, False
        while not terminated:
            generators = [candidate_generator(seed, turn, candidate) for candidate in range(3)]
            assert env._candidates == [
                by_hand(model, tokens(env), generator, 4, (EOS, STOP), least - own) for generator in generators
            ]
            early += [EOS in utterance for utterance in env._candidates if own + len(utterance) <= least]
            turns.add(turn)
            own += len(env._candidates[turn % 3])
            _, _, terminated, _, _ = env.step(turn % 3)
            turn += 1
    assert turns == {0, 1, 2}
    assert not any(early)


def test_a_response_without_a_world_is_one_candidate() -> None:
    env = CandidateEnv(TokenEnv(word_mdp(emit(W0))), 5, GPT2)
    env.reset(seed=1)
    seed = env.env.unwrapped.episode_seed  # type: ignore[attr-defined]
    found = [by_hand(GPT2, tokens(env), candidate_generator(seed, 0, one), 6, (EOS,), 0) for one in range(5)]
    assert env._candidates == found
    expected = found[3]
    _, reward, terminated, truncated, info = env.step(3)
    assert (terminated, truncated) == (True, False)
    assert reward == pytest.approx(expected.count(W0) / len(expected))
    assert "candidates" not in info


def test_candidates_do_not_depend_on_how_many_there_are() -> None:
    few, many = (CandidateEnv(talk(), k, GPT2) for k in (2, 5))
    infos = [[env.reset(seed=3)[1], env.step(1)[-1]] for env in (few, many)]
    for one, other in zip(*infos, strict=True):
        assert one["candidates"] == other["candidates"][:2]
        assert len(set(other["candidates"])) > 1


def test_utterances_of_a_list_are_drawn_evenly_and_apart_from_the_world() -> None:
    env = chat(utterances=TEXTS)
    counts = dict.fromkeys(TEXTS, 0)
    for episode in range(600):
        for text in env.reset(seed=0, options={"episode": episode})[1]["candidates"]:
            counts[text.strip()] += 1
    assert all(abs(count - 400) < 4 * (1200 * 2 / 9) ** 0.5 for count in counts.values())
    drawn = {candidate_generator(5, turn, c).random() for turn in range(20) for c in range(20)}
    assert len(drawn) == 400
    assert not drawn & {turn_generator(5, turn).random() for turn in range(400)}


def test_the_generators_sampling_is_as_asked() -> None:
    greedy = CandidateEnv(talk(), 3, GPT2, sampling=Sampling(top_k=1))
    greedy.reset(seed=0)
    before, found = tokens(greedy), []
    while len(found) < 4 and found[-1:] not in ([EOS], [STOP]):
        found.append(int(next_logits(GPT2, before, found).argmax()))
    assert greedy._candidates == [tuple(found)] * 3


def test_a_tasks_mask_holds_for_the_generator() -> None:
    allowed = np.isin(np.arange(16), [EOS, 5, 6, STOP])
    env = CandidateEnv(talk(allowed=lambda ids, _: np.tile(allowed, (len(ids), 1))), 6, GPT2)
    _, info = env.reset(seed=0)
    assert {token for utterance in env._candidates for token in utterance} <= {EOS, 5, 6, STOP}
    assert len(set(info["candidates"])) > 1
    env.step(0)


def test_utterances_are_cut_where_the_horizon_leaves_no_room() -> None:
    """Of 7 columns a turn takes 4 and the reply 2, so that 1 is left."""
    listed = CandidateEnv(talk(max_new_tokens=7), 2, GPT2, ["w1 w1 w1"])
    _, first = listed.reset(seed=0)
    *_, second = listed.step(0)
    assert (first["candidates"], second["candidates"]) == ([" w1 w1 w1"] * 2, [" w1"] * 2)
    *_, terminated, _, info = listed.step(0)
    assert (terminated, info["finish_reason"]) == (True, "length")
    written = CandidateEnv(talk(max_new_tokens=7, turn_end_ids=(), end_token_ids=()), 2, GPT2)
    written.reset(seed=0)
    written.step(0)
    assert [len(utterance) for utterance in written._candidates] == [1, 1]


# --- the observation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [GPT2, LLAMA])
def test_the_observation_is_of_states_of_the_model(model: PreTrainedModel) -> None:
    env = CandidateEnv(talk(), 3, model)
    observation, _ = env.reset(seed=2)
    for _ in range(3):
        before, expected = tokens(env), []
        for utterance in [(), *env._candidates]:
            with torch.no_grad():
                states = model.base_model(torch.tensor([[*before, *utterance]])).last_hidden_state[0].numpy()
            row = states[len(before) :].mean(0) if utterance else states[-1]
            expected.append(row / np.sqrt(np.mean(row**2)))
        assert parts(env, observation) == pytest.approx(np.stack(expected), abs=1e-5)
        observation, _, terminated, _, _ = env.step(1)
        if terminated:
            break
    assert not observation.any()


def test_permuting_the_candidates_permutes_their_parts_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    order = [2, 0, 1]

    def episode(actions: list[int]) -> tuple[list[np.ndarray], list[Any]]:
        env = CandidateEnv(talk(), 3, GPT2)
        observations, others = [parts(env, env.reset(seed=7)[0])], [env._candidates]
        for action in actions:
            observation, *rest, _ = env.step(action)
            observations.append(parts(env, observation))
            others.append((env._candidates, rest))
        return observations, others

    plain, others = episode([2, 1, 0])
    monkeypatch.setattr(
        textgym.env.candidates,
        "candidate_generator",
        lambda seed, turn, candidate: candidate_generator(seed, turn, order[candidate]),
    )
    permuted, permuted_others = episode([order.index(action) for action in (2, 1, 0)])
    assert len({tuple(row.round(3)) for rows in plain[:-1] for row in rows}) == 3 * 4  # nothing is alike by chance
    for before, after in zip(plain, permuted, strict=True):
        assert after == pytest.approx(before[[0, *(1 + i for i in order)]], abs=1e-5)
    assert permuted_others[0] == [others[0][i] for i in order]
    for (candidates, rest), (moved, rest_moved) in zip(others[1:], permuted_others[1:], strict=True):
        assert rest == rest_moved
        assert moved == ([candidates[i] for i in order] if candidates else [])


# --- play ------------------------------------------------------------------------------------------------------


def test_a_step_plays_a_whole_turn_up_to_the_reply() -> None:
    env = CandidateEnv(talk(), 2, utterances=["w1 w5 w1"], generator=GPT2)
    observation, info = env.reset(seed=0)
    assert info["candidates"] == [" w1 w5 w1"] * 2
    start, rewards = tokens(env), []
    for _ in range(3):
        observation, reward, terminated, truncated, info = env.step(np.int64(0))
        rewards.append(reward)
    turn, reply = [W1, 7, W1, STOP], [W0, W1]
    assert tokens(env) == [*start, *turn, *reply, *turn, *reply, *turn]
    assert rewards == [2, 2, 2 + 0]  # the task's own reward counts w0 among the policy's tokens
    assert (terminated, truncated, info["finish_reason"]) == (True, False, "stop")
    assert info["components"]["world"] == 6
    assert not observation.any()


def test_wrappers_inside_are_paid_and_those_outside_count_turns() -> None:
    beta = 0.5
    env = TimeLimit(CandidateEnv(ReferenceKL(talk(), GPT2, beta), 2, utterances=["w1 w5 w1"], generator=GPT2), 2)
    env.reset(seed=0)
    before, paid = tokens(env.env), 0.0
    turn = [W1, 7, W1, STOP]
    for place, token in enumerate(turn):
        paid += beta * next_logits(GPT2, before, turn[:place]).log_softmax(0)[token].item()
    _, reward, _, truncated, _ = env.step(0)
    assert reward == pytest.approx(2 + paid, abs=1e-4)
    assert not truncated
    observation, _, terminated, truncated, _ = env.step(0)
    assert (terminated, truncated) == (False, True)
    assert observation.any()  # a state in which the episode could go on


def test_a_seed_repeats_everything() -> None:
    runs = []
    for _ in range(2):
        env = CandidateEnv(talk(), 3, tiny_gpt2(seed=1))
        run: list[Any] = [*env.reset(seed=11)]
        terminated = False
        while not terminated:
            step = env.step(2)
            run += step
            terminated = step[2]
        runs.append(run)
    for one, other in zip(*runs, strict=True):
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


@pytest.mark.parametrize("settings", [{}, {"utterances": TEXTS}])
def test_both_checkers_are_content(settings: dict[str, Any]) -> None:
    def make(render_mode: str | None = None) -> CandidateEnv:
        return chat(render_mode, **settings)

    env = make()
    env.spec = EnvSpec("test/Chat-v0", entry_point=make, disable_env_checker=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env)
        check_env_sb3(env)
    assert [str(warning.message) for warning in caught] == []
    with pytest.warns(UserWarning, match="different from the unwrapped version"):  # as it can complain
        check_env(TimeLimit(env, 3), skip_render_check=True)


def test_rendering_shows_the_conversation() -> None:
    env = chat("ansi", utterances=["a joke"])
    env.reset(seed=0)
    env.step(0)
    assert "a joke" in env.render()
    env.close()


# --- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w1 w1 w1 w1", "has 5 tokens; expected one turn of 1 to 4 tokens"),
        ("w1 w13 w1", "'w1 w13 w1' has 4 tokens"),
        ("w1 w13", "'w1 w13' has 3 tokens"),
    ],
)
def test_an_utterance_is_exactly_one_turn(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CandidateEnv(talk(), 2, GPT2, ["w1", text])


def test_without_an_end_token_an_utterance_has_the_length_of_a_turn() -> None:
    env = talk(turn_end_ids=(), end_token_ids=())
    assert CandidateEnv(env, 2, GPT2, ["w1 w2 w3 w4"]).reset(seed=0)[1]["candidates"] == [" w1 w2 w3 w4"] * 2
    with pytest.raises(ValueError, match="has 2 tokens; expected one turn of exactly 4 tokens"):
        CandidateEnv(env, 2, GPT2, ["w1 w2"])
    with pytest.raises(ValueError, match="has 0 tokens"):
        CandidateEnv(env, 2, GPT2, [""])


def test_a_generator_must_fit() -> None:
    with pytest.raises(ValueError, match="no base model; pass generator=MODEL"):
        CandidateEnv(talk(), 2)
    with pytest.raises(ValueError, match="encoder–decoder; expected a causal language model for candidates"):
        CandidateEnv(talk(), 2, tiny_t5())
    with pytest.raises(ValueError, match="context"):
        CandidateEnv(talk(), 2, tiny_gpt2(positions=8))
    with pytest.raises(ValueError, match="k=0"):
        CandidateEnv(talk(), 0, GPT2)


def test_a_step_needs_an_episode_and_a_candidate() -> None:
    env = CandidateEnv(TokenEnv(word_mdp()), 2, GPT2)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(0)
    env.reset(seed=0)
    for action in (2, -1, 0.5, np.array([0]), None):
        with pytest.raises(ValueError, match="expected an integer from 0 to 1"):
            env.step(action)
    env.step(1)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(0)
