"""Output commands no terminal, and every terminal, pipe and locale is good enough."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import pytest

from tests.command_lines import DEEP, ESCAPE, GOOD, place
from textgym import cli
from textgym.cli import exit_on_error, main, parse, read_yaml, readable
from textgym.env.rendering import PrintableStream, printable, styled
from textgym.numbers import SettingError

CONTROLS = [chr(i) for i in (*range(32), *range(127, 160)) if chr(i) not in "\n\t"]
TURNS = [chr(i) for i in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))]


@pytest.mark.parametrize("letter", [*CONTROLS, *TURNS, "\udfff"])
def test_what_commands_a_terminal_is_replaced(letter: str) -> None:
    assert printable(f"a{letter}b") == "a\ufffdb"


def test_what_is_printable_stays() -> None:
    text = "Wörter, 字, עברית, 👩‍👧 and\nlines"
    assert printable(text) == text


def test_a_stream_makes_text_printable() -> None:
    inner = io.StringIO()
    stream = PrintableStream(inner)
    print("a\x1b[2Jb", file=stream)
    print("\x1b[1mbold\x1b[0m", file=styled(stream))  # type: ignore[arg-type]
    assert inner.getvalue() == "a\ufffd[2Jb\n\x1b[1mbold\x1b[0m\n"
    assert styled(inner) is inner


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ends(argv: list[str]) -> tuple[int, str]:
    """Status and output of a command."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            main(argv)
        except SystemExit as end:
            return int(end.code or 0), text.getvalue()
    return 0, text.getvalue()


def test_names_of_files_and_rewards_are_printed_tamely(folder: Path) -> None:
    """A directory, a prompt and a component of the reward, all named by somebody who wants the terminal."""
    code = "def f(completions, **_): return [1.0] * len(completions)\n" + f"f.__name__ = {ESCAPE!r}\n"
    (folder / "named.py").write_text(code)
    rows = [{"prompt": f"w{i} {ESCAPE}"} for i in range(4)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = [*GOOD["train"], "--reward", "named.py:f", "--out", f"run {ESCAPE}"]
    status, text = ends(["train", *argv])
    assert status == 0, text
    assert "\ufffd[2J" in text
    assert not {"\x1b", "\x9b", "\u202e", "\x07"} & set(text)
    page = (folder / f"run {ESCAPE}" / "report.html").read_text(encoding="utf-8")
    assert not {"\x1b", "\x9b", "\u202e", "\x07"} & set(page)


@pytest.mark.parametrize(
    "argv",
    [
        ["train", f"--{ESCAPE}"],
        ["train", "--out", ESCAPE],
        [ESCAPE],
        ["train", *GOOD["train"], "--algorithm", ESCAPE],
        ["train", *GOOD["train"], "--reward", ESCAPE],
        ["train", *GOOD["train"], "--model", ESCAPE],
        ["train", *GOOD["train"], "--seed", ESCAPE],
        ["train", *GOOD["train"], "--truncation", ESCAPE],
        ["play", ESCAPE],
        ["optimum", "--task", ESCAPE],
        ["bench", "run", ESCAPE],
        ["train", "--config", ESCAPE],
    ],
)
def test_errors_are_printed_tamely(argv: list[str], folder: Path) -> None:
    status, text = ends(argv)
    assert status == 2
    assert not {"\x1b", "\x9b", "\u202e", "\x07"} & set(text)


def test_html_in_texts_is_text(folder: Path) -> None:
    script = "<script>alert(1)</script>"
    code = f"def f(completions, **_): return [1.0] * len(completions)\nf.__name__ = {script!r}\n"
    (folder / "named.py").write_text(code)
    rows = [{"prompt": f"w{i} {script}"} for i in range(4)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, text = ends(["train", *GOOD["train"], "--reward", "named.py:f", "--out", f"run {script.replace('/', '')}"])
    assert status == 0, text
    (page,) = folder.glob("run*/report.html")
    assert "<script>alert" not in page.read_text(encoding="utf-8")


# --- the end of a command -----------------------------------------------------------------------------------------


def status_of(error: BaseException) -> int:
    with pytest.raises(SystemExit) as end, contextlib.redirect_stderr(io.StringIO()), exit_on_error():
        raise error
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotADirectoryError(errno.ENOTDIR, "not a directory"), 2),
        (PermissionError(errno.EACCES, "denied"), 2),
        (OSError(errno.EROFS, "read-only"), 2),
        (OSError(errno.ENAMETOOLONG, "too long"), 2),
        (OSError(errno.ENOSPC, "full"), 1),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), 2),
        (SettingError("seed=-1"), 2),
        (ImportError("lora needs peft: install textgym[lora]"), 2),
        (MemoryError("Unable to allocate 1 EiB"), 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1),
    ],
)
def test_what_is_wrong_outside_ends_with_a_message(error: BaseException, status: int) -> None:
    assert status_of(error) == status


