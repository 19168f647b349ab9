"""The best that any policy can do: exactly by enumeration or dynamic programming, or bracketed by sampling."""

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
