"""Beam search on the cached path: the most probable responses, rather than sampled ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from transformers import PreTrainedModel

from textgym.lm.agreement import make_decoder
from textgym.lm.behaviour import Behaviour
from textgym.lm.decoding import Decoder
from textgym.numbers import check, count, finite
from textgym.types import BoolArray, FloatArray, IntArray, MaskArray

ROWS = 64
"""Number of beams, of all prompts together, that are decoded at once."""

Allowed: TypeAlias = Callable[[IntArray, MaskArray], BoolArray]
"""``allowed(input_ids [n, P+T], attention_mask [n, P+T]) -> [n, V]``: True for tokens that may come next."""
Stop: TypeAlias = Callable[[Sequence[int]], bool]
"""``stop(response_ids)``: True if the response ends here, in addition to end tokens and the horizon."""


@dataclass(frozen=True)
class BeamSearch:
    """Settings of beam search; the defaults are those of ``transformers``, but for the number of beams."""

    beams: int = 4
    """Number of unfinished responses that are kept at each step, and of finished ones in the end."""
    length_penalty: float = 1.0
    """Exponent of a response's length, by which its log-probability is divided: above 0 longer responses gain, below 0
    shorter ones; 0 compares the log-probabilities themselves. From -10 to 10."""
    early_stopping: bool | Literal["never"] = False
    """When a prompt is done, once ``beams`` responses are finished: True at once; False when the best unfinished one,
    at its present length, does not score above the worst finished one; "never" when it cannot do so at any length
    (exact for a penalty of at least 0)."""

    def __post_init__(self) -> None:
        check(self, count, "beams")
        check(self, finite, "length_penalty", low=-10, high=10)
        if not (isinstance(self.early_stopping, bool) or self.early_stopping == "never"):
            raise ValueError(f"early_stopping={self.early_stopping!r}; expected True, False or 'never'")

    def score(self, log_prob: float, length: int) -> float:
        """Return the score of a response of ``length`` tokens, the end token included."""
        return float(log_prob / length**self.length_penalty)


class Hypothesis(NamedTuple):
    """Finished response.

    Attributes:
        ids: its tokens, the end token included.
        log_prob: sum of their log-probabilities under the behaviour distribution.
        score: ``log_prob / len(ids) ** length_penalty``.
    """

    ids: tuple[int, ...]
    log_prob: float
    score: float


class Beam(NamedTuple):
    """Unfinished response.

    Attributes:
        ids: its tokens.
        log_prob: sum of their log-probabilities.
        row: its row in the decoder.
        source: the row of the beam that it grew out of.
    """

    ids: tuple[int, ...]
    log_prob: float
    row: int
    source: int


@dataclass(frozen=True)
class Search:
    """State of one prompt's search.

    Attributes:
        running: at most ``beams`` unfinished responses, the most probable first.
        finished: at most ``beams`` finished responses, the best first.
    """

    running: tuple[Beam, ...]
    finished: tuple[Hypothesis, ...] = ()


# --- one step of one prompt --------------------------------------------------------------------------------------


def candidates(running: Sequence[Beam], log_probs: FloatArray, tokens: IntArray, most: int) -> list[Beam]:
    """Return the ``most`` most probable continuations of beams by one token, the most probable first.

    They stand in their sources' rows, until :func:`advance` gives rows to those that go on.

    Args:
        running: ``n`` beams.
        log_probs: ``[n, M]`` of the M most probable tokens of each; -inf for tokens that are excluded.
        tokens: ``[n, M]`` their ids.
        most: maximum number of candidates, at most M unless M is all of the vocabulary.
    """
    total = (np.array([beam.log_prob for beam in running])[:, None] + log_probs).ravel()
    best = np.argsort(-total, kind="stable")[:most]  # of equals the better beam's, so that a repetition gives the same
    width = log_probs.shape[1]
    return [
        Beam((*(beam := running[at // width]).ids, int(tokens.flat[at])), float(total[at]), beam.row, beam.row)
        for at in best.tolist()
        if total[at] > -np.inf
    ]


def advance(search: Search, found: Sequence[Beam], ends: Stop, settings: BeamSearch, rows: range) -> Search:
    """Return the state after one step.

    Of the first ``beams`` candidates, those that end are finished; the first ``beams`` candidates that do not end go
    on. So a response is finished only while it is among the ``beams`` most probable ones, as in ``transformers``.

    Args:
        search: the state before.
        found: the candidates, the most probable first.
        ends: whether a response ends.
        settings: the settings.
        rows: the rows of this prompt.
    """
    ended = [ends(each.ids) for each in found]
    finished = [
        Hypothesis(each.ids, each.log_prob, settings.score(each.log_prob, len(each.ids)))
        for each, is_end in zip(found[: settings.beams], ended, strict=False)
        if is_end
    ]
    best = sorted((*search.finished, *finished), key=lambda each: -each.score)[: settings.beams]
    going = [each for each, is_end in zip(found, ended, strict=True) if not is_end][: settings.beams]
    placed = place([each.source for each in going], rows)
    return Search(tuple(each._replace(row=row) for each, row in zip(going, placed, strict=True)), tuple(best))


def place(sources: Sequence[int], rows: range) -> list[int]:
    """Return a row for each beam: the first of a source stays in its row, where nothing needs to be copied."""
    free = iter(sorted(set(rows) - set(sources)))
    return [source if source not in sources[:i] else next(free) for i, source in enumerate(sources)]


def is_done(search: Search, settings: BeamSearch, horizon: int) -> bool:
    """Return True if the finished responses are the result; see :attr:`BeamSearch.early_stopping`."""
    if not search.running:
        return True
    if len(search.finished) < settings.beams:
        return False
    if settings.early_stopping is True:
        return True
    best = search.running[0]
    # The log-probability can only fall. Divided by the largest possible divisor, it is the best score ahead.
    furthest = settings.early_stopping == "never" and settings.length_penalty > 0
    return settings.score(best.log_prob, horizon if furthest else len(best.ids)) <= search.finished[-1].score


# --- many prompts ------------------------------------------------------------------------------------------------


@dataclass
class Board:
    """Observations of all rows, in the layout of the environment: prompts end in column P, responses begin there."""

    n_rows: int
    prompt_length: int
    horizon: int
    input_ids: IntArray = field(init=False)
    attention_mask: MaskArray = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.n_rows, self.prompt_length + self.horizon)
        self.input_ids = np.zeros(shape, np.int64)
        self.attention_mask = np.zeros(shape, np.int8)

    def begin(self, row: int, prompt: Sequence[int]) -> None:
        """Write a prompt into a row."""
        self.input_ids[row], self.attention_mask[row] = 0, 0
        self.input_ids[row, self.prompt_length - len(prompt) : self.prompt_length] = prompt
        self.attention_mask[row, self.prompt_length - len(prompt) : self.prompt_length] = 1

    def grow(self, beams: Sequence[Beam]) -> None:
        """Show in the row of each beam what its source showed, and its last token."""
        rows, sources = rows_of(beams)
        columns = [self.prompt_length + len(beam.ids) - 1 for beam in beams]
        for array in (self.input_ids, self.attention_mask):
            array[rows] = array[sources]
        self.input_ids[rows, columns] = [beam.ids[-1] for beam in beams]
        self.attention_mask[rows, columns] = 1


def rows_of(beams: Sequence[Beam]) -> tuple[IntArray, IntArray]:
    """Return the rows of beams and those of their sources, ``[n]`` each."""
    return np.array([beam.row for beam in beams], np.int64), np.array([beam.source for beam in beams], np.int64)


@dataclass(frozen=True)
class Player:
    """The behaviour distribution of a model, in the rows of a board.

    Attributes:
        board: the observations.
        decoder: the model's.
        behaviour: the distribution.
        mask_decoder: that of NLPO's mask; None without one.
        allowed: the task's mask; None for all tokens.
    """

    board: Board
    decoder: Decoder
    behaviour: Behaviour
    mask_decoder: Decoder | None
    allowed: Allowed | None

    def best(self, beams: Sequence[Beam], most: int) -> tuple[FloatArray, IntArray]:
        """Return log-probabilities and ids of the most probable next tokens of each beam, ``[n, min(most, V)]`` each.

        Raises:
            ValueError: the model's logits are NaN.
        """
        rows, _ = rows_of(beams)
        ids, mask = self.board.input_ids, self.board.attention_mask
        raw = self.decoder.logits(ids, mask, rows)
        logits = self.behaviour.logits(
            raw,
            torch.tensor([len(beam.ids) for beam in beams], device=raw.device),
            None if self.allowed is None else torch.from_numpy(self.allowed(ids[rows], mask[rows])).to(raw.device),
            None if self.mask_decoder is None else self.mask_decoder.logits(ids, mask, rows),
        )
        top = logits.topk(min(most, logits.shape[1]))
        log_probs = top.values.double() - logits.logsumexp(-1, keepdim=True).double()
        if log_probs.isnan().any():
            raise ValueError("the model's logits are NaN; if training has diverged, lower the learning rate")
        return log_probs.cpu().numpy(), top.indices.cpu().numpy()

    def grow(self, beams: Sequence[Beam]) -> None:
        """Show the beams, which each grew by one token."""
        for decoder in (self.decoder, self.mask_decoder):
            if decoder is not None:
                decoder.branch(*rows_of(beams))
        self.board.grow(beams)


@torch.inference_mode()
def beam_search(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    behaviour: Behaviour,
    max_new_tokens: int,
    settings: BeamSearch | None = None,
    *,
    prompt_length: int | None = None,
    allowed: Allowed | None = None,
    stop: Stop | None = None,
    n_rows: int = ROWS,
) -> list[tuple[Hypothesis, ...]]:
    """Search for the most probable responses to prompts.

    The algorithm is that of ``generate(num_beams=…)`` in transformers 5, over the log-probabilities of the
    **behaviour** distribution, from which the policy samples and under which it is trained: after temperature, minimum
    length and masks it is normalised again. ``generate`` normalises again only with ``renormalize_logits=True``. Where
    neither is set, the two agree without it.

    A response y of n tokens, its end token included, scores

        log p(y|x) / n^length_penalty

    Prompts of any length are searched side by side with one cache. A prompt that is done leaves the batch, and the next
    one takes its rows. A prompt is read once, whatever the number of beams; after each step the cached rows of beams
    that did not survive are overwritten by those of beams that did twice.

    Args:
        model: a causal or encoder–decoder model.
        prompts: ``N`` prompts, token ids.
        behaviour: the distribution: number of actions, end tokens, temperature, minimum length, top-k, top-p and NLPO's
            mask.
        max_new_tokens: ``T``; a response that reaches it is finished.
        settings: the settings; None for the defaults.
        prompt_length: ``P``; None for the length of the longest prompt.
        allowed: the task's own mask; None for all tokens.
        stop: the task's own rule of where a response ends; None without one.
        n_rows: beams that are decoded at once; at least one prompt's are.

    Returns:
        For each prompt its finished responses, the best first: ``beams`` of them, or fewer if there are not so many.

    Raises:
        ValueError: a prompt is empty or too long, the model cannot be decoded, or its logits are NaN.
    """
    settings = BeamSearch() if settings is None else settings
    horizon, n_rows = count("max_new_tokens", max_new_tokens), count("n_rows", n_rows)
    longest = max((len(prompt) for prompt in prompts), default=1)
    width = longest if prompt_length is None else count("prompt_length", prompt_length)
    for i, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= width:
            raise ValueError(f"prompts[{i}] has {len(prompt)} tokens; expected 1 to prompt_length={width}")
    lanes = max(1, min(n_rows // settings.beams, len(prompts)))
    board = Board(lanes * settings.beams, width, horizon)
    models = (model, None if behaviour.mask is None else behaviour.mask.model)
    decoder, mask_decoder = (
        None if each is None else make_decoder(each, board.n_rows, width + horizon, width) for each in models
    )
    assert decoder is not None
    player = Player(board, decoder, behaviour, mask_decoder, allowed)

    def ends(ids: Sequence[int]) -> bool:
        return ids[-1] in behaviour.end_ids or len(ids) >= horizon or (stop is not None and bool(stop(list(ids))))

    found: list[tuple[Hypothesis, ...]] = [()] * len(prompts)
    for number, finished in _searched(player, prompts, ends, settings):
        found[number] = finished
    return found


def _searched(
    player: Player, prompts: Sequence[Sequence[int]], ends: Stop, settings: BeamSearch
) -> Iterator[tuple[int, tuple[Hypothesis, ...]]]:
    """Yield the number and the finished responses of each prompt, as they become done."""
    board = player.board
    # So many that ``beams`` of them go on even if every beam's best continuations are its end tokens.
    most = max(2, 1 + len(player.behaviour.end_ids)) * settings.beams
    waiting = iter(enumerate(prompts))
    idle = [range(start, start + settings.beams) for start in range(0, board.n_rows, settings.beams)]
    playing: list[tuple[int, range, Search]] = []
    while True:
        for number, prompt in islice(waiting, len(idle)):
            rows = idle.pop()
            board.begin(rows.start, prompt)
            playing.append((number, rows, Search((Beam((), 0.0, rows.start, rows.start),))))
        if not playing:
            return
        log_probs, tokens = player.best([beam for _, _, search in playing for beam in search.running], most)
        before, playing, start = playing, [], 0
        for number, rows, search in before:
            part = slice(start, start + len(search.running))
            start = part.stop
            after = advance(
                search, candidates(search.running, log_probs[part], tokens[part], most), ends, settings, rows
            )
            if is_done(after, settings, board.horizon):
                idle.append(rows)
                yield number, after.finished
            else:
                playing.append((number, rows, after))
        player.grow([beam for _, _, search in playing for beam in search.running])
