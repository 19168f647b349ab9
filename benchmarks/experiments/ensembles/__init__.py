"""Ensembles of reward models (Coste et al. 2023), compared with a single one under optimisation by RL."""

from textgym.benchmarks.experiments.ensembles.score import ensembles_findings
from textgym.benchmarks.experiments.ensembles.sweep import ENSEMBLES_PLAN, ensembles_jobs
from textgym.benchmarks.experiments.ensembles.task import run_ensembles
from textgym.benchmarks.runner.experiment import Experiment

EXPERIMENT = Experiment(
    name="ensembles",
    question="Do ensembles of reward models resist reward hacking better than a single one?",
    plan=ENSEMBLES_PLAN,
    sweep=ensembles_jobs,
    run=run_ensembles,
    findings=ensembles_findings,
    shared=tuple(ENSEMBLES_PLAN.settings),
)
