"""The mini suite: its score by hand, its budgets and instances, and what contenders are given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import textgym
from tests.helpers import tiny_gpt2, word_tokenizer
from textgym.agents.loop.acting import acting_policy
from textgym.agents.offline.data import task_demonstrations
from textgym.agents.ppo import PPO
from textgym.benchmarks.entries import (
    SFT_RATE,
    SFTEntry,
    SFTThenEntry,
    TextgymEntry,
    TrainingJob,
    TrainingResult,
    find_entry,
)
from textgym.benchmarks.experiments import find_experiment
from textgym.benchmarks.experiments.mini import task as mini_task
from textgym.benchmarks.experiments.mini.objective import objective_error, objective_score
from textgym.benchmarks.experiments.mini.sweep import MINI_PLAN, mini_jobs
from textgym.benchmarks.experiments.references.score import Point, curve_points, references_findings
from textgym.benchmarks.experiments.references.sweep import references_jobs
from textgym.benchmarks.instances import load_instance
from textgym.benchmarks.runner.experiment import Job, Plan, Result
from textgym.commands.bench import make_plan
from textgym.commands.configs.bench import BenchRun
from textgym.intervals import Estimate
from textgym.lm.files.loading import load_causal_lm
from textgym.prompts import encode_prompts
from textgym.registration import load_task, task_mdp
from textgym.tasks.task import Task

TASK = "tests/Words-v0"
REFERENCES = 40
WORDS = 3  # of each reference, which its end follows


def writer() -> Any:
    """Return a tiny model, the same each time, that ends a text now and then."""
    model = tiny_gpt2(16, positions=16, n_embd=16, n_layer=1, n_head=1)
    model.config.eos_token_id = model.generation_config.eos_token_id = 1
    return model


def words(seed: int = 0) -> Task:
    """Return a tiny task whose prompts its seed draws: write many of the word w7."""
    tokenizer = word_tokenizer()
    drawn = np.random.default_rng(seed)

    def prompts(count: int, split: str) -> Any:
        asked = (f"w{drawn.integers(6)} w{drawn.integers(6)}" for _ in range(count))
        rows = [{"prompt": text, "reference": "w7 w7 w7", "split": split} for text in asked]
        return encode_prompts(rows, tokenizer, 2)

    def gold(prompts: list[Any], completions: list[str], **_: Any) -> list[float]:
        return [min(text.split().count("w7") / WORDS, 1.0) for text in completions]

    sizes = {"train": REFERENCES, "validation": 4, "test": 12}
    return Task(
        name="Words",
        description="Write w7.",
        tokenizer=tokenizer,
        splits={split: prompts(count, split) for split, count in sizes.items()},
        gold=gold,
        end_token_ids=(1,),
        max_prompt_length=2,
        max_new_tokens=4,
        base_model=writer,
    )


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    textgym.register_task(TASK, words)


# --- the score ---------------------------------------------------------------------------------------------------


def test_the_score_by_hand() -> None:
    result = {"before": {"gold": 0.4, "kl": 0.0}, "after": {"gold": 0.7, "kl": 2.0}}
    assert objective_score(result, 0.05) == pytest.approx((0.7 - 0.1 - 0.4) / 0.6)
    assert objective_score(result, 0.0) == pytest.approx(0.5)
    assert objective_score(result, 0.5) == pytest.approx(-0.7 / 0.6), "too much KL is worse than no training"
    still = {"before": {"gold": 0.4, "kl": 0.0}, "after": {"gold": 0.4, "kl": 0.0}}
    assert objective_score(still, 0.05) == 0
    assert objective_score({**still, "after": {"gold": 1.0, "kl": 0.0}}, 0.05) == 1


def test_the_error_of_three_prompts_by_hand() -> None:
    before, after, kl = np.array([0.2, 0.4, 0.6]), np.array([0.6, 0.8, 1.0]), np.array([1.0, 2.0, 3.0])
    # Objectives 0.5, 0.6, 0.7 and a score of (0.6 − 0.4)/0.6 = 1/3: influences (0.5 − 2/3 · 0.2)/0.6 and so on are
    # 11/18, 10/18 and 9/18, whose standard deviation is 1/18.
    assert objective_error(before, after, kl, 0.1) == pytest.approx(1 / 18 / np.sqrt(3))
    assert np.isnan(objective_error(before[:1], after[:1], kl[:1], 0.1))


def test_the_error_is_that_of_a_bootstrap_over_prompts() -> None:
    rng = np.random.default_rng(0)
    n, beta = 400, 0.1
    before = rng.beta(2, 3, n)
    after = np.clip(before + rng.normal(0.3, 0.15, n), 0, 1)  # hard prompts stay hard: the pairing matters
    kl = rng.gamma(2, 1, n)
    drawn = rng.integers(0, n, (4000, n))
    base, objective = before[drawn].mean(1), (after - beta * kl)[drawn].mean(1)
    bootstrap = ((objective - base) / (1 - base)).std()
    assert objective_error(before, after, kl, beta) == pytest.approx(bootstrap, rel=0.05)
    unpaired = np.hypot((after - beta * kl).std(), before.std()) / (1 - before.mean()) / np.sqrt(n)
    assert unpaired > 1.2 * bootstrap, "the example would not notice a lost pairing"


# --- the sweep ---------------------------------------------------------------------------------------------------


def test_each_budget_is_half_of_the_one_before() -> None:
    plan = replace(MINI_PLAN, algorithms=("ppo",), tasks=(TASK,), settings={"tokens": 1000, "budgets": 3})
    jobs = mini_jobs(plan)
    assert [(job.arm["tokens"], job.seed) for job in jobs] == [(t, s) for t in (1000, 500, 250) for s in (0, 1)]
    assert all("tokens" not in job.settings and "budgets" not in job.settings for job in jobs)


def test_one_seed_is_run_alone() -> None:
    mini = find_experiment("mini")
    plan = make_plan(mini, BenchRun("mini", tasks=("Stories",), seed=7))
    assert tuple(plan.seeds) == (7,)
    assert {job.seed for job in mini.sweep(plan)} == {7}
    assert list(make_plan(mini, BenchRun("mini", seeds=3)).seeds) == [0, 1, 2]
    assert make_plan(mini, BenchRun("mini")).seeds == mini.plan.seeds
    with pytest.raises(ValueError, match="seeds=3, seed=7; expected one of them"):
        BenchRun("mini", seeds=3, seed=7)


# --- instances ---------------------------------------------------------------------------------------------------


def texts(task: Task, split: str) -> list[str]:
    return [str(prompt.content) for prompt in task.prompts(split)]


def test_a_seed_draws_an_instance_where_a_task_has_some() -> None:
    assert texts(load_instance(TASK, 3), "test") == texts(words(3), "test") != texts(words(4), "test")
    assert load_instance("Emit", 3).name == load_task("Emit").name


class Untrained:
    """An entry that trains nothing, and keeps the jobs that it was given."""

    imitates = False

    def __init__(self) -> None:
        self.jobs: list[TrainingJob] = []

    def train(self, job: TrainingJob) -> TrainingResult:
        self.jobs.append(job)
        return TrainingResult(acting_policy(load_causal_lm(job.base_model), job.mdp), 0, [], 0, 0)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> Untrained:
    entry = Untrained()
    monkeypatch.setattr(mini_task, "find_entry", lambda _: entry)
    return entry


def mini_run(name: str, seed: int = 0, tokens: int = 64, **settings: Any) -> Result:
    """Return a tiny run of the tiny task."""
    small = {**MINI_PLAN.settings, "tokens": tokens, "budgets": 1, "slots": 8, "evaluated": 8, **settings}
    plan = Plan((name,), (seed,), (TASK,), small, {name: {"episodes_per_iteration": 8, "minibatch_size": 4}})
    (job,) = mini_jobs(plan)
    return mini_task.run_mini(job)


def test_all_algorithms_meet_the_same_instance_at_one_seed(untrained: Untrained) -> None:
    runs = [mini_run(name, seed) for name, seed in (("ppo", 1), ("rloo", 1), ("ppo", 2))]
    assert [job.seed for job in untrained.jobs] == [1, 1, 2]
    met = [texts(job.task, "train") for job in untrained.jobs]
    assert met[0] == met[1] == texts(words(1), "train")
    assert met[2] == texts(words(2), "train") != met[0]
    assert [job.beta for job in untrained.jobs] == [0.05] * 3
    assert runs[0]["before"] == runs[1]["before"] != runs[2]["before"]
    for job in untrained.jobs:
        assert {prompt.columns["split"] for prompt in job.mdp.prompts} == {"train"}


def test_a_policy_without_training_is_measured_like_the_base_model(
    untrained: Untrained, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = []

    def evaluate(policy: Any, reference: Any, mdp: Any, *rest: Any, **named: Any) -> Any:
        held_out.append({prompt.columns["split"] for prompt in mdp.prompts})
        return real(policy, reference, mdp, *rest, **named)

    real = mini_task.evaluate
    monkeypatch.setattr(mini_task, "evaluate", evaluate)
    result = mini_run("ppo")
    assert held_out == [{"test"}, {"test"}]
    assert result["after"] == result["before"]
    assert result["after"]["kl"] == pytest.approx(0, abs=1e-6)
    assert objective_score(result, 0.05) == pytest.approx(0, abs=1e-6)
    assert result["errors"]["score"] == pytest.approx(0, abs=1e-6)
    assert 0 < result["after"]["distinct"] <= 1


# --- contenders --------------------------------------------------------------------------------------------------


def training_job(name: str, tokens: int, **settings: Any) -> TrainingJob:
    task = words()
    own = find_entry(name).settings({"episodes_per_iteration": 8, "minibatch_size": 4, **settings})
    return TrainingJob(task, task_mdp(task), tokens, 1e-3, 0.05, 0, 8, own)


def test_gradient_steps_of_ppo_by_hand() -> None:
    found = find_entry("ppo").train(training_job("ppo", 64, n_epochs=3))
    iterations = found.scored // 8
    assert len(found.curve) == iterations > 1
    assert found.updates == iterations * 3 * 2, "passes times minibatches of 4 out of 8"
    assert found.tokens >= 64


def test_references_and_passes_are_counted_by_hand() -> None:
    """Each reference has three words and its end."""
    found = SFTEntry().train(training_job("sft", 0, references=10, epochs=3, batch_size=4))
    assert found.tokens == 3 * 10 * (WORDS + 1)
    assert found.updates == 3 * 3, "batches of 4, 4 and 2"
    assert found.scored == 0
    by_budget = SFTEntry().train(training_job("sft", 100, epochs=2, batch_size=4))
    assert by_budget.tokens == 2 * 12 * (WORDS + 1), "12 references twice are 96 tokens, 13 would be 104"


def test_the_number_of_references_is_checked_and_a_setting() -> None:
    sft = SFTEntry()
    assert sft.settings({"references": 10})["references"] == 10
    assert "references" not in sft.settings({})
    with pytest.raises(ValueError, match="references=0; expected"):
        sft.settings({"references": 0})
    with pytest.raises(ValueError, match=f"references=41; expected 1 to {REFERENCES}, as Words has"):
        sft.train(training_job("sft", 0, references=41))


def test_half_of_the_tokens_are_references_before_an_algorithm_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the budget is the algorithm's; its KL is to the base model and not to the fine-tuned one."""
    trained: list[Any] = []

    class Spy(PPO):
        def learn(self, *arguments: Any, **named: Any) -> Any:
            trained.append((self, {name: one.clone() for name, one in self.policy.lm.state_dict().items()}, arguments))
            return super().learn(*arguments, **named)

    job = training_job("sft+ppo", 161)
    shown = []
    fine_tune = SFTEntry.train

    def imitate(self: SFTEntry, job: TrainingJob) -> TrainingResult:
        shown.append((job, fine_tune(self, job)))
        return shown[-1][1]

    monkeypatch.setattr(SFTEntry, "train", imitate)
    found = SFTThenEntry(TextgymEntry(Spy)).train(job)
    ((first_job, first),) = shown
    assert (first_job.tokens, first_job.learning_rate) == (80, SFT_RATE)
    assert first.tokens == 80, "20 references of 4 tokens"
    ((algorithm, begun, arguments),) = trained
    assert arguments[0] == 81
    base = load_causal_lm(job.base_model).state_dict()
    moved = [name for name, weights in begun.items() if not weights.equal(base[name])]
    assert moved, "it begins where the fine-tuning ended"
    reference = algorithm.reference.state_dict()
    assert all(weights.equal(base[name]) for name, weights in reference.items() if name in base)
    assert found.tokens == first.tokens + algorithm.num_timesteps
    assert found.updates == first.updates + algorithm.n_updates
    assert found.curve[0][0] > first.tokens
    assert find_entry("sft+ppo").settings({}) == find_entry("ppo").settings({})


