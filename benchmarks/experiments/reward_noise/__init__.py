"""Gold reward of each algorithm when it is trained on gold with noise."""

from textgym.benchmarks.experiments.mini.sweep import MINI_SETTINGS
from textgym.benchmarks.experiments.reward_noise.score import reward_noise_findings
from textgym.benchmarks.experiments.reward_noise.sweep import REWARD_NOISE_PLAN, reward_noise_jobs
from textgym.benchmarks.experiments.reward_noise.task import run_reward_noise
from textgym.benchmarks.runner.experiment import Experiment

EXPERIMENT = Experiment(
    name="reward_noise",
    question="How much gold does an algorithm reach when it is trained on gold with noise?",
    plan=REWARD_NOISE_PLAN,
    sweep=reward_noise_jobs,
    run=run_reward_noise,
    findings=reward_noise_findings,
    shared=tuple(MINI_SETTINGS),
)
