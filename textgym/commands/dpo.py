"""``textgym dpo``: direct preference optimisation on comparisons, the RL-free baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from textgym import runs
from textgym.agents.offline.data import Comparison, encode_comparisons
from textgym.agents.offline.dpo import train_dpo
from textgym.agents.offline.sft_settings import EpochRow
from textgym.commands.configs.dpo import DPOConfig
from textgym.commands.learner import (
    TRAINING,
    Learner,
    OnEpoch,
    answerable,
    kept_epochs,
    longest_answer,
    open_learner,
    run_learning,
    save_learned,
)
from textgym.commands.train import DEFAULT_NEW_TOKENS, watched_reward
from textgym.env.mdp import TokenMDP
from textgym.lm.files.loading import check_fits, context_length
from textgym.lm.trunk import Trunk
from textgym.prompts import encode_prompts
from textgym.rewards.builtin import no_reward
from textgym.rewards.labels.preferences import read_placed_preferences
from textgym.rewards.labels.rankings import split_rankings
from textgym.rows import Place, Screening
from textgym.tokenization import chat_renderer, trained_end
from textgym.types import Prompt, Ranking

HELD_OUT = 0.1  # share of the prompts that validate, where no file of their own is given


def dpo(config: DPOConfig) -> Path:
    """Check everything, then train; return the report's path.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: something does not fit; nothing was written then.
    """
    config = runs.as_begun(config)
    described = {"command": "dpo", "algorithm": "dpo", **runs.settings_of(config)}
    with runs.claimed(config.out, described, config.overwrite, config.resume) as standing:
        learner = open_learner(config.model, config.task)
        screening = Screening(config.truncation, config.skip_bad)
        learned, held_out = _comparisons(config, learner, screening)
        mdp = _validation_mdp(config, learner, held_out)
        evaluator = runs.Evaluator(config.out, mdp, config.eval_episodes, config.seed)

        def train(_: Trunk, keep: OnEpoch) -> None:
            _train(config, learner, learned, held_out, keep)

        report = run_learning(config, described, standing.resumed, learner.model, evaluator, train, screening)
    table = dpo_epoch_table(kept_epochs(config.out))
    print(f"\n{table}\n\n{runs.comparison_table(config.out)}\n\n{runs.sample_pairs(config.out, 3)}\n")
    print(f"model:  {config.out / runs.CHECKPOINT}\nreport: {report}")
    return report


def _train(
    config: DPOConfig,
    learner: Learner,
    learned: Sequence[Comparison],
    held_out: Sequence[Comparison],
    on_epoch: OnEpoch,
) -> None:
    """Train, or resume training, and save the model."""
    train_dpo(
        learner.model,
        learned,
        held_out=held_out,
        settings=config.settings,
        seed=config.seed,
        directory=config.out / TRAINING,
        resume=config.resume,
        on_epoch=on_epoch,
    )
    save_learned(config.out, learner.model, learner.tokenizer)


def dpo_epoch_table(rows: Sequence[EpochRow]) -> str:
    """Return loss, implicit reward margin and accuracy on the held-out comparisons, a line an epoch."""
    names = ("loss", "margin", "accuracy")
    lines = ["epoch" + "".join(f"{f'held-out {name}':>19}" for name in names)]
    lines += [f"{row['iteration']:5}" + "".join(f"{row[f'validation/{name}']:19.4f}" for name in names) for row in rows]
    lines[-1] += _bounds(rows[-1])
    return "\n".join(lines)


def _bounds(row: EpochRow) -> str:
    """Return the accuracy's 95 % interval, and how many prompts it is over."""
    prompts = round(row.get("validation/prompts", 0))
    if "validation/accuracy_low" not in row:
        return f"  ({prompts} prompt: no interval)" if prompts == 1 else ""
    low, high = (row[f"validation/accuracy_{end}"] for end in ("low", "high"))
    return f"  [{low:.4f}, {high:.4f}] over {prompts} prompts"


def _comparisons(
    config: DPOConfig, learner: Learner, screening: Screening
) -> tuple[tuple[Comparison, ...], tuple[Comparison, ...]]:
    """Return the comparisons to learn and those held out; no prompt is in both, unless two files say so."""
    end, limit = trained_end(learner.tokenizer, learner.end_token_ids), context_length(learner.model)

    def encoded(path: Path) -> tuple[Comparison, ...]:
        how = (str(path), config.special_tokens, screening)
        return encode_comparisons(_read(path, learner, screening), learner.tokenizer, end, limit, *how)

    pairs = encoded(config.data)
    if config.validation is not None:
        return pairs, encoded(config.validation)
    learned, held_out = split_rankings(pairs, HELD_OUT, torch.Generator().manual_seed(config.seed))
    return tuple(learned), tuple(held_out)


def _read(path: Path, learner: Learner, screening: Screening) -> dict[Place, Ranking]:
    found = read_placed_preferences(path, chat_renderer(learner.tokenizer), screening)
    rankings = {place: preference for place, preference in found.items() if isinstance(preference, Ranking)}
    if len(rankings) < len(found):
        raise ValueError(f"{path} holds labels of single completions; dpo learns from comparisons")
    return rankings


def _validation_mdp(config: DPOConfig, learner: Learner, held_out: Sequence[Comparison]) -> TokenMDP:
    """Return the prompts for samples, with the reward that scores these.

    They are a task's, whose gold may read their columns, or those of the held-out comparisons.
    """
    task, limit = learner.task, context_length(learner.model)
    asked = {pair.chosen.prompt.text: pair.chosen.prompt for pair in held_out}
    prompts = _task_prompts(learner) or tuple(asked.values())
    new = config.max_new_tokens or (task.max_new_tokens if task else DEFAULT_NEW_TOKENS)
    if config.max_new_tokens is None:
        new = longest_answer(new, prompts, limit, config.truncation)
    prompts = answerable(prompts, new, limit, learner.tokenizer, config.truncation)
    longest = max(len(prompt.ids) for prompt in prompts)
    check_fits(learner.model, learner.tokenizer, len(learner.tokenizer), longest + new)
    return TokenMDP(
        tokenizer=learner.tokenizer,
        prompts=prompts,
        reward=watched_reward(config.reward or ("gold" if task else no_reward), task),
        end_token_ids=learner.end_token_ids,
        max_prompt_length=longest,
        max_new_tokens=new,
        vocabulary_size=learner.shipped.vocabulary_size if learner.shipped else None,
    )


def _task_prompts(learner: Learner) -> tuple[Prompt, ...]:
    """Return the task's validation prompts in the model's tokens; none without a task."""
    if learner.task is None:
        return ()
    prompts = tuple(learner.task.prompts("validation"))
    if learner.shipped is not None:
        return prompts
    rows = [{"prompt": prompt.content, **prompt.columns} for prompt in prompts]
    return encode_prompts(rows, learner.tokenizer, max_length=10**9, source=f"task {learner.task.name}")
