"""``python -m pdetr3d.cli``: the same as the command."""

import sys

from pdetr3d.cli import main

sys.exit(main())
