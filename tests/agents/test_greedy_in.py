"""Greedy acting in Ĥ against every candidate scored by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.replay import prompt_and_response, replayed_log_probs
from tests.helpers import moved, tiny_gpt2, tiny_llama, word_mdp, word_tokenizer
from tests.talking import talking_mdp
from textgym.agents import GreedyIn, decode
from textgym.agents.loop.acting import acting_policy
from textgym.env.mdp import TokenMDP
from textgym.lm.sampling import Sampling
from textgym.rewards import FeedbackModel, RewardModel
from textgym.rewards.models.model import READS_FEEDBACK

V = 12
EVERY = np.arange(3)


def judge(knows_ends: bool = True, words: int = V - 2) -> FeedbackModel:
    """Return a random model of feedback that differs much from token to token."""
    model = RewardModel.from_causal_lm(
        moved(tiny_gpt2(V, 3), 0.3), word_tokenizer(words), torch.Generator().manual_seed(0), batch_size=7
    )
    setattr(model.model.config, READS_FEEDBACK, knows_ends)
    return FeedbackModel(model)


def task(**settings: Any) -> TokenMDP:
    return word_mdp(n_words=V - 2, **settings)


def plain(feedback: FeedbackModel, ids: list[int]) -> float:
    """Return the head's score at the last token, whether that is padding or not."""
    model: Any = feedback.model.model
    with torch.no_grad():
        return float(model.score(model.base_model(torch.tensor([ids])).last_hidden_state[0, -1]))


@pytest.mark.parametrize("knows_ends", [True, False])
@pytest.mark.parametrize(("candidates", "ends"), [(V, (1,)), (3, (1,)), (V, (0, 1)), (V, (0,))])
def test_each_token_is_the_best_of_the_candidates(candidates: int, ends: tuple[int, ...], knows_ends: bool) -> None:
    """Whichever token ends a response of the policy, Ĥ reads its own end, 1."""
    mdp, feedback, model = task(end_token_ids=ends), judge(knows_ends), moved(tiny_llama(V), 0.3)
    policy = acting_policy(model, mdp)
    episodes = decode(policy, mdp, EVERY, GreedyIn(feedback, candidates), seed=0)
    assert len(episodes) == 3
    for i in range(3):
        prompt, response = prompt_and_response(episodes, i)
        for t, token in enumerate(response):
            begun = [*prompt, *response[:t]]
            with torch.no_grad():
                likely = model(torch.tensor([begun])).logits[0, -1].topk(candidates).indices.tolist()
            read = {c: [*begun, 1 if c in ends else c] for c in likely}
            scores = {c: 0.0 if c in ends and not knows_ends else plain(feedback, read[c]) for c in likely}
            assert token == max(scores, key=lambda c: scores[c])
            reason = "stop" if token in ends else "length"  # what the reward pays is what was compared
            given = {"prompt_ids": [prompt], "completion_ids": [response[: t + 1]], "finish_reason": [reason]}
            assert feedback([""], [""], **given)[0][-1] == pytest.approx(scores[token], abs=1e-5)
    np.testing.assert_allclose(episodes.log_probs, replayed_log_probs(model, episodes, mdp, Sampling()), atol=1e-5)


def test_one_candidate_is_greedy_in_the_policy() -> None:
    mdp, model = task(), moved(tiny_llama(V), 0.3)
    policy = acting_policy(model, mdp)
    episodes = decode(policy, mdp, EVERY, GreedyIn(judge(), 1), seed=0)
    prompt, response = prompt_and_response(episodes, 0)
    for t, token in enumerate(response):
        assert token == int(model(torch.tensor([[*prompt, *response[:t]]])).logits[0, -1].argmax())


def test_what_the_task_forbids_is_no_candidate() -> None:
    def even(input_ids: np.ndarray[Any, Any], attention_mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.broadcast_to(np.arange(V) % 2 == 0, (len(input_ids), V))

    mdp = task(allowed=even)
    episodes = decode(acting_policy(tiny_llama(V), mdp), mdp, EVERY, GreedyIn(judge(), V), seed=0)
    assert (episodes.actions[episodes.own] % 2 == 0).all()


def test_what_does_not_fit_is_refused() -> None:
    mdp = task()
    policy = acting_policy(tiny_llama(V), mdp)
    for change, message in (
        ({"decoding": GreedyIn(judge(words=V - 3))}, "the policy has another tokenizer"),
        ({"k": 2}, "k=2; acting greedily in feedback gives the same response each time"),
    ):
        with pytest.raises(ValueError, match=message):
            decode(policy, mdp, EVERY, **{"decoding": GreedyIn(judge()), "seed": 0, **change})
    talking = talking_mdp()
    with pytest.raises(ValueError, match="this task has a world"):
        decode(acting_policy(tiny_gpt2(), talking), talking, EVERY[:1], GreedyIn(judge()), seed=0)
    with pytest.raises(ValueError, match="candidates=0"):
        GreedyIn(judge(), 0)
