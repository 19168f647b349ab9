"""Gold over KL for several prices β, compared with best-of-n sampling."""

from textgym.benchmarks.experiments.kl_frontier.score import kl_frontier_findings
from textgym.benchmarks.experiments.kl_frontier.sweep import KL_FRONTIER_PLAN, kl_frontier_jobs
from textgym.benchmarks.experiments.kl_frontier.task import run_kl_frontier
from textgym.benchmarks.runner.experiment import Experiment

EXPERIMENT = Experiment(
    name="kl_frontier",
    question="How much gold does an algorithm reach at a given KL, compared with best-of-n sampling?",
    plan=KL_FRONTIER_PLAN,
    sweep=kl_frontier_jobs,
    run=run_kl_frontier,
    findings=kl_frontier_findings,
    shared=("tokens", "learning_rate", "slots", "evaluated"),  # β is the arm
)
