"""Files and directories: whole or not at all, whatever another process left or planted there."""

from __future__ import annotations

import json
import os
import shutil
from itertools import product
from pathlib import Path

import pytest

from textgym import files
from textgym.files import (
    append_line,
    fingerprint,
    json_lines,
    parse_json,
    read_json,
    read_json_lines,
    remove_directory,
    replaced_directory,
    settle,
    settle_all,
    standing,
    verify_manifest,
    write_json,
    write_manifest,
    write_text,
)

SCRATCH = ".checkpoint.0123abcd.scratch"


def filled(directory: Path, text: str, whole: bool = True) -> None:
    directory.mkdir(parents=True)
    (directory / "weights").write_text(text)
    if whole:
        write_manifest(directory)


@pytest.mark.parametrize(("target", "new", "old"), [*product([True, False], ["whole", "half", ""], [True, False])])
@pytest.mark.parametrize("everything", [True, False])
def test_settling_ends_in_a_whole_state(tmp_path: Path, target: bool, new: str, old: bool, everything: bool) -> None:
    """Every state that a process can die in: the newer one wins if it is whole and the target is gone."""
    scratch = tmp_path / SCRATCH
    scratch.mkdir()
    if target:
        filled(tmp_path / "checkpoint", "standing")
    if new:
        filled(scratch / "new", "newer", whole=new == "whole")
    if old:
        filled(scratch / "old", "older")
    if everything:
        settle_all(tmp_path)
    else:
        settle(tmp_path / "checkpoint")
    expected = "standing" if target else "newer" if new == "whole" else "older" if old else None
    assert [path.name for path in tmp_path.iterdir()] == ([] if expected is None else ["checkpoint"])
    if expected:
        assert (tmp_path / "checkpoint" / "weights").read_text() == expected


def test_settling_leaves_what_is_not_ours(tmp_path: Path) -> None:
    for name in (".env.local", ".gitignore", "checkpoint.scratch", ".notes.new", ".other.0123abcd.scratch"):
        (tmp_path / name).write_text("mine")
    settle(tmp_path / "checkpoint")
    assert len(list(tmp_path.iterdir())) == 5
    settle_all(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [".env.local", ".gitignore", "checkpoint.scratch", ".notes.new"]
    )


def test_a_planted_link_is_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    filled(outside, "precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / SCRATCH).symlink_to(outside)
    (tmp_path / "run" / ".config.json.new").symlink_to(outside / "weights")
    settle_all(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    assert (outside / "weights").read_text() == "precious"


def test_scratch_names_cannot_be_foreseen_and_are_made_exclusively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "victim").write_text("precious")
    monkeypatch.setattr("textgym.files.secrets.token_hex", lambda _: "0123abcd")  # an attacker who guessed it
    (tmp_path / ".a.json.0123abcd.scratch").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "a.json", "{}")
    assert (tmp_path / "victim").read_text() == "precious"
    (tmp_path / SCRATCH).symlink_to(tmp_path)
    with pytest.raises(FileExistsError), replaced_directory(tmp_path / "checkpoint"):
        pass
    monkeypatch.undo()
    names = {files._scratch(tmp_path / "a").name for _ in range(100)}
    assert len(names) == 100


def test_a_block_that_fails_changes_nothing(tmp_path: Path) -> None:
    filled(tmp_path / "checkpoint", "standing")

    def replace() -> None:
        with replaced_directory(tmp_path / "checkpoint") as scratch:
            (scratch / "weights").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert (tmp_path / "checkpoint" / "weights").read_text() == "standing"


