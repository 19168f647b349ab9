"""``textgym reward-model``: learn a reward from rankings, pairs or labels, one model or an ensemble."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from textgym import runs
from textgym.agents.offline.data import demonstration_fields, row_completion, row_layout
from textgym.commands.configs.reward_model import RewardModelConfig
from textgym.commands.learner import Learner, learning_task, open_learner
from textgym.commands.train import has_gold
from textgym.files import write_json, write_json_lines
from textgym.prompts import content_key, encode_prompt, encode_prompts
from textgym.registration import named_rewards
from textgym.reports.formatting import count_of
from textgym.reports.heldout_accuracy import accuracy_headline, heldout_accuracy
from textgym.reports.run import write_report
from textgym.rewards.builtin import NAMED
from textgym.rewards.compose import WeightedRewards
from textgym.rewards.labels.preferences import Judgement, completions_of, read_placed_preferences
from textgym.rewards.labels.rankings import split_rankings
from textgym.rewards.models.ensemble import RewardEnsemble
from textgym.rewards.models.evaluation import evaluate_reward_model
from textgym.rewards.models.model import RewardModel
from textgym.rewards.models.training import (
    EncodedPreference,
    center,
    encode_preferences,
    fit,
    fitted_sequences,
    sequences_of,
    split_like,
)
from textgym.rewards.specs.resolve import resolve_reward
from textgym.rows import BadRowError, Place, Screening, in_file_order, read_placed_rows
from textgym.tasks.task import Task
from textgym.tokenization import chat_renderer, encode_content, encode_reply, warn_of_special_strings, words_of
from textgym.types import Prompt, SpecialTokens, as_completion

TOLD_AS_MEASURED = (
    *("prompts", "pairs", "accuracy_interval", "length_baseline", "length_baseline_interval", "accuracy_over_length"),
    *("label_accuracy", "label_accuracy_interval", "label_baseline"),
)
"""Numbers of ``evaluation.json`` that ``reward_model.json`` repeats under their own names."""
SENT = ("loss", "accuracy")  # of what is measured, to services
REFERENCES = 256  # of a task's reference texts score 0, where no demonstrations are given


@dataclass(frozen=True)
class Material:
    """Model and data of a run.

    Attributes:
        lm: the members begin as copies of it.
        tokenizer: its own.
        learned: preferences to train on.
        heldout: preferences to measure on.
        shown: demonstrations, as tokens.
        gold: the true reward of each completion of ``heldout``, where it is known.
        special_tokens: treatment of strings of special tokens.
        screening: rows that were left out or shortened.
    """

    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    learned: Sequence[EncodedPreference]
    heldout: Sequence[EncodedPreference]
    shown: Sequence[list[int]]
    gold: Sequence[Sequence[float]] | None
    special_tokens: SpecialTokens
    screening: Screening


def reward_model(config: RewardModelConfig) -> Path:
    """Train a reward model (see :func:`run_reward_model`), print its evaluation and return the report's path."""
    report = run_reward_model(runs.as_begun(config))
    print(f"\n{summary(config.out)}\n\nmodel:  {config.out / runs.CHECKPOINT}\nreport: {report}")
    return report


def run_reward_model(config: RewardModelConfig) -> Path:
    """Check everything, then train; return the report's path.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: something does not fit; nothing was written then.
    """
    about = _described(config)
    with runs.claimed(config.out, about, config.overwrite, config.resume) as standing:
        if not standing.resumed:
            material = gather(config)
            runs.begin_run(config.out, about, config.overwrite)
            runs.note_screening(config.out, material.screening)
            services = runs.opened_loggers(config.log, config.out)
            with runs.printed_warnings(), services as loggers, runs.stops_noted(config.out):
                _train(config, material, runs.Rows(loggers))
            runs.first_result(config.out)
        return write_report(config.out)


def _described(config: RewardModelConfig) -> dict[str, Any]:
    given = {name: value for name, value in runs.settings_of(config).items() if value is not None}
    return {"command": "reward-model", "algorithm": "reward model", **given}


