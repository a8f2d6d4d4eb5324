"""Tests of sharing between runs on one dataset: stages, the index, the check of its files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pdetr3d.config import Config, override
from pdetr3d.pipeline import execute as execute_module
from pdetr3d.pipeline.arm_records import arm_records
from pdetr3d.pipeline.execute import SHARED, execute, pipeline_goals
from pdetr3d.pipeline.graph import GRAPH, Stage
from pdetr3d.pipeline.observer import Observer
from pdetr3d.pipeline.run import Run
from pdetr3d.pipeline.runner import LocalRunner
from pdetr3d.pipeline.store import Store, index_folder
from pdetr3d.schema import SOURCE_HUMAN, DataError
from pdetr3d.training.run_dir import RunDir, share_index
from ray_jobs.stages.report import print_quality
from tests.training_cases import begin_run, world_config
from tests.unit.test_bad_input import replace


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stages write a file with their run's digest, and note in which folder they were made."""
    notes: list[str] = []

    def stand_in(name: str, stage: Stage) -> Stage:
        def make(run: Run) -> dict[str, str]:
            for need in stage.needs(run.config):
                assert need not in GRAPH or (name == PSEUDO and not run.to_label) or run.result(need) is not None
            (run.path / name).mkdir(exist_ok=True)
            (run.path / name / "weights.pt").write_text(run.dir.digest)
            notes.append(f"{run.path.name.split('-')[0]}: {name}")
            return {"of": run.dir.digest}

        return Stage(stage.kind, stage.versions, stage.needs, make)

    for name, stage in GRAPH.items():
        monkeypatch.setitem(execute_module.GRAPH, name, stand_in(name, stage))
    return notes


PSEUDO = "pseudo_labels"


def store_in(path: Path, base: Config) -> Store:
    """A store whose stages are made in this process."""

    @contextmanager
    def begin(folder: Path, config: Config, name: str) -> Iterator[Run]:
        assert folder.name == name
        yield Run(RunDir(folder, config), LocalRunner(), Observer(), index_folder(path, config))

    return Store(path, base, begin)


def test_boxes_everywhere_need_no_teacher(sim_world: Path, tmp_path: Path) -> None:
    run = begin_run(sim_world, tmp_path, "label.ratio=1.0")
    goals = pipeline_goals(run, [])
    assert goals == [PSEUDO]
    execute(goals, run)
    assert run.result("teacher") is None
    quality = run.finished(PSEUDO)
    assert quality["accepted"] == quality["teacher"]["n"] == 0 and quality["teacher"]["bev_iou"] is None
    print_quality(quality)
    learned = list(arm_records(run, "ours"))
    assert len(learned) == len(run.records) > 0
    for record, known in zip(learned, run.known_records, strict=True):
        assert record.role == "box" and np.array_equal(record.boxes.rows, known.boxes.rows)
        assert (record.boxes.source == SOURCE_HUMAN).all()


def test_a_run_like_another_neither_indexes_nor_checks_the_dataset_again(sim_world: Path, tmp_path: Path) -> None:
    """A file that breaks after the first run's check is noticed by none but the run that takes nothing over."""
    world = tmp_path / "world"
    shutil.copytree(sim_world, world, copy_function=os.link)
    first, store = begin_run(world, tmp_path / "a"), tmp_path / "shared"
    share_index(first.dir, index_folder(store, first.config))
    replace(Path(first.records[0].lidar_path), b"")

    def like(name: str, *words: str) -> Run:
        config = world_config(world, *words)
        return begin_run(world, tmp_path / name, *words, index=index_folder(store, config))

    second = like("b", "label.seed=1")
    assert second.data.index.digest == first.data.index.digest
    assert second.data.manifest.digest != first.data.manifest.digest
    like("poorer", "data.sensor.lidar_beams=8")  # the same files
    with pytest.raises(DataError, match="empty"):  # another dataset section: nothing is taken over
        like("c", "data.num_sweeps=1")


def test_who_finds_no_index_leaves_one(sim_world: Path, tmp_path: Path) -> None:
    first = begin_run(sim_world, tmp_path / "a", index=tmp_path / "shared")
    second = begin_run(sim_world, tmp_path / "b", index=tmp_path / "shared")
    made, left, taken = (tmp_path / folder / "index.arrow" for folder in ("a/data", "shared", "b/data"))
    assert made.samefile(left) and left.samefile(taken)  # links
    assert second.data.digest == first.data.digest


