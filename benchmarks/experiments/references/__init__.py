"""Reference texts beside calls of the reward: two curves, whose exchange rate the reader chooses."""

from textgym.benchmarks.experiments.mini.task import run_mini
from textgym.benchmarks.experiments.references.score import references_findings
from textgym.benchmarks.experiments.references.sweep import REFERENCES_PLAN, references_jobs
from textgym.benchmarks.runner.experiment import Experiment

EXPERIMENT = Experiment(
    name="references",
    question="How far does imitation come with so many reference texts, and RL with so many calls of the reward?",
    plan=REFERENCES_PLAN,
    sweep=references_jobs,
    run=run_mini,
    findings=references_findings,
    shared=("beta", "evaluated", "slots", "drawn"),
)
