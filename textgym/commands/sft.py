"""``textgym sft``: supervised fine-tuning on demonstrations, the user's own or a task's reference texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from textgym import runs
from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.evaluation import evaluate
from textgym.agents.offline.data import (
    Demonstration,
    encode_demonstrations,
    require_references,
    row_layout,
    task_demonstrations,
)
from textgym.agents.offline.sft import Judge, check_precision, fine_tune
from textgym.commands.configs.sft import SFTConfig
from textgym.commands.learner import (
    OnEpoch,
    answerable,
    kept_epochs,
    learning_task,
    longest_answer,
    open_learner,
    run_learning,
    save_learned,
)
from textgym.commands.train import has_gold, watched_reward
from textgym.env.mdp import TokenMDP
from textgym.env.rendering import printable
from textgym.files import read_json, write_json
from textgym.lm.files.loading import check_fits, context_length, is_encoder_decoder
from textgym.lm.trunk import Trunk
from textgym.rewards.builtin import no_reward
from textgym.rows import Screening, read_placed_rows
from textgym.tasks.task import Task
from textgym.tokenization import trained_end
from textgym.types import SpecialTokens

HELD_OUT = 0.1  # share of the prompts that validate, where no file of their own is given


@dataclass(frozen=True)
class Demonstrations:
    """Model and data of a run.

    Attributes:
        model: learns.
        demonstrations: what it learns.
        validation: what it is measured on.
        mdp: validation prompts with the reward that judges.
        screening: rows that were left out or shortened.
        origins: sentences about rows that are no demonstrations, of which something is learned.
    """

    model: PreTrainedModel
    demonstrations: Sequence[Demonstration]
    validation: Sequence[Demonstration]
    mdp: TokenMDP
    screening: Screening = field(default_factory=Screening)
    origins: tuple[str, ...] = ()


def sft(config: SFTConfig) -> Path:
    """Fine-tune a model (see :func:`run_sft`), print the result and return the report's path."""
    report = run_sft(runs.as_begun(config))
    if reason := read_json(config.out / "evaluation.json").get("stopped_early"):
        print(f"\nstopped early: {reason}")
    print(f"\n{epoch_table(config.out)}\n\n{runs.comparison_table(config.out)}\n\n{runs.sample_pairs(config.out, 3)}\n")
    print(f"model:  {config.out / runs.CHECKPOINT}\nreport: {report}")
    return report


def run_sft(config: SFTConfig) -> Path:
    """Check everything, then train; return the report's path.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: something does not fit; nothing was written then.
    """
    _check(config)
    described = _described(config)
    with runs.claimed(config.out, described, config.overwrite, config.resume) as standing:
        material = gather_demonstrations(config)
        evaluator = runs.Evaluator(config.out, material.mdp, config.eval_episodes, config.seed)
        print("".join(f"{printable(line)}\n" for line in material.origins), end="")

        def learn(reference: Trunk, keep: OnEpoch) -> None:
            train_sft(config, material, reference, keep)

        return run_learning(config, described, standing.resumed, material.model, evaluator, learn, material.screening)


def train_sft(config: SFTConfig, material: Demonstrations, reference: Trunk, on_epoch: OnEpoch) -> None:
    """Train, or resume training, and save the model of the best epoch."""
    judged = material.mdp.rewards.rewards != (no_reward,)

    report = fine_tune(
        material.model,
        material.demonstrations,
        validation=material.validation,
        judge=_judge(config, material.mdp, reference) if judged else None,
        keep_by="loss" if config.reward is None else "score",
        settings=config.settings,
        seed=config.seed,
        directory=config.out / runs.TRAINING,
        resume=config.resume,
        on_epoch=on_epoch,
    )
    write_json(config.out / "kept.json", {"epoch": report.kept_epoch, "by": report.kept_by})
    runs.note_early_stop(config.out, report.stopped)
    save_learned(config.out, material.model, material.mdp.tokenizer)


