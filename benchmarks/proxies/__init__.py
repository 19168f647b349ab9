"""Proxy rewards of experiments on over-optimisation, and training against them."""

from functools import partial
from typing import TYPE_CHECKING

from textgym.moved import find_moved

if not TYPE_CHECKING:  # a type checker must not take every name for one of this module
    __getattr__ = partial(find_moved, __name__)
