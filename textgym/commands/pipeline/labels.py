"""Labelling stage: the current policy samples, a labeller ranks, and the comparisons grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from textgym import runs
from textgym.agents.loop.acting import saved_policy
from textgym.agents.loop.evaluation import sample_responses
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.commands.configs.train import TrainConfig
from textgym.commands.train import chosen_task, has_gold, parse_reward, user_mdp
from textgym.env.mdp import TokenMDP
from textgym.files import write_json, write_json_lines
from textgym.labelling.quality import label_quality
from textgym.labelling.settings import PagePart
from textgym.labelling.store import LabelStore
from textgym.lm.files.loading import load_lm
from textgym.lm.sampling import Sampling
from textgym.prompts import content_key, plain_content
from textgym.reports.labels import label_record
from textgym.reports.pipeline_stages import STORE, TO_LABEL
from textgym.rewards.builtin import no_reward
from textgym.rewards.labels.labelling import (
    Labelled,
    Question,
    label_by_reward,
    questions,
    read_answers,
    without_ties,
    write_questions,
)
from textgym.rewards.labels.preferences import untied_pairs
from textgym.rewards.labels.rankings import read_rankings, write_rankings
from textgym.rows import Screening, read_rows
from textgym.tasks.task import Task
from textgym.tokenization import chat_renderer
from textgym.types import FloatArray, IntArray, Ranking, SpecialTokens, Truncation

FILE, PAGE = PEOPLE = ("file", "page")  # labellers who are people: they fill in a file, or rank on a page
SAMPLES = "samples.jsonl"
RANKINGS, COMPARISONS = "rankings.jsonl", "comparisons.jsonl"
SAMPLED_AT_ONCE = 64  # prompts


@dataclass(frozen=True)
class LabelsConfig:
    """Settings of a labelling stage.

    Attributes:
        out: its directory.
        task: source of prompts, gold and a base model.
        parameters: of the task.
        model: directory of the model that samples; None for the task's base model.
        prompts: the user's own prompts, or None.
        max_prompt_length: ``P``, or None for its default.
        max_new_tokens: ``T``, or None for its default.
        truncation: treatment of the user's prompts that are too long.
        skip_bad: number of bad rows of the user's files that may be left out.
        special_tokens: treatment of strings of special tokens in the user's prompts.
        skip_special_tokens: True to decode completions without any special token.
        sampling: settings of the distribution that is sampled from.
        labeller: specification of a reward, or ``"file"``.
        count: number of prompts.
        completions: ``K``.
        temperature: noise of the labeller.
        error_rate: share of its answers that are uniform.
        threshold: least difference of scores that it notices.
        enough: share of the questions that people must answer on the page.
        page: settings of the page.
        iteration: number of the iteration, from 1; with the seed it determines the prompts.
        seed: random seed.
        previous: the comparisons so far, or None.
    """

    out: Path
    task: str | None
    parameters: Mapping[str, int | float | str]
    model: str | None
    prompts: Path | None
    max_prompt_length: int | None
    max_new_tokens: int | None
    truncation: Truncation
    skip_bad: int
    special_tokens: SpecialTokens
    skip_special_tokens: bool
    sampling: Sampling
    labeller: str
    count: int
    completions: int
    temperature: float
    error_rate: float
    threshold: float
    enough: float
    page: PagePart
    iteration: int
    seed: int
    previous: Path | None


def run_labels(config: LabelsConfig, resume: bool) -> bool:
    """Sample, label and write the rankings; return False while people have not answered.

    Raises:
        RewardError: the labeller failed.
        ValueError: people's file cannot be used, or nothing is left to learn from.
        OSError: the page's port is in use.
    """
    about = {"command": "labels", **runs.settings_of(config)}
    with runs.held(config.out, about, overwrite=False, resume=resume) as goes_on:
        if not goes_on:
            runs.begin_run(config.out, about)
        drawn = _as_train(config)
        task = chosen_task(drawn)
        mdp = _mdp(drawn, task, Screening(config.truncation, config.skip_bad))
        chosen = chosen_prompts(len(mdp.prompts), config.count, config.iteration, config.seed)
        if not (config.out / SAMPLES).exists():
            write_json_lines(config.out / SAMPLES, _sampled(config, mdp, chosen, has_gold(task)))
        rows = read_rows(config.out / SAMPLES)
        asked, dropped = questions(
            [row["completions"] for row in rows],
            [mdp.prompts[int(i)] for i in chosen],
        )
        labelled, quality = _labelled(config, task, mdp, asked, rows)
        if labelled is None:
            return False
        dropped |= labelled.dropped
        if not labelled.rankings:
            raise ValueError(f"{config.out / SAMPLES}: no prompt has completions that differ in rank ({dropped})")
        write_rankings(config.out / RANKINGS, labelled.rankings)
        write_rankings(config.out / COMPARISONS, [*earlier_rankings(config, mdp), *labelled.rankings])
        write_json(config.out / "labels.json", _described(config, rows, labelled, dropped) | quality)
        return True


def earlier_rankings(config: LabelsConfig, mdp: TokenMDP) -> list[Ranking]:
    """Read the comparisons so far: the user's own, or those of the iterations before."""
    if config.previous is None:
        return []
    screening = Screening(config.truncation, config.skip_bad)
    return read_rankings(config.previous, chat_renderer(mdp.tokenizer), screening)


