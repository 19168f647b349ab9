"""Scores of whole sequences equal what a plain forward pass of the whole model says, computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutput

from tests.helpers import tiny_gpt2, tiny_llama
from textgym.lm import behaviour
from textgym.lm.behaviour import Behaviour, TokenScores
from textgym.lm.files.loading import load_causal_lm
from textgym.lm.parts.heads import ForwardAround
from textgym.lm.sampling import Sampling
from textgym.lm.trunk import Trunk

P, T, V = 5, 7, 13
"""The models embed 16 tokens, the task has 13."""

LENGTHS = [(1, 7), (5, 1), (3, 4), (2, 2)]
"""Prompt and response tokens of each row."""


@pytest.fixture(params=["gpt2", "llama", "stories260K"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    if request.param == "stories260K":
        return load_causal_lm(request.getfixturevalue("assets") / "models" / "stories260K")
    return {"gpt2": tiny_gpt2, "llama": tiny_llama}[request.param]()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    ids = rng.integers(V, size=(len(LENGTHS), P + T))
    mask = np.zeros_like(ids)
    for row, (prompt, response) in enumerate(LENGTHS):
        mask[row, P - prompt : P + response] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int8))


def score(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    sampling: Sampling,
    end_ids: tuple[int, ...] = (),
    kept: Tensor | None = None,
) -> TokenScores:
    trunk = Trunk(model)
    states = trunk.hidden_states(ids, mask, P)[:, :-1]
    behaviour = Behaviour(V, end_ids, sampling)
    return behaviour.score(trunk.head, states, ids[:, P:], mask[:, P:].bool(), kept)


def response_logits(model: PreTrainedModel, ids: Tensor, mask: Tensor, row: int) -> Tensor:
    """``[length, V]`` from the row alone, without padding."""
    prompt, response = LENGTHS[row]
    logits = model(ids[row, mask[row].bool()][None]).logits[0, prompt - 1 : prompt + response - 1]
    return logits[:, :V]


@torch.no_grad()
def test_scores_are_the_log_softmax_of_a_plain_pass(model, batch):
    ids, mask = batch
    scores = score(model, ids, mask, Sampling(temperature=0.7))
    for row, (_, length) in enumerate(LENGTHS):
        log_probs = (response_logits(model, ids, mask, row) / 0.7).log_softmax(-1)
        chosen = log_probs.gather(1, ids[row, P : P + length, None])[:, 0]
        torch.testing.assert_close(scores.log_probs[row, :length], chosen, atol=1e-5, rtol=1e-5)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        torch.testing.assert_close(scores.entropy[row, :length], entropy, atol=1e-5, rtol=1e-5)
        assert not scores.log_probs[row, length:].any()
        assert not scores.entropy[row, length:].any()


@torch.no_grad()
def test_states_are_those_of_a_padded_pass(model, batch):
    """The usual way: left padding, with the mask and explicit positions."""
    ids, mask = batch
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    padded = model.base_model(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state
    states = Trunk(model).hidden_states(ids, mask, P)
    assert states.shape == (len(LENGTHS), T + 1, padded.shape[-1])
    for row, (_, length) in enumerate(LENGTHS):
        expected = padded[row, P - 1 : P + length]
        torch.testing.assert_close(states[row, : length + 1], expected, atol=1e-5, rtol=1e-5)


def test_padding_is_not_computed(batch, monkeypatch):
    """The widest row has 8 tokens, the observation 12 columns."""
    model = tiny_gpt2()
    trunk = Trunk(model)
    widths: list[int] = []
    monkeypatch.setattr(trunk.base, "forward", _recording(trunk.base.forward, widths))
    trunk.hidden_states(*batch, P)
    assert widths == [max(prompt + response for prompt, response in LENGTHS)]


def _recording(forward: Any, widths: list[int]) -> Any:
    def recorded(input_ids: Tensor, **inputs: Any) -> Any:
        widths.append(input_ids.shape[1])
        return forward(input_ids=input_ids, **inputs)

    return recorded


def test_the_minimum_length_leaves_end_tokens_out(batch):
    ids, mask = batch
    ids[:, P:] = ids[:, P:].clamp(min=2)
    with torch.no_grad():
        scores = score(model := tiny_gpt2(), ids, mask, Sampling(min_new_tokens=3), end_ids=(1,))
        logits = response_logits(model, ids, mask, 0)
    logits[:3, 1] = -torch.inf
    expected = logits.log_softmax(-1).gather(1, ids[0, P:, None])[:, 0]
    torch.testing.assert_close(scores.log_probs[0], expected, atol=1e-5, rtol=1e-5)


def kept_with_actions(ids: Tensor, n_kept: int) -> Tensor:
    """For each token a set of ids that holds it; the rest is -1."""
    rng = np.random.default_rng(1)
    kept = torch.full((len(ids), T, n_kept + 2), -1, dtype=torch.int32)
    for row, t in np.ndindex(len(ids), T):
        others = rng.permutation([i for i in range(V) if i != ids[row, P + t]])[: rng.integers(0, n_kept)]
        members = sorted([int(ids[row, P + t]), *others.tolist()])
        kept[row, t, : len(members)] = torch.tensor(members, dtype=torch.int32)
    return kept


@torch.no_grad()
def test_kept_tokens_share_all_of_the_probability(batch):
    ids, mask = batch
    model = tiny_llama()
    kept = kept_with_actions(ids, 4)
    scores = score(model, ids, mask, Sampling(top_k=4), kept=kept)
    for row, (_, length) in enumerate(LENGTHS):
        probs = response_logits(model, ids, mask, row).double().softmax(-1)
        for t in range(length):
            members = kept[row, t][kept[row, t] >= 0].long()
            share = probs[t, members] / probs[t, members].sum()
            chosen = (probs[t, ids[row, P + t]] / probs[t, members].sum()).log()
            assert scores.log_probs[row, t].item() == pytest.approx(chosen.item(), abs=1e-5)
            assert scores.entropy[row, t].item() == pytest.approx(-(share * share.log()).sum().item(), abs=1e-5)


def test_a_token_that_was_not_kept_has_no_probability(batch):
    ids, mask = batch
    kept = torch.full((len(ids), T, 2), -1, dtype=torch.int32)
    kept[:, :, 0] = (ids[:, P:] + 1) % V
    with torch.no_grad():
        scores = score(tiny_gpt2(), ids, mask, Sampling(top_k=1), kept=kept)
    assert (scores.log_probs[mask[:, P:].bool()] == -torch.inf).all()


@pytest.mark.parametrize("restricted", [False, True])
def test_chunks_change_neither_values_nor_gradients(batch, monkeypatch, restricted):
    """Tokens are scored two at a time, and once more in the backward pass."""
    ids, mask = batch
    kept = kept_with_actions(ids, 4) if restricted else None
    results = []
    for elements in (behaviour.CHUNK_ELEMENTS, 2 * V):
        monkeypatch.setattr(behaviour, "CHUNK_ELEMENTS", elements)
        model = tiny_gpt2()
        scores = score(model, ids, mask, Sampling(min_new_tokens=1), end_ids=(1,), kept=kept)
        weights = torch.linspace(0.5, 1.5, T)
        finite = scores.log_probs.masked_fill(scores.log_probs == -torch.inf, 0.0)
        ((finite + 0.3 * scores.entropy) * weights).sum().backward()
        gradients = [p.grad for p in model.parameters()]
        assert all(gradient.isfinite().all() for gradient in gradients)
        results.append([scores.log_probs.detach(), scores.entropy.detach(), *gradients])
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, atol=1e-6, rtol=1e-5)


def test_gradients_are_those_of_a_plain_pass(batch):
    ids, mask = batch
    ours, plain = tiny_gpt2(), tiny_gpt2()
    score(ours, ids, mask, Sampling()).log_probs.sum().backward()
    for row, (_, length) in enumerate(LENGTHS):
        log_probs = response_logits(plain, ids, mask, row).log_softmax(-1)
        log_probs.gather(1, ids[row, P : P + length, None]).sum().backward()
    for got, expected in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad, atol=1e-5, rtol=1e-5)


SIZES = {
    "vocab_size": 16,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}


@pytest.mark.parametrize(
    "model",
    [
        Gemma2ForCausalLM(Gemma2Config(head_dim=8, final_logit_softcapping=2.0, **SIZES)),
        CohereForCausalLM(CohereConfig(logit_scale=0.5, **SIZES)),
        GraniteForCausalLM(GraniteConfig(logits_scaling=8.0, **SIZES)),
    ],
    ids=["soft-capped", "scaled up", "scaled down"],
)
def test_a_head_that_caps_or_scales_is_applied(model, batch):
    """Scores are those of the model's own logits, and so are the gradients of its weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8.0)  # fresh logits are so small that a cap changes nothing
    model.eval()
    ids, mask = batch
    found = score(model, ids, mask, Sampling()).log_probs
    logits = [response_logits(model, ids, mask, row) for row in range(len(LENGTHS))]
    assert max(float(own.detach().abs().max()) for own in logits) > 0.5
    chosen = [own.log_softmax(-1).gather(1, ids[row, P : P + len(own), None])[:, 0] for row, own in enumerate(logits)]
    for row, own in enumerate(chosen):
        torch.testing.assert_close(found[row, : len(own)], own, atol=1e-5, rtol=1e-5)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for got, expected in zip(
        torch.autograd.grad(found.sum(), parameters),
        torch.autograd.grad(sum(map(torch.sum, chosen)), parameters),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)


