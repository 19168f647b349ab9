"""One run: an algorithm at one β, as in the mini suite, or best-of-n by gold from samples of the base model."""

from __future__ import annotations

from textgym.benchmarks.experiments.mini import task as mini
from textgym.benchmarks.experiments.overoptimization.best_of_n import BEST_OF_N_COUNTS, best_of_n_value, kl_bound
from textgym.benchmarks.proxies.models import base_responses
from textgym.benchmarks.runner.experiment import Job, Result
from textgym.benchmarks.runner.limit_process import limit_process
from textgym.registration import load_task

SAMPLED = "best-of-n, sampled"
"""Name in place of an algorithm, of a run without training."""


def run_kl_frontier(job: Job) -> Result:
    """Train as :func:`textgym.benchmarks.experiments.mini.task.run_mini` does, or sample for best-of-n."""
    return _sampled(job) if job.algorithm == SAMPLED else mini.run_mini(job)


def _sampled(job: Job) -> Result:
    limit_process()
    pool = base_responses(load_task(job.task), job.settings["prompts"], job.settings["pool"], job.seed)
    counts = [n for n in BEST_OF_N_COUNTS if n <= job.settings["pool"]]
    gold = [best_of_n_value(pool.rewards, pool.rewards, n) for n in counts]
    return {"best_of_n": [{"n": n, "kl": float(kl_bound(n)), "gold": g} for n, g in zip(counts, gold, strict=True)]}
