"""Overlap of a completion with reference texts: ROUGE, BLEU, chrF, TER, METEOR, exact match and token F1.

Each reads a column of references, which holds a text or several in each row. Formulas are those of the packages that
papers report (rouge-score, sacrebleu, nltk, and SQuAD's script), computed for one completion at a time.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from textgym.numbers import check, check_words, count, finite
from textgym.rewards.text.needs import ReadsColumn, choice, require
from textgym.rewards.text.wordnet import FILES, WordNet

RougeKind: TypeAlias = Literal["1", "2", "L", "Lsum", "Lmax"]
Smoothing: TypeAlias = Literal["exp", "floor", "add-k", "none"]
BleuTokens: TypeAlias = Literal["13a", "intl", "zh", "char", "none"]
"""Tokenizers of sacrebleu that need neither another package nor a download."""


@dataclass(frozen=True)
class _Overlap(ReadsColumn):
    """Base of the metrics against references; subclasses are scored by :meth:`score`."""

    references: str = field(default="references", kw_only=True)
    """Column of the reference texts: a text or a list of texts in each row."""

    def __post_init__(self) -> None:
        check_words(self, "references")

    def column(self) -> str:
        return self.references


@dataclass(frozen=True)
class Rouge(_Overlap):
    """ROUGE F1 of the completion and a reference, in [0, 1]: shared words, word pairs or subsequences.

    ``F1 = 2PR / (P + R)``, where P is the share of the completion's units that the reference has, and R the share of
    the reference's units that the completion has. Units are words (``kind="1"``), word pairs (``"2"``), or the longest
    common subsequence of words (``"L"``), taken line by line and united for ``"Lsum"``. Words are runs of the letters
    a–z and digits in lower case, so texts in other scripts have none.

    With several references the score is the highest F1. ``"Lmax"`` is therefore the same number as ``"L"``, under the
    name that RL4LMs uses (its ``rouge_l_max`` also stems, and reads the first 100 words only). An empty completion
    scores 0.

    Source: Lin 2004, "ROUGE: a package for automatic evaluation of summaries"; computed by rouge-score.
    """

    packages: ClassVar[tuple[str, ...]] = ("rouge-score", "nltk")

    kind: RougeKind = "L"
    """Unit: ``"1"`` words, ``"2"`` word pairs, ``"L"`` and ``"Lmax"`` subsequences, ``"Lsum"`` those of lines."""
    stem: bool = False
    """Compare Porter stems of words longer than three letters."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("kind", self.kind, RougeKind)
        require(self.name, "rouge_score", "rouge-score")

    @property
    def name(self) -> str:
        return f"rouge{self.kind}"

    def score(self, text: str, given: list[str]) -> float:
        kind = "rougeL" if self.kind == "Lmax" else self.name
        return float(_rouge_scorer(kind, self.stem).score_multi(given, text)[kind].fmeasure)


