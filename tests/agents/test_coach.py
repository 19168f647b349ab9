"""COACH and its kin against exact gradients, against REINFORCE, and on a task that COACH cannot solve."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers import tiny_gpt2, word_mdp
from tests.talking import talking_mdp
from textgym.agents import COACH, ECOACH, DeepCOACH, Reinforce
from textgym.agents.functional.objectives import gae, monte_carlo, traced, whiten
from textgym.agents.loop.slots import admitting_env
from textgym.env.mdp import TokenMDP
from textgym.exact import expected_gradient, objective_gradient
from textgym.rewards import SimulatedTrainer, Watched
from textgym.rewards.feedback.delays import Fixed

END, V, T = 1, 3, 3
SHAPE: dict[str, Any] = {"initializer_range": 0.4, "n_embd": 16}
PROMPTS = ("w0 w0", "w0")


# --- the recursion -----------------------------------------------------------------------------------------------


def test_traced_credit_by_hand() -> None:
    """λ = 0.5: A2 = 4, A1 = 2 + 2, A0 = 1 + 2; a column of the other side passes credit on undiminished."""
    own = np.array([[True, True, False, True, False]])
    feedback = np.array([[1.0, 2.0, 9.0, 4.0, 9.0]], np.float32)
    assert traced(feedback, own, 0.5).advantages.tolist() == [[3, 4, 0, 4, 0]]
    # γ = 0.5 weighs own tokens by 1, 0.5 and 0.25: 1 + 1 + 1, 1 + 1, 1.
    assert traced(feedback, own, 1.0, 0.5).advantages.tolist() == [[3, 2, 0, 1, 0]]
    assert traced(feedback, own, 0.0).advantages.tolist() == [[1, 2, 0, 4, 0]]
    assert not traced(feedback, own, 0.5).returns.any()


@pytest.mark.parametrize(("lam", "gamma"), [(0.0, 1.0), (0.35, 1.0), (1.0, 1.0), (1.0, 0.9), (0.7, 0.8)])
def test_credit_is_the_eligibility_trace_of_the_paper(lam: float, gamma: float) -> None:
    """Σ_t γ^t·f_t·e_t with e_t = λ·e_{t−1} + g_t, accumulated forward over own tokens."""
    rng = np.random.default_rng(0)
    own = rng.random((8, 7)) < 0.7
    feedback, gradients = rng.normal(size=(8, 7)).astype(np.float32), rng.normal(size=(8, 7))
    credit = traced(feedback, own, lam, gamma).advantages
    for row in range(8):
        trace = step = t = 0.0
        for column in np.flatnonzero(own[row]):
            trace = lam * trace + gradients[row, column]
            step += gamma**t * feedback[row, column] * trace
            t += 1
        assert (credit[row] * gradients[row]).sum() == pytest.approx(step, abs=1e-5)
        assert not credit[row, ~own[row]].any()


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_credit_is_gae_whose_errors_are_feedback(lam: float) -> None:
    rng = np.random.default_rng(1)
    own, feedback = rng.random((6, 9)) < 0.6, rng.normal(size=(6, 9)).astype(np.float32)
    no_values = np.zeros((6, 10), np.float32)
    assert traced(feedback, own, lam).advantages.tolist() == gae(feedback, no_values, own, lam).advantages.tolist()


# --- exact gradients ---------------------------------------------------------------------------------------------


def scored(ids: Sequence[int]) -> list[float]:
    """Some reward that depends on every token and its place, paid token by token."""
    return [math.sin(1 + (3 * t + 1) * (i + 1) + sum(ids[:t])) for t, i in enumerate(ids)]


def dense(completion_ids: list[list[int]], **_: Any) -> list[list[float]]:
    return [scored(ids) for ids in completion_ids]


def all_responses() -> Iterator[tuple[int, ...]]:
    """Yield every response of at most T tokens."""
    found = {ids[: ids.index(END) + 1] if END in ids else ids for ids in product(range(V), repeat=T)}
    yield from sorted(found)


def log_probs(model: Any, prompt: Sequence[int], ids: Sequence[int]) -> Tensor:
    """Return log-probabilities of a response's tokens, one state at a time."""
    states = [[*prompt, *ids[:t]] for t in range(len(ids))]
    rows = [
        model(torch.tensor([state])).logits[0, -1, :V].log_softmax(-1)[i] for state, i in zip(states, ids, strict=True)
    ]
    return torch.stack(rows)


