"""Take the pictures of the labelling page that the documentation shows, with the chromium of the machine.

python -m scripts.label_pictures --out docs/figures
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tyro

from textgym.labelling.server import PageSettings, serve_until
from textgym.labelling.store import LabelStore
from textgym.rewards.labels.labelling import Question
from textgym.types import Prompt

ROOT = Path(__file__).parents[1]
WIDTHS = {"label-1280.png": (1280, 860), "label-390.png": (390, 844)}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SETTINGS = PageSettings(labeller="anna", axes=("helpful", "true", "harmless"), scores=True)
CHAT = [
    {"role": "user", "content": "I slept badly. How do I get through the day?"},
    {"role": "assistant", "content": "Do you have to drive today?"},
    {"role": "user", "content": "No, I work from home."},
]
COMPLETIONS = (
    "Then be kind to yourself: do the hardest task first, go outside at noon, and stop coffee after two o'clock.",
    "Sleep is a state of rest. All mammals sleep.",
    "Take a nap of twenty minutes after lunch, set an alarm, and keep tonight's bedtime as usual.",
    "Just drink six coffees, it always works!",
)


def example() -> Question:
    """Return the question of the pictures."""
    return Question(COMPLETIONS, Prompt(CHAT, "", ()))


def browser_path() -> str | None:
    """Return the path of a chromium that the machine has, or None."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


@contextmanager
def served(path: Path, settings: PageSettings) -> Iterator[str]:
    """Serve the page over a database in a thread, and yield its address."""
    stopping, ready, address = threading.Event(), threading.Event(), []

    def announce(found: str) -> None:
        address.append(found)
        ready.set()

    def serve() -> None:
        try:
            with LabelStore(path) as store:
                serve_until(store, settings, lambda _: stopping.is_set(), announce)
        finally:
            ready.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        ready.wait(60)
        yield address[0]
    finally:
        stopping.set()
        thread.join(60)


@contextmanager
def browser() -> Iterator[Any]:
    """Yield a browser of playwright.

    Raises:
        RuntimeError: the machine has no chromium.
        ImportError: playwright is not installed.
    """
    from playwright.sync_api import sync_playwright  # not in the package

    path = browser_path()
    if path is None:
        raise RuntimeError(f"none of {', '.join(BROWSERS)} is installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path)
        try:
            yield opened
        finally:
            opened.close()


def take(opened: Any, address: str, size: tuple[int, int], path: Path, scheme: str = "light") -> None:
    """Rank the example's cards a little, and take a picture of the window."""
    width, height = size
    context = opened.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    page.locator(".card").first.wait_for()
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "1", "ArrowDown", "ArrowDown", "=", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    page.get_by_role("checkbox", name="helpful").first.check()
    page.get_by_role("radio", name="6").first.check()
    page.evaluate("window.scrollTo(0, 0)")
    page.screenshot(path=path)
    context.close()


def main(out: Path = ROOT / "docs" / "figures") -> None:
    """Write the pictures.

    Args:
        out: their directory.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, browser() as opened:
        path = Path(directory, "answers.sqlite")
        with LabelStore(path) as store:
            store.add([example()])
        with served(path, SETTINGS) as address:
            for name, size in WIDTHS.items():
                take(opened, address, size, out / name)
                print(out / name)


if __name__ == "__main__":
    tyro.cli(main)
