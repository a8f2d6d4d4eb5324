"""Makes ``python -m pdetr3d.cli`` the same as the command ``pdetr3d``."""

import sys

from pdetr3d.cli import main

sys.exit(main())
