"""Expected gradients against plain torch: every response, state and group of a small task written out by hand."""

from __future__ import annotations

import math
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers import tiny_gpt2, word_mdp
from tests.talking import talking_mdp
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.slots import admitting_env
from textgym.agents.registry import find_algorithm
from textgym.env.mdp import TokenMDP
from textgym.exact import expected_gradient, gradient_alignment, gradient_noise, objective_gradient
from textgym.exact.gradients import all_draws, compare_step, objective_parts, proportional
from textgym.lm.sampling import Sampling

END, V, BETA = 1, 3, 0.3
PROMPTS = ("w0 w0", "w0")


def placed(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Some reward that depends on every token and its place."""
    return [math.sin(1 + sum((3 * t + 1) * (i + 1) for t, i in enumerate(ids))) for ids in completion_ids]


def share_of_two(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that many responses have in common."""
    return [float(ids.count(2)) for ids in completion_ids]


def nothing(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [0.0] * len(completion_ids)


def no_repeats(input_ids: np.ndarray[Any, Any], attention_mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a task's mask: the last token may not come again."""
    last = (np.arange(input_ids.shape[1]) * attention_mask).argmax(1)
    return np.arange(V) != input_ids[np.arange(len(input_ids)), last][:, None]


def make(name: str, reward: Any = placed, horizon: int = 2, prompts: Any = PROMPTS, **settings: Any) -> Any:
    """Return an algorithm whose policy has moved away from its reference."""
    task = {key: settings.pop(key) for key in ("allowed",) if key in settings}
    mdp = word_mdp(reward, prompts, 4, horizon, V - 2, **task)
    shape = {"initializer_range": 0.4, "n_embd": 16}
    given = {"beta": BETA, "episodes_per_iteration": 12, "minibatch_size": 12, **settings}
    models = {"model": tiny_gpt2(V, 0, **shape), "reference": tiny_gpt2(V, 1, **shape)}
    return find_algorithm(name)("LMPolicy", admitting_env(mdp, 8), **models, **given)


# --- written out ---------------------------------------------------------------------------------------------


class Response(NamedTuple):
    """One response: its score, and at each token log π, log π_ref and both distributions."""

    score: float
    log_probs: Tensor
    ref_log_probs: Tensor
    log_p: Tensor
    log_q: Tensor

    @property
    def log_prob(self) -> Tensor:
        return self.log_probs.sum()

    @property
    def kls(self) -> Tensor:
        """KL(π‖π_ref) in each state."""
        difference = torch.where(self.log_p.isfinite(), self.log_p - self.log_q, 0.0)
        return (self.log_p.exp() * difference).sum(-1)


def distribution(model: Any, ids: list[int], t: int, mdp: TokenMDP, sampling: Sampling, truncate: bool) -> Tensor:
    """Log-probabilities of the next token, ``[V]``, one state at a time."""
    logits = model(torch.tensor([ids])).logits[0, -1] / sampling.temperature
    excluded = torch.zeros(V, dtype=torch.bool)
    if t < sampling.min_new_tokens:
        excluded[END] = True
    if mdp.allowed is not None:
        excluded |= torch.from_numpy(~mdp.allowed(np.array([ids]), np.ones((1, len(ids)), np.int8))[0])
    logits = logits.masked_fill(excluded, -math.inf)
    if truncate and sampling.top_k:
        logits = logits.masked_fill(logits < logits.sort(descending=True).values[sampling.top_k - 1], -math.inf)
    return logits.log_softmax(-1)


def responses(algorithm: SequenceAlgorithm) -> list[list[Response]]:
    """Return all responses that are possible, for each prompt."""
    mdp: TokenMDP = algorithm._env_attribute("mdp")
    sampling, policy, reference = algorithm.sampling, algorithm.policy.lm, algorithm.reference
    found = []
    for prompt in mdp.prompts:
        ended = {
            ids[: ids.index(END) + 1] if END in ids else ids for ids in product(range(V), repeat=mdp.max_new_tokens)
        }
        one = []
        for ids in sorted(ended):
            states = [[*prompt.ids, *ids[:t]] for t in range(len(ids))]
            log_p = torch.stack([distribution(policy, s, t, mdp, sampling, True) for t, s in enumerate(states)])
            with torch.no_grad():
                log_q = torch.stack([distribution(reference, s, t, mdp, sampling, False) for t, s in enumerate(states)])
            tokens = torch.tensor(ids)[:, None]
            chosen = log_p.gather(1, tokens)[:, 0]
            if chosen.isfinite().all():
                score = mdp.rewards.rewards[0](prompts=[], completions=[], completion_ids=[list(ids)])[0]  # type: ignore[operator, index]
                one.append(Response(score, chosen, log_q.gather(1, tokens)[:, 0], log_p, log_q))
        found.append(one)
    return found


def flat(algorithm: SequenceAlgorithm, value: Tensor) -> Tensor:
    """Gradient over all parameters."""
    parameters = list(algorithm.policy.lm.parameters())
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for p, g in zip(parameters, gradients, strict=True)
        ]
    )


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def objective(found: list[list[Response]], beta: float) -> Tensor:
    """J, written out."""
    return mean(
        [
            torch.stack([y.log_prob.exp() * (y.score - beta * (y.log_prob - y.ref_log_probs.sum())) for y in one]).sum()
            for one in found
        ]
    )


def assert_close(found: Tensor, truth: Tensor, tolerance: float = 1e-5) -> None:
    assert float((found - truth).norm() / truth.norm()) < tolerance


SAMPLINGS = {
    "plain": {},
    "temperature": {"sampling": Sampling(temperature=0.7)},
    "minimum": {"sampling": Sampling(min_new_tokens=2), "horizon": 3},
    "top-k": {"sampling": Sampling(top_k=2), "horizon": 3},
    "masked": {"allowed": no_repeats, "horizon": 3},
}


@pytest.mark.parametrize("settings", SAMPLINGS.values(), ids=SAMPLINGS)
def test_objective_gradient_equals_plain_torch(settings: dict[str, Any]) -> None:
    algorithm = make("rloo", **settings)
    found = responses(algorithm)
    assert float(torch.stack([y.log_prob.exp() for y in found[0]]).sum().detach()) == pytest.approx(1, abs=1e-5)
    assert_close(objective_gradient(algorithm), flat(algorithm, objective(found, BETA)))


@pytest.mark.parametrize("settings", SAMPLINGS.values(), ids=SAMPLINGS)
def test_rloo_and_the_exact_kl_have_the_gradient_of_the_objective(settings: dict[str, Any]) -> None:
    """RLOO's is ∇J; without divisors GRPO's is that of E[R] − β·k/(k−1)·KL, as its mean includes the response."""
    k = 3
    rloo = gradient_alignment(make("rloo", samples_per_prompt=k, **settings))
    assert rloo.cosine > 1 - 1e-6
    assert rloo.beta == pytest.approx(BETA, rel=1e-4)
    exact = gradient_alignment(make("dr-grpo", samples_per_prompt=k, **settings))
    assert exact.best_cosine > 1 - 1e-6
    assert exact.beta == pytest.approx(BETA * k / (k - 1), rel=1e-4)


@pytest.mark.parametrize("kl_in_loss", [False, True])
def test_the_ratio_of_whole_responses_has_the_gradient_of_the_objective(kl_in_loss: bool) -> None:
    """A response's log-ratio is a sum over its tokens, and so must be the KL beside it; lengths differ."""
    algorithm = make("rloo-clipped", samples_per_prompt=3, horizon=3, kl_in_loss=kl_in_loss)
    assert_close(expected_gradient(algorithm), flat(algorithm, objective(responses(algorithm), BETA)))


def test_rloo_of_single_tokens_is_the_gradient_of_the_objective_itself() -> None:
    algorithm = make("rloo", horizon=1)
    assert_close(expected_gradient(algorithm), flat(algorithm, objective(responses(algorithm), BETA)))


# --- a group loss, by ordered tuples -------------------------------------------------------------------------


def later_kl(group: list[Response], i: int, t: int) -> float:
    """KL after token t of response i, less the mean of what comes after it in the others."""
    after = [float(y.kls[t + 1 :].sum().detach()) for y in group]
    return after[i] - sum(after[:i] + after[i + 1 :]) / (len(group) - 1)


def token_loss(group: list[Response], i: int, t: int, advantage: float, estimator: str) -> Tensor:
    """Loss of one token at π = π_old: −ρ·A + β·KL."""
    y = group[i]
    log_ratio = y.log_probs[t] - y.log_probs[t].detach()
    difference = y.ref_log_probs[t] - y.log_probs[t]
    k3 = difference.exp() - 1 - difference
    kl = {"exact": y.kls[t], "k3": k3, "k3-corrected": log_ratio.exp() * k3}[estimator]
    if estimator == "exact":
        advantage -= BETA * later_kl(group, i, t)
    return -log_ratio.exp() * advantage + BETA * kl


def standardised(group: list[Response], bessel: int) -> list[float]:
    scores = np.array([y.score for y in group])
    deviation = math.sqrt(((scores - scores.mean()) ** 2).sum() / (len(group) - bessel))
    return list((scores - scores.mean()) / (deviation + 1e-4))


def tuples(found: list[Response], k: int, bessel: int, estimator: str) -> list[tuple[float, Tensor]]:
    """Chance and loss of each tuple in order, each response's tokens averaged."""
    listed = []
    for group in map(list, product(found, repeat=k)):
        advantages = standardised(group, bessel)
        each = [
            mean([token_loss(group, i, t, advantages[i], estimator) for t in range(len(group[i].log_probs))])
            for i in range(k)
        ]
        listed.append((math.prod(float(y.log_prob.detach().exp()) for y in group), mean(each)))
    return listed


@pytest.mark.parametrize("estimator", ["exact", "k3-corrected", "k3"])
@pytest.mark.parametrize(("name", "bessel"), [("grpo", 1), ("grpo-published", 0)])
def test_grpo_equals_plain_torch_over_all_tuples(name: str, bessel: int, estimator: str) -> None:
    k = 3
    algorithm = make(name, samples_per_prompt=k, kl_estimator=estimator, prompts=PROMPTS[:1])
    losses = tuples(responses(algorithm)[0], k, bessel, estimator)
    total = torch.stack([chance * loss for chance, loss in losses]).sum()
    assert_close(expected_gradient(algorithm), flat(algorithm, -total))


@pytest.mark.parametrize("estimator", ["exact", "k3"])
def test_noise_is_the_deviation_over_all_tuples(estimator: str) -> None:
    algorithm = make("grpo", samples_per_prompt=2, kl_estimator=estimator, prompts=PROMPTS[:1])
    losses = tuples(responses(algorithm)[0], 2, 1, estimator)
    chance = torch.tensor([chance for chance, _ in losses])[:, None]
    gradients = torch.stack([flat(algorithm, loss) for _, loss in losses])
    expected = (chance * gradients).sum(0)
    deviation = (chance * (gradients - expected) ** 2).sum().sqrt()
    assert gradient_noise(algorithm) == pytest.approx(float(deviation / expected.norm()), rel=1e-4)


@pytest.mark.parametrize("name", ["cispo", "dppo", "vespo", "dapo"])
def test_means_over_tokens_weigh_groups_by_their_tokens(name: str) -> None:
    """The mean over a large minibatch's tokens; DAPO's without the groups whose responses all score the same."""
    k = 2
    algorithm = make(name, share_of_two, samples_per_prompt=k)
    above, below = [], 0.0
    for found in responses(algorithm):
        for group in map(list, product(found, repeat=k)):
            if name == "dapo" and len({y.score for y in group}) == 1:
                continue
            chance = math.prod(float(y.log_prob.detach().exp()) for y in group)
            advantages = standardised(group, 1)
            tokens = [(i, t) for i in range(k) for t in range(len(group[i].log_probs))]
            losses = [token_loss(group, i, t, advantages[i], "exact") for i, t in tokens]
            above.append(chance * torch.stack(losses).sum())
            below += chance * len(tokens)
    assert_close(expected_gradient(algorithm), flat(algorithm, -torch.stack(above).sum() / below))


# --- parts of a loss -----------------------------------------------------------------------------------------


def visited(found: list[list[Response]], of_state: Any) -> Tensor:
    """Mean over prompts of Σ_y π(y)·Σ_t f(state t), with the chances of responses held fixed."""
    return mean([torch.stack([y.log_prob.exp().detach() * of_state(y).sum() for y in one]).sum() for one in found])


def reverse_kls(y: Response) -> Tensor:
    return (y.log_q.exp() * (y.log_q - y.log_p)).sum(-1)


@pytest.mark.parametrize("estimator", ["exact", "k3-corrected", "k3"])
def test_the_kl_alone_has_the_gradient_that_its_documentation_names(estimator: str) -> None:
    """k3: KL(π_ref‖π) in visited states. k3-corrected: KL(π‖π_ref) there. exact: KL(π‖π_ref) of whole responses."""
    horizon = 3
    algorithm = make("dr-grpo", nothing, horizon, samples_per_prompt=2, kl_estimator=estimator)
    found = responses(algorithm)
    truth = {
        "exact": -objective(found, 1.0),
        "k3-corrected": visited(found, lambda y: y.kls),
        "k3": visited(found, reverse_kls),
    }[estimator]
    assert_close(expected_gradient(algorithm), -BETA / horizon * flat(algorithm, truth))


def test_mean_of_the_whole_group_leaves_k_minus_1_of_k_of_the_reward() -> None:
    k = 4
    algorithm = make("dr-grpo", samples_per_prompt=k, beta=0.0)
    truth = flat(algorithm, objective(responses(algorithm), 0.0))
    assert_close(expected_gradient(algorithm), (k - 1) / k * truth / 2)


def test_maxrl_weighs_a_prompt_by_its_pass_rate() -> None:
    """(1 − (1 − p)^(k−1))/p, the mean subtracted; Tajwar 2026."""

    def passes(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(ids[0] == 2) for ids in completion_ids]

    k = 4
    algorithm = make("maxrl", passes, samples_per_prompt=k, beta=0.0)
    rates = [torch.stack([y.log_prob.exp() * y.score for y in one]).sum() for one in responses(algorithm)]
    truth = [(1 - (1 - q) ** (k - 1)) / q * p for p, q in zip(rates, torch.stack(rates).tolist(), strict=True)]
    assert_close(expected_gradient(algorithm), flat(algorithm, mean(truth)) / 2)


# --- one response to a prompt --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ppo", {"gae_lambda": 1.0}),
        ("trpo", {"gae_lambda": 1.0}),
        ("nlpo", {"gae_lambda": 1.0}),
        ("a2c", {}),
        ("reinforce", {}),
        ("reinforce++", {}),
        ("reinforce", {"kl_in_loss": True}),
        ("ppo", {"gae_lambda": 1.0, "kl_in_loss": True}),
    ],
)
@pytest.mark.parametrize("beta", [0.04, 0.3])
def test_whitened_algorithms_have_the_direction_of_the_objective(
    name: str, settings: dict[str, Any], beta: float
) -> None:
    """Any critic is a baseline. With the KL in the loss, whitening scales the reward alone: β is another then."""
    algorithm = make(name, horizon=3, beta=beta, **settings)
    if algorithm.critic:
        with torch.no_grad():
            algorithm.policy.value.head.linear.weight.copy_(torch.linspace(-0.2, 0.3, 16))
    found = gradient_alignment(algorithm)
    assert found.best_cosine > 0.99999
    if not settings.get("kl_in_loss"):
        assert found.cosine > 0.99999
        assert found.beta == pytest.approx(beta, rel=2e-3)