@dataclass(frozen=True)
class Bleu(_Overlap):
    """Smoothed sentence BLEU, in [0, 1]: precision of word n-grams, times a penalty for short texts.

    ``BP · exp(mean over n of log p_n)``, where ``p_n`` is the share of the completion's n-grams that a reference has,
    and ``BP = min(1, exp(1 − r/c))`` for a completion of c tokens and a reference of r. BLEU is a measure of whole
    corpora: without smoothing, one sentence scores 0 unless it shares ``ngrams`` words in a row. By default the k-th
    order without a match counts as ``p_n = 1 / (2ᵏ · number of n-grams)`` (``smooth="exp"``, of NIST's script), and
    orders longer than the completion are left out. This is ``sacrebleu.sentence_bleu(...).score / 100``.

    With several references an n-gram may match any of them, and r is the length that is nearest to c. An empty
    completion, or one without a common word, scores 0.

    Source: Papineni et al. 2002; smoothing: Chen and Cherry 2014, methods 1 to 3; computed by sacrebleu (Post 2018).
    """

    packages: ClassVar[tuple[str, ...]] = ("sacrebleu",)

    smooth: Smoothing = "exp"
    """Treatment of orders without a match: ``"exp"``, ``"floor"`` (0.1 match), ``"add-k"`` (one match more from word
    pairs on), or ``"none"``."""
    ngrams: int = 4
    """Longest n-gram."""
    tokenize: BleuTokens = "13a"
    """Splitting into tokens: ``"13a"`` of mteval, ``"intl"``, ``"zh"``, ``"char"``, or ``"none"`` at white space."""
    lowercase: bool = False
    """Compare texts in lower case."""
    effective_order: bool = True
    """Leave out orders that are longer than the completion, instead of scoring 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("smooth", self.smooth, Smoothing)
        choice("tokenize", self.tokenize, BleuTokens)
        check(self, count, "ngrams")
        require(self.name, "sacrebleu", "sacrebleu")

    @property
    def name(self) -> str:
        return "bleu"

    def score(self, text: str, given: list[str]) -> float:
        metric = _bleu(self.smooth, self.ngrams, self.tokenize, self.lowercase, self.effective_order)
        # A corpus of one text; ``sentence_score`` would warn about the order at every call.
        return _share(metric.corpus_score([text], [[one] for one in given]).score)


@dataclass(frozen=True)
class SacreBleu(Bleu):
    """Corpus BLEU of a corpus that is the completion alone, in [0, 1], as ``evaluate`` and RL4LMs compute it.

    The formula is that of :class:`Bleu` with all ``ngrams`` orders, so a completion of fewer than four tokens scores 0,
    even one that equals its reference. For rewards :class:`Bleu` is the better choice; this one repeats published runs
    (``sacrebleu.corpus_bleu([completion], ...).score / 100``).
    """

    effective_order: bool = False
    """Leave out orders that are longer than the completion, instead of scoring 0."""

    @property
    def name(self) -> str:
        return "sacrebleu"


@dataclass(frozen=True)
class Chrf(_Overlap):
    """chrF of the completion and a reference, in [0, 1]: F2 of character n-grams of 1 to 6 characters.

    ``F2 = 5PR / (4P + R)``, where P and R are mean precision and recall over the orders that both texts have; recall
    counts twice as much. White space is left out. ``word_order=2`` adds words and word pairs, which is chrF++. This is
    ``sacrebleu.sentence_chrf(...).score / 100``.

    With several references the score is the highest. An empty completion scores 0.

    Source: Popović 2015 and 2017 (chrF++); computed by sacrebleu.
    """

    packages: ClassVar[tuple[str, ...]] = ("sacrebleu",)

    word_order: int = 0
    """Longest word n-gram; 0 for characters alone, 2 for chrF++."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, count, "word_order", least=0)
        require(self.name, "sacrebleu", "sacrebleu")

    @property
    def name(self) -> str:
        return "chrf++" if self.word_order == 2 else "chrf"

    def score(self, text: str, given: list[str]) -> float:
        return _share(_chrf(self.word_order).sentence_score(text, given).score)


@dataclass(frozen=True)
class Ter(_Overlap):
    """Minus the translation edit rate, at most 0: edits that turn the completion into a reference, per reference word.

    TER is a cost, so the reward is ``−TER``: 0 for a text that equals a reference. Edits are insertions, deletions and
    substitutions of words and shifts of phrases; letter case counts as equal. This is
    ``−sacrebleu.sentence_ter(...).score / 100``.

    With several references, the fewest edits are divided by the references' mean length. An empty completion scores −1
    (against one reference): every word is missing. That is not the lowest score, as a long text may need more edits
    than the reference has words. Searching for shifts is slow: two unlike texts of 25 words take up to a second, of 100
    words ten. It is a metric of sentences.

    Source: Snover et al. 2006; computed by sacrebleu.
    """

    packages: ClassVar[tuple[str, ...]] = ("sacrebleu",)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.name, "sacrebleu", "sacrebleu")

    @property
    def name(self) -> str:
        return "ter"

    def score(self, text: str, given: list[str]) -> float:
        return -float(_ter().sentence_score(text, given).score) / 100 + 0.0  # + 0.0 makes −0 a plain 0


