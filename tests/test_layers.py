"""The house's rules, read from the source: what imports what, who names hloc and pycolmap, 0.5."""

import ast
import graphlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import d2_hloc

ROOT = Path(d2_hloc.__file__).parent
TREES = {path: ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}
PACKAGE = "__init__"  # the public names
LAYERS = [
    "core",
    "files",
    "network",
    "features",
    "matching",
    "refinement",
    "sfm",
    "reports",
    "mvs",
    "training",
    "benchmarks",
    "hloc extractors matchers",
    PACKAGE,
    "app",
    "__main__",
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms.split()}
# Rooms that the plugin may stand on.
BELOW_HLOC = ["core", "files", "network", "features", "matching", "refinement"]
# A command of structure from motion, which the plugin does not import.
VERIFICATION = "hloc/geometric_verification.py"

# 0.5 in a sum, and yet no coordinate.
OTHER_HALVES = {
    "app/scene/texture.py": "grey values of noise around their mean",
}


def room_of(path):
    """The folder of the package that a file belongs to, or a file beside the folders."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_names(tree):
    """Full names of all that is imported, wherever in the file: 'd2_hloc.matching.pairs.Pair'."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where things come from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield ast.unparse(node.args[0]).lstrip("f").strip("'\"")


def own_imports(path):
    """The rooms that a file imports from."""
    for name in imported_names(TREES[path]):
        first, *rest = name.split(".")
        if first == "d2_hloc":
            yield rest[0] if rest and rest[0] in LEVEL else PACKAGE


def test_the_walk_sees_what_is_imported():
    found = set(imported_names(TREES[ROOT / "hloc" / "plugin.py"]))
    assert {"h5py", "functools", "pathlib.Path", "hloc.{name}"} <= found
    assert set(own_imports(ROOT / "network" / "d2net.py")) == {"core", "network"}
    assert set(own_imports(ROOT / "app" / "cli.py")) >= {PACKAGE, "app", "mvs"}


def test_every_room_has_its_layer():
    assert {room_of(path) for path in TREES} == set(LEVEL)


def test_rooms_are_small():
    for folder in {path.parent for path in TREES}:
        assert len([path for path in folder.glob("*.py") if path.stem != PACKAGE]) <= 20, folder


@pytest.mark.parametrize("path", TREES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    room = room_of(path)
    allowed = {other for other in LEVEL if LEVEL[other] <= LEVEL[room]}
    if LEVEL[room] == LEVEL["hloc"]:
        allowed = {"hloc", "extractors", "matchers", *BELOW_HLOC}
        allowed |= {"sfm"} if path == ROOT / VERIFICATION else set()
    for imported in own_imports(path):
        assert imported in allowed, f"{room} imports {imported}"


def test_files_import_each_other_in_no_circle():
    names = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in TREES}
    names = {name.removesuffix(f".{PACKAGE}"): path for name, path in names.items()}
    graph = {}
    for name, path in names.items():
        found = {n if n in names else n.rpartition(".")[0] for n in imported_names(TREES[path])}
        graph[name] = {n for n in found if n in names} - {name, "d2_hloc"}
    list(graphlib.TopologicalSorter(graph).static_order())


def files_that_import(package):
    return {
        str(path.relative_to(ROOT))
        for path, tree in TREES.items()
        if any(name.split(".")[0] == package for name in imported_names(tree))
    }


def test_only_these_files_import_hloc():
    known = {"hloc/base_model.py", "hloc/plugin.py", "hloc/geometries.py", "hloc/__main__.py"}
    assert files_that_import("hloc") <= known | {"features/adapters/hloc_confs.py"}
    assert {"hloc/base_model.py", "hloc/plugin.py"} <= files_that_import("hloc")


def test_only_the_guard_opens_hdf5_to_read():
    """Files of strangers hold what h5py follows to other files; hloc's own are written by hloc."""
    for path, tree in TREES.items():
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
        opened = [n for n in calls if ast.unparse(n.func) == "h5py.File"]
        modes = [n.args[1].value if len(n.args) > 1 else "r" for n in opened]
        if path != ROOT / "files" / "hdf5_guard.py":
            assert set(modes) <= {"a", "w"}, path


def test_only_colmap_imports_pycolmap():
    assert files_that_import("pycolmap") == {"files/colmap.py"}


def test_only_the_cluster_imports_ray_and_only_when_it_is_asked_for():
    assert files_that_import("ray") == {"files/ray.py"}
    body = TREES[ROOT / "files" / "ray.py"].body
    assert "import ray" not in map(ast.unparse, body)


def test_zlib_comes_before_pycolmap():
    """The other order aborts the process at the next use of zlib."""
    names = list(imported_names(TREES[ROOT / "files" / "colmap.py"]))
    assert names.index("zlib") < names.index("pycolmap")
    assert "zlib" in imported_names(TREES[ROOT / "__init__.py"])


