"""A*PO: the value of the reference's responses, the regression and its gradient, and both across checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from tests.agents.test_objective import every_response, gradient, weighted
from tests.agents.test_ppo import Watch, equal, parameters
from tests.helpers import emit, tiny_gpt2, word_mdp
from textgym.agents.a_star_po import AStarPO, ReferenceReturns, prompt_keys, reference_plan
from textgym.agents.best_of_n import BestOfN
from textgym.agents.functional.objectives import advantage_regression, soft_value
from textgym.agents.loop.episodes import minibatches
from textgym.agents.ppo import PPO
from textgym.env.vector import TokenVectorEnv
from textgym.exact import optimum
from textgym.lm.sampling import Sampling
from textgym.rewards.kl import AdaptiveKL
from textgym.types import Episodes

PROMPTS = [f"w{i} w{j}" for i in range(4) for j in range(6)]
"""24 prompts, of which an iteration of 8 meets 8."""
SMALL: dict[str, Any] = {"episodes_per_iteration": 8, "minibatch_size": 4, "value_samples": 3, "beta": 0.3, "seed": 0}


def make(rows: int = 5, prompts: Any = PROMPTS, reward: Any = None, **changes: Any) -> AStarPO:
    env = TokenVectorEnv(word_mdp(reward, prompts), rows, "Disabled")
    arguments = {**SMALL, "model": tiny_gpt2(), "learning_rate": 1e-2, **changes}
    return AStarPO("LMPolicy", env, **arguments)


def collected(algorithm: Any) -> Episodes:
    episodes: Episodes | None = algorithm.collect()
    assert episodes is not None
    return episodes


def returns_by_prompt(algorithm: AStarPO) -> dict[int, list[float]]:
    """Return the kept returns of each prompt."""
    keys = prompt_keys(algorithm._env_attribute("mdp").prompts, np.arange(len(PROMPTS)))
    known = algorithm.sampled.known(keys, 10**6)
    return {i: algorithm.sampled.find(keys[[i]])[0].tolist() for i in np.flatnonzero(known).tolist()}


# --- the value ---------------------------------------------------------------------------------------------------


def test_the_soft_value_by_hand() -> None:
    # exp(0) = 1 and exp(ln 3 / 0.5 · 0.5) = 3, whose mean is 2.
    returns = np.array([[0.0, 0.5 * math.log(3)], [2.0, 2.0], [-1e4, -1e4]])
    np.testing.assert_allclose(soft_value(returns, 0.5), [0.5 * math.log(2), 2.0, -1e4])


def test_the_soft_value_lies_between_mean_and_maximum() -> None:
    returns = np.array([[0.0, 0.0, 0.0, 1.0], [3.0, -2.0, 0.5, 0.1]])
    # The best of n alone counts for a small β: R_max − β·log n, where a plain exponential would overflow.
    np.testing.assert_allclose(soft_value(returns, 1e-4), returns.max(1) - 1e-4 * math.log(4), rtol=1e-12)
    np.testing.assert_allclose(soft_value(returns, 1e5), returns.mean(1), atol=1e-4)


@pytest.mark.parametrize(("n", "expected"), [(4, 0.3000), (16, 0.6334), (64, 0.7610), (256, 0.7680)])
def test_the_mean_of_the_estimate_over_all_samples(n: int, expected: float) -> None:
    """Scores 0 and 1 with a pass rate of 0.1: the number of passes is binomial."""
    p, beta = 0.1, 0.1
    passes = np.tril(np.ones((n + 1, n)), -1)  # row k has k ones
    chance = np.array([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])
    assert float(chance @ soft_value(passes, beta)) == pytest.approx(expected, abs=5e-5)
    assert beta * math.log(1 - p + p * math.exp(1 / beta)) == pytest.approx(0.7698, abs=5e-5)


# --- the loss ----------------------------------------------------------------------------------------------------


def test_the_regression_by_hand() -> None:
    log_ratio = torch.tensor([[0.5, -0.1, 0.6], [-2.0, 0.0, 0.0]])
    advantages = torch.tensor([[0.3, 0.3, 0.3], [0.5, 0.0, 0.0]])
    found = advantage_regression(log_ratio, advantages, 0.1)
    torch.testing.assert_close(found[0], torch.full((3,), 0.04))  # (0.1·1 − 0.3)²
    torch.testing.assert_close(found[1, 0], torch.tensor(0.49))  # (−0.2 − 0.5)²


def test_the_loss_is_that_of_trl() -> None:
    module = pytest.importorskip("trl.experimental.a2po")
    algorithm = make(beta=0.2, prompts=PROMPTS[:8])
    for _ in range(2):  # so that the policy is no longer the reference
        episodes = collected(algorithm)
        scored = algorithm.score(episodes)
        estimated = algorithm.estimate_advantages(scored)
        (batch,) = minibatches(scored, estimated, 8, 1, Unshuffled(), torch.device("cpu"))
        evaluation = algorithm.evaluate(batch)
        algorithm.train(episodes)
    values = 0.2 * np.log(np.exp(algorithm_returns(algorithm, episodes) / 0.2).mean(1))
    theirs = SimpleNamespace(
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(beta2=0.2),
        _metrics={"train": {"implicit_reward": [], "advantage": []}},
        _get_sequence_logps=lambda *_: evaluation.log_probs.sum(1).detach(),
    )
    inputs = {
        **dict.fromkeys(("input_ids", "attention_mask", "logits_to_keep")),
        "ref_logps": torch.from_numpy(scored.ref_log_probs.sum(1)),
        "rewards": torch.from_numpy(episodes.rewards.sum(1)),
        "v_star": torch.from_numpy(values.astype(np.float32)),
    }
    expected = module.A2POTrainer.compute_loss(theirs, None, inputs)
    loss, logs = algorithm.loss(evaluation, batch)
    torch.testing.assert_close(loss.detach(), expected)
    assert float(logs["implicit_advantage"]) == pytest.approx(theirs._metrics["train"]["implicit_reward"][0], rel=1e-4)
    assert float(logs["advantage"]) == pytest.approx(theirs._metrics["train"]["advantage"][0], rel=1e-4)
    assert float(expected) > 1e-3


def algorithm_returns(algorithm: AStarPO, episodes: Episodes) -> np.ndarray:
    return algorithm.sampled.find(prompt_keys(algorithm._env_attribute("mdp").prompts, episodes.prompt_index))


def fixed_value(algorithm: AStarPO, value: float) -> None:
    """Let the reference's responses to the first prompt all score ``value``, which then is V̂*."""
    n = algorithm.settings.value_samples
    keys = prompt_keys(algorithm._env_attribute("mdp").prompts, np.array([0]))
    algorithm.sampled.add(keys, np.full((1, n), value), -1)


