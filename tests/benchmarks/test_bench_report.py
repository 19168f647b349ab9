"""What is said of scores, and the page and tables that say it."""

import csv
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from textgym.benchmarks.analysis.pairs import compare_pairs
from textgym.benchmarks.analysis.statistics import interquartile_mean, mean_estimate, mean_over_these_tasks
from textgym.benchmarks.analysis.suite_findings import suite_findings
from textgym.commands.bench import terminal_findings
from textgym.intervals import Estimate
from textgym.reports.bench import csv_table, markdown_page, markdown_table, terminal_table, write_bench_report
from textgym.reports.charts.suites import PlotLine, line_plot
from textgym.reports.findings import Figure, Findings, Table

TASKS = ("Needle", "Emit", "Copy", "Trap")
HOSTILE = "<script>alert('x')</script>"
TABLE = Table(
    "Gold",
    ("algorithm", "gold", "seeds", "β"),
    (
        ("ppo", Estimate(0.951234, 0.931, 0.9712), 5, 0.05),
        ("a|b", 0.5, 2, None),
    ),
    "Higher is better.",
)


def scores() -> dict[str, np.ndarray]:
    """The first is a little worse than the second everywhere but on the hard task, and the third has one seed."""
    rng = np.random.default_rng(0)
    noise = {name: rng.normal(0, 0.01, (seeds, 4)) for name, seeds in (("a2c", 5), ("ppo", 4), ("grpo", 1))}
    means = {"a2c": [0.4, 0.9, 0.8, 0.9], "ppo": [0.2, 0.99, 0.95, 0.98], "grpo": [0.1, 0.5, 0.3, 0.4]}
    return {name: np.array(means[name]) + noise[name] - noise[name].mean(0) for name in noise}


@pytest.fixture(scope="module")
def found() -> Findings:
    return suite_findings(scores(), TASKS, np.random.default_rng(0))


# -- Summary ---------------------------------------------------------------------------------------


def test_algorithms_stand_by_their_mean(found: Findings) -> None:
    overall = found.tables[0]
    assert overall.columns == ("algorithm", "mean", "worst task", "seeds")
    # The noise adds up to 0, so means are those that the scores were made of.
    assert [(row[0], pytest.approx(getattr(row[1], "value", row[1]))) for row in overall.rows] == [
        ("ppo", 0.78),
        ("a2c", 0.75),
        ("grpo", 0.325),
    ]
    assert overall.rows[0][1] == mean_over_these_tasks(scores()["ppo"])
    assert [row[2] for row in overall.rows] == ["Needle 0.20", "Needle 0.40", "Needle 0.10"]


def test_too_few_seeds_are_told_and_get_no_interval(found: Findings) -> None:
    rows = found.tables[0].rows
    assert [row[3] for row in rows] == [4, 5, "1: too few seeds for an interval"]
    assert [isinstance(row[1], Estimate) for row in rows] == [True, True, False]
    assert "Hollow dots: too few seeds for an interval." in found.figures[0].caption


@pytest.mark.parametrize(("seeds", "tasks", "known"), [(2, 4, True), (3, 1, True), (2, 1, False), (1, 4, False)])
def test_an_interval_needs_three_runs_and_two_seeds(seeds: int, tasks: int, known: bool) -> None:
    drawn = np.random.default_rng(0).normal(size=(seeds, tasks))
    ((_, mean, _, count),) = suite_findings({"ppo": drawn}, TASKS[:tasks], np.random.default_rng(0)).tables[0].rows
    assert isinstance(mean, Estimate) == known
    assert count == (seeds if known else f"{seeds}: too few seeds for an interval")


def test_the_headline_names_the_leader_the_certainty_and_the_failure(found: Findings) -> None:
    mean = mean_over_these_tasks(scores()["ppo"])
    assert found.headline == (
        f"ppo leads with a mean score of 0.780 [{mean.low:.3f}, {mean.high:.3f}], ahead of a2c (too few tasks or seeds "
        "for a verdict: 4 of 6); it is at its worst on Needle (0.20, where a2c has 0.40)."
    )
    assert [table.title for table in found.tables] == ["Over all tasks", "By task"]


def test_seeds_that_agree_leave_a_doubt_that_is_told(found: Findings) -> None:
    for seeds, chance in ((4, 0.53), (5, 0.45)):
        assert f"0 of {seeds} seeds fit a success rate up to {chance}" in found.tables[1].note
        assert stats.binom.pmf(0, seeds, chance) == pytest.approx(0.05, abs=0.002)
    assert "0 of 1 " not in found.tables[1].note, "grpo has no interval"


