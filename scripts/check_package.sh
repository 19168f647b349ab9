#!/usr/bin/env bash
# Does the package work for someone who has only the wheel?
# Build the sdist, build the wheel from the sdist, compare both with the checkout, install the wheel into a clean
# environment outside the checkout, and run the demo there.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(cd "$root" && command -v "${PYTHON:-python3}")
[[ $python = /* ]] || python=$root/$python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "package: building sdist and wheel"
"$python" -m build --outdir "$work/dist" "$root" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }

echo "package: comparing them with the checkout"
"$python" "$root/scripts/check_archives.py" "$root" "$work"/dist/*.tar.gz "$work"/dist/*.whl

echo "package: installing the wheel into a clean environment (minutes: torch is large)"
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -qq "$work"/dist/*.whl -c "$root/requirements/tested.txt"

echo "package: running it outside the checkout"
mkdir "$work/elsewhere"
cd "$work/elsewhere"
"$work/venv/bin/python" - <<'PYTHON'
import importlib.util

for name in ("agents", "rewards", "benchmarks"):
    assert importlib.util.find_spec(f"textgym.{name}"), f"textgym.{name} is not installed"
    assert not importlib.util.find_spec(name), f"{name} was installed under its bare name"
PYTHON
"$work/venv/bin/textgym" demo --tiny --out run
test -s run/report.html || { echo "package: the demo wrote no report.html" >&2; exit 1; }
echo "package: good"
