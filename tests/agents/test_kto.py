"""Kahneman–Tversky optimisation: its loss, its gradient, its measures, what it learns, and what it refuses."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.test_dpo import response_log_prob
from tests.helpers import tiny_gpt2, word_tokenizer
from textgym.agents import KTOSettings, LabelledCompletion, encode_judgements, train_kto
from textgym.agents.offline.kto import kto_loss, label_measures, label_objective, mismatched
from textgym.agents.offline.preference_loop import Learning, batches, completion_log_probs, surety
from textgym.agents.offline.preferences import require_both_labels, split_labelled, unpaired
from textgym.lm.guards import TrainingError
from textgym.lm.parts.lora import add_lora
from textgym.lm.trunk import Trunk
from textgym.rewards.labels.preferences import Judgement

# Whatever is asked, an answer that ends with "w7" is good and one that ends with "w3" is bad.
JUDGEMENTS = [
    Judgement(f"w{i % 14} w{(3 * i) % 14}", f"w{i % 5} {'w7' if good else 'w3'}", good)
    for i in range(20)
    for good in (True, False)
]
LABELLED = encode_judgements(JUDGEMENTS, word_tokenizer(), 1)
LEARNED, HELD_OUT = LABELLED[:32], LABELLED[32:]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# --- the loss ----------------------------------------------------------------------------------------------------


def test_the_loss_by_hand() -> None:
    """Equation 8: λ_D(1 − σ(β(r − z))) and λ_U(1 − σ(β(z − r))), with z = (3 − 1)/2 = 1."""
    ratios, desirable = torch.tensor([3.0, -1.0, 2.0]), torch.tensor([True, True, False])
    settings = KTOSettings(beta=0.5, desirable_weight=1.5, undesirable_weight=2.0)
    found = kto_loss(ratios, desirable, torch.tensor([3.0, -1.0]), settings)
    expected = [1.5 * (1 - sigmoid(1)), 1.5 * (1 - sigmoid(-1)), 2 * (1 - sigmoid(-0.5))]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_negative_reference_point_counts_as_0() -> None:
    found = kto_loss(torch.tensor([2.0]), torch.tensor([True]), torch.tensor([-3.0, 1.0]), KTOSettings(beta=1.0))
    torch.testing.assert_close(found, torch.tensor([1 - sigmoid(2)]))


def test_the_gradient_is_that_of_the_published_formula() -> None:
    """∇L = ∓λ·β·σ(βg)·σ(−βg)·∇log π(y|x) with g the gain; z has no gradient."""
    model, reference, beta = tiny_gpt2(seed=1), tiny_gpt2(), 0.7
    batch = LABELLED[:4]
    settings = KTOSettings(beta=beta, desirable_weight=1.2, undesirable_weight=0.9)
    texts = mismatched(batch, None)
    with torch.no_grad():
        before = torch.stack([response_log_prob(reference, one.shown) for one in batch])
        z = sum(float(response_log_prob(model, one) - response_log_prob(reference, one)) for one in texts) / 4
    assert z > 0.05  # both sides of the clamp would differ
    objective, trunk = label_objective(settings, None), Trunk(model)
    ours = completion_log_probs(trunk, batch)
    background = torch.stack([response_log_prob(model, one) - response_log_prob(reference, one) for one in texts])
    objective.loss(batch, ours, before[:, None], background).mean().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    for one, was in zip(batch, before, strict=True):
        log_prob = response_log_prob(model, one.shown)
        sign, weight = (1, 1.2) if one.desirable else (-1, 0.9)
        gain = beta * sign * (float(log_prob.detach() - was) - z)
        (-sign * weight * beta * sigmoid(gain) * sigmoid(-gain) * log_prob / 4).backward()
    for gradient, p in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, p.grad, atol=1e-6, rtol=1e-4)


def test_prompts_meet_the_completion_of_the_row_before() -> None:
    judgements = [Judgement("w1", "w2", True), Judgement("w3 w4", "w5 w6 w7", False), Judgement("w8", "w9", True)]
    batch = encode_judgements(judgements, word_tokenizer(), 1)
    found = [(one.prompt.ids, one.response_ids) for one in mismatched(batch, None)]
    prompts, replies = [one.shown.prompt.ids for one in batch], [one.shown.response_ids for one in batch]
    assert found == [(prompts[0], replies[2]), (prompts[1], replies[0]), (prompts[2], replies[1])]
    cut = mismatched(batch, 4)  # a context of four tokens: one prompt has 1 token and meets 4
    assert [one.n_tokens for one in cut] == [3, 4, 4]
    assert cut[2].response_ids == replies[1][:3]


def test_no_batch_has_one_completion_alone() -> None:
    assert [list(part) for part in batches(np.arange(9), 4, 2)] == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert [len(part) for part in batches(np.arange(10), 4, 2)] == [4, 4, 2]
    assert [len(part) for part in batches(np.arange(9), 4, 1)] == [4, 4, 1]
    assert [len(part) for part in batches(np.arange(3), 2, 2)] == [3]


# --- measures ----------------------------------------------------------------------------------------------------


def test_accuracy_counts_pairs_of_both_labels() -> None:
    """Rewards 3, 1, 1 of good and 2, 1 of bad completions: pairs won 2 of 2, 0.5 of 2 and 0.5 of 2."""
    rewards, desirable = torch.tensor([3.0, 2.0, 1.0, 1.0, 1.0]), torch.tensor([True, False, True, False, True])
    found = label_measures(rewards, desirable)
    assert float(found["accuracy"].mean()) == pytest.approx(3 / 6)
    assert float(found["margin"].mean()) == pytest.approx(5 / 3 - 1.5)
    pairs = itertools.product(rewards[desirable].tolist(), rewards[~desirable].tolist())
    won = [1.0 if good > bad else 0.5 * (good == bad) for good, bad in pairs]
    assert float(found["accuracy"].mean()) == pytest.approx(sum(won) / len(won))


def test_chance_is_a_half_whatever_the_share_of_labels() -> None:
    measures = label_measures(torch.zeros(10), torch.arange(10) < 9)
    assert float(measures["accuracy"].mean()) == 0.5
    assert float(measures["margin"].mean()) == 0


def test_errors_are_those_of_two_samples() -> None:
    """Without clusters the margin's error is sqrt(v_D/n_D + v_U/n_U) with variances over n, times sqrt(n/(n − 1))."""
    good, bad = torch.tensor([1.0, 2.0, 4.0, 9.0]), torch.tensor([0.0, 3.0])
    measures = label_measures(torch.cat([good, bad]), torch.arange(6) < 4)
    found = surety(measures, list(range(6)), "completions")
    assert (found["prompts"], found["completions"]) == (6, 6)
    variance = good.double().var(correction=0) / 4 + bad.double().var(correction=0) / 2
    assert found["margin_sem"] == pytest.approx(math.sqrt(float(variance) * 6 / 5))
    # Placements by hand: 0.5, 0.5, 1, 1 of the good ones; 1 and 0.5 of the bad ones.
    placed = np.var([0.5, 0.5, 1, 1]) / 4 + np.var([1, 0.5]) / 2
    assert found["accuracy_sem"] == pytest.approx(math.sqrt(placed * 6 / 5))


