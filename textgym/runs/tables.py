"""Results of a run as text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textgym.agents.offline.alignment_tax import OF_TASK, OTHERS, PTX, in_short
from textgym.env.rendering import printable
from textgym.files import write_json, write_json_lines
from textgym.intervals import half_width
from textgym.rows import Screening
from textgym.runs.directory import read_kept, read_kept_rows

SKIPPED = "skipped.jsonl"


def note_screening(out: Path, screening: Screening) -> None:
    """Report how many rows of the data were left out or shortened.

    Keep the numbers and a list of the rows in the run.
    """
    counts = screening.counts
    if not counts:
        return
    print(screening_text(screening))
    if screening.omissions:
        write_json_lines(out / SKIPPED, (omission.record for omission in screening.omissions))
        print(f"  all of them: {printable(str(out / SKIPPED))}")
    write_json(out / "evaluation.json", {**read_kept(out / "evaluation.json"), **counts})


def screening_text(screening: Screening) -> str:
    """Return the numbers of rows that were left out or shortened, and the first ones, as text for a terminal."""
    bad, dropped = screening.bad, screening.dropped
    lines = [f"bad rows left out: {len(bad)}; the first: {bad[0]}"] if bad else []
    lines += [f"rows dropped as too long: {len(dropped)}; the first: {dropped[0].place}"] if dropped else []
    lines += [f"prompts shortened from the left: {screening.shortened}"] if screening.shortened else []
    return printable("\n".join(lines))


def comparison_table(out: Path) -> str:
    """Return a table of metrics before and after training, one line a metric, with 95 % intervals."""
    evaluation = read_kept(out / "evaluation.json")
    before, after = evaluation["before"], evaluation["after"]
    lines = [f"{'':14}{'before':>18}{'after':>18}"]
    names = [name for name in in_short(after) if name in before]
    lines += [f"{name:14}{interval(before[name]):>18}{interval(after[name]):>18}" for name in names]
    counts = {after[name]["n"] for name in names if "n" in after[name] and name not in (PTX, OTHERS)}
    if len(counts) == 1 and counts != {1}:
        lines.append(f"±: 95 % intervals over {counts.pop():,} episodes of this run")
    return "\n".join(lines)


def kl_change(out: Path) -> str:
    """Return the KL to the reference before and after training, with 95 % intervals, for a sentence."""
    evaluation = read_kept(out / "evaluation.json")
    before, after = (interval(evaluation[stage]["kl"], places=4) for stage in ("before", "after"))
    return f"{before} before, {after} after"


def alignment_tax(out: Path) -> str:
    """Return the change of the loss on held-out pretraining text and other tasks as one line; empty if unmeasured."""
    evaluation = read_kept(out / "evaluation.json")
    before, after = evaluation["before"], evaluation["after"]
    rise = {name: after[name]["mean"] - before[name]["mean"] for name in after if name in before}
    if PTX not in rise:
        return ""
    tax = f"alignment tax: {rise[PTX]:+.4f} nats per token of held-out pretraining text"
    if OTHERS not in rise:
        return tax
    single = [name for name in rise if name.startswith(OF_TASK) and name != OTHERS]
    named = ", ".join(f"{name.removeprefix(OF_TASK)} {rise[name]:+.3f}" for name in single)
    return f"{tax}; {rise[OTHERS]:+.4f} of the other mini tasks' references ({named})"


def sample_pairs(out: Path, count: int, since: Path | None = None) -> str:
    """Return some prompts with the completions before and after training.

    ``since`` names an earlier run for "before".
    """

    def written(run: Path, stage: str) -> list[dict[str, Any]]:
        return [row for row in read_kept_rows(run / "samples.jsonl") if row["stage"] == stage][:count]

    pairs = zip(written(since or out, "before"), written(out, "after"), strict=False)
    scored = _scored if since in (None, out) else lambda _: ""  # another run's reward may differ
    return "\n\n".join(
        f"{printable(old['prompt'])}\n  before{scored(old)}:{_indented(old['completion'])}"
        f"\n  after {scored(new)}:{_indented(new['completion'])}"
        for old, new in pairs
    )


def _scored(row: Mapping[str, Any]) -> str:
    """Return the score of a sample in parentheses; empty if it has none."""
    return f" ({row['score']:+.2f})" if "score" in row else ""


def _indented(text: str) -> str:
    return " " + printable(text).strip().replace("\n", "\n    ")


def interval(measured: Mapping[str, float], places: int = 3) -> str:
    """Format a mean with Student's 95 % interval, if it has one."""
    half = half_width(measured.get("sem"), measured.get("n"))
    mean = round(measured["mean"], places) + 0.0  # turns −0.0 into 0.0
    return f"{mean:.{places}f}" + ("" if half is None else f" ± {half:.{places}f}")
