"""Gold reward of each algorithm on the mini language tasks, at equal budgets."""

from textgym.benchmarks.experiments.mini.score import mini_findings
from textgym.benchmarks.experiments.mini.sweep import MINI_PLAN, MINI_SETTINGS, mini_jobs
from textgym.benchmarks.experiments.mini.task import run_mini
from textgym.benchmarks.runner.experiment import Experiment

EXPERIMENT = Experiment(
    name="mini",
    question="How much gold reward does an algorithm reach on small language tasks, at equal token budgets?",
    plan=MINI_PLAN,
    sweep=mini_jobs,
    run=run_mini,
    findings=mini_findings,
    shared=tuple(MINI_SETTINGS),
)