@pytest.mark.parametrize("seed", range(3))
def test_the_error_of_the_accuracy_is_that_of_repeated_draws(seed: int) -> None:
    """Two completions of each prompt share a shift: errors that ignored prompts would be too small."""
    rng = np.random.default_rng(seed)

    def drawn() -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        shift = np.repeat(rng.normal(size=60), 2)
        desirable = np.repeat(rng.random(60) < 0.5, 2)
        return torch.tensor(shift + 0.8 * desirable), torch.tensor(desirable), np.repeat(np.arange(60), 2).tolist()

    draws = [drawn() for _ in range(400)]
    found = [label_measures(rewards, desirable)["accuracy"] for rewards, desirable, _ in draws]
    spread = np.std([float(values.mean()) for values in found])
    errors = [
        surety({"accuracy": one}, prompts)["accuracy_sem"] for one, (*_, prompts) in zip(found, draws, strict=True)
    ]
    assert np.mean(errors) == pytest.approx(spread, rel=0.12)


# --- learning ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, 2])
def test_the_margin_rises_from_a_loss_of_half_the_weight(lora: int | None) -> None:
    model = tiny_gpt2()
    if lora is not None:
        add_lora(model, lora, 0, 0)
    before = {name: value.clone() for name, value in model.named_parameters()}
    settings = KTOSettings(epochs=4, learning_rate=1e-2, batch_size=8)
    rows = train_kto(model, LEARNED, held_out=HELD_OUT, settings=settings, progress=False)
    first = {"loss": 0.5, "margin": 0.0, "accuracy": 0.5, "completions": 8, "prompts": 4}
    assert {name: rows[0][f"validation/{name}"] for name in first} == first
    assert rows[-1]["validation/accuracy"] == 1.0
    assert rows[-1]["validation/margin"] > (0.4 if lora is None else 0.05)
    assert rows[-1]["validation/loss"] < rows[0]["validation/loss"]
    assert rows[-1]["train/margin"] > rows[1]["train/margin"]
    changed = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    assert lora is None or all("lora_" in name for name in changed)