def enumerated(reward: Any = weighted, sampling: Sampling | None = None) -> AStarPO:
    """Return a policy with another reference, in a task of few responses."""
    return AStarPO(
        "LMPolicy",
        TokenVectorEnv(word_mdp(reward, ["w0 w1"], 4, 3, 2), 8, "Disabled"),
        model=tiny_gpt2(4, seed=0, initializer_range=0.4),
        reference=tiny_gpt2(4, seed=1, initializer_range=0.4),
        episodes_per_iteration=32,
        beta=0.3,
        sampling=sampling,
    )


def losses_of_all(algorithm: AStarPO, episodes: Episodes) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log π and the loss of every response, ``[n]`` each."""
    scored = algorithm.score(episodes)
    estimated = algorithm.estimate_advantages(scored)
    (batch,) = minibatches(scored, estimated, len(episodes), 1, Unshuffled(), torch.device("cpu"))
    log_probs = algorithm.evaluate(batch).log_probs
    losses = algorithm.policy_loss(log_probs, batch)
    return log_probs.sum(1), losses.masked_fill(~batch.own, 0.0).sum(1) / batch.own.sum(1)


class Unshuffled(np.random.Generator):
    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def permutation(self, x: Any, axis: int = 0) -> Any:
        return np.arange(x)


@pytest.mark.parametrize("value", [0.0, 1.7])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7)])
def test_the_expected_gradient_is_that_of_the_objective_whatever_the_value(value: float, sampling: Sampling) -> None:
    algorithm = enumerated(sampling=sampling)
    fixed_value(algorithm, value)
    episodes = every_response(algorithm)  # type: ignore[arg-type]
    sequence, losses = losses_of_all(algorithm, episodes)
    assert sequence.exp().sum().item() == pytest.approx(1, abs=1e-5)
    reference = torch.from_numpy(algorithm.score(episodes).ref_log_probs.sum(1))
    score = torch.from_numpy(episodes.rewards.sum(1))
    objective = (sequence.exp() * (score - 0.3 * (sequence - reference))).sum()
    expected = -2 * 0.3 * gradient(algorithm, objective)  # type: ignore[arg-type]
    found = gradient(algorithm, (sequence.exp().detach() * losses).sum())  # type: ignore[arg-type]
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_at_the_optimum_loss_and_gradient_are_0() -> None:
    """Any policy is the optimum of the reward β·log(π/π_ref) + c, whose V* is c."""
    algorithm = enumerated()
    episodes = every_response(algorithm)  # type: ignore[arg-type]
    ratio = episodes.log_probs.sum(1) - algorithm.score(episodes).ref_log_probs.sum(1)
    responses = {tuple(row[own].tolist()): r for row, own, r in zip(episodes.actions, episodes.own, ratio, strict=True)}

    def rigged(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [0.3 * float(responses[tuple(ids)]) + 0.8 for ids in completion_ids]

    algorithm = enumerated(rigged)
    best = optimum(algorithm._env_attribute("mdp"), 0.3, reference=algorithm.reference)
    assert best.value == pytest.approx(0.8, abs=1e-5)
    fixed_value(algorithm, best.value)
    metrics = algorithm.train(collected(algorithm))
    assert metrics["train/policy_loss"] < 1e-10
    assert metrics["train/grad_norm"] < 1e-4
    assert metrics["train/implicit_advantage"] == pytest.approx(metrics["train/advantage"], abs=1e-5)
    assert abs(metrics["train/advantage"]) > 0.01
    # Another β₁ than β gives another V̂*, so that the optimum has a loss.
    other = enumerated(rigged)
    fixed_value(other, best.value + 0.5)
    assert other.train(collected(other))["train/policy_loss"] > 0.2


def test_near_the_exact_optimum_after_training() -> None:
    mdp = word_mdp(emit(3), ["w0 w1", "w1"], 4, 3, 2)
    env = TokenVectorEnv(mdp, 32, "Disabled")
    algorithm = AStarPO(
        "LMPolicy", env, 3e-3, model=tiny_gpt2(4), episodes_per_iteration=64, beta=0.2, value_samples=256, seed=0
    )
    best = optimum(mdp, 0.2, reference=algorithm.reference)
    assert best.evaluate(algorithm.policy).score < 0.1
    algorithm.learn(10_000)
    assert best.evaluate(algorithm.policy).score > 0.95
    values = soft_value(algorithm.sampled.returns.numpy(), 0.2)
    np.testing.assert_allclose(sorted(values), sorted(best.prompt_values), atol=0.05)


def test_no_kl_is_subtracted_from_the_score() -> None:
    algorithm = make(beta=5.0)
    algorithm.learn(300)
    scored = algorithm.score(collected(algorithm))
    assert np.abs(scored.ref_log_probs - scored.episodes.log_probs).max() > 0.01
    assert np.array_equal(scored.shaped, scored.episodes.rewards)


# --- the reference's responses -----------------------------------------------------------------------------------


def test_values_depend_on_the_prompt_and_the_reference_alone() -> None:
    """Met all at once by a policy that is the reference, or little by little while the policy moves away."""
    at_once = make(episodes_per_iteration=24, rows=7, reward=weighted)
    collected(at_once)
    slowly = make(reward=weighted)
    slowly.learn(600)
    assert slowly.iteration > 3
    assert slowly.metrics["rollout/kl"] > 0.01
    assert returns_by_prompt(slowly) == returns_by_prompt(at_once)
    assert len(returns_by_prompt(slowly)) == 24
    assert len({tuple(found) for found in returns_by_prompt(slowly).values()}) == 24


def test_adapters_are_off_while_the_reference_samples() -> None:
    plain = make(episodes_per_iteration=24)
    collected(plain)
    adapted = make(policy_kwargs={"lora": 2}, learning_rate=5e-2)
    adapted.learn(600)
    assert adapted.reference is None
    assert adapted.metrics["rollout/kl"] > 0.01
    assert returns_by_prompt(adapted) == returns_by_prompt(plain)


def test_the_policys_tokens_do_not_depend_on_the_references() -> None:
    env = TokenVectorEnv(word_mdp(prompts=PROMPTS), 5, "Disabled")
    ppo = PPO("LMPolicy", env, model=tiny_gpt2(), episodes_per_iteration=8, minibatch_size=4, seed=0)
    expected = collected(ppo)
    for n in (1, 6):
        found = collected(make(value_samples=n))
        assert np.array_equal(found.input_ids, expected.input_ids)
        assert np.array_equal(found.log_probs, expected.log_probs)
        assert found.episode.tolist() == list(range(8))


def test_every_prompt_is_valued_once_and_every_token_counts() -> None:
    scored: list[str] = []

    def reward(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        scored.extend(prompts)
        return [len(ids) / 6 for ids in completion_ids]

    algorithm, watch = make(reward=reward), Watch()
    lengths = []
    for iteration in range(5):
        episodes = collected(algorithm)
        lengths.append(int(episodes.lengths.sum()))
        spent = algorithm.logger.name_to_value["rollout/value_tokens"]
        assert (spent > 0) == (iteration < 3)  # every prompt is met by then
        lengths.append(int(spent))
        algorithm.train(episodes)
        assert algorithm.num_timesteps == sum(lengths)
    counts = sorted(scored.count(prompt) for prompt in PROMPTS)
    assert sum(counts) == 5 * 8 + 24 * 3
    assert set(counts) == {3 + 1, 3 + 2}
    assert algorithm.sampled.met.bincount().tolist() == [8, 8, 8]
    watched = make()
    watched.learn(200, watch)
    names = {"rollout/value_tokens", "train/advantage", "train/implicit_advantage"}
    assert names <= watch.logged[0].keys()


def test_a_repeated_collection_repeats_the_references_responses_too() -> None:
    algorithm = make()
    one = collected(algorithm)
    tokens, kept = algorithm.num_timesteps, returns_by_prompt(algorithm)
    two = collected(algorithm)
    assert np.array_equal(one.input_ids, two.input_ids)
    assert algorithm.num_timesteps == 2 * tokens
    assert returns_by_prompt(algorithm) == kept
    assert len(algorithm.sampled.keys) == 8


def test_a_callback_stops_the_references_responses() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < 20

    algorithm = make()
    algorithm.learn(1000, Stop())
    assert algorithm.iteration == 0
    assert algorithm.num_timesteps < 40
    assert len(algorithm.sampled.keys) == 0


def test_the_value_follows_beta_unless_it_has_its_own() -> None:
    for own in (None, 0.5):
        algorithm = make(beta=AdaptiveKL(0.3, target=1.0, horizon=100), value_beta=own)
        scored = algorithm.score(collected(algorithm))
        algorithm.kl.beta = 0.9  # type: ignore[misc]
        estimated = algorithm.estimate_advantages(scored).advantages
        beta = own or 0.9
        values = beta * np.log(np.exp(algorithm_returns(algorithm, scored.episodes) / beta).mean(1))
        np.testing.assert_allclose(estimated[:, 0], scored.episodes.rewards.sum(1) - values, atol=1e-6)


def test_the_reference_is_not_bound_by_the_policys_top_k() -> None:
    free, bound = make(), make(sampling=Sampling(top_k=1))
    collected(free)
    collected(bound)
    assert returns_by_prompt(free) == returns_by_prompt(bound)
    cold = make(sampling=Sampling(temperature=0.2))
    collected(cold)
    assert returns_by_prompt(cold) != returns_by_prompt(free)


@pytest.mark.parametrize("score_together", [True, False])
def test_rewards_of_both_come_from_the_environment(score_together: bool) -> None:
    algorithm = make(reward=emit(7), score_together=score_together)
    episodes = collected(algorithm)
    own = [episodes.actions[i][episodes.own[i]] for i in range(8)]
    np.testing.assert_allclose(episodes.rewards.sum(1), [(ids == 7).mean() for ids in own], rtol=1e-6)
    assert returns_by_prompt(algorithm) == returns_by_prompt_of(make(reward=emit(7), rows=11))


def returns_by_prompt_of(algorithm: AStarPO) -> dict[int, list[float]]:
    collected(algorithm)
    return returns_by_prompt(algorithm)


# --- checkpoints and environments --------------------------------------------------------------------------------


class SaveInside(BaseCallback):
    """Saves once within the reference's part of each of two iterations, and once within the policy's."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    def _on_step(self) -> bool:
        algorithm: Any = self.model
        part = "policy" if len(algorithm.sampled.keys) > 8 * algorithm.iteration else "reference"
        if algorithm.iteration in (1, 2) and not (place := self.directory / f"{algorithm.iteration}-{part}").exists():
            algorithm.save(place)
        return True


