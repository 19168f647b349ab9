"""What an algorithm earns of the gold reward of small language tasks."""

from textgym.benchmarks.experiments.mini.score import findings
from textgym.benchmarks.experiments.mini.sweep import PLAN, SETTINGS, sweep
from textgym.benchmarks.experiments.mini.task import run
from textgym.benchmarks.runner.experiment import Experiment

EXPERIMENT = Experiment(
    name="mini",
    question="How much of the gold reward of small language tasks does an algorithm earn, at equal budgets of tokens?",
    plan=PLAN,
    sweep=sweep,
    run=run,
    findings=findings,
    shared=tuple(SETTINGS),
)
