"""The optimum of E[R] − β·KL over all policies, and the expected gradients of losses: exact, or by sampling."""

from textgym.exact.bracket import Bracket, bracket
from textgym.exact.enumeration import Optimum, PolicyValue, optimum
from textgym.exact.front import ParetoFront, pareto_front
from textgym.exact.gradients import (
    Alignment,
    expected_gradient,
    gradient_alignment,
    gradient_noise,
    objective_gradient,
)
from textgym.exact.markov import Automaton, MarkovOptimum, markov_optimum
from textgym.intervals import Estimate

__all__ = [
    "Alignment",
    "Automaton",
    "Bracket",
    "Estimate",
    "MarkovOptimum",
    "Optimum",
    "ParetoFront",
    "PolicyValue",
    "bracket",
    "expected_gradient",
    "gradient_alignment",
    "gradient_noise",
    "markov_optimum",
    "objective_gradient",
    "optimum",
    "pareto_front",
]
