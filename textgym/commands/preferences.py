"""``textgym dpo`` and ``textgym kto``: learning from preferences without reward model or sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from textgym import runs
from textgym.agents.offline.dpo import LOSS_NAMES, train_dpo
from textgym.agents.offline.kto import train_kto
from textgym.agents.offline.preference_loop import Preferred
from textgym.agents.offline.preferences import (
    Comparison,
    LabelledCompletion,
    encode_comparisons,
    encode_judgements,
    require_both_labels,
    split_labelled,
    unpaired,
)
from textgym.agents.offline.sft_settings import EpochRow
from textgym.commands.configs.preferences import DPOConfig, KTOConfig, PreferenceConfig
from textgym.commands.learner import (
    Learner,
    OnEpoch,
    answerable,
    kept_epochs,
    learning_task,
    longest_answer,
    open_learner,
    run_learning,
    save_learned,
)
from textgym.commands.train import DEFAULT_NEW_TOKENS, has_gold, watched_reward
from textgym.env.mdp import TokenMDP
from textgym.lm.files.loading import check_fits, context_length
from textgym.lm.trunk import Trunk
from textgym.prompts import content_key, encode_prompts
from textgym.rewards.builtin import no_reward
from textgym.rewards.labels.preferences import Judgement, Preference, read_placed_preferences
from textgym.rewards.labels.rankings import split_rankings
from textgym.rows import Place, Screening
from textgym.tokenization import chat_renderer, trained_end
from textgym.types import Prompt, Ranking, SpecialTokens

HELD_OUT = 0.1  # share of the prompts that validate, where no file of their own is given

Example = TypeVar("Example", bound=Preferred)


@dataclass(frozen=True)
class Method(Generic[Example]):
    """A command that learns from preferences.

    Attributes:
        command: its name.
        algorithm: the algorithm's name.
        encode: turns what a file holds into examples; the arguments after the preferences are those of
            :func:`textgym.agents.offline.preferences.encode_comparisons`.
        split: holds out a share of the prompts.
        train: :func:`textgym.agents.offline.dpo.train_dpo`, or a function of the same arguments.
    """

    command: str
    algorithm: str
    encode: Callable[..., tuple[Example, ...]]
    split: Callable[[Sequence[Example], float, torch.Generator], tuple[list[Example], list[Example]]]
    train: Callable[..., list[EpochRow]]


def dpo(config: DPOConfig) -> Path:
    """Run ``textgym dpo``; see :func:`learn_from_preferences`."""
    algorithm = LOSS_NAMES[config.settings.loss]
    return learn_from_preferences(config, Method("dpo", algorithm, _encode_comparisons, split_rankings, train_dpo))


def kto(config: KTOConfig) -> Path:
    """Run ``textgym kto``; see :func:`learn_from_preferences`."""
    return learn_from_preferences(config, Method("kto", "kto", _encode_labelled, split_labelled, train_kto))


def learn_from_preferences(config: PreferenceConfig, method: Method[Example]) -> Path:
    """Check everything, then train; return the report's path.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: something does not fit; nothing was written then.
    """
    config = runs.as_begun(config)
    described = {"command": method.command, "algorithm": method.algorithm, **runs.settings_of(config)}
    with runs.claimed(config.out, described, config.overwrite, config.resume) as standing:
        learner = open_learner(config.model, learning_task(config))
        screening = Screening(config.truncation, config.skip_bad)
        learned, held_out = _examples(config, method, learner, screening)
        mdp = _validation_mdp(config, learner, held_out)
        evaluator = runs.Evaluator(config.out, mdp, config.eval_episodes, config.seed)

        def train(_: Trunk, keep: OnEpoch) -> None:
            """Train, or resume training, and save the model."""
            method.train(
                learner.model,
                learned,
                held_out=held_out,
                settings=config.settings,
                seed=config.seed,
                directory=config.out / runs.TRAINING,
                resume=config.resume,
                on_epoch=keep,
            )
            save_learned(config.out, learner.model, learner.tokenizer)

        report = run_learning(config, described, standing.resumed, learner.model, evaluator, train, screening)
    table = preference_epoch_table(kept_epochs(config.out))
    print(f"\n{table}\n\n{runs.comparison_table(config.out)}\n\n{runs.sample_pairs(config.out, 3)}\n")
    print(f"model:  {config.out / runs.CHECKPOINT}\nreport: {report}")
    return report


def preference_epoch_table(rows: Sequence[EpochRow]) -> str:
    """Return loss, implicit reward margin and accuracy on the held-out preferences, a line an epoch."""
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


def _examples(
    config: PreferenceConfig, method: Method[Example], learner: Learner, screening: Screening
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Return the examples to learn and those held out; no prompt is in both, unless two files say so."""
    tokenizer = learner.tokenizer
    end, limit = trained_end(tokenizer, learner.end_token_ids), context_length(learner.model)

    def encoded(path: Path) -> tuple[Example, ...]:
        found = read_placed_preferences(path, chat_renderer(tokenizer), screening)
        return method.encode(found, tokenizer, end, limit, str(path), config.special_tokens, screening)

    examples = encoded(config.data)
    if config.validation is not None:
        return examples, encoded(config.validation)
    if len({content_key(example.prompt) for example in examples}) < 2:
        raise ValueError(
            f"{config.data} has one prompt, and a part of the prompts is held out to validate on; add prompts, or pass "
            "--validation FILE"
        )
    learned, held_out = method.split(examples, HELD_OUT, torch.Generator().manual_seed(config.seed))
    return tuple(learned), tuple(held_out)


def _encode_comparisons(
    found: Mapping[Place, Preference],
    tokenizer: PreTrainedTokenizerBase,
    end_token_id: int,
    max_length: int | None,
    source: str,
    special_tokens: SpecialTokens,
    screening: Screening,
) -> tuple[Comparison, ...]:
    rankings = {place: preference for place, preference in found.items() if isinstance(preference, Ranking)}
    if len(rankings) < len(found):
        raise ValueError(f"{source} holds labels of single completions; dpo learns from comparisons (kto from labels)")
    return encode_comparisons(rankings, tokenizer, end_token_id, max_length, source, special_tokens, screening)


def _encode_labelled(
    found: Mapping[Place, Preference],
    tokenizer: PreTrainedTokenizerBase,
    end_token_id: int,
    max_length: int | None,
    source: str,
    special_tokens: SpecialTokens,
    screening: Screening,
) -> tuple[LabelledCompletion, ...]:
    """Encode labels, or comparisons as one desirable and one undesirable completion each."""
    how = (tokenizer, end_token_id, max_length, source, special_tokens, screening)
    judgements = {place: preference for place, preference in found.items() if isinstance(preference, Judgement)}
    labelled = encode_judgements(judgements, *how) if judgements else unpaired(_encode_comparisons(found, *how))
    require_both_labels(labelled, source)
    return labelled


def _validation_mdp(config: PreferenceConfig, learner: Learner, held_out: Sequence[Preferred]) -> TokenMDP:
    """Return the prompts for samples, with the reward that scores these.

    They are a task's, whose gold may read their columns, or those of the held-out examples.
    """
    task, limit = learner.task, context_length(learner.model)
    asked = {prompt.text: prompt for prompt in (example.texts[0].prompt for example in held_out)}
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
        reward=watched_reward(config.reward or ("gold" if has_gold(task) else no_reward), task),
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
