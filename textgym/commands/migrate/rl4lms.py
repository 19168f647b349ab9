"""RL4LMs' YAML files (Ramamurthy 2022), read with the defaults of its code at commit 97df0bd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from textgym.commands.migrate.conversion import Conversion, Ledger, flat, rounded
from textgym.names import suggest

NO_CLIP = 1e6
"""A bound that is never reached, where the other library had none."""
SECTIONS = ("tokenizer", "reward_fn", "datapool", "env", "alg", "train_evaluation")
NEEDED = {"supervised": ("tokenizer", "datapool", "alg")}
"""Sections that an algorithm needs; the others need all."""
ROLLOUT = "alg.policy.args.generation_kwargs"
EVALUATION = "train_evaluation.generation_kwargs"
REPLACE = "FILE.py:function"
"""Stands for a reward that has to be written."""
REGEX_OF_REPETITION = "regex:(?i)generate|sentence,-1"
TARGET = "RL4LMs' controller: β·(1 + 0.1·clip(KL/target - 1, ±0.2)) once an iteration"


@dataclass(frozen=True)
class Pool:
    """Data pool of RL4LMs.

    Attributes:
        task: the id of textgym's task with the same data and prompts.
        cut: the side at which that task shortens prompts.
        prompt: arguments of the pool that the task's prompts have already.
    """

    task: str
    cut: str
    prompt: Mapping[str, Any] = field(default_factory=dict)


POOLS = {
    "imdb": Pool("textgym/IMDB-v0", "left"),
    "imdb_seq2seq": Pool("textgym/IMDB-v0", "left"),
    "commongen": Pool(
        "textgym/CommonGen-v0",
        "right",
        {"concept_end_token": ".", "concept_separator_token": " ", "prefix": "generate a sentence with: "},
    ),
    "cnn_daily_mail": Pool("textgym/CNNDailyMail-v0", "right", {"prompt_prefix": "Summarize: "}),
    "totto": Pool("textgym/ToTTo-v0", "left", {"representation": "subtable"}),
    "narrative_qa": Pool("textgym/NarrativeQA-v0", "right"),
    "iwslt2017en_de": Pool("textgym/IWSLT2017-v0", "right", {"prompt_prefix": "translate English to German: "}),
    "daily_dialog": Pool("textgym/DailyDialog-v0", "left", {"context_size": 5}),
}


@dataclass(frozen=True)
class Defaults:
    """Settings of an algorithm that a file may leave open, in RL4LMs' units."""

    n_steps: int = 2048
    batch_size: int | None = 64
    n_epochs: int = 10
    learning_rate: float = 3e-4
    gae_lambda: float | None = 0.95


DEFAULTS = {
    "ppo": Defaults(),
    "nlpo": Defaults(),
    "a2c": Defaults(n_steps=5, batch_size=None, n_epochs=1, learning_rate=7e-4, gae_lambda=None),
    "trpo": Defaults(batch_size=128, learning_rate=1e-3),
}


def convert_rl4lms(tree: Mapping[Any, Any], source: str) -> Conversion:
    """Convert the settings of an RL4LMs file.

    Args:
        tree: the settings, as they are nested in YAML.
        source: the file, which begins the errors.

    Raises:
        ValueError: a section is missing or unknown, or a value is none that RL4LMs would take.
    """
    _check_sections(tree, source)
    ledger = Ledger(source, dict(flat(tree)))
    algorithm = str(ledger.open["alg.id"])
    _data(ledger)
    if algorithm == "supervised":
        _supervised(ledger)
    else:
        _tokenizer(ledger, "alg.policy.args.model_name")
        _reward(ledger)
        sizes = _environment(ledger)
        _rollout(ledger)
        _algorithm(ledger, algorithm, *sizes)
        _policy(ledger, algorithm)
    _evaluation(ledger)
    why = "textgym migrate does not know this setting; look for it in 'textgym train --help'"
    return ledger.close("sft" if algorithm == "supervised" else "train", why)


