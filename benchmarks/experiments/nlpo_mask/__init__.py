"""Whether NLPO's mask must follow the policy."""

from textgym.benchmarks.experiments.mini.sweep import SETTINGS
from textgym.benchmarks.experiments.mini.task import run
from textgym.benchmarks.experiments.nlpo_mask.score import findings
from textgym.benchmarks.experiments.nlpo_mask.sweep import PLAN, sweep
from textgym.benchmarks.runner.experiment import Experiment

EXPERIMENT = Experiment(
    name="nlpo_mask",
    question="Does NLPO gain from a mask that follows the policy, against one that stays as the base model made it?",
    plan=PLAN,
    sweep=sweep,
    run=run,
    findings=findings,
    shared=tuple(SETTINGS),
)
