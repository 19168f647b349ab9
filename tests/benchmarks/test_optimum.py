"""The exact optimum: identities, brute force, task rules, and what it refuses."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import textgym
from tests.helpers import emit, tiny_gpt2, tiny_llama, word_mdp
from textgym.agents.loop.evaluation import evaluate
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.env.mdp import TokenMDP
from textgym.exact import optimum
from textgym.exact.tree import count_sequences, n_sequences, prefix_tree
from textgym.lm.sampling import Sampling
from textgym.lm.trunk import Trunk

END, V = 1, 5
SHAPE = {"initializer_range": 0.5, "n_embd": 16}


def hashed(completion_ids: list[list[int]], prompt_ids: list[list[int]], **_: Any) -> list[float]:
    """Some reward of prompt and response without any structure."""
    return [
        math.sin(1 + sum((7 * t + 3) * i for t, i in enumerate([*p, *c])))
        for p, c in zip(prompt_ids, completion_ids, strict=True)
    ]


def no_repeats(input_ids: np.ndarray[Any, Any], attention_mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a task's mask: the last token may not come again."""
    last = (np.arange(input_ids.shape[1]) * attention_mask).argmax(1)
    return np.arange(V) != input_ids[np.arange(len(input_ids)), last][:, None]


def small(reward: Any = hashed, **settings: Any) -> TokenMDP:
    return word_mdp(reward, ["w0 w1", "w2", "w0 w1 w2"], 4, 4, V - 2, **settings)


def models() -> tuple[Any, Any]:
    return tiny_gpt2(V, seed=0, **SHAPE), tiny_gpt2(V, seed=1, **SHAPE)


def policy_of(mdp: TokenMDP, model: Any, sampling: Sampling | None = None) -> LMPolicy:
    return LMPolicy(
        mdp.observation_space(),
        mdp.action_space(),
        lambda _: 0.0,
        model=model,
        prompt_length=mdp.max_prompt_length,
        end_token_ids=mdp.end_token_ids,
        sampling=sampling,
    )


# --- identities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.02, 1.0])
@pytest.mark.parametrize(
    ("settings", "sampling"),
    [
        ({}, Sampling()),
        ({"end_token_ids": ()}, Sampling(temperature=0.6)),
        ({"end_token_ids": (0, END)}, Sampling(min_new_tokens=2)),
        ({"allowed": no_repeats, "stop": lambda ids: sum(ids) > 9}, Sampling(1.3, 1)),
        ({"missing_end_score": -1.0}, Sampling()),
    ],
)
def test_regret_is_beta_times_the_divergence_to_the_optimum(
    settings: dict[str, Any], sampling: Sampling, beta: float
) -> None:
    reference, model = models()
    found = optimum(small(**settings), beta, reference=reference, sampling=sampling)
    value = found.evaluate(model)
    assert value.kl > 0.1
    assert found.value - value.objective == pytest.approx(beta * value.kl_to_optimum, abs=1e-9)
    assert found.value - found.reference.objective == pytest.approx(beta * found.reference.kl_to_optimum, abs=1e-9)
    assert found.best.objective == pytest.approx(found.value, abs=1e-9)
    assert found.best.kl_to_optimum == pytest.approx(0, abs=1e-12)
    assert (found.reference.kl, found.reference.score) == (0, 0)
    assert found.best.score == pytest.approx(1, abs=1e-9)
    assert (value.by_prompt <= found.prompt_values).all()


