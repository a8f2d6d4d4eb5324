#!/usr/bin/env bash
# Create the virtual environment $1 with mmdetection3d 1.4, which benchmarks/bench_peer.py compares this project with. Half
# an hour of CPU time, because mmcv's ops are compiled. Nothing of it belongs to the product.
set -euo pipefail
venv=${1:-.peer}
cd "$(dirname "$0")/.."
bash tools/install.sh "$venv" dev
bash tools/compile_ops.sh "$venv"
# No dependencies: mmdet3d asks for viewers that no model needs, and mmdet for an older mmcv than that of this project.
# benchmarks/peer_model.py tells both that mmcv is of that version.
"$venv/bin/python" -m pip install --quiet --no-deps mmdet==3.3.0 mmdet3d==1.4.0 lyft_dataset_sdk==0.0.8
"$venv/bin/python" -m pip install --quiet --constraint constraints.txt numba trimesh plyfile pycocotools terminaltables
echo "Ready: PDETR3D_PEER=$venv/bin/python make bench ARGS='-k peer'"
