"""A distribution compared with another model's over the vocabulary: the same sum written out token by token."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from textgym.lm import behaviour
from textgym.lm.behaviour import Against, Behaviour
from textgym.lm.sampling import Sampling
from textgym.rewards.kl import vocabulary_kl

N, T, V, END = 3, 4, 7, 1
OWN = torch.tensor([[True, True, True, True], [True, False, True, False], [True, False, False, False]])
ALLOWED = (0, 2, 3, 6)


def states(seed: int, width: int = V) -> Tensor:
    """Logits that stand for hidden states: the head is the identity."""
    return torch.randn(N, T, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def candidates(sampling: Sampling, logits: Tensor) -> Tensor:
    """Return ``[N, T, 4]`` kept ids: the three most probable after the minimum length, in ascending order, and -1."""
    kept = torch.full((N, T, 4), -1, dtype=torch.int32)
    for row, t in OWN.nonzero().tolist():
        early = int(OWN[row, :t].sum()) < sampling.min_new_tokens
        order = sorted(range(V), key=lambda v: float(logits[row, t, v]), reverse=True)
        best = [v for v in order if not (early and v == END)][:3]
        kept[row, t, :3] = torch.tensor(sorted(best), dtype=torch.int32)
    return kept


def written_out(p: Tensor, q: Tensor, sampling: Sampling, kept: Tensor | None, binds_both: bool) -> Tensor:
    """Return ``[N, T]`` Σ_v p(v)·log(p(v)/q(v)) by loops over tokens; p is over what was kept."""
    found = torch.zeros(N, T, dtype=p.dtype)
    for row, t in OWN.nonzero().tolist():
        early = int(OWN[row, :t].sum()) < sampling.min_new_tokens
        possible = {v for v in range(V) if not (early and v == END)}
        chosen = possible if kept is None else possible & set(kept[row, t].tolist())
        logs = []
        for logits, ids in ((p, chosen), (q, chosen if binds_both else possible)):
            weights = {v: torch.exp(logits[row, t, v] / sampling.temperature) for v in ids}
            total = sum(weights.values())
            logs.append({v: torch.log(weight / total) for v, weight in weights.items()})
        found[row, t] = sum(logs[0][v].exp() * (logs[0][v] - logs[1][v]) for v in chosen)
    return found


CASES = {
    "plain": (Sampling(), False),
    "temperature and minimum length": (Sampling(temperature=0.6, min_new_tokens=2), False),
    "top-k": (Sampling(top_k=3, temperature=0.6, min_new_tokens=1), True),
    "a task's mask": (Sampling(temperature=1.3), True),
}


@pytest.mark.parametrize("elements", [2**24, 2 * V])
@pytest.mark.parametrize("case", CASES)
def test_the_comparison_is_the_sum_written_out(case: str, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and gradient, also in chunks. A task's mask binds the other model, top-k does not."""
    monkeypatch.setattr(behaviour, "CHUNK_ELEMENTS", elements)
    sampling, restricted = CASES[case]
    ours, other = states(0, V + 2), states(1, V + 1)  # heads are wider than the task, and differ
    kept = candidates(sampling, ours[..., :V]) if restricted else None
    if case == "a task's mask":
        kept = torch.tensor([*ALLOWED, -1], dtype=torch.int32).expand(N, T, 5).masked_fill(~OWN[..., None], -1)
    actions = torch.zeros(N, T, dtype=torch.long) if kept is None else kept[..., 0].clamp(min=0).long()
    gradients = []
    for compute in ("library", "loops"):
        p = ours.clone().requires_grad_()
        if compute == "library":
            against = Against(lambda x: x, other, vocabulary_kl)
            scores = Behaviour(V, (END,), sampling).score(lambda x: x, p, actions, OWN, kept, against)
            assert scores.divergence is not None
            found = scores.divergence
        else:
            found = written_out(p, other, sampling, kept, binds_both=case == "a task's mask")
        weights = torch.arange(1.0, 1 + N * T).view(N, T)
        (found * weights).sum().backward()
        gradients.append((found.detach().double(), p.grad))
    torch.testing.assert_close(gradients[0][0], gradients[1][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], atol=1e-5, rtol=1e-5)
    assert not gradients[0][0][~OWN].any()
    assert (gradients[0][0][OWN] > 0.01).all()


def test_an_absent_candidate_is_no_token() -> None:
    """Kept are 0 and 2, and two places are empty: neither token 0 nor the last one may be written over."""
    kept = torch.tensor([[[0, 2, -1, -1]], [[-1, -1, 6, 0]]], dtype=torch.int32)
    own, actions = torch.ones(2, 1, dtype=torch.bool), torch.tensor([[0], [6]])
    logits = torch.zeros(2, 1, V)
    logits[0, 0, 2] = logits[1, 0, 6] = math.log(3)  # probabilities ¼ and ¾
    against = Against(lambda x: x, torch.zeros(2, 1, V), vocabulary_kl)
    sampled = Behaviour(V, (END,), Sampling(top_k=2)).score(lambda x: x, logits, actions, own, kept, against)
    assert sampled.divergence is not None
    expected = 0.25 * math.log(0.25 * V) + 0.75 * math.log(0.75 * V)
    assert sampled.divergence[:, 0].tolist() == pytest.approx([expected, expected])


def test_the_other_model_is_not_trained() -> None:
    """Also where it is the same one, as below its adapters."""
    head = torch.nn.Linear(5, V)
    own, actions = torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.long)
    mine, others = torch.randn(2, 1, 2, 5, generator=torch.Generator().manual_seed(0))
    for shared in (True, False):
        head.zero_grad()
        frozen = head if shared else torch.nn.Linear(5, V)
        frozen.load_state_dict(head.state_dict())
        against = Against(frozen, others, vocabulary_kl)
        scores = Behaviour(V, (END,)).score(head, mine, actions, own, None, against)
        assert scores.divergence is not None
        scores.divergence.sum().backward()
        if shared:
            assert head.weight.grad is not None
            gradient = head.weight.grad.clone()
    torch.testing.assert_close(head.weight.grad, gradient)
