"""The exact optimum with chance: against the environment itself, hand-computed numbers and numerical optimisation."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from tests.benchmarks.test_optimum import policy_of
from tests.helpers import tiny_gpt2, tiny_llama, word_mdp
from textgym.agents.loop.evaluation import evaluate
from textgym.env.mdp import TokenMDP
from textgym.env.vector import TokenVectorEnv
from textgym.exact import bracket, optimum
from textgym.lm.sampling import Sampling
from textgym.lm.trunk import Trunk
from textgym.rewards.builtin import no_reward
from textgym.types import Completion, Prompt
from textgym.worlds import Glue, KnownWorld, Outcome, Reply, WorldError

V, WORDS = 4, 8
TURN_END = 3
SHAPE = {"initializer_range": 0.5, "n_embd": 16}


def models(make: Any = tiny_gpt2) -> tuple[Any, Any]:
    shape = SHAPE if make is tiny_gpt2 else {}
    return make(WORDS + 2, seed=0, **shape), make(WORDS + 2, seed=1, **shape)


def number(*parts: Any) -> int:
    return zlib.crc32(repr(parts).encode())


class Whimsical(KnownWorld):
    """No structure: one to three outcomes that depend on all that the world may know.

    Replies have 0 to 3 tokens, as texts or as ids. Some end the episode. The state is hidden: equal replies may leave
    the world in different states.
    """

    def __init__(self, salt: int = 0, most: int = 3) -> None:
        self.salt = salt
        self.most = most

    def start(self, prompt: Prompt) -> Any:
        return number(prompt.text) % 2

    def outcomes(self, state: Any, turn: Completion) -> list[Outcome]:
        rng = np.random.default_rng(number(self.salt, state, turn.text, turn.ids, turn.finish_reason))
        n = int(rng.integers(1, 4))
        found = []
        for probability in rng.dirichlet(np.ones(n)):
            words = rng.integers(4, 6, int(rng.integers(self.most + 1))).tolist()
            says: Any = tuple(words) if rng.random() < 0.4 else " ".join(f"w{i - 2}" for i in words)
            reply = Reply(says, float(rng.normal()), bool(rng.random() < 0.2))
            found.append((float(probability), int(rng.integers(2)), reply))
        return found


def everything(prompts: list[Any], completions: list[Any], completion_ids: list[Any], **columns: Any) -> list[float]:
    """Return a reward without structure of all that the environment passes."""
    named = ("finish_reason", "response_ids", "turn_rewards", "prompt_ids")
    rows = zip(prompts, completions, completion_ids, *(columns[name] for name in named), strict=True)
    return [math.sin(number(*row)) for row in rows]


def talk(world: Any = None, reward: Any = everything, horizon: int = 5, **settings: Any) -> TokenMDP:
    settings = {"turn_end_ids": (TURN_END,), "glue": Glue(), "vocabulary_size": V, **settings}
    prompts = settings.pop("prompts", ["w0 w1", "w2"])
    return word_mdp(reward, prompts, 3, horizon, WORDS, world=world or Whimsical(), **settings)


# --- the environment, walked through -----------------------------------------------------------------------------


class Scripted:
    """A known world whose outcomes are chosen by a script."""

    role = "user"

    def __init__(self, world: KnownWorld) -> None:
        self.world = world
        self.script: Sequence[int] = ()
        self.asked: list[list[float]] = []

    def begin(self, prompts: list[Prompt], seeds: list[int]) -> list[Any]:
        self.asked = []
        return [self.world.start(prompt) for prompt in prompts]

    def reply(self, states: list[Any], turns: list[Completion]) -> list[tuple[Any, Reply]]:
        outcomes = self.world.outcomes(states[0], turns[0])
        self.asked.append([probability for probability, _, _ in outcomes])
        return [outcomes[self.script[len(self.asked) - 1]][1:]]


class Seen(NamedTuple):
    reward: float
    done: bool
    tokens: tuple[int, ...]
    allowed: np.ndarray[Any, Any]
    asked: list[list[float]]


class Walk:
    """The real environment, brought to any state by its actions and the world's outcomes."""

    def __init__(self, mdp: TokenMDP) -> None:
        assert isinstance(mdp.world, KnownWorld)
        self.world = Scripted(mdp.world)
        self.env = TokenVectorEnv(replace(mdp, world=self.world), 1, AutoresetMode.DISABLED)

    def to(self, prompt: int, actions: Sequence[int], script: Sequence[int]) -> Seen:
        self.world.script = script
        one = {"prompt_index": np.array([prompt]), "episode": np.array([0])}
        observation, _ = self.env.reset(seed=0, options=one)
        reward, done = 0.0, False
        for action in actions:
            observation, (reward,), (done,), _, _ = self.env.step(np.array([action]))
        tokens = observation["input_ids"][observation["attention_mask"] == 1].tolist()
        return Seen(float(reward), bool(done), tuple(tokens), self.env.action_masks()[0], self.world.asked)

    def after(self, prompt: int, actions: Sequence[int], script: Sequence[int]) -> Iterator[tuple[float, Any, Seen]]:
        """Yield probability, script and result of all that may follow the last action."""
        seen = self.to(prompt, actions, [*script, 0])
        if len(seen.asked) == len(script):
            yield 1.0, script, seen
            return
        for i, probability in enumerate(seen.asked[-1]):
            yield probability, [*script, i], self.to(prompt, actions, [*script, i])


