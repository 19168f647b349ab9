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

from textgym.benchmarks.analysis.statistics import interquartile_mean, mean_estimate, unseen_losses
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
    """The first is a little worse than the second everywhere but on the hard task, and the third has two seeds."""
    rng = np.random.default_rng(0)
    noise = {name: rng.normal(0, 0.01, (seeds, 4)) for name, seeds in (("a2c", 5), ("ppo", 4), ("grpo", 2))}
    means = {"a2c": [0.6, 0.9, 0.8, 0.9], "ppo": [0.2, 0.99, 0.95, 0.98], "grpo": [0.1, 0.5, 0.3, 0.4]}
    return {name: np.array(means[name]) + noise[name] - noise[name].mean(0) for name in noise}


@pytest.fixture(scope="module")
def found() -> Findings:
    return suite_findings(scores(), TASKS, np.random.default_rng(0))


# -- Summary ---------------------------------------------------------------------------------------


def test_algorithms_stand_by_their_interquartile_mean(found: Findings) -> None:
    overall = found.tables[0]
    assert overall.columns == ("algorithm", "IQM", "mean", "P(ppo better)", "worst task", "seeds")
    assert [row[0] for row in overall.rows] == ["ppo", "a2c", "grpo"]
    for name, iqm, mean, *_ in overall.rows:
        assert getattr(iqm, "value", iqm) == pytest.approx(interquartile_mean(scores()[str(name)]))
        assert getattr(mean, "value", mean) == pytest.approx(scores()[str(name)].mean())


def test_a_row_says_how_often_the_best_wins_and_where_it_fails(found: Findings) -> None:
    best, second, third = found.tables[0].rows
    assert best[3] is None
    assert isinstance(second[3], Estimate)
    assert second[3].value == 0.75  # ppo loses every run of one task in four
    assert third[3] == 1.0  # too few seeds for an interval
    assert [row[4] for row in (best, second, third)] == ["Needle 0.20", "Needle 0.60", "Needle 0.10"]


def test_too_few_seeds_are_told_and_get_no_interval(found: Findings) -> None:
    rows = found.tables[0].rows
    assert [row[5] for row in rows] == [4, 5, "2: too few seeds for an interval"]
    assert [isinstance(row[1], Estimate) for row in rows] == [True, True, False]
    assert "Hollow dots: too few seeds for an interval." in found.figures[0].caption


def test_the_headline_names_the_leader_the_certainty_and_the_failure(found: Findings) -> None:
    iqm = interquartile_mean(scores()["ppo"])
    assert found.headline.startswith(f"ppo leads with an interquartile mean of {iqm:.3f} [")
    assert "ahead of a2c, whose runs it beats with probability 0.75 [" in found.headline
    assert found.headline.endswith("it is at its worst on Needle (0.20, where a2c has 0.60).")


def test_the_more_algorithms_the_wider_what_is_said_of_the_leader(found: Findings) -> None:
    """Wins alone have an interval in closed form; among three algorithms any of three pairs might have come first."""
    golds = {name: np.array([[level], [level], [level]]) for name, level in (("ppo", 0.9), ("a2c", 0.5), ("grpo", 0.1))}
    three = suite_findings(golds, ["Reviews"], np.random.default_rng(0)).tables[0]
    for row in three.rows[1:]:
        assert isinstance(row[3], Estimate)
        assert row[3].low == pytest.approx(1 - unseen_losses(3, 3, 1 - 0.05 / 3))
    assert "The leader was selected on the same runs" in three.note
    assert "corrected for all 3 pairs" in three.note
    del golds["grpo"]
    two = suite_findings(golds, ["Reviews"], np.random.default_rng(0)).tables[0]
    assert isinstance(two.rows[1][3], Estimate)
    assert two.rows[1][3].low == pytest.approx(1 - unseen_losses(3, 3))
    assert "pairs" not in two.note


def test_seeds_that_agree_leave_a_doubt_that_is_told(found: Findings) -> None:
    for seeds, chance in ((4, 0.53), (5, 0.45)):
        assert f"0 of {seeds} seeds fit a success rate up to {chance}" in found.tables[1].note
        assert stats.binom.pmf(0, seeds, chance) == pytest.approx(0.05, abs=0.002)
    assert "0 of 2 " not in found.tables[1].note, "grpo has no interval"


def test_of_a_single_task_nobody_is_worst_anywhere() -> None:
    golds = {"ppo": np.array([[0.9], [0.9], [0.9]]), "a2c": np.array([[0.5], [0.4], [0.3]])}
    found = suite_findings(golds, ["Reviews"], np.random.default_rng(0))
    assert found.headline.endswith(" beats with probability 1.00 [0.50, 1.00], on Reviews.")
    assert found.tables[0].note.startswith("On Reviews alone.")
    assert [figure.title for figure in found.figures] == ["IQM with 95 % interval"]


def test_equals_are_not_told_apart() -> None:
    same = np.random.default_rng(0).normal(0.5, 0.1, (5, 4))
    twins = suite_findings({"a": same, "b": same.copy()}, TASKS, np.random.default_rng(0))
    assert "not clearly ahead of b" in twins.headline
    alone = suite_findings({"a": same}, TASKS, np.random.default_rng(0))
    assert alone.headline.startswith("a has an interquartile mean")


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
        "mini-1-iqm-with-95-interval.svg",
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
    tasks = NAMES[:4]
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
