"""The optimum of E[R] − β·KL over all policies: exact by enumeration or dynamic programming, or by sampling."""

from textgym.exact.bracket import Bracket, bracket
from textgym.exact.enumeration import Optimum, PolicyValue, optimum
from textgym.exact.markov import Automaton, MarkovOptimum, markov_optimum
from textgym.intervals import Estimate

__all__ = [
    "Automaton",
    "Bracket",
    "Estimate",
    "MarkovOptimum",
    "Optimum",
    "PolicyValue",
    "bracket",
    "markov_optimum",
    "optimum",
]