@pytest.mark.parametrize(
    "error", [TypeError("x"), KeyError("x"), AssertionError(), RuntimeError("x"), RecursionError(), AttributeError("x")]
)
def test_a_bug_is_a_traceback(error: BaseException) -> None:
    with pytest.raises(type(error)), exit_on_error():
        raise error
    with pytest.raises(ModuleNotFoundError), exit_on_error():
        __import__("textgym.nothing")


def test_an_argument_that_is_no_text_is_refused() -> None:
    assert readable(["ü", "\x1b"]) == ["ü", "\x1b"]
    with pytest.raises(ValueError, match=r"argument 2, '--out=\\udcff', is not UTF-8"):
        readable(["train", "--out=\udcff"])


@pytest.mark.parametrize("columns", ["0", "1", "5", "30", "x"])
def test_help_in_a_narrow_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit, match="0"), contextlib.redirect_stdout(io.StringIO()) as text:
        parse(["optimum", "--help"])
    assert "--policy" in text.getvalue()
    assert os.environ["COLUMNS"] == columns


def textgym(*argv: str, folder: Path, **settings: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent), **settings}
    command = [sys.executable, "-m", "textgym.cli", *argv]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_locale_of_ascii(tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    out, error = textgym("train", "--help", folder=tmp_path, **ascii_only).communicate()
    assert b"--beta" in out
    assert not error
    process = textgym("train", "--out", "Wörter", "--prompts", "Wörter.jsonl", folder=tmp_path, **ascii_only)
    _, error = process.communicate()
    assert process.returncode == 2
    assert error.startswith(b"error: ")
    assert b"Traceback" not in error


def test_a_reader_who_leaves(tmp_path: Path) -> None:
    with textgym("pipeline", "--help", folder=tmp_path) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1


# --- YAML ---------------------------------------------------------------------------------------------------------

TEN = "abcdefghij"


def powers(level: str) -> str:
    """Ten times the line before, nine times over: written out they would fill any memory."""
    lines = [f"{one}: &{one} {level.format(', '.join([f'*{before}'] * 10))}" for before, one in pairwise(TEN)]
    return "\n".join([f"a: &a {level.format('x')}", *lines])


@pytest.mark.parametrize(
    "text",
    [
        powers("[{}]"),
        powers("{{k: 1, <<: [{}]}}").replace("<<: [x]", "x: 1"),
        "a: &a [*a]",
        "a: &a {b: *a}",
        DEEP,
        "{" * 5000,
        f"seed: {'9' * 5000}",
        "seed: 2024-99-99",
        "seed: !!python/object/apply:os.getcwd []",
        "seed: !!binary x",
        "x: \x00",
        "? [a]\n: b",
        "[1, 2]",
        "",
        "out: *nothing",
    ],
)
def test_yaml_that_is_no_settings(text: str, tmp_path: Path) -> None:
    path = tmp_path / "given.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"given\.yaml"):
        read_yaml(str(path))


def test_yaml_that_is_settings(tmp_path: Path) -> None:
    path = tmp_path / "given.yaml"
    path.write_text("base: &b {seed: 1, out: x}\nsft: {<<: *b, epochs: 2}\nlist: [1, *b]\nwords: " + str(["w"] * 5000))
    found = read_yaml(str(path))
    assert found["sft"] == {"seed": 1, "out": "x", "epochs": 2}
    assert len(found["words"]) == 5000
