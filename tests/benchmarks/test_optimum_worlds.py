"""The exact optimum with chance: against the environment itself, hand-computed numbers and numerical optimisation."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from tests.benchmarks.test_optimum import policy_of
from tests.helpers import tiny_gpt2, tiny_llama, word_mdp
from textgym.env.mdp import TokenMDP
from textgym.env.vector import TokenVectorEnv
from textgym.exact import bracket, optimum
from textgym.lm.sampling import Sampling
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
                    self.count += result.done
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
