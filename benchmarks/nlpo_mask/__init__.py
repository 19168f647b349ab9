"""Whether NLPO's mask must follow the policy."""

from textgym.benchmarks.experiment import Experiment
from textgym.benchmarks.mini.sweep import SETTINGS
from textgym.benchmarks.mini.task import run
from textgym.benchmarks.nlpo_mask.score import findings
from textgym.benchmarks.nlpo_mask.sweep import PLAN, sweep

EXPERIMENT = Experiment(
    name="nlpo_mask",
    question="Does NLPO gain from a mask that follows the policy, against one that stays as the base model made it?",
    plan=PLAN,
    sweep=sweep,
    run=run,
    findings=findings,
    shared=tuple(SETTINGS),
)
