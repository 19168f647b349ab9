"""Runs: a directory with configuration, metrics, samples, evaluation, checkpoint and report.

The names are listed in ``__init__.pyi``; each is imported on first use, so that a directory can be checked before torch
is loaded.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
