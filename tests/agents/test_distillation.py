"""Distillation: its gradient and its score by enumeration, the teacher's responses, and what is refused."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import textgym
from tests.agents.replay import prompt_and_response
from tests.agents.test_ppo import equal, parameters
from tests.helpers import emit, moved, next_logits, tiny_bart, tiny_gpt2, tiny_llama, tiny_t5, word_mdp, word_tokenizer
from textgym.agents import WITHOUT_ADAPTERS, BestOfN, Distillation, Reinforce
from textgym.agents.functional.objectives import Advantages
from textgym.agents.loop.episodes import Minibatch, minibatches
from textgym.env.vector import TokenVectorEnv
from textgym.lm.parts.lora import add_lora
from textgym.lm.sampling import Sampling
from textgym.rewards.builtin import no_reward
from textgym.types import Episodes

pytestmark = pytest.mark.filterwarnings("ignore::textgym.lm.guards.TrainingWarning")  # far teachers, fast steps
SMALL: dict[str, Any] = {"episodes_per_iteration": 16, "minibatch_size": 4, "seed": 0}
END, V, T = 1, 4, 3


def wild(seed: int, size: int = 16, make: Any = tiny_gpt2) -> Any:
    """Return a model whose distributions are far from uniform."""
    return make(size, seed=seed, initializer_range=0.4)


def make(model: Any = None, reference: Any = None, rows: int = 8, rate: float = 3e-3, **changes: Any) -> Distillation:
    task = changes.pop("task", {})
    env = TokenVectorEnv(word_mdp(**task), rows, "Disabled")
    student, teacher = model or wild(0), reference or wild(1)
    return Distillation("LMPolicy", env, rate, model=student, reference=teacher, **{**SMALL, **changes})


def tiny(**changes: Any) -> Distillation:
    """Return a student of a task with four tokens, responses of three at most, one prompt and no reward."""
    task = {"reward": no_reward, "prompts": ["w0 w1"], "max_new_tokens": T, "n_words": V - 2}
    return make(wild(0, V), wild(1, V), task=task, **changes)


def a_batch(algorithm: Distillation, episodes: Episodes, size: int) -> Minibatch:
    scored = algorithm.score(episodes)
    nothing = Advantages(np.zeros_like(scored.shaped), np.zeros_like(scored.shaped))
    return next(minibatches(scored, nothing, size, 1, np.random.default_rng(0), "cpu"))


@torch.no_grad()
def plain_log_probs(model: Any, prompt: list[int], response: list[int], sampling: Sampling) -> Tensor:
    """Return log-probabilities ``[16]`` by plain torch: temperature, no end token too early, the k best alone."""
    logits = next_logits(model, prompt, response)[:16] / sampling.temperature
    if len(response) < sampling.min_new_tokens:
        logits[END] = -torch.inf
    if sampling.top_k:
        logits[logits < logits.topk(sampling.top_k).values[-1]] = -torch.inf
    return logits.log_softmax(-1)


# --- every response of a tiny task -------------------------------------------------------------------------------


def responses() -> list[list[int]]:
    every = {tuple(ids[: ids.index(END) + 1] if END in ids else ids) for ids in product(range(V), repeat=T)}
    return [list(ids) for ids in sorted(every)]


def as_episodes(algorithm: Distillation, written: list[list[int]]) -> Episodes:
    mdp = algorithm._env_attribute("mdp")
    prompt, start = list(mdp.prompts[0].ids), mdp.max_prompt_length
    ids, mask = np.zeros((len(written), mdp.width), np.int64), np.zeros((len(written), mdp.width), np.int8)
    for row, response in enumerate(written):
        ids[row, start - len(prompt) : start] = prompt
        ids[row, start : start + len(response)] = response
        mask[row, start - len(prompt) : start + len(response)] = 1
    with torch.no_grad():
        log_probs = algorithm.policy.evaluate(torch.from_numpy(ids), torch.from_numpy(mask)).log_probs.numpy()
    index, flags = np.arange(len(written)), np.zeros(len(written), bool)
    return Episodes(ids, mask, log_probs, np.zeros_like(log_probs), start, index * 0, index, flags, flags)


def states() -> list[tuple[int, ...]]:
    """Return every beginning of a response that goes on."""
    return [ids for length in range(T) for ids in product(range(V), repeat=length) if END not in ids]


def plain(algorithm: Distillation, model: Any, state: tuple[int, ...], temperature: float = 1.0) -> Tensor:
    """Return log-probabilities ``[V]`` after the prompt and some tokens, by one uncached pass."""
    prompt = list(algorithm._env_attribute("mdp").prompts[0].ids)
    logits: Tensor = model(torch.tensor([[*prompt, *state]])).logits[0, -1] / temperature
    return logits.log_softmax(-1)


def reached(algorithm: Distillation, model: Any, state: tuple[int, ...], temperature: float) -> float:
    """Return the probability that a model's response begins with some tokens."""
    with torch.no_grad():
        steps = [float(plain(algorithm, model, state[:t], temperature)[token]) for t, token in enumerate(state)]
    return float(np.exp(sum(steps)))


