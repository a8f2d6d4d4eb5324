"""Train and compare teachers: variants x seeds of one study on one world, each a run directory of its own.

python -m ray_jobs.teacher_study STUDY --preset NAME [--run-dir DIR] [--seeds 0 1 2] [--pretrained DIR] [key=value ...]

With --pretrained every variant is also trained from its teacher in DIR, the run directory of the same study on another
world. A rerun continues; what is finished is not done again, nor what another study of the preset trained. Writes
results/STUDY.json and pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pdetr3d.config import Config, override
from pdetr3d.exits import guarded
from pdetr3d.pseudo_labels import FLOORS
from pdetr3d.schema import DataError, SampleRecord
from pdetr3d.tracking.runs import Tracker
from pdetr3d.tracking.scores import score_metrics
from pdetr3d.training import checkpoint
from pdetr3d.training.build import build, image_weights, initialize_images
from pdetr3d.training.run_dir import RunDir, write_json
from pdetr3d.training.start_weights import initialize_start, start_weights
from ray_jobs.inference import predict
from ray_jobs.lanes import run_lanes
from ray_jobs.launch import init_ray
from ray_jobs.quality import floors
from ray_jobs.refused import refusable
from ray_jobs.stages import EXPERIMENT, Stages
from ray_jobs.studies import STUDIES, Study, study, variant_config
from ray_jobs.study_command import open_world, parse_words, parser, provenance, study_folder
from ray_jobs.study_report import draw_study, print_study
from ray_jobs.study_results import summarize
from ray_jobs.tracked import step_of

STAGE = "study"  # name of the evaluation's folder in a run directory


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; see ``study_command.parse_words`` for what it raises."""
    command = parser(__doc__ or "", STUDIES)
    command.add_argument("--clicks-from", type=int, default=100, metavar="N", help="samples behind curves, troubles")
    command.add_argument("--pretrained", type=Path, metavar="DIR", help="run directory of this study on another world")
    command.add_argument("--final-from", type=int, default=0, metavar="N", help="samples behind final figures; 0: all")
    args = parse_words(command, arguments)
    if args.clicks_from < 1 or args.final_from < 0:
        raise DataError("--clicks-from needs at least 1, --final-from at least 0")
    return args


def run(arguments: list[str] | None = None) -> None:
    """The job.

    Raises:
        DataError: for an unknown study, preset or override, or a run directory of another run.
    """
    args = parse(arguments)
    chosen = study(args.study)
    if args.pretrained is not None:
        chosen = chosen.pretrained(args.pretrained)
    runs: dict[tuple[str, int], Stages] = {}
    with refusable(study_folder(args)):
        base, folder, overrides = open_world(args, chosen.settings)
        for seed in args.seeds:  # all variants of a seed first: a study cut short can be reported with fewer seeds
            for name, changes in chosen.variants.items():
                config = variant_config(args.preset, overrides, changes, name, seed, chosen.settings)
                first = next((stages.run for stages in runs.values()), None)
                runs[name, seed] = Stages(RunDir(folder / name / f"seed{seed}", config), None, folder, like=first)
                untrained(runs[name, seed])
        check_known(next(iter(runs.values())))
    with Tracker.start(folder, EXPERIMENT, f"study {args.study}", base.flat(), {"study": args.study}) as parent:
        for stages in runs.values():
            stages.track(parent)
        init_ray(base.scaling.use_gpu)
        lanes = [
            partial(one_run, stages, chosen, args.clicks_from, args.final_from, with_floors=name == chosen.reference)
            for (name, _), stages in runs.items()
        ]
        results = run_lanes(lanes, base.scaling.concurrent_stages)
        document = {
            **provenance(args, base.to_json()),
            "clicks_from": args.clicks_from,
            "final_from": args.final_from,
            "reference": chosen.reference,
            "variants": {
                name: {
                    "overrides": list(changes),
                    "parameters": parameters(runs[name, args.seeds[0]]),
                    "runs": {str(s): r for (n, s), r in zip(runs, results, strict=True) if n == name},
                }
                for name, changes in chosen.variants.items()
            },
        }
        document["summary"] = summarize({n: v["runs"] for n, v in document["variants"].items()}, chosen.reference)
        file = args.out / f"{args.study}.json"
        write_json(file, document)
        pictures = draw_study(document, args.out)
        for path in (file, *pictures):
            parent.log_artifact(path)
    print_study(document)
    print("\n".join(f"written: {path}" for path in (file, *pictures)))


