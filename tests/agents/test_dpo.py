"""Direct preference optimisation: its loss, its gradient, what it learns, and what it refuses."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.helpers import tiny_gpt2, word_tokenizer
from textgym.agents.offline.dpo import dpo_loss, implicit_margin, ipo_loss, margin_measures, train_dpo
from textgym.agents.offline.preference_loop import completion_log_probs, surety
from textgym.agents.offline.preference_settings import DPOSettings
from textgym.agents.offline.preferences import Comparison, encode_comparisons
from textgym.lm.guards import TrainingError
from textgym.lm.parts.lora import add_lora
from textgym.lm.trunk import Trunk
from textgym.types import Ranking

# Whatever is asked, "w7" is preferred to "w3" at the end.
RANKINGS = [Ranking(f"w{i % 14} w{(3 * i) % 14}", (f"w{i % 5} w7", f"w{i % 5} w3"), (0, 1)) for i in range(40)]
COMPARISONS = encode_comparisons(RANKINGS, word_tokenizer(), 1)


def response_log_prob(model: Any, shown: Any) -> torch.Tensor:
    """log π of a completion with its end token, token by token and without padding."""
    ids = [*shown.prompt.ids, *shown.response_ids]
    log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(log_probs[t - 1, ids[t]] for t in range(len(shown.prompt.ids), len(ids)))  # type: ignore[return-value]


# --- the loss ----------------------------------------------------------------------------------------------------


def test_the_loss_by_hand() -> None:
    log_probs, reference = torch.tensor([[-2.0, -5.0], [-1.0, -1.0]]), torch.tensor([[-3.0, -4.0], [-1.0, -2.0]])
    # β·((−2 + 3) − (−5 + 4)) = 1, and β·((−1 + 1) − (−1 + 2)) = −½
    torch.testing.assert_close(implicit_margin(log_probs, reference, 0.5), torch.tensor([1.0, -0.5]))
    expected = [-math.log(1 / (1 + math.exp(-1))), -math.log(1 / (1 + math.exp(0.5)))]
    torch.testing.assert_close(dpo_loss(log_probs, reference, 0.5), torch.tensor(expected))


def test_the_loss_of_ipo_by_hand() -> None:
    """Of the same comparisons h is 2 and −1, and 1/(2β) is 1 at β = 0.5."""
    log_probs, reference = torch.tensor([[-2.0, -5.0], [-1.0, -1.0]]), torch.tensor([[-3.0, -4.0], [-1.0, -2.0]])
    torch.testing.assert_close(ipo_loss(log_probs, reference, 0.5), torch.tensor([1.0, 4.0]))
    assert float(ipo_loss(reference, reference, 0.5)[0]) == 1  # where nothing is learned, 1/(4β²)


def test_log_probs_are_those_of_the_completion_with_its_end() -> None:
    tokenizer = word_tokenizer()
    rankings = [Ranking("w1 w2 w3", ("w4", "w5 w6 w7"), (1, 0)), Ranking("w8", ("w9 w1", "w2"), (0, 1))]
    pairs, model = encode_comparisons(rankings, tokenizer, 1), tiny_gpt2()
    with torch.no_grad():
        expected = [[response_log_prob(model, one) for one in (pair.chosen, pair.rejected)] for pair in pairs]
        torch.testing.assert_close(completion_log_probs(Trunk(model), pairs), torch.tensor(expected))
    assert all(one.response_ids[-1] == 1 for pair in pairs for one in (pair.chosen, pair.rejected))


def test_the_gradient_is_that_of_the_published_formula() -> None:
    """∇L = −β·σ(−margin)·(∇log π(chosen) − ∇log π(rejected)): the equation after (7) in Rafailov 2023."""
    model, reference, pairs, beta = tiny_gpt2(), tiny_gpt2(seed=1), COMPARISONS[:3], 0.7
    with torch.no_grad():
        before = completion_log_probs(Trunk(reference), pairs)
    dpo_loss(completion_log_probs(Trunk(model), pairs), before, beta).mean().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    for pair, (ref_chosen, ref_rejected) in zip(pairs, before, strict=True):
        chosen, rejected = (response_log_prob(model, one) for one in (pair.chosen, pair.rejected))
        margin = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
        weight = beta * torch.sigmoid(-margin).detach()
        (-weight * (chosen - rejected) / len(pairs)).backward()
    for gradient, p in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, p.grad, atol=1e-6, rtol=1e-4)


# --- learning ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, 2])
def test_the_margin_rises_from_a_loss_of_log_2(lora: int | None) -> None:
    model = tiny_gpt2()
    if lora is not None:
        add_lora(model, lora, 0, 0)
    settings = DPOSettings(epochs=3, learning_rate=1e-2, batch_size=8)
    rows = train_dpo(model, COMPARISONS[:32], held_out=COMPARISONS[32:], settings=settings, progress=False)
    first = {"loss": pytest.approx(math.log(2)), "margin": 0.0, "accuracy": 0.5, "pairs": len(COMPARISONS[32:])}
    assert {name: rows[0][f"validation/{name}"] for name in first} == first
    assert rows[-1]["validation/accuracy"] == 1.0
    assert rows[-1]["validation/margin"] > (0.5 if lora is None else 0.1)
    losses = [row["validation/loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert rows[-1]["train/margin"] > rows[1]["train/margin"]


def test_how_sure_an_accuracy_is_follows_from_prompts_and_not_from_pairs() -> None:
    """Ten pairs of two prompts: one is always right, the other half of the time."""
    margins = torch.tensor([1.0] * 5 + [1.0, -1.0, 1.0, -1.0, 0.0])
    measures = {"loss": -margins, **margin_measures(margins)}
    found = surety(measures, ["a"] * 5 + ["b"] * 5)
    assert (found["prompts"], found["pairs"]) == (2, 10)
    # Residuals from 0.75 add up to 1.25 and -1.25: sqrt(2 / (2 - 1) * 2 * 1.25 ** 2) / 10.
    assert found["accuracy_sem"] == pytest.approx(0.25)
    assert found["accuracy_low"] < 0.05  # two prompts say next to nothing
    assert found["accuracy_high"] > 0.99
    assert surety(measures, ["a"] * 10) == {"prompts": 1, "pairs": 10}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("wrapped", [False, True])
def test_adapters_alone_learn_and_are_part_of_the_reference(wrapped: bool) -> None:
    config = LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, init_lora_weights=False)
    model: Any = get_peft_model(tiny_gpt2(), config) if wrapped else add_lora(tiny_gpt2(), config, 0, 0)
    model.requires_grad_(False)  # as libraries open saved adapters
    began, beta = copy.deepcopy(model), 0.7
    settings = DPOSettings(epochs=2, learning_rate=1e-2, batch_size=8, beta=beta)
    rows = train_dpo(model, COMPARISONS[:24], held_out=COMPARISONS[32:], settings=settings, progress=False)
    before = dict(began.named_parameters())
    names = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    assert names
    assert all("lora_" in name for name in names)
    margins = []
    with torch.no_grad():
        for pair in COMPARISONS[32:]:
            chosen, rejected = (
                response_log_prob(model, one) - response_log_prob(began, one) for one in (pair.chosen, pair.rejected)
            )
            margins.append(float(beta * (chosen - rejected)))
    assert rows[0]["validation/margin"] == 0
    assert rows[-1]["validation/margin"] == pytest.approx(sum(margins) / len(margins), abs=1e-4)
    assert rows[-1]["validation/margin"] > 0.01


def test_a_seed_gives_the_same_bits() -> None:
    def trained(seed: int) -> tuple[Any, list[Any]]:
        model = tiny_gpt2()
        settings = DPOSettings(epochs=1, learning_rate=1e-3, batch_size=8)
        rows = train_dpo(model, COMPARISONS[:16], held_out=COMPARISONS[32:], settings=settings, seed=seed)
        return rows, [p.clone() for p in model.parameters()]

    state = torch.get_rng_state()
    first, again, other = trained(0), trained(0), trained(1)
    assert first[0] == again[0] != other[0]
    assert all(torch.equal(a, b) for a, b in zip(first[1], again[1], strict=True))
    assert torch.equal(state, torch.get_rng_state())


# --- comparisons -------------------------------------------------------------------------------------------------


def test_a_ranking_is_all_its_pairs_of_different_rank() -> None:
    ranking = Ranking("w1", ("w2", "w3", "w4", "w5"), (1, 0, 1, 2))
    pairs = encode_comparisons([ranking], word_tokenizer(), 1)

    def word(comparison: Comparison) -> tuple[int, int]:
        return comparison.chosen.response_ids[0] - 2, comparison.rejected.response_ids[0] - 2

    assert sorted(map(word, pairs)) == [(2, 5), (3, 2), (3, 4), (3, 5), (4, 5)]


@pytest.mark.parametrize(
    ("ranking", "message"),
    [
        (Ranking("w1", ("w2", "w2"), (0, 1)), "given, row 2: chosen and rejected have the same tokens"),
        (Ranking("w1", ("w2", "w3"), (0, 0)), "given, row 2: all ranks are tied"),
        (Ranking("w1", ("w2", ""), (0, 1)), "given, row 2: completion '' has no tokens"),
        (Ranking("", ("w2", "w3"), (0, 1)), "given, row 2: prompt is ''"),
        (Ranking("w1", ("w2 " * 10, "w3"), (0, 1)), r"given, row 2: prompt, completion .* 1 \+ 10 \+ 1 tokens"),
    ],
)
def test_what_cannot_be_learned_is_named(ranking: Ranking, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_comparisons([RANKINGS[0], ranking], word_tokenizer(), 1, max_length=10, source="given")


def test_bad_settings_and_foreign_tokens() -> None:
    for bad in ({"beta": 0.0}, {"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"max_grad_norm": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            DPOSettings(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"loss='hinge' is not one of 'sigmoid', 'ipo'"):
        DPOSettings(loss="hinge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="held_out is empty"):
        train_dpo(tiny_gpt2(), COMPARISONS, held_out=())
    with pytest.raises(ValueError, match="comparisons, text 1 holds tokens beyond the 4"):
        train_dpo(tiny_gpt2(4), COMPARISONS, held_out=COMPARISONS)


def test_training_that_diverges_is_an_error() -> None:
    settings = DPOSettings(learning_rate=1e30, epochs=2)
    with pytest.raises(TrainingError, match=r"training diverged: .*learning rate") as caught:
        train_dpo(tiny_gpt2(), COMPARISONS, held_out=COMPARISONS, settings=settings, progress=False)
    pairs = [(pair.chosen.response_ids, pair.rejected.response_ids) for pair in COMPARISONS]
    assert caught.value.batch
    assert all((row["chosen_ids"], row["rejected_ids"]) in pairs for row in caught.value.batch)