def test_only_algorithms_of_textgym_go_on_after_fine_tuning() -> None:
    for name in ("sft+sft", "sft+stable_baselines3:PPO"):
        with pytest.raises(ValueError, match="would go on with something that is no algorithm of textgym"):
            find_entry(name)


def test_the_references_of_the_tiny_task_are_as_the_tests_count_them() -> None:
    shown = task_demonstrations(words(), "train", 1)
    assert {len(one.response_ids) for one in shown} == {WORDS + 1}


# --- the references experiment -----------------------------------------------------------------------------------


def of_references(name: str, task: str, seed: int, gold: float, scored: int = 0, **arm: int) -> tuple[Job, Result]:
    """Return a run whose base model has a gold of 0.5; with a KL of 1 and a β of 0.1 its score is 2·gold − 1.2."""
    result = {
        "before": {"gold": 0.5},
        "after": {"gold": gold, "kl": 1.0},
        "tokens": 10 * scored or 4 * arm.get("references", 0) * arm.get("epochs", 0),
        "updates": 6 + seed,
        "scored": scored,
    }
    return Job(task, name, seed, arm, {"beta": 0.1}), result


def test_points_of_the_curves_by_hand() -> None:
    results = [
        *(of_references("sft", task, seed, gold + 0.1 * seed, references=250, epochs=1)
          for task, gold in (("Stories", 0.6), ("Concepts", 0.8)) for seed in (0, 1)),
        *(of_references("sft", task, 0, 0.9, references=250, epochs=4) for task in ("Stories", "Concepts")),
        of_references("ppo", "Stories", 0, 0.6, scored=90, tokens=1000),
        of_references("ppo", "Concepts", 0, 0.6, scored=110, tokens=1000),
        of_references("ppo", "Stories", 1, 1.0, scored=90, tokens=1000),  # its other task has not run yet
        of_references("ppo", "Stories", 0, 0.8, scored=200, tokens=2000),
        of_references("ppo", "Concepts", 0, 0.6, scored=200, tokens=2000),
        of_references("rloo", "Stories", 0, 0.6, scored=90, tokens=1000),
    ]  # fmt: skip
    assert curve_points(results) == [
        Point("sft, 1 pass", 250, 1000, 1000, 6.5, [pytest.approx(0.2), pytest.approx(0.4)]),
        Point("sft, 4 passes", 250, 4000, 4000, 6, [pytest.approx(0.6)]),
        Point("ppo", 100, 0, 1000, 6, [pytest.approx(0.0)]),
        Point("ppo", 200, 0, 2000, 6, [pytest.approx(0.2)]),
    ]
    found = references_findings(results)
    assert found.headline == "ppo ends at 0.200; sft, 1 pass ends at 0.300; sft, 4 passes ends at 0.600."
    (table,) = found.tables
    assert table.columns == ("algorithm", "seen", "reference tokens", "tokens", "updates", "score", "seeds")
    assert table.rows[2] == ("ppo", 100, 0, 1000, 6, pytest.approx(0.0), 1)
    assert "sft+" not in table.note + found.figures[0].caption
    assert len(found.figures) == 1
    assert references_findings(results[-1:]).tables
    assert references_findings([]).headline == "No arm has a seed with every task yet."