class Tree:
    """Values of a policy in every state of a task: E[Σ γ^k (r − β·log π/π_ref)] from there on, by recursion."""

    def __init__(self, policy: Any, reference: Any, prompt: Sequence[int], beta: float, gamma: float) -> None:
        self.models, self.prompt, self.beta, self.gamma = (policy, reference), prompt, beta, gamma
        self.value = cache(self.value_of)

    @torch.no_grad()
    def value_of(self, ids: tuple[int, ...]) -> float:
        if len(ids) == T or ids[-1:] == (END,):
            return 0.0
        state = torch.tensor([[*self.prompt, *ids]])
        log_p, log_q = (model(state).logits[0, -1, :V].log_softmax(-1).tolist() for model in self.models)
        return sum(math.exp(log_p[a]) * (self.q(ids, a) - self.beta * (log_p[a] - log_q[a])) for a in range(V))

    def q(self, ids: tuple[int, ...], a: int) -> float:
        """Return the value of a token, without its own price of KL, which the algorithm subtracts itself."""
        return scored([*ids, a])[-1] + self.gamma * self.value((*ids, a))

    def advantages(self, ids: Sequence[int]) -> list[float]:
        return [self.q(tuple(ids[:t]), a) - self.value(tuple(ids[:t])) for t, a in enumerate(ids)]


def make(kind: Any, reward: Any, beta: float = 0.0, **settings: Any) -> Any:
    """Return an algorithm whose policy has moved away from its reference; its loss is Σ_t / T."""
    mdp = word_mdp(reward, PROMPTS, 4, T, V - 2)
    return kind(
        "LMPolicy",
        admitting_env(mdp, 8),
        model=tiny_gpt2(V, 0, **SHAPE),
        reference=tiny_gpt2(V, 1, **SHAPE),
        beta=beta,
        episodes_per_iteration=8,
        minibatch_size=8,
        normalisation="constant",
        **settings,
    )


def advantage_feedback(beta: float, gamma: float) -> Any:
    """Return feedback that is the advantage under the present policy, A^π, from the tree of all prefixes."""
    policy, reference = tiny_gpt2(V, 0, **SHAPE), tiny_gpt2(V, 1, **SHAPE)

    tree = cache(lambda prompt: Tree(policy, reference, prompt, beta, gamma))

    def feedback(completion_ids: list[list[int]], prompt_ids: list[list[int]], **_: Any) -> list[list[float]]:
        return [tree(tuple(p)).advantages(ids) for p, ids in zip(prompt_ids, completion_ids, strict=True)]

    return feedback


def discounted_gradient(algorithm: Any, gamma: float) -> Tensor:
    """Return ∇E[Σ_t γ^t·r_t] by plain torch, a mean over prompts."""
    mdp: TokenMDP = algorithm._env_attribute("mdp")
    policy = algorithm.policy.lm
    objective = torch.zeros(())
    for prompt in mdp.prompts:
        for ids in all_responses():
            paid = sum(gamma**t * r for t, r in enumerate(scored(ids)))
            objective = objective + log_probs(policy, prompt.ids, ids).sum().exp() * paid / len(mdp.prompts)
    return flat(objective, policy)


def flat(objective: Tensor, policy: Any) -> Tensor:
    """Return the gradient over all parameters."""
    parameters = list(policy.parameters())
    grads = torch.autograd.grad(objective, parameters, allow_unused=True)
    found = zip(grads, parameters, strict=True)
    return torch.cat([torch.zeros_like(p).ravel() if g is None else g.ravel() for g, p in found])


def distance(one: Tensor, other: Tensor) -> float:
    """Return |one − other| in units of |other|."""
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("kind", [COACH, DeepCOACH])
def test_coach_with_exact_advantages_has_the_policy_gradient(kind: Any, beta: float) -> None:
    """λ = 0 and f = A^π from the tree: T times the expected step is ∇J, of the reward that nobody paid."""
    given = {"ent_coef": 0.0} if kind is DeepCOACH else {}
    coach = make(kind, advantage_feedback(beta, 1.0), beta, trace_lambda=0.0, **given)
    truth = objective_gradient(make(COACH, dense, beta))
    assert distance(T * expected_gradient(coach), truth) < 1e-4
    # The same feedback with another trace is still unbiased, as later advantages have the mean 0.
    decayed = make(kind, advantage_feedback(0.0, 1.0), 0.0, trace_lambda=0.7, **given)
    assert distance(T * expected_gradient(decayed), objective_gradient(make(COACH, dense))) < 1e-4


