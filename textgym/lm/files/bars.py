"""Silencing of transformers' progress bars, which it shows even for loads of milliseconds, and of its load reports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
from transformers.utils import logging


@contextmanager
def without_bars(source: str | Path | None = None) -> Iterator[None]:
    """Hide transformers' progress bars while the block runs.

    Args:
        source: the source that is loaded; bars stay if it is not a local directory, as a download may take long.
    """
    if not logging.is_progress_bar_enabled() or (source is not None and not Path(source).is_dir()):
        yield
        return
    hub_silent = are_progress_bars_disabled()  # transformers' switch also changes the hub's, which must be restored
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
        if hub_silent:
            disable_progress_bars()


@contextmanager
def without_reports() -> Iterator[None]:
    """Hide transformers' report of missing weights while the block runs; for callers that supply them afterwards."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
