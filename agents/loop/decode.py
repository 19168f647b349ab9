"""Ways to respond with a policy: sampling, greedy, beam search, the best of n samples, and greedy in feedback."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textgym.agents.loop.episodes import EpisodePlan, take
from textgym.agents.loop.evaluation import play, played
from textgym.agents.policy.lm_policy import LMPolicy, Session
from textgym.env.mdp import TokenMDP
from textgym.lm.beam import BeamSearch, beam_search
from textgym.numbers import check, count, random_seed
from textgym.rewards.builtin import no_reward
from textgym.rewards.feedback.model import FeedbackModel
from textgym.types import BoolArray, Episodes, IntArray, MaskArray, Messages


@dataclass(frozen=True)
class Sampled:
    """Draw every token from the behaviour distribution."""


@dataclass(frozen=True)
class Greedy:
    """Take the most probable token at every step."""


@dataclass(frozen=True)
class BestOf:
    """Draw ``n`` responses and take the one with the greatest reward; of equals the first (Stiennon 2020)."""

    n: int
    """Number of responses to each prompt among which the best is chosen."""
    reward: Any = None
    """The reward that chooses, a function or several; None for the task's own. The result always has the task's
    rewards."""

    def __post_init__(self) -> None:
        check(self, count, "n")


@dataclass(frozen=True)
class GreedyIn:
    """Take the token on which the best feedback is expected, argmax_a Ĥ(s, a), at every step: how TAMER acts.

    The policy only proposes: Ĥ judges each candidate in a pass of its own over the whole text, so that a response of T
    tokens takes T · ``candidates`` passes. Of equals the most probable token is taken.
    """

    feedback: FeedbackModel
    """The model of feedback Ĥ, with the policy's tokenizer."""
    candidates: int = 16
    """Most probable tokens of the policy among which one is chosen; the vocabulary's size for all."""

    def __post_init__(self) -> None:
        check(self, count, "candidates")


Decoding: TypeAlias = Sampled | Greedy | BeamSearch | BestOf | GreedyIn
"""A way to respond. Each is over the behaviour distribution of the policy, with its temperature, minimum length and
masks; see :func:`textgym.lm.beam.beam_search` for what that means to a beam."""


def decode(
    policy: LMPolicy, mdp: TokenMDP, prompt_index: IntArray, decoding: Decoding, seed: int, k: int = 1
) -> Episodes:
    """Respond to prompts, and have the responses scored by the task as sampled ones are.

    Args:
        policy: the policy that responds.
        mdp: the task.
        prompt_index: ``[N]`` indices of its prompts.
        decoding: how to respond.
        seed: random seed of the samples, and of the rewards.
        k: number of responses to each prompt: samples, or the k best of a beam search or of n samples, the best first.

    Returns:
        ``N·k`` episodes, those to one prompt together; fewer if a beam search finds fewer than k responses to a prompt.

    Raises:
        ValueError: ``decoding`` cannot give k different responses, or does not fit the task.
    """
    k, seed = count("k", k), random_seed("seed", seed)
    prompt_index = np.asarray(prompt_index, np.int64)
    if isinstance(decoding, Sampled):
        return play(policy, mdp, np.repeat(prompt_index, k), seed)
    if isinstance(decoding, Greedy):
        if k > 1:
            raise ValueError(f"k={k}; greedy decoding gives the same response each time: leave k out, or sample")
        return play(policy, mdp, prompt_index, seed, greedy=True)
    if isinstance(decoding, BeamSearch):
        return _beams(policy, mdp, prompt_index, decoding, seed, k)
    if isinstance(decoding, GreedyIn):
        return _greedy_in(policy, mdp, prompt_index, decoding, seed, k)
    return _best(policy, mdp, prompt_index, decoding, seed, k)


def _beams(policy: LMPolicy, mdp: TokenMDP, prompt_index: IntArray, search: BeamSearch, seed: int, k: int) -> Episodes:
    if k > search.beams:
        raise ValueError(f"k={k} is more than beams={search.beams}; a beam search ends with that many responses")
    if mdp.world is not None:
        raise ValueError(
            "beam search needs a task of one turn, and this one has a world, which would have to answer every beam; "
            "decode greedily, or by the best of n samples"
        )

    def allowed(input_ids: IntArray, attention_mask: MaskArray) -> BoolArray:
        assert mdp.allowed is not None
        return mdp.allowed(np.where(attention_mask == 1, input_ids, mdp.filler), attention_mask)

    # Prompts that are asked for twice are searched once.
    asked, place = np.unique(prompt_index, return_inverse=True)
    found = beam_search(
        policy.lm,
        [mdp.prompts[i].ids for i in asked.tolist()],
        policy.behaviour,
        mdp.max_new_tokens,
        search,
        prompt_length=mdp.max_prompt_length,
        allowed=None if mdp.allowed is None else allowed,
        stop=mdp.stop,
    )
    kept = [(int(i), each.ids) for i, at in zip(prompt_index, place, strict=True) for each in found[at][:k]]
    responses = np.zeros((len(kept), mdp.max_new_tokens), np.int64)
    for row, (_, ids) in enumerate(kept):
        responses[row, : len(ids)] = ids
    plan = EpisodePlan(np.array([i for i, _ in kept], np.int64), np.arange(len(kept)))
    return recite(policy, mdp, plan, responses, seed)


