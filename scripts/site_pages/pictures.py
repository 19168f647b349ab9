"""Pictures that the site draws for itself: equations, learning curves, and a rendered episode of each task."""

from __future__ import annotations

import io
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium as gym
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from scripts.site_pages.page import ROOT, Made
from textgym.agents import PPO
from textgym.benchmarks.runner.experiment import Job
from textgym.tasks import TASKS

RESULTS = [ROOT / "benchmarks" / "results" / f"{name}.jsonl" for name in ("diagnostic-v0", "losses")]
"""Runs on diagnostic tasks; of an algorithm that is in several files the first one's."""
INK, ACCENT = "#000001", "#000002"
"""Stand-ins for the page's own colours, so that pictures follow a dark theme."""
COLUMNS = 4
"""Panels beside each other."""
SHARES = np.linspace(0.05, 1, 40)
"""Where on the budget a mean over seeds is taken."""


def equation(latex: str) -> str:
    """Return lines of LaTeX (as far as mathtext reads it) as an ``<svg>`` element, one line under the other."""
    lines = [line.strip().removesuffix(r"\\") for line in latex.strip().splitlines()]
    with matplotlib.rc_context({"mathtext.fontset": "stix", "svg.fonttype": "path", "svg.hashsalt": "textgym"}):
        figure = Figure(figsize=(0.1, 0.1))
        for row, line in enumerate(lines):
            figure.text(0, -6.5 * row, f"${line}$", color=INK, fontsize=13)
        return _inline(figure, latex, bbox_inches="tight", pad_inches=0.03)


def learning_curves(algorithm: str) -> str | None:
    """Return the published learning curves of an algorithm as an ``<svg>`` element, or None if there are none."""
    tasks = _curves().get(algorithm)
    if not tasks:
        return None
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "textgym", "font.family": "sans-serif"}):
        rows = -(-len(tasks) // COLUMNS)
        figure = Figure(figsize=(7.6, 1.5 * rows + 0.4), layout="constrained")
        panels = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, (task, runs) in zip(panels, sorted(tasks.items()), strict=False):
            for x, y in runs:
                axes.plot(x, y, color=ACCENT, linewidth=0.7, alpha=0.35)
            axes.plot(SHARES, np.mean([np.interp(SHARES, x, y) for x, y in runs], 0), color=ACCENT, linewidth=2)
            axes.set_title(task, fontsize=10, color=INK)
            axes.set_ylim(-0.55, 1.05)
            axes.tick_params(colors=INK, labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
            axes.spines[["left", "bottom"]].set_color(INK)
        for axes in panels[len(tasks) :]:
            axes.set_visible(False)
        figure.supxlabel("share of the token budget", fontsize=9, color=INK)
        figure.supylabel("share of the way to J*", fontsize=9, color=INK)
        return _inline(figure, f"Learning curves of {algorithm} on {', '.join(sorted(tasks))}")


Curves: TypeAlias = dict[str, dict[str, list[tuple[list[float], list[float]]]]]
"""Algorithm → task → the curve of each seed, in shares of the tokens and of the way from J(π_ref) to J*."""


@cache
def _curves() -> Curves:
    """Return all published curves. An algorithm goes by its label: GSPO's rows of before are not today's GSPO."""
    found: Curves = {}
    for path in RESULTS:
        found = {**_curves_of(path), **found}
    return found


def _curves_of(path: Path) -> Curves:
    found: Curves = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row: dict[str, Any] = json.loads(line)
        job, result = Job(**row["job"]), row["result"]
        if curve := result.get("curve"):
            way = result["optimum"] - result["reference"]
            x = [tokens / curve[-1][0] for tokens, _ in curve]
            y = [min((reward - result["reference"]) / way, 1.0) for _, reward in curve]
            found.setdefault(job.label, {}).setdefault(job.task, []).append((x, y))
    return found


def frames() -> list[Made]:
    """Return a picture for each task: the last frame of an episode that its untrained policy plays."""
    return [Made(f"tasks/{name}.png", _frame(f"textgym/{name}-v0")) for name in TASKS]


def _frame(task: str) -> bytes:
    env = gym.make(task, render_mode="rgb_array")
    policy = PPO("LMPolicy", task, seed=0)
    observation, _ = env.reset(seed=0)
    done = False
    while not done:
        action, _ = policy.predict(observation)
        observation, _, terminated, truncated, _ = env.step(int(action))
        done = terminated or truncated
    file = io.BytesIO()
    Image.fromarray(np.asarray(env.render())).save(file, "png", optimize=True)
    return file.getvalue()


def _inline(figure: Figure, label: str, **saving: Any) -> str:
    """Return a figure as an ``<svg>`` element in the page's colours; ``label`` is read to those who do not see it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None}, **saving)
    svg = file.getvalue()[file.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)  # a style would hold for all
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = svg.replace(INK, "currentColor").replace(ACCENT, "var(--md-accent-fg-color)")
    shown = " ".join(label.split()).replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return " ".join(svg.replace("<svg", f'<svg role="img" aria-label="{shown}"', 1).split())
