"""Tests of ``pdetr3d plan``: measurement, tables and JSON, refused input, and the sources of its defaults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from pdetr3d import presets
from pdetr3d.cli import app, main
from pdetr3d.data.storage.files import write_json
from pdetr3d.finished.capacity import measure
from pdetr3d.finished.capacity.costs import depends_on
from pdetr3d.finished.capacity.table import duration
from pdetr3d.training import model_size
from tests.training_cases import SMALL_DATA, TINY, one_thread

ROOT = Path(__file__).resolve().parents[2]
COST = {"cpu_s": {"points": 0.05}, "disk_bytes": 1e6, "batch_bytes": 1e6, "record_bytes": 1e4, "flops": 1e12}
TRAINED = COST | {"parameters": 10, "gradient_bytes": 40, "checkpoint_bytes": 120, "checkpoint_s": 1}
PLAN = ["plan", "--preset", "nuscenes-voxel"]


def document(**changes: Any) -> dict[str, Any]:
    values = {
        "preset": "nuscenes-voxel",
        "depends_on": depends_on(presets.load("nuscenes-voxel")),
        "train_samples": 70_000,
        "measured_samples": 8,
        "sweeps": 10,
        "stand_in_sweeps": 9,
        "cpu": "some CPU",
        "cores": 2,
        "load_average": 0.5,
        "stages": {"teacher": TRAINED, "pseudo_labels": COST | {"parameters": 10}, "student": TRAINED},
    }
    return values | changes


def write(folder: Path, **changes: Any) -> str:
    write_json(folder / "measured.json", document(**changes))
    return str(folder / "measured.json")


def test_measure_then_plan(
    sim_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "ROUNDS", 1)
    monkeypatch.setattr(model_size, "SWEEP_POINTS", 500)
    costs, keys = str(tmp_path / "costs.json"), [*TINY, *SMALL_DATA]
    with one_thread():
        assert main(["plan", *keys, f"data.dataroot={sim_world}", "--measure", costs]) == 0
    first = capsys.readouterr().out
    assert "measured costs, quickstart" in first and "6 samples" in first and "first bottleneck" in first
    assert main(["plan", *keys, "--measured", costs]) == 0
    second = capsys.readouterr().out
    assert first.endswith(second) and "measured costs" not in second


def test_assumptions_and_units_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1e12 FLOPs at 200 * 0.5 TFLOP/s: 100 samples/s per GPU. With 0.05 core seconds each they need 5 cores of 4."""
    speed = ["--tflops", "200", "--mfu", "0.5"]
    assert main([*PLAN, "--workers", "16", "--measured", write(tmp_path), *speed]) == 0
    shown = capsys.readouterr().out
    assert "accelerator: --tflops 200 at --mfu 0.5" in shown and "--samples 70,000, all like the measured ones" in shown
    assert "8 sample(s) of 10 sweeps on some CPU, 2 cores, load 0.5; the keyframe was read again for 9" in shown
    assert "nuscenes-voxel: 16 GPUs" in shown
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in shown.splitlines() if line.count("│") == 5}
    assert [cell.strip() for cell in rows["CPU loading, cores"]] == ["80 / 64 <"] * 3
    assert [cell.strip() for cell in rows["samples/s of all"]] == ["1,280.0"] * 3
    assert [cell.strip() for cell in rows["first bottleneck"]] == ["CPU loading"] * 3
    # 512 GPUs read 51.2 of 10 GB/s; records of 10 M samples take 100 of 8.6 GB, those of the teacher's 5 % fit.
    swept = [line.split("│")[4].strip() for line in shown.splitlines() if line.startswith("│ 512 ")]
    assert [cell.split(": ", 1)[1] for cell in swept] == ["storage reads", "head's object store *"]


def test_the_json_holds_what_the_tables_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "plan.json"
    rate = ["--samples-per-s", "student=7"]
    assert main([*PLAN, "--measured", write(tmp_path), "--samples", "2000000", *rate, "--json", str(target)]) == 0
    assert "student 7 samples/s a GPU, as given" in capsys.readouterr().out
    plan = json.loads(target.read_text())
    assert plan["cluster"]["gpus"] == 8 and plan["samples"] == 2_000_000 and plan["measured"]["cores"] == 2
    sizes = [(entry["gpus"], entry["samples"]) for entry in plan["plans"]]
    assert sizes[:3] == [(8, 2_000_000), (8, 10_000_000), (8, 100_000_000)] and sizes[-1] == (512, 100_000_000)
    stages = plan["plans"][0]["stages"]
    assert stages["student"]["gpu_samples_per_s"] == 7
    assert stages["student"]["load"]["CPU loading"] == pytest.approx(8 * 7 * 0.05 / (64 - 8 * 4))
    parts = [stages[name]["hours"] for name in ("teacher", "pseudo_labels", "student")]
    assert plan["hours"] == pytest.approx(parts[0] + parts[1] + 3 * parts[2])  # three arms


