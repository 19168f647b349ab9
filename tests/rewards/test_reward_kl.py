"""KL estimators against the exact sum, and shaping against its conservation law."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textgym.rewards import AdaptiveKL, FixedKL, exact_kl, k1, k2, k3, shape_rewards
from textgym.rewards.kl import jensen_shannon, vocabulary_kl

LOGITS_P = torch.tensor([0.5, -1.0, 0.3, 2.0, 0.0], dtype=torch.float64)
LOGITS_Q = torch.tensor([0.1, 0.2, -0.4, 1.0, 0.7], dtype=torch.float64)


def by_hand():
    p, q = torch.softmax(LOGITS_P, 0).numpy(), torch.softmax(LOGITS_Q, 0).numpy()
    return p, q, float(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))


def test_exact_kl_equals_the_sum_written_out():
    _, _, kl = by_hand()
    assert exact_kl(LOGITS_P, LOGITS_Q).item() == pytest.approx(kl, abs=1e-12)
    assert exact_kl(LOGITS_P.expand(2, 3, 5), LOGITS_Q.expand(2, 3, 5)).shape == (2, 3)
    assert exact_kl(LOGITS_P, LOGITS_P).item() == pytest.approx(0, abs=1e-12)


def test_estimators_average_to_the_exact_kl():
    """k1 and k3 are unbiased; their errors are judged by their own standard errors."""
    p, q, kl = by_hand()
    tokens = np.random.default_rng(0).choice(5, size=200_000, p=p)
    log_p, log_q = np.log(p)[tokens], np.log(q)[tokens]
    for estimator in (k1, k3):
        sample = estimator(log_p, log_q)
        assert abs(sample.mean() - kl) < 4 * sample.std() / math.sqrt(len(sample))
    assert k3(log_p, log_q).std() < k1(log_p, log_q).std()
    expected_k2 = sum(a * 0.5 * math.log(a / b) ** 2 for a, b in zip(p, q, strict=True))
    assert k2(log_p, log_q).mean() == pytest.approx(expected_k2, rel=0.02)


@settings(deadline=None)
@given(st.floats(-20, 0), st.floats(-20, 0))
def test_k2_and_k3_are_never_negative_and_agree_across_libraries(a, b):
    p, q = np.array([a]), np.array([b])
    assert k2(p, q)[0] >= 0
    assert k3(p, q)[0] >= 0
    for k in (k1, k2, k3):
        assert k(torch.tensor(p), torch.tensor(q)).item() == pytest.approx(k(p, q)[0], rel=1e-12, abs=1e-12)


def test_only_k1_has_the_gradient_of_the_kl_as_a_reward():
    """E[k·∇log π] by enumeration: k1's is ∇KL, those of k2 and k3 are not."""
    _, q, _ = by_hand()
    logits = LOGITS_P.clone().requires_grad_()
    exact = torch.autograd.grad(exact_kl(logits, LOGITS_Q), logits)[0]
    gradients = {}
    for k in (k1, k2, k3):
        log_p = logits.log_softmax(0)
        surrogate = (log_p.exp().detach() * k(log_p.detach(), torch.tensor(q).log()) * log_p).sum()
        gradients[k.__name__] = torch.autograd.grad(surrogate, logits)[0]
    torch.testing.assert_close(gradients["k1"], exact)
    for name in ("k2", "k3"):
        assert (gradients[name] - exact).abs().max() > 0.05


def test_exact_kl_with_masked_tokens():
    """Masked in both: as if the token did not exist, in value and gradient. Masked in q alone: infinite."""
    p = torch.tensor([0.5, -1.0, -math.inf], requires_grad=True)
    q = torch.tensor([0.1, 0.4, -math.inf])
    kl = exact_kl(p, q)
    assert kl.item() == pytest.approx(exact_kl(p[:2], q[:2]).item())
    kl.backward()
    assert torch.isfinite(p.grad).all()
    assert exact_kl(torch.tensor([0.0, 0.0]), torch.tensor([0.0, -math.inf])).item() == math.inf