# --- what is learned ---------------------------------------------------------------------------------------


def gather(config: RewardModelConfig) -> Material:
    """Return model, preferences, demonstrations and gold, checked against each other."""
    screening = Screening(config.truncation, config.skip_bad)
    begun = begin(config, screening)
    tokenizer = begun.learner.tokenizer
    examples = read_examples(begun.reader, config.data, screening)
    if config.validation is None:
        learned, heldout = split_rankings(examples, config.settings.heldout, torch.Generator().manual_seed(config.seed))
    else:
        learned, heldout = examples, read_examples(begun.reader, config.validation, screening)
        if isinstance(learned[0].preference, Judgement) != isinstance(heldout[0].preference, Judgement):
            raise ValueError(
                f"{config.data} and {config.validation}: one holds comparisons, one labels of single texts"
            )
    gold = None if begun.gold is None else _gold_scores(begun.gold, heldout, tokenizer, begun.asked)
    how = (config.special_tokens, screening)
    return Material(begun.learner.model, tokenizer, learned, heldout, begun.shown, gold, *how)


@dataclass(frozen=True)
class Groundwork:
    """Parts of the material that do not depend on preferences.

    Attributes:
        learner: the model to begin from.
        reader: a reward model as it begins.
        shown: demonstrations, as tokens.
        gold: the true reward, where one is given.
        asked: the prompts that gold may know, by what they say.
    """

    learner: Learner
    reader: RewardModel
    shown: list[list[int]]
    gold: WeightedRewards | None
    asked: Mapping[Any, Prompt]


def begin(config: RewardModelConfig, screening: Screening) -> Groundwork:
    """Open and read everything but preferences."""
    learner = open_learner(config.model, learning_task(config))
    reader = RewardModel.from_causal_lm(learner.model, learner.tokenizer, torch.Generator().manual_seed(0))
    reader.set_special_tokens(config.special_tokens)
    shown = _demonstrations(config, learner.task, reader, screening)
    gold = _gold(config, learner.task)
    asked = {} if gold is None else _asked(config, learner.task, learner.tokenizer, screening)
    return Groundwork(learner, reader, shown, gold, asked)


def read_examples(reader: RewardModel, path: Path, screening: Screening) -> list[EncodedPreference]:
    """Read the preferences of a file as a reward model does.

    Raises:
        ValueError: a row cannot be learned from, or all labels are the same.
    """
    found = read_placed_preferences(path, chat_renderer(reader.tokenizer), screening)
    examples = encode_preferences(reader, found, str(path), screening)
    labels = {e.preference.good for e in examples if isinstance(e.preference, Judgement)}
    if len(labels) == 1:
        raise ValueError(f"{path}: every label is {labels.pop()}; expected good and bad completions")
    return examples


def _demonstrations(
    config: RewardModelConfig, task: Task | None, reader: RewardModel, screening: Screening
) -> list[list[int]]:
    """Return the texts whose mean score is set to 0, as tokens."""
    if config.demonstrations is None:
        prompts = [] if task is None else [p for p in task.prompts("train")[:REFERENCES] if p.columns.get("reference")]
        return [reader.encode(prompt.content, str(prompt.columns["reference"])) for prompt in prompts]
    source, words = str(config.demonstrations), dict[Place, list[str]]()
    shown: list[list[int]] = []
    for place, row in read_placed_rows(config.demonstrations, screening).items():
        with screening.row(place):
            fields = _shown_fields(row, reader.tokenizer)
            if fields is not None:
                prompt = encode_prompt(fields, reader.tokenizer, config.special_tokens)
                text = row_completion(prompt.columns, "completion", prompt.text)
                shown += fitted_sequences(reader, prompt.content, [text], screening)
                words[place] = [*words_of(prompt.content), text]
    if config.special_tokens == "text":
        warn_of_special_strings(reader.tokenizer, in_file_order(words), source)
    screening.require_some(shown, source)
    return shown


