"""What acts is what learns: the check when a policy is built, and the slower path where cached columns are wrong.

The truth is a plain pass of the whole model over each sequence alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BartConfig,
    BartForCausalLM,
    BertGenerationConfig,
    BertGenerationDecoder,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    PreTrainedModel,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
    ReformerConfig,
    ReformerModelWithLMHead,
)

from tests.helpers import next_logits, tiny_bart, tiny_gpt2, tiny_llama, tiny_t5, word_mdp, word_tokenizer
from textgym.agents import PPO, SFTSettings, fine_tune
from textgym.agents.loop.acting import acting_policy
from textgym.agents.offline.data import encode_demonstrations
from textgym.agents.offline.dpo import train_dpo
from textgym.agents.offline.preferences import encode_comparisons
from textgym.lm import agreement
from textgym.lm.agreement import (
    SlowActingWarning,
    UncachedDecoder,
    check_agreement,
    check_backward,
    check_whole_passes,
    make_decoder,
)
from textgym.lm.decoding import PrefixDecoder, SlotCache
from textgym.lm.parts.seq2seq import Seq2SeqDecoder
from textgym.lm.trunk import Trunk
from textgym.types import Ranking

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
    valid = episodes.own
    np.testing.assert_allclose(episodes.log_probs[valid], scored.ref_log_probs[valid], atol=1e-4)
    algorithm.train(episodes)
    assert any(not torch.equal(p, before[name]) for name, p in algorithm.policy.lm.named_parameters())


def env_of(mdp: Any) -> Any:
    from textgym.agents.loop.slots import admitting_env

    return admitting_env(mdp, 8)


def test_a_model_that_looks_ahead_is_refused():
    with pytest.raises(ValueError, match=r"(?s)BertGenerationDecoder .* differ by .* nats.*is_decoder=False"):
        acting_policy(loud(bidirectional), word_mdp())


def test_models_that_look_ahead_are_no_reference_and_are_not_fine_tuned():
    with pytest.raises(ValueError, match="BertGenerationDecoder predicts a token differently"):
        PPO(env=env_of(word_mdp()), model=tiny_gpt2(), reference=loud(bidirectional), device="cpu")
    shown = encode_demonstrations([{"prompt": "w1 w2", "completion": "w3 w4"}] * 2, word_tokenizer(), 1)
    with pytest.raises(ValueError, match="BertGenerationDecoder predicts a token differently"):
        fine_tune(loud(bidirectional), shown, validation=shown)
    pairs = encode_comparisons([Ranking("w1", ("w2", "w3 w4"), (0, 1))] * 2, word_tokenizer(), 1)
    with pytest.raises(ValueError, match="BertGenerationDecoder predicts a token differently"):
        train_dpo(loud(bidirectional), pairs, held_out=pairs)


class LengthDependent(torch.nn.Module):
    """An embedding that is scaled by the sequence's length: no prefix is what it was in the whole."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    @property
    def weight(self) -> Any:
        return self.inner.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.inner(ids) * ids.shape[1]


def test_a_model_whose_past_depends_on_its_length_is_refused():
    model = loud(tiny_gpt2)
    model.transformer.wte = LengthDependent(model.transformer.wte)
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel .* differ by"):
        check_agreement(Trunk(model), P + T, P)


def test_cached_columns_that_are_read_wrongly_are_noticed(monkeypatch):
    """Mutations of the cached path: it is then left for the slower one, and says why."""
    model = loud(tiny_llama)

    def without_mask(self: SlotCache, *arguments: Any) -> torch.Tensor:
        return torch.ones_like(append(self, *arguments))

    append = SlotCache.append
    monkeypatch.setattr(SlotCache, "append", without_mask)
    with pytest.warns(SlowActingWarning, match="differs from plain passes by"):
        assert not check_agreement(Trunk(model), P + T, P)


def test_positions_that_only_a_restart_shows_are_noticed(monkeypatch):
    """Rotary positions are relative, so rows that begin together are right without any; one that restarts is not."""
    model = loud(tiny_llama)
    monkeypatch.setattr("textgym.lm.decoding.accepted", lambda *_, **__: {})
    with pytest.warns(SlowActingWarning, match="differs from plain passes by"):
        assert not check_agreement(Trunk(model), P + T, P)


