"""``textgym optimum``: the best that any policy can do in a task, and how far one is from it."""

from __future__ import annotations

from dataclasses import dataclass

from textgym.benchmarks.optimum.exact import Optimum, PolicyValue, optimum
from textgym.benchmarks.optimum.tree import LIMIT
from textgym.commands.run import model_source
from textgym.lm.loading import load_causal_lm
from textgym.lm.sampling import Sampling
from textgym.registration import load_task, task_mdp


@dataclass(frozen=True)
class OptimumConfig:
    """Compute the exact optimum of E[R] - beta KL in a task, by enumerating every response."""

    task: str
    """A task's id, such as textgym/Emit-v0."""
    beta: float | None = None
    """β, the price of a nat of KL. Default: that at which the task is scored."""
    policy: str | None = None
    """A run, a checkpoint, or any causal language model's directory, to be measured against the optimum."""
    reference: str | None = None
    """The KL reference: a directory or a hub id. Default: the task's base model."""
    reward: str | None = None
    """As for 'textgym train'. Default: what the task pays."""
    temperature: float = 1.0
    """Divides the logits of policy and reference."""
    min_new_tokens: int = 0
    """No end token before so many tokens, for policy and reference."""
    limit: int = LIMIT
    """Responses that are enumerated at most."""


def show_optimum(config: OptimumConfig) -> Optimum:
    """Prints the optimum beside the reference and the policy.

    Raises:
        ValueError: there is no β, too many responses, or a model does not fit the task.
    """
    task = load_task(config.task)
    beta = task.beta if config.beta is None else config.beta
    if beta is None:
        raise ValueError(f"task={config.task!r} has no beta of its own; pass --beta, the price of a nat of KL")
    policy = None if config.policy is None else load_causal_lm(model_source(config.policy))
    found = optimum(
        task_mdp(task, config.reward),
        beta,
        reference=config.reference,
        sampling=Sampling(config.temperature, config.min_new_tokens),
        limit=config.limit,
    )
    rows = {"reference": found.reference, "optimum": found.best}
    if policy is not None:
        rows["policy"] = found.evaluate(policy)
    print(f"{config.task}: {found.n_sequences:,} responses to {len(found.mdp.prompts)} prompts, beta {beta:g}\n")
    print(table(rows))
    return found


def table(rows: dict[str, PolicyValue]) -> str:
    """One line a policy."""
    lines = [f"{'':10}{'J':>12}{'E[R]':>12}{'KL to ref':>12}{'KL to opt':>12}{'score':>9}"]
    lines += [
        f"{name:10}{v.objective:12.5f}{v.reward:12.5f}{v.kl:12.4f}{v.kl_to_optimum:12.4f}{v.score:9.4f}"
        for name, v in rows.items()
    ]
    return "\n".join(lines)
