"""A reward model's training against plain torch, and the tokens that it reads where ids pass through."""

from __future__ import annotations

import copy
import math
from itertools import combinations

import pytest
import torch

from textgym.rewards import Judgement, RewardModel, train_reward_model
from textgym.rewards.models.training import FitSettings, encode_preferences, fit
from textgym.types import Ranking

END = 3
ATOL = 2e-5
RATE, EPOCHS, SIZE = 1e-3, 3, 2


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


def k_wise(scores, ranks):
    """−1/C(K,2) · Σ log σ(better − worse), pair by pair; tied pairs teach nothing, and count in the divisor."""
    k, loss = len(scores), 0.0
    for i, j in combinations(range(k), 2):
        if ranks[i] != ranks[j]:
            better, worse = (i, j) if ranks[i] < ranks[j] else (j, i)
            loss = loss + (1 + (scores[worse] - scores[better]).exp()).log()
    return loss / (k * (k - 1) / 2)


def loss_of(model, tokenizer, said):
    """The loss of one ranking or judgement."""
    if isinstance(said, Judgement):
        score = read(model, tokens_of(tokenizer, said.prompt, said.completion))
        return -torch.sigmoid(score if said.good else -score).log()
    return k_wise([read(model, tokens_of(tokenizer, said.prompt, one)) for one in said.completions], said.ranks)


def tokens_of(tokenizer, prompt, completion):
    return [*tokenizer.convert_tokens_to_ids(f"{prompt} {completion}".split()), END]


def repeat(model, tokenizer, given):
    """Adam on the loss for 60 steps, in place: the rate rises over 3, then falls to 0; norms above 1 are scaled down.

    Returns:
        The loss of each step.
    """
    generator = torch.Generator().manual_seed(7)
    order = [row for _ in range(EPOCHS) for row in torch.randperm(len(given), generator=generator).tolist()]
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, eps=1e-5)
    n_steps, norms, losses = len(order) // SIZE, [], []
    for step in range(n_steps):
        loss = sum(loss_of(model, tokenizer, given[row]) for row in order[SIZE * step : SIZE * (step + 1)]) / SIZE
        optimizer.zero_grad()
        loss.backward()
        norms.append(math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters)))
        for parameter in parameters:
            parameter.grad *= min(1.0, 1.0 / norms[-1])
        optimizer.param_groups[0]["lr"] = RATE * min((step + 1) / 3, (n_steps - step) / (n_steps - 3))
        optimizer.step()
        losses.append(loss.item())
    assert n_steps == 60
    assert min(norms) < 1 < max(norms)
    return losses


def equal(mine, theirs):
    for (name, one), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=ATOL, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


def test_training_is_adam_on_the_k_wise_loss(reward, tokenizer):
    rankings, by_hand = rankings_of(40), copy.deepcopy(reward.model).eval()
    demonstrations = [("the cat ", "sat very"), ("a dog ", "ran")]
    report = train_reward_model(
        reward,
        rankings,
        learning_rate=RATE,
        epochs=EPOCHS,
        batch_size=SIZE,
        generator=torch.Generator().manual_seed(7),
        heldout=rankings[:4],
        demonstrations=demonstrations,
        progress=False,
    )
    assert report.train_loss == pytest.approx(repeat(by_hand, tokenizer, rankings), abs=1e-4)
    equal(by_hand, reward.model)
    with torch.no_grad():
        left = sum(float(loss_of(by_hand, tokenizer, one)) for one in rankings[:4]) / 4
        offset = sum(float(read(by_hand, tokens_of(tokenizer, *shown))) for shown in demonstrations) / 2
    assert report.heldout_loss == pytest.approx(left, abs=1e-5)
    assert report.offset == reward.offset == pytest.approx(offset, abs=1e-5)


def test_training_on_labels_is_adam_on_the_log_likelihood(reward, tokenizer):
    labels = [Judgement(r.prompt, r.completions[0], i % 3 > 0) for i, r in enumerate(rankings_of(40))]
    by_hand = copy.deepcopy(reward.model).eval()
    examples = encode_preferences(reward, labels, "labels")
    losses = fit(reward, examples, FitSettings(RATE, EPOCHS, SIZE), torch.Generator().manual_seed(7), progress=False)
    assert losses == pytest.approx(repeat(by_hand, tokenizer, labels), abs=1e-4)
    equal(by_hand, reward.model)


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
