"""Over-optimisation (Gao et al. 2022): learned proxies of several sizes and label counts against the gold reward."""

from textgym.benchmarks.experiments.overoptimization.score import overoptimization_findings
from textgym.benchmarks.experiments.overoptimization.sweep import OVEROPTIMIZATION_PLAN, overoptimization_jobs
from textgym.benchmarks.experiments.overoptimization.task import run_overoptimization
from textgym.benchmarks.runner.experiment import Experiment

EXPERIMENT = Experiment(
    name="overoptimization",
    question="How far can a learned reward be optimised before the true one falls?",
    plan=OVEROPTIMIZATION_PLAN,
    sweep=overoptimization_jobs,
    run=run_overoptimization,
    findings=overoptimization_findings,
    shared=tuple(OVEROPTIMIZATION_PLAN.settings),
)
