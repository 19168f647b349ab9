"""Turns in collecting and training: the policy's own tokens are trained on, the other side's are only seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.agents.replay import prompt_and_response, session_for
from tests.helpers import next_logits, taught, tiny_bart, tiny_gpt2, tiny_llama, tiny_t5, word_mdp
from tests.talking import TURN_END, Chatter, Silent, talking_mdp
from textgym.agents import A2C, GRPO, NLPO, PPO, evaluate
from textgym.agents.functional.objectives import gae, monte_carlo, turn_gae
from textgym.agents.loop.episodes import EpisodePlan, collect, minibatches, score_episodes
from textgym.agents.loop.slots import SB3VecEnv, make_slots
from textgym.agents.registry import ALGORITHMS, find_algorithm
from textgym.agents.stock import TokenActorCriticPolicy
from textgym.env import ReferenceKL, TokenEnv, TokenVectorEnv
from textgym.env.mdp import TokenMDP
from textgym.lm.sampling import Sampling
from textgym.types import Episodes

MODELS = {"GPT-2": tiny_gpt2, "Llama": tiny_llama, "T5": tiny_t5, "BART": tiny_bart}


def admitting(mdp: TokenMDP, n: int, seed: int = 0) -> gym.vector.VectorEnv[Any, Any, Any]:
    env = TokenVectorEnv(mdp, n, "Disabled")
    env.reset(seed=seed)
    return env


def played(mdp: TokenMDP, n: int, model: Any, slots: int = 8, sampling: Sampling | None = None) -> Episodes:
    plan = EpisodePlan(np.arange(n) % len(mdp.prompts), np.arange(n))
    episodes = collect(make_slots(SB3VecEnv(admitting(mdp, slots))), session_for(model, mdp, slots, sampling), plan)
    assert episodes is not None
    return episodes


def algorithm(kind: Any, mdp: TokenMDP, model: Any = None, slots: int = 8, **settings: Any) -> Any:
    sizes = {"episodes_per_iteration": 16, "minibatch_size": 8, "learning_rate": 3e-3, "seed": 0, **settings}
    return kind("LMPolicy", admitting(mdp, slots), model=model or tiny_gpt2(), **{**taught(kind), **sizes})


def parameters(trained: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trained.policy.state_dict().items()}


# --- a world that never speaks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PPO, GRPO, NLPO])
def test_a_silent_world_changes_no_bit(kind: Any):
    """Same actions, same log-probabilities, same parameters after three iterations, as without a world."""
    mdp = talking_mdp(Silent(), glue=replace(talking_mdp().glue, before="", after=""))
    alone = replace(mdp, world=None, turn_end_ids=(), max_turn_tokens=None, glue=None)
    runs = []
    for task in (mdp, alone):
        trained, seen = algorithm(kind, task), []
        for progress in (1.0, 0.6, 0.3):
            episodes = trained.collect()
            seen.append(episodes)
            trained.train(episodes, progress)
        runs.append((seen, parameters(trained)))
    (spoken, here), (single, there) = runs
    for one, other in zip(spoken, single, strict=True):
        assert (one.actions[one.own] == TURN_END).any()  # the world was asked, and not by turns' limits alone
        assert (one.input_ids == other.input_ids).all()
        assert (one.log_probs == other.log_probs).all()
        assert (one.rewards == other.rewards).all()
        assert one.own.sum() == other.own.sum()
    assert all(torch.equal(here[name], there[name]) for name in there)


# --- collecting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", MODELS)
def test_what_is_sampled_is_what_the_model_says_without_a_cache(family: str):
    """Every own token's log-probability, over ragged turns, equals that of one uncached pass over its prefix."""
    mdp, model, sampling = talking_mdp(), MODELS[family](), Sampling(temperature=0.7, min_new_tokens=6)
    episodes = played(mdp, 12, model, 5, sampling)
    lengths = set()
    for i in range(len(episodes)):
        prompt, response = prompt_and_response(episodes, i)
        own = episodes.own[i, : len(response)]
        for t in np.flatnonzero(own):
            # The minimum length counts own tokens, so the number of those is passed, and not t.
            expected = plain_log_probs(model, prompt, response[:t], int(own[:t].sum()), sampling)[response[t]]
            assert episodes.log_probs[i, t] == pytest.approx(float(expected), abs=1e-5)
        lengths |= set(
            np.diff(np.flatnonzero(np.diff(np.concatenate([[False], own, [True]]).astype(int)))[1:]).tolist()
        )
    assert len(lengths) > 2  # turns and replies of several lengths occurred
    assert not episodes.log_probs[~episodes.own].any()
    assert not episodes.rewards[~episodes.own].any()