def test_a_window_that_only_the_end_of_the_width_reaches_is_noticed(monkeypatch):
    """The last columns are looked at too: here every cached row forgets what stands 9 columns back."""
    model = loud(tiny_gpt2)

    def short_sighted(self: SlotCache, start: int, longest: int, mask: torch.Tensor) -> torch.Tensor:
        whole = append(self, start, longest, mask).clone()
        if mask.shape[1] == 1:
            whole[:, :-9] = False
        return whole

    append = SlotCache.append
    monkeypatch.setattr(SlotCache, "append", short_sighted)
    with pytest.warns(SlowActingWarning, match="differs from plain passes by"):
        assert not check_agreement(Trunk(model), 16, 8)


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama, tiny_t5, tiny_bart])
def test_columns_that_do_not_move_are_noticed(make, monkeypatch):
    """A mutation of rows that grow by several tokens, while others grow by fewer."""
    model = loud(make)
    monkeypatch.setattr(SlotCache, "_shift", lambda *_: None)
    with pytest.warns(SlowActingWarning, match="differs from plain passes by"):
        assert not check_agreement(Trunk(model), P + T, P)


class FromTheStart(torch.nn.Module):
    """Positions of a pass that count from its first token; right when rows begin, and for one token as it is."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return self.inner(positions if positions.shape[-1] == 1 else positions - positions[..., :1])


def test_a_model_that_continues_by_single_tokens_only_is_noticed():
    model = loud(tiny_gpt2)
    model.transformer.wpe = FromTheStart(model.transformer.wpe)
    with pytest.warns(SlowActingWarning, match="differs from plain passes by"):
        assert not check_agreement(Trunk(model), P + T, P)


def test_a_window_that_only_replies_at_the_end_reach_is_noticed(monkeypatch):
    """As above, but only passes of several tokens forget."""
    model = loud(tiny_gpt2)

    def short_sighted(self: SlotCache, start: int, longest: int, mask: torch.Tensor) -> torch.Tensor:
        whole = append(self, start, longest, mask).clone()
        if 1 < mask.shape[1] < longest:
            whole[:, : -mask.shape[1] - 20] = False
        return whole

    append = SlotCache.append
    monkeypatch.setattr(SlotCache, "append", short_sighted)
    with pytest.warns(SlowActingWarning, match="differs from plain passes by"):
        assert not check_agreement(Trunk(model), 40, 8)


@pytest.mark.parametrize("horizon", [1, 2, 7, 40])
def test_what_is_played_lies_in_the_response(horizon):
    shown = list(agreement._schedule(horizon))
    assert all(0 <= t < horizon for rows in shown for _, t in rows)
    assert shown[-1] == ((2, horizon - 1), (0, horizon - 1))


def test_what_is_played_has_every_kind_of_growth():
    """Both rows by several tokens, unlike numbers of them; one by several beside one; both by one."""
    shown = list(agreement._schedule(40))
    grown = [
        tuple(t - before for (which, t), (former, before) in zip(now, then, strict=True) if which == former)
        for then, now in pairwise(shown)
    ]
    assert grown == [(1, 1), (1,), (1, 1), (3, 2), (1, 5), (1, 1), (), (3, 5), (1, 1)]


def test_training_passes_that_read_other_tokens_are_noticed(monkeypatch):
    """A mutation of the passes of training: padding on the left stays where it was."""
    monkeypatch.setattr("textgym.lm.parts.backbones.tokens_first", lambda ids, mask: ids[:, : int(mask.sum(1).max())])
    with pytest.raises(ValueError, match=r"LlamaForCausalLM gives a sequence other log-prob.* in a batch .* differ by"):
        check_agreement(Trunk(loud(tiny_llama)), P + T, P)


def test_weights_that_are_not_finite_are_named():
    model = tiny_gpt2()
    with torch.no_grad():
        model.transformer.wte.weight[5] = torch.nan
    with pytest.raises(ValueError, match="the logits of GPT2LMHeadModel are not finite"):
        check_agreement(Trunk(model), P + T, P)


def test_what_the_models_code_raises_is_told_in_words():
    class Fussy(torch.nn.Module):
        def forward(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("images are missing")

    model = tiny_gpt2()
    model.transformer.h[1] = Fussy()
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel cannot be taken apart .* RuntimeError: images are missing"):
        Trunk(model)


def test_a_model_that_cannot_be_trained_with_dropout_off_is_refused():
    """Reformer's reversible layers insist on training mode; that shows in the backward pass alone."""
    config = ReformerConfig(
        vocab_size=16,
        hidden_size=32,
        attn_layers=["local", "local"],
        num_attention_heads=2,
        attention_head_size=16,
        feed_forward_size=32,
        axial_pos_embds=False,
        max_position_embeddings=32,
        local_attn_chunk_length=8,
        is_decoder=True,
    )
    with pytest.raises(ValueError, match="ReformerModelWithLMHead cannot be trained as it acts"):
        check_backward(Trunk(ReformerModelWithLMHead(config).eval()))
    check_backward(Trunk(tiny_gpt2()))
    check_backward(Trunk(tiny_t5()))


