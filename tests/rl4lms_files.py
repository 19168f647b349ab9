"""RL4LMs' files, in its structure, from the published settings: for each task what all files share, and the rest.

A setting is named by its whole path. Files are those of allenai/RL4LMs at 97df0bd, scripts/training/task_configs.
"""

from __future__ import annotations

from typing import Any

POLICY = "alg.policy.args"
GENERATE = f"{POLICY}.generation_kwargs"
EVALUATE = "train_evaluation.generation_kwargs"
SHORT = {
    "n_envs": "env.n_envs",
    "n_steps": "alg.args.n_steps",
    "batch_size": "alg.args.batch_size",
    "lr": "alg.args.learning_rate",
    "n_epochs": "alg.args.n_epochs",
    "ent_coef": "alg.args.ent_coef",
    "coeff": "alg.kl_div.coeff",
    "target_kl": "alg.kl_div.target_kl",
    "model": f"{POLICY}.model_name",
    "top_mask": f"{POLICY}.top_mask",
    "keep": f"{POLICY}.min_tokens_to_keep",
    "refresh": f"{POLICY}.target_update_iterations",
    "policy_side": f"{POLICY}.prompt_truncation_side",
    "env_side": "env.args.prompt_truncation_side",
    "P": "env.args.max_prompt_length",
    "T": "env.args.max_episode_length",
    "start": "env.args.context_start_token",
    "n_iters": "train_evaluation.n_iters",
    "eval_every": "train_evaluation.eval_every",
    "save_every": "train_evaluation.save_every",
    "eval_batch_size": "train_evaluation.eval_batch_size",
    "tokenizer": "tokenizer.model_name",
    "pad_eos": "tokenizer.pad_token_as_eos_token",
    "reward": "reward_fn.id",
    "pool": "datapool.id",
}
"""Abbreviations of the tables below."""
COMMON = {
    "tokenizer.padding_side": "left",
    "tokenizer.truncation_side": "left",
    "n_envs": 10,
    "env.args.terminate_on_eos": True,
    "alg.args.verbose": 1,
    f"{POLICY}.apply_model_parallel": True,
    f"{GENERATE}.do_sample": True,
}
NLPO = {f"{POLICY}.mask_type": "learned_top_p"}
WARM = {
    "imdb": "rajkumarrrk/gpt2-fine-tuned-on-imdb-positive-reviews",
    "commongen": "rajkumarrrk/t5-common-gen",
    "cnndm": "rajkumarrrk/t5-base-fine-tuned-on-cnn-dm",
    "totto": "rajkumarrrk/t5-base-fine-tuned-on-totto",
    "iwslt": "rajkumarrrk/t5-fine-tuned-on-iwslt2017en_de",
    "dailydialog": "rajkumarrrk/gpt2-fine-tuned-on-daily-dialog",
}
MASK = {"top_mask": 0.9, "refresh": 20}
RIGHT = {"env_side": "right", "policy_side": "right"}

