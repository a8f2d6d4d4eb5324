"""Checks the manifests in cluster/ against the published schemas, our version of Ray, and cluster/README.md."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from cluster.make_rayjobs import JOBS, render
from tests.jobs import parse_search

ROOT = Path(__file__).resolve().parents[2]
KUBERAY = ROOT / "cluster" / "kuberay"
RAY_UP = sorted((ROOT / "cluster").glob("ray-up-*.yaml"))
CRD = {"RayCluster": "rayclusters", "RayJob": "rayjobs"}


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))


def strict(schema: Any) -> Any:
    """The schema with unknown fields forbidden, except where Kubernetes keeps unknown fields."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def problems(document: dict[str, Any], schemas: Path) -> list[str]:
    schema = strict(json.loads((schemas / f"{CRD[document['kind']]}.schema.json").read_text()))
    return [f"{e.json_path}: {e.message}" for e in jsonschema.Draft7Validator(schema).iter_errors(document)]


def merged(document: Any, patch: Any) -> Any:
    """The result of a JSON merge patch, as of `kubectl patch --type merge`."""
    if not isinstance(patch, dict):
        return patch
    result = dict(document) if isinstance(document, dict) else {}
    return result | {key: merged(result.get(key), value) for key, value in patch.items()}


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from nodes(item)


def pods() -> dict[str, dict[str, Any]]:
    spec = documents(KUBERAY / "raycluster.yaml")[0]["spec"]
    groups = {group["groupName"]: group["template"]["spec"] for group in spec["workerGroupSpecs"]}
    return {"head": spec["headGroupSpec"]["template"]["spec"], **groups}


@pytest.mark.parametrize("name", ["raycluster", *(f"rayjob-{job}" for job in JOBS)])
def test_kuberay_manifests_hold_to_the_crds(name: str, kuberay_schemas: Path) -> None:
    assert [problems(document, kuberay_schemas) for document in documents(KUBERAY / f"{name}.yaml")] == [[]]


@pytest.mark.parametrize("patch", ["kueue", "volcano"])
def test_patched_jobs_do_so_too(patch: str, kuberay_schemas: Path) -> None:
    job, change = documents(KUBERAY / "rayjob-pipeline.yaml")[0], documents(KUBERAY / f"{patch}.yaml")[0]
    assert problems(merged(job, change), kuberay_schemas) == []
    assert merged(job, change)["metadata"]["labels"].keys() > change["metadata"]["labels"].keys()


def test_a_typing_error_would_be_found(kuberay_schemas: Path) -> None:
    right = documents(KUBERAY / "raycluster.yaml")[0]
    wrong = copy.deepcopy(right)
    wrong["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["volumeMount"] = []
    assert len(problems(wrong, kuberay_schemas)) == 1 and "volumeMount" in problems(wrong, kuberay_schemas)[0]
    wrong = copy.deepcopy(right)
    wrong["spec"]["authOptions"]["mode"] = "tokens"
    assert len(problems(wrong, kuberay_schemas)) == 1


def test_jobs_are_what_make_rayjobs_writes() -> None:
    assert {file: (KUBERAY / file).read_text() for file in render()} == render()


def test_jobs_name_modules_and_keys_that_exist() -> None:
    from pdetr3d import presets
    from ray_jobs.searches.space_files import check_space, load_space

    for name in JOBS:
        words = documents(KUBERAY / f"rayjob-{name}.yaml")[0]["spec"]["entrypoint"].split()
        assert (ROOT / (words[2].replace(".", "/") + ".py")).is_file()
        preset = words[words.index("--preset") + 1]
        presets.load(preset, [word for word in words if "=" in word])
        if name == "search":
            args = parse_search(words[3:])
            check_space(load_space(args.space), args.preset, args.overrides)
            assert {args.run_dir.parts[1], args.out.parts[1]} == {"runs"}  # the volume that outlives the cluster


@pytest.mark.parametrize("file", RAY_UP, ids=lambda file: file.stem)
def test_ray_up_configs_hold_to_rays_schema(file: Path) -> None:
    (config,) = documents(file)
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"]["CPU"] == 0 and "spot" not in json.dumps(head).lower()
    for name, node in config["available_node_types"].items():
        assert name == "head" or ("spot" in json.dumps(node).lower() and node["min_workers"] == 0)
        assert node["labels"] == {"pdetr3d-pool": name}
    # They are present and empty: Ray fills absent ones with its own, which install a nightly wheel.
    assert [config[f"{who}setup_commands"] for who in ("", "head_", "worker_")] == [[]] * 3
    (start,) = [line for line in config["head_start_ray_commands"] if "--head" in line]
    assert "--dashboard-host=127.0.0.1" in start
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}


def test_versions_are_those_of_the_lock() -> None:
    locked = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert locked is not None and locked[1] == ray.__version__
    found = [doc["spec"].get("rayVersion") for file in KUBERAY.glob("ray*.yaml") for doc in documents(file)]
    found += [d["spec"]["rayClusterSpec"]["rayVersion"] for f in KUBERAY.glob("rayjob-*.yaml") for d in documents(f)]
    assert {version for version in found if version} == {locked[1]} and len(found) == 1 + 2 * len(JOBS)


def test_pods_run_without_privileges_and_share_what_must_be_shared() -> None:
    claims = {doc["metadata"]["name"]: doc["spec"] for doc in documents(KUBERAY / "storage.yaml")}
    assert all(spec["accessModes"] == ["ReadWriteMany"] for spec in claims.values())
    for name, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] == (name == "head")
        (container,) = pod["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
        used = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
        assert used == claims.keys()


def test_no_secret_is_written_down() -> None:
    """Secrets are references: no variable with such a name has a value, and no Secret has content."""
    for file in (ROOT / "cluster").rglob("*.yaml"):
        for document in documents(file):
            assert document.get("kind") != "Secret", file
            for node in nodes(document):
                secret = re.search("PASSWORD|TOKEN|SECRET|ACCESS_KEY", str(node.get("name", "")))
                assert not (secret and "value" in node), f"{file}: {node}"


def test_the_runtime_environment_is_one() -> None:
    from ray.runtime_env import RuntimeEnv

    assert RuntimeEnv(**documents(ROOT / "cluster" / "runtime_env.yaml")[0]).env_vars()["MPLBACKEND"] == "Agg"
