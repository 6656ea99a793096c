#!/usr/bin/env bash
# A smoke test with other versions, in an environment of its own, which takes gigabytes and minutes:
#     bash tests/versions.sh oldest [PYTHON]     # what setup.cfg promises
#     bash tests/versions.sh newest [PYTHON]     # what pip finds for this Python
set -e
cd "$(dirname "$0")/.."
WHICH=$1 PYTHON=${2:-python3}
FOLDER=$(mktemp -d)
trap 'rm -rf "$FOLDER"' EXIT
"$PYTHON" -m venv "$FOLDER/venv"
. "$FOLDER/venv/bin/activate"
python - "$WHICH" > "$FOLDER/constraints.txt" <<'PYTHON_CODE'
import configparser, re, sys

config = configparser.ConfigParser()
config.read("setup.cfg")
if sys.argv[1] == "oldest":
    for line in config["options"]["install_requires"].split():
        name, lowest = re.fullmatch(r"([\w.-]+)>=([\d.]+)", line).groups()
        parts = (lowest.split(".") + ["0"])[:2] if lowest.count(".") < 2 else lowest.split(".")
        print(f"{name}=={'.'.join(parts)}{'.*' if len(parts) < 3 else ''}")
PYTHON_CODE
cat "$FOLDER/constraints.txt"
pip install -q -c "$FOLDER/constraints.txt" . pytest hypothesis
pip list | grep -iE "^(torch|torchvision|numpy|scipy|pycolmap|h5py|kornia|pillow|python) " || true
python --version
cp -r tests configs pipelines docs README.md setup.cfg pyproject.toml mkdocs.yml "$FOLDER"  # and not the package
cd "$FOLDER"
python -m pytest -q -p no:cacheprovider -o addopts=--import-mode=importlib tests/network/test_reference.py \
    tests/network/test_d2net.py tests/network/test_weights.py tests/matching/test_nearest.py tests/files \
    tests/core tests/sfm/test_left_out.py tests/sfm/test_reconstruction.py tests/mvs/test_dense_masks.py
d2-hloc doctor
echo "all is well with $WHICH versions on $(python --version)"
