"""Train and compare students: variants x seeds of one study on one world.

python -m ray_jobs.student_study STUDY --preset NAME [--run-dir DIR] [--seeds 0 1 2] [--variant NAME] [key=value ...]

Variants that differ in the student alone share the teacher and its pseudo labels; arms of equal settings share a run
directory. A rerun continues. Writes results/STUDY.json, or STUDY-VARIANT.json, and a picture.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from pdetr3d.exits import guarded
from pdetr3d.tracking.runs import Tracker
from pdetr3d.training.run_dir import RunDir, write_json
from ray_jobs.arms import check_arms
from ray_jobs.lanes import run_lanes
from ray_jobs.launch import init_ray
from ray_jobs.refused import refusable
from ray_jobs.scoring import evaluate
from ray_jobs.stage_keys import labels_key
from ray_jobs.stages import EXPERIMENT, Stages
from ray_jobs.student_report import draw_students, print_students, summarize_students
from ray_jobs.student_studies import STUDENT_STUDIES, Variant, folder_name, student_study, variant_config
from ray_jobs.study_command import open_world, parse_words, parser, provenance, study_folder

Runs = dict[tuple[str, int], Stages]  # by folder and seed
NEEDS_LABELS = "ours"


def run(arguments: list[str] | None = None) -> None:
    """The job.

    Raises:
        DataError: for an unknown study, variant, preset or override, or a run directory of another run.
    """
    command = parser(__doc__ or "", STUDENT_STUDIES)
    command.add_argument("--variant", action="append", metavar="NAME", help="only this one of the study; repeatable")
    args = parse_words(command, arguments)
    chosen = student_study(args.study, args.variant)
    names = {name: folder_name(args.preset, variant) for name, variant in chosen.items()}
    runs: Runs = {}
    with refusable(study_folder(args)):
        base, folder, overrides = open_world(args)
        for seed in args.seeds:
            for name, variant in chosen.items():
                if (names[name], seed) not in runs:
                    config = variant_config(args.preset, overrides, variant, seed)
                    place = RunDir(folder / names[name] / f"seed{seed}", config)
                    first = next((stages.run for stages in runs.values()), None)
                    runs[names[name], seed] = Stages(place, None, folder, like=first)
                check_arms([variant.arm], runs[names[name], seed].data, runs[names[name], seed].config)
    with Tracker.start(folder, EXPERIMENT, f"study {args.study}", base.flat(), {"study": args.study}) as parent:
        for stages in runs.values():
            stages.track(parent)
        init_ray(base.scaling.use_gpu)
        wanted = {(name, seed): runs[names[name], seed] for seed in args.seeds for name in chosen}
        at_once = base.scaling.concurrent_stages
        make_labels([stages for (name, _), stages in wanted.items() if chosen[name].arm == NEEDS_LABELS], at_once)
        found = run_lanes([partial(figures, wanted[n, s], chosen[n]) for n, s in wanted], at_once)
        results = dict(zip(wanted, found, strict=True))
        only = [name.replace(" ", "_") for name in chosen if args.variant]
        document = {
            **provenance(args, base.to_json()),
            "study": "-".join([args.study, *only]),  # some variants do not take the place of all
            "variants": {
                name: {
                    "arm": variant.arm,
                    "overrides": list(variant.overrides),
                    "runs": {str(seed): results[name, seed] for seed in args.seeds},
                }
                for name, variant in chosen.items()
            },
        }
        document["summary"] = summarize_students({n: v["runs"] for n, v in document["variants"].items()})
        file = args.out / f"{document['study']}.json"
        write_json(file, document)
        picture = draw_students(document, args.out)
        for path in (file, picture):
            parent.log_artifact(path)
    print_students(document)
    print(f"written: {file}\nwritten: {picture}")


def make_labels(runs: list[Stages], at_once: int) -> None:
    """Teacher and pseudo labels of every run: one training per set of settings that they depend on."""
    groups: dict[str, list[Stages]] = {}
    for stages in dict.fromkeys(runs):
        groups.setdefault(repr(sorted(labels_key(stages.config).items())), []).append(stages)
    run_lanes([group[0].labels for group in groups.values()], at_once)
    for first, *others in groups.values():
        for stages in others:
            stages.adopt_labels(first)


def figures(stages: Stages, variant: Variant) -> dict[str, Any]:
    """Trains the variant's student: its scores on the val split, and the quality of the labels that it learned from."""
    stages.student(variant.arm)
    scores = evaluate(stages, [variant.arm])[variant.arm]
    labels = stages.run.result("pseudo_labels") if variant.arm == NEEDS_LABELS else None
    return {
        "run": stages.run.digest,
        **scores,
        "pseudo_labels": None if labels is None else {k: labels["teacher"][k] for k in ("n", "bev_iou")},
    }


if __name__ == "__main__":
    sys.exit(guarded(run))