def test_the_gradients_of_k3_as_a_loss_by_enumeration():
    """Σ_v p(v)·∇k3(v): k3's is ∇KL(q‖p); with the ratio, which is differentiated, it is ∇KL(p‖q)."""
    logits = LOGITS_P.clone().requires_grad_()
    log_p, log_q = logits.log_softmax(0), LOGITS_Q.log_softmax(0)
    p = log_p.exp().detach()
    estimated = k3(log_p, log_q)
    plain = torch.autograd.grad((p * estimated).sum(), logits, retain_graph=True)[0]
    corrected = torch.autograd.grad((p * (log_p - log_p.detach()).exp() * estimated).sum(), logits)[0]
    for found, kl in ((plain, exact_kl(LOGITS_Q, logits)), (corrected, exact_kl(logits, LOGITS_Q))):
        torch.testing.assert_close(found, torch.autograd.grad(kl, logits)[0])
    assert (plain - corrected).abs().max() > 0.05


# --- between two KLs ---------------------------------------------------------------------------------------------

STUDENT, TEACHER = [0.9, 0.1], [0.2, 0.8]


def log_of(probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def kl_by_hand(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_jensen_shannon_by_hand(share):
    mixture = [share * q + (1 - share) * p for p, q in zip(STUDENT, TEACHER, strict=True)]
    expected = share * kl_by_hand(TEACHER, mixture) + (1 - share) * kl_by_hand(STUDENT, mixture)
    assert jensen_shannon(log_of(STUDENT), log_of(TEACHER), share).item() == pytest.approx(expected, rel=1e-12)


def test_the_ends_of_jensen_shannon_are_the_kls():
    p, q = log_of(STUDENT), log_of(TEACHER)
    assert jensen_shannon(p, q, 1).item() == pytest.approx(kl_by_hand(STUDENT, TEACHER))
    assert jensen_shannon(p, q, 0).item() == pytest.approx(kl_by_hand(TEACHER, STUDENT))
    # Near its ends it is the share of them that remains.
    assert jensen_shannon(p, q, 1e-6).item() / 1e-6 == pytest.approx(kl_by_hand(TEACHER, STUDENT), rel=1e-4)
    assert jensen_shannon(p, q, 1 - 1e-6).item() / 1e-6 == pytest.approx(kl_by_hand(STUDENT, TEACHER), rel=1e-4)


def test_jensen_shannon_at_one_half_is_symmetric_and_at_most_log_2():
    p, q = log_of(STUDENT), log_of(TEACHER)
    torch.testing.assert_close(jensen_shannon(p, q, 0.5), jensen_shannon(q, p, 0.5))
    apart = log_of([1.0, 0.0]), log_of([0.0, 1.0])
    assert jensen_shannon(*apart, 0.5).item() == pytest.approx(math.log(2))
    assert jensen_shannon(p, p, 0.5).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_divergences_with_excluded_tokens_have_finite_gradients(share):
    """The last token is excluded by both; at the ends of jensen_shannon it alone may be."""
    logits = torch.tensor([0.4, -0.3, 0.8, 0.0], dtype=torch.float64, requires_grad=True)
    excluded = torch.tensor([False, False, False, True])
    only_one = torch.tensor([False, 0 < share < 1, False, True])
    log_p = logits.masked_fill(excluded, -math.inf).log_softmax(0)
    log_q = torch.zeros(4, dtype=torch.float64).masked_fill(only_one, -math.inf).log_softmax(0)
    found = jensen_shannon(log_p, log_q, share)
    p, q = log_p.detach().exp().tolist(), log_q.exp().tolist()
    mixture = [share * b + (1 - share) * a for a, b in zip(p, q, strict=True)]
    between = share * kl_by_hand(q, mixture) + (1 - share) * kl_by_hand(p, mixture)
    expected = between if 0 < share < 1 else kl_by_hand(*((p, q) if share else (q, p)))
    assert found.item() == pytest.approx(expected)
    found.backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().max() > 0.01


def test_what_the_policy_excludes_and_the_other_does_not_adds_nothing():
    log_p = torch.tensor([0.5, 0.5, 0.0]).log()
    assert vocabulary_kl(log_p, torch.tensor([0.25, 0.25, 0.5]).log()).item() == pytest.approx(math.log(2))
    assert vocabulary_kl(torch.tensor([0.25, 0.25, 0.5]).log(), log_p).item() == math.inf


def test_shaped_rewards_obey_the_conservation_law():
    rng = np.random.default_rng(1)
    log_probs, ref = -rng.exponential(size=(2, 4, 6)).astype(np.float32)
    valid = np.arange(6) < np.array([6, 3, 1, 4])[:, None]
    rewards = np.where(valid, rng.normal(size=(4, 6)), 0).astype(np.float32)
    log_probs[~valid], ref[~valid] = -np.inf, -np.inf  # what lies after the end must not matter
    before = rewards.copy()
    shaped = shape_rewards(rewards, log_probs, ref, valid, beta=0.3)
    assert shaped.dtype == np.float32
    np.testing.assert_array_equal(rewards, before)
    assert (shaped[~valid] == 0).all()
    for row in range(4):
        n = valid[row].sum()
        kl = sum(float(log_probs[row, t]) - float(ref[row, t]) for t in range(n))
        assert shaped[row].sum() == pytest.approx(rewards[row].sum() - 0.3 * kl, abs=1e-5)


def test_shape_rewards_refuses_nonsense():
    ones = np.ones((2, 3))
    valid = np.ones((2, 3), dtype=bool)
    with pytest.raises(ValueError, match=r"one shape \[N, T\]"):
        shape_rewards(ones, ones, ones[:, :2], valid, 0.1)
    with pytest.raises(ValueError, match=r"beta=-0\.1; expected a finite number, at least 0"):
        shape_rewards(ones, ones, ones, valid, -0.1)
    impossible = ones.copy()
    impossible[1, 2] = -np.inf
    with pytest.raises(ValueError, match=r"row 1, token 2: log π = 1.0, log π_ref = -inf"):
        shape_rewards(ones, ones, impossible, valid, 0.1)


def test_adaptive_controller_by_hand():
    controller = AdaptiveKL(0.2, target=6.0, horizon=10_000)
    controller.update(60.0, 256)  # far above: clipped at +0.2
    assert controller.beta == pytest.approx(0.2 * (1 + 0.2 * 256 / 10_000))
    controller = AdaptiveKL(0.2, target=6.0, horizon=10_000)
    controller.update(5.4, 256)  # −0.1, not clipped
    assert controller.beta == pytest.approx(0.2 * (1 - 0.1 * 256 / 10_000))
    controller.update(6.0, 256)
    assert controller.beta == pytest.approx(0.2 * (1 - 0.1 * 256 / 10_000))
    controller.update(0.0, 10**9)
    assert controller.beta > 0


def test_adaptive_controller_finds_the_beta_of_its_target():
    """A world where KL = 1/β: the target 4 is reached at β = ¼."""
    controller = AdaptiveKL(1.0, target=4.0, horizon=1_000)
    for _ in range(1_000):
        controller.update(1 / controller.beta, 64)
    assert controller.beta == pytest.approx(0.25, rel=0.01)


def test_controllers_keep_and_restore_their_state():
    fixed = FixedKL(0.1)
    fixed.update(100.0, 100)
    assert fixed.beta == 0.1
    for old, new in ((fixed, FixedKL(0.5)), (AdaptiveKL(0.3), AdaptiveKL(0.5))):
        new.load_state_dict(old.state_dict())
        assert new.beta == old.beta


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedKL(-1), "beta"),
        (lambda: FixedKL(math.nan), "beta"),
        (lambda: AdaptiveKL(0.0), r"beta=0\.0; expected a finite number, more than 0"),
        (lambda: AdaptiveKL(0.1, target=0), "target"),
        (lambda: AdaptiveKL(0.1, horizon=-1), "horizon"),
        (lambda: AdaptiveKL(0.1).update(math.nan, 1), "finite kl_per_sequence"),
        (lambda: FixedKL(0.1).load_state_dict({"beta": -1.0}), "beta"),
    ],
)
def test_controllers_refuse_nonsense(make, message):
    with pytest.raises(ValueError, match=message):
        make()