def plain_divergence(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """Return equation 1 of Agarwal 2023 and its ends, as sums over the vocabulary of probabilities."""
    p, q = log_p.exp(), log_q.exp()
    if share == 1:
        return (p * (p / q).log()).sum()
    if share == 0:
        return (q * (q / p).log()).sum()
    mixture = share * q + (1 - share) * p
    return share * (q * (q / mixture).log()).sum() + (1 - share) * (p * (p / mixture).log()).sum()


def gradient(algorithm: Distillation, loss: Tensor, **how: Any) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(algorithm.policy.lm.parameters()), **how)])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("jsd", [1.0, 0.5, 0.1, 0.0])
@pytest.mark.parametrize("taught", [0.0, 0.5])
def test_the_expected_gradient_is_that_of_every_state_by_its_probability(
    jsd: float, taught: float, temperature: float
) -> None:
    """Σ_s d(s)·∇D(π(·|s), π_T(·|s)) in plain torch, where d are the visits of student and teacher, held fixed."""
    algorithm = tiny(jsd=jsd, normalisation="constant", sampling=Sampling(temperature=temperature))
    visits = partial(mixed_visits, algorithm, taught, temperature)
    every = responses()
    assert sum(map(visits, every)) == pytest.approx(1, abs=1e-5)
    expected = torch.zeros(())
    for response in every:
        batch = a_batch(algorithm, as_episodes(algorithm, [response]), 1)
        loss, _ = algorithm.loss(algorithm.evaluate(batch), batch)
        expected = expected + visits(response) * loss * T  # normalised by the horizon
    truth = mixed_divergence(algorithm, jsd, taught, temperature)
    found, wanted = gradient(algorithm, expected), gradient(algorithm, truth)
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("taught", [0.0, 0.5])
def test_sampled_gradients_have_that_mean(taught: float) -> None:
    """The gradient of an iteration's responses, along that of the enumeration, within 4 standard errors of it."""
    algorithm = tiny(teacher_share=taught, episodes_per_iteration=2048, minibatch_size=2048, rows=256)
    truth = gradient(algorithm, mixed_divergence(algorithm, 1.0, taught))
    episodes = algorithm.collect()
    assert episodes is not None
    batch = a_batch(algorithm, episodes, 2048)
    divergence = algorithm.evaluate(batch).divergence
    assert divergence is not None
    along: dict[tuple[int, ...], float] = {}  # of each different response
    written = [tuple(response) for _, response in (prompt_and_response(episodes, row) for row in range(2048))]
    order = np.random.default_rng(0).permutation(2048)
    for place, row in enumerate(order):
        if written[row] not in along:
            one = torch.autograd.grad(
                divergence[place].sum(), list(algorithm.policy.lm.parameters()), retain_graph=True
            )
            along[written[row]] = float(torch.cat([g.flatten() for g in one]) @ truth / truth.norm())
    found = np.array([along[response] for response in written])
    assert abs(found.mean() - float(truth.norm())) < 4 * found.std() / np.sqrt(len(found))
    assert found.std() / np.sqrt(len(found)) < 0.05 * float(truth.norm())