def _check_sections(tree: Mapping[Any, Any], source: str) -> None:
    """Raise ValueError unless a file has the sections of RL4LMs."""
    if not set(SECTIONS) & set(tree):
        raise ValueError(
            f"{source} is no file of RL4LMs: expected the sections {', '.join(SECTIONS)}, got {_some(tree)}"
        )
    for name, part in tree.items():
        if name not in SECTIONS:
            hint = suggest(str(name), SECTIONS, before="; ")
            raise ValueError(f"{source}: the section {name!r} is unknown{hint}; RL4LMs has {', '.join(SECTIONS)}")
        if not isinstance(part, Mapping):
            raise ValueError(f"{source}: the section {name!r} is {part!r:.60}; expected a mapping")
    alg = tree.get("alg", {})
    algorithm = str(alg.get("id"))
    needed = NEEDED.get(algorithm, SECTIONS)
    missing = [name for name in needed if name not in tree]
    missing += [f"{name}.id" for name in ("alg", "datapool", "reward_fn") if name in needed and _lacks_id(tree, name)]
    if missing:
        raise ValueError(f"{source} lacks {', '.join(missing)}, without which RL4LMs does not start")
    if algorithm not in (*DEFAULTS, "supervised"):
        hint = suggest(algorithm, DEFAULTS, before="; ")
        raise ValueError(f"{source}: alg.id={algorithm!r}; expected one of {', '.join(DEFAULTS)}, supervised{hint}")


def _lacks_id(tree: Mapping[Any, Any], section: str) -> bool:
    return section in tree and tree[section].get("id") is None


def _some(tree: Mapping[Any, Any]) -> str:
    return ", ".join(map(repr, list(tree)[:6])) or "nothing"


# --- data ------------------------------------------------------------------------------------------------------


def _data(ledger: Ledger) -> None:
    name = str(ledger.open["datapool.id"])
    pool = POOLS.get(name)
    if pool is None:
        ledger.add(
            "none",
            ledger.under("datapool"),
            note=f'No task of textgym has the pool {name!r}. Write its prompts to a file, a row {{"prompt": …}} each '
            "with its references as a further column, and pass --prompts FILE --validation FILE",
        )
        return
    ledger.add("converted", "datapool.id", {"task": pool.task})
    for key, own in pool.prompt.items():
        path = f"datapool.args.{key}"
        if ledger.open.get(path, own) == own:
            ledger.add("converted", path, note=f"{pool.task} writes prompts so")
        else:
            ledger.add("none", path, note=f"{pool.task} has {own!r} there; write prompts of your own, --prompts FILE")
    if ledger.open.get("datapool.args.seed") is not None:
        seed = ledger.whole("datapool.args.seed", least=0)
        note = "The seed draws the validation split, by another generator. --parameters replaces the whole list"
        ledger.add("changed", "datapool.args.seed", {"parameters": ["seed", seed]}, note)
    ledger.add(
        "none",
        "datapool.args.positive_ratio",
        note="The task's demonstrations have both labels. Write the reviews of label 1 to a file, and pass --data FILE",
    )
    ledger.add("unneeded", [path for path in ("datapool.args",) if not ledger.open.get(path)], note="It is empty")


def _tokenizer(ledger: Ledger, model: str) -> None:
    path = "tokenizer.model_name"
    if ledger.open.get(path) in (None, ledger.open.get(model)):
        ledger.add("converted", path, note="A model's own tokenizer is used")
    else:
        ledger.add(
            "changed", path, note=f"The tokenizer is that of {model}, {ledger.open.get(model)!r}; check that it has one"
        )
    note = "Prompts are padded on the left, and padding is never trained on"
    ledger.add("unneeded", ("tokenizer.padding_side", "tokenizer.pad_token_as_eos_token"), note=note)
    note = "RL4LMs' environment sets it to prompt_truncation_side before it encodes a prompt"
    ledger.add("unneeded", "tokenizer.truncation_side", note=note)