@torch.no_grad()
def test_an_encoder_decoder_reads_prompts_without_a_response():
    """The slower path's first token."""
    model = tiny_bart()
    ids, mask = np.full((1, P + T), 5), np.zeros((1, P + T), np.int8)
    mask[0, :P] = 1
    logits = UncachedDecoder(Trunk(model), 1, P).logits(ids, mask, np.arange(1))
    torch.testing.assert_close(logits[0], next_logits(model, [5] * P, []), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_cast_with_a_word(dtype):
    model = tiny_llama().to(dtype)
    with pytest.warns(UserWarning, match=f"weights are {str(dtype).removeprefix('torch.')}; they are cast to float32"):
        policy = acting_policy(model, word_mdp())
    assert {p.dtype for p in policy.lm.parameters()} == {torch.float32}
    assert policy.lm is model


def test_models_of_one_configuration_are_checked_once(monkeypatch):
    checked: list[str] = []
    monkeypatch.setattr(agreement, "_CACHED", {})
    check = agreement.check_agreement
    monkeypatch.setattr(agreement, "check_agreement", lambda *a: checked.append("one") or check(*a))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(3):
            assert isinstance(make_decoder(tiny_gpt2(seed=seed), 2, P + T, P), PrefixDecoder)
        assert isinstance(make_decoder(tiny_t5(), 2, P + T, P), Seq2SeqDecoder)
    assert checked == ["one", "one"]


class Forbidding(torch.nn.Module):
    """A head that forbids a token, as models do that keep tokens for images."""

    def __init__(self, inner: torch.nn.Module, value: float) -> None:
        super().__init__()
        self.inner = inner
        self.value = value

    @property
    def weight(self) -> Any:
        return self.inner.weight

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        logits = self.inner(states).clone()
        logits[..., 3] = self.value
        return logits


@pytest.mark.parametrize("value", [-torch.inf, torch.finfo(torch.float32).min])
def test_tokens_that_a_model_forbids_are_left_out(value, monkeypatch):
    model = loud(tiny_llama)
    model.lm_head = Forbidding(model.lm_head, value)
    assert check_agreement(Trunk(model), P + T, P)
    monkeypatch.setattr("textgym.lm.decoding.accepted", lambda *_, **__: {})  # and what is wrong is still seen
    with pytest.warns(SlowActingWarning, match="differs from plain passes by"):
        assert not check_agreement(Trunk(model), P + T, P)


@pytest.mark.parametrize("scale", [1e-2, 1e-4, 0.0])
def test_logits_that_are_all_but_equal_are_no_false_alarm(scale):
    """There only the last bits of log V differ."""
    for make in (tiny_gpt2, tiny_llama):
        model = make()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale)
        assert check_agreement(Trunk(model), P + T, P)


@pytest.mark.parametrize("padding", [16, -1, None])
def test_padding_that_the_model_does_not_embed_is_not_read(padding):
    model = tiny_gpt2()
    model.config.pad_token_id = padding
    assert check_agreement(Trunk(model), P + T, P)


def test_fewer_bits_in_products_are_allowed_for(monkeypatch):
    """Products of 10 bits, as TF32 has, simulated: no false alarm once torch was told to use them."""
    linear = torch.nn.functional.linear

    def rounded(x: torch.Tensor) -> torch.Tensor:
        return (x.view(torch.int32) & ~0x1FFF).view(torch.float32)

    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, w, b=None: linear(rounded(x), rounded(w), b))
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert check_agreement(Trunk(loud(tiny_llama)), P + T, P)


@torch.no_grad()
def test_what_is_compared_is_small():
    """No ``[T, V]`` array is kept, however long the response: a few dozen positions are."""
    model = tiny_gpt2(positions=512)
    sequences, _ = check_whole_passes(Trunk(model), 512, 8)
    assert all(s.log_probs.shape == (len(s.positions), 16) for s in sequences)
    assert len(sequences[0].positions) < 45
    assert {0, 252, 497, 499, 502, 503} <= set(sequences[0].positions.tolist())
    ids = torch.from_numpy(np.concatenate([sequences[0].prompt, sequences[0].response]))[None]
    plain = model(ids).logits[0, 7:].log_softmax(-1)
    torch.testing.assert_close(sequences[0].before(252), plain[252], atol=1e-5, rtol=1e-5)


def test_a_model_that_is_still_in_training_mode_is_fine_tuned():
    """As every constructor leaves it; nothing of torch's generator is drawn."""
    model = GPT2LMHeadModel(tiny_gpt2().config)
    assert model.training
    shown = encode_demonstrations([{"prompt": "w1 w2", "completion": "w3 w4"}] * 2, word_tokenizer(), 1)
    before = torch.get_rng_state()
    fine_tune(model, shown, validation=shown, settings=SFTSettings(epochs=1, batch_size=2), progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_horizon_of_one_token_can_be_checked():
    assert check_agreement(Trunk(tiny_gpt2()), 4, 3)
    assert check_agreement(Trunk(tiny_gpt2()), 2, 1)
