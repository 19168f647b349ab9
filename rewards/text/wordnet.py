"""Synonyms from the files of WordNet, for METEOR.

nltk's own reader takes WordNet only from nltk's data folders and needs files that some distributions of WordNet leave
out. This one reads what synonyms need, from any folder: the format is that of wndb(5WN), and words are brought to their
base forms as morphy(7WN) says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = {
    "noun": "s: ses:s ves:f xes:x zes:z ches:ch shes:sh men:man ies:y",
    "verb": "s: ies:y es:e es: ed:e ed: ing:e ing:",
    "adj": "er: est: er:e est:e",
    "adv": "",
}
"""Endings of each part of speech, and what stands in their place in the base form."""

FILES = tuple(f"{kind}.{part}" for part in SUFFIXES for kind in ("index", "data")) + tuple(f"{p}.exc" for p in SUFFIXES)


@dataclass(frozen=True)
class Lemma:
    """A word of a synset, in nltk's interface."""

    word: str

    def name(self) -> str:
        """Return the word."""
        return self.word


@dataclass(frozen=True)
class Synset:
    """Words with one meaning, in nltk's interface."""

    words: tuple[str, ...]

    def lemmas(self) -> list[Lemma]:
        """Return the words."""
        return [Lemma(word) for word in self.words]


class WordNet:
    """A WordNet in memory, as nltk's ``meteor_score`` uses it.

    Args:
        folder: holds the files of :data:`FILES`; None for a WordNet without a word.
    """

    def __init__(self, folder: Path | None) -> None:
        self.parts = [] if folder is None else [_Part(folder, part) for part in SUFFIXES]

    def synsets(self, word: str) -> list[Synset]:
        """Return the synsets of a word and of its base forms."""
        return [synset for part in self.parts for synset in part.synsets(word.lower())]


class _Part:
    """One part of speech."""

    def __init__(self, folder: Path, part: str) -> None:
        self.endings = [tuple(pair.split(":")) for pair in SUFFIXES[part].split()]
        self.exceptions = {words[0]: words[1:] for words in map(str.split, _lines(folder / f"{part}.exc"))}
        self.meanings = dict(_meanings(_lines(folder / f"index.{part}")))
        self.words = dict(_words(_lines(folder / f"data.{part}")))

    def synsets(self, word: str) -> Iterator[Synset]:
        ruled = [word[: -len(old)] + new for old, new in self.endings if word.endswith(old)]
        for form in dict.fromkeys([word, *self.exceptions.get(word, ruled)]):
            for place in self.meanings.get(form, ()):
                yield Synset(self.words[place])


def _lines(path: Path) -> list[str]:
    # The licence at the head of each file is indented.
    return [line for line in path.read_text("utf-8").splitlines() if line.strip() and not line.startswith(" ")]


def _meanings(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Read ``lemma pos synset_cnt … synset_offset …`` of an index file."""
    for line in lines:
        fields = line.split()
        yield fields[0], fields[-int(fields[2]) :]


def _words(lines: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Read ``synset_offset lex_filenum ss_type w_cnt word lex_id …`` of a data file; w_cnt is hexadecimal."""
    for line in lines:
        fields = line.split(" ", 4)
        words = fields[4].split(" ", 2 * int(fields[3], 16))[: 2 * int(fields[3], 16) : 2]
        yield fields[0], tuple(re.sub(r"\(\w+\)$", "", word) for word in words)  # beautiful(p): where it may stand