def test_a_step_follows_the_divergences_alone() -> None:
    """Neither the reward nor the KL of later states enters the gradient of an iteration."""

    def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(len(ids)) for ids in completion_ids]

    algorithm = tiny(minibatch_size=16, max_grad_norm=1e9, rate=0.0)
    algorithm.set_env(TokenVectorEnv(word_mdp(length, ["w0 w1"], max_new_tokens=T, n_words=V - 2), 8, "Disabled"))
    episodes = algorithm.collect()
    assert episodes is not None
    assert algorithm.train(episodes)["rollout/score"] > 1
    found = torch.cat([p.grad.flatten() for p in algorithm.policy.lm.parameters() if p.grad is not None])
    terms = []
    for row in range(16):
        response = tuple(prompt_and_response(episodes, row)[1])
        for t in range(len(response)):
            models = (algorithm.policy.lm, algorithm.reference)
            log_p, log_q = (plain(algorithm, model, response[:t]) for model in models)
            terms.append(plain_divergence(log_p, log_q.detach(), 1))
    expected = gradient(algorithm, torch.stack(terms).mean())
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def mixed_visits(algorithm: Distillation, taught: float, temperature: float, state: Any) -> float:
    """Return the probability that a response begins with some tokens, written by the teacher in a share of cases."""
    models = (algorithm.policy.lm, algorithm.reference)
    own, others = (reached(algorithm, model, tuple(state), temperature) for model in models)
    return (1 - taught) * own + taught * others


def mixed_divergence(algorithm: Distillation, jsd: float, taught: float, temperature: float = 1.0) -> Tensor:
    """Return the expected sum of divergences over a response; only its divergences are differentiated."""
    total = torch.zeros(())
    for state in states():
        models = (algorithm.policy.lm, algorithm.reference)
        log_p, log_q = (plain(algorithm, model, state, temperature) for model in models)
        visits = mixed_visits(algorithm, taught, temperature, state)
        total = total + visits * plain_divergence(log_p, log_q.detach(), jsd)
    return total


# --- the exact score ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_optimum_is_the_teacher_and_the_logged_kl_is_the_distance_to_it(temperature: float) -> None:
    """With R = 0 and β = 1: J* = 0, and J(student) = −KL = −E[Σ_t D_t], the mean of what is logged."""
    sampling = Sampling(temperature=temperature)
    algorithm = tiny(sampling=sampling)
    exact = textgym.optimum(algorithm._env_attribute("mdp"), 1.0, reference=algorithm.reference, sampling=sampling)
    assert exact.value == pytest.approx(0, abs=1e-6)
    student = exact.evaluate(algorithm.policy)
    assert student.objective == pytest.approx(-student.kl, abs=1e-6)
    assert student.kl_to_optimum == pytest.approx(student.kl, abs=1e-6)
    assert student.kl > 0.5
    every = responses()
    divergence = algorithm.score(as_episodes(algorithm, every)).divergence
    assert divergence is not None
    weights = [reached(algorithm, algorithm.policy.lm, tuple(ids), temperature) for ids in every]
    assert float(np.dot(weights, divergence.sum(1))) == pytest.approx(student.kl, rel=1e-4)


@pytest.mark.parametrize("jsd", [1.0, 0.3])
def test_the_kl_is_logged_whatever_the_loss_is(jsd: float) -> None:
    """The mean over many responses is the exact KL of student and teacher, with less variance than the log-ratio."""
    algorithm = tiny(jsd=jsd, teacher_share=0.25, episodes_per_iteration=4096, minibatch_size=512, rows=512, rate=0.0)
    exact = textgym.optimum(algorithm._env_attribute("mdp"), 1.0, reference=algorithm.reference)
    episodes = algorithm.collect()
    assert episodes is not None
    metrics = algorithm.train(episodes)
    kl, error = metrics["rollout/kl_exact"], metrics["rollout/kl_exact_sem"]
    assert abs(kl - exact.evaluate(algorithm.policy).kl) < 4 * error
    assert error < 0.7 * metrics["rollout/kl_sem"]
    assert abs(metrics["rollout/kl"] - kl) < 4 * metrics["rollout/kl_sem"]


