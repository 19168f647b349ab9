"""Settings of the labelling page. They need none of the packages that serve it."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from dataclasses import dataclass

from textgym.numbers import check, count, finite, random_seed

LONGEST_NAME = 100  # of a labeller, in characters


@dataclass(frozen=True, kw_only=True)
class PagePart:
    """Page for people, as 'textgym label' serves it."""

    shared: float = 0.0
    """Share of the questions that every person gets; the others go to one person each. Where a command waits for
    answers, the first person's is enough."""
    repeat: float = 0.0
    """Share of the questions that a person gets a second time, some answers later. No command waits for that."""
    axes: tuple[str, ...] = ()
    """Yes-or-no flags of each completion, such as 'helpful true harmless'."""
    scores: bool = False
    """Ask for an overall score of each completion, from 1 to 7 (Ouyang 2022)."""
    port: int = 0
    """Port to listen at. Default: a free one."""

    def __post_init__(self) -> None:
        check(self, finite, "shared", "repeat", low=0, high=1)
        check(self, count, "port", least=0, most=65535)
        if twice := [axis for axis in self.axes if not axis.strip() or self.axes.count(axis) > 1]:
            raise ValueError(f"axes={self.axes!r:.200}; expected different names, got {twice[0]!r} blank or twice")


@dataclass(frozen=True, kw_only=True)
class PageSettings(PagePart):
    """Settings of the labelling page.

    Attributes:
        shared: share of the questions that every labeller gets.
        repeat: share of the questions that a person gets a second time.
        axes: names of yes-or-no flags that each completion gets.
        scores: ask for an overall score of each completion, from 1 to 7.
        port: port to listen at; 0 for a free one.
        labeller: name of the person; None lets the page ask, so that several can answer.
        seed: random seed of orders and shares.
        watch: None to rank; otherwise completions appear word by word, this many words a second, and get feedback.
        host: address to listen at; another one than this machine's own needs ``network``.
        network: allow other machines to connect. What they send is not encrypted.

    Raises:
        ValueError: a value has no meaning.
    """

    labeller: str | None = None
    seed: int = 0
    watch: float | None = None
    host: str = "127.0.0.1"
    network: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, random_seed, "seed")
        if self.labeller is not None:
            check_name(self.labeller)
        if self.watch is not None:
            check(self, finite, "watch", above=0, high=1000)
        if not self.network and not _is_loopback(self.host):
            raise ValueError(
                f"host={self.host!r} lets other machines connect, unencrypted; expected 127.0.0.1, or also set network"
            )


def check_name(labeller: str) -> None:
    """Raise ValueError unless a labeller's name is printable and not too long."""
    if not labeller.strip() or len(labeller) > LONGEST_NAME or not labeller.isprintable():
        raise ValueError(f"labeller={labeller!r:.200}; expected a name of 1 to {LONGEST_NAME} printable characters")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
