"""One run: a proxy is learned from labels and optimised by best-of-n and by RL, while gold is measured.

Or, for a diagnostic task, best-of-n by enumeration instead of samples.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from textgym.benchmarks.experiments.overoptimization.best_of_n import (
    BEST_OF_N_COUNTS,
    best_of_n_value,
    enumerated_kl,
    kl_bound,
)
from textgym.benchmarks.proxies.models import (
    ProxySettings,
    agreement,
    base_responses,
    label_responses,
    learn_proxy,
    proxy_scores,
)
from textgym.benchmarks.proxies.rl import OptimisationSettings, optimise, read_settings
from textgym.benchmarks.runner.experiment import Job, Result
from textgym.benchmarks.runner.limit_process import limit_process
from textgym.benchmarks.runner.limits import Limit, at_least
from textgym.exact.enumeration import optimum
from textgym.registration import load_task, task_mdp

ENUMERATION = "best-of-n, enumerated"
"""Name in place of an algorithm, of a run without training."""


@dataclass(frozen=True)
class OveroptimizationSettings(OptimisationSettings, ProxySettings):
    """All settings of a run, except its arm and the algorithm's own.

    Attributes:
        prompts: held-out prompts of the pool that best-of-n draws from, which also standardises the proxies.
        pool: responses to each.
    """

    LIMITS: ClassVar[Mapping[str, Limit]] = {
        **OptimisationSettings.LIMITS,
        **ProxySettings.LIMITS,
        "prompts": at_least(1),
        "pool": at_least(8),  # the fits to best-of-n need n = 2, 4 and 8
    }

    prompts: int = 64
    pool: int = 128


def run_overoptimization(job: Job) -> Result:
    """Train a proxy and optimise it, or enumerate best-of-n.

    Raises:
        ValueError: the task, algorithm or size of a proxy is unknown, or the task has too few prompts.
    """
    limit_process()
    started = time.process_time()
    found = _enumerated(job) if job.algorithm == ENUMERATION else _optimised(job)
    return {**found, "cpu_seconds": time.process_time() - started}


def _optimised(job: Job) -> dict[str, Any]:
    settings, own = read_settings(OveroptimizationSettings, job)
    task = load_task(job.task)
    pool = base_responses(task, settings.prompts, settings.pool, job.seed)
    labels = label_responses(task, job.arm["labels"], settings, job.seed)
    proxy = learn_proxy(task, labels.rankings, pool, job.arm["size"], settings, job.seed)
    scores = proxy_scores(proxy, pool)
    _, curve = optimise(task, proxy, job.algorithm, settings, own, job.seed)
    counts = [n for n in BEST_OF_N_COUNTS if n <= settings.pool]
    return {
        "agreement": agreement(scores[:, :8], pool.rewards[:, :8]),
        "gold": float(pool.rewards.mean()),
        "best_of_n": [
            {
                "n": n,
                "kl": float(kl_bound(n)),
                "gold": best_of_n_value(scores, pool.rewards, n),
                "proxy": best_of_n_value(scores, scores, n),
            }
            for n in counts
        ],
        "rl": curve,
    }


def _enumerated(job: Job) -> dict[str, Any]:
    task = load_task(job.task)
    assert task.beta is not None, "the tasks of the sweep are diagnostic"
    best = optimum(task_mdp(task, "gold"), task.beta)
    kl = enumerated_kl(best.tree, best.ref_log_probs, BEST_OF_N_COUNTS)
    return {"best_of_n": [{"n": n, "kl": own} for n, own in zip(BEST_OF_N_COUNTS, kl, strict=True)]}
