"""Converts results of studies, which older versions wrote (tests/data/older_results), to those of searches."""

from __future__ import annotations

from typing import Any

from pdetr3d.pseudo_labels import FLOORS


def from_study(document: dict[str, Any]) -> dict[str, Any]:
    """Convert a study's document to the form of ``search.json``: each variant is a row, each of its seeds a trial.

    Raises:
        KeyError: when the document lacks an entry of studies.
    """
    variants, teachers = document["variants"], "reference" in document
    trials = [
        _trial(document, name, variant, int(seed), run)
        for name, variant in variants.items()
        for seed, run in variant["runs"].items()
    ]
    judged, metric = ("teacher", "bev_iou") if teachers else ("student", "SPNDS")
    groups = [
        {"parameters": {"variant": name}, "trials": [t["name"] for t in trials if t["parameters"]["variant"] == name]}
        for name in variants
    ]
    mean = {name: document["summary"][name][metric]["mean"] or 0.0 for name in variants}
    measured, scored = ("point_labeled", "point_labeled") if teachers else ("val", "final")
    return {
        **{key: document[key] for key in ("preset", "command", "commit", "date", "config")},
        "space": {
            "name": document["study"],
            "question": f"Study {document['study']}",
            "preset": document["preset"],
            "trains": "teacher" if teachers else [next(iter(variants.values()))["arm"]],
            "search": "grid",
            "trials": None,
            "seeds": document["seeds"],
            "asha": False,
            "settings": [],
            "overrides": [],
            "variants": {n: {"trains": v.get("arm"), "overrides": v["overrides"]} for n, v in variants.items()},
            "reference": document.get("reference", "ours" if "ours" in variants else None),
            "space": {},
        },
        **{"metric": metric, "mode": "max", "judged": judged, "measured_on": measured, "scored_on": scored},
        "trials": trials,
        "groups": sorted(groups, key=lambda group: -mean[group["parameters"]["variant"]]),
        "shared": [],
    }


def _trial(
    document: dict[str, Any], name: str, variant: dict[str, Any], seed: int, run: dict[str, Any]
) -> dict[str, Any]:
    of_teacher, curve = "final" in run, []
    if of_teacher:
        batch, steps = document["config"]["teacher"]["optim"]["batch_size"], max(run["steps"], 1)
        curve = [{"step": s, "progress": 100 * s / steps, "samples": s * batch, "bev_iou": v} for s, v in run["curve"]]
        final = {"teacher": run["final"], **{floor: run[floor] for floor in FLOORS if floor in run}}
    else:
        final = {"student": run}
    return {
        "name": f"{name}-seed{seed}",
        "run_dir": f"{name}/seed{seed}",
        **{"status": "finished", "error": None, "parameters": {"variant": name, "seed": seed}},
        "curve": curve,
        "score": curve[-1]["bev_iou"] if curve else run["SPNDS"],
        "samples": curve[-1]["samples"] if curve else 0,
        "progress": 100.0,
        "final": final,
        "corruption": run.get("troubles", {}),
        "costs": {"parameters": variant.get("parameters"), **{k: run.get(k) for k in ("step_s", "peak_memory_bytes")}},
        "data": {"label_bev_iou": (run.get("pseudo_labels") or {}).get("bev_iou")},
        "timing_s": None,
    }