def behaviour(model: Any, tokens: Sequence[int], elapsed: int, mdp: TokenMDP, sampling: Sampling, allowed: Any) -> Any:
    """Return log-probabilities ``[V]``, by one full pass."""
    with torch.no_grad():
        logits = model(torch.tensor([list(tokens)])).logits[0, -1, :V].double().numpy() / sampling.temperature
    excluded = ~allowed
    if elapsed < sampling.min_new_tokens:
        excluded = excluded | np.isin(np.arange(V), mdp.end_token_ids)
    logits = np.where(excluded, -np.inf, logits)
    return logits - np.log(np.exp(logits).sum())


@dataclass
class ByHand:
    """Values by stepping the environment through every action and every outcome.

    The policy knows its observation alone: a state is the set of scripts that show it, with their probabilities.
    """

    mdp: TokenMDP
    reference: Any
    model: Any
    beta: float
    sampling: Sampling
    count: int = 0

    def __post_init__(self) -> None:
        self.walk = Walk(self.mdp)

    def values(self, prompt: int) -> Any:
        """Return V*, and of the model: E[R] and the KL to the reference."""
        return self._values(prompt, [], [(1.0, [])], self.walk.to(prompt, [], []))

    def _values(self, prompt: int, actions: list[int], alike: list[Any], seen: Seen) -> Any:
        log_ref, log_pi = (
            behaviour(model, seen.tokens, len(actions), self.mdp, self.sampling, seen.allowed)
            for model in (self.reference, self.model)
        )
        soft, hard = [], np.zeros(2)
        for action in np.flatnonzero(seen.allowed).tolist():
            q = np.zeros(3)
            groups: dict[Any, list[Any]] = {}
            for weight, script in alike:
                for probability, longer, result in self.walk.after(prompt, [*actions, action], script):
                    q += weight * probability * np.array([result.reward, result.reward, 0.0])
                    self.count += result.done and bool(np.isfinite(log_ref[action]))
                    if not result.done:
                        groups.setdefault(result.tokens, []).append((weight * probability, longer, result))
            for group in groups.values():
                total = sum(weight for weight, _, _ in group)
                nodes = [(weight / total, script) for weight, script, _ in group]
                q += total * self._values(prompt, [*actions, action], nodes, group[0][2])
            if np.isfinite(log_ref[action]):
                soft.append(math.exp(log_ref[action]) * math.exp(q[0] / self.beta))
                hard += math.exp(log_pi[action]) * (q[1:] + np.array([0, log_pi[action] - log_ref[action]]))
        return np.array([self.beta * math.log(sum(soft)), *hard])


def spaced(input_ids: Any, attention_mask: Any) -> Any:
    """Return a task's mask, which reads foreign tokens too: no token may come again at once, w0 not after a reply."""
    last = (np.arange(input_ids.shape[1]) * attention_mask).argmax(1)
    token = input_ids[np.arange(len(input_ids)), last][:, None]
    return (np.arange(V) != token) & ~((np.arange(V) == 2) & (token >= V))


