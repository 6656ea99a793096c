"""python -m d2_hloc: the d2-hloc command."""

import sys

from d2_hloc.cli import main

sys.exit(main())
