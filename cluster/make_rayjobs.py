"""Writes kuberay/rayjob-*.yaml from kuberay/raycluster.yaml, because each RayJob contains the spec of its cluster.

python cluster/make_rayjobs.py     # after every change of raycluster.yaml; a test compares
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "kuberay"
PRESET = "nuscenes-voxel"
DATA = "data.dataroot=/data/nuscenes storage.path=/runs/ray"
WORDS = f"--preset {PRESET} --run-dir /runs/{PRESET} {DATA}"
# Name -> entrypoint. The jobs have the same run directory, in which each one finds the stages that earlier jobs have
# finished. A search has its own. Its select split is set here, because nuScenes has none (tune_spaces/README.md).
JOBS = {
    "pipeline": f"python -m ray_jobs.pipeline {WORDS}",
    "teacher": f"python -m ray_jobs.train_teacher {WORDS}",
    "pseudo-label": f"python -m ray_jobs.pseudo_label {WORDS}",
    "student": f"python -m ray_jobs.train_student {WORDS}",
    "search": f"python -m ray_jobs.search mask_sigma --preset {PRESET} --run-dir /runs/search-mask_sigma "
    f"--out /runs/results {DATA} data.select_split=mini_val",
}
HEADER = "# Written by cluster/make_rayjobs.py from raycluster.yaml: change these and run it again.\n"


def rayjob(name: str, entrypoint: str, spec: dict[str, Any]) -> dict[str, Any]:
    """The manifest of one job on a cluster of its own."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": f"pdetr3d-{name}", "labels": {"app.kubernetes.io/name": "pdetr3d"}},
        "spec": {
            "entrypoint": entrypoint,
            "submissionMode": "K8sJobMode",
            "backoffLimit": 2,  # each retry is a new cluster, and continues the run directory
            "activeDeadlineSeconds": 7 * 24 * 3600,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 3600,
            "rayClusterSpec": spec,
        },
    }


def render() -> dict[str, str]:
    """File name -> text."""
    spec = yaml.safe_load((FOLDER / "raycluster.yaml").read_text())["spec"]
    jobs = {f"rayjob-{name}.yaml": rayjob(name, entrypoint, spec) for name, entrypoint in JOBS.items()}
    return {file: HEADER + _dump(job) for file, job in jobs.items()}


def _dump(document: dict[str, Any]) -> str:
    class Plain(yaml.SafeDumper):
        """A dumper that writes no anchors, so that people can read the files."""

        def ignore_aliases(self, data: object) -> bool:
            return True

    return yaml.dump(document, Dumper=Plain, sort_keys=False, width=120)


if __name__ == "__main__":
    for file, text in render().items():
        (FOLDER / file).write_text(text)
        print(f"written: {FOLDER / file}")
