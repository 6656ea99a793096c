"""An hloc to run commands with: a stand-in, the real one where it is installed, or none."""

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from loaded_process import run_with_libraries
from PIL import Image

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "hloc" / "hloc_stand_in"
PAIRS = [("a.png", "b.png"), ("a.png", "wide.png")]


@dataclass(frozen=True)
class Toolbox:
    """An hloc, or its absence: how Python finds it, and what keeps it from being found."""

    path: Path | None = None
    is_absent: bool = False

    @classmethod
    def named(cls, name: str) -> "Toolbox":
        """The stand-in, or the real one; the test that asks for it is skipped where it is not."""
        if name == "stand-in":
            return STOOD_IN
        spec = importlib.util.find_spec("hloc")
        if spec is None or spec.origin is None:
            pytest.skip("hloc is not installed")
        return cls()

    def python(self, code: str, *arguments: object) -> CompletedProcess[str]:
        """Run code in a process of its own."""
        absent = "import sys; sys.modules['hloc'] = None\n" if self.is_absent else ""
        with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
            script.write(absent + code)
            script.flush()
            paths = [path for path in (self.path, ROOT) if path]
            return run_with_libraries([script.name, *arguments], paths)

    def command(self, *arguments: object) -> CompletedProcess[str]:
        """`python -m d2_hloc.hloc arguments...`"""
        code = "import runpy; runpy.run_module('d2_hloc.hloc', run_name='__main__', alter_sys=True)"
        return self.python(code, *arguments)


ABSENT = Toolbox(is_absent=True)
STOOD_IN = Toolbox(path=STAND_IN)


def photographs(folder: Path) -> Path:
    """Two photographs with much in common, and one that is wider than hloc's confs allow."""
    from skimage import data

    astronaut, coffee = data.astronaut(), data.coffee()
    Image.fromarray(astronaut[20:205, 100:331]).save(folder / "a.png")
    Image.fromarray(astronaut[28:213, 112:343]).save(folder / "b.png")
    wide = np.tile(coffee[150:230], (1, 3, 1))[:, :1700]
    Image.fromarray(np.ascontiguousarray(wide)).save(folder / "wide.png")
    (folder / "pairs.txt").write_text("\n".join(" ".join(pair) for pair in PAIRS))
    return folder