def _cut(ledger: Ledger) -> None:
    """Account for the side at which prompts are cut."""
    env, policy = (f"{part}.args.prompt_truncation_side" for part in ("env", "alg.policy"))
    pool = POOLS.get(str(_id_of(ledger, "datapool")))
    own = "left" if pool is None else pool.cut
    keeps = {"left": "keeps the end of a prompt", "right": "keeps the beginning of a prompt"}[own]
    who = pool.task if pool else "--truncation left"
    if env not in ledger.open and own != "left":
        ledger.remark(f"Prompts that are too long were cut on the left, RL4LMs' default; {who} {keeps}")
    if ledger.open.get(env, "left") != own and env in ledger.open:
        ledger.add("none", env, note=f"{who} {keeps}; to cut otherwise, cut prompts of your own, --prompts FILE")
    ledger.add("converted", env, {} if pool else {"truncation": "left"}, f"{who} {keeps}")
    ledger.add("unneeded", policy, note="It was the side for evaluation; here both cut alike")


def _id_of(ledger: Ledger, section: str) -> Any:
    """Return the id of a section that may be accounted for already."""
    given = [item.given[f"{section}.id"] for item in ledger.items if f"{section}.id" in item.given]
    return ledger.open.get(f"{section}.id", given[0] if given else None)


# --- the reward ------------------------------------------------------------------------------------------------


def _reward(ledger: Ledger) -> None:
    name = str(ledger.open["reward_fn.id"])
    if name in REWARDS:
        REWARDS[name](ledger)
    else:
        lost = LOST_REWARDS.get(name, f"No reward of textgym is RL4LMs' {name!r}")
        note = f"{lost}. Write it as a function in FILE.py, or choose one that 'textgym rewards' lists"
        ledger.add("none", ledger.under("reward_fn"), {"reward": REPLACE}, note)
    ledger.add("unneeded", [path for path in ("reward_fn.args",) if not ledger.open.get(path)], note="It is empty")


LOST_REWARDS = {
    "common_gen_preference_model": "The preference model, T5 of 11 billion parameters, is not part of textgym",
    "spider": "CIDEr and SPICE need the statistics of a corpus, and Java",
    "parent": "PARENT needs the table of each sample",
    "increasing_numbers": "The synthetic reward is not part of textgym, whose diagnostic tasks have an exact optimum",
    "bleurt": "BLEURT is a model with code of its own",
    "bert_score": "BERTScore is a model with code of its own",
}


def _learned(ledger: Ledger) -> None:
    model, label = "reward_fn.args.model_name", "reward_fn.args.label_ix"
    index = ledger.whole(label, least=0)
    if ledger.open.get(model) is None:
        raise ValueError(f"the file has no {model}, the classifier of its reward learned_reward; add it")
    known = {"lvwerra/distilbert-imdb": ("NEGATIVE", "POSITIVE")}.get(str(ledger.open.get(model)), ())
    named = known[index] if index < len(known) else f"LABEL_{index}"
    spec = f"clf:{ledger.open.get(model)},label={named},too_long=truncate"
    note = "The label is given by name, and a text too long for the classifier is cut on the left, as there"
    ledger.add("changed" if not known else "converted", ("reward_fn.id", model, label), {"reward": spec}, note)
    keys = ("include_prompt_for_eval", "include_prompt_for_train", "batch_size", "device")
    note = "The classifier reads prompt and response, the default of clf:"
    ledger.add("converted", f"reward_fn.args.{keys[0]}", note=note)
    ledger.add("unneeded", [f"reward_fn.args.{key}" for key in keys[1:]])


def _meteor(ledger: Ledger) -> None:
    note = (
        "The best of all references counts, of which RL4LMs' pools mostly have one. Synonyms count only with "
        "meteor,wordnet=FOLDER; without them scores are somewhat lower"
    )
    shaped = ledger.open.get("reward_fn.args.shaping_fn")
    spec = f"meteor {REGEX_OF_REPETITION}" if shaped == "common_gen_repeat_penalty" else "meteor"
    ledger.add("changed", "reward_fn.id", {"reward": spec}, note)
    if spec != "meteor":
        note = (
            f"The penalty of -1 is {REGEX_OF_REPETITION}, for 'generate' and 'sentence'; RL4LMs also gave it to a text "
            "that holds all concepts of the prompt in a row"
        )
        ledger.add("changed", "reward_fn.args.shaping_fn", {"reward": spec}, note)


