"""How close an algorithm comes to the exact optimum of each diagnostic task."""

from textgym.benchmarks.experiments.diagnostic.score import findings
from textgym.benchmarks.experiments.diagnostic.sweep import PLAN, sweep
from textgym.benchmarks.experiments.diagnostic.task import run
from textgym.benchmarks.runner.experiment import Experiment

EXPERIMENT = Experiment(
    name="diagnostic",
    question="How close does an algorithm come to the exact optimum of tasks that isolate one difficulty each?",
    plan=PLAN,
    sweep=sweep,
    run=run,
    findings=findings,
    shared=("episodes", "learning_rate"),
)