def test_whitening_divides_by_the_deviation_of_the_tokens() -> None:
    """REINFORCE's step is ∇J over the mean length and the deviation of its returns-to-go."""
    algorithm = make("reinforce", prompts=PROMPTS[:1], beta=0.0)
    found = responses(algorithm)[0]
    chance = np.array([float(y.log_prob.detach().exp()) for y in found])
    length = np.array([len(y.log_probs) for y in found])
    score = np.array([y.score for y in found])
    tokens = chance * length / (chance * length).sum()
    deviation = math.sqrt((tokens * score**2).sum() - (tokens * score).sum() ** 2)
    truth = flat(algorithm, objective([found], 0.0)) / (chance * length).sum() / deviation
    assert_close(expected_gradient(algorithm), truth, 1e-3)  # rounded to 2^-16


@pytest.mark.parametrize("k", [1, 2])
def test_remax_is_the_gradient_of_the_objective_over_the_mean_length(k: int) -> None:
    algorithm = make("remax", samples_per_prompt=k)
    found = responses(algorithm)
    length = float(visited(found, lambda y: torch.ones(len(y.log_probs))))
    assert_close(expected_gradient(algorithm), flat(algorithm, objective(found, BETA)) / length)


def test_a_star_po_is_2_beta_times_the_gradient_of_the_objective_whatever_its_values() -> None:
    """E[∇(β·log(π/π_ref) − A)²] is 2β·E[(β·log(π/π_ref) − R)·∇log π] at π = π_old: V̂* has no part in it."""
    algorithm = make("a-star-po", value_samples=2)
    algorithm.collect()
    assert_close(expected_gradient(algorithm), 2 * BETA * objective_gradient(algorithm))
    before = gradient_noise(algorithm)
    algorithm.sampled.returns += 5
    assert_close(expected_gradient(algorithm), 2 * BETA * objective_gradient(algorithm), 1e-4)
    assert gradient_noise(algorithm) > 2 * before