def test_coach_with_the_reward_as_feedback_needs_the_whole_trace() -> None:
    truth = objective_gradient(make(COACH, dense))
    assert distance(T * expected_gradient(make(COACH, dense, trace_lambda=1.0)), truth) < 1e-4
    assert distance(T * expected_gradient(make(COACH, dense, trace_lambda=0.0)), truth) > 0.1


@pytest.mark.parametrize("gamma", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["reward", "advantage"])
def test_e_coach_has_the_gradient_of_the_discounted_objective(kind: str, gamma: float) -> None:
    """With the reward as feedback, and with the advantage of the present policy, as Shah 2021 states."""
    feedback = dense if kind == "reward" else advantage_feedback(0.0, gamma)
    ecoach = make(ECOACH, feedback, gamma=gamma)
    truth = discounted_gradient(ecoach, gamma)
    assert distance(T * expected_gradient(ecoach), truth) < 1e-4
    coach = make(COACH, feedback, trace_lambda=1.0)
    assert (distance(T * expected_gradient(coach), truth) < 1e-4) is (gamma == 1.0)


# --- REINFORCE ---------------------------------------------------------------------------------------------------


class Plain(Reinforce):
    """REINFORCE without whitening."""

    def estimate_advantages(self, scored: Any) -> Any:
        return monte_carlo(scored.shaped, scored.values, scored.episodes.own)


class Whitened(COACH):
    """COACH with REINFORCE's whitening."""

    def estimate_advantages(self, scored: Any) -> Any:
        found = super().estimate_advantages(scored)
        return found._replace(advantages=whiten(found.advantages, scored.episodes.own))


