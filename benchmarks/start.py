"""Processor time of a start: the command's help, its version, the package's import.

    python benchmarks/start.py [--repeats 5]

Beside it, in the same run, the old way: torch, pycolmap and all that the commands work with are
imported before the arguments are read.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

HELP = "from d2_hloc.app.cli import main; main(['--help'])"
EAGER = "import {}; ".format(
    ", ".join(
        f"d2_hloc.{name}"
        for name in (
            "hloc.plugin",
            "matching.nearest",
            "network.d2net",
            "app.commands.demo",
            "app.commands.dense",
            "app.commands.models",
            "app.commands.steps",
        )
    )
)
ROWS = {
    "python alone": ("pass", "pass"),
    "import d2_hloc": (EAGER.partition(", d2_hloc.app")[0], "import d2_hloc"),
    "d2-hloc --help": (EAGER + HELP, HELP),
    "d2-hloc --version": (EAGER + HELP.replace("help", "version"), HELP.replace("help", "version")),
    "d2-hloc reconstruct --help": (
        EAGER + HELP.replace("[", "['reconstruct', "),
        HELP.replace("[", "['reconstruct', "),
    ),
}


def processor_time(code: str, repeats: int) -> float:
    """Shortest user and system time of a process that runs some code, seconds."""
    times = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print(f"{'processor time, s':28}{'eager':>8}{'here':>8}")
    for name, (eager, here) in ROWS.items():
        print(f"{name:28}{processor_time(eager, repeats):8.2f}{processor_time(here, repeats):8.2f}")


if __name__ == "__main__":
    main()
