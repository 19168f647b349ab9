"""What an algorithm earns of the gold reward of small language tasks."""

from textgym.benchmarks.experiment import Experiment
from textgym.benchmarks.mini.score import findings
from textgym.benchmarks.mini.sweep import PLAN, SETTINGS, sweep
from textgym.benchmarks.mini.task import run

EXPERIMENT = Experiment(
    name="mini",
    question="How much of the gold reward of small language tasks does an algorithm earn, at equal budgets of tokens?",
    plan=PLAN,
    sweep=sweep,
    run=run,
    findings=findings,
    shared=tuple(SETTINGS),
)
