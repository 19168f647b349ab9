"""The KL in the loss over the vocabulary, in every kind of policy, and how its estimators are chosen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.agents.replay import prompt_and_response
from tests.agents.test_ppo import equal, parameters
from tests.helpers import moved, tiny_bart, tiny_gpt2, tiny_t5, word_mdp
from textgym.agents import GRPO, GSPO, PPO
from textgym.agents.functional.objectives import Advantages, spread
from textgym.agents.loop.episodes import Scored, minibatches, score_episodes
from textgym.agents.policy.reference import WITHOUT_ADAPTERS
from textgym.agents.registry import ALGORITHMS
from textgym.env.vector import TokenVectorEnv
from textgym.lm.parts.lora import add_lora
from textgym.lm.sampling import Sampling
from textgym.rewards.kl import k3
from textgym.types import Episodes

V = 16
SIZES: dict[str, Any] = {"episodes_per_iteration": 16, "minibatch_size": 8, "learning_rate": 1e-2, "seed": 0}

pytestmark = pytest.mark.filterwarnings("ignore:iteration .* nats:UserWarning")  # steps are large


def allowed(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
    """The end, and words of one parity, by the length of the text so far."""
    even = attention_mask.sum(1)[:, None] % 2 == 0
    return (np.arange(V) % 2 == 0) == even


POLICIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "a task's mask": {"allowed": allowed},
    "top-k and adapters, which the reference has not": {
        "policy_kwargs": {"lora": 2},
        "sampling": Sampling(top_k=5, temperature=0.8, min_new_tokens=2),
    },
    "adapters that came with the policy": {"adapted": True, "reference": WITHOUT_ADAPTERS},
    "frozen layers": {"policy_kwargs": {"freeze_layers": 1, "untie_head": True}},
    "frozen layers below adapters": {"policy_kwargs": {"freeze_layers": 1, "lora": 2}, "sampling": Sampling(top_p=0.8)},
    "T5": {"model": tiny_t5, "sampling": Sampling(top_k=6, temperature=0.7)},
    "BART": {"model": tiny_bart},
}


def made(case: str, kind: Any = GRPO, **changes: Any) -> tuple[Any, Any, Any]:
    """Return an algorithm, the model that its reference is, and the environment."""
    settings = {**SIZES, **POLICIES[case], **changes}
    mdp = word_mdp(**({"allowed": settings.pop("allowed")} if "allowed" in settings else {}))
    model = settings.pop("model", tiny_gpt2)()
    reference = copy.deepcopy(model)
    if settings.pop("adapted", False):
        moved(add_lora(model, 2, 0, 0))
    env = TokenVectorEnv(mdp, 8, "Disabled")
    return kind("LMPolicy", env, model=model, beta=0.3, **settings), reference, mdp


def response_logits(model: Any, prompt: list[int], response: list[int]) -> Tensor:
    """Return ``[len(response), V]`` in one pass of this row alone."""
    if not model.config.is_encoder_decoder:
        return model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1, :V]
    begun = torch.tensor([[model.config.decoder_start_token_id, *response]])
    return model(input_ids=torch.tensor([prompt]), decoder_input_ids=begun).logits[0, :-1, :V]


def plain_divergence(algorithm: Any, reference: Any, mdp: Any, episodes: Episodes) -> Tensor:
    """Return ``[N, T]`` KL(π‖π_ref) row by row, from the models' whole outputs."""
    sampling, rows = algorithm.sampling, []
    for i in range(len(episodes)):
        prompt, response = prompt_and_response(episodes, i)
        p, q = (
            response_logits(model, prompt, response) / sampling.temperature
            for model in (algorithm.policy.lm, reference)
        )
        early = torch.zeros_like(p, dtype=torch.bool)
        early[: sampling.min_new_tokens, 1] = True
        for t in range(len(response)):
            if mdp.allowed is not None:
                mask = np.concatenate([np.zeros(0), np.ones(len(prompt) + t)])[None]
                early[t] |= ~torch.from_numpy(mdp.allowed(None, mask))[0]
        p, q = p.masked_fill(early, -torch.inf), q.masked_fill(early, -torch.inf)
        if algorithm.policy.behaviour.truncates:
            inside = torch.zeros(len(response), V + 1, dtype=torch.bool)
            inside.scatter_(1, torch.from_numpy(episodes.kept[i, : len(response)]).long() % (V + 1), True)
            p = p.masked_fill(~inside[:, :V], -torch.inf)
        log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
        terms = log_p.exp() * (torch.where(p > -torch.inf, log_p, 0.0) - torch.where(p > -torch.inf, log_q, 0.0))
        rows.append(torch.nn.functional.pad(terms.sum(-1), (0, episodes.rewards.shape[1] - len(response))))
    return torch.stack(rows)


