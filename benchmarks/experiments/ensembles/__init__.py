"""Ensembles of reward models (Coste et al. 2023): do several proxies together resist where one is hacked?"""

from textgym.benchmarks.experiments.ensembles.score import findings
from textgym.benchmarks.experiments.ensembles.sweep import PLAN, sweep
from textgym.benchmarks.experiments.ensembles.task import run
from textgym.benchmarks.runner.experiment import Experiment

EXPERIMENT = Experiment(
    name="ensembles",
    question="Do several reward models together resist where a single one is hacked?",
    plan=PLAN,
    sweep=sweep,
    run=run,
    findings=findings,
    shared=tuple(PLAN.settings),
)