def brute_force(mdp: TokenMDP, model: Any) -> list[list[tuple[float, float]]]:
    """(log π_ref, R) of every response to every prompt, one forward pass each."""
    found = []
    for prompt in mdp.prompts:
        responses = {
            ids[: ids.index(END) + 1] if END in ids else ids for ids in product(range(V), repeat=mdp.max_new_tokens)
        }
        rows = []
        for response in sorted(responses):
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt.ids, *response]])).logits[0].double()
            log_probs = logits.log_softmax(-1)[len(prompt.ids) - 1 : -1]
            log_prob = log_probs[range(len(response)), list(response)].sum().item()
            rows.append((log_prob, hashed([list(response)], [list(prompt.ids)])[0]))
        found.append(rows)
    return found


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_an_explicit_sum_over_responses_gives_the_same(make: Any) -> None:
    reference, model = make(V, seed=0), make(V, seed=1)
    mdp, beta = word_mdp(hashed, ["w0 w1", "w2"], 4, 3, V - 2), 0.3
    found = optimum(mdp, beta, reference=reference)
    by_ref, by_model = brute_force(mdp, reference), brute_force(mdp, model)
    assert found.n_sequences == sum(map(len, by_ref))
    for p, rows in enumerate(by_ref):
        log_ref, reward = np.array(rows).T
        assert np.exp(log_ref).sum() == pytest.approx(1, abs=1e-6)
        assert found.prompt_values[p] == pytest.approx(beta * np.log(np.exp(log_ref + reward / beta).sum()), abs=1e-5)
        log_pi = np.array(by_model[p])[:, 0]
        objective = (np.exp(log_pi) * (reward - beta * (log_pi - log_ref))).sum()
        assert found.evaluate(model).by_prompt[p] == pytest.approx(objective, abs=1e-5)


def test_the_optimal_policy_is_the_tilted_reference() -> None:
    """π*(a|x) by hand, at the last token of a bandit."""
    reference, _ = models()
    values = np.array([0.0, 0.3, 0.1, 0.9, 0.5])
    mdp = word_mdp(lambda completion_ids, **_: [values[ids[0]] for ids in completion_ids], ["w0"], 1, 1, V - 2)
    found = optimum(mdp, 0.25, reference=reference)
    with torch.no_grad():
        probs = reference(torch.tensor([list(mdp.prompts[0].ids)])).logits[0, -1].double().softmax(-1).numpy()
    tilted = probs * np.exp(values / 0.25)
    np.testing.assert_allclose(found.next_token_probs(0), tilted / tilted.sum(), atol=1e-6)
    with pytest.raises(ValueError, match="expected a live prefix"):
        found.next_token_probs(0, (2,))


# --- any model, any reward -----------------------------------------------------------------------------------


def test_sampling_agrees_with_enumeration() -> None:
    reference, model = models()
    mdp, beta, sampling = small(), 0.2, Sampling(0.8, 1)
    policy = policy_of(mdp, model, sampling)
    exact = optimum(mdp, beta, reference=reference, sampling=sampling).evaluate(policy)
    report = evaluate(policy, Trunk(reference), mdp, 1500, seed=1)
    for sampled, expected in ((report.episodes.rewards.sum(1), exact.reward), (report.kl.sum(1), exact.kl)):
        assert abs(sampled.mean() - expected) < 4 * sampled.std() / math.sqrt(len(sampled))


def test_other_architectures_and_a_policys_own_truncation() -> None:
    mdp = small()
    reference = tiny_llama(V, seed=0)
    found = optimum(mdp, 0.3, reference=reference)
    top = found.evaluate(policy_of(mdp, tiny_llama(V, seed=1), Sampling(top_k=2)))
    assert found.value - top.objective == pytest.approx(0.3 * top.kl_to_optimum, abs=1e-9)
    assert top.kl > 0.5
    with pytest.raises(ValueError, match=r"pass sampling=policy\.sampling\.shared"):
        found.evaluate(policy_of(mdp, reference, Sampling(temperature=0.5)))


