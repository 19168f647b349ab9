"""All ways to respond give episodes of the task: the right tokens, scored as sampled ones are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.replay import prompt_and_response, replayed_log_probs
from tests.helpers import moved, tiny_gpt2, tiny_llama, tiny_t5, word_mdp
from tests.talking import Silent, talking_mdp
from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.decode import BestOf, Decoding, Greedy, Sampled, decode
from textgym.agents.loop.evaluation import play, visited_kl
from textgym.env.mdp import TokenMDP
from textgym.lm.beam import BeamSearch, beam_search
from textgym.lm.behaviour import NucleusMask
from textgym.lm.sampling import Sampling
from textgym.rewards.builtin import no_reward
from textgym.types import Episodes

V = 24


def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(len(ids)) for ids in completion_ids]


def many_prompts(n: int, **settings: Any) -> TokenMDP:
    """Return a task with ``n`` prompts of 1 to 8 random words."""
    rng = np.random.default_rng(0)
    words = [" ".join(f"w{i}" for i in rng.integers(0, V - 2, rng.integers(1, 9))) for _ in range(n)]
    return word_mdp(length, words, 8, 8, V - 2, **settings)


MODEL = moved(tiny_llama(V), 0.3)
MDP = many_prompts(6)
POLICY = acting_policy(MODEL, MDP)
EVERY = np.arange(6)


def responses(episodes: Episodes) -> list[list[int]]:
    return [prompt_and_response(episodes, i)[1] for i in range(len(episodes))]


def same(got: Episodes, expected: Episodes) -> None:
    """Assert that two collections hold the same episodes; rounding differs with the batch."""
    assert responses(got) == responses(expected)
    for name in ("prompt_index", "rewards", "stopped", "own"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
    np.testing.assert_allclose(got.log_probs, expected.log_probs, atol=1e-5)


# --- greedy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_greedy_is_generate_token_for_token(name: str) -> None:
    """On 100 prompts of 1 to 8 tokens, side by side; ``generate`` takes one after the other, without padding."""
    makes = {"gpt2": (tiny_gpt2, 0.3), "llama": (tiny_llama, 0.3), "t5": (tiny_t5, 0.2)}
    model = moved(makes[name][0](V), makes[name][1])
    ends = {"gpt2": (3, 10, 13), "llama": (1, 7, 8), "t5": (15, 16, 17)}[name]
    mdp = many_prompts(100, end_token_ids=ends)
    found = decode(acting_policy(model, mdp), mdp, np.arange(100), Greedy(), seed=0)
    for prompt, response in zip(mdp.prompts, responses(found), strict=True):
        ids = torch.tensor([prompt.ids])
        settings = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": list(ends), "pad_token_id": 0}
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0].tolist()
        assert response == whole[1 if name == "t5" else len(prompt.ids) :]
    assert found.stopped.mean() > 0.1
    assert len(set(found.lengths.tolist())) >= 3


def test_greedy_needs_no_seed_and_gives_one_response() -> None:
    same(decode(POLICY, MDP, EVERY, Greedy(), seed=0), decode(POLICY, MDP, EVERY, Greedy(), seed=1))
    with pytest.raises(ValueError, match="k=2; greedy decoding gives the same response each time"):
        decode(POLICY, MDP, EVERY, Greedy(), seed=0, k=2)


def test_sampling_is_play() -> None:
    same(decode(POLICY, MDP, EVERY, Sampled(), seed=3, k=2), play(POLICY, MDP, np.repeat(EVERY, 2), 3))


# --- beam search -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [MODEL, moved(tiny_t5(V), 0.1)], ids=["llama", "t5"])
def test_a_beam_search_becomes_episodes(model: Any) -> None:
    """Prompts may be asked for in any order and repeatedly; responses to each stand together, the best first."""
    policy, asked = acting_policy(model, MDP, Sampling(1.5, min_new_tokens=2)), np.array([4, 0, 4, 2])
    search = BeamSearch(3, 0.6)
    found = decode(policy, MDP, asked, search, seed=0, k=2)
    wanted = beam_search(model, [MDP.prompts[i].ids for i in asked], policy.behaviour, 8, search)
    assert found.prompt_index.tolist() == [4, 4, 0, 0, 4, 4, 2, 2]
    assert responses(found) == [list(each.ids) for one in wanted for each in one[:2]]
    assert found.log_probs.sum(1) == pytest.approx([each.log_prob for one in wanted for each in one[:2]], abs=1e-4)
    np.testing.assert_allclose(found.log_probs, replayed_log_probs(model, found, MDP, policy.sampling), atol=1e-5)
    assert found.rewards.sum(1).tolist() == found.lengths.tolist()  # the task's reward
    assert found.stopped.tolist() == [ids[-1] == 1 for ids in responses(found)]
    assert visited_kl(policy, policy.trunk, found) == pytest.approx(0, abs=1e-5)


def test_a_beam_search_obeys_the_task() -> None:
    """Its mask, which reads what an environment shows, and its stop rule."""
    shown: list[set[int]] = []

    def allowed(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        shown.append(set(input_ids[attention_mask == 0].tolist()))
        masks = np.ones((len(input_ids), V), bool)
        masks[:, 5:12] = False
        return masks

    stop = lambda ids: len(ids) == 5  # noqa: E731
    mdp = replace(MDP, allowed=allowed, stop=stop)
    policy = acting_policy(MODEL, mdp)
    found = decode(policy, mdp, EVERY, BeamSearch(4), seed=0)
    assert not {*range(5, 12)} & {token for ids in responses(found) for token in ids}
    assert max(found.lengths) == 5
    assert found.stopped.all()
    assert set().union(*shown) == {mdp.filler}
    assert found.kept is not None
    free = decode(POLICY, MDP, EVERY, BeamSearch(4), seed=0)
    assert {*range(5, 12)} & {token for ids in responses(free) for token in ids}


@pytest.mark.parametrize("sampling", [Sampling(top_k=4), Sampling(0.8, top_p=0.7)], ids=str)
def test_one_beam_is_greedy_under_every_mask(sampling: Sampling) -> None:
    """Also NLPO's, which is of another model and has a cache of its own."""
    policy = acting_policy(MODEL, MDP, sampling)
    mask = NucleusMask(moved(tiny_llama(V, seed=1), 0.3), 0.5, 2)
    policy.behaviour = replace(policy.behaviour, mask=mask)
    greedy = decode(policy, MDP, EVERY, Greedy(), seed=0)
    same(decode(policy, MDP, EVERY, BeamSearch(1), seed=0), greedy)
    assert responses(greedy) != responses(decode(POLICY, MDP, EVERY, Greedy(), seed=0))
    wide = decode(policy, MDP, EVERY, BeamSearch(3), seed=0)
    # What the mask keeps, found without a cache: the mask's decoder must follow the beams.
    for i, (prompt, response) in enumerate(prompt_and_response(wide, i) for i in range(6)):
        with torch.no_grad():
            own, other = (
                m(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] for m in (MODEL, mask.model)
            )
        log_probs = policy.behaviour.logits(own, mask_logits=other).log_softmax(-1)
        chosen = log_probs.gather(1, torch.tensor(response)[:, None])[:, 0]
        assert wide.log_probs[i, : len(response)] == pytest.approx(chosen.numpy(), abs=1e-5)