def test_times_are_told_in_the_unit_that_fits() -> None:
    hours = [0, 0.01, 1 / 60, 0.5, 1, 3.4567, 47.9, 48, 3506]
    assert [duration(each) for each in hours] == [
        "0 s", "36 s", "1 min", "30 min", "1 h", "3.46 h", "47.9 h", "2 days", "146 days",
    ]  # fmt: skip


BAD = [
    ([], "give one of the two"),
    (["--measured", "x.json", "--measure", "y.json"], "give one of the two"),
    (["--measured", "missing.json"], "missing.json: no measurement here"),
    (["--measured", "FILE", "--workers", "0"], "--workers = 0: "),
    (["--measured", "FILE", "--mfu", "1.5"], "--mfu = 1.5: "),
    (["--measured", "FILE", "--tflops", "0"], "--tflops = 0"),
    (["--measured", "FILE", "--tflops", "nan"], "--tflops"),
    (["--measured", "FILE", "--storage-gb-s", "-1"], "--storage-gb-s = -1"),
    (["--measured", "FILE", "--cores-per-node", "8"], "--cores-per-node 8: 8 workers"),
    (["--measured", "FILE", "--samples", "0"], "--samples"),
    (["--measured", "FILE", "--samples-per-s", "7"], "must be STAGE=NUMBER"),
    (["--measured", "FILE", "--from-run", "nowhere"], "report.json is missing; name the run directory of a pipeline"),
    (["--measured", "FILE", "data.num_sweeps=3"], "  data.num_sweeps: 10 there, 3 now"),
    (["--measure", "costs.json"], "name it by data.dataroot"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path)
    assert main([*PLAN, *(file if word == "FILE" else word for word in arguments)]) == 2
    shown = capsys.readouterr().err
    assert message in shown and "Traceback" not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["measured.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": {"teacher": TRAINED}}, "the stages pseudo_labels, student are missing"),
        ({"stages": {"teacher": TRAINED | {"flops": 0}}}, "stages.teacher.flops = 0"),
        ({"stages": {"teacher": TRAINED | {"disk_bytes": "many"}}}, "stages.teacher.disk_bytes = 'many'"),
        ({"sweep": 3}, "sweep = 3"),
        ({"sweeps": -1}, "sweeps = -1"),
    ],
)
def test_broken_measurements(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PLAN, "--measured", write(tmp_path, **changes)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[1]", "3"])
def test_files_that_are_no_measurement(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.json").write_text(text)
    assert main([*PLAN, "--measured", str(tmp_path / "other.json")]) == 2
    assert "no measurement here" in capsys.readouterr().err


def test_default_nodes_are_those_of_the_manifest() -> None:
    """The defaults equal the manifest: CPUs and GPUs of a GPU pod, shared memory of pod and head [1e9 bytes]."""
    spec = yaml.safe_load((ROOT / "cluster/kuberay/raycluster.yaml").read_text())["spec"]
    group = next(group for group in spec["workerGroupSpecs"] if group["groupName"] == "gpu")["template"]["spec"]
    limits = group["containers"][0]["resources"]

    def shm_gb(pod: dict[str, Any]) -> float:
        size = next(volume for volume in pod["volumes"] if volume["name"] == "shm")["emptyDir"]["sizeLimit"]
        return int(size.removesuffix("Gi")) * 2**30 / 1e9

    parameters = typer.main.get_command(app).commands["plan"].params  # type: ignore[attr-defined]
    default = {parameter.name: parameter.default for parameter in parameters}
    assert default["gpus_per_node"] == int(limits["limits"]["nvidia.com/gpu"])
    assert default["cores_per_node"] == int(limits["requests"]["cpu"])
    assert default["object_store_gb"] == round(shm_gb(group), 1)
    assert default["head_object_store_gb"] == round(shm_gb(spec["headGroupSpec"]["template"]["spec"]), 1)