def test_a_dense_reward_counts_as_its_sum() -> None:
    reference, _ = models()

    def dense(completion_ids: list[list[int]], **_: Any) -> list[list[float]]:
        return [[float(i == 3) / 4 for i in ids] for ids in completion_ids]

    def whole(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [sum(i == 3 for i in ids) / 4 for ids in completion_ids]

    values = [optimum(small(reward), 0.1, reference=reference).value for reward in (dense, whole)]
    assert values[0] == pytest.approx(values[1], abs=1e-12)


def test_a_reward_may_read_the_text() -> None:
    def text(completions: list[str], **_: Any) -> list[float]:
        return [float(completion.split().count("w1")) for completion in completions]

    def ids(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(response.count(3)) for response in completion_ids]

    reference, _ = models()
    found = [optimum(small(reward), 0.5, reference=reference).value for reward in (text, ids)]
    assert found[0] == found[1]


def test_a_stochastic_reward_enters_as_its_mean() -> None:
    def noisy(completion_ids: list[list[int]], episode_seed: list[int], **columns: Any) -> list[float]:
        means = emit(3)(completion_ids, **columns)
        return [m + np.random.default_rng(s).normal() for m, s in zip(means, episode_seed, strict=True)]

    reference, _ = models()
    with pytest.raises(ValueError, match=r"noisy.*depends on episode_seed.*'expected'"):
        optimum(small(noisy), 0.1, reference=reference)
    noisy.expected = emit(3)  # type: ignore[attr-defined]
    found = optimum(small([(noisy, 2.0)]), 0.1, reference=reference)
    assert found.value == optimum(small([(emit(3), 2.0)]), 0.1, reference=reference).value
    assert found.expect(None, emit(3)) == pytest.approx(found.best.reward / 2)


def test_dropout_is_off_and_the_mode_is_left() -> None:
    reference, _ = models()
    reference.train()
    first, second = (optimum(small(), 0.1, reference=reference).value for _ in range(2))
    assert first == second
    assert reference.training


# --- sizes and bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "ends", "horizon"), [(1, 0, 1), (2, 1, 3), (3, 2, 4)])
def test_sequences_are_counted_before_they_are_enumerated(n: int, ends: int, horizon: int) -> None:
    mdp = word_mdp(emit(3), ["w0", "w1", "w2"][:n], 1, horizon, V - 2, end_token_ids=tuple(range(ends)))
    tree = prefix_tree(mdp)
    anything = [np.zeros(level.allowed.shape) for level in tree]
    assert n_sequences(tree, anything) == count_sequences(n, V, ends, horizon)


def test_responses_that_are_too_short_are_not_counted() -> None:
    """Two prompts; the first two tokens are none of the end tokens: 2·4·4·5 responses of V = 5."""
    mdp = word_mdp(emit(3), ["w0", "w1 w2"], 2, 3, 3)
    found = optimum(mdp, 0.3, reference=tiny_gpt2(5), sampling=Sampling(min_new_tokens=2))
    assert found.n_sequences == 160


def test_too_many_sequences_are_refused_with_their_number() -> None:
    reference, _ = models()
    mdp = word_mdp(emit(3), ["w0"], 1, 3, V - 2, end_token_ids=())
    with pytest.raises(ValueError, match=r"has 125 responses, and at most limit=124"):
        optimum(mdp, 0.1, reference=reference, limit=124)
    with pytest.raises(ValueError, match=r"at least 25 responses, and at most limit=20"):
        optimum(
            word_mdp(emit(3), ["w0"], 1, 3, V - 2, end_token_ids=(), stop=lambda _: False),
            0.1,
            reference=reference,
            limit=20,
        )
    with pytest.raises(ValueError, match=r"more than 10\^9\d responses"):
        optimum(word_mdp(max_new_tokens=80), 0.1, reference=tiny_gpt2(positions=96))


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan, math.inf])
def test_beta_must_be_positive(beta: float) -> None:
    with pytest.raises(ValueError, match="expected a finite number above 0"):
        optimum(small(), beta, reference=models()[0])


def test_a_reference_is_needed_and_must_fit() -> None:
    with pytest.raises(ValueError, match="reference=DIRECTORY_OR_MODEL"):
        optimum(small(), 0.1)
    with pytest.raises(ValueError, match="the model embeds 3"):
        optimum(small(), 0.1, reference=tiny_gpt2(3))


def test_environments_and_ids_are_taken() -> None:
    assert textgym.optimum is optimum
    values = [
        optimum(env, 0.1).value
        for env in ("textgym/Emit-v0", gym.make("textgym/Emit-v0"), gym.make_vec("textgym/Emit-v0", 2))
    ]
    assert len(set(values)) == 1
    with pytest.raises(AttributeError, match="no attribute 'optimal'"):
        textgym.optimal  # noqa: B018


def test_a_policy_of_other_sizes_is_refused() -> None:
    best = optimum(small(), 0.1, reference=models()[0])
    other = policy_of(word_mdp(hashed, ["w0"], 5, 3, V - 2), models()[0])
    with pytest.raises(ValueError, match="plays a task of P=5, T=3, V=5; the optimum is that of P=4, T=4, V=5"):
        best.evaluate(other)
