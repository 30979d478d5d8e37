"""How likely a crash is in each server-window by its telemetry: a committee of forests, fitted to other servers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GroupKFold

from crashcast.errors import UserError

Floats = NDArray[np.float64]
TREES, MEMBERS = 100, 10  # a member is the mean of ten trees, as one tree votes 0 or 1
FOLDS = 5
HEALTHY_PER_CRASH = 10  # of the windows that a forest is fitted to: more add little


def fit(evidence: NDArray[np.float32], crash: NDArray[np.bool_], seed: int) -> RandomForestClassifier:
    """Fit a forest to labelled windows, of both kinds.

    Parameters
    ----------
    evidence : float32 array of shape (n, k)
        NaN if missing.
    crash : bool array of shape (n,)
        The labels.
    seed : int
        Of the forest's draws.
    """
    # one core: threads would add the trees' votes in any order
    forest = RandomForestClassifier(TREES, min_samples_leaf=2, random_state=seed, n_jobs=1)
    return forest.fit(evidence, crash)


def votes(forest: RandomForestClassifier, evidence: NDArray[np.float32]) -> Floats:
    """Return each member's probability of a crash, shape (n, MEMBERS)."""
    of_trees = np.zeros((MEMBERS, len(evidence)))
    for number, tree in enumerate(forest.estimators_):
        of_trees[number % MEMBERS] += tree.predict_proba(evidence)[:, 1]
    return of_trees.T / (TREES // MEMBERS)


def votes_out_of_fold(
    evidence: NDArray[np.float32], crash: NDArray[np.bool_], servers: NDArray[np.str_], seed: int
) -> Floats:
    """Return votes of forests that were fitted to other servers only, so no label influences its own votes.

    Each is fitted to every crash and at most `HEALTHY_PER_CRASH` times as many healthy windows; the odds are then
    corrected to those of all windows.

    Parameters
    ----------
    evidence : float32 array of shape (n, k)
    crash : bool array of shape (n,)
        Whether a crash is recorded.
    servers : str array of shape (n,)
        All windows of a server are in one fold.
    seed : int
        Of folds, samples and forests.

    Returns
    -------
    float array of shape (n, MEMBERS)

    Raises
    ------
    UserError
        If there are too few servers, or one class is missing.
    """
    n_servers = len(np.unique(servers))
    if n_servers < FOLDS or crash.all() or not crash.any():
        raise UserError(
            f"{int(crash.sum())} of {len(crash)} windows, on {n_servers} servers, hold a crash: the committee needs "
            f"windows of both kinds on at least {FOLDS} servers"
        )
    found = np.empty((len(crash), MEMBERS))
    folds = GroupKFold(FOLDS, shuffle=True, random_state=seed).split(evidence, groups=servers)
    for number, (known, held_out) in enumerate(folds):
        crashes, healthy = known[crash[known]], known[~crash[known]]
        share = min(1.0, HEALTHY_PER_CRASH * len(crashes) / len(healthy)) if len(healthy) else 1.0
        draw = np.random.default_rng([seed, number])
        some = draw.choice(healthy, round(share * len(healthy)), replace=False)
        chosen = np.sort(np.concatenate([crashes, some]))
        probability = votes(fit(evidence[chosen], crash[chosen], seed), evidence[held_out])
        found[held_out] = probability * share / (probability * share + 1 - probability)
    return found
