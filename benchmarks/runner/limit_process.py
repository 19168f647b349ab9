"""Limits of a worker process."""

from __future__ import annotations

import torch
from transformers.utils import logging


def limit_process() -> None:
    """Use one thread, and silence transformers' progress bars and hints."""
    torch.set_num_threads(1)  # several threads on small arrays only wait for one another
    logging.disable_progress_bar()
    logging.set_verbosity_error()
