"""What reinforcement makes a policy forget, and how much of it pretraining text in every update saves (PPO-ptx).

Ouyang et al. 2022, arXiv:2203.02155, call it the alignment tax.
"""

from textgym.benchmarks.experiments.alignment_tax.score import findings
from textgym.benchmarks.experiments.alignment_tax.sweep import PLAN, SETTINGS, sweep
from textgym.benchmarks.experiments.alignment_tax.task import run
from textgym.benchmarks.runner.experiment import Experiment

EXPERIMENT = Experiment(
    name="alignment_tax",
    question="How much of what a policy forgets does pretraining text in every update save, and at what price in gold?",
    plan=PLAN,
    sweep=sweep,
    run=run,
    findings=findings,
    shared=tuple(SETTINGS),
)
