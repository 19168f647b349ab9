"""Print the lowest version that pyproject.toml allows of each direct dependency, as constraints for pip.

    python scripts/lowest_versions.py > lowest.txt
    pip install -e ".[dev]" -c lowest.txt
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
BOUND = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?>=(?P<version>[^,; ]+)")


def lowest_versions(project: dict[str, object]) -> list[str]:
    """Returns ``name==version`` for every requirement with a lower bound, those of the extras included."""
    dependencies = project["dependencies"]
    extras = project["optional-dependencies"]
    assert isinstance(dependencies, list)
    assert isinstance(extras, dict)
    requirements = [*dependencies, *(text for extra in extras.values() for text in extra)]
    found = (BOUND.match(text) for text in requirements)
    return [f"{bound['name']}=={bound['version']}" for bound in found if bound]


if __name__ == "__main__":
    print("\n".join(lowest_versions(tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"])))
