"""Damaged files by hypothesis, and what every reader promises: a value, or the package's own error.

HYPOTHESIS_PROFILE=long runs as many examples as FUZZ_EXAMPLES says (2000), new ones every time; the
default, ci, a few that are always the same.
"""

import os
import re
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from d2_hloc.files.colmap import pycolmap

CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
_common = {"deadline": None, "suppress_health_check": CHECKS}
settings.register_profile("ci", max_examples=12, derandomize=True, database=None, **_common)
settings.register_profile(
    "long", max_examples=int(os.environ.get("FUZZ_EXAMPLES", "2000")), print_blob=True, **_common
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

BATCH = 8
SECONDS = 30  # of one file in a process of its own
MEMORY = 3 << 30  # bytes that such a process may take

NUMBERS = [0, 1, 2, 3, 127, 255, 1 << 15, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62]
NUMBERS += [(1 << 64) - 1]
WORDS = (
    *("0", "1", "-1", "2", "1e308", "-1e-308", "1e400", "nan", "inf", "-inf", "9" * 20),
    *("0x10", "1_0", "+1", "1.5", "..", "../x.jpg", "/etc/passwd", "a/../../b", "C:\\x", "-", "#"),
    *("é", "\x00", "\ud800", "\u2028", "\x85", "\x0b", "\x1f", "a" * 2000, "٣", "null", "[]", "{}"),
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """A file with a few bytes flipped, cut, repeated, inserted or set to a number that matters."""
    found = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        size = draw(st.integers(1, 64))
        kind = draw(st.sampled_from(["flip", "byte", "cut", "tail", "repeat", "insert", "number"]))
        if kind == "flip" and found:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and found:
            found[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del found[at : at + size]
        elif kind == "tail":
            del found[at:]
        elif kind == "repeat":
            found[at:at] = found[at : at + size] * draw(st.integers(1, 3))
        elif kind == "insert":
            found[at:at] = draw(st.binary(max_size=16))
        else:
            width = draw(st.sampled_from([1, 2, 4, 8]))
            number = draw(st.sampled_from(NUMBERS)) % (1 << 8 * width)
            order = draw(st.sampled_from(["little", "big"]))
            found[at : at + width] = number.to_bytes(width, order)
    return bytes(found)


@st.composite
def reworded(draw: st.DrawFn, valid: str) -> bytes:
    """A text with some words replaced, left out or doubled, and some lines too."""
    parts = re.split(r"(\s+|[,:\[\]{}\"'])", valid)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, max(0, len(parts) - 1)))
        kind = draw(st.sampled_from(["word", "number", "drop", "double", "text", "nest"]))
        if kind == "word":
            parts[at : at + 1] = [draw(st.sampled_from(WORDS))]
        elif kind == "number":
            parts[at : at + 1] = [repr(draw(st.floats() | st.integers()))]
        elif kind == "drop":
            del parts[at : at + draw(st.integers(1, 20))]
        elif kind == "double":
            parts[at:at] = parts[at : at + draw(st.integers(1, 20))]
        elif kind == "text":
            parts[at : at + 1] = [draw(st.text(max_size=12))]
        else:
            parts[at:at] = [draw(st.sampled_from(["[", "{", '{"a":', "- ", "(", "&a [*a", "\n"]))]
            parts[at:at] = [parts[at]] * draw(st.sampled_from([1, 30, 3000]))
    return "".join(parts).encode("utf-8", "surrogatepass")


def damaged(valid: bytes, text: bool = False) -> st.SearchStrategy[bytes]:
    """Any bytes, or a valid file that was changed."""
    found = st.binary(max_size=200) | mutated(valid) | mutated(valid)
    return found | reworded(valid.decode()) | reworded(valid.decode()) if text else found


def batches(valid: bytes, text: bool = False) -> st.SearchStrategy[list[bytes]]:
    """Several damaged files: a process for each would take longer than reading them."""
    return st.lists(damaged(valid, text), min_size=BATCH, max_size=BATCH)


def model_file(model: pycolmap.Reconstruction, folder: Path, name: str) -> tuple[Path, bytes]:
    """A file of a model that is written as text or binary, as its name says, and its content."""
    path, whole = folder / "model" / name, folder / name
    if not path.parent.exists():
        path.parent.mkdir()
        write = model.write_text if name.endswith("txt") else model.write
        write(path.parent)
        shutil.copyfile(path, whole)
    return path, whole.read_bytes()


# Of a test that checks a batch an example.
fewer = settings(max_examples=max(2, settings().max_examples // BATCH))


def problem_of(read: Callable[[Path], object], path: Path) -> str | None:
    """Say what is wrong with how a file is read; None for a value, or an error of the package.

    Such an error is a ValueError, raised by the package, of one line that names the file.
    """
    try:
        read(path)
    except Exception as error:
        kind = type(error)
        is_own = kind in (ValueError, OSError) or kind.__module__.startswith("d2_hloc.")
        if not is_own or not isinstance(error, ValueError | OSError):
            return f"no error of the package: {''.join(traceback.format_exception(error))}"
        text = str(error)
        if path.name not in text and path.parent.name not in text:
            return f"the file is not named: {text}"
        if len(text.splitlines()) != 1 or len(text) > 2000:
            return f"more than one sentence: {text[:3000]!r}"
    return None


def check(read: Callable[[Path], object], path: Path) -> None:
    """Fail unless a file is read, or refused by an error of the package."""
    problem = problem_of(read, path)
    assert problem is None, problem


def check_in_child(read: Callable[[Path], object], path: Path, contents: Sequence[bytes]) -> None:
    """Check a file of each content in a process of its own, which C code may end or hang."""
    ready, done = os.pipe()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a child that waits for its parent's threads waits for ever
    child = os.fork()
    if child == 0:
        _report(done, read, path, contents)
    torch.set_num_threads(threads)
    os.close(done)
    with os.fdopen(ready, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    *_, last = said.split("file ")
    assert os.WIFEXITED(status), f"file {last}: ended by {signal.Signals(os.WTERMSIG(status)).name}"
    assert said.endswith("all done"), f"file {last}"


def _report(
    pipe: int, read: Callable[[Path], object], path: Path, contents: Sequence[bytes]
) -> None:
    """Write to a pipe which file is read, and what is wrong with one; leave the process."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        for k, content in enumerate(contents):
            signal.alarm(SECONDS)
            os.write(pipe, f"file {k} of {len(contents)} ".encode())
            path.write_bytes(content)
            if (problem := problem_of(read, path)) is not None:
                os.write(pipe, problem.encode(errors="replace")[:30000])
                return
        os.write(pipe, b"all done")
    except BaseException as error:
        os.write(pipe, repr(error).encode(errors="replace")[:30000])
    finally:
        os._exit(0)