def _rouge(ledger: Ledger) -> None:
    kind = str(ledger.open.get("reward_fn.args.rouge_type", "rougeL")).removeprefix("rouge")
    kind = {"Lsum": "Lsum", "L": "L", "1": "1", "2": "2"}.get(kind, "L")
    ledger.add(
        "changed",
        ("reward_fn.id", "reward_fn.args.rouge_type", "reward_fn.args.use_single_ref"),
        {"reward": f"rouge,kind={kind},stem=true"},
        "The best of all references counts; RL4LMs read the first, but for use_single_ref False",
    )


def _rouge_combined(ledger: Ledger) -> None:
    spec = " ".join(f"rouge,kind={kind},stem=true,0.333333" for kind in "12L")
    ledger.add(
        "changed", ledger.under("reward_fn"), {"reward": spec}, "The best of all references counts, not the first"
    )


def _rouge_l_max(ledger: Ledger) -> None:
    stem = bool(ledger.open.get("reward_fn.args.stemming", True))
    spec = f"rouge,kind=Lmax{',stem=true' if stem else ''}"
    at = "reward_fn.args."
    ledger.add("converted", ("reward_fn.id", f"{at}stemming"), {"reward": spec})
    ledger.add("converted", (f"{at}alpha", f"{at}apply_best"), note="F1, and the best of the references")
    limits = [f"{at}{key}" for key in ("limit_length", "length_limit", "length_limit_type")]
    ledger.add("none", limits, note="Words beyond the limit count, too; within max_new_tokens there are hardly so many")
    others = [f"{at}{key}" for key in ("max_n", "weight_factor", "apply_avg")]
    ledger.add("unneeded", others, note="py-rouge reads it for ROUGE-N, ROUGE-W and means, not for ROUGE-L of one text")


def _named(spec: str, note: str = "") -> Callable[[Ledger], None]:
    def add(ledger: Ledger) -> None:
        ledger.add("changed" if note else "converted", "reward_fn.id", {"reward": spec}, note)

    return add


def _sacre_bleu(ledger: Ledger) -> None:
    tokenize = ledger.open.get("reward_fn.args.tokenize")
    spec = f"sacrebleu,tokenize={tokenize}" if tokenize else "sacrebleu"
    ledger.add("converted", ("reward_fn.id", "reward_fn.args.tokenize"), {"reward": spec})


def _intent(ledger: Ledger) -> None:
    of_intent, of_meteor = (ledger.number(f"reward_fn.args.{key}_coeff", 0.5) for key in ("intent", "auto"))
    ledger.add(
        "none",
        ledger.under("reward_fn"),
        {"reward": f"FILE.py:intent,{of_intent:g} meteor,{of_meteor:g}"},
        "Only METEOR ships. Write intent in FILE.py: 1 if your classifier finds the intent of the column 'intent' in "
        "the reply, else 0. RL4LMs took METEOR over all texts of the batch so far, an error; here it is of each text",
    )


REWARDS: dict[str, Callable[[Ledger], None]] = {
    "learned_reward": _learned,
    "meteor": _meteor,
    "rouge": _rouge,
    "rouge_combined": _rouge_combined,
    "rouge_l_max": _rouge_l_max,
    "ter": _named("ter", "The reward is -TER, RL4LMs' 1 - TER less 1, which changes no optimum"),
    "chrf": _named("chrf"),
    "sacre_bleu": _sacre_bleu,
    "bleu": _named("bleu,tokenize=none,smooth=none", "BLEU of one text, by sacrebleu in place of evaluate"),
    "intent_accuracy": _intent,
    "common_gen_repeat_penalty": _named(REGEX_OF_REPETITION, "A text that holds all concepts in a row is not punished"),
    "sentences_with_dates": _named(r"regex:\d{4}-\d{2}-\d{2}"),
}


# --- sizes -----------------------------------------------------------------------------------------------------


