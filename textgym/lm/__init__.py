"""Everything that touches a transformers model: loading, cached decoding, sampling, scoring."""

from textgym.lm.agreement import SlowActingWarning, check_agreement, make_decoder
from textgym.lm.architecture import make_backbone
from textgym.lm.cache import SlotCache
from textgym.lm.decoding import PrefixDecoder
from textgym.lm.loading import check_fits, frozen_copy, load_causal_lm, load_lm
from textgym.lm.sampling import Sampling, draw, restrict
from textgym.lm.scoring import TokenScores, Trunk, score_responses

__all__ = [
    "PrefixDecoder",
    "Sampling",
    "SlotCache",
    "SlowActingWarning",
    "TokenScores",
    "Trunk",
    "check_agreement",
    "check_fits",
    "draw",
    "frozen_copy",
    "load_causal_lm",
    "load_lm",
    "make_backbone",
    "make_decoder",
    "restrict",
    "score_responses",
]