CASES: dict[str, tuple[dict[str, Any], Sampling]] = {
    "turn-end token": ({}, Sampling()),
    "turns of one token": ({"max_turn_tokens": 1, "turn_end_ids": (), "horizon": 4}, Sampling()),
    "turns of two, glue": ({"max_turn_tokens": 2, "glue": Glue("w5", (9,), closing="w4")}, Sampling(0.7)),
    "minimum length": ({"max_turn_tokens": 2, "end_token_ids": (0, 1)}, Sampling(1.2, 2)),
    "stop rule and mask": ({"allowed": spaced, "stop": lambda ids: sum(ids) > 6, "max_turn_tokens": 2}, Sampling()),
    "missing end": ({"missing_end_score": -0.7, "max_turn_tokens": 2}, Sampling()),
    "longer replies": ({"world": Whimsical(5, most=5), "max_turn_tokens": 1, "horizon": 6}, Sampling()),
}


@pytest.mark.parametrize("case", CASES)
def test_the_environment_walked_through_gives_the_same(case: str) -> None:
    settings, sampling = CASES[case]
    mdp, beta = talk(**settings), 0.3
    reference, model = models()
    found = optimum(mdp, beta, reference=reference, sampling=sampling)
    value = found.evaluate(model)
    hand = ByHand(mdp, reference, model, beta, sampling)
    for p, best in enumerate(found.prompt_values):
        soft, reward, kl = hand.values(p)
        assert best == pytest.approx(soft, abs=1e-5)
        assert value.by_prompt[p] == pytest.approx(reward - beta * kl, abs=1e-5)
    assert found.n_sequences == hand.count
    assert found.value - value.objective == pytest.approx(beta * value.kl_to_optimum, abs=1e-9)
    assert found.value - found.reference.objective == pytest.approx(beta * found.reference.kl_to_optimum, abs=1e-9)
    assert found.best.objective == pytest.approx(found.value, abs=1e-9)
    assert value.kl > 0.05
    assert found.value - value.objective > 0.05


# --- numerical optimisation --------------------------------------------------------------------------------------


def leaves(walk: Walk, prompt: int) -> list[tuple[list[tuple[Any, int]], float, float]]:
    """Return choices (state, action), chance and reward of every transcript."""
    found = []

    def descend(choices: list[Any], script: Any, seen: Seen, chance: float, paid: float) -> None:
        if seen.done:
            found.append((choices, chance, paid))
            return
        actions = [action for _, action in choices]
        state = (*actions, seen.tokens)
        for action in np.flatnonzero(seen.allowed).tolist():
            for probability, longer, after in walk.after(prompt, [*actions, action], script):
                chosen = [*choices, (state, action)]
                descend(chosen, longer, after, chance * probability, paid + after.reward)

    descend([], [], walk.to(prompt, [], []), 1.0, 0.0)
    return found


