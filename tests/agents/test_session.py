"""Acting: the right distribution, the right random numbers, whatever else happens in the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agents.replay import behaviour, prompt_and_response, session_for
from tests.helpers import tiny_bart, tiny_gpt2, tiny_llama, tiny_t5, word_mdp
from textgym.agents.loop.episodes import EpisodePlan, collect
from textgym.agents.loop.slots import AdmittingSlots
from textgym.agents.policy.lm_policy import Session, episode_uniforms
from textgym.env.mdp import TokenMDP
from textgym.env.vector import TokenVectorEnv
from textgym.lm.files.loading import load_causal_lm
from textgym.lm.sampling import Sampling

MDP = word_mdp(prompts=["w0 w1", "w2", "w3 w4 w5", "w6 w7 w8 w9"], max_new_tokens=9)
GPT2, LLAMA = tiny_gpt2(), tiny_llama()


def inverse(log_probs: torch.Tensor, uniform: float) -> int:
    cumulative = log_probs.double().exp().cumsum(0).numpy()
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))


def disabled(mdp: TokenMDP, n: int) -> TokenVectorEnv:
    return TokenVectorEnv(mdp, n, "Disabled")


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bart", "stories260K"])
def test_every_token_is_its_uniforms_in_an_uncached_pass(name, request):
    """Ragged prompts, early ends, partial admissions: 60 episodes in 4 slots that idle now and then."""
    if name == "stories260K":
        model = load_causal_lm(request.getfixturevalue("assets") / "models" / "stories260K")
    else:
        model = {"gpt2": GPT2, "llama": LLAMA, "t5": tiny_t5(), "bart": tiny_bart()}[name]
    sampling = Sampling(temperature=1.3, min_new_tokens=2)
    rng = np.random.default_rng(0)
    env, session = disabled(MDP, 4), session_for(model, MDP, 4, sampling, seed=5)
    playing, begun, checked = np.full(4, -1), 0, 0
    env.reset(seed=0)
    live = np.zeros(4, bool)
    while begun < 60 or live.any():
        vacant = np.flatnonzero(~live & (rng.random(4) < 0.7))[: 60 - begun]
        if len(vacant):
            playing[vacant] = np.arange(begun, begun := begun + len(vacant))
            options = {"reset_mask": np.isin(np.arange(4), vacant), "prompt_index": playing % 4, "episode": playing}
            observation, _ = env.reset(options=options)
            session.begin(vacant, playing[vacant])
            live[vacant] = True
        rows = np.flatnonzero(live)
        if len(rows) == 0:
            continue
        acted = session.act(observation, rows)
        for row in rows:
            seen = observation["attention_mask"][row].astype(bool)
            elapsed = int(seen[MDP.max_prompt_length :].sum())
            tokens = observation["input_ids"][row, seen].tolist()
            log_probs = behaviour(model, tokens, MDP, sampling, elapsed)
            uniform = episode_uniforms(5, int(playing[row]), MDP.max_new_tokens + 1)[elapsed]
            assert acted.actions[row] == inverse(log_probs, uniform)
            assert acted.log_probs[row] == pytest.approx(log_probs[acted.actions[row]].item(), abs=1e-5)
            checked += 1
        observation, _, terminated, _, _ = env.step(acted.actions)
        live &= ~terminated
    assert checked > 200


# --- one random stream per episode -------------------------------------------------------------------------------


def played(
    numbers: list[int], slots: int, seed: int = 0, model: Any = GPT2, on_step: Any = None
) -> dict[int, tuple[list[int], list[int]]]:
    """Prompt and response of each episode; an episode's prompt depends on its number alone."""
    env, episode = disabled(MDP, slots), np.array(numbers)
    env.reset(seed=0)
    session = session_for(model, MDP, slots, seed=seed)
    episodes = collect(AdmittingSlots(env), session, EpisodePlan(episode % 4, episode), on_step)
    assert episodes is not None
    return {number: prompt_and_response(episodes, i) for i, number in enumerate(numbers)}


ALONE = {number: played([number], 1)[number] for number in range(24)}


def test_an_episode_is_the_same_in_a_batch_of_16():
    assert played(list(range(24)), 16) == ALONE


@settings(max_examples=15, deadline=None)
@given(numbers=st.permutations(range(24)), slots=st.integers(1, 12))
def test_an_episode_is_the_same_in_any_order_and_number_of_slots(numbers, slots):
    assert played(numbers, slots) == ALONE


def test_an_episode_is_the_same_with_an_evaluation_in_between():
    def evaluate(*_: Any) -> bool:
        assert played([3, 1], 2)[3] == ALONE[3]
        torch.rand(3), np.random.rand(3)  # noqa: NPY002 - what another library may do
        return True

    assert played([0, 1, 2], 3, on_step=evaluate) == {i: ALONE[i] for i in range(3)}


def test_another_seed_is_another_stream():
    other = played(list(range(24)), 8, seed=1)
    assert sum(other[i] == ALONE[i] for i in range(24)) < 4  # one-token responses may agree