def epoch_table(out: Path) -> str:
    """Return losses and score of every epoch, with a mark at the one that is kept."""
    kept = json.loads((out / "kept.json").read_text(encoding="utf-8"))
    rows = kept_epochs(out)
    columns = {"train loss": "train/loss", "validation loss": "validation/loss", "score": "validation/score"}
    shown = {name: key for name, key in columns.items() if any(key in row for row in rows)}
    lines = ["epoch" + "".join(f"{name:>17}" for name in shown)]
    for row in rows:
        cells = (f"{row[key]:17.4f}" if key in row else " " * 17 for key in shown.values())
        mark = f"  kept, by {kept['by']}" if row["iteration"] == kept["epoch"] else ""
        lines.append(f"{row['iteration']:5}" + "".join(cells) + mark)
    return "\n".join(lines)


def _check(config: SFTConfig) -> None:
    if config.data is None and config.task is None:
        raise ValueError("nothing to imitate: pass --data FILE.jsonl or --task ID")
    if config.model is None and config.task is None:
        raise ValueError("without --task, --model is needed")
    check_precision(config.settings)


def _described(config: SFTConfig) -> dict[str, Any]:
    return {"command": "sft", "algorithm": "sft", **runs.settings_of(config)}


# --- what is learned ---------------------------------------------------------------------------------------


def gather_demonstrations(config: SFTConfig) -> Demonstrations:
    """Return model, demonstrations and judge, checked against each other."""
    own = learning_task(config)
    if own is not None and config.data is None:
        require_references(own)
    learner = open_learner(config.model, own, causal=False)
    task, shipped, model, tokenizer = learner.task, learner.shipped, learner.model, learner.tokenizer
    reward = watched_reward(config.reward or ("gold" if has_gold(task) else no_reward), task)
    reader = _Reader(
        tokenizer,
        trained_end(tokenizer, learner.end_token_ids),
        context_length(model),
        closing=is_encoder_decoder(model),
        as_encoded=shipped is not None,
        special_tokens=config.special_tokens,
        screening=Screening(config.truncation, config.skip_bad),
    )
    shown, validation = _demonstrations(config, task, reader)
    demonstrations = shown if config.count is None else drawn(shown, config.count, config.seed)
    shared = None if reader.closing else reader.limit  # an encoder–decoder reads prompts and responses apart
    new = _longest_answer(config, task, shared, validation)
    prompts = answerable([shown.prompt for shown in validation], new, shared, tokenizer, config.truncation)
    longest = max(len(prompt.ids) for prompt in prompts)
    check_fits(model, tokenizer, len(tokenizer), longest + new, longest)
    mdp = TokenMDP(
        tokenizer=tokenizer,
        prompts=prompts,
        reward=reward,
        end_token_ids=learner.end_token_ids,
        max_prompt_length=longest,
        max_new_tokens=new,
        vocabulary_size=shipped.vocabulary_size if shipped else None,
    )
    return Demonstrations(model, demonstrations, validation, mdp, reader.screening, tuple(reader.origins))


@dataclass(frozen=True)
class _Reader:
    """Reader that encodes demonstrations for one model."""

    tokenizer: PreTrainedTokenizerBase
    end: int
    limit: int | None
    closing: bool  # whether the model is an encoder–decoder, whose prompts are closed and read apart
    as_encoded: bool  # whether a task's prompts may stay as the task encoded them
    special_tokens: SpecialTokens
    screening: Screening
    origins: list[str] = field(default_factory=list)  # sentences about rows that are no demonstrations

    def file(self, path: Path) -> tuple[Demonstration, ...]:
        rows = read_placed_rows(path, self.screening)
        how = (str(path), self.special_tokens, self.screening)
        shown = encode_demonstrations(rows, self.tokenizer, self.end, self.limit, *how, closing=self.closing)
        left_out = {omission.place for omission in self.screening.omissions}
        used = [row for place, row in rows.items() if place not in left_out]
        self.origins.extend(f"{path}: {line}" for line in origins(used))
        return shown

    def split(self, task: Task, split: str) -> tuple[Demonstration, ...]:
        tokenizer = None if self.as_encoded else self.tokenizer
        return task_demonstrations(task, split, self.end, tokenizer, self.limit, self.closing)


