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
    "structs threads pixels textfile model_files folder_lock bounded_cache config colmap",
    "images backbone winograd detection description pyramid weights searchable neighbours "
    "matching metrics staging shards storage merging record pairs cameras tracks adjustment "
    "refinement scene datasets training accuracy_cache stereo verification projection cluster",
    "d2net sift",
    "adapters",
    "extraction compression pair_matching image_maps keypoint_refinement track_refinement "
    "reconstruction localization evaluation homography_scores relative_pose pairing dense "
    "dense_workspace dense_statistics training_scene aachen_results scan_points inloc_cameras "
    "inloc_retrieval inloc_poses inloc_localization dense_verification pose_verification "
    "inloc_scores polishing cluster_steps dense_shards",
    "drawing charts report plots",
    "runs query_runs aachen_run aachen_report presentation demo hpatches_results hpatches_report "
    "relative_pose_report training_report inloc_report lfe_run lfe_report "
    "dense_report",
    "base_model own_runner plugin hloc extractors matchers",
    PACKAGE,
    "command arguments cli __main__",
]
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules.split()}
MODULES = {path.stem if path.is_file() else path.name for path in ROOT.iterdir()}

# 0.5 in a sum, and yet no coordinate.
OTHER_HALVES = {
    "scene/texture.py": "grey values of noise around their mean",
}


def module_of(path):
    """The part of the package that a file belongs to: a module, or a folder."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_names(tree):
    """Full names of all that is imported, wherever in the file: 'd2_hloc.pairs.Pair'."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where things come from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield ast.unparse(node.args[0]).lstrip("f").strip("'\"")


def own_imports(path):
    """The parts of the package that a file imports."""
    for name in imported_names(TREES[path]):
        first, *rest = name.split(".")
        if first == "d2_hloc":
            yield rest[0] if rest and rest[0] in MODULES else PACKAGE


def test_the_walk_sees_what_is_imported():
    found = set(imported_names(TREES[ROOT / "plugin.py"]))
    assert {"h5py", "functools", "pathlib.Path", "hloc.{name}"} <= found
    assert set(own_imports(ROOT / "d2net.py")) >= {"weights", "backbone", "pixels", "structs"}
    assert set(own_imports(ROOT / "cli.py")) >= {PACKAGE, "config"}


def test_every_module_has_its_layer():
    assert {module_of(path) for path in TREES} <= set(LEVEL)


@pytest.mark.parametrize("path", TREES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    module = module_of(path)
    for imported in own_imports(path):
        assert LEVEL[imported] <= LEVEL[module], f"{module} imports {imported}"


def test_imports_have_no_cycle():
    graph = {}
    for path in TREES:
        module = module_of(path)
        graph.setdefault(module, set()).update(set(own_imports(path)) - {module})
    list(graphlib.TopologicalSorter(graph).static_order())


def files_that_import(package):
    return {
        str(path.relative_to(ROOT))
        for path, tree in TREES.items()
        if any(name.split(".")[0] == package for name in imported_names(tree))
    }


def test_only_these_files_import_hloc():
    known = {"base_model.py", "plugin.py", "hloc.py", "adapters/hloc.py"}
    assert files_that_import("hloc") <= known
    assert {"base_model.py", "plugin.py"} <= files_that_import("hloc")


def test_only_colmap_imports_pycolmap():
    assert files_that_import("pycolmap") == {"colmap.py"}


def test_only_the_cluster_imports_ray_and_only_when_it_is_asked_for():
    assert files_that_import("ray") == {"cluster.py"}
    body = TREES[ROOT / "cluster.py"].body
    assert "import ray" not in map(ast.unparse, body)


def test_zlib_comes_before_pycolmap():
    """The other order aborts the process at the next use of zlib."""
    names = list(imported_names(TREES[ROOT / "colmap.py"]))
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
    assert list(halves_in_sums(TREES[ROOT / "pixels.py"]))
    for path, tree in TREES.items():
        name = str(path.relative_to(ROOT))
        if name != "pixels.py" and name not in OTHER_HALVES:
            assert not list(halves_in_sums(tree)), name


def test_the_only_half_beside_the_networks_coordinates_is_the_limit_of_a_step():
    for name in ("backbone", "description", "pyramid", "images", "storage", "sift", "cameras"):
        assert 0.5 not in constants(TREES[ROOT / f"{name}.py"]), name
    assert constants(TREES[ROOT / "detection.py"]).count(0.5) == 1  # MAX_STEP, in cells


def constants(tree):
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]


@pytest.fixture(scope="module")
def after_import(tmp_path_factory):
    """What a fresh process has done after `import d2_hloc`, in a folder and home of its own."""
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


def test_every_public_name_is_there():
    assert sorted(d2_hloc.__all__) == d2_hloc.__all__
    assert all(hasattr(d2_hloc, name) for name in d2_hloc.__all__)
