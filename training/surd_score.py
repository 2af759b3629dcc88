"""How well the SURD head tells a text's terms, beside looking them up by what the model predicts of it.

In    the SurdTargets of a finished run, its model, batches with labels that it has not learned from.
Out   roots of the mean squared errors of the head's terms and of the looked-up ones, in thousandths of the surprise.
Run   through benchmarks/ablation.py.

A row's target is what the head was taught for its outcome. The head sees the text, so that it has to do better than a
table of 64 states, the quartiles of predicted valence, utility and regret: a row of such a state gets the mean of the
targets that earlier rows of this state had. An error below the table's is what the head knows besides. Neither can be
large where both outcomes have nearly the same terms, as they do while the predictions say little about the outcome.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from redheart_hf import RedHeartForMultiTask
from training.collator import MODEL_INPUTS
from training.inference import evaluation_mode
from training.surd_targets import BINS, CAPACITY, NO_OUTCOME, SurdTargets, agents_of, outcomes_of


def looked_up(targets: SurdTargets, agents: np.ndarray) -> np.ndarray:
    """Terms (n, 12) of predictions (n, 3), from the outcomes of remembered predictions of the same state.

    A state's share of accepted rows counts one row of the mean besides its own, so that none is empty. Raises
    ValueError before the first decomposition.
    """
    if targets.terms is None:
        raise ValueError(f"there are no terms to look up yet: {targets.seen} predictions were seen")
    held = min(targets.seen, CAPACITY)
    seen, outcomes = targets.agents[:held], targets.outcomes[:held]
    edges = np.quantile(seen, np.arange(1, BINS) / BINS, axis=0)

    def states(rows: np.ndarray) -> np.ndarray:
        codes = [np.searchsorted(edges[:, column], rows[:, column], side="right") for column in range(rows.shape[1])]
        return np.ravel_multi_index(codes, (BINS,) * len(codes))

    size = BINS ** seen.shape[1]
    accepted = np.bincount(states(seen), weights=outcomes, minlength=size) + outcomes.mean()
    share = (accepted / (np.bincount(states(seen), minlength=size) + 1))[states(agents)][:, None]
    return share * targets.terms[1] + (1 - share) * targets.terms[0]


def surd_errors(
    targets: SurdTargets, model: RedHeartForMultiTask, batches: Iterable[dict[str, Any]]
) -> dict[str, float] | None:
    """{"head_rmse", "looked_up_rmse", "rows"}, errors in thousandths of the surprise; None if never taught or no row
    has an outcome."""
    if targets.taught is None or targets.terms is None:
        return None
    squares: dict[str, list[np.ndarray]] = {"head": [], "looked_up": []}
    for batch in batches:
        inputs = {name: batch[name].to(model.device) for name in MODEL_INPUTS if name in batch}
        with evaluation_mode(model):
            output = model(**inputs)
        outcomes = outcomes_of(batch["labels"]).cpu().numpy()
        known = outcomes != NO_OUTCOME
        expected = targets.terms[outcomes[known]]
        found = {
            "head": output.surd.terms.float().cpu().numpy()[known],
            "looked_up": looked_up(targets, agents_of(output).cpu().numpy()[known]),
        }
        for name, terms in found.items():
            squares[name].append(((terms - expected) ** 2).mean(axis=1))
    rows = sum(map(len, squares["head"]))
    if not rows:
        return None
    errors = {f"{name}_rmse": 1000 * float(np.concatenate(parts).mean()) ** 0.5 for name, parts in squares.items()}
    return errors | {"rows": rows}
