"""Dense rewards made of sparse ones: per sentence, and by a potential.

Both pay within a response, at tokens of the policy. They read the tokens of a single turn, so that they cannot be used
in a task with a world. The environment gives them its tokenizer, by ``bind``.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Self

from textgym.numbers import shown
from textgym.rewards.combination import bound, evaluate, required_columns_of, summed
from textgym.rewards.functions import Batch, LazyList, Reward, check_signature, compared, reward_name
from textgym.tokenization import decode_response
from textgym.types import Prompt, as_completion, completion_text

SENTENCE_END = r"[.!?]+[\"'”’)\]]*(?=\s|$)|\n+"
"""Ends of sentences: stops, with quotes and brackets after them, before a space or the end; and line breaks."""


@dataclass(frozen=True)
class _Dense:
    """Base class of both: a dense reward that calls another one.

    Attributes:
        reward: the reward that is called.
        tokenizer: the task's; :meth:`bind` sets it.
    """

    reward: Reward
    tokenizer: Any = None
    single_turn: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_signature(self.reward)
        if compared(self.reward) is not None:
            raise ValueError(
                f"the reward {reward_name(self.reward)!r} compares whole responses with each other; "
                f"{type(self).__name__} needs one that scores a text by itself"
            )

    @property
    def required_columns(self) -> tuple[str, ...]:
        """Columns that the reward requires."""
        return required_columns_of([self.reward])

    def check_lengths(
        self, prompts: Sequence[Prompt], max_new_tokens: int, end_token_ids: Sequence[int], stops: bool
    ) -> None:
        """Check that the reward can read texts as long as whole responses."""
        given: Any = self.reward
        if hasattr(given, "check_lengths"):
            given.check_lengths(prompts, max_new_tokens, end_token_ids, stops)

    def bind(self, tokenizer: Any) -> Self:
        """Return a copy that reads tokens by the policy's tokenizer; the reward is bound, too."""
        return replace(self, reward=bound(self.reward, tokenizer), tokenizer=tokenizer)

    def _check_bound(self) -> None:
        if self.tokenizer is None:
            raise ValueError(
                f"{type(self).__name__} has no tokenizer to find the text of tokens; call bind(tokenizer), as "
                "environments do"
            )

    def _score(self, batch: Batch) -> list[float | None]:
        return [summed(score) for score in evaluate([self.reward], batch).scores[0]]


@dataclass(frozen=True)
class PerSentence(_Dense):
    """Score every sentence by itself, and pay each score at its sentence's last token: a dense reward.

        r_t = Σ_j R(prompt, sentence_j) · 1[t is the last token of sentence_j]

    The reward is called once, with the sentences of all responses as completions and their tokens as
    ``completion_ids``; columns are those of the response. A sentence ends with a match of ``ends``, the last one with
    the response; one of white space alone is none. Its last token is the one with which the decoded response first
    holds all of it. A sentence that the reward does not apply to pays 0. An empty completion pays 0. Sums grow with the
    number of sentences.

    Source: Wu 2023 (fine-grained RLHF, arXiv 2306.01693), which pays rewards at the ends of segments, among them
    sentences.

    Attributes:
        ends: regular expression of what ends a sentence.
    """

    ends: str = SENTENCE_END

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            re.compile(self.ends)
        except (re.error, TypeError) as error:
            raise ValueError(f"ends={shown(self.ends)}; expected a regular expression ({error})") from None

    @property
    def name(self) -> str:
        """``NAME_per_sentence``."""
        return f"{reward_name(self.reward)}_per_sentence"

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        *,
        completion_ids: list[list[int]],
        prompt_ids: list[list[int]],
        **columns: list[Any],
    ) -> list[list[float]]:
        """Return ``N`` lists of one number for each token."""
        self._check_bound()
        rows, texts, pieces, last = [], [], [], []
        for row, ids in enumerate(completion_ids):
            text, begun, said = completion_text(completions[row]), 0, 0
            sentences = sentences_of(text, self.ends)
            places = last_tokens(self.tokenizer, prompt_ids[row], ids, text, [stop for _, stop in sentences])
            for (start, stop), place in zip(sentences, places, strict=True):
                rows.append(row)
                # What follows a text begins with its own white space, a message does not.
                texts.append(as_completion(prompts[row], text[said if isinstance(prompts[row], str) else start : stop]))
                pieces.append(list(ids[begun : place + 1]) or [ids[place]])
                last.append(place)
                begun, said = place + 1, stop
        dense = [[0.0] * len(ids) for ids in completion_ids]
        if rows:
            own = {
                name: [values[row] for row in rows] for name, values in {**columns, "prompt_ids": prompt_ids}.items()
            }
            scores = self._score(Batch([prompts[row] for row in rows], texts, pieces, own))
            for row, place, score in zip(rows, last, scores, strict=True):
                dense[row][place] += 0.0 if score is None else score
        return dense


