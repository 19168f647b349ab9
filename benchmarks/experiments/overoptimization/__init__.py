"""Over-optimisation (Gao et al. 2022): learned proxies of several sizes and label counts against the gold reward."""

from textgym.benchmarks.experiments.overoptimization.score import findings
from textgym.benchmarks.experiments.overoptimization.sweep import PLAN, sweep
from textgym.benchmarks.experiments.overoptimization.task import run
from textgym.benchmarks.runner.experiment import Experiment

EXPERIMENT = Experiment(
    name="overoptimization",
    question="How far can a learned reward be optimised before the true one falls?",
    plan=PLAN,
    sweep=sweep,
    run=run,
    findings=findings,
    shared=tuple(PLAN.settings),
)