@torch.no_grad()
def plain_log_probs(model: Any, prompt: list[int], response: list[int], chosen: int, sampling: Sampling) -> Any:
    """``[V]`` by plain torch: temperature, and no end token before the minimum number of own tokens."""
    logits = next_logits(model, prompt, response)[:16] / sampling.temperature
    if chosen < sampling.min_new_tokens:
        logits[1] = -torch.inf
    return logits.log_softmax(-1)


def test_the_minimum_length_counts_own_tokens():
    episodes = played(talking_mdp(), 60, tiny_gpt2(), sampling=Sampling(min_new_tokens=6))
    ended = [i for i in range(60) if episodes.stopped[i]]
    assert len(ended) > 5
    assert min(episodes.lengths[ended]) >= 7
    assert episodes.extents[ended].min() > 7


def test_own_tokens_are_those_that_were_chosen():
    mdp = talking_mdp()
    episodes = played(mdp, 20, tiny_gpt2())
    for i in range(20):
        prompt, response = prompt_and_response(episodes, i)
        env = TokenEnv(mdp)
        seeds = np.random.SeedSequence([0, i]).generate_state(1, np.uint64)[0] >> 1
        # Played again by hand, own token by own token, the environment says the same in between.
        observation, _ = env.reset(seed=0, options={"prompt_index": int(episodes.prompt_index[i]), "episode": i})
        assert env.unwrapped._row._episode_seed[0] == seeds
        paid = []
        for t in np.flatnonzero(episodes.own[i]):
            assert observation["attention_mask"][4:].sum() == t
            observation, reward, *_ = env.step(int(response[t]))
            paid.append(reward)
        shown = observation["input_ids"][observation["attention_mask"] == 1].tolist()
        assert shown == [*prompt, *response]
        np.testing.assert_allclose(paid, episodes.rewards[i, episodes.own[i]], atol=1e-6)


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_tokens_do_not_depend_on_the_number_of_slots(slots: int):
    mdp, model = talking_mdp(), tiny_gpt2()
    one, other = played(mdp, 24, model, 8), played(mdp, 24, model, slots)
    assert (one.input_ids == other.input_ids).all()
    assert (one.own == other.own).all()
    assert (one.rewards == other.rewards).all()


def test_other_environments_collect_the_same_conversations():
    """Rows of single environments, assigned the planned episodes, play what our vector environment plays."""
    mdp, model = talking_mdp(), tiny_gpt2()
    venv = DummyVecEnv([lambda: TokenEnv(mdp)] * 3)
    venv.seed(0)
    plan = EpisodePlan(np.arange(9) % 4, np.arange(9))
    slots = make_slots(venv, assign=True)
    other = collect(slots, session_for(model, mdp, 3), plan)
    one = played(mdp, 9, model)
    assert other is not None
    # Rows are seeded one by one there, so that the world's dice differ; what the policy says first does not.
    first = np.arange(24) < np.where(one.own, 99, np.arange(24)).min(1)[:, None]
    assert (one.actions[first] == other.actions[first]).all()
    for episodes in (one, other):
        assert (episodes.extents > episodes.lengths).any()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_environments_that_restart_by_themselves_can_be_trained_in(mode: AutoresetMode):
    mdp = talking_mdp()
    env = SyncVectorEnv([lambda: TokenEnv(mdp)] * 4, autoreset_mode=mode)
    trained = PPO("LMPolicy", env, model=tiny_gpt2(), episodes_per_iteration=8, minibatch_size=4, seed=0)
    trained.learn(200)
    assert trained.metrics["train/first_minibatch_ratio_error"] < 1e-4
    assert trained.metrics["rollout/foreign_tokens"] > 0