def test_a_beam_search_gives_fewer_responses_where_there_are_fewer() -> None:
    """A horizon of one token, of which the mask of the task admits three."""
    masks = np.isin(np.arange(V), (2, 3, 9))
    mdp = replace(MDP, allowed=lambda ids, _: np.tile(masks, (len(ids), 1)), max_new_tokens=1)
    found = decode(acting_policy(MODEL, mdp), mdp, EVERY[:2], BeamSearch(5), seed=0, k=4)
    assert found.prompt_index.tolist() == [0, 0, 0, 1, 1, 1]
    assert {ids[0] for ids in responses(found)} == {2, 3, 9}


# --- the best of n -----------------------------------------------------------------------------------------------


def count_high(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(sum(i > 12 for i in ids)) for ids in completion_ids]


@pytest.mark.parametrize("reward", [None, count_high])
def test_the_best_of_n_samples(reward: Any) -> None:
    """By the task's reward or by another one; the task's is paid."""
    drawn = responses(play(POLICY, MDP, np.repeat(EVERY, 6), 5))
    score = len if reward is None else lambda ids: sum(i > 12 for i in ids)
    best = [
        ids for i in EVERY for ids in sorted(drawn[6 * i : 6 * i + 6], key=score, reverse=True)[:2]
    ]  # sorted is stable
    found = decode(POLICY, MDP, EVERY, BestOf(6, reward), seed=5, k=2)
    assert responses(found) == best
    assert found.prompt_index.tolist() == np.repeat(EVERY, 2).tolist()
    assert found.rewards.sum(1).tolist() == [len(ids) for ids in best]
    np.testing.assert_allclose(found.log_probs, replayed_log_probs(MODEL, found, MDP, Sampling()), atol=1e-5)


def test_the_best_of_one_is_a_sample() -> None:
    same(decode(POLICY, MDP, EVERY, BestOf(1), seed=5), play(POLICY, MDP, EVERY, 5))


def test_the_best_of_n_conversations() -> None:
    """Chosen by another reward than the task's, and played again: the world says the same again."""
    mdp = talking_mdp()
    policy = acting_policy(moved(tiny_gpt2(), 0.1), mdp)
    prompts = np.arange(4)
    drawn = play(policy, replace(mdp, reward=count_high), np.repeat(prompts, 5), 2)
    chosen = drawn.rewards.sum(1).reshape(4, 5).argmax(1) + 5 * prompts
    found = decode(policy, mdp, prompts, BestOf(5, count_high), seed=2)
    expected = play(policy, mdp, np.repeat(prompts, 5), 2)
    np.testing.assert_array_equal(found.actions, expected.actions[chosen])
    np.testing.assert_array_equal(found.own, expected.own[chosen])
    np.testing.assert_allclose(found.rewards, expected.rewards[chosen], atol=1e-6)
    np.testing.assert_allclose(found.log_probs, expected.log_probs[chosen], atol=1e-5)
    assert not found.own.all()


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decoding", "k", "said"),
    [
        (BeamSearch(3), 4, "k=4 is more than beams=3"),
        (BestOf(3), 4, "k=4 is more than n=3"),
        (Sampled(), 0, "k=0; expected a whole number"),
    ],
)
def test_more_responses_than_there_are(decoding: Decoding, k: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode(POLICY, MDP, EVERY, decoding, seed=0, k=k)


def test_what_does_not_fit_a_task() -> None:
    talk = talking_mdp(Silent())
    with pytest.raises(ValueError, match="beam search needs a task of one turn, and this one has a world"):
        decode(acting_policy(tiny_gpt2(), talk), talk, EVERY, BeamSearch(2), seed=0)
    with pytest.raises(ValueError, match="chosen by a reward, and the task has none"):
        decode(POLICY, replace(MDP, reward=no_reward), EVERY, BestOf(2), seed=0)
    with pytest.raises(ValueError, match="n=0; expected a whole number"):
        BestOf(0)