def test_of_a_single_task_nobody_is_worst_anywhere() -> None:
    golds = {"ppo": np.array([[0.9], [0.9], [0.9]]), "a2c": np.array([[0.5], [0.4], [0.3]])}
    found = suite_findings(golds, ["Reviews"], np.random.default_rng(0))
    assert found.headline == (
        "ppo leads with a mean score of 0.900 [0.900, 0.900], ahead of a2c (too few tasks or seeds for a verdict: 3 of "
        "6), on Reviews."
    )
    assert found.tables[0].note.startswith("Means over seeds, on Reviews alone.")
    assert [figure.title for figure in found.figures] == ["Mean score with 95 % interval"]


@pytest.mark.parametrize(
    ("seeds", "by_task", "bands"),
    [
        ((1, 1), "Scores of one seed, without intervals;", False),
        ((2, 2), "Means over 2 seeds, too few for an interval of a single task;", False),
        ((2, 1), "Means over at most 2 seeds, too few for an interval of a single task;", False),
        ((3, 2), "Means over seeds, with Student's 95 % interval where there are at least 3;", True),
        ((3, 4), "Means over seeds with Student's 95 % interval;", True),
    ],
)
def test_notes_speak_of_the_intervals_that_are_there(seeds: tuple[int, int], by_task: str, bands: bool) -> None:
    rng = np.random.default_rng(0)
    drawn = {name: rng.normal(size=(count, 4)) for name, count in zip(("ppo", "a2c"), seeds, strict=True)}
    found = suite_findings(drawn, TASKS, rng)
    notes = {one.title: one.note for one in found.tables}
    captions = {one.title: one.caption for one in found.figures}
    assert notes["By task"].startswith(by_task)
    assert ("interval" in captions["Performance profiles"]) == bands
    some = max(seeds) > 1
    assert ("Intervals, at 95 %" in notes["Over all tasks"]) == some
    assert captions["Mean score with 95 % interval"].startswith("Bars" if some else "Hollow dots")
    of_one = suite_findings({name: table[:, :1] for name, table in drawn.items()}, TASKS[:1], rng)
    assert of_one.tables[0].note.startswith("Means over seeds, on" if some else "Scores of one seed, on")


@pytest.mark.parametrize(("seeds", "tasks", "shown"), [(10, 1, True), (9, 1, False), (10, 2, False)])
def test_an_interquartile_mean_is_shown_where_outliers_are_noise(seeds: int, tasks: int, shown: bool) -> None:
    """Of many seeds of a single task; over tasks it would cut off those that an algorithm fails."""
    drawn = np.random.default_rng(0).normal(size=(seeds, tasks))
    overall = suite_findings({"ppo": drawn}, TASKS[:tasks], np.random.default_rng(0)).tables[0]
    assert ("IQM" in overall.columns) == shown
    if shown:
        assert overall.rows[0][2].value == pytest.approx(interquartile_mean(drawn))  # type: ignore[union-attr]


# -- Pairs -----------------------------------------------------------------------------------------

EIGHT = tuple(f"task {number}" for number in range(8))