class Interjecting(gym.Wrapper[Any, Any, Any, Any]):
    """A foreign environment with no word of worlds: writes w1 behind each token that is even."""

    def reset(self, **settings: Any) -> Any:
        self.ids, info = self.env.reset(**settings)
        return self.ids, info

    def step(self, action: Any) -> Any:
        before = {key: value.copy() for key, value in self.ids.items()}
        _, reward, terminated, _, _ = self.env.step(action)
        end = 4 + int(before["attention_mask"][4:].sum())
        tokens = [int(action), 3] if action % 2 == 0 and end < 26 else [int(action)]
        for i, token in enumerate(tokens):
            before["input_ids"][end + i], before["attention_mask"][end + i] = token, 1
        self.ids = before
        done = terminated or end >= 26
        return {key: value.copy() for key, value in before.items()}, float(reward), done, False, {"prompt_index": 0}


def test_an_environment_of_ones_own_may_speak():
    mdp = word_mdp(max_new_tokens=24)
    env = DummyVecEnv([lambda: Interjecting(TokenEnv(mdp))] * 3)
    trained = PPO("LMPolicy", env, model=tiny_gpt2(), episodes_per_iteration=6, minibatch_size=3, seed=0)
    episodes = trained.collect()
    even = (episodes.actions % 2 == 0) & episodes.own
    follows = np.pad(even, ((0, 0), (1, 0)))[:, :-1] & (episodes.attention_mask[:, 4:] == 1)
    assert even.sum() > 10
    assert (episodes.own[follows] == 0).all()
    assert trained.train(episodes)["train/first_minibatch_ratio_error"] < 1e-4


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_algorithm_trains_on_turns(name: str):
    trained = algorithm(find_algorithm(name), talking_mdp())
    before = parameters(trained)
    metrics = {}
    for _ in range(2):
        metrics = trained.train(trained.collect())
        if trained.on_policy:
            assert metrics["train/first_minibatch_ratio_error"] < 1e-4
    assert metrics["rollout/turns"] > 1
    assert metrics["rollout/foreign_tokens"] > 1
    assert any(not torch.equal(before[key], value) for key, value in parameters(trained).items())


@pytest.mark.parametrize(
    ("family", "how"),
    [
        *((family, how) for family in ("Llama", "T5", "BART") for how in ({}, {"lora": 2})),
        *((family, {"freeze_layers": 1, "untie_head": True}) for family in ("GPT-2", "Llama")),
    ],
)
def test_every_kind_of_policy_trains_on_turns(family: str, how: dict[str, Any]):
    trained = algorithm(PPO, talking_mdp(), MODELS[family](), policy_kwargs=how)
    for _ in range(2):
        metrics = trained.train(trained.collect())
    assert metrics["train/first_minibatch_ratio_error"] < 1e-4
    assert metrics["rollout/foreign_tokens"] > 1


def test_the_kl_and_the_score_are_those_of_own_tokens():
    trained = algorithm(PPO, talking_mdp(), beta=0.3)
    trained.train(trained.collect())  # the policy has left its reference
    episodes = trained.collect()
    scored = trained.score(episodes)
    reference = trained.reference_trunk.model
    for i in range(len(episodes)):
        prompt, response = prompt_and_response(episodes, i)
        own = episodes.own[i, : len(response)]
        ratios = 0.0
        for t in np.flatnonzero(own):
            ours, theirs = (
                float(plain_log_probs(model, prompt, response[:t], 0, Sampling())[response[t]])
                for model in (trained.policy.lm, reference)
            )
            ratios += ours - theirs
        assert scored.shaped[i].sum() == pytest.approx(episodes.rewards[i].sum() - 0.3 * ratios, abs=1e-4)
        assert not scored.shaped[i][~episodes.own[i]].any()


