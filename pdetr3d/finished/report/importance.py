"""Computes how much the figures of a search depend on each parameter (fANOVA)."""

from __future__ import annotations

import json
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from pdetr3d.finished.report.search import Search, value_at

ENOUGH = 4  # finished trials that are needed; with fewer, a random forest only reproduces them


def importances(search: Search) -> tuple[dict[str, float], str]:
    """The importance of each parameter by fANOVA (Hutter et al., 2014) on random trees fitted to the finished trials.

    Returns:
        Config key -> share of the figures' variance that the parameter and its interactions explain, largest first
        (the shares sum to 1), and ""; or {} and the reason why it cannot be computed.
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
    study = optuna.create_study()  # its direction does not matter for importance
    for parameters, value in known:
        chosen = {key: _plain(parameters[key]) for key in search.keys}
        study.add_trial(optuna.create_trial(params=chosen, distributions=kinds, value=value))
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)), ""


def distribution(domain: dict[str, Any]) -> BaseDistribution:
    """Convert a domain of a search space (``ray_jobs.searches.space.Domain`` as JSON) to Optuna's distribution."""
    ((kind, bounds),) = ((kind, bounds) for kind, bounds in domain.items() if bounds is not None)
    if kind == "values":
        return CategoricalDistribution([_plain(value) for value in bounds])
    low, high = bounds
    if kind == "integers":
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=kind == "loguniform")


def _plain(value: Any) -> Any:
    """Convert lists to text, because Optuna's categories are numbers, text and booleans."""
    return json.dumps(value) if isinstance(value, list) else value
