"""What every test shares."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # several threads on small arrays only wait for one another


@pytest.fixture(scope="session")
def assets() -> Path:
    """Return a folder with ``models/`` and ``data/`` that are too large for the repository."""
    folder = os.environ.get("TEXTGYM_TEST_ASSETS")
    if not folder:
        pytest.skip("TEXTGYM_TEST_ASSETS is unset: give a folder with models/ and data/")
    return Path(folder)
