"""Runs: a directory with configuration, metrics, samples, evaluation, checkpoint and report.

The names are listed in ``__init__.pyi``; each is imported when it is first asked for, so that a directory is checked
before torch is loaded.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
