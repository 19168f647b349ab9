"""Compare an sdist and a wheel with the checkout: every file of the package is there, and is a real file.

Usage: python check_archives.py ROOT SDIST WHEEL
"""

from __future__ import annotations

import os
import sys
import tarfile
import zipfile
from pathlib import Path

RESULTS = "textgym/benchmarks/results/"
"""Published runs and their report: no code reads them."""


def package_files(root: Path) -> set[str]:
    """Return the files under ``textgym/``, its links followed, as ``textgym/agents/...``, but for the results."""
    found = {
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root / "textgym", followlinks=True)
        for name in names
        if "__pycache__" not in folder and not name.startswith(".")
    }
    return {name for name in found if not name.startswith(RESULTS)}


def sdist_files(path: Path) -> set[str]:
    """Return the regular files of an sdist, without its leading ``textgym-VERSION/``; a link is not a regular file."""
    with tarfile.open(path) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def wheel_files(path: Path) -> set[str]:
    """Return the files of a wheel."""
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def main(root: Path, sdist: Path, wheel: Path) -> None:
    expected, packed, installed = package_files(root), sdist_files(sdist), wheel_files(wheel)
    for name, files in ((sdist.name, packed), (wheel.name, installed)):
        if missing := sorted(expected - files):
            sys.exit(f"{name} lacks {len(missing)} files of the package; see package-data: {', '.join(missing)}")
    foreign = sorted({name.partition("/")[0] for name in installed} - {"textgym"})
    if results := sorted(name for name in packed | installed if RESULTS in name):
        sys.exit(f"published results would be installed; see packages.find: {', '.join(results)}")
    if unwanted := [name for name in foreign if not name.endswith(".dist-info")]:
        sys.exit(f"{wheel.name} would install {unwanted} beside textgym")
    print(f"package: {len(expected)} files, all in {sdist.name} and in {wheel.name}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