IMDB = {
    "tokenizer": "lvwerra/gpt2-imdb",
    "pad_eos": True,
    "reward": "learned_reward",
    "reward_fn.args.model_name": "lvwerra/distilbert-imdb",
    "reward_fn.args.label_ix": 1,
    "reward_fn.args.include_prompt_for_eval": True,
    "pool": "imdb",
    "P": 64,
    "T": 48,
    "lr": 1e-6,
    "coeff": 0.1,
    f"{GENERATE}.min_length": 48,
    f"{GENERATE}.max_new_tokens": 48,
}
IMDB_ON_POLICY = {
    "datapool.args.seed": 42,
    "n_steps": 128,
    "batch_size": 64,
    "n_epochs": 5,
    "target_kl": 0.1,
    "n_iters": 50,
    "eval_every": 10,
    "save_every": 10,
}
COMMONGEN = {
    "tokenizer": "t5-base",
    "pad_eos": False,
    "pool": "commongen",
    "datapool.args.concept_end_token": ".",
    "datapool.args.concept_separator_token": " ",
    "datapool.args.prefix": "generate a sentence with: ",
    "T": 20,
    "start": 0,
    "batch_size": 64,
    "lr": 2e-6,
    "n_epochs": 5,
    f"{GENERATE}.max_new_tokens": 20,
    f"{EVALUATE}.max_new_tokens": 20,
}
BEAMS = {f"{EVALUATE}.num_beams": 5, f"{EVALUATE}.min_length": 5}
ON_COMMONGEN_SFT = {
    "P": 20,
    **RIGHT,
    "n_steps": 128,
    "ent_coef": 0.01,
    "coeff": 0.01,
    "target_kl": 1,
    "model": WARM["commongen"],
    f"{GENERATE}.top_k": 50,
    f"{GENERATE}.min_length": 5,
    "eval_batch_size": 50,
    "n_iters": 100,
    "eval_every": 5,
    "save_every": 20,
    **BEAMS,
}
REPEAT = {"reward": "meteor", "reward_fn.args.shaping_fn": "common_gen_repeat_penalty"}
CNNDM = {
    "tokenizer": "t5-base",
    "pad_eos": False,
    "pool": "cnn_daily_mail",
    "datapool.args.prompt_prefix": "Summarize: ",
    "P": 512,
    "T": 100,
    **RIGHT,
    "start": 0,
    "n_steps": 512,
    "batch_size": 64,
    "lr": 2e-6,
    "n_epochs": 5,
    "ent_coef": 0,
    "target_kl": 0.2,
    f"{GENERATE}.min_length": 50,
    f"{GENERATE}.max_new_tokens": 100,
    "eval_batch_size": 100,
    "eval_every": 10,
    "save_every": 1,
    f"{EVALUATE}.do_sample": True,
    f"{EVALUATE}.top_k": 0,
    f"{EVALUATE}.temperature": 0.7,
    f"{EVALUATE}.min_length": 50,
    f"{EVALUATE}.max_new_tokens": 100,
}
TOTTO = {
    "tokenizer": "t5-base",
    "tokenizer.truncation_side": "right",
    "pad_eos": False,
    "reward": "meteor",
    "pool": "totto",
    "datapool.args.representation": "subtable",
    "P": 512,
    "T": 50,
    "start": 0,
    "n_steps": 256,
    "batch_size": 64,
    "n_epochs": 5,
    f"{GENERATE}.min_length": 10,
    f"{GENERATE}.max_new_tokens": 50,
    "eval_batch_size": 100,
    "n_iters": 100,
    "eval_every": 20,
    "save_every": 1,
    f"{EVALUATE}.num_beams": 5,
    f"{EVALUATE}.min_length": 10,
    f"{EVALUATE}.max_new_tokens": 50,
}
NARRATIVEQA = {
    "pad_eos": False,
    "reward": "rouge_l_max",
    "reward_fn.args.max_n": 4,
    "reward_fn.args.limit_length": True,
    "reward_fn.args.length_limit": 100,
    "reward_fn.args.length_limit_type": "words",
    "reward_fn.args.apply_avg": True,
    "reward_fn.args.apply_best": True,
    "reward_fn.args.alpha": 0.5,
    "reward_fn.args.weight_factor": 1.2,
    "reward_fn.args.stemming": True,
    "pool": "narrative_qa",
    "P": 512,
    "T": 50,
    "start": 0,
    "env_side": "right",
    "batch_size": 64,
    "n_epochs": 5,
    "coeff": 0.001,
    f"{GENERATE}.top_k": 50,
    "eval_batch_size": 50,
    "n_iters": 100,
    "eval_every": 10,
    "save_every": 1,
    f"{EVALUATE}.num_beams": 4,
}
UNIFIED = {"tokenizer": "allenai/unifiedqa-t5-base", "model": "allenai/unifiedqa-t5-base"}
IWSLT = {
    "tokenizer": "t5-base",
    "pad_eos": False,
    "reward": "ter",
    "pool": "iwslt2017en_de",
    "datapool.args.prompt_prefix": "translate English to German: ",
    "P": 128,
    "T": 128,
    **RIGHT,
    "start": 0,
    "n_steps": 512,
    "batch_size": 64,
    "n_epochs": 5,
    "ent_coef": 0,
    "coeff": 0.001,
    "target_kl": 0.2,
    f"{GENERATE}.max_new_tokens": 128,
    "eval_batch_size": 50,
    "n_iters": 50,
    "eval_every": 10,
    "save_every": 1,
    f"{EVALUATE}.num_beams": 4,
    f"{EVALUATE}.length_penalty": 0.6,
    f"{EVALUATE}.max_new_tokens": 128,
}
DAILYDIALOG = {
    "tokenizer": "gpt2",
    "pad_eos": True,
    "reward": "intent_accuracy",
    "pool": "daily_dialog",
    "datapool.args.context_size": 5,
    "P": 128,
    "T": 20,
    "n_steps": 128,
    "batch_size": 64,
    "lr": 1e-6,
    "n_epochs": 5,
    "coeff": 0.2,
    f"{GENERATE}.top_k": 20,
    f"{GENERATE}.min_length": 2,
    f"{GENERATE}.max_new_tokens": 20,
    "eval_batch_size": 32,
    "eval_every": 5,
    "save_every": 10,
    f"{EVALUATE}.do_sample": True,
    f"{EVALUATE}.top_k": 20,
    f"{EVALUATE}.min_length": 2,
    f"{EVALUATE}.max_new_tokens": 20,
}