def test_a_cap_is_seen_that_changes_nothing_yet():
    """Fresh logits are below 1, where a cap of 30 changes less than 1e-4; trained ones are not."""
    capped = Gemma2ForCausalLM(Gemma2Config(head_dim=8, final_logit_softcapping=30.0, **SIZES)).eval()
    plain = Gemma2ForCausalLM(Gemma2Config(head_dim=8, final_logit_softcapping=None, **SIZES)).eval()
    assert isinstance(Trunk(capped).head, ForwardAround)
    assert Trunk(plain).head is plain.get_output_embeddings()


def test_a_trunk_is_found_where_the_prefix_names_none():
    """As in Llama 4's text model, whose base_model_prefix is that of a larger one."""
    model = tiny_llama()
    model.base_model_prefix = "nothing"
    assert Trunk(model).base is model.model


def test_a_model_without_a_trunk_is_refused():
    class Headless(LlamaForCausalLM):
        """A head that no part with a last_hidden_state stands below."""

        base_model_prefix = "nothing"

        def forward(self, input_ids: Tensor, **_: Any) -> CausalLMOutput:
            return CausalLMOutput(logits=self.lm_head(self.get_input_embeddings()(input_ids)))

    with pytest.raises(ValueError, match="Headless has an output head but no trunk below it"):
        Trunk(Headless(tiny_llama().config))


def test_looking_at_a_model_leaves_it_as_it_was():
    model = tiny_gpt2()
    ids = torch.tensor([[1, 2, 3]])
    before = model(ids).logits
    Trunk(model)
    assert torch.equal(model(ids).logits, before)
