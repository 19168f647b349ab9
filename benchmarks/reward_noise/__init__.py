"""Gold with noise: which algorithms still learn where a reward says little of a single response."""

from textgym.benchmarks.experiment import Experiment
from textgym.benchmarks.mini.sweep import SETTINGS
from textgym.benchmarks.reward_noise.score import findings
from textgym.benchmarks.reward_noise.sweep import PLAN, sweep
from textgym.benchmarks.reward_noise.task import run

EXPERIMENT = Experiment(
    name="reward_noise",
    question="How much gold does an algorithm still earn when its reward is gold with noise?",
    plan=PLAN,
    sweep=sweep,
    run=run,
    findings=findings,
    shared=tuple(SETTINGS),
)