def _intent(intent: float, meteor: float) -> dict[str, Any]:
    return {"reward_fn.args.intent_coeff": intent, "reward_fn.args.auto_coeff": meteor}


LOVED = {"model": "lvwerra/gpt2-imdb"}
KEPT = {**MASK, "keep": 100}
TOP = f"{GENERATE}.top_k"
TOTTO_T5 = {"lr": 2e-6, "coeff": 0.001, "target_kl": 2, "model": "t5-base", TOP: 0}
TOTTO_WARM = {"lr": 5e-7, "coeff": 0.01, "target_kl": 0.2, "model": WARM["totto"]}
QA_T5 = {"tokenizer": "t5-base", "model": "t5-base", "n_steps": 256, "lr": 2e-6, "target_kl": 1}
QA_WARM = {**UNIFIED, "lr": 5e-7, "target_kl": 0.2}
CNN_T5 = {"coeff": 0.001, "model": "t5-base", "n_iters": 100}
CNN_WARM = {"reward": "meteor", "coeff": 0.01, "model": WARM["cnndm"], TOP: 100, "n_iters": 50}
IWSLT_MASK = {"keep": 100, "refresh": 20, "top_mask": 0.5}
TABLES: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "imdb": (
        IMDB,
        {
            "ppo": {**IMDB_ON_POLICY, **LOVED, "eval_batch_size": 64},
            "nlpo": {**IMDB_ON_POLICY, **LOVED, "eval_batch_size": 64, **KEPT, "refresh": 5},
            "ppo-sft": {**IMDB_ON_POLICY, "model": WARM["imdb"], "eval_batch_size": 256},
            "nlpo-sft": {**IMDB_ON_POLICY, "model": WARM["imdb"], "eval_batch_size": 256, **KEPT, "refresh": 5},
            "a2c": {
                "n_envs": 2,
                "n_steps": 48,
                "target_kl": 0.5,
                **LOVED,
                "eval_batch_size": 256,
                "n_iters": 100,
                "eval_every": 20,
                "save_every": 1,
                "datapool.args": {},
            },
        },
    ),
    "commongen": (
        COMMONGEN,
        {
            "ppo": {
                **REPEAT,
                "P": 20,
                **RIGHT,
                "n_steps": 256,
                "ent_coef": 0.01,
                "coeff": 0.001,
                "target_kl": 2,
                "model": "t5-base",
                TOP: 0,
                f"{GENERATE}.min_length": 5,
                "eval_batch_size": 20,
                "n_iters": 200,
                "eval_every": 20,
                "save_every": 1,
                **BEAMS,
            },
            "nlpo": {
                **REPEAT,
                "P": 15,
                "n_steps": 128,
                "coeff": 0.001,
                "target_kl": 2,
                "model": "t5-base",
                TOP: 50,
                f"{GENERATE}.min_length": 10,
                "eval_batch_size": 100,
                "n_iters": 100,
                "eval_every": 10,
                "save_every": 20,
                f"{EVALUATE}.min_length": 10,
                **MASK,
                f"{EVALUATE}.do_sample": True,
                f"{EVALUATE}.top_k": 50,
            },
            "ppo-sft": {
                **ON_COMMONGEN_SFT,
                "reward": "common_gen_preference_model",
                "reward_fn.args.device": "cpu",
                "reward_fn.args.batch_size": 5,
                "reward_fn.args.model_type": "11b",
            },
            "nlpo-sft": {**ON_COMMONGEN_SFT, "reward": "meteor", **MASK},
        },
    ),
    "cnndm": (
        CNNDM,
        {
            "ppo": {**CNN_T5, "reward": "rouge", "reward_fn.args.rouge_type": "rouge1", TOP: 50},
            "nlpo": {**CNN_T5, "reward": "meteor", TOP: 100, **KEPT},
            "ppo-sft": CNN_WARM,
            "nlpo-sft": {**CNN_WARM, **KEPT, "refresh": 30},
        },
    ),
    "totto": (
        TOTTO,
        {
            "ppo": TOTTO_T5,
            "nlpo": {**TOTTO_T5, **MASK},
            "ppo-sft": {**TOTTO_WARM, TOP: 50},
            "nlpo-sft": {**TOTTO_WARM, TOP: 0, **MASK},
        },
    ),
    "narrativeqa": (
        NARRATIVEQA,
        {
            "ppo": {**QA_T5, "policy_side": "right"},
            "nlpo": {**QA_T5, **MASK},
            "ppo-sft": {
                **QA_WARM,
                "n_steps": 512,
                "policy_side": "right",
                f"{GENERATE}.max_new_tokens": 50,
                f"{EVALUATE}.max_new_tokens": 50,
            },
            "nlpo-sft": {**QA_WARM, "n_steps": 256, **MASK, f"{EVALUATE}.max_new_tokens": 50},
        },
    ),
    "iwslt": (
        IWSLT,
        {
            "ppo": {"lr": 1e-6, "model": "t5-base", TOP: 10},
            "nlpo": {"lr": 1e-6, "model": "t5-base", TOP: 10, **IWSLT_MASK},
            "ppo-sft": {"lr": 5e-7, "model": WARM["iwslt"], TOP: 5},
            "nlpo-sft": {"lr": 5e-7, "model": WARM["iwslt"], TOP: 10, **IWSLT_MASK},
        },
    ),
    "dailydialog": (
        DAILYDIALOG,
        {
            "ppo": {**_intent(0.75, 0.25), "target_kl": 0.5, "model": "gpt2", "n_iters": 50},
            "nlpo": {**_intent(0.75, 0.25), "target_kl": 0.5, "model": "gpt2", "n_iters": 100, **KEPT},
            "ppo-sft": {**_intent(0.5, 0.5), "target_kl": 0.05, "model": WARM["dailydialog"], "n_iters": 50},
            "nlpo-sft": {**_intent(0.25, 0.75), "target_kl": 0.05, "model": WARM["dailydialog"], "n_iters": 50, **KEPT},
        },
    ),
}
"""The seven tasks: settings of all files of a task, and those of each."""
METEOR: list[dict[str, Any]] = [
    {"id": "meteor", "args": {}},
    {"id": "rouge"},
    {"id": "bleu", "args": {}},
    {"id": "bert_score", "args": {"language": "en"}},
]
PERPLEXITY = {"id": "causal_perplexity", "args": {"tokenizer_id": "gpt2", "stride": 512, "model_type": "causal"}}
METRICS: dict[str, list[dict[str, Any]]] = {
    "imdb": [
        {
            "id": "learned_reward",
            "args": {"model_name": "lvwerra/distilbert-imdb", "label_ix": 1, "batch_size": 100},
        },
        PERPLEXITY,
        {"id": "diversity", "args": {}},
    ],
    "commongen": [*METEOR, {"id": "cider"}, {"id": "spice"}, {"id": "diversity", "args": {}}],
    "cnndm": [*METEOR, {"id": "diversity", "args": {}}],
    "totto": [
        *({"id": "meteor"}, {"id": "parent_totto"}, {"id": "rouge", "args": {"use_single_ref": False}}),
        *({"id": "bleu_totto"}, {"id": "bert_score", "args": {"language": "en"}}, {"id": "diversity"}),
    ],
    "narrativeqa": [*METEOR, {"id": "rouge_l_max", "args": {"max_n": 4, "apply_best": "True,"}}, {"id": "diversity"}],
    "iwslt": [*METEOR, {"id": "sacre_bleu", "args": {"tokenize": "intl"}}, {"id": "ter"}, {"id": "chrf"}],
    "dailydialog": [{"id": "intent_accuracy"}, PERPLEXITY, *METEOR],
}
"""Metrics of each task; a few differ between its files, which no conversion shows."""
NAMES = [f"{task}-{variant}" for task, (_, variants) in TABLES.items() for variant in variants]
SUPERVISED: dict[str, Any] = {
    "tokenizer.model_name": "t5-base",
    "tokenizer.padding_side": "left",
    "tokenizer.truncation_side": "right",
    "tokenizer.pad_token_as_eos_token": False,
    "datapool.id": "commongen",
    "datapool.args.concept_end_token": ".",
    "datapool.args.concept_separator_token": " ",
    "datapool.args.prefix": "generate a sentence with: ",
    "alg.id": "supervised",
    "alg.training_args.per_device_train_batch_size": 8,
    "alg.training_args.logging_steps": 5000,
    "alg.training_args.num_train_epochs": 4,
    "alg.training_args.weight_decay": 0.01,
    "alg.training_args.lr_scheduler_type": "cosine",
    "alg.training_args.learning_rate": 1e-5,
    "alg.model_type": "seq2seq",
    "alg.model_name": "t5-base",
    "alg.generation_kwargs.num_beams": 5,
    "alg.generation_kwargs.min_length": 5,
    "alg.generation_kwargs.max_new_tokens": 20,
    "alg.generation_kwargs.post_processing_fn": None,
    "train_evaluation.eval_batch_size": 100,
    "train_evaluation.metrics": METRICS["commongen"],
}


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings by whole names as YAML nests them."""
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        *sections, last = name.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return tree


def rl4lms_file(name: str) -> dict[str, Any]:
    """Return the file of a task and an algorithm, such as ``imdb-nlpo-sft``, as YAML would read it."""
    task, _, variant = name.partition("-")
    shared, variants = TABLES[task]
    algorithm = variant.removesuffix("-sft")
    own = {SHORT.get(key, key): value for key, value in {**COMMON, **shared, **variants[variant]}.items()}
    kind = "causal_lm" if task in ("imdb", "dailydialog") else "seq2seq_lm"
    policy = f"{'maskable_' if algorithm == 'nlpo' else ''}{kind}_actor_critic_policy"
    own |= {"alg.id": algorithm, "alg.policy.id": policy, "train_evaluation.metrics": METRICS[task]}
    return nested({**own, **(NLPO if algorithm == "nlpo" else {})})