@pytest.mark.parametrize(("jsd", "taught"), [(1.0, 0.0), (0.5, 0.0), (0.0, 0.5), (1.0, 1.0)])
def test_the_student_becomes_the_teacher(jsd: float, taught: float) -> None:
    algorithm = tiny(jsd=jsd, teacher_share=taught, episodes_per_iteration=64, minibatch_size=16, rate=1e-2)
    exact = textgym.optimum(algorithm._env_attribute("mdp"), 1.0, reference=algorithm.reference)
    before = exact.evaluate(algorithm.policy).kl
    algorithm.learn(6000)
    assert exact.evaluate(algorithm.policy).kl < 0.02 * before


# --- the loss ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jsd", [1.0, 0.5, 0.0])
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.7, min_new_tokens=3), Sampling(top_k=5, min_new_tokens=2)]
)
def test_the_loss_is_the_mean_divergence_of_the_behaviour_distributions(jsd: float, sampling: Sampling) -> None:
    if sampling.top_k and jsd == 0:
        return  # refused below
    algorithm = make(jsd=jsd, sampling=sampling, ent_coef=0.3)
    episodes = algorithm.collect()
    assert episodes is not None
    batch = a_batch(algorithm, episodes, 16)
    loss, logs = algorithm.loss(algorithm.evaluate(batch), batch)
    found, entropies = [], []
    for row in range(len(episodes)):
        prompt, response = prompt_and_response(episodes, row)
        for t in range(len(response)):
            # The student is restricted to its candidates, the teacher is not.
            of_teacher = Sampling(sampling.temperature, min_new_tokens=sampling.min_new_tokens)
            log_p, log_q = (
                plain_log_probs(model, prompt, response[:t], how).double()
                for model, how in ((algorithm.policy.lm, sampling), (algorithm.reference, of_teacher))
            )
            p, q = log_p.exp(), log_q.exp()
            m = {1.0: q, 0.0: p}.get(jsd, jsd * q + (1 - jsd) * p)
            terms = [torch.where(a > 0, a * (a.clamp(min=1e-300) / m).log(), 0.0).sum() for a in (p, q)]
            found.append({1.0: terms[0], 0.0: terms[1]}.get(jsd, (1 - jsd) * terms[0] + jsd * terms[1]))
            entropies.append(torch.where(p > 0, -p * log_p, 0.0).nan_to_num().sum())
    mean, entropy = float(torch.stack(found).mean()), float(torch.stack(entropies).mean())
    assert float(logs["policy_loss"].detach()) == pytest.approx(mean, rel=1e-4)
    assert float(loss.detach()) == pytest.approx(mean - 0.3 * entropy, rel=1e-4)


def test_the_reward_and_beta_change_nothing() -> None:
    def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(len(ids)) for ids in completion_ids]

    paid = [make(task={"reward": reward}, beta=beta) for reward, beta in ((length, 0.05), (no_reward, 2.0))]
    for algorithm in paid:
        algorithm.learn(150)
    assert equal(parameters(paid[0]), parameters(paid[1]))
    assert paid[0].metrics["rollout/score"] > 0 == paid[1].metrics["rollout/score"]


def test_the_loss_averages_over_whole_responses_if_asked() -> None:
    """As published, each response's mean has the same weight."""
    algorithm = make(normalisation="sequence")
    episodes = algorithm.collect()
    assert episodes is not None
    batch = a_batch(algorithm, episodes, 16)
    evaluation = algorithm.evaluate(batch)
    _, logs = algorithm.loss(evaluation, batch)
    assert evaluation.divergence is not None
    means = [evaluation.divergence[row][batch.own[row]].mean() for row in range(16)]
    torch.testing.assert_close(logs["policy_loss"], torch.stack(means).mean())
    assert len(set(episodes.lengths.tolist())) > 1