def origins(rows: Collection[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each layout of rows that are not demonstrations: the part of them that is learned."""
    labels = [row["label"] for row in rows if row_layout(row) == "label"]
    counts = Counter(map(row_layout, rows))
    found = {
        "pair": "{} pairs, of which the chosen completion is imitated",
        "ranking": "{} rankings, of which the best completion is imitated",
        "text": "{} running texts, of which every token but the first is learned",
    }
    lines = [said.format(counts[layout]) for layout, said in found.items() if counts[layout]]  # type: ignore[index]
    good = sum(labels)
    labelled = f"{len(labels)} labelled completions, of which the {good} good ones are imitated"
    return [*lines, labelled] if labels else lines


def _demonstrations(
    config: SFTConfig, task: Task | None, reader: _Reader
) -> tuple[tuple[Demonstration, ...], tuple[Demonstration, ...]]:
    """Return the demonstrations to learn and those held out."""
    if config.data is not None:
        shown = reader.file(config.data)
        if config.validation is None:
            return held_out(shown, config.seed, str(config.data))
        return shown, reader.file(config.validation)
    assert task is not None
    shown = reader.split(task, "train")
    return shown, reader.file(config.validation) if config.validation else reader.split(task, "validation")


def held_out(
    demonstrations: Sequence[Demonstration], seed: int, source: str
) -> tuple[tuple[Demonstration, ...], tuple[Demonstration, ...]]:
    """Return demonstrations to learn and to validate on; no prompt is in both."""
    texts = list(dict.fromkeys(map(_asked, demonstrations)))
    if len(texts) < 2:
        raise ValueError(f"{source} has a single prompt, of which none can be held out; pass --validation FILE")
    count = max(1, round(HELD_OUT * len(texts)))
    chosen = {texts[i] for i in np.random.default_rng(seed).choice(len(texts), count, replace=False)}
    learned = tuple(shown for shown in demonstrations if _asked(shown) not in chosen)
    return learned, tuple(shown for shown in demonstrations if _asked(shown) in chosen)


def _asked(shown: Demonstration) -> str:
    """Return the text that must not be in both parts of a split: the prompt's, or all of a running text."""
    return str(shown.prompt.columns["text"]) if shown.running else shown.prompt.text


def drawn(demonstrations: Sequence[Demonstration], count: int, seed: int) -> tuple[Demonstration, ...]:
    """Draw some of the demonstrations; raise ValueError where there are fewer."""
    if count > len(demonstrations):
        raise ValueError(f"count={count}, but there are {len(demonstrations)} demonstrations to learn from")
    chosen = np.random.default_rng(seed).choice(len(demonstrations), count, replace=False)
    return tuple(demonstrations[i] for i in sorted(chosen.tolist()))


# --- what judges -------------------------------------------------------------------------------------------


def _longest_answer(
    config: SFTConfig, task: Task | None, limit: int | None, validation: Sequence[Demonstration]
) -> int:
    """Return T of the responses that are judged; ``limit`` is the context that prompt and response share, or None."""
    new = config.max_new_tokens or (task.max_new_tokens if task else None)
    if new is not None:
        return new
    prompts = [shown.prompt for shown in validation]
    wanted = max(len(shown.response_ids) for shown in validation)
    return longest_answer(wanted, prompts, limit, config.truncation)


def _judge(config: SFTConfig, mdp: TokenMDP, reference: Trunk) -> Judge:
    def judge(model: PreTrainedModel) -> dict[str, float]:
        report = evaluate(acting_policy(model, mdp), reference, mdp, config.eval_episodes, config.seed)
        return {name: measured["mean"] for name, measured in report.summary().items()}

    return judge
