"""Over-optimisation (Gao et al. 2022): learned proxies of several sizes and label counts against the gold reward."""

from textgym.benchmarks.experiment import Experiment
from textgym.benchmarks.overoptimization.score import findings
from textgym.benchmarks.overoptimization.sweep import PLAN, sweep
from textgym.benchmarks.overoptimization.task import run

EXPERIMENT = Experiment(
    name="overoptimization",
    question="How far can a learned reward be optimised before the true one falls?",
    plan=PLAN,
    sweep=sweep,
    run=run,
    findings=findings,
    shared=tuple(PLAN.settings),
)
