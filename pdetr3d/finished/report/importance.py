"""Which parameters the figures of a search depend on."""

from __future__ import annotations

import json
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from pdetr3d.finished.report.search import Search, value_at

ENOUGH = 4  # finished trials; with fewer a forest only repeats them


def importances(search: Search) -> tuple[dict[str, float], str]:
    """(config key -> share of the figures' variance, largest first, and ""), or ({}, why there is none).

    Shares sum to 1 (fANOVA, Hutter et al., 2014): what random trees, fitted to the finished trials, explain by each
    parameter alone and by its interactions.
    """
    finished = [
        (trial["parameters"], value_at(trial["final"], (search.judged, search.metric)))
        for row in search.rows
        for trial in row.finished
    ]
    known = [(parameters, value) for parameters, value in finished if value is not None]
    if len(search.keys) < 2:
        return {}, f"The search varies {search.keys[0]} alone: there is nothing to weigh it against."
    if len(known) < ENOUGH:
        return {}, f"Needs at least {ENOUGH} finished trials; there are {len(known)}."
    if len({value for _, value in known}) < 2:
        return {}, f"All {len(known)} finished trials have the same {search.metric}."
    kinds = {key: distribution(domain) for key, domain in search.domains.items()}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()  # importance does not depend on the direction
    for parameters, value in known:
        chosen = {key: _plain(parameters[key]) for key in search.keys}
        study.add_trial(optuna.create_trial(params=chosen, distributions=kinds, value=value))
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)), ""


def distribution(domain: dict[str, Any]) -> BaseDistribution:
    """A domain of a search space (``ray_jobs.searches.space.Domain`` as JSON) as Optuna knows it."""
    ((kind, bounds),) = ((kind, bounds) for kind, bounds in domain.items() if bounds is not None)
    if kind == "values":
        return CategoricalDistribution([_plain(value) for value in bounds])
    low, high = bounds
    if kind == "integers":
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=kind == "loguniform")


def _plain(value: Any) -> Any:
    """Lists as text: Optuna's categories are numbers, words and booleans."""
    return json.dumps(value) if isinstance(value, list) else value
