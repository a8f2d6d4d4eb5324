"""Writes the tables of README.md and docs/ from JSON files in ``results/``, so that no figure is typed by hand.

python -m tools.result_tables [NAME WHERE [NOTE]]

With arguments, the program first writes ``results/NAME.json``:

- quickstart RUN [NOTE], kitti-small RUN [NOTE]: from RUN, a run directory of that preset (its code must be committed),
  with NOTE, a sentence about the circumstances;
- chaos FILE: a copy of ``runs/chaos/chaos.json`` (``make chaos`` writes it);
- your-data FILE: a copy of the file that ``python -m benchmarks.bench_your_data`` writes;
- headline FILE, initialization FILE, kitti-clicks FILE, kitti-students FILE, self-labels FILE, unclicked FILE: a copy
  of a search's ``search.json``;
- costs FILE, transfer FILE: a copy of the file that ``python -m benchmarks.costs`` or ``benchmarks.transfer`` writes.

Then it replaces the text between the marks ``<!-- NAME: begin ... -->`` of the documents. A result without a JSON file
is named there as not measured. ``results/kitti-clicks.svg`` is drawn, too.
``tests/contract/test_result_tables.py`` checks that documents and JSON files agree.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.costs_tables import capacity, loading, training_steps
from pdetr3d.evaluation.figures import FLOOR_NAMES, QUALITY_NAMES, SCORES
from pdetr3d.finished.report.markdown import search_text
from pdetr3d.finished.report.search import Search
from pdetr3d.markdown import markdown_table
from pdetr3d.run_files import RunFiles
from pdetr3d.tracking.provenance import git_state
from pdetr3d.training.stage_versions import code_version
from pdetr3d.words import number
from tools.kitti_clicks_table import BINS, kitti_clicks, picture, without_paths
from tools.measurements import ROOT, measurements
from tools.student_tables import headline_students, headline_summary, kitti_students, unclicked

SHOWN = {one.name: one.shown for one in measurements()}
NAMES = tuple(SHOWN)
FILES = {name: ROOT / "results" / f"{name}.json" for name in NAMES}
DOCUMENTS = {
    "quickstart": ROOT / "README.md",
    "headline-summary": ROOT / "README.md",
    "quickstart-details": ROOT / "docs" / "results.md",
    "kitti-small": ROOT / "docs" / "results.md",
    "chaos": ROOT / "docs" / "clusters.md",
    "your-data": ROOT / "docs" / "results.md",
    "kitti-clicks": ROOT / "docs" / "results.md",
    "kitti-students": ROOT / "docs" / "results.md",
    "headline": ROOT / "docs" / "results.md",
    "initialization": ROOT / "docs" / "results.md",
    "self-labels": ROOT / "docs" / "results.md",
    "transfer": ROOT / "docs" / "results.md",
    "costs-steps": ROOT / "docs" / "results.md",
    "costs-loaders": ROOT / "docs" / "results.md",
    "costs-plan": ROOT / "docs" / "nuscenes.md",
    "unclicked": ROOT / "docs" / "results.md",
}
PICTURE = FILES["kitti-clicks"].with_suffix(".svg")  # docs/results.md shows it
ARMS = {
    "boxes_only": "(a) 5 % of the boxes alone",
    "ours": "(b) ours: 5 % of the boxes, and clicks",
    "full": "(c) boxes everywhere",
}
KITTI = {"boxes_only": "(a) the boxes alone", "ours": "(b) the boxes, and clicks", "full": "(c) boxes everywhere"}
SEARCHES = ("headline", "initialization", "kitti-clicks", "kitti-students", "self-labels", "unclicked")
LABELS = {**FLOOR_NAMES, "teacher": "teacher"}
ERRORS = {"center_error_m": 3, "size_error": 3, "yaw_error_rad": 2, "axis_error_rad": 2, "reversed": 2}
PARTS = {"true_yaw": "the true yaw", "true_center": "the true center", "true_size": "the true size"}


def collect(name: str, run: Path, note: str = "") -> dict[str, Any]:
    """The parts of a run directory's ``report.json`` that the tables need, and the commit of this checkout."""
    report = RunFiles(run).report
    labels = report["pseudo_labels"]
    return {
        "command": SHOWN[name],
        "commit": git_state()["git.commit"],
        "code": code_version(),
        "seed": report["config"]["run.seed"],
        "note": note,
        "seconds": report["phases_s"],
        "arms": {arm: {name: report["arms"][arm][name] for name in ("per_class", "by_group", *SCORES)} for arm in ARMS},
        "ratios": report["ratios"],
        "pseudo_labels": {
            "clicks": labels["clicks"],
            "teacher": {k: v for k, v in labels.items() if k not in (*LABELS, "clicks", "accepted")},
            **{floor: labels[floor] for floor in ("class_mean", "class_mean_pca")},
        },
    }