def _best(policy: LMPolicy, mdp: TokenMDP, prompt_index: IntArray, best: BestOf, seed: int, k: int) -> Episodes:
    if k > best.n:
        raise ValueError(f"k={k} is more than n={best.n}; draw at least as many responses as are kept")
    judge = mdp if best.reward is None else replace(mdp, reward=best.reward)
    if judge.world is None and judge.rewards.rewards == (no_reward,):
        raise ValueError("the best of n samples is chosen by a reward, and the task has none; pass BestOf(n, reward)")
    drawn = play(policy, judge, np.repeat(prompt_index, best.n), seed)
    scores = drawn.rewards.sum(1, dtype=np.float64).reshape(-1, best.n)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    chosen = take(drawn, (order + np.arange(len(order))[:, None] * best.n).ravel())
    if best.reward is None:
        return chosen
    return recite(policy, mdp, EpisodePlan(chosen.prompt_index, chosen.episode), chosen.actions, seed)


def _greedy_in(
    policy: LMPolicy, mdp: TokenMDP, prompt_index: IntArray, greedy: GreedyIn, seed: int, k: int
) -> Episodes:
    if k > 1:
        raise ValueError(f"k={k}; acting greedily in feedback gives the same response each time: leave k out")
    if mdp.world is not None:
        raise ValueError("a model of feedback reads a single turn, and this task has a world; decode in another way")
    feedback = greedy.feedback.bind(mdp.tokenizer)
    feedback.check_lengths(mdp.prompts, mdp.max_new_tokens, mdp.end_token_ids, mdp.stop is not None)
    every = np.arange(len(prompt_index))
    plan = EpisodePlan(prompt_index, every)
    return played(mdp, plan, seed, lambda n_rows: Judged(policy, n_rows, mdp, plan, feedback, greedy.candidates))


class Judged(Session):
    """Session that takes the candidate of the greatest Ĥ; log-probabilities are those of sampling it.

    Args:
        policy: the policy that proposes candidates.
        n_rows: number of rows.
        mdp: the task.
        plan: the episodes.
        feedback: the model that judges them.
        candidates: number of candidates.
    """

    def __init__(
        self,
        policy: LMPolicy,
        n_rows: int,
        mdp: TokenMDP,
        plan: EpisodePlan,
        feedback: FeedbackModel,
        candidates: int,
    ) -> None:
        super().__init__(policy.lm, policy.behaviour, n_rows, policy.width, policy.prompt_length, 0)
        self._ends = mdp.end_token_ids
        self._asked = {
            int(episode): mdp.prompts[int(i)].content
            for episode, i in zip(plan.episode, plan.prompt_index, strict=True)
        }
        self._prompts: list[str | Messages] = [""] * n_rows  # the prompt of each row
        self._feedback = feedback
        self._candidates = candidates
        self._begun: list[list[int]] = []  # the text so far of each acting row

    def begin(self, rows: IntArray, episodes: IntArray) -> None:
        super().begin(rows, episodes)
        for row, episode in zip(rows.tolist(), episodes.tolist(), strict=True):
            self._prompts[row] = self._asked[episode]

    def _logits(
        self, observation: dict[str, NDArray[Any]], rows: IntArray, elapsed: IntArray, allowed: BoolArray | None
    ) -> Tensor:
        ids, mask = observation["input_ids"], observation["attention_mask"]
        self._begun = [ids[row][mask[row] == 1].tolist() for row in rows]
        return super()._logits(observation, rows, elapsed, allowed)

    def _choose(self, logits: Tensor, rows: IntArray, length: IntArray, greedy: BoolArray) -> tuple[Tensor, Tensor]:
        likely = logits.topk(min(self._candidates, logits.shape[-1]), sorted=True)
        possible = likely.values.isfinite()
        proposed = [ids[some].tolist() for ids, some in zip(likely.indices, possible, strict=True)]
        prompts = [self._prompts[row] for row in rows.tolist()]
        judged = self._feedback.judge(prompts, self._begun, proposed, self._ends)
        # The first of equals is the most probable.
        best = [own[int(np.argmax(values))] for own, values in zip(proposed, judged, strict=True)]
        tokens = torch.tensor(best, device=logits.device)
        return tokens, logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


# --- given responses ---------------------------------------------------------------------------------------------


class Recitation(Session):
    """Session that says given responses; log-probabilities and candidates are those of sampling them.

    Args:
        policy: the policy that speaks.
        n_rows: number of rows.
        plan: the episodes.
        responses: ``[N, T]`` the tokens of each; the other side's, if there are any, are not read.
    """

    def __init__(self, policy: LMPolicy, n_rows: int, plan: EpisodePlan, responses: IntArray) -> None:
        super().__init__(policy.lm, policy.behaviour, n_rows, policy.width, policy.prompt_length, 0)
        self._responses = responses
        self._number = {int(episode): i for i, episode in enumerate(plan.episode)}
        self._said: IntArray = np.zeros(n_rows, np.int64)  # number of the response that each row says

    def begin(self, rows: IntArray, episodes: IntArray) -> None:
        super().begin(rows, episodes)
        self._said[rows] = [self._number[int(episode)] for episode in episodes]

    def _choose(self, logits: Tensor, rows: IntArray, length: IntArray, greedy: BoolArray) -> tuple[Tensor, Tensor]:
        tokens = torch.from_numpy(self._responses[self._said[rows], length]).to(logits.device)
        return tokens, logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


def recite(policy: LMPolicy, mdp: TokenMDP, plan: EpisodePlan, responses: IntArray, seed: int) -> Episodes:
    """Play given responses ``[N, T]``, as if the policy had sampled them, so that the task scores them."""
    return played(mdp, plan, seed, lambda n_rows: Recitation(policy, n_rows, plan, responses))