def test_no_global_generator_is_touched():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    played([0, 1, 2], 2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_uniforms_are_keyed_by_seed_and_episode():
    numbers = [*range(20), *range(2**63, 2**63 + 20)]
    firsts = {episode_uniforms(seed, number, 1)[0] for seed in (*range(10), 2**62, 2**62 + 1) for number in numbers}
    assert len(firsts) == 12 * 40
    assert episode_uniforms(3, 4, 10)[:5].tolist() == episode_uniforms(3, 4, 5).tolist()


# --- rows that nobody announced ----------------------------------------------------------------------------------


def observed(*rows: tuple[list[int], list[int]]) -> dict[str, np.ndarray]:
    """Return an observation of given prompts and responses."""
    p = MDP.max_prompt_length
    ids, mask = np.zeros((len(rows), MDP.width), np.int64), np.zeros((len(rows), MDP.width), np.int8)
    for row, (prompt, response) in enumerate(rows):
        ids[row, p - len(prompt) : p + len(response)] = [*prompt, *response]
        mask[row, p - len(prompt) : p + len(response)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def uniforms_of(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """Record what the session draws with."""
    drawn: list[list[float]] = []
    inner = session.streams.draw

    def recording(rows: np.ndarray, elapsed: np.ndarray) -> np.ndarray:
        uniforms = inner(rows, elapsed)
        drawn.append(uniforms.tolist())
        return uniforms

    monkeypatch.setattr(session.streams, "draw", recording)
    return drawn


def test_rows_are_numbered_as_they_begin(monkeypatch):
    """Asked twice for the same state, or for a shorter response, it plays another episode."""
    session = session_for(GPT2, MDP, 2)
    drawn = uniforms_of(session, monkeypatch)
    session.act(observed(([2], []), ([3], [])))
    session.act(observed(([2], [5]), ([3], [])))
    session.act(observed(([2], [5, 6]), ([3], [7])))
    session.act(observed(([2], [5]), ([3], [7, 8])))
    a, b, c, d = (episode_uniforms(0, 2**63 + i, 10).tolist() for i in range(4))
    assert drawn == [[a[0], b[0]], [a[1], c[0]], [a[2], c[1]], [d[1], c[2]]]


def test_what_a_wrapper_writes_does_not_change_the_stream(monkeypatch):
    """Another prompt, or a turn of several tokens, in the midst of an announced episode."""
    session = session_for(GPT2, MDP, 1)
    drawn = uniforms_of(session, monkeypatch)
    session.begin(np.array([0]), np.array([17]))
    for row in [([2], []), ([2, 3], [5]), ([2, 3], [5, 6, 7, 8])]:
        session.act(observed(row))
    expected = episode_uniforms(0, 17, 10)
    assert drawn == [[expected[0]], [expected[1]], [expected[4]]]


def test_new_weights_do_not_change_the_stream(monkeypatch):
    model = tiny_gpt2()
    session = session_for(model, MDP, 1)
    drawn = uniforms_of(session, monkeypatch)
    session.act(observed(([2], [])))
    model.load_state_dict(tiny_gpt2(seed=1).state_dict())
    session.act(observed(([2], [5])))
    assert drawn == [[u] for u in episode_uniforms(0, 2**63, 2)]


# --- what is chosen ----------------------------------------------------------------------------------------------


def test_deterministic_is_the_most_probable():
    observation = observed(([2, 3], []), ([4], [5, 6]))
    acted = session_for(LLAMA, MDP, 2).act(observation, deterministic=True)
    for row, tokens in enumerate([[2, 3], [4, 5, 6]]):
        log_probs = behaviour(LLAMA, tokens, MDP, Sampling(), 0)
        assert acted.actions[row] == log_probs.argmax()
        assert acted.log_probs[row] == pytest.approx(log_probs.max().item(), abs=1e-5)


def test_rows_that_are_not_asked_get_an_admitted_token_and_no_log_prob():
    masks = np.zeros((3, 16), bool)
    masks[:, 9:] = True
    acted = session_for(GPT2, MDP, 3).act(observed(*[([2], [])] * 3), np.array([1]), masks)
    assert acted.actions[[0, 2]].tolist() == [9, 9]
    assert acted.actions[1] >= 9
    assert acted.log_probs[[0, 2]].tolist() == [0, 0]


def test_no_row_asked_is_no_decision():
    acted = session_for(GPT2, MDP, 2).act(observed(([2], []), ([3], [])), np.arange(0))
    assert acted.actions.tolist() == [0, 0]
    assert acted.kept is None


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_diverged_model_is_named(deterministic):
    model = tiny_gpt2()
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="logits are NaN"):
        session_for(model, MDP, 1).act(observed(([2], [])), deterministic=deterministic)


def test_a_complete_response_may_be_asked_about():
    """A loop over all rows of an environment under DISABLED asks the idle ones, too."""
    full = [5] * MDP.max_new_tokens
    session = session_for(GPT2, MDP, 1)
    for _ in range(2):
        assert 0 <= session.act(observed(([2], full))).actions[0] < 16


def test_tokens_beyond_the_action_space_are_never_chosen():
    """The model embeds 40 tokens, the task has 16 actions."""
    wide = tiny_gpt2(vocabulary_size=40)
    session = session_for(wide, MDP, 64)
    actions = {int(a) for _ in range(8) for a in session.act(observed(*[([2], [])] * 64)).actions}
    assert max(actions) < 16
    assert len(actions) > 12


def test_task_masks_and_truncation_say_what_was_kept():
    masks = np.zeros((2, 16), bool)
    masks[0, [3, 5, 8]] = True
    masks[1, [2]] = True
    acted = session_for(GPT2, MDP, 2, Sampling(top_k=2)).act(observed(([2], []), ([3], [])), None, masks)
    assert acted.kept is not None
    assert set(acted.kept[0]) < {3, 5, 8}
    assert acted.kept[1].tolist() == [2, -1]
    assert acted.actions[0] in acted.kept[0]
    assert (acted.actions[1], acted.log_probs[1]) == (2, 0.0)