def test_resume_is_bit_exact_within_iterations_that_meet_prompts(tmp_path: Path) -> None:
    whole = make(beta=AdaptiveKL(0.3, target=1.0, horizon=100))
    whole.learn(560, SaveInside(tmp_path))
    assert whole.iteration > 3
    names = sorted(place.name for place in tmp_path.iterdir())
    assert names == ["1-policy", "1-reference", "2-policy", "2-reference"]
    for name in names:
        resumed = AStarPO.load(tmp_path / name, TokenVectorEnv(word_mdp(prompts=PROMPTS), 5, "Disabled"))
        resumed.learn(560 - resumed.num_timesteps, reset_num_timesteps=False)
        assert (resumed.num_timesteps, resumed.iteration) == (whole.num_timesteps, whole.iteration)
        assert equal(parameters(whole), parameters(resumed))
        assert returns_by_prompt(resumed) == returns_by_prompt(whole)


def test_a_checkpoint_is_continued_in_an_environment_that_comes_later(tmp_path: Path) -> None:
    whole = make()
    whole.learn(1)
    whole.save(tmp_path / "run")
    later = AStarPO.load(tmp_path / "run")
    later.set_env(TokenVectorEnv(word_mdp(prompts=PROMPTS), 5, "Disabled"))
    assert len(later.sampled.keys) == 8
    for algorithm in (whole, later):
        algorithm.learn(300, reset_num_timesteps=False)
    assert whole.num_timesteps == later.num_timesteps
    assert equal(parameters(whole), parameters(later))


