"""Which rules of a grammar its texts can come to."""

import re

from textgym.tasks.grammar import Grammar


def reachable(grammar: Grammar, *starts: str) -> set[str]:
    """Return the symbols that derivations of ``starts`` use, themselves included."""
    reached: set[str] = set()
    waiting = set(starts)
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= {symbol for text in grammar.rules[name] for symbol in re.findall(r"\{(.*?)\}", text)} - reached
    return reached