def test_a_foreign_token_changes_no_log_prob_before_it_and_no_other_row():
    trained = algorithm(PPO, talking_mdp())
    episodes = trained.collect()
    row = int((episodes.extents - episodes.lengths).argmax())
    foreign = np.flatnonzero(~episodes.own[row] & (episodes.attention_mask[row, 4:] == 1))
    place = int(foreign[len(foreign) // 2])
    ids, mask, own = (torch.from_numpy(x) for x in (episodes.input_ids, episodes.attention_mask, episodes.own))
    changed = ids.clone()
    changed[row, 4 + place] = (changed[row, 4 + place] + 1) % 14 + 2
    with torch.no_grad():
        one, other = (trained.policy.evaluate(x, mask, own=own).log_probs for x in (ids, changed))
    difference = (one - other).abs().numpy()
    assert difference[row, :place].max() == 0
    assert difference[np.arange(len(episodes)) != row].max() == 0
    assert difference[row, place:][episodes.own[row, place:]].max() > 1e-4


def test_foreign_tokens_enter_no_loss():
    """The gradient by plain torch over own tokens alone: each prefix in a pass of its own."""
    trained = algorithm(PPO, talking_mdp(), episodes_per_iteration=4, minibatch_size=4)
    episodes = trained.collect()
    scored = trained.score(episodes)
    estimated = trained.estimate_advantages(scored)
    (batch,) = minibatches(scored, estimated, 4, 1, np.random.default_rng(0), torch.device("cpu"))
    evaluation = trained.policy.evaluate(batch.input_ids, batch.attention_mask, own=batch.own)
    loss, _ = trained.actor_loss(evaluation, batch)
    (expected,) = torch.autograd.grad(loss, [trained.policy.lm.transformer.h[0].attn.c_attn.weight])
    terms = []
    for i in range(4):
        prompt, response = prompt_and_response(episodes, i)
        for t in np.flatnonzero(episodes.own[i]):
            log_prob = next_logits(trained.policy.lm, prompt, response[:t])[:16].log_softmax(-1)[response[t]]
            terms.append(
                -float(estimated.advantages[i, t]) * log_prob
            )  # at ratio 1 the surrogate's gradient is A∇log π
    (plain,) = torch.autograd.grad(torch.stack(terms).mean(), [trained.policy.lm.transformer.h[0].attn.c_attn.weight])
    torch.testing.assert_close(plain, expected, atol=1e-6, rtol=1e-4)


def test_resuming_in_mid_conversation_continues_bit_for_bit(tmp_path: Path):
    """A checkpoint that a callback writes while conversations run holds the iteration's beginning."""
    mdp = talking_mdp()
    whole = algorithm(PPO, mdp)

    class Within(BaseCallback):
        saved = ""

        def _on_step(self) -> bool:
            talking = self.training_env.venv.unwrapped  # type: ignore[attr-defined]
            if not self.saved and self.model.iteration == 1 and any(c and c.rewards for c in talking._conversations):
                self.saved = str(tmp_path / "within")
                self.model.save(self.saved)
            return True

    callback = Within()
    whole.learn(600, callback=callback)
    assert callback.saved
    assert whole.iteration > 2
    resumed = PPO.load(callback.saved, admitting(mdp, 8))
    assert resumed.iteration == 1
    resumed.learn(600 - resumed.num_timesteps, reset_num_timesteps=False)
    assert resumed.iteration == whole.iteration
    assert all(torch.equal(value, parameters(whole)[name]) for name, value in parameters(resumed).items())


def test_stable_baselines3_counts_own_tokens_and_checkpoints(tmp_path: Path):
    trained = algorithm(A2C, talking_mdp())
    checkpoints = CheckpointCallback(5, str(tmp_path))
    trained.learn(100, callback=checkpoints)
    assert list(tmp_path.iterdir())
    lengths = [info["l"] for info in trained.ep_info_buffer]
    assert trained.num_timesteps == sum(lengths)
    assert max(lengths) < 24  # own tokens, not columns


def test_stock_algorithms_play_with_worlds():
    """A stock agent sees only real choices, and its policy class reads conversations."""
    env = TokenEnv(talking_mdp(Chatter(last=3)))
    sizes = {"n_steps": 32, "batch_size": 16, "n_epochs": 1}
    stock = stable_baselines3.PPO(TokenActorCriticPolicy, env, **sizes, policy_kwargs={"model": tiny_gpt2()})
    stock.learn(64)
    mean, _ = evaluate_policy(stock, env, n_eval_episodes=4, warn=False)
    assert np.isfinite(mean)


def test_the_wrappers_kl_is_the_agents():
    """ReferenceKL pays, own token by own token, what our agents subtract after the rollout."""
    sampling = Sampling(temperature=0.8, min_new_tokens=5)
    trained = algorithm(PPO, talking_mdp(), beta=0.2, sampling=sampling)
    trained.train(trained.collect())
    episodes = trained.collect()
    scored = trained.score(episodes)
    env = ReferenceKL(TokenEnv(talking_mdp()), trained.reference_trunk.model, 0.2, sampling, trained.policy)
    for i in range(4):
        env.reset(seed=0, options={"prompt_index": int(episodes.prompt_index[i]), "episode": int(episodes.episode[i])})
        own = np.flatnonzero(episodes.own[i])
        paid = [env.step(int(episodes.actions[i, t]))[1] for t in own]
        np.testing.assert_allclose(paid, scored.shaped[i, own], atol=2e-5)


def test_evaluation_reads_whole_conversations():
    trained = algorithm(PPO, talking_mdp())
    trained.train(trained.collect())
    report = evaluate(trained.policy, trained.reference_trunk, talking_mdp(), 12, 3)
    assert (report.kl[~report.episodes.own] == 0).all()
    assert (report.kl[report.episodes.own] > 0).all()
    summary = report.summary()
    assert summary["length"]["mean"] == report.episodes.own.sum() / 12
    total = report.episodes.components["world"] + report.episodes.components["count_even"]
    np.testing.assert_allclose(total, report.episodes.rewards.sum(1), atol=1e-5)


# --- advantages over turns ------------------------------------------------------------------------------------------


def steps_of(own: np.ndarray, rewards: np.ndarray, values: np.ndarray, lam: float, truncated: bool) -> list[float]:
    """Compute advantages of one row on its underlying MDP: a list of steps, by the definition's double sum."""
    columns = [t for t in range(len(own)) if own[t]]
    v = [float(values[t]) for t in columns] + [float(values[columns[-1] + 1]) if truncated else 0.0]
    deltas = [float(rewards[t]) + v[k + 1] - v[k] for k, t in enumerate(columns)]
    return [sum(lam**j * delta for j, delta in enumerate(deltas[k:])) for k in range(len(deltas))]


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("truncated", [False, True])
def test_gae_over_own_tokens_is_gae_of_the_underlying_mdp(lam: float, truncated: bool):
    rng = np.random.default_rng(1)
    own = rng.random((12, 15)) < 0.5
    own[:, 0] = True
    rewards = np.where(own, rng.normal(size=own.shape), 0).astype(np.float32)
    values = rng.normal(size=(12, 16)).astype(np.float32)
    cut = np.full(12, truncated)
    advantages, returns = gae(rewards, values, own, lam, cut)
    for i in range(12):
        expected = steps_of(own[i], rewards[i], values[i], lam, truncated)
        np.testing.assert_allclose(advantages[i, own[i]], expected, atol=1e-5)
        np.testing.assert_allclose(returns[i, own[i]], expected + values[i, :-1][own[i]], atol=1e-5)
    assert not advantages[~own].any()
    assert not returns[~own].any()
    if lam == 1.0:
        np.testing.assert_allclose(monte_carlo(rewards, values, own, cut).advantages, advantages, atol=1e-5)


def test_credit_crosses_foreign_tokens_undiminished():
    """With λ = 0.95 and 20 foreign tokens between: 0.950 of the credit, where the naive recursion leaves 0.341."""
    own = np.array([[True, *[False] * 20, True]])
    rewards, values = np.zeros((1, 22), np.float32), np.zeros((1, 23), np.float32)
    rewards[0, -1] = 1.0
    assert gae(rewards, values, own, 0.95).advantages[0, 0] == pytest.approx(0.95)
    assert gae(rewards, values, np.ones_like(own), 0.95).advantages[0, 0] == pytest.approx(0.341, abs=5e-4)


def test_turn_credit_by_hand():
    # Turns of 2 and 1 tokens; rewards .1 + .2 and 1; V of the turns' first states 0.5 and 0.25; λ = 0.5.
    # δ2 = 1 − 0.25 = 0.75; δ1 = 0.3 + 0.25 − 0.5 = 0.05; A2 = 0.75; A1 = 0.05 + 0.5·0.75 = 0.425.
    own = np.array([[True, True, False, False, True, False]])
    rewards = np.array([[0.1, 0.2, 9, 9, 1.0, 9]], np.float32)
    values = np.array([[0.5, 7, 7, 7, 0.25, 2.0, 7]], np.float32)
    advantages, returns = turn_gae(rewards, values, own, 0.5)
    np.testing.assert_allclose(advantages, [[0.425, 0.425, 0, 0, 0.75, 0]], atol=1e-6)
    np.testing.assert_allclose(returns, [[0.925, 0.925, 0, 0, 1.0, 0]], atol=1e-6)
    # A truncated row bootstraps from the state after the response, 2.0: δ2 = 2.75, A1 = 0.05 + 0.5·2.75.
    cut, _ = turn_gae(rewards, values, own, 0.5, np.array([True]))
    np.testing.assert_allclose(cut, [[1.425, 1.425, 0, 0, 2.75, 0]], atol=1e-6)


def test_turns_of_one_token_have_the_credit_of_tokens():
    own = np.tile([True, False], 5)[None].repeat(3, 0)
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(3, 10)).astype(np.float32), rng.normal(size=(3, 11)).astype(np.float32)
    for one, other in zip(turn_gae(rewards, values, own, 0.9), gae(rewards, values, own, 0.9), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_single_turn_is_a_bandit():
    own = np.arange(6) < np.array([[6], [3]])
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 6)).astype(np.float32), rng.normal(size=(2, 7)).astype(np.float32)
    advantages, _ = turn_gae(rewards, values, own, 0.3)
    total = np.where(own, rewards, 0).sum(1) - values[:, 0]
    np.testing.assert_allclose(advantages, np.where(own, total[:, None], 0), atol=1e-6)