def one_run(stages: Stages, chosen: Study, clicks_from: int, final_from: int, *, with_floors: bool) -> dict[str, Any]:
    """Train one teacher and evaluate its checkpoints on the first point-labeled samples with clicks.

    ``with_floors``: measure the floors, too, which are the same for all variants of a seed.
    """
    stages.teacher()
    troubles = {name: [key, list(values)] for name, (key, values) in chosen.troubles.items()}
    asked = {"clicks_from": clicks_from, "final_from": final_from, "troubles": troubles}
    done = stages.run.result(STAGE)
    if done is None or done["asked"] != asked:
        done = stages.run.finish(STAGE, {"asked": asked, **evaluated(stages, chosen, clicks_from, final_from)})
    # Another study may have evaluated this teacher before, as a variant that is not its reference.
    if with_floors and not done.keys() >= set(FLOORS):
        known = stages.known_clicks(clicked(stages)[: final_from or None])
        done = stages.run.finish(STAGE, {**done, **floors(known, stages.config, stages.prior)})
    return done


def evaluated(stages: Stages, chosen: Study, clicks_from: int, final_from: int) -> dict[str, Any]:
    """What ``study_results`` calls a run, without floors."""
    files, config, prior = stages.checkpoints("teacher"), stages.config, stages.prior
    records = clicked(stages)
    few, many = records[:clicks_from], records[: final_from or None]
    curve = learning_curve(stages, files, few)
    final = stages.known_clicks(many).quality(predict("teacher", config, prior, files[-1:], many)[0])
    with stages.tracker("teacher", {}) as tracker:
        tracker.log_metrics(score_metrics("point_labeled", final))
        step_s, memory = tracker.history("step_s"), tracker.history("peak_memory_bytes")
    return {
        "run": stages.run.digest,
        "steps": step_of(files[-1]),
        "curve": curve,
        "final": final,
        "step_s": float(np.median(step_s)) if step_s else None,
        "peak_memory_bytes": max(memory) if memory else None,
        "troubles": under_trouble(stages, chosen, files[-1], clicks_from),
    }


def clicked(stages: Stages) -> list[SampleRecord]:
    """The point-labeled samples with clicks."""
    records = [r for r in stages.records if r.role == "point" and len(r.clicks)]
    if not records:
        raise DataError(f"{stages.run.path}: no point-labeled sample has clicks; label.ratio must leave some")
    return records


def check_known(stages: Stages) -> None:
    """Refuse a dataset on which no teacher can be measured.

    Raises:
        DataError: when no click of a point-labeled sample has a known box.
    """
    if not stages.known_clicks(clicked(stages)):
        raise DataError(
            f"{stages.run.path}: the true box of no click is in the tables, so teachers cannot be compared; "
            "set label.source=simulate to study teachers on the box-labeled scenes alone"
        )


def learning_curve(stages: Stages, files: Sequence[Path], records: Sequence[SampleRecord]) -> list[list[float]]:
    """[[step, BEV IoU], ...] on ``records`` of the teacher before training and of its checkpoints."""
    known, files = stages.known_clicks(records), [untrained(stages), *files]
    found = predict("teacher", stages.config, stages.prior, files, records)
    return [[step_of(file), known.quality(boxes)["bev_iou"]] for file, boxes in zip(files, found, strict=True)]


def untrained(stages: Stages) -> Path:
    """A checkpoint, of step 0, of the teacher that training begins with; made once, in the run directory.

    First called before lanes start: they share this process's random numbers. Studies use no student's weights.
    """
    target = stages.run.path / STAGE / "step_0000000.pt"
    if not target.exists():
        model, images = build("teacher", stages.config, stages.prior).model, image_weights(stages.config)
        if images is not None:
            initialize_images(model, images)
        start = start_weights(stages.config)
        if start is not None:
            initialize_start(model, start, "teacher", stages.config)
        checkpoint.save(target.parent, model, None, 0, stages.config.to_json()).rename(target)
    return target


def under_trouble(stages: Stages, chosen: Study, file: Path, clicks_from: int) -> dict[str, dict[str, Any]]:
    """Trouble -> its value (as text) -> quality of the checkpoint. Clicks are moved from the true boxes."""
    boxed = {r.sample_token: r for r in stages.known_records}
    records = [boxed[r.sample_token] for r in clicked(stages)[:clicks_from]]
    known, done = stages.known_clicks(records), {}

    def quality(config: Config) -> dict[str, Any]:
        if config not in done:  # no trouble is no trouble, whatever its name
            done[config] = known.quality(predict("teacher", config, stages.prior, [file], records)[0])
        return done[config]

    return {
        name: {str(value): quality(override(stages.config, [f"{key}={value}"])) for value in values}
        for name, (key, values) in chosen.troubles.items()
    }


def parameters(stages: Stages) -> int:
    """Trainable numbers of the run's teacher."""
    return sum(p.numel() for p in build("teacher", stages.config, stages.prior).model.parameters() if p.requires_grad)


if __name__ == "__main__":
    sys.exit(guarded(run))