def halves_in_sums(tree):
    """Lines that add or subtract 0.5."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
            terms = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.value]
            if any(isinstance(term, ast.Constant) and term.value == 0.5 for term in terms):
                yield node.lineno


def test_only_pixels_shifts_coordinates_by_a_half():
    assert list(halves_in_sums(TREES[ROOT / "core" / "pixels.py"]))
    for path, tree in TREES.items():
        name = str(path.relative_to(ROOT))
        if name != "core/pixels.py" and name not in OTHER_HALVES:
            assert not list(halves_in_sums(tree)), name


def test_the_only_half_beside_the_networks_coordinates_is_the_limit_of_a_step():
    for name in (
        "network/backbone",
        "network/description",
        "network/pyramid",
        "core/images",
        "files/features_h5",
        "features/adapters/sift",
        "sfm/cameras/camera_lines",
        "sfm/cameras/sharing",
    ):
        assert 0.5 not in constants(TREES[ROOT / f"{name}.py"]), name
    assert constants(TREES[ROOT / "network" / "detection.py"]).count(0.5) == 1  # MAX_STEP, in cells


def constants(tree):
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]


@pytest.fixture(scope="module")
def after_import(tmp_path_factory):
    """The doings of a fresh process in `import d2_hloc`, in a folder and home of its own."""
    code = """
        import json, logging, os, sys

        events = []

        def hook(event, args):
            if event == "open":
                path, mode, flags = args
                is_writing = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
                if is_writing and str(path) != os.devnull:
                    events.append(f"write {path}")
            elif event.split(".")[0] in ("socket", "urllib") or event in ("os.mkdir", "os.putenv"):
                events.append(event)

        import torch
        state, threads = torch.get_rng_state(), torch.get_num_threads()
        sys.addaudithook(hook)
        import d2_hloc
        done = {
            "events": events,
            "modules": sorted(m for m in sys.modules if m.split(".")[0] in ("pycolmap", "hloc")),
            "cuda": torch.cuda.is_initialized(),
            "handlers": len(logging.getLogger().handlers + logging.getLogger("d2_hloc").handlers),
            "random": bool((state == torch.get_rng_state()).all()),
            "threads": threads == torch.get_num_threads(),
            "precision": str(torch.get_default_dtype()),
            "gradients": torch.is_grad_enabled(),
        }
        print(json.dumps(done))
    """
    folder = tmp_path_factory.mktemp("home")
    environment = os.environ | {
        "HOME": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(ROOT.parent),
    }
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=folder, env=environment
    )
    return json.loads(done.stdout), done.stderr, folder


def test_an_import_writes_nothing_and_asks_nobody(after_import):
    done, _, folder = after_import
    assert done["events"] == []
    assert list(folder.rglob("*")) == []


def test_an_import_starts_neither_pycolmap_nor_hloc_nor_a_gpu(after_import):
    done, _, _ = after_import
    assert done["modules"] == []
    assert done["cuda"] is False


def test_an_import_is_silent_and_leaves_torch_and_logging_alone(after_import):
    done, messages, _ = after_import
    assert messages == ""
    assert done["handlers"] == 0
    assert done["random"]
    assert done["threads"]
    assert done["precision"] == "torch.float32"
    assert done["gradients"]


HEAVY = ["torch", "numpy", "scipy", "h5py", "pycolmap", "kornia", "plotly", "matplotlib", "PIL"]


def loaded_by(code):
    """The heavy packages that a fresh process has loaded after some lines."""
    lines = [
        "import contextlib, io, sys",
        "sys.argv[0] = 'd2-hloc'",
        "from d2_hloc.app.cli import main" if "main" in code else "",
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):",
        f"    {code}",
        f"print(*[m for m in {HEAVY} if m in sys.modules])",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT.parent)}
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return done.stdout.split(), done.stderr


def test_an_import_loads_nothing_heavy_before_a_name_is_asked_for():
    assert loaded_by("import d2_hloc")[0] == []
    assert loaded_by("import d2_hloc; d2_hloc.MatchingOptions")[0] == []
    assert "torch" in loaded_by("import d2_hloc; d2_hloc.Features")[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--help"], ""),
        (["--version"], ""),
        (["reconstruct", "--help"], ""),
        (["reconstruct", "IMAGES"], "required: OUTPUT"),
        (["reconstruct", "IMAGES", "OUT", "--matcher", "lightglue", "--ratio", "1"], "--ratio is"),
        (["reconstruct", "IMAGES", "OUT", "--resize-max", "0"], "resize_max must be from 1"),
        (["reconstruct", "IMAGES", "OUT", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["pair", "A.jpg", "B.jpg", "--engine", "ray"], "unrecognized arguments"),
        (["dense", "MODEL", "OUT", "--max-image-size", "3"], "max_image_size must be"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_mistakes_are_told_before_anything_heavy_is_loaded(arguments, said):
    loaded, errors = loaded_by(f"main({arguments})")
    assert loaded == []
    assert said in errors


def test_every_public_name_is_there():
    assert sorted(d2_hloc.__all__) == d2_hloc.__all__
    assert set(d2_hloc.__all__) <= set(dir(d2_hloc))
    for name in d2_hloc.__all__:
        assert getattr(d2_hloc, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = d2_hloc.nothing
