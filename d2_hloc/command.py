"""What every command does around its work: logging, and one sentence for what goes wrong."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from d2_hloc.colmap import quiet


def run_command(name: str, work: Callable[[], object]) -> int:
    """Do the work; the exit status. A problem is one sentence after the command's name."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    quiet()
    try:
        work()
    except (ValueError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: stopped; run the same command again to go on.", file=sys.stderr)
        return 130
    return 0
