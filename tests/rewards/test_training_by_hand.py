"""A reward model's training against plain torch, and the tokens that it reads where ids pass through."""

from __future__ import annotations

import copy
import math
from itertools import combinations

import pytest
import torch

from textgym.rewards import RewardModel, train_reward_model
from textgym.types import Ranking

END = 3
ATOL = 2e-5


def read(model, ids):
    """The score of one sequence, by transformers' own reading, without padding."""
    return model(torch.tensor([ids])).logits[0, 0]


@pytest.fixture
def reward(lm, tokenizer):
    return RewardModel.from_causal_lm(lm(), tokenizer, torch.Generator().manual_seed(0))


def rankings_of(n):
    """Of 2, 3 and 4 completions in turn; every fifth has a tie."""
    words = ["good", "bad", "very", "dull", "cat", "dog", "sat", "ran"]
    made = []
    for i in range(n):
        k = 2 + i % 3
        texts = tuple(" ".join(words[(3 * i + 2 * j + m) % 8] for m in range(1 + (i + j) % 3)) for j in range(k))
        ranks = [(i + j) % k for j in range(k)]
        if i % 5 == 0 and k > 2:
            ranks[ranks.index(1)] = 0
        made.append(Ranking(f"the {words[i % 8]} ", texts, tuple(ranks)))
    return made


def test_training_is_adam_on_the_k_wise_loss(reward, tokenizer):
    """60 steps: the rate rises over 3, then falls to 0; gradients of norm above 1 are scaled down."""
    rankings, rate, epochs, size = rankings_of(40), 1e-3, 3, 2
    by_hand, model = copy.deepcopy(reward.model).eval(), reward.model
    given = {"learning_rate": rate, "epochs": epochs, "batch_size": size, "progress": False}
    demonstrations = [("the cat ", "sat very"), ("a dog ", "ran")]
    report = train_reward_model(
        reward,
        rankings,
        generator=torch.Generator().manual_seed(7),
        heldout=rankings[:4],
        demonstrations=demonstrations,
        **given,
    )

    def loss_of(ranking):
        scores = [read(by_hand, ids) for ids in encoded(ranking)]
        k, loss = len(scores), 0.0
        for i, j in combinations(range(k), 2):
            if ranking.ranks[i] != ranking.ranks[j]:
                better, worse = (i, j) if ranking.ranks[i] < ranking.ranks[j] else (j, i)
                loss = loss + (1 + (scores[worse] - scores[better]).exp()).log()
        return loss / (k * (k - 1) / 2)

    def encoded(ranking):
        words = [f"{ranking.prompt} {completion}".split() for completion in ranking.completions]
        return [[*tokenizer.convert_tokens_to_ids(one), END] for one in words]

    generator = torch.Generator().manual_seed(7)
    order = [row for _ in range(epochs) for row in torch.randperm(len(rankings), generator=generator).tolist()]
    parameters = list(by_hand.parameters())
    optimizer = torch.optim.Adam(parameters, eps=1e-5)
    n_steps, norms, losses = len(order) // size, [], []
    for step in range(n_steps):
        loss = sum(loss_of(rankings[row]) for row in order[size * step : size * (step + 1)]) / size
        optimizer.zero_grad()
        loss.backward()
        norms.append(math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters)))
        for parameter in parameters:
            parameter.grad *= min(1.0, 1.0 / norms[-1])
        optimizer.param_groups[0]["lr"] = rate * min((step + 1) / 3, (n_steps - step) / (n_steps - 3))
        optimizer.step()
        losses.append(loss.item())
    assert n_steps == 60
    assert min(norms) < 1 < max(norms)
    assert report.train_loss == pytest.approx(losses, abs=1e-4)
    for (name, one), other in zip(by_hand.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=ATOL, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
    with torch.no_grad():
        assert report.heldout_loss == pytest.approx(float(sum(map(loss_of, rankings[:4])) / 4), abs=1e-5)
        shown = [tokenizer.convert_tokens_to_ids(f"{p} {c}".split()) for p, c in demonstrations]
        offset = sum(float(read(by_hand, [*ids, END])) for ids in shown) / 2
    assert report.offset == pytest.approx(offset, abs=1e-5)


@pytest.mark.parametrize(
    ("response", "reason", "said"),
    [
        ([9, 12], "stop", [9, 12, END]),  # a stop rule ended it: the end token is added
        ([9, 12, END], "stop", [9, 12, END]),
        ([9, 12, 2], "stop", [9, 12, END]),  # another special token ended it: the model's own stands for it
        ([9, 12], "length", [9, 12]),  # it was cut off, and has not ended
        ([9, 12, END], None, [9, 12, END]),
        ([9, 12], None, [9, 12]),  # no reason was told: ids are taken as they are
    ],
)
def test_ids_that_pass_through_end_as_the_texts_in_training_did(reward, tokenizer, response, reason, said):
    bound = reward.bind(tokenizer)
    assert bound.same_tokenizer
    reasons = {} if reason is None else {"finish_reason": [reason] * 2}
    found = bound(
        ["the cat", "a"],
        [" sat very"] * 2,
        completion_ids=[response] * 2,
        prompt_ids=[[4, 6], [5]],
        **reasons,
    )
    with torch.no_grad():
        expected = [float(read(reward.model, [*asked, *said])) for asked in ([4, 6], [5])]
        others = [float(read(reward.model, [4, 6, 9, 12, *end])) for end in ([], [2], [END])]
    assert found == pytest.approx(expected, abs=1e-6)
    assert min(abs(a - b) for a in others for b in others if a is not b) > 1e-3  # what stands at the end is seen
