#!/usr/bin/env bash
# Create the virtual environment $1 and install the project, with its extras $2, by the tested lock. Safe to run again
# after an interruption. `make install` and cluster/Dockerfile run it.
set -euo pipefail
venv=${1:?usage: tools/install.sh VENV_FOLDER [EXTRAS]}
extras=${2:-dev,server,click,onnx}
cd "$(dirname "$0")/.."

is_311() { "$1" -c 'import sys; sys.exit(sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; }

# A venv without pip is what an interrupted first run leaves: making it again repairs it.
if ! { is_311 "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
    for python in python3.11 python3 python ""; do
        if [ -n "$python" ] && is_311 "$python"; then break; fi
    done
    if [ -z "$python" ]; then
        echo "error: CPython 3.11 is needed (found: $(python3 --version 2>&1 || echo none))." >&2
        echo "Install it so that 'python3.11' is on PATH, then run make again." >&2
        exit 2
    fi
    if "$venv/bin/python" --version >/dev/null 2>&1 && ! is_311 "$venv/bin/python"; then
        echo "error: $venv holds $("$venv/bin/python" --version), not CPython 3.11; remove it and run make again." >&2
        exit 2
    fi
    "$python" -m venv "$venv"
fi
pip=("$venv/bin/python" -m pip --disable-pip-version-check)

echo "Installing into $venv (about 1 GB to fetch, some minutes the first time) ..."
"${pip[@]}" install --quiet --constraint constraints.txt --editable ".[$extras]"

# nuscenes-devkit asks for opencv-python, mmcv for opencv-python-headless. Both write the folder cv2/, and whichever comes
# last stays. The first needs libGL through Qt, which servers and containers lack: make the headless one the last.
is_headless() { "$venv/bin/python" -c 'import cv2, re, sys; sys.exit(not re.search(r"GUI:\s+NONE", cv2.getBuildInformation()))' 2>/dev/null; }
if ! is_headless; then
    "${pip[@]}" install --quiet --no-deps --force-reinstall "$(grep '^opencv-python-headless==' constraints.txt)"
fi
is_headless || { echo "error: cv2 does not import, or is not the headless build; see 'import cv2' in $venv" >&2; exit 1; }
"${pip[@]}" check
echo "Installed. Next: make quickstart, or make test."
