#!/usr/bin/env bash
# Replace mmcv in the virtual environment $1 (see install.sh) by the same version with compiled ops. With FORCE_CUDA=1 and
# TORCH_CUDA_ARCH_LIST set: CUDA's too, sparse convolution among them; that needs a toolkit of the CUDA that torch is built
# with. Half an hour of CPU time and more: cluster/Dockerfile does it once. The pure PyTorch twins serve everywhere else.
set -euo pipefail
venv=${1:?usage: [FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST=9.0] tools/compile_ops.sh VENV_FOLDER}
cd "$(dirname "$0")/.."
pip=("$venv/bin/python" -m pip --disable-pip-version-check)

"${pip[@]}" install --quiet ninja==1.13.2 # torch's builder uses it to compile in parallel; nothing needs it later
export PATH="$(cd "$venv/bin" && pwd):$PATH"
# No isolation: the build must see torch. No cache: pip would take the wheel without ops that it built for install.sh.
CFLAGS="-g0 -O2" "${pip[@]}" install --no-build-isolation --no-deps --no-cache-dir --force-reinstall \
    "$(grep '^onedl-mmcv==' constraints.txt)"
"${pip[@]}" check
"$venv/bin/python" - <<'CHECK'
import os
import torch
from mmcv.ops import SparseConv3d, get_compiling_cuda_version

compiled = get_compiling_cuda_version()
print(f"mmcv's ops: torch {torch.__version__} (CUDA {torch.version.cuda}), compiled for CUDA: {compiled}; {SparseConv3d.__name__}")
if os.environ.get("FORCE_CUDA") == "1" and compiled != torch.version.cuda:
    raise SystemExit("error: the ops were not compiled for torch's CUDA")
CHECK