def test_an_interrupt_between_the_renames_ends_in_the_newer_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path / "checkpoint", "older")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        moved = rename(self, target)
        if Path(target).name == "old":
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), replaced_directory(tmp_path / "checkpoint") as scratch:
        (scratch / "weights").write_text("newer")
    assert (tmp_path / "checkpoint" / "weights").read_text() == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_directory_is_never_half_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "checkpoint-1", "older")
    with monkeypatch.context() as patch:
        patch.setattr("textgym.files.shutil.rmtree", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            remove_directory(tmp_path / "checkpoint-1")
    assert not (tmp_path / "checkpoint-1").exists()
    settle_all(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    name = "x" * 251 + ".txt"
    write_text(tmp_path / name, "a")
    write_text(tmp_path / name, "b")
    assert (tmp_path / name).read_text() == "b"
    with replaced_directory(tmp_path / ("y" * 255)) as scratch:
        (scratch / "weights").write_text("w")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("9" * 5000, "is not JSON: Exceeds the limit"),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        ('{"a": "\\uD83D and \\uDE00"}', "half a surrogate pair"),
        ('{"a": ', "is not JSON"),
        ("", "is not JSON"),
    ],
)
def test_json_of_anybody_is_read_or_refused_by_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(text, "here, line 3")
    assert str(caught.value).startswith("here, line 3")
    path.write_text(f'{{"b": 1}}\n\n{text or "{"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3"):
        read_json_lines(path)


def test_json_that_is_whole(tmp_path: Path) -> None:
    assert parse_json('"\\ud83d\\ude00"', "here") == "😀"
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": "\xe2\x80\xa8"}\n')
    assert read_json_lines(path) == [(1, {"a": 1}), (3, {"a": "\u2028"})]  # a line separator ends no line
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"a\.jsonl is not UTF-8"):
        read_json(path)
    write_json(path, {"half": "\ud800", "whole": "ä"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"half": "\ud800", "whole": "ä"}


@pytest.mark.parametrize("content", ["[1]", '{"../../etc/passwd": "0"}', '{"/etc/passwd": "0"}', "{", "[" * 100_000])
def test_a_manifest_that_somebody_wrote_is_no_key(tmp_path: Path, content: str) -> None:
    filled(tmp_path / "checkpoint", "w")
    (tmp_path / "checkpoint" / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        verify_manifest(tmp_path / "checkpoint")


def test_fingerprints_are_of_names_and_contents(tmp_path: Path) -> None:
    filled(tmp_path / "a", "w", whole=False)
    filled(tmp_path / "b", "w", whole=False)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    (tmp_path / "b" / ".git").mkdir()
    (tmp_path / "b" / ".git" / "HEAD").write_text("main")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    (tmp_path / "b" / "weights").rename(tmp_path / "b" / "renamed")
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


def test_lines_are_added(tmp_path: Path) -> None:
    append_line(tmp_path / "a", "1")
    append_line(tmp_path / "a", "2")
    assert (tmp_path / "a").read_text() == "1\n2\n"


def test_a_line_that_does_not_fit_on_the_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = tmp_path / "results.jsonl", os.write
    append_line(path, '{"first": 1}')
    before = path.read_bytes()
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:5]))
    with pytest.raises(OSError, match=r"results.jsonl: 5 of 14 bytes could be written"):
        append_line(path, '{"second": 2}')
    assert path.read_bytes() == before


def test_a_damaged_line_and_a_torn_one_are_told_apart(tmp_path: Path) -> None:
    """The reader says of each line what is wrong with it; each caller decides what that costs."""
    text = '{"a": 1}\n{"b": \n\n[2]\n{"c": 3}'
    lines = list(json_lines(text, "runs.jsonl"))
    assert [line.number for line in lines] == [1, 2, 4, 5]  # the third is blank
    assert [line.value for line in lines] == [{"a": 1}, None, [2], {"c": 3}]
    assert [line.torn for line in lines] == [False, False, False, True]  # no line feed ends the last one
    assert [line.text for line in lines] == ['{"a": 1}', '{"b": ', "[2]", '{"c": 3}']
    assert "runs.jsonl, line 2 is not JSON" in str(lines[1].error)
    assert all(line.error is None for line in (lines[0], *lines[2:]))
    assert list(json_lines("", "empty.jsonl")) == []


# --- readers and other writers beside a writer -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["checkpoint", "x" * 200, "字" * 84])
def test_a_reader_changes_nothing_and_finds_the_whole_state(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two renames there is no target; before and after them the writer's scratch directory is in use."""
    target = tmp_path / name
    filled(target, "older")
    seen: list[str] = []
    rename = Path.rename

    def read(self: Path, to: Path) -> Path:
        seen.append((standing(target) / "weights").read_text())
        moved = rename(self, to)
        seen.append((standing(target) / "weights").read_text())
        return moved

    monkeypatch.setattr(Path, "rename", read)
    with replaced_directory(target) as scratch:
        (scratch / "weights").write_text("newer")
        assert (standing(target) / "weights").read_text() == "older"
    # manifest.json takes its place by Path.replace; the two renames are those of the directories.
    assert seen == ["older", "newer", "newer", "newer"]
    assert (target / "weights").read_text() == "newer"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_long_names_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    one, other = tmp_path / ("x" * 120 + "1"), tmp_path / ("x" * 120 + "2")
    filled(other, "other")
    scratch = files._scratch(other)
    filled(scratch / "new", "newer")
    shutil.move(other, scratch / "old")
    settle(one)
    assert not one.exists()
    settle_all(tmp_path)  # which cannot know whose it is
    settle(other)
    assert (other / "weights").read_text() == "newer"


def test_a_users_own_hidden_directory_stays(tmp_path: Path) -> None:
    filled(tmp_path / ".checkpoint.backup", "mine")
    filled(tmp_path / "checkpoint", "w")
    settle(tmp_path / "checkpoint")
    settle_all(tmp_path)
    assert (tmp_path / ".checkpoint.backup" / "weights").read_text() == "mine"