def _environment(ledger: Ledger) -> tuple[int, int]:
    """Account for the environment; return T, and the tokens of an iteration."""
    at = "env.args."
    _cut(ledger)
    if f"{at}max_prompt_length" in ledger.open:
        longest = ledger.whole(f"{at}max_prompt_length")
        ledger.add("converted", f"{at}max_prompt_length", {"max_prompt_length": longest})
    horizon = ledger.whole(f"{at}max_episode_length", 512)
    asked = ledger.whole(f"{ROLLOUT}.max_new_tokens", horizon)
    new = min(horizon, asked)
    note = "" if horizon == asked else f"The smaller of the two ends a response: {new} tokens"
    names = (f"{at}max_episode_length", f"{ROLLOUT}.max_new_tokens")
    ledger.add("changed" if note else "converted", names, {"max_new_tokens": new}, note)
    if ledger.open.get(f"{at}terminate_on_eos") is True:
        ledger.add("converted", f"{at}terminate_on_eos", note="An end token always ends a response")
    else:
        note = "An end token always ends a response; to write T tokens each time, set min_new_tokens to T"
        ledger.add("none", f"{at}terminate_on_eos", note=note)
    if ledger.open.get(f"{at}priority_scale", 0) != 0:
        ledger.add(
            "none", f"{at}priority_scale", note="Prompts are drawn evenly; those of large value errors not more often"
        )
    ledger.add("unneeded", f"{at}priority_scale", note="Prompts are drawn evenly")
    ledger.add(
        "unneeded", f"{at}context_start_token", note="The model's config names the token that a decoder begins with"
    )
    n_steps = ledger.whole("alg.args.n_steps", DEFAULTS[str(_id_of(ledger, "alg"))].n_steps)
    return new, n_steps * ledger.whole("env.n_envs", 1)


def _rollout(ledger: Ledger) -> None:
    """Account for the sampling of responses."""
    if ledger.open.get(f"{ROLLOUT}.do_sample") is True:
        ledger.add("converted", f"{ROLLOUT}.do_sample", note="Responses are always sampled")
    else:
        ledger.add("none", f"{ROLLOUT}.do_sample", note="Responses are always sampled, as the policy gradient needs it")
    if f"{ROLLOUT}.top_k" in ledger.open:
        top_k = ledger.whole(f"{ROLLOUT}.top_k", least=0)
        note = (
            "RL4LMs sampled from the top k, and trained the whole distribution; here the policy is the one that samples"
        )
        ledger.add("changed" if top_k else "converted", f"{ROLLOUT}.top_k", {"top_k": top_k}, note if top_k else "")
    else:
        note = "transformers 4.18 sampled from the top 50 where a file does not say otherwise"
        ledger.add("default", (), {"top_k": 50}, note)
    if f"{ROLLOUT}.min_length" in ledger.open:
        least = ledger.whole(f"{ROLLOUT}.min_length", least=0)
        note = "For encoder-decoders RL4LMs counted the decoder's start token, so that one token less was enough"
        seq2seq = "seq2seq" in str(ledger.open.get("alg.policy.id"))
        kind = ("changed", note) if seq2seq else ("converted", "")
        ledger.add(kind[0], f"{ROLLOUT}.min_length", {"min_new_tokens": least}, kind[1])  # type: ignore[arg-type]
    for name in ("temperature", "top_p"):
        if f"{ROLLOUT}.{name}" in ledger.open:
            note = "RL4LMs sampled so, and trained the distribution without it; here the policy is the one that samples"
            ledger.add("changed", f"{ROLLOUT}.{name}", {name: ledger.number(f"{ROLLOUT}.{name}")}, note)
    note = "Training samples by temperature, top_k, top_p and min_new_tokens alone"
    ledger.add("none", [name for name in ledger.under(ROLLOUT) if ledger.open[name] not in ({}, None)], note=note)
    ledger.add("unneeded", ledger.under(ROLLOUT), note="It is empty")


# --- the algorithm ---------------------------------------------------------------------------------------------


