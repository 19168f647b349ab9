"""Gold with noise: which algorithms still learn where a reward says little of a single response."""

from textgym.benchmarks.experiments.mini.sweep import SETTINGS
from textgym.benchmarks.experiments.reward_noise.score import findings
from textgym.benchmarks.experiments.reward_noise.sweep import PLAN, sweep
from textgym.benchmarks.experiments.reward_noise.task import run
from textgym.benchmarks.runner.experiment import Experiment

EXPERIMENT = Experiment(
    name="reward_noise",
    question="How much gold does an algorithm still earn when its reward is gold with noise?",
    plan=PLAN,
    sweep=sweep,
    run=run,
    findings=findings,
    shared=tuple(SETTINGS),
)
