"""Rewards: functions and models that score text, their composition and training, and the KL divergence.

The names are listed in ``__init__.pyi``; each is imported on first use.
"""

import lazy_loader

if __name__ != "textgym.rewards":
    raise ImportError("import this package as textgym.rewards: under its bare name every class would exist twice")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
