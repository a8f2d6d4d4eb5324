"""``python -m pdetr3d.cli``: the verbs of the command that need no Ray."""

import sys

from pdetr3d.cli import main

sys.exit(main())
