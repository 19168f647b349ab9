"""Choosing among utterances that are proposed anew in each turn, as a world whose turns are numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from textgym.types import Completion, Prompt
from textgym.worlds.world import KnownWorld, Outcome, State


@dataclass(frozen=True)
class Offer:
    """State of a :class:`Menu`.

    Attributes:
        inner: the state of the world that is played.
        utterances: those that the policy chooses from, in the order of their numbers; empty after the end.
    """

    inner: State
    utterances: tuple[str, ...]


@dataclass(frozen=True)
class Menu(KnownWorld):
    """Known world in which the policy's turn is the number of an utterance, which then is played in another world.

    Each of the ``k`` utterances of an offer is drawn from a list, all with equal chance and independently of the
    others. A reply shows the next offer (Cohen 2022, arXiv 2208.02294: dynamic planning over candidate utterances). The
    first offer stands in the prompt, so that it is part of the data: its column ``offer`` holds the utterances. A turn
    that is no number of the offer is played as it stands.

    Attributes:
        world: the world that is played; its replies are texts.
        utterances: the list.
    """

    world: KnownWorld
    utterances: tuple[str, ...]

    @property
    def role(self) -> str:  # type: ignore[override]  # that of the other world
        """Role of the world's messages."""
        return self.world.role

    def start(self, prompt: Prompt) -> Offer:
        return Offer(self.world.start(prompt), tuple(prompt.columns["offer"]))

    def outcomes(self, state: Offer, turn: Completion) -> list[Outcome]:
        utterance = Completion(chosen(turn.text, state.utterances), turn.ids, turn.finish_reason)
        offers = list(product(self.utterances, repeat=len(state.utterances)))
        found: list[Outcome] = []
        for chance, inner, reply in self.world.outcomes(state.inner, utterance):
            if reply.done:
                found.append((chance, Offer(inner, ()), reply))
            else:
                found += [
                    (chance / len(offers), Offer(inner, one), reply._replace(says=f"{reply.says} {numbered(one)}"))
                    for one in offers
                ]
        return found


def numbered(utterances: Sequence[str]) -> str:
    """Return the text of an offer.

    >>> numbered(["a fact", "a joke"])
    '1 a fact 2 a joke'
    """
    return " ".join(f"{number} {utterance}" for number, utterance in enumerate(utterances, start=1))


def chosen(turn: str, utterances: Sequence[str]) -> str:
    """Return the utterance whose number a turn is; a turn that is no number of the offer itself.

    >>> chosen(" 2", ["a fact", "a joke"])
    'a joke'
    """
    by_number = {str(number): utterance for number, utterance in enumerate(utterances, start=1)}
    return by_number.get(turn.strip(), turn)
