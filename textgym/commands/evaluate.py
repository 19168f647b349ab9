"""``textgym evaluate``: measure a policy on a task, with intervals, and compare it with another one."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from textgym import runs
from textgym.agents.loop.acting import saved_policy
from textgym.agents.loop.decode import Decoding
from textgym.agents.loop.evaluation import visited_kl
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.commands.configs.evaluate import EvaluateConfig
from textgym.commands.generate import chosen_decoding
from textgym.commands.train import load_variant, parse_reward, watched_reward
from textgym.env.mdp import TokenMDP
from textgym.env.rendering import printable
from textgym.evaluation.asking import Questions, Reader, drawn, wordings
from textgym.evaluation.battery import Votes, measures, vote_measures
from textgym.evaluation.decoders import Answers, answer
from textgym.evaluation.likelihoods import OF_REFERENCES, perplexity
from textgym.evaluation.measured import Measured, mean_over_prompts
from textgym.evaluation.page import Duel, Result, findings, labels, sample_rows
from textgym.evaluation.paired import WinRate, spread_over_wordings, win_rate, win_rate_by_score
from textgym.evaluation.shots import reference_of
from textgym.files import read_json, write_json, write_json_lines, write_text
from textgym.lm.files.loading import check_fits, load_causal_lm, load_lm
from textgym.lm.trunk import Trunk
from textgym.registration import task_maker
from textgym.reports.bench import markdown_page, one_line, terminal_table, write_bench_report
from textgym.rewards.compose import WeightedRewards, compose
from textgym.rewards.functions import RewardError
from textgym.rewards.judges.judge import Preferences, compare
from textgym.rewards.signatures import signature
from textgym.rewards.specs.resolve import resolve_judge
from textgym.runs.inputs import fingerprints
from textgym.tasks.task import Task
from textgym.tokenization import load_tokenizer
from textgym.types import Prompt

TITLE = "evaluation"
RESULTS = "results.json"
"""File of all numbers, which marks the directory of an evaluation."""
COMMAND = "evaluate"
KL = "nats per response to the reference, exact in every state; mean over prompts"
SHOWN = 3
"""Prompts whose samples are printed."""


@dataclass(frozen=True)
class FixedModel:
    """A model that judges how natural texts are, with its own tokenizer."""

    trunk: Trunk
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class Condition:
    """A policy at a number of shots, ready to be asked.

    Attributes:
        model: the policy, as the user names it.
        shots: number of examples before each prompt.
        policy: the policy.
        mdp: its prompts.
        reference: the model that its KL is measured to; None to measure none.
        reworded: its policy and prompts in all wordings; None without paraphrases.
    """

    model: str
    shots: int
    policy: LMPolicy
    mdp: TokenMDP
    reference: Trunk | None
    reworded: tuple[LMPolicy, TokenMDP] | None


@dataclass(frozen=True)
class Plan:
    """Everything that is asked, checked before the first response is written."""

    config: EvaluateConfig
    reward: WeightedRewards
    judge: Preferences | None
    decoding: Decoding
    conditions: tuple[Condition, ...]
    fixed: FixedModel | None
    wordings: tuple[list[int], list[int]]
    title: str


def evaluate(config: EvaluateConfig) -> list[Result]:
    """Measure, print the tables, and write the results; return them.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: an input or a setting does not fit; nothing was written or
            generated then.
    """
    check_out(config.out)
    plan = planned(config)
    results = [measured(plan, condition) for condition in plan.conditions]
    try:
        duels = _duels(plan, results)
    except RewardError:  # of a judge; what was measured is not lost with it
        deliver(plan, results, [])
        raise
    deliver(plan, results, duels)
    return results


def deliver(plan: Plan, results: Sequence[Result], duels: Sequence[Duel]) -> None:
    """Print the tables, and write the results."""
    config = plan.config
    found = findings(plan.title, results, duels)
    shown = [one_line(found.headline), *map(terminal_table, found.tables[:-1]), _samples(results)]
    print("\n\n".join(shown))
    if config.out is not None:
        page = write_bench_report({TITLE: found}, config.out, title=f"textgym evaluate: {plan.title}")
        write_text(config.out / "report.md", markdown_page(TITLE, found))
        write_json_lines(config.out / "samples.jsonl", [row for result in results for row in sample_rows(result)])
        write_json(config.out / RESULTS, {**about(plan), **_numbers(results, duels)})
        print(f"\nresults: {config.out / RESULTS}\nreport:  {page}")


# --- checks and preparation ------------------------------------------------------------------------------------


def check_out(out: Path | None) -> None:
    """Check that results may be written into a directory.

    Raises:
        FileExistsError: it is a file, or a directory that holds something else than an evaluation.
    """
    if out is None:
        return
    if not out.exists():
        first = next(parent for parent in out.absolute().parents if parent.exists())
        if not first.is_dir():
            raise FileExistsError(f"out={str(out)!r} lies in {str(first)!r}, which is a file; choose another directory")
        return
    if not out.is_dir():
        raise FileExistsError(f"out={str(out)!r} is a file; expected a directory")
    if any(out.iterdir()) and not _is_evaluation(out):
        raise FileExistsError(f"out={str(out)!r} exists and is not an evaluation; choose another directory")


def _is_evaluation(out: Path) -> bool:
    try:
        found = read_json(out / RESULTS)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("command") == COMMAND


def planned(config: EvaluateConfig) -> Plan:
    """Load models and prompts, and check that all of it fits together.

    Raises:
        ValueError, FileNotFoundError: it does not.
    """
    task, is_made_for_model = _task(config)
    if task.world is not None and config.decoding == "beam":
        raise ValueError(f"task {task.name} has a world, which beam search cannot ask; use decoding='greedy'")
    prompts = drawn(task.prompts(config.split), config.limit, config.seed)
    pool = task.prompts(config.examples or "train") if max(config.shots) else ()
    if config.reference_perplexity and not any(reference_of(prompt.columns) for prompt in prompts):
        raise ValueError(
            f"reference_perplexity needs a column 'reference' or 'references', which no prompt of split "
            f"{config.split!r} of task {task.name} has; leave it out"
        )
    reworded, *places = wordings(prompts, config.paraphrases) if config.paraphrases else ([], [], [])
    origins = [prompts[question] for question in places[0]]
    reward = _measured_rewards(config, task)
    judge = _judge(config, prompts)
    if config.against is not None and judge is None and reward.compares is not None:
        raise ValueError(
            f"against={config.against!r} would be compared by {', '.join(reward.names)}, which compares a policy's "
            "responses with each other; pass an absolute --reward, or --judge"
        )
    given = {"max_new_tokens": config.max_new_tokens, "skip_special_tokens": config.skip_special_tokens or None}
    questions = Questions(task, reward, pool, config.seed, {k: v for k, v in given.items() if v is not None})
    models = [config.model, *([config.against] if config.against else [])]
    readers = [Reader.load(runs.model_source(model)) for model in models]
    references = [_reference(config, None if is_made_for_model else task, reader) for reader in readers]
    conditions = tuple(
        _condition(config, questions, model, reader, reference, (prompts, reworded, origins), shots)
        for model, reader, reference in zip(models, readers, references, strict=True)
        for shots in config.shots
    )
    fixed = None
    if config.fixed_model is not None:
        source = runs.model_source(config.fixed_model)
        fixed = FixedModel(Trunk(load_causal_lm(source)), load_tokenizer(source))
    title = f"{len(prompts)} {config.split} prompt{'s' * (len(prompts) != 1)} of {config.task}"
    return Plan(config, reward, judge, chosen_decoding(config), conditions, fixed, (places[0], places[1]), title)


def _task(config: EvaluateConfig) -> tuple[Task, bool]:
    """Return the task, and True if it was made with the model, whose prompts then are encoded for it."""
    needs = "model" in inspect.signature(task_maker(config.task)).parameters and "model" not in config.parameters
    model = {"model": runs.model_source(config.model)} if needs else {}
    return load_variant(config.task, {**model, **config.parameters}), needs


def _measured_rewards(config: EvaluateConfig, task: Task) -> WeightedRewards:
    """Return the reward; the metrics, and the task's gold and own metrics, are measured beside it."""
    watched = compose(watched_reward(config.reward or task.reward or "gold", task))
    further = [parse_reward(spec, task) for spec in config.metrics]
    if not further:  # signatures read all weights of a reward model
        return watched
    paid = {signature(one) for one in watched.rewards}
    return compose([watched, *((one, 0.0) for one in further if not paid.issuperset(map(signature, one.rewards)))])


