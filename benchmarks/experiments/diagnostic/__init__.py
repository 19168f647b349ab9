"""Distance of each algorithm from the exact optimum of the diagnostic tasks."""

from textgym.benchmarks.experiments.diagnostic.score import diagnostic_findings, diagnostic_score
from textgym.benchmarks.experiments.diagnostic.sweep import DEVELOPMENT, DIAGNOSTIC_PLAN, RATES, diagnostic_jobs
from textgym.benchmarks.experiments.diagnostic.task import run_diagnostic
from textgym.benchmarks.runner.experiment import Experiment, Tuning

EXPERIMENT = Experiment(
    name="diagnostic",
    question="How close does an algorithm come to the exact optimum of tasks that isolate one difficulty each?",
    plan=DIAGNOSTIC_PLAN,
    sweep=diagnostic_jobs,
    run=run_diagnostic,
    findings=diagnostic_findings,
    shared=("episodes", "trials"),
    tuning=Tuning(DEVELOPMENT, (1000,), RATES, diagnostic_score),
)