def of_levels(*levels: float, seeds: int = 3) -> dict[str, np.ndarray]:
    """Return scores of algorithms a, b, … at these levels, with small noise of mean 0 within each of eight tasks."""
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 0.01, (len(levels), seeds, 8))
    noise -= noise.mean((1, 2), keepdims=True)
    return {name: level + own for name, level, own in zip("abcdefgh", levels, noise, strict=False)}


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ((0.9, 0.899, 0.1), "surely ahead of c, not told apart from b;"),
        ((0.9, 0.5, 0.1), "surely ahead of all others;"),
        ((0.9, 0.5), "surely ahead of b;"),
        ((0.9, 0.899), "not told apart from b;"),
        ((0.9, 0.8999, 0.8998), "not told apart from any of the 2 others;"),
        ((0.9, 0.5, 0.4, 0.3, 0.2, 0.1, 0.8999), "surely ahead of 5 others, not told apart from g;"),
        ((0.9, 0.5, 0.4, 0.8999), "surely ahead of b and c, not told apart from d;"),
    ],
)
def test_a_headline_says_whom_the_leader_surely_beats(
    levels: tuple[float, ...], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textgym.benchmarks.analysis.suite_findings._figures", lambda *_: ())  # they take seconds
    found = suite_findings(of_levels(*levels), EIGHT, np.random.default_rng(0))
    assert found.headline.startswith("a leads with a mean score of 0.900 [")
    assert f"], {verdict} it is at its worst" in found.headline


def test_pairs_that_are_told_apart_stand_in_a_table(tmp_path: Path) -> None:
    scores = of_levels(0.1, 0.5, 0.4999)
    found = suite_findings(scores, EIGHT, np.random.default_rng(0))
    _, pairs, _ = found.tables
    known = compare_pairs([scores[name] for name in "bca"], np.random.default_rng(0))
    assert pairs.columns == ("higher", "lower", "difference", "p, corrected")
    assert pairs.rows == tuple(
        (higher, "a", Estimate(known.difference[i, 2], known.low[i, 2], known.high[i, 2]), known.p[i, 2])
        for i, higher in enumerate("bc")
    )
    assert pairs.note.startswith("2 of 3 pairs are told apart, with 8 tasks as the sample, paired by instance.")
    (matrix,) = (figure for figure in found.figures if figure.title == "All pairs")
    assert "told apart at 5 %" in matrix.caption
    write_bench_report({"mini": found}, tmp_path)
    assert (tmp_path / "mini-2-pairs-told-apart.csv").is_file()


def test_pairs_are_compared_on_the_instances_that_all_have() -> None:
    """An instance that only one algorithm met says nothing about a difference."""
    first, second = of_levels(0.9, 0.4, seeds=4).values()
    first[0], second[3] = -50, 99  # seeds 5 and 9
    seeds = {"a": (5, 6, 7, 8), "b": (6, 7, 8, 9)}
    found = suite_findings({"a": first, "b": second}, EIGHT, np.random.default_rng(0), seeds)
    ((higher, lower, difference, _),) = found.tables[1].rows
    assert (higher, lower) == ("a", "b"), "over the three instances of both, although its mean over all is far below"
    assert difference.value == pytest.approx(first[1:].mean() - second[:3].mean())  # type: ignore[union-attr]
    assert found.headline.startswith("b leads")
    assert "surely ahead" not in found.headline


def test_without_a_common_instance_there_is_no_verdict() -> None:
    seeds = {"a": (0, 1, 2), "b": (3, 4, 5)}
    found = suite_findings(of_levels(0.9, 0.1), EIGHT, np.random.default_rng(0), seeds)
    assert "ahead of b (too few tasks or seeds for a verdict: 0 of 6)" in found.headline


def test_one_algorithm_leads_nobody() -> None:
    found = suite_findings(of_levels(0.9), EIGHT, np.random.default_rng(0))
    assert found.headline.startswith("a has a mean score of 0.900 [")


# -- Tasks -----------------------------------------------------------------------------------------


def test_tasks_stand_from_easy_to_hard_with_their_own_intervals(found: Findings) -> None:
    each = found.tables[1]
    assert each.columns == ("algorithm", "Emit", "Trap", "Copy", "Needle")
    assert each.rows[0] == ("ppo", *(mean_estimate(scores()["ppo"][:, TASKS.index(t)]) for t in each.columns[1:]))


def test_summary_refuses_what_it_cannot_compare() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"scores\['ppo'\] has shape \(5, 3\); expected \[n_seeds, 4\]"):
        suite_findings({"ppo": np.zeros((5, 3))}, TASKS, rng)
    with pytest.raises(ValueError, match=r"scores\['ppo'\] holds a number that is not finite"):
        suite_findings({"ppo": np.full((5, 4), math.nan)}, TASKS, rng)
    with pytest.raises(ValueError, match="scores is empty"):
        suite_findings({}, TASKS, rng)


# -- Tables ----------------------------------------------------------------------------------------


def test_terminal_table_by_hand() -> None:
    assert terminal_table(TABLE) == "\n".join(
        [
            "Gold",
            "",
            "algorithm                   gold  seeds       β",
            "─────────  ─────────────────────  ─────  ──────",
            "ppo        0.951 (0.931 … 0.971)      5  0.0500",
            "a|b                        0.500      2       –",
            "",
            "Higher is better.",
        ]
    )


def test_markdown_table_by_hand() -> None:
    assert markdown_table(TABLE).splitlines() == [
        "| algorithm | gold | seeds | β |",
        "| --- | ---: | ---: | ---: |",
        "| ppo | 0.951 (0.931 … 0.971) | 5 | 0.0500 |",
        "| a\\|b | 0.500 | 2 | – |",
        "",
        "Higher is better.",
    ]


def test_csv_keeps_every_digit_and_spreads_intervals_over_three_columns() -> None:
    rows = list(csv.reader(csv_table(TABLE).splitlines()))
    assert rows == [
        ["algorithm", "gold", "gold low", "gold high", "seeds", "β"],
        ["ppo", "0.951234", "0.931", "0.9712", "5", "0.05"],
        ["a|b", "0.5", "", "", "2", ""],
    ]


# -- The page --------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Which tags and addresses a page has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_page_shows_every_experiment_and_needs_nothing_else(tmp_path: Path, found: Findings) -> None:
    hostile = Findings(
        HOSTILE,
        (Table(HOSTILE, (HOSTILE,), ((HOSTILE,),), HOSTILE),),
        (Figure(HOSTILE, '<svg viewBox="0 0 9 9"></svg>'),),
    )
    path = write_bench_report({"diagnostic": found, "kl_frontier": hostile}, tmp_path / "new" / "report")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert path.name == "report.html"
    assert page.tags.count("section") == 2
    assert page.tags.count("svg") == 5
    assert "script" not in page.tags
    assert "http" not in text.replace("http://www.w3.org", "")
    assert text.count(found.headline) == 1
    files = {file.name for file in path.parent.glob("*.csv")}
    assert files == {
        "diagnostic-1-over-all-tasks.csv",
        "diagnostic-2-by-task.csv",
        "kl-frontier-1-script-alert-x-script.csv",
    }
    assert set(page.addresses) == files | {"#diagnostic", "#kl-frontier"}