def test_what_came_before_the_calls_is_told() -> None:
    runs = [
        of_references(name, "Stories", seed, 0.6, scored=tokens // 20, tokens=tokens)
        for name in ("sft+ppo", "ppo")
        for tokens in (2_500, 10_000)
        for seed in range(3)
    ]
    found = references_findings(runs)
    (table,), (figure,) = found.tables, found.figures
    assert [cells[:3] for cells in table.rows[:2]] == [("sft+ppo", 125, 1_250), ("sft+ppo", 500, 5_000)]
    assert "before them it spends up to half of its tokens on references" in table.note
    assert "From left to right these are 1,250, 5,000 tokens. Bands are" in figure.caption
    assert "sft+ppo, its calls alone" in figure.svg
    assert "Bands" not in references_findings(runs[:1]).figures[0].caption


def test_three_instances_give_a_point_an_interval() -> None:
    runs = [of_references("ppo", "Stories", seed, 0.6 + 0.1 * seed, scored=50, tokens=500) for seed in range(3)]
    ((*_, score, seeds),) = references_findings(runs).tables[0].rows
    # Scores 0, 0.2 and 0.4: Student's t of 2 degrees of freedom is 4.3027, the standard error 0.2/√3.
    assert isinstance(score, Estimate)
    assert (score.value, score.high - score.value) == pytest.approx((0.2, 4.302653 * 0.2 / np.sqrt(3)))
    assert seeds == 3


def test_each_side_of_the_exchange_has_arms_of_its_own() -> None:
    experiment = find_experiment("references")
    jobs = references_jobs(replace(experiment.plan, seeds=(0,), tasks=("Stories",)))
    arms = {name: [dict(job.arm) for job in jobs if job.algorithm == name] for name in ("sft", "ppo", "sft+ppo")}
    assert arms["sft"] == [{"references": n, "epochs": e} for e in (1, 4) for n in (250, 1000, 4000)]
    assert arms["ppo"] == arms["sft+ppo"] == [{"tokens": tokens} for tokens in (2_500, 10_000, 40_000)]
    for job in jobs:
        settings, own = mini_task.read_job(job)
        assert settings.drawn
        if job.algorithm == "sft":
            assert (own["references"], own["epochs"]) == (job.arm["references"], job.arm["epochs"])
        else:
            assert settings.tokens == job.arm["tokens"]