def chosen_prompts(n_prompts: int, count: int, iteration: int, seed: int) -> IntArray:
    """Return the indices ``[count]`` of an iteration's prompts; none recurs before all were used."""
    order = np.random.default_rng([seed, 0]).permutation(n_prompts)
    return order.take(range((iteration - 1) * count, iteration * count), mode="wrap")


def _as_train(config: LabelsConfig) -> TrainConfig:
    """Return the settings of a training on the same prompts."""
    return TrainConfig(
        out=config.out,
        task=config.task,
        parameters=dict(config.parameters),
        model=config.model,
        prompts=config.prompts,
        reward="length",
        max_prompt_length=config.max_prompt_length,
        max_new_tokens=config.max_new_tokens,
        special_tokens=config.special_tokens,
        skip_special_tokens=config.skip_special_tokens,
    )


def _mdp(config: TrainConfig, task: Task | None, screening: Screening) -> TokenMDP:
    """Return the prompts, paid by gold where there is one, and by nothing else that would take time."""
    mdp = user_mdp(config, screening, task)
    return replace(mdp, reward=parse_reward("gold" if has_gold(task) else no_reward, task))


def _sampled(config: LabelsConfig, mdp: TokenMDP, chosen: IntArray, known: bool) -> list[dict[str, Any]]:
    """Return a row for each prompt: the sampled completions, and their gold scores if these are known."""
    policy = _policy(config, mdp)
    rng = np.random.default_rng([config.seed, config.iteration, 0])
    rows: list[dict[str, Any]] = []
    parts = np.array_split(chosen, -(-len(chosen) // SAMPLED_AT_ONCE))
    for part in tqdm(parts, desc="sampling", unit="batch", disable=None):
        made = sample_responses(policy, mdp, part, config.completions, int(rng.integers(2**31)))
        for i, (prompt, texts) in enumerate(zip(made.prompts, made.completions, strict=True)):
            gold = {"gold": made.rewards[i].tolist()} if known else {}
            rows.append({"prompt": plain_content(prompt), "completions": list(texts), **gold})
    return rows


def _policy(config: LabelsConfig, mdp: TokenMDP) -> LMPolicy:
    assert mdp.base_model is not None, "a task without a base model was refused before"
    return saved_policy(str(mdp.base_model), mdp, load_lm(mdp.base_model), **asdict(config.sampling))


def _labelled(
    config: LabelsConfig, task: Task | None, mdp: TokenMDP, asked: Sequence[Question], rows: Sequence[dict[str, Any]]
) -> tuple[Labelled | None, dict[str, Any]]:
    """Return the labels, None while people have not answered, and what is known of their quality."""
    if not asked:
        return Labelled((), {}), {}
    if config.labeller == FILE:
        return _filled_in(config, asked), {}
    if config.labeller == PAGE:
        return _ranked_on_page(config, _with_gold(asked, rows))
    return _scored(config, task, mdp, asked), {}


def _scored(config: LabelsConfig, task: Task | None, mdp: TokenMDP, asked: Sequence[Question]) -> Labelled:
    reward = parse_reward(config.labeller, task).bind(mdp.tokenizer)
    rng = np.random.default_rng([config.seed, config.iteration, 1])
    noise = (config.error_rate, config.threshold)
    return label_by_reward(reward, asked, mdp.tokenizer, config.temperature, rng, *noise)


def _filled_in(config: LabelsConfig, asked: Sequence[Question]) -> Labelled | None:
    path = config.out / TO_LABEL
    if not path.exists():
        write_questions(path, asked)
    return read_answers(path, asked)


def _with_gold(asked: Sequence[Question], rows: Sequence[dict[str, Any]]) -> list[Question]:
    """Return questions whose one column is the gold score of each completion, where it is known."""
    gold = {
        (content_key(row["prompt"]), text): score
        for row in rows
        for text, score in zip(row["completions"], row.get("gold", ()), strict=False)
    }

    def known(question: Question) -> dict[str, Any]:
        key = content_key(question.content)
        return {"gold": [gold[key, text] for text in question.completions]} if gold else {}

    return [replace(question, prompt=replace(question.prompt, columns=known(question))) for question in asked]


def needed_answers(share: float, questions: int) -> int:
    """Return the least number of questions that is a share of them, and at least one."""
    return max(1, ceil(share * questions - 1e-9))  # 0.55·100 is 55.000000000000007


def _ranked_on_page(config: LabelsConfig, asked: Sequence[Question]) -> tuple[Labelled | None, dict[str, Any]]:
    """Serve the page until enough questions are answered; Ctrl-C ends it before, and keeps the answers."""
    from textgym.labelling.server import PageSettings, serve_until  # its packages are an extra

    needed, path = needed_answers(config.enough, len(asked)), config.out / STORE
    with LabelStore(path) as store:
        store.add(asked)

        def announce(address: str) -> None:
            print(
                f"people rank {needed} of {len(asked)} questions ({store.answered()} are answered) at\n{address}\n"
                "Ctrl-C stops here; answers are kept, and --resume goes on",
                flush=True,
            )

        settings = PageSettings(seed=config.seed, **asdict(config.page))
        if store.answered() < needed and not serve_until(store, settings, lambda s: s.answered() >= needed, announce):
            return None, {}
        quality = label_quality(store.answers(), store.questions())
        return without_ties(store.rankings()), {"quality": label_record(quality)}


def _described(
    config: LabelsConfig, rows: Sequence[dict[str, Any]], labelled: Labelled, dropped: dict[str, int]
) -> dict[str, Any]:
    """Return the content of ``labels.json``."""
    gold: FloatArray | None = None
    if all("gold" in row for row in rows):
        gold = np.array([row["gold"] for row in rows]).mean(axis=1)  # samples of one prompt are no independent draws
    return {
        "prompts": len(rows),
        "completions": config.completions,
        "rankings": len(labelled.rankings),
        "pairs": sum(untied_pairs(ranking.ranks) for ranking in labelled.rankings),
        "labeller": config.labeller,
        **({} if gold is None else {"gold_mean": float(gold.mean()), "gold_sem": _standard_error(gold)}),
        **({} if labelled.ceiling is None else {"ceiling": labelled.ceiling}),
        "dropped": dropped,
    }


def _standard_error(values: FloatArray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
