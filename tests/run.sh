#!/usr/bin/env bash
# Install the package with what its tests need into the active environment; lint; check types; test.
set -euo pipefail
cd "$(dirname "$0")/.."
# Of the libraries' 17,000 files what is imported is compiled, once for all processes: not all of
# them by pip, which takes half a minute.
export PYTHONDONTWRITEBYTECODE=
pip install -q --no-compile -e '.[test]'
pip install -q --no-compile -e '.[ray]' || echo "Ray cannot be installed here: its tests are skipped"
ruff check .
ruff format --check .
pyright
# Two processes of one thread each: threads that share every operation wait for each other.
OMP_NUM_THREADS=1 python -m pytest --check-shapes -n 2 --dist loadfile --no-loadscope-reorder \
  -m "not slow or ci" "$@"
if pip install -q --no-compile -e '.[docs]'; then
  NO_MKDOCS_2_WARNING=1 mkdocs build --strict -q
else
  echo "MkDocs cannot be installed here: the pages are not built"
fi
