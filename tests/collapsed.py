"""The best policies that have given something up: no diversity, no prompt, or neither. By enumeration, in plain NumPy.

J(π) is the mean over prompts x of Σ_y π(y|x)·[R(x, y) − β·log(π(y|x)/π_ref(y|x))].

- All policies: J* is the mean of β·log Σ_y π_ref(y|x)·exp(R(x, y)/β).
- One response per prompt: the mean of max_y [R(x, y) + β·log π_ref(y|x)].
- One response: the max over y of the mean over x of the same.
- One distribution for all prompts: with q(y) the mean of R(x, y) + β·log π_ref(y|x) over x, its J is
  Σ_y π(y)·[q(y) − β·log π(y)], of which the greatest value is β·log Σ_y exp(q(y)/β). It is exact also where the
  reference depends on the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from textgym.tasks.task import Task
from textgym.types import FloatArray


@dataclass(frozen=True)
class Collapsed:
    """Values of a task on one split, and scores of policies, (J − J(π_ref)) / (J* − J(π_ref)).

    Attributes:
        optimum: J*.
        reference: J(π_ref).
        constant: score of the best single response to all prompts.
        deterministic: score of the best policy with one response per prompt.
        blind: score of the best policy that does not see the prompt.
    """

    optimum: float
    reference: float
    constant: float
    deterministic: float
    blind: float


def collapsed(task: Task, split: str = "test") -> Collapsed:
    """Return the scores of a task's best collapsed policies; the task has a single turn."""
    assert task.world is None
    assert task.beta is not None
    reward, log_ref = rewards(task, split), reference(task, split)
    return scores(reward, log_ref, task.beta)


def scores(reward: FloatArray, log_ref: FloatArray, beta: float) -> Collapsed:
    """Return the scores of the best collapsed policies.

    Args:
        reward: ``[n_prompts, n_responses]``.
        log_ref: log π_ref, likewise.
        beta: β.
    """
    alone = reward + beta * log_ref  # J of each response on its own
    shared = alone.mean(0)
    base = float((np.exp(log_ref) * reward).sum(1).mean())
    best = float(np.mean([soft_max(row, beta) for row in alone]))

    def score(objective: float) -> float:
        return (objective - base) / (best - base)

    return Collapsed(
        optimum=best,
        reference=base,
        constant=score(shared.max()),
        deterministic=score(alone.max(1).mean()),
        blind=score(soft_max(shared, beta)),
    )


def soft_max(values: FloatArray, beta: float) -> float:
    """Return β·log Σ exp(values/β)."""
    top = values.max()
    return float(top + beta * np.log(np.exp((values - top) / beta).sum()))


def responses(task: Task) -> list[list[int]]:
    """Return every response: each ends with its first end token, or has full length."""
    assert task.vocabulary_size is not None
    ends = set(task.end_token_ids)
    found = []
    for length in range(1, task.max_new_tokens + 1):
        for ids in product(range(task.vocabulary_size), repeat=length):
            ended = ids[-1] in ends
            if not ends.intersection(ids[:-1]) and (ended or length == task.max_new_tokens):
                found.append(list(ids))
    return found


def rewards(task: Task, split: str) -> FloatArray:
    """Return the mean reward that a task pays, ``[n_prompts, n_responses]``."""
    every = responses(task)
    paid: Any = task.gold if task.reward is None else getattr(task.reward, "expected", task.reward)
    rows = []
    for prompt in task.prompts(split):
        columns = {key: [value] * len(every) for key, value in prompt.columns.items()}
        given = paid([prompt.text] * len(every), [""] * len(every), completion_ids=every, **columns)
        rows.append([float(np.sum(one)) for one in given])
    return np.array(rows)


@torch.inference_mode()
def reference(task: Task, split: str) -> FloatArray:
    """Return log π_ref of every response, ``[n_prompts, n_responses]``: one pass of the base model over each text."""
    every, actions = responses(task), task.vocabulary_size
    build: Any = task.base_model
    model = build()
    longest = task.max_new_tokens
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in every])
    said = torch.arange(longest) < torch.tensor([len(ids) for ids in every])[:, None]
    rows = []
    for prompt in task.prompts(split):
        texts = torch.cat([torch.tensor(prompt.ids).expand(len(every), -1), padded], dim=1)
        parts = [model(part).logits[:, -longest - 1 : -1, :actions] for part in texts.split(4096)]
        log_probs = torch.cat(parts).double().log_softmax(-1).gather(-1, padded[:, :, None])[:, :, 0]
        rows.append((log_probs * said).sum(1).numpy())
    return np.array(rows)
