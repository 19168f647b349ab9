"""NLPO with a mask that follows the policy, compared with a mask that stays fixed."""

from textgym.benchmarks.experiments.mini.sweep import MINI_SETTINGS
from textgym.benchmarks.experiments.mini.task import run_mini
from textgym.benchmarks.experiments.nlpo_mask.score import nlpo_mask_findings
from textgym.benchmarks.experiments.nlpo_mask.sweep import NLPO_MASK_PLAN, nlpo_mask_jobs
from textgym.benchmarks.runner.experiment import Experiment

EXPERIMENT = Experiment(
    name="nlpo_mask",
    question="Does NLPO gain from refreshing its mask with the policy, compared with keeping the base model's mask?",
    plan=NLPO_MASK_PLAN,
    sweep=nlpo_mask_jobs,
    run=run_mini,
    findings=nlpo_mask_findings,
    shared=tuple(MINI_SETTINGS),
)