# --- the teacher's responses -------------------------------------------------------------------------------------


def test_the_teacher_writes_its_share_after_the_students() -> None:
    """They are the responses that the teacher writes as a policy of its own, in episodes of the same numbers."""
    algorithm = make(teacher_share=0.25)
    episodes = algorithm.collect()
    assert episodes is not None
    alone = [
        Reinforce("LMPolicy", TokenVectorEnv(word_mdp(), 8, "Disabled"), model=wild(seed), **SMALL).collect()
        for seed in (0, 1)
    ]
    assert episodes.episode.tolist() == list(range(16))
    np.testing.assert_array_equal(episodes.actions[:12], alone[0].actions[:12])
    np.testing.assert_array_equal(episodes.actions[12:], alone[1].actions[12:])
    assert (alone[0].actions[12:] != alone[1].actions[12:]).any(1).all()
    # Their log-probabilities are the student's, from which its update is measured.
    for row in (0, 12, 15):
        prompt, response = prompt_and_response(episodes, row)
        for t, token in enumerate(response):
            expected = plain_log_probs(algorithm.policy.lm, prompt, response[:t], Sampling())[token]
            assert episodes.log_probs[row, t] == pytest.approx(float(expected), abs=1e-4)


def test_metrics_are_of_the_students_responses_alone() -> None:
    algorithm = make(teacher_share=0.25, task={"reward": emit(7)})
    episodes = algorithm.collect()
    assert episodes is not None
    own = algorithm.score(episodes)
    assert own.divergence is not None
    metrics = algorithm.train(episodes)
    assert metrics["rollout/kl_exact"] == pytest.approx(own.divergence[:12].sum(1).mean(), rel=1e-5)
    assert metrics["rollout/kl"] == pytest.approx((episodes.log_probs - own.ref_log_probs)[:12].sum(1).mean(), rel=1e-5)
    assert metrics["rollout/score"] == pytest.approx(episodes.rewards[:12].sum(1).mean(), rel=1e-5)
    assert metrics["rollout/length"] == pytest.approx(episodes.lengths[:12].mean())
    assert metrics["train/first_minibatch_ratio_error"] < 1e-4
    assert [info["l"] for info in algorithm.ep_info_buffer or ()] == episodes.lengths[:12].tolist()
    assert algorithm.num_timesteps == episodes.lengths.sum()  # the budget counts all tokens


def test_a_teacher_may_write_everything() -> None:
    algorithm = make(teacher_share=1.0, jsd=0.0)
    episodes = algorithm.collect()
    assert episodes is not None
    teacher = Reinforce("LMPolicy", TokenVectorEnv(word_mdp(), 8, "Disabled"), model=wild(1), **SMALL).collect()
    np.testing.assert_array_equal(episodes.actions, teacher.actions)
    metrics = algorithm.train(episodes)
    assert not any(name.startswith("rollout/") for name in metrics)
    algorithm.learn(200)


def test_whole_prompts_go_to_the_teacher() -> None:
    algorithm = make(teacher_share=0.3, samples_per_prompt=4)
    episodes = algorithm.collect()
    assert episodes is not None
    assert algorithm.own_responses == 12  # 0.3 · 16 = 4.8 responses are nearest to those of one prompt
    assert (episodes.prompt_index.reshape(4, 4) == episodes.prompt_index[::4, None]).all()


def test_the_best_of_n_of_an_adapted_policy_is_that_of_its_original() -> None:
    """As for a teacher: the policy without its adapters writes."""
    student = moved(add_lora(wild(0), 2, 0, 0))
    settings = {**SMALL, "samples_per_prompt": 4}
    env = [TokenVectorEnv(word_mdp(), 8, "Disabled") for _ in range(2)]
    adapted = BestOfN("LMPolicy", env[0], model=student, reference=WITHOUT_ADAPTERS, **settings).collect()
    original = BestOfN("LMPolicy", env[1], model=wild(0), **settings).collect()
    np.testing.assert_array_equal(adapted.actions, original.actions)


