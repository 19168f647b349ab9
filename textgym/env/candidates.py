"""Environment in which an action is one of k utterances that a frozen generator proposes in each turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from transformers import PreTrainedModel

from textgym.env.mdp import TokenMDP
from textgym.env.turns import ends_turn
from textgym.env.vector import Observation, find_attribute
from textgym.lm.agreement import make_decoder
from textgym.lm.behaviour import Behaviour, draw
from textgym.lm.files.loading import check_fits, frozen_dropout, load_causal_lm, require_causal
from textgym.lm.sampling import Sampling
from textgym.lm.trunk import Trunk
from textgym.numbers import count
from textgym.tokenization import decode_response, encode_following
from textgym.types import Float32Array, IntArray, MaskArray

Utterance: TypeAlias = tuple[int, ...]
"""Tokens of one turn, the one that ends it included."""


class CandidateEnv(gym.Env[Float32Array, np.int64]):
    """Language task in which each step chooses one of ``k`` utterances (Cohen 2022, arXiv 2208.02294).

    An utterance is a whole turn of the policy; in a task without a world, a whole response. A frozen language model
    proposes ``k`` of them in each turn, and the chosen one is played, up to the world's reply. The step's reward is the
    sum over its tokens. So algorithms for vectors and few actions can play, such as stable-baselines3's DQN.

    The observation has ``k + 1`` parts of equal length in one vector: the generator's hidden state at the end of the
    conversation, then the mean of its states over each candidate that continues it. Each part is scaled to a root mean
    square of 1. After the end all parts are 0. ``info["candidates"]`` has the texts.

    A candidate depends on ``episode_seed``, the turn, its number and the conversation, and on nothing else.

    Args:
        env: a single environment of this package, or a wrapper around one.
        k: number of candidates.
        generator: a causal language model; by default the task's base model.
        utterances: texts that candidates are drawn from, all with equal chance; by default the generator writes them.
        sampling: temperature, top-k and top-p of the generator.

    Raises:
        ValueError: there is no generator, it does not fit the task, or an utterance is not exactly one turn.
    """

    def __init__(
        self,
        env: gym.Env[Observation, np.int64],
        k: int = 4,
        generator: PreTrainedModel | None = None,
        utterances: Sequence[str] = (),
        sampling: Sampling | None = None,
    ) -> None:
        self.env = env
        self.mdp: TokenMDP = find_attribute(env, "mdp")
        self.k = count("k", k)
        self.metadata = env.metadata
        self.render_mode = env.render_mode
        self._generator = _Generator(_model(self.mdp, generator), self.mdp, self.k, sampling or Sampling())
        self._utterances = [_one_turn(self.mdp, text) for text in utterances]
        size = self._generator.size
        self.action_space = spaces.Discrete(self.k)
        self.observation_space = spaces.Box(-(size**0.5), size**0.5, ((self.k + 1) * size,), np.float32)
        self._conversation: Observation = {}
        self._seed = self._turn = self._n_own = 0
        self._candidates: list[Utterance] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """Begin an episode; ``options`` are those of :meth:`textgym.env.TokenEnv.reset`."""
        super().reset(seed=seed)
        self._conversation, info = self.env.reset(seed=seed, options=options)
        self._seed = find_attribute(self.env, "episode_seed")
        self._turn = self._n_own = 0
        return self._propose(), {**info, "candidates": self._texts()}

    def step(self, action: Any) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        """Play the tokens of a candidate.

        Raises:
            gymnasium.error.ResetNeeded: no episode is going on.
            ValueError: there is no such candidate.
        """
        if not self._candidates:
            raise gym.error.ResetNeeded("no episode is going on: call reset() first")
        if np.ndim(action) != 0 or not self.action_space.contains(action):
            raise ValueError(f"action is {action!r}; expected an integer from 0 to {self.k - 1}")
        total, terminated, truncated = 0.0, False, False
        info: dict[str, Any] = {}
        for token in self._candidates[int(action)]:
            self._conversation, reward, terminated, truncated, info = self.env.step(np.int64(token))
            total += float(reward)
            self._n_own += 1
            if terminated or truncated:
                break
        self._turn += 1
        if terminated:
            self._candidates = []
            return np.zeros((self.k + 1) * self._generator.size, np.float32), total, True, truncated, info
        return self._propose(), total, False, truncated, {**info, "candidates": self._texts()}

    def render(self) -> Any:
        """Render the conversation so far as the language task does."""
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def _propose(self) -> Float32Array:
        """Propose the candidates of the present turn, and return the observation."""
        generators = [candidate_generator(self._seed, self._turn, candidate) for candidate in range(self.k)]
        if self._utterances:
            chosen = [self._utterances[generator.integers(len(self._utterances))] for generator in generators]
            room = self.mdp.width - _end(self._conversation)
            self._candidates = [utterance[:room] for utterance in chosen]
        else:
            self._candidates = self._generator.write(self._conversation, generators, self._n_own)
        return self._generator.embed(self._conversation, self._candidates).ravel()

    def _texts(self) -> list[str]:
        mdp, end = self.mdp, _end(self._conversation)
        before = self._conversation["input_ids"][:end][self._conversation["attention_mask"][:end] == 1].tolist()
        ends = (*mdp.end_token_ids, *mdp.turn_end_ids)
        return [decode_response(mdp.tokenizer, before, ids, ends, mdp.skip_special_tokens) for ids in self._candidates]


def candidate_generator(seed: int, turn: int, candidate: int) -> np.random.Generator:
    """Return a generator for one candidate; the same arguments give the same numbers.

    It shares no numbers with :func:`textgym.worlds.turn_generator`.

    Args:
        seed: ``episode_seed``.
        turn: number of the turn, from 0.
        candidate: number of the candidate, from 0.
    """
    return np.random.Generator(np.random.Philox(key=np.array([seed, (turn << 32) + candidate + 2**63], np.uint64)))


# --- the generator ---------------------------------------------------------------------------------------------


class _Generator:
    """Frozen language model that writes utterances, and whose hidden states stand for texts."""

    def __init__(self, model: PreTrainedModel, mdp: TokenMDP, k: int, sampling: Sampling) -> None:
        self.mdp = mdp
        self.device = model.device
        self.behaviour = Behaviour(mdp.n_actions, mdp.end_token_ids, sampling)
        self.decoder = make_decoder(model, k, mdp.width, mdp.max_prompt_length)
        self.trunk = Trunk(model)
        prompt: Observation = {
            "input_ids": np.zeros(mdp.width, np.int64),
            "attention_mask": np.ones(mdp.width, np.int8),
        }
        self.size = self.embed(prompt, []).shape[-1]

    @torch.inference_mode()
    def write(self, conversation: Observation, generators: list[np.random.Generator], n_own: int) -> list[Utterance]:
        """Sample one utterance with each generator.

        Args:
            conversation: ``input_ids`` and ``attention_mask``, ``[P+T]`` each.
            generators: the sources of random numbers.
            n_own: number of the policy's tokens so far.
        """
        mdp, end = self.mdp, _end(conversation)
        ids, mask = _rows(conversation, [()] * len(generators))
        begun, live = end, np.arange(len(generators))
        while len(live):
            logits = self.decoder.logits(ids, mask, live)
            elapsed = torch.full((len(live),), n_own + end - begun, device=logits.device)
            allowed = None if mdp.allowed is None else torch.from_numpy(mdp.allowed(ids[live], mask[live]))
            uniforms = torch.tensor([generators[row].random() for row in live], dtype=torch.float64)
            behaviour = self.behaviour.logits(logits, elapsed, None if allowed is None else allowed.to(logits.device))
            tokens = draw(behaviour, uniforms.to(logits.device))[0].cpu().numpy()
            ids[live, end], mask[live, end] = tokens, 1
            end += 1
            going = [not _ends(mdp, int(token), end - begun) and end < mdp.width for token in tokens]
            live = live[going]
        return [tuple(row[begun:][seen[begun:] == 1].tolist()) for row, seen in zip(ids, mask, strict=True)]

    @torch.inference_mode()
    def embed(self, conversation: Observation, utterances: Sequence[Utterance]) -> Float32Array:
        """Return ``[1+k, d]``: the last state of the conversation, and the mean state of each utterance in it."""
        ids, mask = _rows(conversation, [(), *utterances])
        prompt_length, end = self.mdp.max_prompt_length, _end(conversation)
        shown, seen = (torch.from_numpy(array).to(self.device) for array in (ids, mask))
        states = self.trunk.hidden_states(shown, seen, prompt_length).float()
        # Column t of the states is the one before response token t, so that the conversation's last one comes first.
        after = states[:, end - prompt_length :]
        means = [after[row, 1 : 1 + len(utterance)].mean(0) for row, utterance in enumerate(utterances, start=1)]
        found = torch.stack([after[0, 0], *means])
        scaled = found / found.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
        bound = scaled.shape[-1] ** 0.5  # of a vector with this root mean square, but for rounding
        vectors: Float32Array = scaled.clamp(-bound, bound).cpu().numpy()
        return vectors


def _model(mdp: TokenMDP, generator: PreTrainedModel | None) -> PreTrainedModel:
    """Return the generator after checks that it fits the task."""
    if generator is None:
        if mdp.base_model is None:
            raise ValueError("generator is None, and the task has no base model; pass generator=MODEL")
        generator = load_causal_lm(mdp.base_model)
    model = require_causal(frozen_dropout(generator), "candidates")
    check_fits(model, mdp.tokenizer, mdp.n_actions, mdp.width, mdp.max_prompt_length)
    return model


def _one_turn(mdp: TokenMDP, text: str) -> Utterance:
    """Encode an utterance, with the token that ends it.

    Raises:
        ValueError: it is not exactly one turn.
    """
    closing = (*mdp.turn_end_ids, *mdp.end_token_ids)[:1]
    ids = (*encode_following(mdp.tokenizer, [(text, "text")]), *closing)
    ends = [_ends(mdp, token, length) for length, token in enumerate(ids, start=1)]
    if not ends or not ends[-1] or any(ends[:-1]):
        limit = mdp.max_new_tokens if mdp.max_turn_tokens is None else mdp.max_turn_tokens
        expected = f"1 to {limit} tokens with the one that ends it" if closing else f"exactly {limit} tokens"
        raise ValueError(f"utterance {text!r} has {len(ids)} tokens; expected one turn of {expected}")
    return ids


def _ends(mdp: TokenMDP, token: int, length: int) -> bool:
    """Return True if a token ends an utterance, which then has ``length`` tokens."""
    return token in mdp.end_token_ids or ends_turn(mdp, token, length) or length == mdp.max_new_tokens


def _end(conversation: Observation) -> int:
    """Return one past the column of the last token."""
    mask = conversation["attention_mask"]
    return len(mask) - int(mask[::-1].argmax())


def _rows(conversation: Observation, utterances: Sequence[Utterance]) -> tuple[IntArray, MaskArray]:
    """Return ids and mask ``[n, P+T]`` of the conversation, continued by each utterance."""
    ids, mask = (np.tile(conversation[name], (len(utterances), 1)) for name in ("input_ids", "attention_mask"))
    end = _end(conversation)
    for row, utterance in enumerate(utterances):
        columns = slice(end, end + len(utterance))
        ids[row, columns], mask[row, columns] = utterance, 1
    return ids, mask