def played(algorithm: Any) -> tuple[Episodes, Scored]:
    episodes = algorithm.collect()
    assert episodes is not None
    return episodes, algorithm.score(episodes)


def whole_batch(algorithm: Any, scored: Scored) -> Any:
    nothing = np.zeros_like(scored.shaped)
    order = np.random.default_rng(0)
    return next(minibatches(scored, Advantages(nothing, nothing), len(scored.episodes), 1, order, "cpu"))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", POLICIES)
def test_the_exact_kl_is_that_of_the_models_themselves(case: str) -> None:
    """In value and in gradient, at every token, after training has moved the policy."""
    algorithm, reference, mdp = made(case)
    algorithm.learn(150)
    assert algorithm.metrics["train/first_minibatch_ratio_error"] < 1e-4
    episodes, scored = played(algorithm)
    assert scored.divergence is not None
    plain = plain_divergence(algorithm, reference, mdp, episodes)
    np.testing.assert_allclose(scored.divergence, plain.detach().numpy(), atol=2e-5)
    assert plain.max() > 0.01

    batch = whole_batch(algorithm, scored)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(episodes)))
    trained = [parameter for parameter in algorithm.policy.lm.parameters() if parameter.requires_grad]
    found = algorithm.kl_loss(algorithm.evaluate(batch), batch)
    width = found.shape[1]
    np.testing.assert_allclose(found.detach().numpy(), plain.detach().numpy()[order, :width], atol=2e-5)
    weights = torch.linspace(0.5, 1.5, found.numel()).view_as(found)
    gradients = [
        torch.autograd.grad((kl * weights).sum(), trained, allow_unused=True) for kl in (found, plain[order, :width])
    ]
    for ours, theirs in zip(*gradients, strict=True):
        if ours is None or theirs is None:
            assert ours is theirs
        else:
            torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("case", POLICIES)
def test_every_kind_of_policy_resumes_with_it_bit_by_bit(case: str, tmp_path: Path) -> None:
    whole, _, mdp = made(case)
    whole.learn(1)
    whole.save(tmp_path / "half")
    resumed = GRPO.load(tmp_path / "half", TokenVectorEnv(mdp, 8, "Disabled"))
    for algorithm in (whole, resumed):
        algorithm.learn(100, reset_num_timesteps=False)
    assert whole.iteration == resumed.iteration > 1
    assert equal(parameters(whole), parameters(resumed))


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name not in ("a-star-po", "distill")])
def test_every_algorithm_takes_it_into_its_loss(name: str) -> None:
    """At an iteration's first minibatch the loss has the KL of the states that were sampled, and no other.

    A*PO and distillation, whose losses hold the reference already, refuse it.
    """
    own = {"best-of-n": {"samples_per_prompt": 4}}.get(name, {})
    algorithm, reference, mdp = made("plain", ALGORITHMS[name], kl_in_loss=True, kl_estimator="exact", **own)
    algorithm.learn(100)
    episodes, _ = played(algorithm)
    scored = algorithm.select(algorithm.score(episodes))
    assert scored.divergence is not None
    plain = plain_divergence(algorithm, reference, mdp, scored.episodes).detach()
    if name == "rloo-clipped":  # a loss of whole responses, and so is the KL in it
        plain = plain.sum(1, keepdim=True).expand_as(plain)
    batch = whole_batch(algorithm, scored)
    _, logs = algorithm.actor_loss(algorithm.evaluate(batch), batch)
    expected = algorithm.normalise(plain, torch.from_numpy(scored.episodes.own))
    assert float(logs["kl_loss"].detach()) == pytest.approx(float(expected), rel=1e-3, abs=1e-6)
    assert float(expected) > 0
    assert np.isfinite(list(algorithm.metrics.values())).all()