# --- kinds of students and teachers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (tiny_gpt2, lambda: tiny_llama(seed=1)),
        (tiny_gpt2, lambda: tiny_gpt2(seed=1, n_embd=48, n_layer=3, n_head=3)),
        (tiny_llama, lambda: tiny_gpt2(40, seed=1)),  # with rows for tokens that the task does not have
        (tiny_t5, lambda: tiny_t5(seed=1, d_model=48)),
        (tiny_bart, lambda: tiny_bart(seed=1, d_model=48)),
    ],
)
def test_the_teacher_may_be_of_another_architecture(student: Any, teacher: Any, tmp_path: Path) -> None:
    algorithm = make(student(), teacher(), teacher_share=0.5, jsd=0.5)
    algorithm.learn(100)
    algorithm.save(tmp_path / "half")
    resumed = Distillation.load(tmp_path / "half", TokenVectorEnv(word_mdp(), 8, "Disabled"))
    for each in (algorithm, resumed):
        each.learn(100, reset_num_timesteps=False)
    assert resumed.iteration > 2
    assert equal(parameters(algorithm), parameters(resumed))


def test_frozen_layers_of_the_student_are_not_those_of_the_teacher() -> None:
    """Stored activations of the student's layers do not reach the teacher's pass."""
    frozen, whole = (
        make(wild(0), wild(1), policy_kwargs=how) for how in ({"freeze_layers": 1, "untie_head": True}, {})
    )
    episodes = frozen.collect()
    assert episodes is not None
    ours, theirs = (algorithm.score(episodes).divergence for algorithm in (frozen, whole))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    frozen.learn(200)


@pytest.mark.parametrize("taught", [0.0, 0.5])
def test_an_adapted_student_nears_the_model_below_its_adapters(taught: float) -> None:
    student = moved(add_lora(wild(0), 4, 0, 0), 0.5)
    algorithm = make(
        student, WITHOUT_ADAPTERS, teacher_share=taught, episodes_per_iteration=64, minibatch_size=16, rate=1e-2
    )
    episodes = algorithm.collect()
    assert episodes is not None
    own = algorithm.own_responses
    with torch.no_grad():
        below = Reinforce("LMPolicy", TokenVectorEnv(word_mdp(), 8, "Disabled"), model=wild(0), **SMALL).policy
        shown = (torch.from_numpy(array) for array in (episodes.input_ids, episodes.attention_mask))
        expected = below.evaluate(*shown).log_probs.numpy()
    np.testing.assert_allclose(algorithm.score(episodes).ref_log_probs, expected, atol=1e-4)
    if taught:
        settings = {**SMALL, "episodes_per_iteration": 64}
        original = Reinforce("LMPolicy", TokenVectorEnv(word_mdp(), 8, "Disabled"), model=wild(0), **settings)
        np.testing.assert_array_equal(episodes.actions[own:], original.collect().actions[own:])
    before = algorithm.train(episodes)["rollout/kl_exact"]
    algorithm.learn(3000)
    assert algorithm.metrics["rollout/kl_exact"] < 0.5 * before


def test_an_adapted_student_of_another_model() -> None:
    algorithm = make(wild(0), wild(1), policy_kwargs={"lora": 2})
    before = parameters(algorithm)
    algorithm.learn(150)
    after = parameters(algorithm)
    assert all("lora_" in name for name in after if not torch.equal(after[name], before[name]))
    assert not equal(before, after)


def even(input_ids: Any, attention_mask: Any) -> Any:
    admitted = np.zeros((len(input_ids), 16), bool)
    admitted[:, ::2] = admitted[:, END] = True
    return admitted


