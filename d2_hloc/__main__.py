"""python -m d2_hloc: the d2-hloc command."""

import sys

from d2_hloc.app.cli import main

sys.exit(main())
