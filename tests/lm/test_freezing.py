"""Frozen layers: what is frozen, and that keeping their activations changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedModel

from tests.helpers import tiny_gpt2, tiny_llama
from textgym.lm.parts.freezing import freeze, untie
from textgym.lm.trunk import Trunk

P, T = 5, 7
LENGTHS = [(1, 7), (5, 1), (3, 4), (2, 2)]


def untied_gpt2() -> PreTrainedModel:
    model = tiny_gpt2()
    untie(model)
    return model


def tiny_opt() -> PreTrainedModel:
    """Its trunk is one level deeper, and its final norm is listed before its layers."""
    config = OPTConfig(
        vocab_size=16, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0,
        max_position_embeddings=64, word_embed_proj_dim=32, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return OPTForCausalLM(config).eval()


def tiny_bloom() -> PreTrainedModel:
    """Has a norm between embedding and layers, which give their attention weights, too."""
    config = BloomConfig(vocab_size=16, hidden_size=32, n_layer=2, n_head=4, pad_token_id=0, tie_word_embeddings=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BloomForCausalLM(config).eval()


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": untied_gpt2,
    "llama": tiny_llama,
    "opt": tiny_opt,
    "bloom": tiny_bloom,
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return MODELS[request.param]()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(16, (len(LENGTHS), P + T), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros_like(ids)
    for row, (prompt, response) in enumerate(LENGTHS):
        mask[row, P - prompt : P + response] = 1
    return ids, mask


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_embeddings_and_the_first_layers_are_frozen(model):
    names = trained(model)
    freeze(model, 1)
    left = trained(model)
    assert any(".0." in name for name in names)
    assert not any(".0." in name or "embed" in name or "wte" in name or "wpe" in name for name in left)
    assert {name for name in names if ".1." in name} < left
    assert any("norm" in name or "ln_f" in name for name in left if ".1." not in name), "the final norm is above"


def test_no_layer_is_the_embeddings_alone(model):
    names = trained(model)
    freeze(model, 0)
    assert {name for name in names if ".0." in name or ".1." in name} < trained(model) < names


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_kept_activations_give_the_same_states_and_gradients(name, batch, n_layers):
    model = MODELS[name]()
    freeze(model, n_layers)
    trunk = Trunk(model, n_layers)
    prefix = trunk.prefix(*batch, P)
    assert prefix is not None
    assert prefix.shape == (len(LENGTHS), 8, 32)
    weights = torch.linspace(0.5, 1.5, T + 1)[:, None] * batch[1][:, P - 1 :, None]
    results = []
    for kept in (None, prefix):
        states = trunk.hidden_states(*batch, P, kept)
        model.zero_grad()
        (trunk.head(states).square() * weights).sum().backward()
        results.append([states.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for whole, shared in zip(*results, strict=True):
        torch.testing.assert_close(shared, whole, atol=1e-5, rtol=1e-5)


def test_some_rows_of_kept_activations_serve_shorter_batches(batch):
    model = tiny_llama()
    freeze(model, 1)
    trunk = Trunk(model, 1)
    prefix, rows = trunk.prefix(*batch, P), torch.tensor([3, 1])
    ids, mask = (x[rows, : P + 2] for x in batch)
    assert prefix is not None
    torch.testing.assert_close(
        trunk.hidden_states(ids, mask, P, prefix[rows]), trunk.hidden_states(ids, mask, P), atol=1e-6, rtol=1e-5
    )


def test_kept_activations_save_the_frozen_layers(batch):
    model = tiny_llama()
    freeze(model, 1)
    trunk, ran = Trunk(model, 1), []
    prefix = trunk.prefix(*batch, P)
    for i, layer in enumerate(model.model.layers):
        layer.self_attn.register_forward_hook(lambda *_, i=i: ran.append(i))
    trunk.hidden_states(*batch, P, prefix)
    assert ran == [1]
    trunk.prefix(*batch, P)
    assert ran == [1, 0]
    model(*batch)
    assert ran == [1, 0, 0, 1], "afterwards the model is whole again"


def test_nothing_is_kept_where_something_below_is_trained(batch):
    model = tiny_llama()
    freeze(model, 1)
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    assert Trunk(model, 1).prefix(*batch, P) is None


def test_nothing_is_kept_where_layers_give_more_than_states(batch):
    model = tiny_bloom()
    before = Trunk(model).hidden_states(*batch, P)
    freeze(model, 1)
    assert Trunk(model, 1).prefix(*batch, P) is None
    assert torch.equal(Trunk(model, 1).hidden_states(*batch, P), before)


def test_a_tied_head_is_frozen_with_a_notice():
    model = tiny_gpt2()
    with pytest.warns(UserWarning, match="output head is tied to the embedding, and is frozen with it"):
        freeze(model, 1)
    assert not model.lm_head.weight.requires_grad


def test_an_untied_head_learns_and_is_saved(tmp_path):
    model = tiny_gpt2()
    ids = torch.tensor([[1, 2, 3]])
    before = model(ids).logits
    untie(model)
    assert torch.equal(model(ids).logits, before)
    freeze(model, 1)
    assert model.lm_head.weight.requires_grad
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(again(ids).logits, 2 * before)
    assert again.lm_head.weight is not again.transformer.wte.weight


@pytest.mark.parametrize("n_layers", [-1, 3])
def test_more_layers_than_there_are(n_layers):
    with pytest.raises(ValueError, match=rf"freeze_layers={n_layers}; expected 0 \(the embeddings alone\) to 2"):
        freeze(tiny_llama(), n_layers)
