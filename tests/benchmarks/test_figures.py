"""Pictures: what they tell is in them, equal data give equal bytes, and nothing of them needs more than the page."""

import math
import re
from functools import cache
from xml.etree import ElementTree

import numpy as np
import pytest

from textgym.intervals import Estimate
from textgym.reports.charts.suites import (
    PlotLine,
    heatmap,
    interval_plot,
    line_plot,
    pair_matrix,
    radars,
    typical_places,
)
from textgym.reports.charts.svg import SERIES_COLOURS, VARIABLES

SCORES = {"ppo": {"Emit": 1.0, "Needle": 0.58}, "a<2>c": {"Emit": 0.99, "Needle": -0.05}}

NAMES = ("a<2>c", "ppo", "remax")
GAPS = np.array([[0, -0.1, 0.2], [0.1, 0, 0.4], [-0.2, -0.4, 0]])
SURELY = np.array([[False, False, True], [False, False, True], [True, True, False]])


def texts(svg: str) -> list[str]:
    """What is written in a picture, which must be well-formed."""
    parsed = ElementTree.fromstring(svg.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1))
    return [re.sub(r"\n\s*", "", "".join(text.itertext())) for text in parsed.iter("text")]


@cache
def drawn() -> dict[str, str]:
    return draw_all()


def draw_all() -> dict[str, str]:
    line = PlotLine([0, 1, 2], [0.0, 0.5, 0.7], low=[0, 0.4, 0.6], high=[0.1, 0.6, 0.9])
    return {
        "lines": line_plot({"ppo": line, "theory": PlotLine([0, 2], [0, 1], dashed=True)}, "KL in nats", "gold"),
        "intervals": interval_plot({"worse": Estimate(0.2, 0.1, 0.3), "better": Estimate(0.9, 0.8, 1)}, "IQM"),
        "heatmap": heatmap(SCORES),
        "radar": radars(SCORES),
        "pairs": pair_matrix(NAMES, GAPS, SURELY),
    }


def test_pictures_repeat_to_the_byte_and_follow_the_pages_theme() -> None:
    first = drawn()
    assert first == draw_all()
    for svg in first.values():
        assert svg.startswith("<svg role=")
        assert not [stand_in for stand_in in VARIABLES if stand_in in svg]
        assert "var(--muted)" in svg
        assert texts(svg)


def test_lines_tell_their_names_and_axes() -> None:
    written = texts(drawn()["lines"])
    assert {"ppo", "theory", "KL in nats", "gold"} <= set(written)
    alone = line_plot({"ppo": PlotLine([0, 1], [0, 1])}, "x", "y")
    assert "ppo" not in texts(alone)  # a single line needs no legend


def test_only_a_band_fills_and_only_a_dashed_line_is_dashed() -> None:
    plain = line_plot({"a": PlotLine([0, 1], [0, 1])}, "x", "y")
    band = line_plot({"a": PlotLine([0, 1], [0, 1], [0, 0], [1, 1])}, "x", "y")
    dashed = line_plot({"a": PlotLine([0, 1], [0, 1], dashed=True)}, "x", "y")
    assert [svg.count("fill: var(--series-0); fill-opacity") for svg in (plain, band, dashed)] == [0, 1, 0]
    assert [svg.count("stroke-dasharray") for svg in (plain, band, dashed)] == [0, 0, 1]


def test_lines_of_one_colour_have_other_marks() -> None:
    """Also long ones, whose points are not marked otherwise."""
    x = np.arange(40.0)
    for points, first in ((x[:3], 1), (x, 0)):
        names = [f"line {i}" for i in range(len(SERIES_COLOURS) + 1)]
        svg = line_plot({name: PlotLine(points, points + i) for i, name in enumerate(names)}, "x", "y")
        marks = re.findall(r'<path id="m[0-9a-f]+" d="([^"]*)" style="stroke: var\(--series-0\)', svg)
        assert len({re.sub(r"[-\d.]+", "", mark) for mark in marks}) == first + 1, marks


def test_a_line_that_follows_has_the_others_colour_and_no_name() -> None:
    measured, fitted = PlotLine([0, 1], [0, 1]), PlotLine([0, 1], [0, 2], dashed=True, follows="a")
    without, svg = (
        line_plot(named := {"a": measured, "b": measured}, "x", "y"),
        line_plot({**named, "fit": fitted}, "x", "y"),
    )
    strokes = [[one.count(f"stroke: var(--series-{i})") for i in range(3)] for one in (without, svg)]
    assert [after - before for before, after in zip(*strokes, strict=True)] == [1, 0, 0]
    assert texts(svg).count("a") == 1
    assert "fit" not in texts(svg)
    with pytest.raises(ValueError, match=r"series\['a'\] follows 'c'; expected one of b"):
        line_plot({"a": PlotLine([0, 1], [0, 1], follows="c"), "b": measured}, "x", "y")


