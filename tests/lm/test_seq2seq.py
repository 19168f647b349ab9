"""Encoder–decoder models: scored as a plain pass scores them, decoded with one encoder pass per prompt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSeq2SeqLM
from transformers import PreTrainedModel

from tests.helpers import next_logits, tiny_bart, tiny_gpt2, tiny_t5, word_tokenizer
from textgym.lm.agreement import make_decoder
from textgym.lm.behaviour import Behaviour
from textgym.lm.files.loading import check_fits, load_causal_lm, load_lm
from textgym.lm.parts.freezing import freeze, untie
from textgym.lm.parts.lora import adapters_off, add_lora, merged, save_pretrained
from textgym.lm.parts.seq2seq import Seq2SeqBackbone, Seq2SeqDecoder
from textgym.lm.sampling import Sampling
from textgym.lm.trunk import Trunk

P, T, V = 5, 7, 13
LENGTHS = [(1, 7), (5, 1), (3, 4), (2, 2)]


def untied_t5(**settings: Any) -> PreTrainedModel:
    """As T5 v1.1: states are not scaled."""
    return tiny_t5(tie_word_embeddings=False, **settings)


@pytest.fixture(params=[tiny_t5, untied_t5, tiny_bart], ids=["t5", "t5-v1.1", "bart"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return request.param()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(V, (len(LENGTHS), P + T), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros_like(ids)
    for row, (prompt, response) in enumerate(LENGTHS):
        mask[row, P - prompt : P + response] = 1
    return ids, mask


def prompt_and_response(batch: tuple[torch.Tensor, torch.Tensor], row: int) -> tuple[list[int], list[int]]:
    ids, (prompt, response) = batch[0][row].tolist(), LENGTHS[row]
    return ids[P - prompt : P], ids[P : P + response]


def log_probs(model: PreTrainedModel, batch: tuple[torch.Tensor, torch.Tensor], prefix: Any = None) -> torch.Tensor:
    ids, mask = batch
    trunk = Trunk(model)
    states = trunk.hidden_states(ids, mask, P, prefix)
    assert states.shape[:2] == (len(LENGTHS), T + 1)
    behaviour = Behaviour(V, sampling=Sampling(temperature=0.7))
    return behaviour.score(trunk.head, states[:, :-1], ids[:, P:], mask[:, P:].bool()).log_probs


@torch.no_grad()
def test_scores_are_those_of_plain_passes(model, batch):
    found = log_probs(model, batch)
    for row, (_, length) in enumerate(LENGTHS):
        prompt, response = prompt_and_response(batch, row)
        for t, token in enumerate(response):
            logits = next_logits(model, prompt, response[:t])[:V] / 0.7
            assert found[row, t].item() == pytest.approx(logits.log_softmax(-1)[token].item(), abs=1e-5)
        assert not found[row, length:].any()


def passes(module: torch.nn.Module) -> list[tuple[int, int]]:
    """Record the shapes of what a module reads."""
    shapes: list[tuple[int, int]] = []
    module.register_forward_pre_hook(
        lambda _, __, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes


def test_a_batch_is_scored_in_one_pass(model, batch):
    trunk = Trunk(model)
    encoder, decoder = passes(model.get_encoder()), passes(model.get_decoder())
    trunk.hidden_states(*batch, P)
    assert encoder == [(4, 5)]
    assert decoder == [(4, T + 1)]


def test_a_prompt_is_encoded_once_and_a_token_decoded_once(model, batch):
    ids, mask = (x.numpy().copy() for x in batch)
    mask[:, P:] = 0
    decoder = make_decoder(model, len(ids), P + T, P)
    encoder, stack = passes(model.get_encoder()), passes(model.get_decoder())
    for t in range(4):
        decoder.logits(ids, mask, np.arange(len(ids)))
        mask[:, P + t] = 1
    assert encoder == [(4, 5)]
    assert stack == [(4, 1)] * 4
    mask[2, P:] = 0  # the third row begins again, with its own prompt of 3 tokens
    decoder.logits(ids, mask, np.arange(len(ids)))
    assert encoder == [(4, 5), (1, 3)]


@torch.no_grad()
def test_rows_without_a_prompt_are_refused(model):
    ids, mask = np.zeros((1, P + T), np.int64), np.zeros((1, P + T), np.int8)
    mask[0, P] = 1
    with pytest.raises(ValueError, match="has no prompt"):
        make_decoder(model, 1, P + T, P).logits(ids, mask, np.arange(1))


def test_each_kind_is_loaded_as_what_it_is(model, tmp_path: Path):
    model.save_pretrained(tmp_path / "seq2seq")
    tiny_gpt2().save_pretrained(tmp_path / "causal")
    loaded = load_lm(tmp_path / "seq2seq")
    assert type(loaded) is type(model)
    assert not loaded.training
    with torch.no_grad():
        torch.testing.assert_close(next_logits(loaded, [2, 3], [4]), next_logits(model, [2, 3], [4]))
    assert type(load_lm(tmp_path / "causal")) is type(tiny_gpt2())
    with pytest.raises(ValueError, match="is an encoder–decoder; expected a causal language model"):
        load_causal_lm(tmp_path / "seq2seq")


def test_a_model_that_says_no_start_is_refused():
    model = tiny_t5()
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="names no decoder_start_token_id"):
        Trunk(model)


def test_causal_models_are_no_encoder_decoders():
    for make in (lambda m: Seq2SeqBackbone(m), lambda m: Seq2SeqDecoder(m, 2, P + T, P)):
        with pytest.raises(ValueError, match="GPT2LMHeadModel is not an encoder–decoder"):
            make(tiny_gpt2())


def test_prompt_and_response_have_a_context_each():
    check_fits(tiny_bart(positions=10), word_tokenizer(), 16, 19, prompt_length=10)
    with pytest.raises(ValueError, match="= 20 is more than the model's context of 10 tokens"):
        check_fits(tiny_bart(positions=10), word_tokenizer(), 16, 20, prompt_length=10)


# --- adapters and frozen layers ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_adapters_stand_in_both_stacks(model, tmp_path: Path):
    with torch.no_grad():
        before = next_logits(model, [2, 3], [4])
    add_lora(model, 1, 0, 0)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any("encoder." in name for name in names)
    assert any("decoder." in name for name in names)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3)
        after = next_logits(model, [2, 3], [4])
        assert not torch.allclose(before, after)
        with adapters_off(model):
            assert torch.equal(next_logits(model, [2, 3], [4]), before)
        save_pretrained(model, tmp_path)
        torch.testing.assert_close(next_logits(load_lm(tmp_path), [2, 3], [4]), after)
        alone = merged(model)
        pefts = AutoPeftModelForSeq2SeqLM.from_pretrained(tmp_path).merge_and_unload()
        for plain in (alone, pefts):
            torch.testing.assert_close(next_logits(plain, [2, 3], [4]), after, atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore:the output head is tied")
def test_a_frozen_encoder_runs_once(model, batch):
    with torch.no_grad():
        expected = Trunk(model).hidden_states(*batch, P)
    freeze(model, 2)
    assert any(parameter.requires_grad for parameter in model.get_decoder().parameters())
    trunk = Trunk(model, 2)
    prefix = trunk.prefix(*batch, P)
    assert prefix is not None
    encoder = passes(model.get_encoder())
    torch.testing.assert_close(trunk.hidden_states(*batch, P, prefix), expected, atol=1e-6, rtol=1e-5)
    assert encoder == []


@pytest.mark.filterwarnings("ignore:the output head is tied")
def test_an_encoder_that_learns_is_not_kept(model, batch):
    freeze(model, 1)
    assert Trunk(model, 1).prefix(*batch, P) is None


def test_a_scaled_head_stays_tied():
    with pytest.raises(ValueError, match="untie_head: the states of T5ForConditionalGeneration are scaled"):
        untie(tiny_t5())


@pytest.mark.parametrize("make", [tiny_t5, tiny_bart])
def test_positions_do_not_depend_on_the_batch(make: Callable[..., PreTrainedModel], batch):
    """The shortest prompt's first token stands at position 0, alone or beside longer ones."""
    ids, mask = batch
    model = make()
    with torch.no_grad():
        together = Trunk(model).hidden_states(ids, mask, P)
        alone = Trunk(model).hidden_states(ids[:1], mask[:1], P)
    torch.testing.assert_close(together[:1], alone, atol=1e-6, rtol=1e-5)
