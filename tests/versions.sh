#!/usr/bin/env bash
# A smoke test with other versions, in an environment of its own, which takes gigabytes and minutes:
#     bash tests/versions.sh oldest [PYTHON]     # what setup.cfg promises
#     bash tests/versions.sh newest [PYTHON]     # what pip finds for this Python
set -euo pipefail
cd "$(dirname "$0")/.."
WHICH=$1 PYTHON=${2:-python3}
FOLDER=$(mktemp -d)
trap 'rm -rf "$FOLDER"' EXIT
mkdir "$FOLDER/source"
git archive HEAD | tar -x -C "$FOLDER/source"  # and nothing that an earlier build has left
"$PYTHON" -m venv "$FOLDER/venv"
. "$FOLDER/venv/bin/activate"
unset PYTHONPATH
python - "$WHICH" > "$FOLDER/pins.txt" <<'PYTHON_CODE'
import configparser, re, sys

config = configparser.ConfigParser()
config.read("setup.cfg")
if sys.argv[1] == "oldest":
    for line in config["options"]["install_requires"].split():
        name, lowest = re.fullmatch(r"([\w.-]+)>=([\d.]+)", line).groups()
        parts = (lowest.split(".") + ["0"])[:2] if lowest.count(".") < 2 else lowest.split(".")
        print(f"{name}=={'.'.join(parts)}{'.*' if len(parts) < 3 else ''}")
PYTHON_CODE
touch "$FOLDER/constraints.txt"
MISSING=()
while read -r PIN; do
  if pip install -q --dry-run --no-deps --only-binary :all: "$PIN" >/dev/null 2>&1; then
    echo "$PIN" | tee -a "$FOLDER/constraints.txt"
  else
    MISSING+=("$PIN")
  fi
done < "$FOLDER/pins.txt"
pip install -q --prefer-binary -c "$FOLDER/constraints.txt" "$FOLDER/source" pytest hypothesis
pip list | grep -iE "^(torch|torchvision|numpy|scipy|pycolmap|h5py|kornia|pillow|poselib|pyceres) " || true
python --version
mkdir "$FOLDER/tested"
cd "$FOLDER/source"
cp -r tests configs pipelines docs README.md setup.cfg pyproject.toml mkdocs.yml "$FOLDER/tested"  # and not the package
cd "$FOLDER/tested"
python -m pytest -q -p no:cacheprovider -o addopts=--import-mode=importlib tests/network/test_reference.py \
    tests/network/test_d2net.py tests/network/test_weights.py tests/matching/test_nearest.py tests/files \
    tests/core tests/sfm/test_left_out.py tests/sfm/test_adjustment.py tests/sfm/test_reconstruction.py \
    tests/mvs/test_dense_masks.py
d2-hloc doctor
[ ${#MISSING[@]} = 0 ] || echo "tested with newer ones, as pip has no wheel of them for this Python: ${MISSING[*]}"
echo "all is well with $WHICH versions on $(python --version)"