def _reference(config: EvaluateConfig, task: Task | None, reader: Reader) -> Trunk | None:
    """Return the model that the KL of a policy is measured to; None to measure none.

    Args:
        config: the settings.
        task: gives its base model; None if that is the policy itself, with which it was made.
        reader: the policy.

    Raises:
        ValueError: the model that the user names has other tokens than the policy.
    """
    if config.decoding != "sample":
        return None
    if config.reference is None:
        if task is None or task.base_model is None or not reader.has_tokens_of(task.tokenizer):
            return None
        return Trunk(load_lm(task.base_model))
    source = runs.model_source(config.reference)
    if not reader.has_tokens_of(load_tokenizer(source)):
        raise ValueError(
            f"reference={config.reference!r} has other tokens than {reader.source!r}; the KL needs equal ones"
        )
    return Trunk(load_lm(source))


def _condition(
    config: EvaluateConfig,
    questions: Questions,
    model: str,
    reader: Reader,
    reference: Trunk | None,
    asked: tuple[Sequence[Prompt], Sequence[Prompt], Sequence[Prompt]],
    shots: int,
) -> Condition:
    """Return a policy at a number of shots; ``asked`` are the prompts, all their wordings, and the question of each."""
    prompts, reworded, origins = asked
    mdp = questions.mdp(reader, prompts, shots)
    if reference is not None:
        check_fits(reference.model, mdp.tokenizer, mdp.n_actions, mdp.width, mdp.max_prompt_length)
    others = questions.mdp(reader, reworded, shots, origins) if reworded else None
    again = None if others is None else (_policy(config, reader, others), others)
    return Condition(model, shots, _policy(config, reader, mdp), mdp, reference, again)


