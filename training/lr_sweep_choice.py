"""Which of the rates that were tried is the one, and which are worth trying besides.

In    rates with their mean scores, None where a run diverged.
Out   the rate and why; the rates to try next.
Run   through training/lr_sweep.py
"""

from collections.abc import Mapping
from statistics import fmean
from typing import NamedTuple

from preprocessing.errors import UserError
from training.lr_sweep_settings import spaced

LEAST_SMOOTHED = 4
"""Rates so near each other that their neighbours say something of them."""
BETWEEN = 2
"""Rates tried between the best and each of its neighbours."""

Tried = Mapping[float, float | None]
"""Rate -> mean score; None where a run at it diverged."""


class Choice(NamedTuple):
    rate: float
    why: str


def best_of(tried: Tried) -> float:
    """The rate with the best score, of equal ones the lowest; raises UserError where all diverged."""
    scored = {rate: score for rate, score in tried.items() if score is not None}
    if not scored:
        low, high = min(tried), max(tried)
        raise UserError(f"the loss diverged at every rate from {low:g} to {high:g}: give a sweep with a lower `low`")
    return min(scored, key=lambda rate: (-scored[rate], rate))


def finer(tried: Tried) -> list[float]:
    """Two rates between the best one and each of its neighbours, log-spaced, also where a neighbour diverged."""
    rates, best = sorted(tried), best_of(tried)
    at = rates.index(best)
    steps = range(1, BETWEEN + 1)
    found = []
    for neighbour in (rates[at - 1] if at else None, rates[at + 1] if at + 1 < len(rates) else None):
        if neighbour is not None:
            found += [spaced(best, neighbour, step / (BETWEEN + 1)) for step in steps]
    return sorted(found)


def choose(tried: Tried, coarse: Tried) -> Choice:
    """Of the rates between the neighbours of the best coarse one, that whose score is highest when smoothed with the
    rates beside it (1 : 2 : 1): one score alone is partly chance. With too few rates, the best score itself.

    `coarse`: the points before refinement.
    """
    best = best_of(tried)
    rates = sorted(coarse)
    at = rates.index(best_of(coarse))
    low, high = rates[max(0, at - 1)], rates[min(len(rates) - 1, at + 1)]
    near = {rate: score for rate, score in sorted(tried.items()) if score is not None and low <= rate <= high}
    alone = f"{best:g} has the best score, {tried[best]:.4f}, of {len(tried)} rates"
    smoothed = beside(near) if len(near) >= LEAST_SMOOTHED else near
    chosen = max(smoothed, key=lambda rate: smoothed[rate])
    edge = ""
    if chosen in (min(tried), max(tried)):
        edge = "; it is at the edge of the sweep: a wider one may find a better rate"
    if smoothed is near:
        return Choice(chosen, alone + edge)
    return Choice(
        chosen,
        f"smoothed with the rates beside it, it is the best of the {len(near)} from {low:g} to {high:g} "
        f"({smoothed[chosen]:.4f}; measured {near[chosen]:.4f}); {alone}{edge}",
    )


def beside(scores: Mapping[float, float]) -> dict[float, float]:
    """Each score twice with its neighbours once."""
    rates, values = list(scores), list(scores.values())
    means = {}
    for at, rate in enumerate(rates):
        around = [values[at], values[at], *values[max(0, at - 1) : at], *values[at + 1 : at + 2]]
        means[rate] = fmean(around)
    return means