def test_a_second_run_of_one_object_meets_its_prompts_anew() -> None:
    algorithm, fresh = make(), make()
    algorithm.learn(300)
    assert len(returns_by_prompt(algorithm)) > 8
    for one in (algorithm, fresh):
        one.learn(1)
    assert returns_by_prompt(algorithm) == returns_by_prompt(fresh)


def test_what_was_sampled_in_one_environment_says_nothing_of_another(tmp_path: Path) -> None:
    algorithm = make()
    algorithm.learn(1)
    algorithm.save(tmp_path / "run")
    # Other prompts at the same places.
    elsewhere = AStarPO.load(tmp_path / "run", TokenVectorEnv(word_mdp(prompts=PROMPTS[::-1]), 5, "Disabled"))
    assert returns_by_prompt(elsewhere) == {}
    collected(elsewhere)
    assert len(returns_by_prompt(elsewhere)) == 8
    # The same prompts, another reward.
    algorithm.set_env(TokenVectorEnv(word_mdp(emit(3), PROMPTS), 5, "Disabled"))
    assert returns_by_prompt(algorithm) == {}
    # An environment that is refused changes nothing.
    collected(algorithm)
    with pytest.raises(ValueError, match="trained in a task of"):
        algorithm.set_env(TokenVectorEnv(word_mdp(max_new_tokens=9), 5, "Disabled"))
    assert len(returns_by_prompt(algorithm)) == 8