def _algorithm(ledger: Ledger, algorithm: str, new: int, tokens: int) -> None:
    at, defaults = "alg.args.", DEFAULTS[algorithm]
    ledger.add("converted", "alg.id", {"algorithm": algorithm})
    episodes = max(2, round(tokens / new))
    note = f"{tokens:,} tokens an iteration are {episodes} whole responses of {new} tokens"
    ledger.add("changed", (f"{at}n_steps", "env.n_envs"), {"episodes_per_iteration": episodes}, note)
    iterations = ledger.whole("train_evaluation.n_iters", 1)
    note = f"{iterations} iterations of {tokens:,} tokens; here a run ends by its tokens"
    ledger.add("changed", "train_evaluation.n_iters", {"total_timesteps": iterations * tokens}, note)
    _minibatches(ledger, algorithm, new, episodes)
    rate = ledger.number(f"{at}learning_rate", defaults.learning_rate)
    note = "It was constant; here it decays linearly to 0 over the run. AdamW's weight decay of 1e-6 has no equivalent"
    given = f"{at}learning_rate" in ledger.open
    ledger.add("changed" if given else "default", f"{at}learning_rate", {"learning_rate": rate}, note)
    _kl(ledger, new, episodes)
    _losses(ledger, algorithm)
    note = "γ is 1: a response is paid whole, at its end. Left open, RL4LMs' is 0.99"
    if f"{at}gamma" not in ledger.open:
        ledger.remark(note)
    ledger.add("none", f"{at}gamma", note=note)
    others = ("verbose", "tensorboard_log", "device", "create_eval_env", "_init_setup_model")
    ledger.add("unneeded", [f"{at}{key}" for key in others], note="It changes no number")


def _minibatches(ledger: Ledger, algorithm: str, new: int, episodes: int) -> None:
    at, defaults = "alg.args.", DEFAULTS[algorithm]
    if defaults.batch_size is None:
        ledger.add("default", (), {"minibatch_size": episodes}, "A2C takes one step on all responses")
    else:
        size = ledger.whole(f"{at}batch_size", defaults.batch_size)
        minibatch = min(episodes, max(1, round(size / new)))
        note = (
            f"{size} tokens of any responses are {minibatch} whole response{'s' if minibatch > 1 else ''} here; "
            "advantages are normalised over the iteration, not over the minibatch"
        )
        given = f"{at}batch_size" in ledger.open
        ledger.add("changed" if given else "default", f"{at}batch_size", {"minibatch_size": minibatch}, note)
    path = f"{at}{'n_critic_updates' if algorithm == 'trpo' else 'n_epochs'}"
    if algorithm != "a2c":
        epochs = ledger.whole(path, defaults.n_epochs)
        ledger.add("converted" if path in ledger.open else "default", path, {"n_epochs": epochs})


def _kl(ledger: Ledger, new: int, episodes: int) -> None:
    coefficient, target = "alg.kl_div.coeff", "alg.kl_div.target_kl"
    ledger.add("converted", coefficient, {"beta": ledger.number(coefficient)})
    if ledger.open.get(target) is None:
        ledger.add("unneeded", target, note="β stays fixed")
        return
    per_token = ledger.number(target)
    note = (
        f"Nats per token became nats per response of {new} tokens: {per_token:g} × {new}. If yours are shorter, take "
        f"their mean length instead. {TARGET}, which is kl_horizon = 10 × {episodes} episodes here"
    )
    settings = {"kl_target": rounded(per_token * new), "kl_horizon": float(10 * episodes)}
    ledger.add("changed", target, settings, note)
    ledger.add("none", "alg.kl_div.norm_reward", note="Rewards are not normalised")


def _losses(ledger: Ledger, algorithm: str) -> None:
    """Account for coefficients of the losses; those that are left open are written out."""
    at, gae = "alg.args.", DEFAULTS[algorithm].gae_lambda
    rules: list[tuple[str, str, float]] = [("vf_coef", "vf_coef", 0.5), ("max_grad_norm", "max_grad_norm", 0.5)]
    if gae is not None:
        rules.append(("gae_lambda", "gae_lambda", gae))
    if algorithm in ("ppo", "nlpo"):
        rules.append(("clip_range", "clip_range", 0.2))
    if algorithm == "trpo":
        rules += [("target_kl", "target_kl", 0.01), ("cg_damping", "cg_damping", 0.1)]
    for theirs, ours, default in rules:
        path = f"{at}{theirs}"
        ledger.add("converted" if path in ledger.open else "default", path, {ours: ledger.number(path, default)})
    entropy = f"{at}ent_coef"
    ledger.add("converted" if entropy in ledger.open else "default", entropy, {"ent_coef": ledger.number(entropy, 0.0)})
    if algorithm == "trpo":
        steps = ledger.whole(f"{at}cg_max_steps", 15)
        given = f"{at}cg_max_steps" in ledger.open
        ledger.add("converted" if given else "default", f"{at}cg_max_steps", {"cg_steps": steps})
        ledger.add("default", (), {"curvature_share": 1.0})
    if ledger.open.get(f"{at}clip_range_vf") is None:
        ledger.add("default", f"{at}clip_range_vf", {"clip_range_vf": NO_CLIP}, "Values are not clipped")
    else:
        ledger.add("converted", f"{at}clip_range_vf", {"clip_range_vf": ledger.number(f"{at}clip_range_vf")})
    if algorithm in ("ppo", "nlpo"):
        bound = ledger.number(f"{at}target_kl", 0.0)
        note = (
            ""
            if f"{at}target_kl" in ledger.open
            else "No early end of an update; alg.kl_div.target_kl is the controller's"
        )
        ledger.add("default" if note else "converted", f"{at}target_kl", {"target_kl": bound}, note)
    ledger.add("default", (), {"warmup_iterations": 0}, "No warm-up")
    ledger.add("default", (), {"value": "separate"}, "The critic is a model of its own, of the same checkpoint")


