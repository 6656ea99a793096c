#!/usr/bin/env bash
# Install the package with what its tests need into the active environment; lint; check types; test.
set -euo pipefail
cd "$(dirname "$0")/.."
pip install -q -e '.[test]'
pip install -q -e '.[ray]' || echo "Ray cannot be installed here: its tests are skipped"
ruff check .
ruff format --check .
pyright
python -m pytest -m "not slow or ci" "$@"