# --- the choice ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "compared"),
    [
        (GRPO, {}, True),
        (PPO, {"kl_in_loss": True}, True),
        (PPO, {}, False),
        (GRPO, {"kl_in_loss": False}, False),
        (GRPO, {"kl_estimator": "k3"}, False),
        (GRPO, {"kl_estimator": "k3-corrected"}, False),
    ],
)
def test_the_vocabulary_is_compared_only_where_the_loss_needs_it(kind: Any, settings: Any, compared: bool) -> None:
    algorithm, _, _ = made("plain", kind, **settings)
    _, scored = played(algorithm)
    assert (scored.divergence is not None) == (scored.ref_states is not None) == compared
    evaluation = algorithm.evaluate(whole_batch(algorithm, scored))
    assert (evaluation.divergence is not None) == compared
    estimated = spread(scored.returns, scored.episodes.own)
    same = algorithm.less_later_kl(estimated, scored) is estimated
    assert same == (not compared)


@pytest.mark.parametrize(("kind", "expected"), [(GRPO, [[5, 3, 0], [-5, 0, 0]]), (GSPO, [[0, 0, 0], [0, 0, 0]])])
def test_an_advantage_answers_for_the_kl_of_later_tokens(kind: Any, expected: list[list[float]]) -> None:
    """Responses with KL 1, 2, 3 and 6: of the later ones, or of all, which are equal here; β is 0.3."""
    algorithm, _, _ = made("plain", kind, samples_per_prompt=2)
    _, scored = played(algorithm)
    own = np.array([[True, True, True], [True, False, False]])
    kl = np.array([[1, 2, 3], [6, 0, 0]], np.float32)
    np.testing.assert_allclose(algorithm.later_kl(kl, own), expected)
    later = algorithm.later_kl(scored.divergence, scored.episodes.own)
    estimated = spread(scored.returns, scored.episodes.own)
    found = algorithm.less_later_kl(estimated, scored)
    np.testing.assert_allclose(found.advantages, estimated.advantages - np.float32(0.3) * later, atol=1e-6)
    assert (found.returns == estimated.returns).all()


def test_a_selection_that_breaks_groups_is_refused() -> None:
    algorithm, _, _ = made("plain", samples_per_prompt=4)
    _, scored = played(algorithm)
    with pytest.raises(ValueError, match=r"GRPO\.select left groups of other than 4 responses to a prompt"):
        algorithm.advantages(scored.take(np.array([0, 1, 2, 4, 5, 6, 7, 8])))


def test_a_loop_that_asks_the_policy_alone_gets_the_same_kl() -> None:
    """policy.evaluate knows no reference; k3 must not take the place of the exact KL in silence."""
    algorithm, _, _ = made("plain")
    algorithm.learn(100)
    batch = whole_batch(algorithm, played(algorithm)[1])
    alone = algorithm.policy.evaluate(batch.input_ids, batch.attention_mask)
    assert alone.divergence is None
    found = [algorithm.loss(one, batch)[1]["kl_loss"] for one in (alone, algorithm.evaluate(batch))]
    torch.testing.assert_close(*found)
    estimated = algorithm.normalise(k3(alone.log_probs, batch.ref_log_probs), batch.own)
    assert abs(float((estimated / found[0]).detach()) - 1) > 1e-3


def test_episodes_scored_without_the_reference_s_states_are_refused() -> None:
    """A loop that calls score_episodes itself must ask for the divergence; k3 is no substitute."""
    algorithm, _, _ = made("plain")
    episodes, _ = played(algorithm)
    settings = (algorithm.policy, algorithm.reference_trunk, episodes, 0.0, 8)
    batch = whole_batch(algorithm, score_episodes(*settings))
    for evaluation in (algorithm.evaluate(batch), algorithm.evaluate(batch).log_probs):
        with pytest.raises(ValueError, match=r"kl_estimator='exact'.*no ref_states.*divergence=self.divergence"):
            algorithm.actor_loss(evaluation, batch)
    asked = whole_batch(algorithm, score_episodes(*settings, divergence=algorithm.divergence))
    assert "kl_loss" in algorithm.actor_loss(algorithm.evaluate(asked), asked)[1]


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_without_a_price_the_estimators_do_the_same(beta: float) -> None:
    weights: list[dict[str, Tensor]] = []
    for estimator in ("exact", "k3", "k3-corrected"):
        algorithm, _, _ = made("plain", kl_estimator=estimator)
        algorithm.kl.beta = beta
        algorithm.learn(150)
        weights.append(parameters(algorithm))
    same: Callable[[int], bool] = lambda i: all(  # noqa: E731
        torch.allclose(weights[0][name], weights[i][name], atol=1e-6) for name in weights[0]
    )
    assert [same(1), same(2)] == [beta == 0.0] * 2