def _policy(ledger: Ledger, algorithm: str) -> None:
    at = "alg.policy.args."
    if ledger.open.get(f"{at}model_name") is None:
        raise ValueError(f"{ledger.source}: {at}model_name is missing")
    ledger.add("converted", f"{at}model_name", {"model": str(ledger.open[f"{at}model_name"])})
    ledger.add(
        "unneeded",
        "alg.policy.id",
        note="The model's config says whether it has an encoder; the algorithm, whether a mask",
    )
    ledger.add("unneeded", f"{at}apply_model_parallel", note="A run has one device")
    ledger.add("none", f"{at}weight_decay", note="Adam has no weight decay here; RL4LMs' default is 1e-6")
    if algorithm == "nlpo":
        _mask(ledger, at)


def _mask(ledger: Ledger, at: str) -> None:
    if ledger.open.get(f"{at}mask_type", "learned_top_k") == "learned_top_p":
        ledger.add("converted", f"{at}mask_type", note="The mask is a nucleus")
        ledger.add("converted", f"{at}top_mask", {"top_mask": ledger.number(f"{at}top_mask")})
    else:
        note = "The mask is a nucleus of mass top_mask. A mask of the k most probable tokens is top_mask 1e-6 with "
        note += "min_tokens_to_keep k"
        ledger.add("none", (f"{at}mask_type", f"{at}top_mask"), note=note)
    kept, refresh = f"{at}min_tokens_to_keep", f"{at}target_update_iterations"
    given = kept in ledger.open
    ledger.add("converted" if given else "default", kept, {"min_tokens_to_keep": ledger.whole(kept, 100)})
    note = (
        "Iterations between refreshes of the mask, as meant. The published code sampled under the mask of the first "
        "policy for ever: target_update 1000000 repeats its numbers"
    )
    given = refresh in ledger.open
    ledger.add("changed" if given else "default", refresh, {"target_update": ledger.whole(refresh, 1000)}, note)


# --- supervised ------------------------------------------------------------------------------------------------


