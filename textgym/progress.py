"""Progress on long work: a bar on a terminal, and now and then a line in a log file."""

from __future__ import annotations

import sys
from typing import Any, Self

from tqdm import tqdm

LINES = 20
"""Lines that work writes at most where standard error is no terminal, beside its first and its last."""
BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix} [{remaining}, {rate_fmt}]"
"""The figures stand before the times, so that a narrow terminal cuts off the times."""


class Progress:
    """A bar on standard error; where that is no terminal, a line each time another twentieth of the work is done.

    Args:
        total: units of work in all.
        name: of the work; begins each line.
        unit: such as ``"step"``.
        done: units that are done already.
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
        self.done, self.total = done, total  # a bar that is not shown counts nothing
        self._lines = not silent and self.bar.disable
        self._told, self._shown = -1, (-1.0, "")  # the last line

    def reach(self, done: float) -> None:
        """Tells how many units are done by now; what goes beyond the total is left out."""
        self.done = min(done, self.total)
        self.bar.update(self.done - self.bar.n)

    def show(self, figures: str) -> None:
        """Show figures beside the progress, such as ``"score 0.93 kl 4.2"``."""
        self.figures = figures
        self.bar.set_postfix_str(figures)
        twentieth = int(LINES * self.done / max(self.total, 1))
        if self._lines and twentieth > self._told:
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

    def _print(self, told: int) -> None:
        self._told, self._shown = told, (self.done, self.figures)
        count = tqdm.format_sizeof if self.unit == "tok" else "{:g}".format
        share = f"{self.done / self.total:.0%}" if self.total else "100%"
        text = f"{self.name}: {share}, {count(self.done)} of {count(self.total)} {self.unit}"
        print(text + (f", {self.figures}" if self.figures else ""), file=sys.stderr, flush=True)


def on_terminal() -> bool:
    """Return True if standard error redraws its last line, as terminals and notebooks do."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def short(value: float) -> str:
    """Return a number with three digits, in few characters."""
    return f"{value:.3g}"
