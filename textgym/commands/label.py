"""``textgym label``: people rank completions on a page; answers become rankings and a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeAlias

from textgym.commands.configs.label import LabelConfig, LabelExport, LabelReport, LabelServe
from textgym.labelling.quality import label_quality
from textgym.labelling.rows import export_feedback, export_rankings, read_questions
from textgym.labelling.store import LabelStore, question_id
from textgym.reports.bench import one_line, terminal_table, write_bench_report
from textgym.reports.labels import label_findings, label_record
from textgym.rewards.labels.labelling import Question

Chosen: TypeAlias = LabelServe | LabelExport | LabelReport


def label(config: LabelConfig) -> None:
    """Serve the page, export answers or report on them, as the settings say.

    Raises:
        ImportError: the page's packages are not installed.
        ValueError, OSError: input is bad, or the port is in use; nothing was served or written then.
    """
    chosen: Chosen = config.action
    if isinstance(chosen, LabelServe):
        serve(chosen)
    elif isinstance(chosen, LabelExport):
        export(chosen)
    else:
        report(chosen)


def serve(config: LabelServe) -> None:
    """Serve the page until Ctrl-C, and print how to go on."""
    # The packages of the extra are needed by nothing else here.
    from textgym.labelling.server import PageSettings, serve_until

    settings = PageSettings(
        labeller=config.labeller,
        axes=config.axes,
        scores=config.scores,
        shared=config.shared,
        repeat=config.repeat,
        seed=config.seed,
        watch=config.rate if config.watch else None,
        host=config.host,
        port=config.port,
        network=config.network,
    )
    questions = read_questions(config.file, least=1 if config.watch else 2)
    path = Path(config.answers) if config.answers is not None else config.file.with_suffix(".sqlite")
    if path == config.file:
        raise ValueError(f"file={str(config.file)!r} has the name of its answers; set --answers to another name")
    with LabelStore(path) as store:
        require_same_set(store, questions)
        store.add(questions)
        print(f"questions: {len(store.ids())}, answers so far: {len(store.answers())}, in {path}")

        def announce(address: str) -> None:
            print(f"open:      {address}\nCtrl-C ends; answers are kept, and the same command goes on", flush=True)

        serve_until(store, settings, announce=announce)
        print(f"\nanswers: {len(store.answers())}, in {path}")
        flag = " --feedback" if config.watch else ""
        print(f"export:  textgym label export {path} --out {path.with_suffix('.labelled.jsonl')}{flag}")
        if not config.watch:
            print(f"report:  textgym label report {path}")


def require_same_set(store: LabelStore, questions: list[Question]) -> None:
    """Raise ValueError if a database holds questions, and none of these among them."""
    known = set(store.ids())
    if known and not known & {question_id(own.prompt.content, own.completions) for own in questions}:
        raise ValueError(
            f"{str(store.path)!r} holds answers to another set: none of its {len(known)} questions is among these "
            f"{len(questions)}; set --answers to another file"
        )


def export(config: LabelExport) -> None:
    """Write rankings or feedback."""
    with opened(config.answers) as store:
        if config.feedback:
            print(f"feedback: {export_feedback(store, config.out)} completions, in {config.out}")
        else:
            written, tied = export_rankings(store, config.out)
            left_out = f" ({tied} left out: all completions tied)" if tied else ""
            print(f"rankings: {written}, in {config.out}{left_out}")


def report(config: LabelReport) -> None:
    """Print the quality of the labels, and write its page."""
    with opened(config.answers) as store:
        quality = label_quality(store.answers(), store.questions())
    if not quality.answers:
        raise ValueError(f"{str(config.answers)!r} holds no answers yet")
    found = label_findings(quality)
    if config.json:
        print(json.dumps(label_record(quality), indent=2, ensure_ascii=False))
    else:
        print("\n\n".join([one_line(found.headline), *map(terminal_table, found.tables)]))
    if config.out is not None:
        page = write_bench_report({"Labels": found}, config.out, title="textgym: how good the labels are")
        if not config.json:
            print(f"\nreport: {page}")


def opened(path: Path) -> LabelStore:
    """Open a database of answers, which must exist.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no database of answers.
    """
    if not path.exists():
        raise FileNotFoundError(f"answers={str(path)!r}: no such file; 'textgym label FILE' makes one")
    if path.is_file() and not path.stat().st_size:  # SQLite would make a database of it
        raise ValueError(f"answers={str(path)!r} is empty; expected a database of answers")
    return LabelStore(path)