def test_no_table_of_probabilities_does_better() -> None:
    """Gradient ascent on a softmax of every state; transcripts are listed by stepping the environment."""
    mdp = talk(Whimsical(4, most=2), turn_end_ids=(), max_turn_tokens=1, horizon=4, prompts=["w0 w1"])
    reference, _ = models()
    beta, transcripts = 0.4, leaves(Walk(mdp), 0)
    states = list(dict.fromkeys(state for choices, _, _ in transcripts for state, _ in choices))
    everywhere = np.ones(V, bool)
    log_ref = torch.tensor(
        np.array([behaviour(reference, s[-1], len(s) - 1, mdp, Sampling(), everywhere) for s in states])
    )
    chosen = torch.zeros(len(transcripts), len(states), V, dtype=torch.float64)
    for i, (choices, _, _) in enumerate(transcripts):
        for state, action in choices:
            chosen[i, states.index(state), action] = 1
    chance, reward = (torch.tensor([each[k] for each in transcripts], dtype=torch.float64) for k in (1, 2))

    def objective(scores: torch.Tensor) -> torch.Tensor:
        log_pi = scores.log_softmax(-1)
        log_prob, log_prior = (chosen * log_pi).sum((1, 2)), (chosen * log_ref).sum((1, 2))
        return (chance * log_prob.exp() * (reward - beta * (log_prob - log_prior))).sum()

    scores = torch.zeros(len(states), V, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [scores], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = -objective(scores)
        value.backward()
        return value

    optimiser.step(loss)
    found = optimum(mdp, beta, reference=reference)
    assert (len(states), len(transcripts)) == (34, found.n_sequences)
    assert any(len(belief) > 1 for level in found.tree for belief in level.states.beliefs)
    assert objective(torch.zeros_like(scores)).item() < found.value - 0.1
    assert objective(scores).item() == pytest.approx(found.value, abs=1e-6)


# --- numbers known on paper --------------------------------------------------------------------------------------


def uniform() -> Any:
    """Return a model that gives every token the same probability."""
    model = tiny_gpt2()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


class Gamble(KnownWorld):
    """0.5 for token 0, an even chance of 1 for token 1."""

    def start(self, prompt: Prompt) -> None:
        return None

    def outcomes(self, state: None, turn: Completion) -> list[Outcome]:
        if turn.ids == (0,):
            return [(1.0, None, Reply("w0", 0.5, done=True))]
        return [(0.5, None, Reply("w1", reward, done=True)) for reward in (0.0, 1.0)]


def bets(world: KnownWorld, n_actions: int = 2, turns: int = 1, **settings: Any) -> TokenMDP:
    """One token a turn, and a reply of one token."""
    settings = {"vocabulary_size": n_actions, "end_token_ids": (), "prompts": ["w0 w1"], **settings}
    return talk(world, no_reward, 2 * turns, turn_end_ids=(), max_turn_tokens=1, **settings)


def test_the_optimum_does_not_bet_on_the_worlds_luck() -> None:
    beta = 0.05
    found = optimum(bets(Gamble()), beta, reference=uniform())
    assert found.value == pytest.approx(0.5, abs=1e-9)
    np.testing.assert_allclose(found.next_token_probs(0), [0.5, 0.5], atol=1e-9)
    by_product = beta * math.log(0.5 * math.exp(0.5 / beta) + 0.25 * (1 + math.exp(1 / beta)))
    assert by_product == pytest.approx(0.9307, abs=1e-4)
    assert found.n_sequences == 3


class Echo(KnownWorld):
    """Says any of its words with equal probability; pays for saying it back."""

    def __init__(self, words: int, turns: int) -> None:
        self.words = words
        self.turns = turns

    def start(self, prompt: Prompt) -> tuple[int, int | None]:
        return 0, None

    def outcomes(self, state: tuple[int, int | None], turn: Completion) -> list[Outcome]:
        turns, said = state
        reward = (turn.ids == (said,)) / (self.turns - 1)
        if turns + 1 == self.turns:
            return [(1.0, None, Reply("", reward, done=True))]
        return [(1 / self.words, (turns + 1, word), Reply((word,), reward)) for word in range(self.words)]


def test_echo_has_a_closed_form() -> None:
    words, turns, beta = 3, 3, 0.1
    found = optimum(bets(Echo(words, turns), words, turns), beta, reference=uniform())
    gain = math.log(1 - 1 / words + math.exp(1 / ((turns - 1) * beta)) / words)
    assert found.value == pytest.approx((turns - 1) * beta * gain, abs=1e-9)
    tilted = np.exp(np.array([0, 0, 1]) / ((turns - 1) * beta))
    np.testing.assert_allclose(found.next_token_probs(0, (0, 2)), tilted / tilted.sum(), atol=1e-9)
    np.testing.assert_allclose(found.next_token_probs(0, (0, 1, 0, 2)), tilted / tilted.sum(), atol=1e-9)
    for response in ((0,), (0, 2, 1), (0, 3), (0, 1, 2, 2, 1)):  # within a reply, of another reply, ended
        with pytest.raises(ValueError, match="expected a live prefix"):
            found.next_token_probs(0, response)


class Hidden(KnownWorld):
    """Throws a coin, tells it or does not, and pays 1 for a right guess."""

    def __init__(self, tells: bool) -> None:
        self.tells = tells

    def start(self, prompt: Prompt) -> None:
        return None

    def outcomes(self, state: int | None, turn: Completion) -> list[Outcome]:
        if state is None:
            chances = enumerate((0.7, 0.3))
            return [(p, coin, Reply(f"w{coin}" if self.tells else "w2")) for coin, p in chances]
        return [(1.0, state, Reply("w2", float(turn.ids == (state,)), done=True))]


@pytest.mark.parametrize(("tells", "right"), [(True, 1.0), (False, 0.7)])
def test_the_policy_does_not_see_what_the_world_hides(tells: bool, right: float) -> None:
    found = optimum(bets(Hidden(tells), turns=2), 0.001, reference=uniform())
    assert found.best.reward == pytest.approx(right, abs=1e-9)
    assert found.value == pytest.approx(right, abs=2e-3)  # a nat or so of KL, at 0.001 each


# --- the environment, sampled ------------------------------------------------------------------------------------


def test_sampled_episodes_agree() -> None:
    mdp = talk(Whimsical(3), max_turn_tokens=2, prompts=["w0 w1 w2"])
    _, model = models()
    found = optimum(mdp, 0.3, reference=model).reference
    n = 4000
    env = TokenVectorEnv(mdp, n, AutoresetMode.DISABLED)
    observation, _ = env.reset(seed=0)
    generator, rewards, done = torch.Generator().manual_seed(0), np.zeros(n), np.zeros(n, bool)
    while not done.all():
        with torch.no_grad():
            logits = model(torch.from_numpy(observation["input_ids"])).logits
        last = torch.from_numpy(observation["attention_mask"].sum(1).astype(np.int64)) - 1
        probs = logits[torch.arange(n), last, :V].softmax(-1)
        actions = torch.multinomial(probs, 1, generator=generator)[:, 0].numpy()
        observation, paid, ended, _, _ = env.step(actions)
        rewards, done = rewards + paid, done | ended
    assert abs(rewards.mean() - found.reward) < 4 * rewards.std() / math.sqrt(n)


def test_the_collectors_episodes_agree() -> None:
    mdp, sampling = talk(Whimsical(3), max_turn_tokens=2, end_token_ids=(0, 1)), Sampling(0.8, 1)
    reference, model = models()
    policy = policy_of(mdp, model, sampling)
    exact = optimum(mdp, 0.2, reference=reference, sampling=sampling).evaluate(policy)
    report = evaluate(policy, Trunk(reference), mdp, 1500, seed=1)
    for sampled, expected in ((report.episodes.rewards.sum(1), exact.reward), (report.kl.sum(1), exact.kl)):
        assert abs(sampled.mean() - expected) < 4 * sampled.std() / math.sqrt(len(sampled))


# --- what else the environment does ------------------------------------------------------------------------------


class Silent(KnownWorld):
    """Says nothing, and pays nothing."""

    def start(self, prompt: Prompt) -> None:
        return None

    def outcomes(self, state: None, turn: Completion) -> list[Outcome]:
        return [(1.0, None, Reply(""))]


def test_a_silent_world_changes_no_bit() -> None:
    """A turn as long as the horizon is a response; after it nothing fits."""

    def hashed(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [math.sin(number(ids)) for ids in completion_ids]

    reference, model = models()
    mdp = talk(Silent(), hashed, turn_end_ids=(), max_turn_tokens=5)
    alone = replace(mdp, world=None, turn_end_ids=(), max_turn_tokens=None, glue=None)
    found, expected = (optimum(task, 0.3, reference=reference) for task in (mdp, alone))
    assert found.n_sequences == expected.n_sequences == 2 * (1 + 3 + 9 + 27 + 81 * 4)
    np.testing.assert_array_equal(found.prompt_values, expected.prompt_values)
    for ours, theirs in zip(found.log_probs, expected.log_probs, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert found.evaluate(model).objective == expected.evaluate(model).objective
    assert found.next_token_probs(1, (2, 3)).tolist() == expected.next_token_probs(1, (2, 3)).tolist()


def test_another_reward_replaces_the_tasks_and_the_worlds_stays() -> None:
    reference, model = models()
    mdp = talk(Whimsical(4), max_turn_tokens=2)
    found, bare = (optimum(task, 0.3, reference=reference) for task in (mdp, replace(mdp, reward=no_reward)))
    world = found.expect(model, no_reward)
    assert world == pytest.approx(bare.evaluate(model).reward, abs=1e-12)
    assert abs(world) > 0.01
    assert found.expect(model, everything) == pytest.approx(found.evaluate(model).reward, abs=1e-12)
    paid = found.expect(model, lambda turn_rewards, **_: [sum(turn) for turn in turn_rewards])
    assert paid == pytest.approx(2 * world, abs=1e-12)


def test_other_architectures_and_a_policys_own_truncation() -> None:
    mdp = talk(Whimsical(6), max_turn_tokens=2)
    reference, model = models(tiny_llama)
    found = optimum(mdp, 0.3, reference=reference)
    hand = ByHand(mdp, reference, model, 0.3, Sampling())
    np.testing.assert_allclose(found.prompt_values, [hand.values(p)[0] for p in range(2)], atol=1e-5)
    top = found.evaluate(policy_of(mdp, model, Sampling(top_k=2)))
    assert found.value - top.objective == pytest.approx(0.3 * top.kl_to_optimum, abs=1e-9)
    assert top.kl > 0.3


def test_a_reward_may_change_the_messages_that_it_receives() -> None:
    def careless(completions: list[Any], **columns: Any) -> list[float]:
        scores = [len("".join(message["content"] for message in talk)) / 10 for talk in completions]
        for conversation in completions:
            for message in conversation:
                message["content"] = ""
        return scores

    reference, _ = models()
    found = optimum(talk(Whimsical(4), careless, max_turn_tokens=2), 0.3, reference=reference)
    assert found.expect(None, careless) == found.best.reward


# --- sizes and bad input -----------------------------------------------------------------------------------------


class Broken(Gamble):
    def __init__(self, start: Any = None, outcomes: Any = ()) -> None:
        self.begins = start
        self.answers = outcomes

    def start(self, prompt: Prompt) -> Any:
        return self.begins()

    def outcomes(self, state: Any, turn: Completion) -> Any:
        return self.answers


def test_rounded_probabilities_are_scaled_as_in_the_simulator() -> None:
    sure = Broken(int, [(0.4999995, 0, Reply("w0", 1.0, done=True)), (0.5, 0, Reply("w1", 1.0, done=True))])
    assert optimum(bets(sure), 0.1, reference=uniform()).value == pytest.approx(1, abs=1e-9)


def test_replies_count_for_the_limit() -> None:
    reference = uniform()
    assert optimum(bets(Echo(3, 2), 3, 2), 0.1, reference=reference, limit=27).n_sequences == 27
    with pytest.raises(ValueError, match=r"at least 27 responses, and at most limit=26 .*fewer outcomes$"):
        optimum(bets(Echo(3, 2), 3, 2), 0.1, reference=reference, limit=26)
    crowd = Broken(int, [(1 / 500, 0, Reply("w0", done=True))] * 500)
    with pytest.raises(ValueError, match=r"at least 1,500 responses"):  # not all 2,000 were asked for
        optimum(bets(crowd, 4), 0.1, reference=reference, limit=1200)


class Unknown:
    def begin(self, prompts: list[Prompt], seeds: list[int]) -> list[None]:
        return [None] * len(prompts)

    def reply(self, states: list[None], turns: list[Completion]) -> list[tuple[None, Reply]]:
        return [(None, Reply("w0")) for _ in states]


def test_a_world_without_outcomes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"world=Unknown has no outcomes.*derive it from textgym\.worlds\.KnownWorld"):
        optimum(talk(Unknown()), 0.1)


def test_prompts_that_only_the_world_can_tell_apart_are_refused() -> None:
    mdp = bets(Gamble(), prompts=["w0", "w1", "w0"])
    assert optimum(mdp, 0.1, reference=uniform()).value == pytest.approx(0.5)
    first, second, _ = mdp.prompts
    secret = replace(first, columns={"answer": 1})
    with pytest.raises(ValueError, match=r"prompts 1 and 3 have the same tokens, 'w0'.*outcomes draw what is hidden"):
        optimum(replace(mdp, prompts=[first, second, secret]), 0.1, reference=uniform())


def test_a_bracket_refuses_worlds() -> None:
    with pytest.raises(ValueError, match=r"has a world \(Gamble\).*count on the world's luck; use textgym\.optimum"):
        bracket(bets(Gamble()), 0.1)


def test_a_reward_that_depends_on_the_seed_is_refused() -> None:
    def noisy(episode_seed: list[int], **_: Any) -> list[float]:
        return [float(seed) for seed in episode_seed]

    with pytest.raises(ValueError, match=r"noisy.*depends on episode_seed"):
        optimum(talk(reward=noisy), 0.1, reference=models()[0])


@pytest.mark.parametrize(
    ("world", "message"),
    [
        (Broken(lambda: 1 / 0), r"Broken\.start raised ZeroDivisionError: .* on prompt 'w0 w1'"),
        (Broken(int, [(0.5, 0, Reply("w0"))]), r"(?s)probabilities \[0\.5\], with sum 0\.5.*state: 0.*turn: ''"),
        (Broken(int, [(0.5, 0)]), r"(?s)Broken\.outcomes raised ValueError: .*state: 0.*turn: ''"),
        (Broken(int, [(1.0, 0, Reply("w0", math.nan))]), r"returned reward=nan; expected a finite number"),
        (Broken(int, [(1.0, 0, Reply((99,)))]), r"says the token 99"),
        (Broken(int, [(1.0, 0, "w0")]), r"returned 'w0'; expected a Reply"),
    ],
)
def test_a_mistake_in_the_world_is_named(world: KnownWorld, message: str) -> None:
    with pytest.raises(WorldError, match=message):
        optimum(bets(world), 0.1, reference=uniform())