@pytest.mark.parametrize(("lidar_init", "expected"), [
    ("none", ["teacher: crops", "teacher: teacher", "pseudo_labels: pseudo_labels"]),
    ("boxes_only", ["student_boxes_only: student_boxes_only", "teacher: crops", "teacher: teacher",
                    "pseudo_labels: pseudo_labels"]),
])  # fmt: skip
def test_shared_stages_are_made_once_and_linked(
    lidar_init: str, expected: list[str], sim_world: Path, tmp_path: Path, made: list[str]
) -> None:
    word = f"teacher.lidar_init={lidar_init}"
    base = world_config(sim_world, word)
    store = store_in(tmp_path / "shared", base)
    one, two = (begin_run(sim_world, tmp_path / n, word, f"student.mask_sigma_factor={n}") for n in ("1", "2"))
    for run in (one, two):
        execute(["student_ours"], run, store=store, shared=SHARED)
        assert run.result("teacher") is None  # nobody here reads it
    assert made == [*expected, "1: student_ours", "2: student_ours"]
    assert one.result(PSEUDO) == two.result(PSEUDO) != None  # noqa: E711
    assert one.result("student_ours") != two.result("student_ours")
    files = [run.path / PSEUDO / "weights.pt" for run in (one, two)]
    assert files[0].samefile(files[1])  # a link, no copy
    other = begin_run(sim_world, tmp_path / "3", word, "label.snap=true")  # other labels of the same teacher
    execute(["student_ours"], other, store=store, shared=SHARED)
    assert made[-2:] == ["pseudo_labels: pseudo_labels", "3: student_ours"] and len(made) == len(expected) + 4


def test_a_shared_stage_has_the_config_of_all_who_share_it(tmp_path: Path) -> None:
    base = override(Config(preset=""), ["teacher.lidar_init=none"])
    store = Store(tmp_path, base, lambda *_: pytest.fail("made"))
    wide, other = override(base, ["student.mask_sigma_factor=1"]), override(base, ["teacher.roi_grid=3"])
    assert store.config_of(PSEUDO, wide) == base
    assert store.config_of(PSEUDO, other) == other
    assert store.config_of("student_boxes_only", other) == base


def test_one_thread_at_a_time_makes_a_shared_stage(sim_world: Path, tmp_path: Path, made: list[str]) -> None:
    store = store_in(tmp_path / "shared", world_config(sim_world))
    runs = [begin_run(sim_world, tmp_path / f"r{n}", f"student.score_power={n}") for n in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda run: execute([PSEUDO], run, store=store, shared=SHARED), runs))
    assert made.count("pseudo_labels: pseudo_labels") == made.count("teacher: teacher") == 1


HOLDER = """
import sys, time
from pathlib import Path
from pdetr3d.training import lease
lease.hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(1)
lease.release(Path(sys.argv[1]))
"""


def test_another_process_is_waited_for(sim_world: Path, tmp_path: Path, made: list[str]) -> None:
    run, store = begin_run(sim_world, tmp_path / "run"), store_in(tmp_path / "shared", world_config(sim_world))
    execute([PSEUDO], begin_run(sim_world, tmp_path / "first"), store=store, shared=SHARED)
    (folder,) = (tmp_path / "shared").glob("pseudo_labels-*")
    done = folder / PSEUDO / "done.json"
    kept = done.read_text()
    done.unlink()  # as if the other process were about to finish it
    other = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    threading.Timer(0.3, lambda: done.write_text(kept)).start()
    execute([PSEUDO], run, store=store, shared=SHARED)
    assert other.wait(30) == 0
    assert made.count("pseudo_labels: pseudo_labels") == 1 and run.result(PSEUDO) is not None


def test_labels_that_were_taken_over_need_no_teacher(sim_world: Path, tmp_path: Path) -> None:
    run = begin_run(sim_world, tmp_path)
    assert pipeline_goals(run, ["full", "ours"]) == ["teacher", PSEUDO, "student_ours", "student_full"]
    run.dir.finish(PSEUDO, {})
    assert pipeline_goals(run, ["ours"]) == [PSEUDO, "student_ours"]
    run.dir.finish("teacher", {})
    assert pipeline_goals(run, ["ours"]) == ["teacher", PSEUDO, "student_ours"]  # says that it is finished