@pytest.mark.parametrize("name", ["expert-iteration", "best-of-n"])
def test_imitation_raises_the_best_of_n(name: str) -> None:
    """Of two tokens drawn, the chance that y is the better one is p(y)² + 2·p(y)·Σ_{z worse} p(z)."""
    algorithm = make(name, horizon=1, samples_per_prompt=2, prompts=PROMPTS[:1], beta=0.0)
    found = responses(algorithm)[0]
    drawn = {"expert-iteration": lambda y: y.log_prob, "best-of-n": lambda y: y.ref_log_probs.sum()}[name]
    chance = {y.score: float(drawn(y).detach().exp()) for y in found}
    best = {s: p**2 + 2 * p * sum(q for z, q in chance.items() if z < s) for s, p in chance.items()}
    assert_close(
        expected_gradient(algorithm), flat(algorithm, torch.stack([best[y.score] * y.log_prob for y in found]).sum())
    )


# --- draws ---------------------------------------------------------------------------------------------------


def test_draws_are_multisets_with_multinomial_chances() -> None:
    draws = all_draws(np.array([0, 0, 1]), np.array([0.25, 0.75, 1.0]), 3)
    assert draws.responses.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1], [2, 2, 2]]
    assert draws.chance.tolist() == pytest.approx([1 / 128, 9 / 128, 27 / 128, 27 / 128, 1 / 2])
    assert draws.copies.tolist() == [1] * 5


