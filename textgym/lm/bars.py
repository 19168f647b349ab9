"""Silencing what transformers shows beside its work: progress bars, also where that takes milliseconds, and reports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
from transformers.utils import logging


@contextmanager
def without_bars(source: str | Path | None = None) -> Iterator[None]:
    """Inside, transformers shows no bars; afterwards all is as the caller had it.

    Args:
        source: what is loaded; nothing is silenced for what is no directory here, as a download may take long.
    """
    if not logging.is_progress_bar_enabled() or (source is not None and not Path(source).is_dir()):
        yield
        return
    hub_silent = are_progress_bars_disabled()  # transformers' switch also turns the hub's
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
        if hub_silent:
            disable_progress_bars()


@contextmanager
def without_reports() -> Iterator[None]:
    """Inside, transformers does not tell which weights a file lacks; for what is given these weights afterwards."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
