"""Checks cluster/mlflow: compose file and manifests start the same server with passwords and limited access.

No secret is in these files. tests/clusters/test_mlflow_postgres.py starts the server.
"""

from __future__ import annotations

import configparser
import copy
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

from cluster.mlflow import make_secrets
from tests.contract.test_cluster import strict

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "cluster" / "mlflow"
SERVICES = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
MANIFESTS = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))
MLFLOW = dict(re.findall(r"^(mlflow)==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))["mlflow"]
SECRET = re.compile("PASSWORD|TOKEN|SECRET|ACCESS_KEY")


def manifest(kind: str, name: str) -> dict[str, Any]:
    (found,) = [m for m in MANIFESTS if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def pod(kind: str, name: str) -> dict[str, Any]:
    return manifest(kind, name)["spec"]["template"]["spec"]


def options(command: list[str]) -> dict[str, str]:
    assert command[:2] == ["mlflow", "server"]
    return dict(word.split("=", 1) for word in command[2:])


def test_both_start_the_same_server() -> None:
    (container,) = pod("Deployment", "pdetr3d-mlflow")["containers"]
    compose, kubernetes = options(SERVICES["mlflow"]["command"]), options(container["args"])
    differing = {name for name in compose | kubernetes if compose.get(name) != kubernetes.get(name)}
    assert differing == {"--artifacts-destination"} and compose["--artifacts-destination"].startswith("s3://")
    assert compose["--app-name"] == "basic-auth"
    # libpq reads the password from PGPASSWORD, since everybody on a node can read command lines.
    assert compose["--backend-store-uri"] == "postgresql+psycopg2:///mlflow"
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert SERVICES["mlflow"]["environment"].keys() == variables.keys() - {"MLFLOW_SERVER_ALLOWED_HOSTS"}
    for name in ("PGUSER", "MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "MLFLOW_DISABLE_TELEMETRY"):
        assert SERVICES["mlflow"]["environment"][name] == variables[name]


def test_users_are_kept_in_the_same_database() -> None:
    auth = configparser.ConfigParser()
    auth.read(FOLDER / "basic_auth.ini")
    assert auth["mlflow"]["database_uri"] == options(SERVICES["mlflow"]["command"])["--backend-store-uri"]
    assert "admin_password" not in auth["mlflow"] and auth["mlflow"]["default_permission"] == "READ"
    (copy,) = re.findall(r"^COPY (.*) \./$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert "cluster/mlflow/basic_auth.ini" in copy.split()
    assert SERVICES["mlflow"]["environment"]["MLFLOW_AUTH_CONFIG_PATH"] == "/opt/mlflow/basic_auth.ini"


def test_versions_are_those_of_the_lock() -> None:
    assert SERVICES["mlflow"]["image"] == f"pdetr3d-mlflow:{MLFLOW}"
    dockerfile = (FOLDER / "Dockerfile").read_text()
    assert f"pdetr3d-mlflow:{MLFLOW} ." in dockerfile and f"pdetr3d-mlflow:{MLFLOW} ." in (
        FOLDER.with_name("README.md").read_text()
    )
    (line,) = re.findall(r"--constraint constraints\.txt (.*?) \\$", dockerfile, re.MULTILINE)
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["server"]
    needed = [(r.name, r.extras) for r in map(Requirement, extra)]
    assert [(r.name, r.extras) for r in map(Requirement, line.replace('"', "").split())] == needed
    for service in ("postgres", "garage"):
        assert re.search(r":v?\d+\.\d+[\w.-]*$", SERVICES[service]["image"])
    (database,) = pod("StatefulSet", "pdetr3d-mlflow-postgres")["containers"]
    assert database["image"] == SERVICES["postgres"]["image"]


def test_only_the_server_is_reached_and_only_from_this_machine() -> None:
    assert SERVICES["mlflow"]["ports"] == ["127.0.0.1:5000:5000"]
    networks = yaml.safe_load((FOLDER / "compose.yaml").read_text())["networks"]
    for name in ("postgres", "garage"):
        assert "ports" not in SERVICES[name] and SERVICES[name]["networks"] == ["store"]
    assert networks["store"] == {"internal": True}


def test_on_kubernetes_it_is_reached_by_rays_pods_alone() -> None:
    services = [m["spec"] for m in MANIFESTS if m["kind"] == "Service"]
    assert all(s.get("type", "ClusterIP") == "ClusterIP" for s in services) and len(services) == 2
    assert not [m for m in MANIFESTS if m["kind"] in ("Ingress", "Secret")]
    for name, kind, source, port in [
        ("pdetr3d-mlflow", "Deployment", {"matchExpressions": [{"key": "ray.io/cluster", "operator": "Exists"}]}, 5000),
        (
            "pdetr3d-mlflow-postgres",
            "StatefulSet",
            {"matchLabels": manifest("Deployment", "pdetr3d-mlflow")["spec"]["template"]["metadata"]["labels"]},
            5432,
        ),
    ]:
        policy, labels = manifest("NetworkPolicy", name)["spec"], {"app.kubernetes.io/name": name}
        assert policy["podSelector"] == {"matchLabels": labels} and policy["policyTypes"] == ["Ingress"]
        assert policy["ingress"] == [{"from": [{"podSelector": source}], "ports": [{"port": port}]}]
        workload = manifest(kind, name)["spec"]
        assert workload["template"]["metadata"]["labels"] == workload["selector"]["matchLabels"] == labels
        assert manifest("Service", name)["spec"]["selector"] == labels


@pytest.mark.parametrize(
    ("kind", "name"), [("Deployment", "pdetr3d-mlflow"), ("StatefulSet", "pdetr3d-mlflow-postgres")]
)
def test_pods_hold_to_the_schema_of_pods(kind: str, name: str, kuberay_schemas: Path) -> None:
    """KubeRay's CRDs contain the schema of pod templates; Kubernetes' own schemas are not available here."""
    crd = strict(json.loads((kuberay_schemas / "rayclusters.schema.json").read_text()))
    validator = jsonschema.Draft7Validator(
        crd["properties"]["spec"]["properties"]["headGroupSpec"]["properties"]["template"]
    )
    template = manifest(kind, name)["spec"]["template"]
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(template)] == []
    template = copy.deepcopy(template)
    template["spec"]["containers"][0]["envform"] = []
    assert [error.message for error in validator.iter_errors(template)] != []


def test_manifests_are_of_kinds_and_fields_that_kubernetes_has() -> None:
    """Kinds and fields beyond the pods' schema, written by hand from the API reference of Kubernetes 1.33."""
    fields = {
        ("apps/v1", "Deployment"): {"replicas", "selector", "template"},
        ("apps/v1", "StatefulSet"): {"serviceName", "replicas", "selector", "template", "volumeClaimTemplates"},
        ("v1", "Service"): {"type", "clusterIP", "selector", "ports"},
        ("networking.k8s.io/v1", "NetworkPolicy"): {"podSelector", "policyTypes", "ingress"},
    }
    for one in MANIFESTS:
        assert one.keys() == {"apiVersion", "kind", "metadata", "spec"}
        assert one["spec"].keys() <= fields[one["apiVersion"], one["kind"]]
    assert len({(one["kind"], one["metadata"]["name"]) for one in MANIFESTS}) == len(MANIFESTS) == 6
    database = manifest("StatefulSet", "pdetr3d-mlflow-postgres")["spec"]
    assert manifest("Service", database["serviceName"])["spec"]["clusterIP"] == "None"
    (server,) = pod("Deployment", "pdetr3d-mlflow")["containers"]
    assert {"name": "PGHOST", "value": database["serviceName"]} in server["env"]
    for owner, service in (("pdetr3d-mlflow", 5000), ("pdetr3d-mlflow-postgres", 5432)):
        (port,) = manifest("Service", owner)["spec"]["ports"]
        kind = "Deployment" if service == 5000 else "StatefulSet"
        (container,) = pod(kind, owner)["containers"]
        assert port == {"port": service, "targetPort": container["ports"][0]["name"]}
        assert container["ports"][0]["containerPort"] == service


@pytest.mark.parametrize(
    ("kind", "name"), [("Deployment", "pdetr3d-mlflow"), ("StatefulSet", "pdetr3d-mlflow-postgres")]
)
def test_pods_run_without_privileges(kind: str, name: str) -> None:
    spec = pod(kind, name)
    assert spec["securityContext"]["runAsNonRoot"] and spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    claims = manifest(kind, name)["spec"].get("volumeClaimTemplates", [])
    assert mounted == {v["name"] for v in spec.get("volumes", [])} | {c["metadata"]["name"] for c in claims}
    for service in SERVICES.values():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]


def test_no_value_of_a_secret_is_written_down() -> None:
    for service in SERVICES.values():
        assert [name for name in service["environment"] if SECRET.search(name)] == []
    texts = [path.read_text() for path in FOLDER.iterdir() if path.is_file() and path.suffix != ".py"]
    assert not [
        t for t in texts if re.search(r"(PASSWORD|SECRET_KEY|ACCESS_KEY|rpc_secret|admin_token)\s*[=:]\s*\S", t)
    ]
    for kind, name in (("Deployment", "pdetr3d-mlflow"), ("StatefulSet", "pdetr3d-mlflow-postgres")):
        (container,) = pod(kind, name)["containers"]
        secret = name if kind == "StatefulSet" else f"{name}-server"
        assert container["envFrom"] == [{"secretRef": {"name": secret}}]


def test_what_is_made_is_what_services_read_and_git_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "secrets"
    assert make_secrets.main(folder) == 0 and folder.stat().st_mode & 0o777 == 0o700
    made = {file.stem: dict(line.split("=") for line in file.read_text().splitlines()) for file in folder.iterdir()}
    for name, service in SERVICES.items():
        assert (
            service["env_file"] == [f"secrets/{name}.env"] and (folder / f"{name}.env").stat().st_mode & 0o777 == 0o600
        )
        ignored = ["git", "check-ignore", "--quiet", "--no-index", str(FOLDER / "secrets" / f"{name}.env")]
        assert subprocess.run(ignored, cwd=ROOT).returncode in (0, 128)  # 128: this is no repository
    mlflow, garage = made["mlflow"], made["garage"]
    assert mlflow["PGPASSWORD"] == made["postgres"]["POSTGRES_PASSWORD"]
    assert mlflow["AWS_ACCESS_KEY_ID"] == garage["GARAGE_DEFAULT_ACCESS_KEY"]
    assert mlflow["AWS_SECRET_ACCESS_KEY"] == garage["GARAGE_DEFAULT_SECRET_KEY"]
    assert {"MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_AUTH_ADMIN_PASSWORD"} < mlflow.keys()
    values = [value for variables in made.values() for value in variables.values()]
    assert len(set(values)) == len(values) - 3 and min(map(len, values)) >= 32  # three are shared; 128 bits each

    before = (folder / "mlflow.env").read_text()
    assert make_secrets.main(folder) == 2 and "exists" in capsys.readouterr().err
    assert (folder / "mlflow.env").read_text() == before