def mean_id(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [sum(ids) / len(ids) / 4 for ids in completion_ids]


def trained(kind: Any, mdp: TokenMDP, tokens: int = 300, **settings: Any) -> dict[str, Tensor]:
    given = {"episodes_per_iteration": 16, "minibatch_size": 8, "seed": 0, "beta": 0.1, **settings}
    algorithm = kind("LMPolicy", admitting_env(mdp, 8), 3e-3, model=tiny_gpt2(), **given)
    algorithm.learn(tokens)
    assert algorithm.iteration > 1
    return dict(algorithm.policy.state_dict())


@pytest.mark.parametrize("turns", [False, True], ids=["one turn", "conversation"])
@pytest.mark.parametrize(("coach", "reinforce"), [(COACH, Plain), (Whitened, Reinforce)])
@pytest.mark.filterwarnings("ignore:iteration .* nats:UserWarning")
def test_coach_is_reinforce_where_feedback_comes_at_the_end(coach: Any, reinforce: Any, turns: bool) -> None:
    """λ = 1: every parameter after several iterations is the same, bit for bit."""
    mdp = talking_mdp() if turns else word_mdp(mean_id)
    found, expected = trained(coach, mdp, trace_lambda=1.0), trained(reinforce, mdp)
    before = tiny_gpt2().state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert any(not torch.equal(found[f"lm.{name}"], weight) for name, weight in before.items())
    other = trained(coach, mdp, trace_lambda=0.9)
    assert not all(torch.equal(other[name], expected[name]) for name in found)


def test_feedback_of_a_simulated_person_trains() -> None:
    """A person who answers at once and always is the reward itself; one who is late is another reward."""
    paid, at_once, late = (
        trained(COACH, word_mdp(reward), trace_lambda=0.35)
        for reward in (ids_as_reward, watching(Fixed(0.0)), watching(Fixed(1.0)))
    )
    assert all(torch.equal(at_once[name], paid[name]) for name in paid)
    assert not all(torch.equal(late[name], paid[name]) for name in paid)


def ids_as_reward(completion_ids: list[list[int]], **_: Any) -> list[list[float]]:
    return [[float(i) - 4 for i in ids] for ids in completion_ids]


def watching(delay: Any) -> Watched:
    """Return a person of a delay whom the learner takes for one without."""
    return Watched(ids_as_reward, SimulatedTrainer(delay), Fixed(0.0))


# --- a task that COACH cannot solve --------------------------------------------------------------------------------

NOW, LATER, GAMMA = 0.6, 1.0, 0.5


def three_states() -> TokenMDP:
    """Stop at once for 0.6, or walk on through two more states, without a choice, to 1 at their end.

    The discounted returns are 0.6 and 0.5²: it is right to stop. Without the discount it is right to go.
    """

    def reward(completion_ids: list[list[int]], **_: Any) -> list[list[float]]:
        return [[NOW] if len(ids) == 1 else [0.0, 0.0, LATER] for ids in completion_ids]

    def allowed(input_ids: np.ndarray[Any, Any], attention_mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        begun = attention_mask[:, 1:].any(1)  # the prompt has one column
        return np.stack([np.zeros_like(begun), ~begun, np.ones_like(begun)], 1)

    return word_mdp(reward, ("w0",), 1, 3, V - 2, allowed=allowed)


def chance_to_stop(model: Any) -> Tensor:
    """Return π(stop) in the first state, where two tokens are allowed."""
    return model(torch.tensor([[2]])).logits[0, -1, 1:V].softmax(-1)[0]


def discounted(stop: Any) -> Any:
    """Return the discounted objective of a policy, by enumeration of its two responses."""
    return stop * NOW + (1 - stop) * GAMMA**2 * LATER


def three_state_algorithm(kind: Any, **settings: Any) -> Any:
    return kind(
        "LMPolicy",
        admitting_env(three_states(), 8),
        2e-2,
        model=tiny_gpt2(V, 0, n_embd=16),
        beta=0.0,
        episodes_per_iteration=32,
        minibatch_size=32,
        normalisation="constant",
        seed=0,
        **settings,
    )


def test_on_three_states_coach_climbs_the_wrong_objective() -> None:
    """By enumeration: one logit decides; E-COACH's step is ∇J, COACH's is opposed to it, in the ratio of the gains."""
    ecoach, coach = three_state_algorithm(ECOACH, gamma=GAMMA), three_state_algorithm(COACH, trace_lambda=1.0)
    truth = flat(discounted(chance_to_stop(ecoach.policy.lm)), ecoach.policy.lm)
    assert distance(3 * expected_gradient(ecoach), truth) < 1e-4
    ratio = (NOW - LATER) / (NOW - GAMMA**2 * LATER)
    assert ratio < 0
    assert distance(3 * expected_gradient(coach), ratio * truth) < 1e-4
    # A trace that decays by γ discounts from each state on, and here, where states share no choice, finds the way.
    decayed = three_state_algorithm(COACH, trace_lambda=GAMMA)
    assert distance(3 * expected_gradient(decayed), truth) < 1e-4


@pytest.mark.filterwarnings("ignore:iteration .* nats:UserWarning")
def test_on_three_states_e_coach_reaches_the_optimum_and_coach_does_not() -> None:
    """Feedback is the reward of each step; scores are 0 for the first policy and 1 for the optimum."""
    scores = {}
    for kind, settings in ((ECOACH, {"gamma": GAMMA}), (COACH, {"trace_lambda": 1.0})):
        algorithm = three_state_algorithm(kind, **settings)
        first = copy.deepcopy(algorithm.policy.lm)
        algorithm.learn(1500)
        with torch.no_grad():
            before, after = (float(discounted(chance_to_stop(m))) for m in (first, algorithm.policy.lm))
        scores[kind] = (after - before) / (NOW - before)
    assert scores[ECOACH] > 0.95
    assert scores[COACH] < -0.5


# --- settings ----------------------------------------------------------------------------------------------------


def test_only_e_coach_has_a_discount() -> None:
    with pytest.raises(TypeError, match="e-coach has a discount"):
        three_state_algorithm(COACH, gamma=0.9)
    for gamma in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="gamma"):
            three_state_algorithm(ECOACH, gamma=gamma)
    for lam in (-0.1, 1.1):
        with pytest.raises(ValueError, match="trace_lambda"):
            three_state_algorithm(COACH, trace_lambda=lam)
