"""Several responses to each prompt: who answers what, and that more of them change none of the first."""

import numpy as np

from tests.helpers import tiny_gpt2, word_mdp
from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.evaluation import sample_responses

MDP = word_mdp()
POLICY = acting_policy(tiny_gpt2(), MDP)


def test_responses_stand_beside_their_prompts() -> None:
    found = sample_responses(POLICY, MDP, np.array([2, 0]), 3, seed=1)
    assert found.prompts == [MDP.prompts[2].text, MDP.prompts[0].text]
    assert [len(own) for own in found.completions] == [3, 3]
    # Pay is the share of w5, id 7, among a response's tokens, its end token included.
    for texts, rewards, stopped in zip(found.completions, found.rewards, found.stopped, strict=True):
        for text, reward, ended in zip(texts, rewards, stopped, strict=True):
            words = text.split()
            if len(words) + ended:
                assert np.isclose(reward, words.count("w5") / (len(words) + ended))
    np.testing.assert_array_equal(found.rewards, next(iter(found.components.values())))


def test_the_first_prompts_responses_do_not_depend_on_the_rest() -> None:
    few, many = (sample_responses(POLICY, MDP, np.array(rows), 2, seed=1) for rows in ([1], [1, 0, 2]))
    assert many.completions[0] == few.completions[0]
    again = sample_responses(POLICY, MDP, np.array([1]), 2, seed=2)
    assert again.completions != few.completions