@pytest.mark.parametrize("jsd", [1.0, 0.5, 0.0])
def test_a_task_that_forbids_tokens_forbids_them_to_both(jsd: float) -> None:
    algorithm = make(jsd=jsd, teacher_share=0.5, task={"allowed": even})
    episodes = algorithm.collect()
    assert episodes is not None
    assert all(token % 2 == 0 or token == END for token in episodes.actions[episodes.own])
    batch = a_batch(algorithm, episodes, 16)
    divergence = algorithm.evaluate(batch).divergence
    assert divergence is not None
    prompt, response = (tokens for tokens in prompt_and_response(episodes, 15))
    columns = [*range(0, 16, 2), END]
    log_p, log_q = (
        plain_log_probs(model, prompt, [], Sampling())[columns].log_softmax(-1)
        for model in (algorithm.policy.lm, algorithm.reference)
    )
    expected = plain_divergence(log_p, log_q, jsd)
    order = np.random.default_rng(0).permutation(16)
    found = divergence[int(np.flatnonzero(order == 15)[0]), 0].detach()
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    assert response
    algorithm.train(episodes)


# --- resume ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("taught", [0.0, 0.5])
def test_resume_is_bit_exact(taught: float, adapted: bool, tmp_path: Path) -> None:
    student = moved(add_lora(wild(0), 2, 0, 0)) if adapted else wild(0)
    whole = make(student, WITHOUT_ADAPTERS if adapted else wild(1), teacher_share=taught, jsd=0.5)
    whole.learn(150)
    whole.save(tmp_path / "half")
    resumed = Distillation.load(tmp_path / "half", TokenVectorEnv(word_mdp(), 8, "Disabled"))
    assert resumed.settings == whole.settings
    for algorithm in (whole, resumed):
        algorithm.learn(150, reset_num_timesteps=False)
    assert whole.iteration == resumed.iteration > 3
    assert equal(parameters(whole), parameters(resumed))
    assert whole.metrics == resumed.metrics


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jsd": 1.1}, "jsd=1.1; expected a finite number, at least 0 and at most 1"),
        ({"teacher_share": -0.1}, "teacher_share=-0.1; expected a finite number"),
        ({"kl_in_loss": True}, "kl_in_loss=True; expected False, since the loss is the divergence from the teacher"),
        ({"jsd": 0.0, "sampling": Sampling(top_k=5)}, r"jsd=0 is the forward KL.*infinite: top_k and top_p exclude"),
        ({"teacher_share": 0.5, "sampling": Sampling(top_p=0.9)}, r"teacher_share=0\.5 trains on the teacher's tokens"),
        ({"reference": tiny_gpt2(12)}, "the reference embeds 12 tokens, fewer than the task's 16 actions"),
        ({"reference": tiny_gpt2(positions=9)}, r"context of 9 tokens is shorter than P \+ T = 10"),
        ({"reference": WITHOUT_ADAPTERS}, "the policy has no adapters"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_a_teacher_is_needed() -> None:
    env = TokenVectorEnv(word_mdp(), 8, "Disabled")
    with pytest.raises(ValueError, match="reference is None, and distillation needs a teacher; pass reference="):
        Distillation("LMPolicy", env, model=tiny_gpt2(), **SMALL)


def test_a_teacher_with_another_tokenizer_is_named(tmp_path: Path) -> None:
    """A directory is compared by its tokenizer: of the same size, but with other numbers; or with more tokens."""
    for name, tokenizer in (("same", word_tokenizer()), ("more", word_tokenizer(20)), ("bare", None)):
        tiny_gpt2(22, seed=1).save_pretrained(tmp_path / name)
        if tokenizer is not None:
            tokenizer.save_pretrained(tmp_path / name)
        make(reference=tmp_path / name)
    file = tmp_path / "same" / "tokenizer.json"
    told = file.read_text()
    swapped = told.replace('"w3": 5', '"w3": 6').replace('"w4": 6', '"w4": 5')
    assert swapped != told
    file.write_text(swapped)
    with pytest.raises(ValueError, match="token 5 of the task is 'w3', which the reference has as number 6; pass"):
        make(reference=tmp_path / "same")
    word_tokenizer(9).save_pretrained(tmp_path / "same")
    with pytest.raises(ValueError, match="another vocabulary, of 11 tokens beside the task's 16: token 11"):
        make(reference=str(tmp_path / "same"))
