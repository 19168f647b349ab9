"""Decoding: greedy against transformers, best-of-n against its samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers import tiny_gpt2, word_mdp
from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.decode import BestOf, Greedy, Sampled, decode
from textgym.agents.loop.evaluation import play
from textgym.evaluation.battery import Votes, measures, vote_measures
from textgym.evaluation.decoders import Answers, answer, answers_of
from textgym.lm.beam import BeamSearch

MDP = word_mdp()
MODEL = tiny_gpt2()
POLICY = acting_policy(MODEL, MDP)
ALL = np.arange(3)


def test_greedy_is_generate() -> None:
    found = answer(POLICY, MDP, ALL, 1, Greedy(), seed=0)
    again = answer(POLICY, MDP, ALL, 1, Greedy(), seed=1)
    assert found.texts == again.texts
    for prompt, text, length in zip(MDP.prompts, found.texts, found.lengths, strict=True):
        ids = torch.tensor([list(prompt.ids)])
        with torch.no_grad():
            out = MODEL.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=1)
        response = out[0, len(prompt.ids) :].tolist()
        assert (text, length) == (MDP.completion(prompt, response), len(response))


def test_sampling_is_play() -> None:
    found = answer(POLICY, MDP, np.array([2, 0]), 3, Sampled(), seed=5)
    episodes = play(POLICY, MDP, np.repeat([2, 0], 3), 5)
    np.testing.assert_array_equal(found.scores, episodes.rewards.sum(1))
    assert found.questions.tolist() == [2, 2, 2, 0, 0, 0]
    assert found.first_rows == [3, 0]
    assert found.episodes is not None


def test_best_of_n_keeps_the_best_sample_of_each_group() -> None:
    found = answer(POLICY, MDP, ALL, 2, BestOf(4), seed=3)
    all_of_them = answers_of(MDP, play(POLICY, MDP, np.repeat(ALL, 8), 3))
    groups = all_of_them.scores.reshape(6, 4)
    np.testing.assert_array_equal(found.scores, groups.max(1))
    assert groups.max(1).sum() > groups.mean(1).sum()
    for i, best in enumerate(groups.argmax(1)):
        assert found.texts[i] == all_of_them.texts[4 * i + best]
    assert found.questions.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.episodes is None  # they are no samples of the behaviour distribution, so they have no KL


def test_a_beam_is_one_response_and_at_least_as_probable_as_the_greedy_one() -> None:
    beams, greedy = (decode(POLICY, MDP, ALL, way, 0) for way in (BeamSearch(4, 0.0), Greedy()))
    assert (beams.log_probs.sum(1) >= greedy.log_probs.sum(1) - 1e-5).all()
    found = answer(POLICY, MDP, ALL, 1, BeamSearch(4, 0.0), seed=0)
    assert found.texts == answers_of(MDP, beams).texts
    assert found.episodes is None


# --- the measures of answers -----------------------------------------------------------------------------------


def given(scores: list[float], texts: list[str], questions: list[int]) -> Answers:
    return Answers(
        prompts=[MDP.prompts[i] for i in questions],
        questions=np.array(questions),
        texts=texts,
        lengths=np.array([len(text.split()) for text in texts]),
        ended=np.array([text.endswith(".") for text in texts]),
        scores=np.array(scores),
        components={"gold": np.array(scores)},
    )


def test_measures_by_hand() -> None:
    answers = given([1, 0, 1, 0], ["a b.", "a", "a b c", "a b."], [0, 0, 1, 1])
    found = measures(answers)
    assert {name: one.value for name, one in found.items() if name != "self_bleu"} == {
        "score": 0.5,
        "gold": 0.5,
        "length": 2.0,
        "end_rate": 0.5,
        "length_correlation": pytest.approx(np.corrcoef([1, 0, 1, 0], [2, 1, 3, 2])[0, 1]),
        "distinct_1": 4 / 10,
        "distinct_2": 3 / 6,
        "distinct_3": 2 / 3,
        "msttr": None,
    }
    assert found["score"].n == 2


def test_votes_by_hand() -> None:
    """Prompt 0: two of three are right and agree. Prompt 1: the only right one loses to two that agree."""
    answers = given([1, 1, 0, 1, 0, 0], ["x", "x", "y", "x", "y", "y"], [0, 0, 0, 1, 1, 1])
    found = {name: one.value for name, one in vote_measures(answers, Votes((1, 3))).items()}
    assert found == {"pass@1": pytest.approx(0.5), "maj@1": pytest.approx(0.5), "pass@3": 1.0, "maj@3": 0.5}


def test_samples_of_a_single_prompt_are_what_intervals_are_over() -> None:
    found = measures(given([1, 0, 1, 0], ["a", "b", "c", "d"], [1, 1, 1, 1]))
    assert found["score"].n == 4
    assert found["score"].low is not None