def test_single_responses_stand_in_proportion_and_keep_their_chances() -> None:
    assert proportional(np.array([0.5, 0.34, 0.16]), 10).tolist() == [5, 3, 2]
    draws = all_draws(np.zeros(3, np.int64), np.array([0.25, 0.75 - 1e-9, 1e-9]), 1)
    assert draws.copies.tolist() == [2**14, 3 * 2**14, 1]
    assert draws.chance.tolist() == pytest.approx([0.25, 0.75 - 1e-9, 1e-9], rel=1e-6)


def test_comparison_of_steps() -> None:
    reward, kl = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    found = compare_step(torch.tensor([2.0, -1.0, 0.0]), reward, kl, 0.5)
    assert [found.cosine, found.length, found.beta, found.best_cosine] == pytest.approx([1, 2, 0.5, 1])
    other = compare_step(torch.tensor([1.0, -2.0, 2.0]), reward, kl, 0.0)
    assert [other.cosine, other.length, other.beta] == pytest.approx([1 / 3, 3, 2])
    assert other.best_cosine == pytest.approx(math.sqrt(5) / 3)
    assert compare_step(torch.tensor([-1.0, -1.0, 0.0]), reward, kl, 0.0).beta == math.inf


# --- what it leaves alone, and what it refuses ---------------------------------------------------------------


