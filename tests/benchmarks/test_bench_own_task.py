"""A benchmark of a task of one's own, which has a gold reward and nothing beside it."""

from __future__ import annotations

from typing import Any

import pytest

import textgym
from tests.helpers import tiny_gpt2
from tests.test_tokenization import byte_tokenizer
from textgym.benchmarks.experiments import find_experiment
from textgym.benchmarks.runner.experiment import Plan
from textgym.commands.train import watched_reward
from textgym.registration import load_task
from textgym.tasks.task import Task

TASK = "tests/LongTexts-v0"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Register the task, with a tiny model of its own."""
    place = tmp_path_factory.mktemp("task")
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    model = tiny_gpt2(len(tokenizer), positions=64)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    (place / "prompts.jsonl").write_text("".join(f'{{"prompt": "Say {word}"}}\n' for word in "abcdefgh"))

    def make() -> Task:
        gold = textgym.per_text(lambda _prompt, text, _columns: min(1.0, len(text) / 40))
        return textgym.jsonl_task(
            place / "prompts.jsonl", gold=gold, model=str(place / "model"), description="Long.", max_new_tokens=4
        )

    textgym.register_task(TASK, make)
    return load_task(TASK)


def test_a_task_without_metrics_has_gold_in_its_rows_and_a_report(task: Task) -> None:
    assert not task.metrics
    experiment = find_experiment("mini")
    settings = {**experiment.plan.settings, "tokens": 16, "budgets": 1, "slots": 4, "evaluated": 4}
    (job,) = experiment.sweep(Plan(("rloo",), (0,), (TASK,), settings))
    result = experiment.run(job)
    for stage in ("before", "after"):
        assert result[stage]["gold"] == pytest.approx(result[stage]["score"])
    found = experiment.findings([(job, result)])
    assert any(result["after"]["gold"] in row for table in found.tables for row in table.rows)


def test_nobody_elses_reward_is_called_gold(task: Task) -> None:
    def gold(completions: list[Any], **_: Any) -> list[float]:
        return [1.0] * len(completions)

    with pytest.raises(ValueError, match="a reward is called 'gold', as the true reward of task prompts is"):
        watched_reward(gold, task)
    for own in ("gold", "gold,0.5", ["length", ("gold", 2.0)]):
        watched_reward(own, task)