def _policy(config: EvaluateConfig, reader: Reader, mdp: TokenMDP) -> LMPolicy:
    return saved_policy(
        reader.source,
        mdp,
        reader.model,
        temperature=config.temperature,
        min_new_tokens=config.min_new_tokens,
        top_k=config.top_k,
        top_p=config.top_p,
    )


def _judge(config: EvaluateConfig, prompts: Sequence[Prompt]) -> Preferences | None:
    """Return the judge of the win rate, checked against the data that it reads.

    Raises:
        ValueError, FileNotFoundError: there is no such judge, or the data lack a column of its template.
    """
    if config.judge is None:
        return None
    try:
        judge = resolve_judge(config.judge)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(str(error)) from error
    known = prompts[0].columns if prompts else {}
    if missing := [name for name in columns_of(judge) if name not in known]:
        raise ValueError(
            f"the judge's template shows {missing[0]!r}, which is no column of task {config.task}; it has "
            f"{', '.join(known) or 'none'}"
        )
    return judge


# --- measuring -------------------------------------------------------------------------------------------------


def measured(plan: Plan, condition: Condition) -> Result:
    """Let a policy answer, and measure its answers."""
    config, mdp, policy = plan.config, condition.mdp, condition.policy
    answers = answer(policy, mdp, np.arange(len(mdp.prompts)), config.samples, plan.decoding, config.seed)
    found = measures(answers)
    if config.at_k:
        right = 1.0 if config.right is None else config.right
        found |= vote_measures(answers, Votes(config.at_k, right, config.answer))
    if condition.reference is not None and answers.episodes is not None:
        kl = visited_kl(policy, condition.reference, answers.episodes).sum(1)
        found["kl"] = mean_over_prompts(kl, answers.keys, KL)
    if plan.fixed is not None:
        found["perplexity"] = perplexity(plan.fixed.trunk, plan.fixed.tokenizer, answers.prompts, answers.texts)
    if config.reference_perplexity:
        found["reference_perplexity"] = _of_references(policy, mdp)
    if condition.reworded is not None:
        found |= _spread(plan, *condition.reworded)
    return Result(condition.model, condition.shots, answers, found)


