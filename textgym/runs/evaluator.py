"""Evaluation of a policy before and after training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.evaluation import Report, evaluate, samples
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.env.mdp import TokenMDP
from textgym.evaluation.battery import watched_measures
from textgym.files import write_json, write_json_lines
from textgym.lm.trunk import Trunk
from textgym.rewards.signatures import signature
from textgym.runs.directory import read_kept, read_kept_rows

SAMPLES_KEPT = 24


class Evaluator:
    """Evaluation of a policy before and after training, on the same prompts; results are kept in the run.

    Args:
        out: the run.
        mdp: prompts and reward.
        n_episodes: number of responses.
        seed: seed of the sampling.
        further: computes additional metrics of the policy, as mean and standard error by name.
    """

    def __init__(
        self,
        out: Path,
        mdp: TokenMDP,
        n_episodes: int,
        seed: int,
        further: Callable[[LMPolicy], Mapping[str, Mapping[str, float]]] | None = None,
    ) -> None:
        self.out = out
        self.mdp = mdp
        self.n_episodes = n_episodes
        self.seed = seed
        self.further = further or (lambda _: {})

    def __call__(self, stage: str, algorithm: SequenceAlgorithm, report: Report | None = None) -> Report:
        """Evaluate an algorithm's policy; a given ``report`` is used instead of a new evaluation."""
        return self.measure(stage, algorithm.policy, algorithm.reference_trunk, algorithm.kl.beta, report)

    def forget(self, stage: str) -> None:
        """Drop the results of a stage, because the policy is trained further."""
        evaluation = read_kept(self.out / "evaluation.json")
        if evaluation.pop(stage, None) is not None:
            write_json(self.out / "evaluation.json", evaluation)
            others = [row for row in read_kept_rows(self.out / "samples.jsonl") if row["stage"] != stage]
            write_json_lines(self.out / "samples.jsonl", others)

    def measure(
        self, stage: str, policy: LMPolicy, reference: Trunk, beta: float = 0.0, report: Report | None = None
    ) -> Report:
        """Evaluate a policy; with ``beta``, samples show the rewards of their tokens less the KL penalty."""
        report = report or evaluate(policy, reference, self.mdp, self.n_episodes, self.seed)
        rows = samples(report, self.mdp, stage, beta, SAMPLES_KEPT)
        others = [row for row in read_kept_rows(self.out / "samples.jsonl") if row["stage"] != stage]
        write_json_lines(self.out / "samples.jsonl", [*others, *rows])
        # Written last: a stage that is listed here counts as complete, and is not evaluated again.
        evaluation = read_kept(self.out / "evaluation.json")
        found = {**report.summary(), **watched_measures(report, self.mdp), **self.further(policy)}
        paid = {"reward": signature(self.mdp.rewards)}
        write_json(self.out / "evaluation.json", {**evaluation, **paid, stage: found})
        return report
