"""Progress of long work: a bar on a terminal, or a line from time to time in a log file."""

from __future__ import annotations

import sys
from typing import Any, Self

from tqdm import tqdm

LINES = 20
"""Greatest number of lines if standard error is not a terminal, in addition to the first and the last."""
BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix} [{remaining}, {rate_fmt}]"
"""Format of the bar; figures come before times, so that a narrow terminal cuts off the times."""


class Progress:
    """Progress bar on standard error; if that is not a terminal, a line after each twentieth of the work.

    Args:
        total: total units of work.
        name: name of the work; begins each line.
        unit: such as ``"step"``.
        done: units that are already done.
        silent: show nothing.
    """

    def __init__(self, total: float, name: str, unit: str, done: float = 0, silent: bool = False) -> None:
        self.name, self.unit = name, unit
        self.figures = ""
        self.bar: tqdm[Any] = tqdm(
            total=total,
            initial=done,
            unit=unit,
            unit_scale=unit == "tok",
            bar_format=BAR,
            dynamic_ncols=True,
            disable=silent or not on_terminal(),
        )
        self.done, self.total = done, total  # kept here, as a disabled tqdm bar does not count
        self._lines = not silent and self.bar.disable
        self._printed, self._shown = -1, (-1.0, "")  # of the last line printed

    def reach(self, done: float) -> None:
        """Set the number of units done, at most the total."""
        self.done = min(done, self.total)
        self.bar.update(self.done - self.bar.n)

    def show(self, figures: str) -> None:
        """Show figures next to the progress, such as ``"score 0.93 kl 4.2"``."""
        self.figures = figures
        self.bar.set_postfix_str(figures)
        twentieth = int(LINES * self.done / max(self.total, 1))
        if self._lines and twentieth > self._printed:
            self._print(twentieth)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the bar, or print the last line."""
        self.bar.close()
        if self._lines and self._shown != (self.done, self.figures):
            self._print(LINES)

    def _print(self, twentieth: int) -> None:
        self._printed, self._shown = twentieth, (self.done, self.figures)
        count = tqdm.format_sizeof if self.unit == "tok" else "{:g}".format
        share = f"{self.done / self.total:.0%}" if self.total else "100%"
        text = f"{self.name}: {share}, {count(self.done)} of {count(self.total)} {self.unit}"
        print(text + (f", {self.figures}" if self.figures else ""), file=sys.stderr, flush=True)


def on_terminal() -> bool:
    """Return True if standard error can redraw its last line, as terminals and notebooks can."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def short(value: float) -> str:
    """Format a number with three significant digits."""
    return f"{value:.3g}"