def test_nothing_in_the_algorithm_changes() -> None:
    runs = []
    for looks in (False, True):
        algorithm = make("grpo", samples_per_prompt=2, seed=3)
        algorithm.learn(20)
        if looks:
            env, logger = algorithm.env, algorithm.logger
            gradient_alignment(algorithm)
            assert (algorithm.env, algorithm.logger) == (env, logger)
        algorithm.learn(20, reset_num_timesteps=False)
        runs.append(torch.cat([p.detach().flatten() for p in algorithm.policy.parameters()]))
    assert torch.equal(*runs)


def test_adapters_are_the_parameters_where_the_model_is_frozen() -> None:
    algorithm = make("rloo", samples_per_prompt=2, policy_kwargs={"lora": 2})
    trained = sum(p.numel() for p in algorithm.policy.lm.parameters() if p.requires_grad)
    assert expected_gradient(algorithm).shape == objective_gradient(algorithm).shape == (trained,)
    assert gradient_alignment(algorithm).cosine > 1 - 1e-6


def with_world() -> Any:
    mdp = talking_mdp()
    return find_algorithm("rloo")("LMPolicy", admitting_env(mdp, 4), model=tiny_gpt2(), episodes_per_iteration=32)


def stochastic(**columns: Any) -> list[float]:
    return nothing(**columns)


stochastic.expected = nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: make("rloo", samples_per_prompt=4, horizon=5),
            r"samples_per_prompt=4 of up to 63 .* 1,441,440 groups",
        ),
        (with_world, "has a world"),
        (lambda: make("rloo", stochastic), "is stochastic"),
        (lambda: make("dapo", nothing), "finds nothing to train on"),
        (lambda: make("maxrl", samples_per_prompt=2), "MaxRL divides by a mean of scores of at least 0"),
    ],
)
def test_what_cannot_be_enumerated_is_refused(made: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expected_gradient(made())


def test_an_algorithm_without_environment_is_refused() -> None:
    algorithm = make("rloo")
    algorithm.env = None
    with pytest.raises(ValueError, match="has no environment of textgym"):
        objective_parts(algorithm)
