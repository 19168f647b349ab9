"""Distillation of a teacher, by several divergences, and by RLOO without a reward whose reference is the teacher."""

from textgym.benchmarks.experiments.distillation.score import distillation_findings
from textgym.benchmarks.experiments.distillation.sweep import (
    DISTILLATION_PLAN,
    DISTILLATION_SETTINGS,
    distillation_jobs,
)
from textgym.benchmarks.experiments.distillation.task import run_distillation
from textgym.benchmarks.runner.experiment import Experiment

EXPERIMENT = Experiment(
    name="distillation",
    question="How near does a student come to its teacher, by each divergence, and by the KL as RLOO's reward?",
    plan=DISTILLATION_PLAN,
    sweep=distillation_jobs,
    run=run_distillation,
    findings=distillation_findings,
    shared=tuple(DISTILLATION_SETTINGS),
)
