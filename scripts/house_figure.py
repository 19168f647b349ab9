"""Draw the floors and rooms of the package from the contracts in ``pyproject.toml``.

python -m scripts.house_figure --out docs/figures/house.svg
"""

from __future__ import annotations

import ast
import io
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import matplotlib as mpl
import tyro
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from textgym.files import write_text

ROOT = Path(__file__).parents[1]
HEIGHT, GAP = 0.34, 0.06  # inches
LONGEST = 88  # characters that fit into a box
FLOOR, ROOM = "#dbe7f5", "#f6f0dc"


@dataclass(frozen=True)
class Line:
    """One box: the modules of a floor, or of a room inside one, with what they hold."""

    names: tuple[str, ...]
    holds: str
    inside: bool = False


def floors(root: Path = ROOT) -> list[Line]:
    """Return the floors from top to bottom, the rooms of a floor below its own line."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (house,) = [one for one in contracts if "containers" not in one]
    rooms = {one["containers"][0]: one["layers"] for one in contracts if "containers" in one}
    lines: list[Line] = []
    for layer in house["layers"]:
        modules = tuple(name.strip() for name in layer.split("|"))
        lines.append(Line(tuple(name.removeprefix("textgym.") for name in modules), summary(root, modules[0])))
        for module in modules:
            for inner in rooms.get(module, ()):
                names = tuple(name.strip() for name in inner.split("|"))
                lines.append(Line(names, summary(root, f"{module}.{names[0]}"), inside=True))
    return lines


def summary(root: Path, module: str) -> str:
    """Return the first sentence of a module's docstring."""
    path = root / module.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(source.read_text("utf-8"))) or ""
    first = " ".join(text.split("\n\n")[0].split()).split(". ")[0].rstrip(".").replace("``", "")
    said = first.split(": ", 1)[1] if first.startswith("textgym.") and ": " in first else first
    return said[:1].upper() + said[1:]


def draw(lines: Sequence[Line]) -> str:
    """Return the figure as SVG, the same for the same lines."""
    with mpl.rc_context({"svg.hashsalt": "house", "svg.fonttype": "none", "font.family": "sans-serif"}):
        height = len(lines) * (HEIGHT + GAP) + GAP
        figure = Figure(figsize=(9, height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, 9)
        axes.set_ylim(height, 0)
        axes.axis("off")
        for i, line in enumerate(lines):
            top, left = GAP + i * (HEIGHT + GAP), 0.5 if line.inside else 0.1
            box = FancyBboxPatch(
                (left, top),
                8.9 - left,
                HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.06",
                fc=ROOM if line.inside else FLOOR,
            )
            box.set_edgecolor("#777777")
            axes.add_patch(box)
            middle = top + HEIGHT / 2
            axes.text(left + 0.1, middle, ", ".join(line.names), va="center", size=9, weight="bold")
            axes.text(3.3, middle, shorten(line.holds, LONGEST, placeholder=" …"), va="center", size=8)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()


def main(out: Path = ROOT / "docs" / "figures" / "house.svg") -> None:
    """Write the figure."""
    write_text(out, draw(floors()))


if __name__ == "__main__":
    tyro.cli(main)
