"""What acts is what learns: the check when a policy is built, and the slower path where cached columns are wrong.

The truth is a plain pass of the whole model over each sequence alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BartConfig,
    BartForCausalLM,
    BertGenerationConfig,
    BertGenerationDecoder,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    PreTrainedModel,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from tests.helpers import next_logits, tiny_bart, tiny_gpt2, tiny_llama, tiny_t5, word_mdp
from textgym.agents import PPO
from textgym.lm.agreement import (
    SlowActingWarning,
    UncachedDecoder,
    check_agreement,
    make_decoder,
)
from textgym.lm.decoding import PrefixDecoder
from textgym.lm.trunk import Trunk

P, T = 5, 8

SIZES: dict[str, Any] = {"vocab_size": 16, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
STACK = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def loud(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Return a model whose logits differ by several nats, so that a wrong position is seen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0)
    return model


def bart_decoder() -> PreTrainedModel:
    """Absolute positions, and no position_ids in ``forward``."""
    sizes = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 64}
    return BartForCausalLM(BartConfig(**SIZES, **sizes, max_position_embeddings=32))


def mamba() -> PreTrainedModel:
    return MambaForCausalLM(MambaConfig(**SIZES, hidden_size=32, num_hidden_layers=2, state_size=4))


def gpt1() -> PreTrainedModel:
    """Take no cache at all."""
    return OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=16, n_embd=32, n_layer=2, n_head=2, n_positions=32))


def qwen3_next() -> PreTrainedModel:
    """Linear attention beside full attention, and experts."""
    config = Qwen3NextConfig(
        **SIZES,
        **STACK,
        num_key_value_heads=2,
        head_dim=8,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    )
    return Qwen3NextForCausalLM(config)


def mixtral() -> PreTrainedModel:
    config = MixtralConfig(**SIZES, **STACK, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2)
    return MixtralForCausalLM(config)


def bidirectional() -> PreTrainedModel:
    return BertGenerationDecoder(BertGenerationConfig(**SIZES, **STACK, is_decoder=False))


UNCACHED = {"bart decoder": bart_decoder, "mamba": mamba, "gpt-1": gpt1, "qwen3-next": qwen3_next}
CACHED = {"gpt2": tiny_gpt2, "llama": tiny_llama, "mixtral": mixtral, "t5": tiny_t5, "bart": tiny_bart}


@pytest.fixture(params=UNCACHED)
def uncached(request: pytest.FixtureRequest) -> PreTrainedModel:
    return loud(UNCACHED[request.param])


@pytest.mark.parametrize("name", CACHED)
def test_models_with_a_column_cache_decode_from_it(name):
    """A false alarm would be a warning, which fails a test."""
    model = loud(CACHED[name])
    assert check_agreement(Trunk(model), P + T, P)
    assert isinstance(make_decoder(model, 2, P + T, P), PrefixDecoder)


def test_the_slower_path_gives_what_plain_passes_give(uncached):
    with pytest.warns(SlowActingWarning, match=f"{type(uncached).__name__} acts without a cache"):
        assert not check_agreement(Trunk(uncached), P + T, P)
    decoder = make_decoder(uncached, 3, P + T, P)
    assert isinstance(decoder, UncachedDecoder)
    rng = np.random.default_rng(0)
    ids = rng.integers(16, size=(3, P + T))
    mask = np.zeros((3, P + T), np.int8)
    for row, (prompt, response) in enumerate([(5, 0), (1, 3), (3, 7)]):
        mask[row, P - prompt : P + response] = 1
    got = decoder.logits(ids, mask, np.array([2, 0, 1]))
    for logits, row in zip(got, [2, 0, 1], strict=True):
        with torch.no_grad():
            expected = next_logits(uncached, ids[row][mask[row] != 0].tolist(), [])
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::textgym.lm.agreement.SlowActingWarning")
def test_models_without_a_column_cache_are_trained(uncached):
    """Nothing moved yet, so acting, training and reference must agree on every token."""
    algorithm = PPO(
        env=env_of(word_mdp()), model=uncached, episodes_per_iteration=8, minibatch_size=8, n_epochs=1, device="cpu"
    )
    before = {name: p.detach().clone() for name, p in algorithm.policy.lm.named_parameters()}
    episodes = algorithm.collect()
    assert episodes is not None
    scored = algorithm.score(episodes)
    valid = episodes.valid
    np.testing.assert_allclose(episodes.log_probs[valid], scored.ref_log_probs[valid], atol=1e-4)
    algorithm.train(episodes)
    assert any(not torch.equal(p, before[name]) for name, p in algorithm.policy.lm.named_parameters())


def env_of(mdp: Any) -> Any:
    from textgym.agents.loop.slots import admitting_env

    return admitting_env(mdp, 8)