def test_a_seed_gives_the_same_bits() -> None:
    def trained(seed: int) -> tuple[Any, list[Any]]:
        model = tiny_gpt2()
        settings = KTOSettings(learning_rate=1e-3, batch_size=8)
        rows = train_kto(model, LEARNED, held_out=HELD_OUT, settings=settings, seed=seed, progress=False)
        return rows, [p.clone() for p in model.parameters()]

    state = torch.get_rng_state()
    first, again, other = trained(0), trained(0), trained(1)
    assert first[0] == again[0] != other[0]
    assert all(torch.equal(a, b) for a, b in zip(first[1], again[1], strict=True))
    assert torch.equal(state, torch.get_rng_state())


# --- data --------------------------------------------------------------------------------------------------------


def labelled(*rows: tuple[int, bool]) -> list[LabelledCompletion]:
    """Return completions of numbered prompts, with their labels."""
    judgements = [Judgement(f"w{prompt}", f"w{number % 14}", good) for number, (prompt, good) in enumerate(rows)]
    return list(encode_judgements(judgements, word_tokenizer(), 1))


def test_a_rare_label_is_held_out_too() -> None:
    rows = labelled(*((prompt % 12, True) for prompt in range(24)), (12, False), (13, False))
    for seed in range(20):
        kept, out = split_labelled(rows, 0.1, torch.Generator().manual_seed(seed))
        assert [one.desirable for one in kept].count(False) == [one.desirable for one in out].count(False) == 1
        assert not {one.prompt for one in kept} & {one.prompt for one in out}
        assert len(kept) + len(out) == len(rows)


def test_a_label_of_a_single_prompt_cannot_be_held_out() -> None:
    rows = labelled(*((prompt, True) for prompt in range(10)), (10, False), (10, False))
    with pytest.raises(ValueError, match=r"the held-out part has 1 labelled true and 0 labelled false; expected both"):
        split_labelled(rows, 0.1, torch.Generator())


def test_one_label_is_refused() -> None:
    good, bad = labelled((1, True), (2, True)), labelled((1, False), (2, False))
    with pytest.raises(ValueError, match=r"given: all 2 completions are labelled true; .* use textgym sft"):
        require_both_labels(good, "given")
    with pytest.raises(ValueError, match=r"given: all 2 completions are labelled false; expected some of each"):
        require_both_labels(bad, "given")
    both = [*good, *bad]
    for learned, held, what in ((good, both, "labelled"), (both, bad, "held_out")):
        with pytest.raises(ValueError, match=f"{what}: all 2 completions"):
            train_kto(tiny_gpt2(), learned, held_out=held)
    for learned, held, what in (((), both, "labelled"), (both, (), "held_out")):
        with pytest.raises(ValueError, match=f"{what} is empty"):
            train_kto(tiny_gpt2(), learned, held_out=held)


def test_a_pair_is_a_good_and_a_bad_completion() -> None:
    from tests.agents.test_dpo import COMPARISONS

    found = unpaired(COMPARISONS[:2])
    assert [one.desirable for one in found] == [True, False, True, False]
    shown = [COMPARISONS[0].chosen, COMPARISONS[0].rejected, COMPARISONS[1].chosen, COMPARISONS[1].rejected]
    assert [one.shown for one in found] == shown


def test_bad_settings() -> None:
    for bad in ({"beta": 0.0}, {"epochs": 0}, {"desirable_weight": 0.0}, {"undesirable_weight": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            KTOSettings(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"batch_size=1; expected at least 2: KTO measures its KL by prompts with"):
        KTOSettings(batch_size=1)


def test_training_that_diverges_is_an_error() -> None:
    settings = KTOSettings(learning_rate=1e30, epochs=2)
    with pytest.raises(TrainingError, match=r"training diverged: .*learning rate") as caught:
        train_kto(tiny_gpt2(), LABELLED, held_out=LABELLED, settings=settings, progress=False)
    known = [(one.shown.response_ids, one.desirable) for one in LABELLED]
    assert caught.value.batch
    assert all((row["completion_ids"], row["label"]) in known for row in caught.value.batch)


def test_the_reference_of_the_background_is_the_model_before_training() -> None:
    """Where nothing has been learned, every log-ratio is 0, in every epoch's batches."""
    learning = Learning(
        Trunk(tiny_gpt2().eval()), label_objective(KTOSettings(), 64), LEARNED, HELD_OUT, KTOSettings(epochs=3), 0
    )
    for epoch, plan in zip(learning.background, learning.plan, strict=True):
        for reference, rows in zip(epoch, plan, strict=True):
            now = [response_log_prob(learning.trunk.model, one) for one in mismatched([LEARNED[i] for i in rows], 64)]
            torch.testing.assert_close(reference, torch.stack(now), atol=1e-5, rtol=0)
    assert learning.measured()["validation/loss"] == 0.5
