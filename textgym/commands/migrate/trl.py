"""TRL's PPOConfig: before version 0.12 with names of its own, since then as a subclass of TrainingArguments.

Neither is part of TRL any more (1.16). Defaults are those of versions 0.11 and 0.29.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textgym.commands.migrate.conversion import Conversion, Kind, Ledger, flat
from textgym.commands.migrate.rl4lms import NO_CLIP, REPLACE
from textgym.commands.migrate.scripts import CONFIG, TRAINER, Unread, read_script
from textgym.commands.yaml_files import read_yaml
from textgym.files import read_json

LATER_NAMES = {
    *("num_ppo_epochs", "num_mini_batches", "total_episodes", "response_length", "stop_token", "stop_token_id"),
    *("missing_eos_penalty", "kl_coef", "kl_estimator", "whiten_rewards", "sft_model_path", "reward_model_path"),
    *(
        "per_device_train_batch_size",
        "local_rollout_forward_batch_size",
        "num_sample_generations",
        "model_name_or_path",
    ),
    *("output_dir", "temperature", "report_to", "num_train_epochs", "lr_scheduler_type", "eval_strategy"),
}
"""Settings since TRL 0.12."""
EARLIER_NAMES = {
    *("steps", "adap_kl_ctrl", "init_kl_coef", "kl_penalty", "target", "horizon", "ppo_epochs", "forward_batch_size"),
    *("early_stopping", "target_kl", "compare_steps", "ratio_threshold", "use_score_scaling", "use_score_norm"),
    *("score_clip", "log_with", "model_name", "query_dataset", "reward_model", "optimize_cuda_cache"),
    *("optimize_device_cache", "tracker_project_name", "tracker_kwargs", "accelerator_kwargs", "task_name"),
}
"""Settings before."""
SHARED_NAMES = {
    *("learning_rate", "batch_size", "mini_batch_size", "gradient_accumulation_steps", "seed", "gamma", "lam"),
    *("cliprange", "cliprange_value", "vf_coef", "max_grad_norm"),
}
RESPONSE_LENGTH = 48
"""T where a file before 0.12 does not say it: that of ``textgym train``."""
SERVICES = ("tensorboard", "wandb", "trackio")


def convert_trl(path: Path) -> Conversion:
    """Convert a script or a file of settings.

    Raises:
        ValueError: the file cannot be read, or holds no setting of PPOConfig.
    """
    settings = _read(path)
    own = {name for name in settings if "." not in name}
    if not own & (LATER_NAMES | EARLIER_NAMES | SHARED_NAMES) and path.suffix != ".py":
        raise ValueError(f"{path} holds no setting of TRL's {CONFIG}, such as learning_rate, kl_coef or init_kl_coef")
    unread = {name: value for name, value in settings.items() if isinstance(value, Unread)}
    ledger = Ledger(str(path), {name: value for name, value in settings.items() if name not in unread})
    _computed(ledger, unread)
    if own & EARLIER_NAMES and not own & LATER_NAMES:
        _earlier(ledger)
    elif own & LATER_NAMES or not own:
        _later(ledger)
    else:
        _earlier(ledger)
    ledger.add("default", (), {"algorithm": "ppo"})
    ledger.add(
        "unneeded", [name for name in ledger.open if name in MACHINERY], note="It changes no number of the training"
    )
    if not any("task" in item.settings or "prompts" in item.settings for item in ledger.items):
        note = 'The prompts are the script\'s own. Write them to a file, a row {"prompt": …} each, and pass --prompts '
        note += "FILE; or choose a task, --task ID"
        named = [name for name in ledger.open if name in PROMPTS]
        ledger.add("none", named, note=note)
        if not named:
            ledger.remark(note)
    return ledger.close("train", "textgym migrate does not know this setting; look for it in 'textgym train --help'")


GENERATE = tuple(
    f"generate.{name}"
    for name in (
        "pad_token_id",
        "eos_token_id",
        "return_prompt",
        "generate_ref_response",
        "length_sampler",
        "batch_size",
    )
)
"""Arguments of ``generate`` on which no number depends here."""
PROMPTS = (
    "query_dataset",
    "dataset_name",
    "dataset_config",
    "dataset_train_split",
    "dataset_test_split",
    "dataset_num_proc",
)
MACHINERY = {
    *("exp_name", "task_name", "remove_unused_columns", "tracker_kwargs", "accelerator_kwargs", "project_kwargs"),
    *(
        "tracker_project_name",
        "push_to_hub_if_best_kwargs",
        "optimize_cuda_cache",
        "optimize_device_cache",
        "world_size",
    ),
    *("is_encoder_decoder", "is_peft_model", "run_name", "local_rollout_forward_batch_size", "num_sample_generations"),
    *(
        "push_to_hub",
        "hub_model_id",
        "ds3_gather_for_generation",
        "logging_steps",
        "gradient_checkpointing",
        "compare_steps",
    ),
    *("disable_tqdm", "save_total_limit", "per_device_eval_batch_size", "save_strategy", "overwrite_output_dir"),
    *(
        "trust_remote_code",
        "attn_implementation",
        "hub_token",
        "logging_dir",
        "logging_first_step",
        "do_train",
        "do_eval",
    ),
}
"""Settings on which no number depends here."""


def _read(path: Path) -> dict[str, Any]:
    """Return the settings of a file by name."""
    if path.suffix == ".py":
        return read_script(path)
    if path.suffix == ".json":
        tree = read_json(path)
        if not isinstance(tree, dict):
            raise ValueError(f"{path}: expected a mapping of settings, got {type(tree).__name__}")
    elif path.suffix in (".yaml", ".yml"):
        tree = read_yaml(path)
    else:
        raise ValueError(f"{path}: expected a script, .py, or settings in .yaml, .yml or .json")
    inner = tree.get("ppo_config", {})
    if isinstance(inner, dict):
        tree = {**{key: value for key, value in tree.items() if key != "ppo_config"}, **inner}
    sampling = tree.get("generation_kwargs", {})
    if isinstance(sampling, dict):
        tree = {key: value for key, value in tree.items() if key != "generation_kwargs"}
        tree |= {f"generate.{key}": value for key, value in sampling.items()}
    return {
        name: value
        for key, given in tree.items()
        for name, value in (flat(given, str(key)) if isinstance(given, dict) else [(str(key), given)])
    }


def _computed(ledger: Ledger, unread: dict[str, Unread]) -> None:
    """Account for values that a script computes."""
    for name, value in unread.items():
        ledger.open[name] = value.text
        if not name.startswith(f"{TRAINER}.") and name not in (*MACHINERY, *PROMPTS, *GENERATE):
            note = "The script computes it when it runs; look its value up, and add it by hand"
            ledger.add("none", name, note=note)
    note = "textgym makes models, tokenizer and data from --model, --reference, --value, --reward and --prompts"
    ledger.add("unneeded", ledger.under(TRAINER), note=note)


# --- both ------------------------------------------------------------------------------------------------------


def _plain(ledger: Ledger, name: str, ours: str, default: float, *, whole: bool = False, note: str = "") -> None:
    """Account for a setting that keeps its meaning, but for what a note says."""
    value = ledger.whole(name, int(default), least=0) if whole else ledger.number(name, default)
    given = ledger.open.get(name) is not None
    ledger.add(("changed" if note else "converted") if given else "default", name, {ours: value}, note if given else "")


def _losses(ledger: Ledger) -> None:
    _plain(ledger, "lam", "gae_lambda", 0.95)
    _plain(ledger, "cliprange", "clip_range", 0.2)
    _plain(ledger, "cliprange_value", "clip_range_vf", 0.2)
    _plain(ledger, "vf_coef", "vf_coef", 0.1)
    if ledger.number("gamma", 1.0) == 1.0:
        ledger.add("converted", "gamma", note="γ is 1: a response is paid whole, at its end")
    else:
        ledger.add("none", "gamma", note="γ is 1: a response is paid whole, at its end")


def _log(ledger: Ledger, name: str) -> None:
    given = ledger.open.get(name)
    asked = [one for one in (given if isinstance(given, list) else [given]) if one not in (None, "none")]
    services = [one for one in asked if one in SERVICES]
    if services:
        ledger.add("converted", name, {"log": services})
    elif asked:
        ledger.add("none", name, note=f"Metrics go to the run's directory, and with --log to {', '.join(SERVICES)}")
    else:
        ledger.add("unneeded", name, note="Metrics always go to the run's directory")


# --- before 0.12 -----------------------------------------------------------------------------------------------


def _earlier(ledger: Ledger) -> None:
    if ledger.open.get("model_name") is not None:
        ledger.add("converted", "model_name", {"model": str(ledger.open["model_name"])})
    judge = str(ledger.open.get("reward_model") or "")
    spec = f"clf:{judge.rpartition(':')[2]},label=LABEL" if ":" in judge else f"rm:{judge}" if judge else REPLACE
    note = "The script scores texts itself. Name the classifier's label, clf:DIR,label=LABEL, a reward model, rm:DIR, "
    note += "or a function of yours, FILE.py:function"
    if judge:
        ledger.add("none", "reward_model", {"reward": spec}, note)
    else:
        ledger.add("unneeded", "reward_model", note="It is empty")
        ledger.remark(note, {"reward": spec})
    new = _sampling(ledger)
    size = ledger.whole("batch_size", 256)
    ledger.add(
        "converted" if "batch_size" in ledger.open else "default",
        "batch_size",
        {"episodes_per_iteration": max(2, size)},
    )
    _minibatches(ledger, size)
    _plain(ledger, "ppo_epochs", "n_epochs", 4, whole=True)
    note = (
        f"steps counts responses; here a run ends by its tokens, {new} a response. A loop over a data loader ignores it"
    )
    steps = ledger.whole("steps", 20_000)
    given = "steps" in ledger.open
    ledger.add("changed" if given else "default", "steps", {"total_timesteps": steps * new}, note)
    note = "It was constant; here it decays linearly to 0 over the run"
    rate = ledger.number("learning_rate", 1e-5)
    ledger.add(
        "changed" if "learning_rate" in ledger.open else "default", "learning_rate", {"learning_rate": rate}, note
    )
    _controller(ledger)
    _losses(ledger)
    if ledger.open.get("max_grad_norm") is None:
        ledger.add("default", "max_grad_norm", {"max_grad_norm": NO_CLIP}, "The gradient is not scaled down")
    else:
        _plain(ledger, "max_grad_norm", "max_grad_norm", 1.0)
    if ledger.open.get("early_stopping") is True:
        bound = ledger.number("target_kl", 1.0)
        ledger.add(
            "converted", ("early_stopping", "target_kl"), {"target_kl": bound}, "An update ends above 1.5 times this"
        )
    else:
        ledger.add(
            "unneeded", ("early_stopping", "target_kl"), note="Without early_stopping TRL does not read target_kl"
        )
        ledger.add("default", (), {"target_kl": 0.0}, "An update does not end early")
    ledger.add("default", (), {"warmup_iterations": 0}, "No warm-up")
    ledger.add("default", (), {"value": "trunk"}, "The critic is a head on the policy")
    _plain(ledger, "seed", "seed", 0, whole=True)
    _log(ledger, "log_with")
    note = "Scores are used as they are; scale or clip them in a function of yours"
    for name in ("use_score_scaling", "use_score_norm", "score_clip"):
        ledger.add("none" if ledger.open.get(name) else "unneeded", name, note=note)
    ledger.add("none", "ratio_threshold", note="No minibatch is skipped; a run with a wrong first ratio stops")


def _sampling(ledger: Ledger) -> int:
    """Account for the arguments of ``generate``; return T."""
    at = "generate."
    given = ledger.open.get(f"{at}max_new_tokens") is not None
    new = ledger.whole(f"{at}max_new_tokens", RESPONSE_LENGTH)
    note = "" if given else "The file does not say how long responses may be"
    ledger.add("converted" if given else "default", f"{at}max_new_tokens", {"max_new_tokens": new}, note)
    if f"{at}top_k" in ledger.open:
        ledger.add("converted", f"{at}top_k", {"top_k": ledger.whole(f"{at}top_k", 0, least=0)})
    for name in ("top_p", "temperature"):
        if f"{at}{name}" in ledger.open:
            ledger.add("converted", f"{at}{name}", {name: ledger.number(f"{at}{name}", 1.0)})
    least = ledger.number(f"{at}min_length", -1)
    if least > 0:
        note = "min_length of transformers counts the prompt of a decoder; this counts the response alone"
        ledger.add("changed", f"{at}min_length", {"min_new_tokens": int(least)}, note)
    ledger.add("unneeded", f"{at}min_length", note="There is no minimum")
    if ledger.open.get(f"{at}do_sample", True) is True:
        ledger.add("converted", f"{at}do_sample", note="Responses are always sampled")
    ledger.add("unneeded", GENERATE, note="textgym pads and ends responses by the model's tokenizer")
    ledger.add(
        "none", ledger.under("generate"), note="Training samples by temperature, top_k, top_p and min_new_tokens alone"
    )
    return new


def _minibatches(ledger: Ledger, size: int) -> None:
    """Account for minibatches before 0.12: accumulated ones are one step."""
    if ledger.open.get("forward_batch_size") is not None:
        part, names = ledger.whole("forward_batch_size"), ["forward_batch_size", "mini_batch_size"]
    else:
        part, names = ledger.whole("mini_batch_size", 1), ["mini_batch_size"]
    accumulated = ledger.whole("gradient_accumulation_steps", 1)
    names = [name for name in [*names, "gradient_accumulation_steps"] if name in ledger.open]
    note = (
        f"{part} × {accumulated} responses are one step; what fits into memory is found by textgym"
        if accumulated > 1
        else ""
    )
    kind: Kind = ("changed" if note else "converted") if names else "default"
    ledger.add(kind, names, {"minibatch_size": min(size, part * accumulated)}, note)
    ledger.add("unneeded", ("forward_batch_size",), note="It is null")


def _controller(ledger: Ledger) -> None:
    """Account for the KL before 0.12."""
    beta = ledger.number("init_kl_coef", 0.2)
    ledger.add("converted" if "init_kl_coef" in ledger.open else "default", "init_kl_coef", {"beta": beta})
    if ledger.open.get("adap_kl_ctrl", True):
        for name, ours, default in (("target", "kl_target", 6.0), ("horizon", "kl_horizon", 10_000.0)):
            _plain(ledger, name, ours, default)
        ledger.add("converted", "adap_kl_ctrl", note="A kl_target makes β adaptive, by the same rule")
    else:
        ledger.add("converted", "adap_kl_ctrl", note="Without a kl_target β stays fixed")
        ledger.add("unneeded", ("target", "horizon"), note="β stays fixed")
    if ledger.open.get("kl_penalty", "kl") == "kl":
        ledger.add("converted", "kl_penalty", note="The price of a token is β·(log π - log π_ref)")
    else:
        note = "The price of a token is β·(log π - log π_ref), whose expectation is the KL; others have another optimum"
        ledger.add("none", "kl_penalty", note=note)


# --- since 0.12 ------------------------------------------------------------------------------------------------


def _later(ledger: Ledger) -> None:
    _models(ledger)
    length = "max_new_tokens" if "max_new_tokens" in ledger.open else "response_length"
    new = ledger.whole(length, 53)
    ledger.add("converted" if length in ledger.open else "default", length, {"max_new_tokens": new})
    _plain(ledger, "temperature", "temperature", 0.7)
    size = _batches(ledger)
    _plain(ledger, "num_ppo_epochs", "n_epochs", 4, whole=True)
    _budget(ledger, new, size)
    _rates(ledger)
    _plain(ledger, "kl_coef", "beta", 0.05)
    if ledger.open.get("kl_estimator", "k1") == "k1":
        ledger.add("converted", "kl_estimator", note="The KL in the reward is always by k1")
    else:
        note = "The KL in the reward is by k1: in a reward, k3 has the gradient of another divergence"
        ledger.add("none", "kl_estimator", note=note)
    _losses(ledger)
    _ends(ledger)
    note = "TRL's PPO reads no bound of the gradient's norm, and did not scale it down"
    if ledger.open.get("max_grad_norm") is None:
        ledger.add("default", "max_grad_norm", {"max_grad_norm": NO_CLIP}, note)
    else:
        note = f"{note}; here it is. 1000000 is none"
        ledger.add("changed", "max_grad_norm", {"max_grad_norm": ledger.number("max_grad_norm")}, note)
    ledger.add("default", (), {"target_kl": 0.0}, "An update does not end early")
    white = ledger.open.get("whiten_rewards") is True
    ledger.add("none" if white else "unneeded", "whiten_rewards", note="Rewards are not whitened; advantages are")
    _plain(ledger, "seed", "seed", 42, whole=True)
    _steps(ledger)
    _log(ledger, "report_to")
    if ledger.open.get("output_dir") is not None:
        ledger.add("converted", "output_dir", {"out": str(ledger.open["output_dir"])})
    note = "A run is in the model's own precision"
    ledger.add("none", ("bf16", "fp16", "dtype", "torch_dtype"), note=note)
    lora = [
        name for name in ledger.open if name.startswith(("lora_", "use_peft", "load_in_", "use_dora", "use_rslora"))
    ]
    note = 'Adapters are made in Python, policy_kwargs={"lora": rank}, or come with --model'
    ledger.add("none", lora, note=note)
    for name in [name for name in ledger.open if name.startswith("reward_shaping_")]:
        used = ledger.open[name] not in (False, 0, 0.0, None)
        note = "Write it as a further reward: 'textgym rewards' lists those of length and repetition"
        ledger.add("none" if used else "unneeded", name, note=note if used else "It is off")
    derived = (
        "batch_size",
        "mini_batch_size",
        "micro_batch_size",
        "local_batch_size",
        "local_mini_batch_size",
        "num_total_batches",
    )
    ledger.add("unneeded", derived, note="TRL computes it from the others when it starts")


def _models(ledger: Ledger) -> None:
    policy = ledger.open.get("sft_model_path") or ledger.open.get("model_name_or_path")
    if policy is not None:
        own = "sft_model_path" if ledger.open.get("sft_model_path") else "model_name_or_path"
        ledger.add("converted", own, {"model": str(policy)}, "It is the reference of the KL, too")
    ledger.add("unneeded", "model_name_or_path", note="It named the tokenizer; a model's own is used")
    path = ledger.open.get("reward_model_path")
    if path is None:
        note = "TRL scored by a sequence classifier with one output. Name one, rm:DIR, or another reward"
        ledger.remark(note, {"reward": REPLACE})
    else:
        note = "The critic starts from the reward model, as in TRL's scripts. Texts are encoded by its own tokenizer"
        ledger.add("changed", "reward_model_path", {"reward": f"rm:{path}", "value": str(path)}, note)
    ledger.add(
        "none",
        ("model_adapter_name", "ref_adapter_name"),
        note="The reference is --reference; adapters come with --model",
    )


def _batches(ledger: Ledger) -> int:
    """Account for batches; return the responses of an iteration."""
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    part, accumulated = ledger.whole(names[0], 8), ledger.whole(names[1], 1)
    size = max(2, part * accumulated)
    note = f"{part} × {accumulated} responses an iteration, on one device; multiply by the number of yours"
    given = [name for name in names if name in ledger.open]
    ledger.add("changed" if given else "default", given, {"episodes_per_iteration": size}, note)
    parts = ledger.whole("num_mini_batches", 1)
    given = [name for name in ("num_mini_batches",) if name in ledger.open]
    minibatch = max(1, size // parts)
    note = f"The {size} responses of an iteration in {parts} parts" if parts > 1 else ""
    kind: Kind = ("changed" if note else "converted") if given else "default"
    ledger.add(kind, given, {"minibatch_size": minibatch}, note)
    return size


def _budget(ledger: Ledger, new: int, size: int) -> None:
    if ledger.open.get("total_episodes") is not None:
        episodes = ledger.whole("total_episodes")
        note = f"{episodes:,} responses of at most {new} tokens; here a run ends by its tokens"
        ledger.add("changed", "total_episodes", {"total_timesteps": episodes * new}, note)
        ledger.add("unneeded", "num_train_epochs", note="TRL reads total_episodes first")
        return
    note = "Passes over the prompts became tokens; multiply your prompts by their passes and by max_new_tokens. "
    note += f"Until then it is one of {size} responses"
    if "num_train_epochs" in ledger.open:
        ledger.add("none", "num_train_epochs", {"total_timesteps": size * new}, note)
    else:
        ledger.remark(note, {"total_timesteps": size * new})


def _rates(ledger: Ledger) -> None:
    schedule = ledger.open.get("lr_scheduler_type", "linear")
    _plain(ledger, "learning_rate", "learning_rate", 5e-5)
    note = "The rate decays linearly to 0 over the run"
    ledger.add("converted" if schedule == "linear" else "none", "lr_scheduler_type", note=note)
    _plain(ledger, "warmup_steps", "warmup_iterations", 0, whole=True)
    ratio = ledger.open.get("warmup_ratio")
    note = "Give the number of iterations, --warmup-iterations"
    ledger.add("none" if ratio else "unneeded", "warmup_ratio", note=note if ratio else "It is 0")
    adam = [name for name in ledger.open if name.startswith(("adam_", "optim")) or name == "weight_decay"]
    ledger.add("none", adam, note="The optimiser is Adam with betas 0.9 and 0.999, and without weight decay")


def _ends(ledger: Ledger) -> None:
    if ledger.open.get("stop_token") == "eos":
        ledger.add("converted", "stop_token", note="The model's end token ends a response")
    elif ledger.open.get("stop_token_id") is not None:
        note = "The model's end tokens end a response: set eos_token_id in its generation_config.json"
        ledger.add("none", "stop_token_id", note=note)
    else:
        note = "Without a stop token TRL cut no response; here the model's end token ends it"
        ledger.remark(note)
    ledger.add("unneeded", ("stop_token", "stop_token_id"), note="It is null")
    if ledger.open.get("missing_eos_penalty") is None:
        ledger.add("unneeded", "missing_eos_penalty", note="It is null")
        return
    penalty = ledger.number("missing_eos_penalty")
    note = "TRL takes the penalty off the score of a response without an end; here this is its score"
    ledger.add("changed", "missing_eos_penalty", {"missing_end_score": -penalty}, note)


def _steps(ledger: Ledger) -> None:
    """Account for evaluations and checkpoints; a step of TRL is an iteration."""
    for name, ours in (("eval_steps", "eval_every"), ("save_steps", "checkpoint_every")):
        value = ledger.open.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            ledger.add("converted", name, {ours: value}, "A step of TRL is an iteration")
        else:
            ledger.add("none", name, note=f"Give the number of iterations, --{ours.replace('_', '-')}")
    ledger.add("unneeded", ("eval_strategy", "evaluation_strategy"), note="Evaluations are every eval_every iterations")
