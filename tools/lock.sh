#!/usr/bin/env bash
# Print constraints.txt: what the virtual environment $1 holds, without this project and pip.
set -euo pipefail
venv=${1:?usage: tools/lock.sh VENV_FOLDER}
echo "# The tested lock: every third-party package of the environment that \`make test\` passes in (CPython 3.11, Linux x86-64)."
echo "# To renew: edit the ranges in pyproject.toml, \`make install\`, \`make lock\`, \`make test\`."
# torch goes without its local label: the same line fits the CPU and the CUDA builds.
"$venv/bin/python" -m pip freeze --all --exclude-editable |
    sed -E -e '/^(pdetr3d|pip)([ =]|$)/d' -e 's/^(torch==[^+]*)\+.*/\1/' | LC_ALL=C sort -f