def test_each_figure_is_a_file_that_stands_alone(tmp_path: Path, found: Findings) -> None:
    write_bench_report({"mini": found}, tmp_path)
    files = sorted(tmp_path.glob("*.svg"))
    assert [file.name for file in files] == [
        "mini-1-mean-score-with-95-interval.svg",
        "mini-2-performance-profiles.svg",
        "mini-3-score-per-task.svg",
        "mini-4-scores-by-algorithm.svg",
    ]
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).get("viewBox")
        assert set(re.findall(r"var\(--([\w-]+)\)", text)) <= set(re.findall(r"--([\w-]+):", text))


def test_a_figure_must_tell_its_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the figure 'Gold' has no viewBox"):
        write_bench_report({"mini": Findings("", figures=(Figure("Gold", "<svg></svg>"),))}, tmp_path)


def test_equal_findings_give_equal_bytes(tmp_path: Path, found: Findings) -> None:
    again = suite_findings(scores(), TASKS, np.random.default_rng(0))
    assert again == found
    first, second = (write_bench_report({"mini": one}, tmp_path / str(i)) for i, one in enumerate((found, again)))
    for file in first.parent.iterdir():
        assert file.read_bytes() == (second.parent / file.name).read_bytes()


def test_findings_without_figures_or_tables_are_a_page(tmp_path: Path) -> None:
    text = write_bench_report({"mini": Findings("Nothing has run yet.")}, tmp_path).read_text(encoding="utf-8")
    assert "Nothing has run yet." in text
    with pytest.raises(ValueError, match="findings is empty"):
        write_bench_report({}, tmp_path)


# -- Names that users choose ------------------------------------------------------------------------

NAMES = [
    "<script>alert(1)</script>",
    "=HYPERLINK(1)",
    "a|b`c`",
    "new\nline | x",
    "[a](javascript:b)",
    "$x^",
    "\\",
    "\x1b[31mred",
    "_hidden",
    "模型",
    "long " * 40,
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of algorithms, tasks and a file with such names."""
    out = tmp_path_factory.mktemp("names")
    tasks = NAMES[:6]  # as many as a matrix of all pairs needs
    rng = np.random.default_rng(0)
    scores = {name: rng.random((2, len(tasks))) for name in NAMES}
    found = suite_findings(scores, tasks, rng)
    line = Figure("Lines", line_plot({name: PlotLine([0, 1], [i, 1]) for i, name in enumerate(NAMES)}, "x", "y"))
    found = Findings(found.headline, found.tables, (*found.figures, line))
    write_bench_report({NAMES[0]: found}, out)
    (out / "report.md").write_text(markdown_page(NAMES[0], found), encoding="utf-8")
    (out / "terminal.txt").write_text(terminal_findings(found), encoding="utf-8")
    return out


def test_a_name_is_no_markup_on_the_page_and_in_pictures(hostile: Path) -> None:
    page = (hostile / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    for picture in hostile.glob("*.svg"):
        told = ElementTree.parse(picture)
        assert not [element for element in told.iter() if "script" in element.tag]
        links = [value for element in told.iter() for name, value in element.attrib.items() if "href" in name]
        assert all(value.startswith("#") for value in links)
    assert "模型" in page
    assert "\u200b_hidden" in page  # matplotlib leaves out names that begin so


def test_a_name_is_no_markup_in_markdown(hostile: Path) -> None:
    text = (hostile / "report.md").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "](" not in text
    assert re.findall(r"(?<!\\)`", text) == []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table.splitlines()}) == 1


def test_a_name_is_no_formula_in_a_spreadsheet(hostile: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in hostile.glob("*.csv")]
    cells = [cell for text in texts for row in csv.reader(io.StringIO(text)) for cell in row]
    assert "'=HYPERLINK(1)" in cells
    text = [cell for cell in cells if not re.fullmatch(r"-?[\d.e+-]+", cell)]
    assert not [cell for cell in text if cell.startswith(("=", "+", "-", "@"))]


def test_a_name_commands_no_terminal(hostile: Path) -> None:
    text = (hostile / "terminal.txt").read_text(encoding="utf-8")
    assert "\x1b" not in text
    table = text.split("\n\n")[2].splitlines()
    assert len(table) == 2 + len(NAMES)
