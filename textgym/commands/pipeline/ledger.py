"""``stages.json``: the state of each stage, and the fingerprints of its settings, inputs and outputs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from textgym.commands.pipeline.plan import Stage
from textgym.files import sha256, write_json
from textgym.reports.settings import changed_settings
from textgym.runs import settings_of

FILE = "stages.json"


class Ledger:
    """Record of the stages of a run.

    Args:
        out: the run.
        stages: as the settings plan them.
        resumed: True if the entries of the file still apply.
    """

    def __init__(self, out: Path, stages: Sequence[Stage], resumed: bool) -> None:
        self.out = out
        known = _read(out / FILE) if resumed else {}
        self.entries = {stage.name: {**self._named(stage), **_begun(known.get(stage.name, {}))} for stage in stages}

    def verify(self, stages: Sequence[Stage]) -> None:
        """Check every stage that was begun, in order, against the settings and files of now.

        Raises:
            ValueError: a stage was told something else, or a file that it read or wrote was changed or is missing.
        """
        for stage in stages:
            entry = self.entries[stage.name]
            if "settings" not in entry:
                continue
            where = f"stage {stage.name!r} in {str(stage.config.out)!r}"
            if difference := changed_settings(entry["settings"], settings_of(stage.config)):
                raise ValueError(
                    f"{where} was made with other settings ({difference}); repeat them, or begin anew with --overwrite"
                )
            _compare(f"{where} read", entry["inputs"], self._fingerprints(stage.inputs))
            if self.is_complete(stage):
                _compare(f"{where} wrote", entry["outputs"], self._fingerprints(_outputs(stage)))

    def is_complete(self, stage: Stage) -> bool:
        """Return True if the stage was completed."""
        return bool(self.entries[stage.name]["complete"])

    def begin(self, stage: Stage) -> None:
        """Record the settings and inputs of a stage that begins."""
        entry = self.entries[stage.name]
        entry |= {"settings": settings_of(stage.config), "inputs": self._fingerprints(stage.inputs)}
        self.save()

    def complete(self, stage: Stage) -> None:
        """Record a stage as complete, with its outputs."""
        self.entries[stage.name] |= {"complete": True, "outputs": self._fingerprints(_outputs(stage))}
        self.save()

    def save(self) -> None:
        """Write the file."""
        write_json(self.out / FILE, list(self.entries.values()))

    def _named(self, stage: Stage) -> dict[str, Any]:
        return {
            "name": stage.name,
            "kind": stage.kind,
            "directory": self._relative(stage.config.out),
            "iteration": stage.iteration,
            "complete": False,
        }

    def _fingerprints(self, paths: Iterable[Path]) -> dict[str, str]:
        """Return the SHA-256 of each file, and of every file in each directory; what is not there is left out."""
        files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        return {self._relative(file): sha256(file) for file in files if file.is_file()}

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self.out) if path.is_relative_to(self.out) else path)


def _outputs(stage: Stage) -> list[Path]:
    return [stage.config.out / name for name in stage.outputs]


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    return {entry["name"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))}


def _begun(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("complete", "settings", "inputs", "outputs") if name in entry}


def _compare(what: str, then: Mapping[str, str], now: Mapping[str, str]) -> None:
    for file in sorted({*then, *now}):
        old, new = then.get(file), now.get(file)
        if old != new:
            became = "is missing" if new is None else "was not there" if old is None else "is another file now"
            raise ValueError(
                f"{what} {file}, which {became} (SHA-256 {_short(old)} then, {_short(new)} now); put it back, or begin "
                "anew with --overwrite"
            )


def _short(digest: str | None) -> str:
    return "none" if digest is None else f"{digest[:12]}…"