def portable(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """A copied result with a command that works on any machine, and without paths of the machine that measured it."""
    if name == "your-data":
        found["report"].pop("config", None)
    if name in SEARCHES:
        found["config"]["data"]["dataroot"] = "dataset" if name.startswith("kitti") else ""
        found["space"].pop("overrides", None)
        found["seconds"] = {trial["name"]: sum((trial["timing_s"] or {}).values()) for trial in found["trials"]}
    if name == "kitti-clicks":
        found = without_paths(found)
    seeds = found.get("seeds", [])
    command = next(one.shown for one in measurements(quick=seeds == [0]) if one.name == name)
    if len(seeds) == 2:  # ``measurements`` has one or three
        command += f" --seeds {seeds[0]} {seeds[1]}"
    return found | {"command": command}


def quickstart(found: dict[str, Any]) -> str:
    """The quickstart's table of README.md."""
    where = f"`{found['command']}`, one seed, 2 CPU cores, commit {found['commit'][:7]}"
    rows = [
        [name, *(number(found["arms"][arm][s]) for s in SCORES), number(found["arms"][arm]["per_class"]["car"]["AP"])]
        for arm, name in ARMS.items()
    ]
    header = ["labels of the student", *SCORES, "car AP"]
    return "\n".join([f"Students ({where}):", "", *markdown_table(header, rows)])


def boxes_at_clicks(labels: dict[str, Any]) -> list[str]:
    """The lines of the table of pseudo labels: floors and teacher."""
    header = [*("mean BEV IoU", "all", *(f"{b} m" for b in BINS))]
    header += [QUALITY_NAMES[key] for key in ERRORS]
    rows = [
        [
            name,
            *(number(part["bev_iou"]) for part in (labels[key], *(labels[key]["by_distance"][b] for b in BINS))),
            *(number(labels[key][error], digits) for error, digits in ERRORS.items()),
        ]
        for key, name in LABELS.items()
    ]
    return markdown_table(header, rows)


def kitti(found: dict[str, Any]) -> str:
    """The section of docs/results.md about real frames."""
    minutes = sum(found["seconds"].values()) / 60
    classes = {name: scores for name, scores in found["arms"]["full"]["per_class"].items() if scores["n_gt"]}
    counted = ", ".join(f"{name} {scores['n_gt']}" for name, scores in classes.items())
    students = [
        [name, *(number(found["arms"][arm]["per_class"][one]["AP"]) for one in classes)] for arm, name in KITTI.items()
    ]
    return "\n".join(
        [
            f"One run of `{found['command']}` at commit {found['commit'][:7]}, seed {found['seed']}, on 2 CPU cores: "
            f"{minutes:.1f} minutes. {found['note']}".rstrip(),
            "",
            *boxes_at_clicks(found["pseudo_labels"]),
            "",
            *markdown_table([f"AP of students (objects in the val split: {counted})", *classes], students),
        ]
    )


def tutorial(found: dict[str, Any]) -> str:
    """The section of docs/results.md about the commands of docs/your-data.md."""
    seconds, report, roles = found["seconds"], found["report"], found["roles"]
    truth, told = found["known_to_the_whole_tables"]["all"], found["known_to_the_run"]["all"]
    students = [
        [name, *(number(report["arms"][arm][s]) for s in SCORES)] for arm, name in ARMS.items() if arm in report["arms"]
    ]
    holdout = report["holdout"]
    clicks = [
        [what, str(part["n"]), *(number(part[key], digits) for key, digits in {"bev_iou": 3, **ERRORS}.items())]
        for what, part in [(f"held out: {LABELS[name]}", holdout[name]) for name in LABELS]
    ]
    clicks.append(
        ["people's clicks, accepted boxes (unknown to the run): teacher", str(truth["known"])]
        + [number(truth[key], digits) for key, digits in {"bev_iou": 3, **ERRORS}.items()]
    )
    return "\n".join(
        [
            f"`{found['command']}` at commit {found['commit'][:7]} on 2 CPU cores: "
            f"{sum(seconds.values()) / 60:.0f} minutes, "
            f"of which the pipeline took {seconds['ray_jobs.pipeline'] / 60:.0f}. "
            f"{roles['box']} frames have boxes, {roles['point']} have clicks. The run knows the true box of "
            f"{told['known']} of its {told['clicks']} pseudo labels.",
            "",
            *markdown_table(
                ["boxes at clicks", "clicks", *(QUALITY_NAMES[key] for key in ("bev_iou", *ERRORS))],
                clicks,
            ),
            "",
            *markdown_table(["student (scores on the val split)", *SCORES], students),
        ]
    )


def details(found: dict[str, Any]) -> str:
    """The quickstart's section of docs/results.md."""
    teacher, full = found["pseudo_labels"]["teacher"], found["arms"]["full"]
    ratios = [
        [name, *(number(found["ratios"][key][s]) for s in ("mAP", "SPNDS"))]
        for key, name in {"ours_to_full": "(b) / (c)", "ours_to_boxes_only": "(b) / (a)"}.items()
    ]
    oracles = ", ".join(f"with {name} {teacher['oracles'][key]:.3f}" for key, name in PARTS.items())
    classes = [
        [
            name,
            str(teacher["per_class"][name]["n"]),
            *(number(teacher["per_class"][name][q], 2) for q in ("bev_iou", "yaw_error_rad", "reversed")),
            *(number(found["arms"][arm]["per_class"][name]["AP"]) for arm in ARMS),
        ]
        for name in full["per_class"]
    ]
    seconds = found["seconds"]
    return "\n".join(
        [
            f"One run of `{found['command']}` at commit {found['commit'][:7]}, seed {found['seed']}, on 2 CPU cores. "
            f"It took {sum(seconds.values()) / 60:.1f} minutes: "
            + ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
            + f". {found['note']}".rstrip(),
            "",
            f"Pseudo labels, boxes at the {found['pseudo_labels']['clicks']} clicks:",
            "",
            *boxes_at_clicks(found["pseudo_labels"]),
            "",
            *markdown_table(["ratio of the students' scores", "mAP", "SPNDS"], ratios),
            "",
            f"The teacher's boxes have a mean BEV IoU of {teacher['bev_iou']:.3f}. If one part of each box were true, "
            f"it would be: {oracles}. The scores of the boxes have an ECE of {teacher['calibration']['ece']:.3f} and a "
            f"rank correlation of {teacher['calibration']['rank_correlation']:.2f} with the IoU that the boxes reach. "
            "Of each fifth of the boxes, from the least to the surest direction, this share is turned: "
            + ", ".join(number(part["turned"]) for part in teacher["directions"])
            + ".",
            "",
            *markdown_table(
                [
                    *("class", "clicks", "teacher's BEV IoU", "yaw [rad]", "turned"),
                    *("AP of (a)", "AP of (b)", "AP of (c)"),
                ],
                classes,
            ),
        ]
    )


def transfer(found: dict[str, Any]) -> str:
    """The section of docs/results.md about a teacher that never saw a real frame."""
    labels = found["labels"]
    lead = f"`{found['command']}` at commit {found['commit'][:7]}, {labels['teacher']['n']} clicks:"
    return "\n".join([lead, "", *boxes_at_clicks(labels)])


def faults(found: dict[str, Any]) -> str:
    """The table of docs/clusters.md: the cost of faults."""
    rows = []
    for row in found["rows"]:
        lost, recovery = ("" if row[key] is None else f"{row[key]:.0f}" for key in ("lost", "recovery_s"))
        rows.append([row["what"], lost, recovery, {True: "yes", False: "no", None: ""}[row["equal"]], row["note"]])
    minutes = sum(found["seconds"].values()) / 60
    where = f"`{found['command']}` at commit {found['commit']} on {found['cores']} CPU cores: {minutes:.0f} minutes"
    header = ["fault", "committed steps lost", "s to the next step", "equal to the undisturbed run", "note"]
    return "\n".join([f"{where}.", "", *markdown_table(header, rows)])


def put(text: str, name: str, block: str) -> str:
    """Put ``block`` between the marks ``<!-- NAME: begin ... -->`` and ``<!-- NAME: end -->`` of a document."""
    pattern = rf"(<!-- {name}: begin[^>]*-->\n).*?(<!-- {name}: end -->)"
    new, times = re.subn(pattern, lambda marks: f"{marks[1]}{block}\n{marks[2]}", text, flags=re.DOTALL)
    if times != 1:
        raise SystemExit(f"{times} pairs of marks named {name} in the document, where there must be one")
    return new


def documents() -> dict[Path, str]:
    """The path and the text that every document must have by the JSON files."""
    found = {name: json.loads(file.read_text()) for name, file in FILES.items() if file.exists()}
    made = {
        "quickstart": quickstart,
        "quickstart-details": details,
        "kitti-small": kitti,
        "chaos": faults,
        "your-data": tutorial,
        "unclicked": unclicked,
        "kitti-clicks": kitti_clicks,
        "headline": headline_students,
        "headline-summary": headline_summary,
        "initialization": lambda found: search_text(Search(ROOT, found), {}),
        "self-labels": lambda found: search_text(Search(ROOT, found), {}),
        "kitti-students": kitti_students,
        "transfer": transfer,
        "costs-steps": training_steps,
        "costs-loaders": loading,
        "costs-plan": capacity,
    }
    texts: dict[Path, str] = {}
    for name, path in DOCUMENTS.items():
        result = next(one for one in NAMES if name.startswith(one))
        block = made[name](found[result]) if result in found else f"Not measured: `make results ARGS={result}` does it."
        texts[path] = put(texts.get(path, path.read_text()), name, block)
    return texts


def main(arguments: list[str]) -> None:
    """See the module."""
    match arguments:
        case ["quickstart" | "kitti-small" as name, run, *note]:
            FILES[name].write_text(json.dumps(collect(name, Path(run), *note), indent=1) + "\n")
        case [name, file] if name in NAMES:
            found = {"code": code_version()} | json.loads(Path(file).read_text())
            FILES[name].write_text(json.dumps(portable(name, found), indent=1) + "\n")
        case [_, *_]:
            raise SystemExit(__doc__)
    for path, text in documents().items():
        path.write_text(text)
    if FILES["kitti-clicks"].exists():
        PICTURE.write_bytes(picture(json.loads(FILES["kitti-clicks"].read_text())))


if __name__ == "__main__":
    main(sys.argv[1:])