def _shown_fields(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    if row_layout(row) == "text":
        raise BadRowError(f"running text, without a prompt; expected a prompt and a completion, got {sorted(row)}")
    return demonstration_fields(row, tokenizer)


def _gold(config: RewardModelConfig, task: Task | None) -> WeightedRewards | None:
    if config.gold is None and not has_gold(task):
        return None
    try:
        return resolve_reward(config.gold or "gold", named_rewards(task) if task else NAMED)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(str(error)) from error


def _asked(
    config: RewardModelConfig, task: Task | None, tokenizer: PreTrainedTokenizerBase, screening: Screening
) -> dict[Any, Prompt]:
    """Return the prompts that may have been asked, by what they say."""
    if config.prompts is not None:
        rows = read_placed_rows(config.prompts, screening)
        how = {"source": str(config.prompts), "special_tokens": config.special_tokens, "screening": screening}
        prompts = encode_prompts(rows, tokenizer, 10**9, **how)  # type: ignore[arg-type]
    else:
        prompts = tuple(prompt for split in task.splits for prompt in task.prompts(split)) if task else ()
    return {content_key(prompt.content): prompt for prompt in prompts}


def _gold_scores(
    gold: WeightedRewards,
    heldout: Sequence[EncodedPreference],
    tokenizer: PreTrainedTokenizerBase,
    asked: Mapping[Any, Prompt],
) -> list[list[float]]:
    """Return the true reward of every held-out completion; prompts that are known bring their columns."""
    texts = [(e.prompt, text) for e in heldout for text in completions_of(e.preference)]
    ids = [list(encode_reply(tokenizer, *pair)) for pair in texts]
    columns = _columns([content_key(prompt) for prompt, _ in texts], asked)
    columns |= {"finish_reason": ["stop"] * len(texts), "episode_seed": list(range(len(texts)))}
    columns["prompt_ids"] = [encode_content(tokenizer, prompt) for prompt, _ in texts]
    completions = [as_completion(*pair) for pair in texts]
    totals = gold.score([prompt for prompt, _ in texts], completions, ids, columns).totals
    return split_like(heldout, [float(np.sum(total)) for total in totals])


def _columns(keys: Sequence[Any], asked: Mapping[Any, Prompt]) -> dict[str, list[Any]]:
    if not all(key in asked for key in keys):
        return {}
    names = set.intersection(*(set(asked[key].columns) for key in keys))
    return {name: [asked[key].columns[name] for key in keys] for name in sorted(names)}


# --- training and measuring --------------------------------------------------------------------------------


def _train(config: RewardModelConfig, material: Material, sent: runs.Rows) -> None:
    """Train and measure; the checkpoint is written last, so that it implies everything else."""
    settings = config.settings
    losses: list[list[float]] = []
    members: list[RewardModel] = []

    def on_step(own: Sequence[float]) -> None:
        if len(losses) + 1 == settings.ensemble:  # the means of an ensemble are known with its last member
            sent.send(_rows([*(of[: len(own)] for of in losses), own]))

    for i in range(settings.ensemble):
        generator = torch.Generator().manual_seed(_member_seed(config.seed, i))
        member = RewardModel.from_causal_lm(material.lm, material.tokenizer, generator)
        member.set_special_tokens(material.special_tokens)
        losses.append(fit(member, material.learned, settings, generator, on_step=on_step))
        _set_offset(member, material, settings.ensemble)
        members.append(member)
    write_json_lines(config.out / "metrics.jsonl", _rows(losses))
    model = RewardEnsemble(tuple(members), settings.combine, settings.uncertainty_weight)
    evaluation = evaluate_reward_model(model if len(members) > 1 else members[0], material.heldout, material.gold)
    sent.send_values({f"validation/{name}": evaluation[name] for name in SENT if evaluation[name] is not None})
    if len(members) > 1:
        evaluation["members"] = [evaluate_reward_model(member, material.heldout, material.gold) for member in members]
    write_json(config.out / "evaluation.json", {**evaluation, **material.screening.counts})
    write_json(config.out / "reward_model.json", _for_the_report(evaluation, np.mean(losses, axis=0).tolist()))
    (model if len(members) > 1 else members[0]).save(config.out / runs.CHECKPOINT)


def _member_seed(seed: int, member: int) -> int:
    return int(np.random.SeedSequence([seed, member]).generate_state(1)[0])


def _set_offset(member: RewardModel, material: Material, members: int) -> None:
    """Shift the scores so that demonstrations score 0.

    Without demonstrations, each member of an ensemble scores the held-out completions 0 on average, so that members are
    comparable; labels of single texts fix the scores by themselves.
    """
    if material.shown:
        center(member, material.shown)
    elif members > 1 and not isinstance(material.heldout[0].preference, Judgement):
        center(member, sequences_of(material.heldout))


def _rows(losses: Sequence[Sequence[float]]) -> list[dict[str, float]]:
    """Return a row for each step: the loss, averaged over the members, and in an ensemble each member's."""
    rows = []
    for step, own in enumerate(zip(*losses, strict=True), start=1):
        each = {f"train/loss_member_{i}": loss for i, loss in enumerate(own)} if len(own) > 1 else {}
        rows.append({"iteration": step, "train/loss": float(np.mean(own)), **each})
    return rows


def _for_the_report(evaluation: Mapping[str, Any], losses: list[float]) -> dict[str, Any]:
    found = {
        "heldout_accuracy": evaluation["accuracy"],
        "ceiling": evaluation.get("gold", {}).get("ceiling"),
        "offset": evaluation["offset"],
        "accuracy_by_distance": evaluation["accuracy_by_rank_distance"],
        **{name: evaluation.get(name) for name in TOLD_AS_MEASURED},
        "loss_curve": losses,
    }
    return {key: value for key, value in found.items() if value is not None}


def summary(out: Path) -> str:
    """Return the results on held-out prompts, one line a figure."""
    found = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    judgement = heldout_accuracy({}, found)
    counted = f"{count_of(found['prompts'], 'prompt')}, {count_of(found['pairs'], 'pair')}"
    lines = [f"{accuracy_headline(judgement)}.", f"held out: {counted}"]
    lines += [f"  {name:34}{value:8.3f}{_bounds(ends)}" for name, value, ends in _figures(found) if value is not None]
    for i, member in enumerate(found.get("members", [])):
        accuracy = "  none" if member["accuracy"] is None else f"{member['accuracy']:8.3f}"
        lines += [f"  {f'member {i}: accuracy':34}{accuracy}{_bounds(member.get('accuracy_interval'))}"]
    return "\n".join(lines)


def _bounds(ends: Sequence[float] | None) -> str:
    """Return a 95 % interval over prompts, where there is one."""
    return "" if ends is None else f"  [{ends[0]:.3f}, {ends[1]:.3f}]"


def _figures(found: Mapping[str, Any]) -> list[tuple[str, float | None, Sequence[float] | None]]:
    """Return name, number and 95 % interval of each result."""
    gold, labels = found.get("gold", {}), "label_accuracy" in found
    distances = found["accuracy_by_rank_distance"]
    by_distance = distances.items() if len(distances) > 1 else ()
    return [
        ("accuracy", found["accuracy"], found.get("accuracy_interval")),
        *(
            (f"accuracy, {distance} ranks apart", value, None)
            for distance, value in by_distance
            if len(by_distance) > 1
        ),
        ("accuracy on single labels", found.get("label_accuracy"), found.get("label_accuracy_interval")),
        ("always the more frequent label", found.get("label_baseline"), None),
        ("chance", 0.5 if found["accuracy"] is not None and not labels else None, None),
        ("accuracy of 'the longer wins'", found["length_baseline"], found.get("length_baseline_interval")),
        ("accuracy of gold (the ceiling)", gold.get("ceiling"), None),
        ("agreement with gold", gold.get("agreement"), None),
        ("loss", found["loss"], None),
        ("expected calibration error", found.get("calibration", {}).get("expected_error"), None),
    ]