def _supervised(ledger: Ledger) -> None:
    """Account for fine-tuning on references."""
    at = "alg.training_args."
    if ledger.open.get("alg.model_name") is None:
        raise ValueError(f"{ledger.source}: alg.model_name is missing")
    _tokenizer(ledger, "alg.model_name")
    ledger.add("unneeded", "alg.id", note="'textgym sft' reads the file")
    ledger.add("converted", "alg.model_name", {"model": str(ledger.open["alg.model_name"])})
    ledger.add("unneeded", "alg.model_type", note="The model's config says it")
    size = ledger.whole(f"{at}per_device_train_batch_size", 8)
    note = "RL4LMs' batch is of one device"
    given = f"{at}per_device_train_batch_size" in ledger.open
    ledger.add("changed" if given else "default", f"{at}per_device_train_batch_size", {"batch_size": size}, note)
    epochs = ledger.whole(f"{at}num_train_epochs", 3)
    note = "The best epoch is kept, by validation loss or --reward; RL4LMs kept the last"
    ledger.add(
        "changed" if f"{at}num_train_epochs" in ledger.open else "default",
        f"{at}num_train_epochs",
        {"epochs": epochs},
        note,
    )
    rate = ledger.number(f"{at}learning_rate", 5e-5)
    given = f"{at}learning_rate" in ledger.open
    ledger.add("converted" if given else "default", f"{at}learning_rate", {"learning_rate": rate})
    if ledger.open.get(f"{at}lr_scheduler_type") == "cosine":
        note = "A cosine to 10 % of the rate, where RL4LMs' ends at 0"
    else:
        note = "The rate always decays to 10 % along a cosine"
    ledger.add("none", f"{at}lr_scheduler_type", note=note)
    ledger.add("none", f"{at}weight_decay", note="There is none")
    ledger.add("unneeded", (f"{at}logging_steps", f"{at}save_total_limit", f"{at}fsdp"), note="It changes no number")
    new = "alg.generation_kwargs.max_new_tokens"
    if new in ledger.open:
        ledger.add("converted", new, {"max_new_tokens": ledger.whole(new)})
    note = "Samples after each epoch are drawn from the whole distribution; measure with 'textgym evaluate'"
    ledger.add("none", ledger.under("alg.generation_kwargs"), note=note)
    ledger.add("none", "tokenizer.max_length", note="Prompts are those of the task, at its length")


# --- evaluation ------------------------------------------------------------------------------------------------

MEASURES = {
    "learned_reward": "the reward, which every evaluation measures",
    "meteor": "--metrics meteor",
    "rouge": "--metrics rouge,kind=1,stem=true rouge,kind=2,stem=true rouge,kind=L,stem=true",
    "bleu": "--metrics bleu, the mean over texts",
    "sacre_bleu": "--metrics sacrebleu, the mean over texts",
    "ter": "--metrics ter",
    "chrf": "--metrics chrf",
    "rouge_l_max": "--metrics rouge,kind=Lmax,stem=true",
    "diversity": "distinct-n, MSTTR and lengths, which are always measured",
    "causal_perplexity": "--reference-perplexity; of the generations, which RL4LMs left out: --fixed-model MODEL",
}


def _evaluation(ledger: Ledger) -> None:
    at = "train_evaluation."
    for theirs, ours in (("eval_every", "eval_every"), ("save_every", "checkpoint_every")):
        if f"{at}{theirs}" in ledger.open:
            ledger.add("converted", f"{at}{theirs}", {ours: ledger.whole(f"{at}{theirs}")})
    ledger.add(
        "unneeded", f"{at}eval_batch_size", note="It changes no number; an evaluation is of eval_episodes responses"
    )
    numbers = sorted({name.partition("]")[0] for name in ledger.under(f"{at}metrics")})
    for number in numbers:
        section = f"{number}]"
        name = str(ledger.open.get(f"{section}.id"))
        how = MEASURES.get(name)
        note = (
            f"After training, by 'textgym evaluate': {how}"
            if how
            else f"{name} is not measured; score the samples by its own package"
        )
        ledger.add("none", ledger.under(section) or number, note=note)
    if decoding := ledger.under(EVALUATION):
        ledger.add("none", decoding, note=_decoding({name.rpartition(".")[2]: ledger.open[name] for name in decoding}))


def _decoding(given: Mapping[str, Any]) -> str:
    """Return how ``textgym evaluate`` decodes as a file's evaluation did."""
    beams = given.get("num_beams")
    flags = f"--decoding beam --beams {beams}" if beams not in (None, 1) else "--decoding sample"
    if not beams and given.get("do_sample") is not True:
        flags = "--decoding greedy"
    names = {"min_length": "min-new-tokens", "max_new_tokens": "max-new-tokens"}
    if flags == "--decoding sample":
        names |= {name: name.replace("_", "-") for name in ("temperature", "top_k", "top_p")}
    if flags.startswith("--decoding beam"):
        names |= {"length_penalty": "length-penalty"}
    flags = " ".join([flags, *(f"--{ours} {given[theirs]}" for theirs, ours in names.items() if theirs in given)])
    rest = [name for name in given if name not in {*names, "num_beams", "do_sample"}]
    also = f", without {' and '.join(rest)}" if rest else ""
    return f"A run evaluates samples of the policy. After training: textgym evaluate RUN --task ID {flags}{also}"
