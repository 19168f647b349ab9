"""What every test shares."""

import os
from collections.abc import Iterator
from html import escape
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


@pytest.fixture(scope="module")
def unrendered() -> Iterator[None]:
    """Draw the curves of a run's report and leave it at that: to lay 22 of them out takes longer than a tiny run.

    For modules that look at something else. ``tests/test_docs_instruct.py`` writes the report of every command as it
    is, ``tests/test_cli.py`` and ``tests/test_cli_pipeline.py`` those of ``train`` and ``pipeline``.
    """

    def bare(_: object, label: str) -> str:
        return f'<svg role="img" aria-label="{escape(label)}"></svg>'

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("textgym.reports.charts.svg.svg", bare)
        yield
