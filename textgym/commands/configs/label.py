"""Settings of ``textgym label``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from textgym.labelling.settings import PagePart
from textgym.numbers import check, check_words, finite, random_seed


@dataclass(frozen=True, kw_only=True)
class LabelServe(PagePart):
    """Serve a page on this machine, on which people rank completions; answers are in one SQLite file."""

    file: tyro.conf.Positional[Path]
    """Questions: rows with prompt and completions, such as a pipeline's to_label.jsonl or samples.jsonl, or a rankings
    file, whose ranks are ignored; or rows with prompt and completion, which are gathered by prompt."""
    answers: str | None = None
    """Database of the answers, which is made or continued. Default: FILE with the suffix .sqlite."""
    labeller: str | None = None
    """Name of the person. Default: the page asks, so that several people can answer."""
    watch: bool = False
    """Let completions appear word by word, and take feedback by the keys + and −, in place of rankings."""
    rate: float = 3.0
    """Words a second of --watch."""
    seed: int = 0
    """Random seed of the order of completions, and of the shares."""
    host: str = "127.0.0.1"
    """Address to listen at. Others than this machine's own need --network."""
    network: bool = False
    """Let other machines connect. Nothing is encrypted, the token in the address included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "rate", above=0, high=1000)
        check(self, random_seed, "seed")
        check_words(self, "answers", "labeller", "host")


@dataclass(frozen=True)
class LabelExport:
    """Write the answers as a rankings file, which all commands read, or scalar feedback."""

    answers: tyro.conf.Positional[Path]
    """Database of answers."""
    out: Path
    """File to write, JSON Lines."""
    feedback: bool = False
    """Write the feedback of --watch in place of rankings."""


@dataclass(frozen=True)
class LabelReport:
    """Print how good the labels are: agreement between people, with oneself and with gold, and more."""

    answers: tyro.conf.Positional[Path]
    """Database of answers."""
    out: Path | None = None
    """Directory for report.html, with the tables as CSV."""
    json: bool = False
    """Print JSON in place of tables."""


@dataclass(frozen=True)
class LabelConfig:
    """Let people rank completions. 'textgym label FILE' is short for 'textgym label serve FILE'."""

    action: tyro.conf.OmitSubcommandPrefixes[
        Annotated[LabelServe, tyro.conf.subcommand("serve")]
        | Annotated[LabelExport, tyro.conf.subcommand("export")]
        | Annotated[LabelReport, tyro.conf.subcommand("report")]
    ]