def test_turn_credit_gives_a_turns_tokens_one_advantage():
    trained = algorithm(PPO, talking_mdp(), credit="turn")
    scored = trained.score(trained.collect())
    advantages = trained.estimate_advantages(scored).advantages
    inside = scored.episodes.own[:, 1:] & scored.episodes.own[:, :-1]
    assert inside.sum() > 20
    assert (advantages[:, 1:][inside] == advantages[:, :-1][inside]).all()
    assert trained.train(trained.collect())["train/first_minibatch_ratio_error"] < 1e-4
    with pytest.raises(ValueError, match="credit='word'; expected 'token' or 'turn'"):
        algorithm(PPO, talking_mdp(), credit="word")


def test_a_truncated_conversation_bootstraps_from_the_state_behind_the_reply():
    """A wrapper cuts the episode in the step in which the world has replied: V is that of the state then shown."""
    mdp = talking_mdp(max_turn_tokens=2, turn_end_ids=(), end_token_ids=())
    env = DummyVecEnv([lambda: TimeLimit(TokenEnv(mdp), 2)] * 4)
    trained = PPO("LMPolicy", env, model=tiny_gpt2(), episodes_per_iteration=4, minibatch_size=4, seed=0)
    with torch.no_grad():
        trained.policy.value.head.linear.weight.normal_()
    episodes = trained.collect()
    assert episodes.truncated.all()
    assert (episodes.lengths == 2).all()
    assert (episodes.extents > 4).all()
    scored = score_episodes(trained.policy, trained.reference_trunk, episodes, 0.0, 4)
    for i in range(4):
        prompt, response = prompt_and_response(episodes, i)
        with torch.no_grad():
            states = trained.policy.lm.transformer(torch.tensor([prompt + response])).last_hidden_state
            value = float(trained.policy.value.head(states)[0, -1])
        assert scored.values[i, 2] == pytest.approx(value, abs=1e-4)


def test_the_reward_is_scored_together_or_at_once():
    mdp, model = talking_mdp(), tiny_gpt2()
    plan = EpisodePlan(np.arange(12) % 4, np.arange(12))
    found = []
    for together in (False, True):
        slots = make_slots(SB3VecEnv(admitting(mdp, 5)), together)
        episodes = collect(slots, session_for(model, mdp, 5), plan)
        assert episodes is not None
        found.append(episodes)
    np.testing.assert_allclose(found[0].rewards, found[1].rewards, atol=1e-6)
    assert found[0].components.keys() == found[1].components.keys() == {"world", "count_even"}