def _of_references(policy: LMPolicy, mdp: TokenMDP) -> Measured:
    shown = [(prompt, text) for prompt in mdp.prompts if (text := reference_of(prompt.columns)) is not None]
    prompts, texts = [prompt for prompt, _ in shown], [text for _, text in shown]
    return perplexity(policy.trunk, mdp.tokenizer, prompts, texts, OF_REFERENCES, encoded=True)


def _spread(plan: Plan, policy: LMPolicy, mdp: TokenMDP) -> dict[str, Measured]:
    """Return the spread of the score over the wordings of each question."""
    config, samples = plan.config, plan.config.samples
    answers: Answers = answer(policy, mdp, np.arange(len(mdp.prompts)), samples, plan.decoding, config.seed)
    questions, numbers = (np.repeat(places, samples).tolist() for places in plan.wordings)
    found = spread_over_wordings(answers.scores, questions, numbers)
    return {"wording_deviation": found.deviation, "wording_range": found.range}


def _duels(plan: Plan, results: Sequence[Result]) -> list[Duel]:
    """Return the win rate of the first policy against the second, at each number of shots.

    A reward compares each response with each; a judge, whose calls cost, the first with the first and so on.
    """
    half = len(plan.config.shots)
    return [
        Duel(
            one.model,
            other.model,
            one.shots,
            _win_rate(plan, one.answers, other.answers),
            "the reward" if plan.judge is None else f"the judge {plan.config.judge}, in both orders",
        )
        for one, other in zip(results[:half], results[half:], strict=False)
    ]


def _win_rate(plan: Plan, ours: Answers, theirs: Answers) -> WinRate:
    samples = plan.config.samples
    if plan.judge is None:
        first, second = (answers.scores.reshape(-1, samples) for answers in (ours, theirs))
        return win_rate_by_score(first, second, ours.questions[::samples].tolist())
    asked = [prompt.content for prompt in ours.prompts]
    columns = {name: [prompt.columns[name] for prompt in ours.prompts] for name in columns_of(plan.judge)}
    verdicts = compare(plan.judge, asked, ours.texts, theirs.texts, **columns)
    return win_rate([(verdict + 1) / 2 for verdict in verdicts], ours.questions.tolist())


def columns_of(judge: Preferences) -> tuple[str, ...]:
    """Return the columns of the data that a judge reads."""
    return tuple(getattr(judge, "required_columns", ()))


# --- output ----------------------------------------------------------------------------------------------------


def about(plan: Plan) -> dict[str, Any]:
    """Return what the numbers are of: task, reward, settings, inputs and versions."""
    settings = runs.settings_of(plan.config)
    named = zip(plan.reward.names, plan.reward.weights, strict=True)
    return {
        "command": COMMAND,
        "asked": plan.title,
        "reward": [{"name": name, "weight": weight} for name, weight in named],
        "signature": signature(plan.reward),
        "judge": None if plan.judge is None else signature(plan.judge),
        "settings": settings,
        "inputs": fingerprints(settings),
        "versions": runs.versions(),
    }


def _numbers(results: Sequence[Result], duels: Sequence[Duel]) -> dict[str, Any]:
    rates = [{"model": duel.model, "against": duel.against, "shots": duel.shots, **duel.found.row} for duel in duels]
    return {"results": [result.row for result in results], "win_rates": rates}


def _samples(results: Sequence[Result]) -> str:
    """Return some prompts with a response of each policy, for the terminal."""
    first, blocks = results[0].answers, []
    for row in first.first_rows[:SHOWN]:
        lines = [printable(first.prompts[row].text if not results[0].shots else str(first.prompts[row].content))]
        for name, result in zip(labels(results), results, strict=True):
            text = printable(result.answers.texts[row]).strip().replace("\n", "\n    ")
            lines.append(f"  {name} ({result.answers.scores[row]:+.2f}): {text}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