def sentences_of(text: str, ends: str = SENTENCE_END) -> list[tuple[int, int]]:
    """Return begin and end of each sentence of a text, without the white space around it."""
    cuts = [0, *(found.end() for found in re.finditer(ends, text) if found.end()), len(text)]
    found = []
    for start, stop in pairwise(cuts):
        piece = text[start:stop]
        if piece.strip():
            begin = start + len(piece) - len(piece.lstrip())
            found.append((begin, begin + len(piece.strip())))
    return found


def last_tokens(
    tokenizer: Any, prompt_ids: Sequence[int], ids: Sequence[int], text: str, stops: Sequence[int]
) -> list[int]:
    """Return for each position in a response's text the first token with which all text before it is written.

    Args:
        tokenizer: the tokenizer.
        prompt_ids: the prompt's tokens.
        ids: the response's tokens.
        text: the response's text.
        stops: positions in it.

    Raises:
        ValueError: the tokens do not decode to the text.
    """
    if not stops:
        return []
    # Rewards may receive the text without special tokens; the full decoding shows which of the two it is.
    for skips in (False, True):

        def begins(n: int, stop: int, skips: bool = skips) -> bool:
            return decode_response(tokenizer, prompt_ids, ids[:n], (), skips).startswith(text[:stop])

        if begins(len(ids), len(text.rstrip())):
            # Once the beginning of the text is written, further tokens do not change it: so the condition is monotone.
            return [bisect.bisect_left(range(1, len(ids)), True, key=partial(begins, stop=stop)) for stop in stops]
    raise ValueError(
        f"the {len(ids)} tokens of a response do not decode to its text, {text[:80]!r}; sentences are found in "
        "responses of a single turn, by the tokenizer that decoded them"
    )


@dataclass(frozen=True)
class PotentialShaping(_Dense):
    """Pay the change of a potential at every token, which leaves the optimal policy as it is.

        F_t = Φ(s_{t+1}) − Φ(s_t),  Φ(end) = 0,  so that Σ_t F_t = −Φ(s_0)

    s_t is the prompt with the first t tokens of the response, and γ is 1, as everywhere in textgym. The sum over a
    response depends on the prompt alone: every policy gains −E[Φ(s_0)], and so do π* and its value J*; what changes is
    when a response is paid. A constant for each token is no such reward: it moves π*. Every response ends, by an end
    token or at the horizon, so Φ(end) = 0 holds for all of them.

    Use it in a weighted sum with the task's reward: ``compose([task_reward, PotentialShaping(progress)])``; a product
    or a limit of the sum would undo it. A task whose ``missing_end_score`` keeps some responses from the reward refuses
    it.

    Source: Ng, Harada and Russell 1999, Policy invariance under reward transformations (ICML).

    Attributes:
        reward: the potential Φ, under the signature of a reward. It is called once, with every s_t of all responses, of
            t = 0 … T − 1: ``completions`` holds the text of the tokens so far, ``completion_ids`` the tokens. A dense
            score counts as its sum, None as 0. ``finish_reason`` is None.
    """

    every_response: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """``NAME_shaping``."""
        return f"{reward_name(self.reward)}_shaping"

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        *,
        completion_ids: list[list[int]],
        prompt_ids: list[list[int]],
        **columns: list[Any],
    ) -> list[list[float]]:
        """Return ``N`` lists of one number for each token."""
        self._check_bound()
        states = [(row, t) for row, ids in enumerate(completion_ids) for t in range(len(ids))]
        if not states:
            return [[] for _ in completion_ids]

        def text(i: int) -> Any:
            row, t = states[i]
            begun = decode_response(self.tokenizer, prompt_ids[row], completion_ids[row][:t], ())
            return as_completion(prompts[row], begun)

        known = {name: values for name, values in columns.items() if name != "finish_reason"}
        known["prompt_ids"] = prompt_ids
        own = {name: [values[row] for row, _ in states] for name, values in known.items()}
        own["finish_reason"] = [None] * len(states)
        prefixes = [list(completion_ids[row][:t]) for row, t in states]
        # Decoded only if the potential reads texts: there are as many states as tokens.
        found = self._score(Batch([prompts[row] for row, _ in states], LazyList(len(states), text), prefixes, own))
        potentials = iter([0.0 if score is None else score for score in found])
        return [differences([next(potentials) for _ in ids]) for ids in completion_ids]


def differences(potentials: Sequence[float]) -> list[float]:
    """Return Φ(s_{t+1}) − Φ(s_t) of each token, given Φ(s_0) … Φ(s_{T−1}); Φ is 0 after the last one."""
    return [after - before for before, after in zip(potentials, [*potentials[1:], 0.0], strict=True)]
