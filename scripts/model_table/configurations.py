"""The architectures and variants that are tried."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)


@dataclass(frozen=True)
class Configuration:
    """One row of the table.

    Attributes:
        model_type: a key of ``CONFIG_MAPPING``.
        cls: the name of its class.
        varies: what is different from the default; empty for nothing.
        fields: config fields that are given.
    """

    model_type: str
    cls: str
    varies: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


ALL_BUT_ONE_LINEAR = ["linear_attention", "full_attention", "linear_attention"]

ZAMBA = {
    "layers_block_type": ["linear_attention", "hybrid"] * 2,
    "num_hidden_layers": 4,
    "attention_hidden_size": 64,
    "attention_head_dim": 16,
}

INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}

NEEDS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere": {"logit_scale": 0.5},
    "cohere2": {"logit_scale": 0.5},
    "cohere2_moe": {"logit_scale": 0.5},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
            for kind in ("sliding_attention", "full_attention")
        },
        "logit_scale": 0.5,
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dory": {"num_hidden_layers": 3, "n_input_layers": 1, "n_recurrent_layers": 1, "n_output_layers": 1},
    "dots1": {"num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1},
    "dots3_note": {
        "text_config": {"per_layer_config": {}, "head_dim": 16},
        "vision_config": {"adapter_in_dim": 32, "adapter_out_dim": 32},
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32},
    },
    "dots3_note_text": {"per_layer_config": {}, "head_dim": 16},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "intermediate_size": [64] * 4,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
    },
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0}},
    "granitemoehybrid": {"layer_types": ALL_BUT_ONE_LINEAR},
    "inkling_text": {"logits_mup_width_multiplier": 2.0},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "mamba2": {"head_dim": 16},
    "minicpm3": {"dim_model_base": 32},
    "qwen4_exp": {"text_config": INDEXER},
    "qwen4_exp_text": INDEXER,
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 16]},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": ZAMBA,
    "zamba2": ZAMBA,
    "zaya": {"num_experts_per_tok": 1},
}
"""Config fields without which a shrunk architecture cannot be built or run."""


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


LONG = {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0], "factor": 4.0}

ENCODERS = (
    *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert"),
    *("rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod"),
)
"""Architectures that look both ways unless they are told to be decoders."""

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "llama": {
        "linear rope": _rope("linear", factor=4.0),
        "yarn": _rope("yarn", factor=4.0, original_max_position_embeddings=32),
        "llama3 rope": _rope(
            "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
        ),
        "dynamic rope": _rope("dynamic", factor=4.0),
        "dynamic rope, trained on 16": {**_rope("dynamic", factor=4.0), "max_position_embeddings": 16},
        "longrope": _rope("longrope", original_max_position_embeddings=64, **LONG),
        "longrope, trained on 16": _rope("longrope", original_max_position_embeddings=16, **LONG),
        "tied, biases": {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
        "one key head": {"num_key_value_heads": 1},
        "eager attention": {"attn_implementation": "eager"},
    },
    "mistral": {"no window": {"sliding_window": None}, "eager attention": {"attn_implementation": "eager"}},
    "mixtral": {"window": {"sliding_window": 8}},
    "qwen2": {"window in upper layers": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}},
    "qwen2_moe": {"first layer dense": {"mlp_only_layers": [0]}},
    "qwen3_next": {"full attention only": {"layer_types": ["full_attention"] * 3}},
    "gemma2": {
        "no caps": {"final_logit_softcapping": None, "attn_logit_softcapping": None},
        "tight caps": {"final_logit_softcapping": 4.0, "attn_logit_softcapping": 2.0},
        "eager attention": {"attn_implementation": "eager"},
    },
    "gemma3_text": {"capped head": {"final_logit_softcapping": 4.0}},
    "granite": {
        "scaled": {
            "logits_scaling": 2.0,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.25,
        }
    },
    "granitemoe": {"scaled": {"logits_scaling": 2.0, "embedding_multiplier": 3.0, "attention_multiplier": 0.25}},
    "granitemoehybrid": {"attention only": {"layer_types": ["full_attention"] * 3}},
    "cohere": {"logit scale as published": {"logit_scale": 0.0625}},
    "falcon_h1": {"scaled": {"lm_head_multiplier": 0.5, "embedding_multiplier": 2.0, "key_multiplier": 0.5}},
    "gpt2": {
        "untied, relu": {"tie_word_embeddings": False, "activation_function": "relu"},
        "scaled by layer, upcast": {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
        "eager attention": {"attn_implementation": "eager"},
    },
    "gpt_bigcode": {"many key heads": {"multi_query": False}},
    "gpt_neo": {
        "local only": {"attention_types": [[["local"], 3]], "num_layers": 3, "attention_layers": ["local"] * 3}
    },
    "gpt_neox": {
        "rotary in full": {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}
        },
        "sequential residual": {"use_parallel_residual": False},
    },
    "opt": {
        "norm after": {"do_layer_norm_before": False},
        "narrow embedding": {"word_embed_proj_dim": 16},
        "eager attention": {"attn_implementation": "eager"},
    },
    "bloom": {"norm after, eager": {"apply_residual_connection_post_layernorm": True, "attn_implementation": "eager"}},
    "falcon": {
        "alibi": {"alibi": True},
        "new decoder": {"new_decoder_architecture": True},
        "one key a head, sequential": {"multi_query": False, "parallel_attn": False, "num_kv_heads": 4},
        "alibi, eager": {"alibi": True, "attn_implementation": "eager"},
    },
    "phi3": {"window": {"sliding_window": 8}, "partial rotary": {"partial_rotary_factor": 0.5}},
    "starcoder2": {"window": {"sliding_window": 8}},
    "smollm3": {"window": {"use_sliding_window": True, "sliding_window": 8}},
    "deepseek_v3": {"groups of experts": {"n_group": 2, "topk_group": 1, "n_routed_experts": 8}},
    "gpt_oss": {"eager attention": {"attn_implementation": "eager"}},
    "dbrx": {"eager attention": {"attn_implementation": "eager", "attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0}}},
    "reformer": {"local only": {"attn_layers": ["local"] * 3}},
    "xlm": {"causal": {"causal": True}},
    "t5": {"gated, untied (1.1)": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}},
    "longt5": {"transient global": {"encoder_attention_type": "transient-global"}},
    "bart": {"scaled embedding": {"scale_embedding": True}},
    **{name: {"decoder": {"is_decoder": True}} for name in ENCODERS},
}
"""Config fields of variants that read, mask or place tokens in another way, or that compute other logits."""


def configurations() -> list[Configuration]:
    """Return every architecture, each followed by its variants."""
    both = [*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items(), *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.items()]
    found = []
    for model_type, cls in dict.fromkeys(both):
        needs = NEEDS.get(model_type, {})
        found.append(Configuration(model_type, cls, fields=needs))
        for varies, fields in VARIANTS.get(model_type, {}).items():
            found.append(Configuration(model_type, cls, varies, {**needs, **fields}))
    return found
