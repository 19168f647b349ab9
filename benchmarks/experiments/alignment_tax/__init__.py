"""The alignment tax: forgetting under RL, and the share of it that pretraining text in every update saves (PPO-ptx).

Ouyang et al. 2022, arXiv:2203.02155, call it the alignment tax.
"""

from textgym.benchmarks.experiments.alignment_tax.score import alignment_tax_findings
from textgym.benchmarks.experiments.alignment_tax.sweep import (
    ALIGNMENT_TAX_PLAN,
    ALIGNMENT_TAX_SETTINGS,
    alignment_tax_jobs,
)
from textgym.benchmarks.experiments.alignment_tax.task import run_alignment_tax
from textgym.benchmarks.runner.experiment import Experiment

EXPERIMENT = Experiment(
    name="alignment_tax",
    question="How much forgetting does pretraining text in every update prevent, and what does it cost in gold?",
    plan=ALIGNMENT_TAX_PLAN,
    sweep=alignment_tax_jobs,
    run=run_alignment_tax,
    findings=alignment_tax_findings,
    shared=tuple(ALIGNMENT_TAX_SETTINGS),
)
