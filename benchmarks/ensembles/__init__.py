"""Ensembles of reward models (Coste et al. 2023): do several proxies together resist where one is hacked?"""

from textgym.benchmarks.ensembles.score import findings
from textgym.benchmarks.ensembles.sweep import PLAN, sweep
from textgym.benchmarks.ensembles.task import run
from textgym.benchmarks.experiment import Experiment

EXPERIMENT = Experiment(
    name="ensembles",
    question="Do several reward models together resist where a single one is hacked?",
    plan=PLAN,
    sweep=sweep,
    run=run,
    findings=findings,
    shared=tuple(PLAN.settings),
)
