"""Responses to prompts by greedy decoding, sampling, best-of-n or beam search."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import numpy as np

from textgym.agents.loop.evaluation import play
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.env.mdp import TokenMDP, reward_columns
from textgym.numbers import SettingError, check, count
from textgym.rewards.functions import Batch
from textgym.types import BoolArray, Episodes, FloatArray, IntArray, Prompt, as_completion

Kind: TypeAlias = Literal["sample", "greedy", "best-of-n", "beam"]
BEAM = "textgym.lm.beam"
"""Module of beam search, which is imported where it is used."""


@dataclass(frozen=True)
class Decoding:
    """Rule by which a policy writes its responses.

    Attributes:
        kind: ``"sample"`` from the behaviour distribution, ``"greedy"``, ``"best-of-n"`` (the best by the reward of
            ``n`` samples), or ``"beam"`` (the most probable of ``n`` beams).
        n: number of samples of which the best is taken, or of beams; 1 otherwise.
    """

    kind: Kind = "sample"
    n: int = 1

    def __post_init__(self) -> None:
        check(self, count, "n", least=2 if self.kind in ("best-of-n", "beam") else 1)
        if self.kind in ("sample", "greedy") and self.n != 1:
            raise SettingError(
                f"n={self.n} has no meaning for decoding={self.kind!r}; it is for 'best-of-n' and 'beam'"
            )
        if self.kind == "beam" and find_spec(BEAM) is None:
            raise SettingError("decoding='beam' needs beam search, which this version lacks; use 'greedy'")

    @property
    def draws(self) -> bool:
        """True if responses are random, so that several to one prompt differ."""
        return self.kind in ("sample", "best-of-n")


@dataclass(frozen=True)
class Answers:
    """Responses to prompts, ``S`` in a row to each.

    Attributes:
        prompts: ``[N·S]`` the prompt of each response.
        questions: ``[N·S]`` index of the prompt of each, in the token MDP.
        texts: ``[N·S]`` their texts.
        lengths: ``[N·S]`` their tokens, the end token included.
        ended: ``[N·S]`` bool, True if a response ended by itself, False if it was cut off at the horizon.
        scores: ``[N·S]`` the reward.
        components: ``[N·S]`` each component of the reward, by name; NaN where it does not apply.
        episodes: what was sampled, if the responses are samples of the behaviour distribution; otherwise None.
    """

    prompts: Sequence[Prompt]
    questions: IntArray
    texts: Sequence[str]
    lengths: IntArray
    ended: BoolArray
    scores: FloatArray
    components: Mapping[str, FloatArray]
    episodes: Episodes | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def questions_asked(self) -> int:
        """Number of different prompts."""
        return len(set(self.questions.tolist()))

    @property
    def first_rows(self) -> list[int]:
        """The row of the first response to each prompt."""
        return [int(row) for row in np.unique(self.questions, return_index=True)[1]]

    @property
    def keys(self) -> list[int]:
        """What each response counts for in intervals: its question; itself, where all answer the same one."""
        found = [int(question) for question in self.questions]
        return found if len(set(found)) > 1 else list(range(len(found)))


def answer(
    policy: LMPolicy, mdp: TokenMDP, questions: IntArray, samples: int, decoding: Decoding, seed: int
) -> Answers:
    """Write ``samples`` responses to each of the given prompts, and score them.

    Equal seeds give equal random streams, so that two policies are compared on the same prompts and streams.

    Args:
        policy: the policy that writes.
        mdp: the prompts and the reward.
        questions: ``[N]`` indices of its prompts.
        samples: ``S``, number of responses to each; 1 unless they are random.
        decoding: how they are written.
        seed: random seed.
    """
    if decoding.kind == "beam":
        return _of_ids(mdp, questions, _beams(policy, mdp, questions, decoding.n))
    rows = np.repeat(questions, samples * decoding.n)
    episodes = play(policy, mdp, rows, seed, greedy=decoding.kind == "greedy")
    found = answers_of(mdp, episodes)
    if decoding.kind != "best-of-n":
        return found
    best = found.scores.reshape(-1, decoding.n).argmax(1) + decoding.n * np.arange(len(questions) * samples)
    return Answers(
        prompts=[found.prompts[i] for i in best],
        questions=found.questions[best],
        texts=[found.texts[i] for i in best],
        lengths=found.lengths[best],
        ended=found.ended[best],
        scores=found.scores[best],
        components={name: values[best] for name, values in found.components.items()},
    )


def answers_of(mdp: TokenMDP, episodes: Episodes) -> Answers:
    """Return episodes as answers."""
    prompts = [mdp.prompts[int(i)] for i in episodes.prompt_index]
    ids = [row[:n].tolist() for row, n in zip(episodes.actions, episodes.extents, strict=True)]
    return Answers(
        prompts=prompts,
        questions=episodes.prompt_index,
        texts=[mdp.completion(prompt, own) for prompt, own in zip(prompts, ids, strict=True)],
        lengths=episodes.lengths,
        ended=episodes.stopped,
        scores=episodes.rewards.sum(1, dtype=np.float64),
        components={name: np.asarray(values, np.float64) for name, values in episodes.components.items()},
        episodes=episodes,
    )


def _beams(policy: LMPolicy, mdp: TokenMDP, questions: IntArray, beams: int) -> list[tuple[int, ...]]:
    """Return the tokens of the best response to each prompt that beam search finds."""
    module: Any = importlib.import_module(BEAM)
    found = module.beam_search(
        policy.lm,
        [mdp.prompts[int(i)].ids for i in questions],
        policy.behaviour,
        mdp.max_new_tokens,
        module.BeamSearch(beams),
        prompt_length=mdp.max_prompt_length,
        allowed=mdp.allowed,
        stop=mdp.stop,
    )
    return [tuple(finished[0].ids) for finished in found]


def _of_ids(mdp: TokenMDP, questions: IntArray, responses: Sequence[Sequence[int]]) -> Answers:
    """Score responses that were found outside the environment; tasks with a world have none."""
    prompts = [mdp.prompts[int(i)] for i in questions]
    texts = [mdp.completion(prompt, ids) for prompt, ids in zip(prompts, responses, strict=True)]
    ended = np.array([_ends(mdp, ids) for ids in responses], bool)
    reasons: list[Any] = ["stop" if end else "length" for end in ended]
    contents = [prompt.content for prompt in prompts]
    columns = reward_columns(prompts, list(range(len(prompts))), reasons, mdp.columns)
    shown = [as_completion(content, text) for content, text in zip(contents, texts, strict=True)]
    verdicts = mdp.judge(Batch(contents, shown, [list(ids) for ids in responses], columns))
    names = dict.fromkeys(name for verdict in verdicts for name in verdict.info["components"])
    missing = mdp.missing_end_score
    paid = [v.paid if end or missing is None else missing for v, end in zip(verdicts, ended, strict=True)]
    return Answers(
        prompts=prompts,
        questions=questions,
        texts=texts,
        lengths=np.array([len(ids) for ids in responses], np.int64),
        ended=ended,
        scores=np.array(paid, np.float64),
        components={name: np.array([v.info["components"].get(name, np.nan) for v in verdicts]) for name in names},
    )


def _ends(mdp: TokenMDP, ids: Sequence[int]) -> bool:
    return bool(len(ids)) and (ids[-1] in mdp.end_token_ids or (mdp.stop is not None and bool(mdp.stop(ids))))