def test_tokens_are_told_in_thousands() -> None:
    assert "100k" in texts(line_plot({"ppo": PlotLine([0, 100_000], [0, 1])}, "tokens", "gold"))
    assert "0.50" in texts(line_plot({"ppo": PlotLine([0, 0.5], [0, 1])}, "β", "gold"))


def test_intervals_put_the_best_on_top_and_keep_colours_by_order() -> None:
    svg = drawn()["intervals"]
    written = texts(svg)
    assert written.index("better") < written.index("worse")
    assert {"0.90", "0.20"} <= set(written)
    # The first whisker is the better one's, which stands second in the mapping.
    assert svg.index("stroke: var(--series-1)") < svg.index("stroke: var(--series-0)")


def test_a_dot_without_an_interval_is_hollow() -> None:
    hollow = interval_plot({"few": Estimate(0.5, math.nan, math.nan)}, "IQM")
    assert "fill: none; stroke: var(--series-0)" in hollow
    assert "fill: var(--series-0)" not in hollow
    assert "0.500" in texts(hollow)


def test_a_heatmap_tells_every_score() -> None:
    svg = drawn()["heatmap"]
    assert [text for text in texts(svg) if re.fullmatch(r"−?\d\.\d\d", text)] == ["1.00", "0.58", "0.99", "−0.05"]
    assert "a<2>c" in texts(svg)
    fills = re.findall(r"fill: var\(--(good|bad)\); opacity: (\S+?)\"", svg)
    # 0.6 · |2 · score − 1|, at most 0.6
    assert fills == [("good", "0.6"), ("good", "0.096"), ("good", "0.588"), ("bad", "0.6")]


def test_column_names_are_slanted_where_they_would_overlap() -> None:
    few, many = ({name: {f"Vocabulary-{i}": 0.5 for i in range(n)} for name in ("ppo", "a2c")} for n in (4, 16))
    assert "rotate(-35" not in heatmap(few)
    assert heatmap(many).count("rotate(-35") == 16


def test_a_matrix_of_pairs_puts_the_best_on_top_and_fills_what_is_sure() -> None:
    svg = drawn()["pairs"]
    written = texts(svg)
    names = [text for text in written if text in NAMES]
    assert names == ["ppo", "a<2>c", "remax"] * 2  # columns, then rows
    cells = [text for text in written if re.fullmatch(r"[+−]\d\.\d\d", text)]
    assert cells == ["+0.10", "+0.40", "−0.10", "+0.20", "−0.40", "−0.20"]
    # Pairs that are told apart are bold and filled: 0.6 · |difference| / 0.4.
    assert len(re.findall("font-weight: 700", svg)) == 4
    fills = re.findall(r"fill: var\(--(good|bad)\); opacity: (\S+?)\"", svg)
    assert fills == [("good", "0.6"), ("good", "0.3"), ("bad", "0.6"), ("bad", "0.3")]


def test_a_radar_each_and_its_failures_named_in_the_bad_colour() -> None:
    svg = drawn()["radar"]
    written = texts(svg)
    assert written.count("Needle") == 2
    assert svg.count("fill: var(--bad)") == 1
    assert written.index("ppo") < written.index("a<2>c")


def test_more_algorithms_than_colours_start_again() -> None:
    many = {f"algorithm {index}": PlotLine([0, 1], [0, index]) for index in range(len(SERIES_COLOURS) + 1)}
    assert len(set(re.findall(r"var\(--series-\d+\)", line_plot(many, "x", "y")))) == len(SERIES_COLOURS)


def test_places_follow_the_typical_interval() -> None:
    # Half-widths 0.003, 0.03 and 0.4: the middle one deserves two decimals.
    wide = [Estimate(0.5, 0.5 - half, 0.5 + half) for half in (0.003, 0.03, 0.4)]
    assert typical_places(wide) == 2
    assert typical_places([Estimate(1, 1, 1)]) == 3
    assert typical_places([Estimate(1, 1 - 1e-5, 1 + 1e-5)]) == 3


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="series is empty"):
        line_plot({}, "x", "y")
    with pytest.raises(ValueError, match=r"series\['ppo'\] has shapes .*'y': \(3,\)"):
        line_plot({"ppo": PlotLine([0, 1], np.zeros(3))}, "x", "y")
    with pytest.raises(ValueError, match=r"scores\['b'\] has \['Copy'\]; expected those of the first: \['Emit'\]"):
        heatmap({"a": {"Emit": 1.0}, "b": {"Copy": 1.0}})
    with pytest.raises(
        ValueError, match=r"differences has shape \(3, 3\) and surely \(2, 2\); expected \[n, n\] for 3"
    ):
        pair_matrix(NAMES, GAPS, SURELY[:2, :2])