def test_prompts_of_the_same_tokens_are_kept_apart() -> None:
    mdp = word_mdp(prompts=["w0 w1", "w2", "w0 w1"])
    assert len(set(prompt_keys(mdp.prompts, np.arange(3)).tolist())) == 3


def test_the_table_by_hand() -> None:
    table = ReferenceReturns(2)
    table.add(np.array([5, -7]), np.array([[1.0, 2.0], [3.0, 4.0]]), 0)
    table.add(np.array([9, 5]), np.array([[5.0, 6.0], [7.0, 8.0]]), 2)
    assert table.known(np.array([-7, 5, 9, 1]), 2).tolist() == [True, False, False, False]
    assert table.known(np.array([-7, 5, 9, 1]), 3).tolist() == [True, True, True, False]
    assert table.find(np.array([5, -7, 5])).tolist() == [[7.0, 8.0], [3.0, 4.0], [7.0, 8.0]]
    with pytest.raises(ValueError, match="not responded to the prompt of episode 1; train on the episodes of collect"):
        table.find(np.array([5, 1]))


def test_the_plan_of_the_reference_by_hand() -> None:
    plan = reference_plan(np.array([0, 3]), 2)
    assert plan.prompt_index.tolist() == [0, 0, 3, 3]
    # Beyond the policy's episodes, and the same for a prompt whichever others are met with it.
    assert plan.episode.tolist() == [2**62, 2**62 + 1, 2**62 + 6, 2**62 + 7]
    assert plan.greedy is None


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_in_loss": True}, "kl_in_loss=True; expected False: the loss is a regression on the log-ratio"),
        ({"normalisation": "token"}, "normalisation='token'; expected 'sequence', since a loss belongs to a response"),
        ({"beta": 0.0}, "beta=0.0; expected more than 0, as AStarPO divides by it"),
        ({"value_samples": 0}, "value_samples=0"),
        ({"value_beta": 0.0}, "value_beta=0.0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_a_policy_with_adapters_can_imitate_its_reference() -> None:
    """Best-of-n samples with the adapters off, too."""
    env = TokenVectorEnv(word_mdp(), 8, "Disabled")
    settings = {"episodes_per_iteration": 16, "minibatch_size": 4, "samples_per_prompt": 4}
    algorithm = BestOfN("LMPolicy", env, 5e-2, model=tiny_gpt2(), policy_kwargs={"lora": 2}, **settings)
    algorithm.learn(400)
    episodes = collected(algorithm)
    scored = algorithm.score(episodes)
    np.testing.assert_allclose(episodes.log_probs, scored.ref_log_probs, atol=1e-5)
    moved = algorithm.policy.evaluate(torch.from_numpy(episodes.input_ids), torch.from_numpy(episodes.attention_mask))
    assert (moved.log_probs - torch.from_numpy(scored.ref_log_probs)).abs().max() > 0.01
