"""Objective that each algorithm reaches on drawn instances of the mini language tasks, at equal budgets."""

from textgym.benchmarks.experiments.mini.score import mini_findings, mini_score
from textgym.benchmarks.experiments.mini.sweep import DEVELOPMENT, MINI_PLAN, RATES, mini_jobs
from textgym.benchmarks.experiments.mini.task import run_mini
from textgym.benchmarks.runner.experiment import Experiment, Tuning

EXPERIMENT = Experiment(
    name="mini",
    question="How much of gold − β·KL does an algorithm gain on small language tasks, at equal budgets of tokens?",
    plan=MINI_PLAN,
    sweep=mini_jobs,
    run=run_mini,
    findings=mini_findings,
    shared=("beta", "evaluated", "slots", "drawn", "trials"),
    tuning=Tuning(DEVELOPMENT, (1000,), RATES, mini_score, {"budgets": 1}),
)
