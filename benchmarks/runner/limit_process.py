"""How a process of the benchmark behaves."""

from __future__ import annotations

import torch
from transformers.utils import logging


def limit_process() -> None:
    """One thread, and no bars or hints of transformers between those of the runner."""
    torch.set_num_threads(1)  # several threads on small arrays only wait for one another
    logging.disable_progress_bar()
    logging.set_verbosity_error()
