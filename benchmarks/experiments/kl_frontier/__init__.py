"""What a nat of KL buys: gold against KL, for several prices β, beside best-of-n."""

from textgym.benchmarks.experiments.kl_frontier.score import findings
from textgym.benchmarks.experiments.kl_frontier.sweep import PLAN, sweep
from textgym.benchmarks.experiments.kl_frontier.task import run
from textgym.benchmarks.runner.experiment import Experiment

EXPERIMENT = Experiment(
    name="kl_frontier",
    question="How much gold does an algorithm buy with a nat of KL, against best-of-n sampling?",
    plan=PLAN,
    sweep=sweep,
    run=run,
    findings=findings,
    shared=("tokens", "learning_rate", "slots", "evaluated"),  # β is the arm
)