@dataclass(frozen=True)
class Meteor(_Overlap):
    """METEOR with exact and Porter-stem matches, in [0, 1); with synonyms if ``wordnet`` names a WordNet folder.

    ``(1 − γ · (chunks / m)^β) · PR / (αP + (1 − α)R)`` for m matched words, where P and R are their shares of the
    completion and the reference, and ``chunks`` is the number of runs in which they stand in the same order. Words are
    compared in lower case. A text of n words that equals its reference scores ``1 − γ/n^β``. Published METEOR scores
    use synonyms of WordNet, whose data no package brings along: without ``wordnet`` scores are somewhat lower. nltk
    looks synonyms up by stems, so words whose stem is no word (*purchas*) have none.

    Words are split by nltk's ``NLTKWordTokenizer``, which ``evaluate`` uses within each sentence; a full stop inside a
    text stays at its word, as finding sentences would need data, too. With several references the score is the highest.
    An empty completion, or one without a match, scores 0.

    Source: Banerjee and Lavie 2005 (α = 0.9, β = 3, γ = 0.5); computed by nltk.
    """

    packages: ClassVar[tuple[str, ...]] = ("nltk",)

    alpha: float = 0.9
    """Weight α of recall, from 0 to 1."""
    beta: float = 3.0
    """Exponent β of the penalty for broken order."""
    gamma: float = 0.5
    """Greatest penalty γ for broken order, from 0 to 1."""
    wordnet: str = ""
    """Folder of WordNet's files (``index.noun``, ``data.noun``, ``noun.exc`` …), for synonyms; empty for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "alpha", "gamma", low=0, high=1)
        check(self, finite, "beta", low=0)
        require(self.name, "nltk", "nltk")
        if self.wordnet:
            _require_wordnet(str(self.wordnet))

    @property
    def name(self) -> str:
        return "meteor"

    def score(self, text: str, given: list[str]) -> float:
        from nltk.translate.meteor_score import meteor_score  # takes seconds to import

        split = _word_tokenizer().tokenize
        return float(
            meteor_score(
                [split(one) for one in given],
                split(text),
                wordnet=_wordnet(str(self.wordnet)),
                alpha=self.alpha,
                beta=self.beta,
                gamma=self.gamma,
            )
        )


@dataclass(frozen=True)
class ExactMatch(_Overlap):
    """Exact match of SQuAD: 1 if the completion equals a reference after normalisation, 0 otherwise.

    Normalisation puts a text into lower case and removes ASCII punctuation, the articles *a*, *an* and *the*, and
    repeated white space. With several references one equal reference is enough. An empty completion scores 0, unless a
    reference is empty after normalisation as well.

    Source: Rajpurkar et al. 2016, evaluation script.
    """

    @property
    def name(self) -> str:
        return "exact_match"

    def score(self, text: str, given: list[str]) -> float:
        return float(normalized_answer(text) in map(normalized_answer, given))


@dataclass(frozen=True)
class TokenF1(_Overlap):
    """Token F1 of SQuAD, in [0, 1]: words that completion and reference share, in any order.

    ``2PR / (P + R)`` over the words that remain after the normalisation of :class:`ExactMatch`, repeated words counted.
    If either text has no words left the score is 1 if neither has, and 0 otherwise, as in SQuAD 2.0. With several
    references the score is the highest. An empty completion scores 0, unless a reference has no words either.

    Source: Rajpurkar et al. 2016 and 2018, evaluation script.
    """

    @property
    def name(self) -> str:
        return "token_f1"

    def score(self, text: str, given: list[str]) -> float:
        words = normalized_answer(text).split()
        return max(_f1(words, normalized_answer(one).split()) for one in given)


def normalized_answer(text: str) -> str:
    """Normalise a short answer as SQuAD's script does: lower case, no punctuation, no articles, single spaces."""
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _f1(words: list[str], reference: list[str]) -> float:
    if not words or not reference:
        return float(words == reference)
    common = (Counter(words) & Counter(reference)).total()
    # 2PR / (P + R) with P = common / len(words) and R = common / len(reference)
    return 2 * common / (len(words) + len(reference))


def _share(score: float) -> float:
    """Return a score of sacrebleu, from 0 to 100, as a share; rounding gives a perfect text 100.00000000000004."""
    return min(float(score) / 100, 1.0)


# --- scorers of the packages, made once ----------------------------------------------------------------------------


@cache
def _rouge_scorer(kind: str, stem: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk, which takes seconds

    return RougeScorer([kind], use_stemmer=stem)


@cache
def _bleu(smooth: str, ngrams: int, tokenize: str, lowercase: bool, effective_order: bool) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(
        smooth_method=smooth,
        max_ngram_order=ngrams,
        tokenize=tokenize,
        lowercase=lowercase,
        effective_order=effective_order,
        force=True,  # would only warn of texts that look tokenized
    )


@cache
def _chrf(word_order: int) -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(word_order=word_order)


@cache
def _ter() -> Any:
    from sacrebleu.metrics.ter import TER

    return TER()


@cache
def _word_tokenizer() -> Any:
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()


@cache
def _wordnet(folder: str) -> WordNet:
    return WordNet(Path(folder) if folder else None)


def _require_wordnet(folder: str) -> None:
    if missing := [name for name in FILES if not (Path(folder) / name).is_file()]:
        raise FileNotFoundError(
            f"wordnet={folder!r} lacks {', '.join(missing)}; expected a folder of WordNet's files: /usr/share/wordnet "
            "of the Debian package wordnet-base, the unpacked corpora/wordnet of nltk's data, or Princeton's dict/"
        )
