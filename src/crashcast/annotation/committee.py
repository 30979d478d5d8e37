"""What telemetry says of server-windows, by a committee of forests that learned from the labels of other servers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GroupKFold

from crashcast.errors import UserError

Floats = NDArray[np.float64]
TREES, MEMBERS = 100, 10  # a member is the mean of ten trees: one tree alone is certain of everything
FOLDS = 5
HEALTHY_PER_CRASH = 10  # of the windows that a forest learns from: more teach it little


def fit(evidence: NDArray[np.float32], crash: NDArray[np.bool_], seed: int) -> RandomForestClassifier:
    """Fit a forest to labelled windows, of both kinds.

    Parameters
    ----------
    evidence : float32 array of shape (n, k)
        NaN where missing.
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
    """Ask forests that learned from other servers alone, so that none judges a label that it was taught.

    Each learns from every crash and at most `HEALTHY_PER_CRASH` times as many healthy windows; the odds are then set
    back to those of all windows.

    Parameters
    ----------
    evidence : float32 array of shape (n, k)
    crash : bool array of shape (n,)
        What the records say.
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
        Where there are too few servers, or one class is missing.
    """
    n_servers = len(np.unique(servers))
    if n_servers < FOLDS or crash.all() or not crash.any():
        raise UserError(
            f"{int(crash.sum())} of {len(crash)} windows, on {n_servers} servers, hold a crash: a judgement needs "
            f"windows of both kinds on at least {FOLDS} servers"
        )
    found = np.empty((len(crash), MEMBERS))
    folds = GroupKFold(FOLDS, shuffle=True, random_state=seed).split(evidence, groups=servers)
    for number, (known, asked) in enumerate(folds):
        crashes, healthy = known[crash[known]], known[~crash[known]]
        share = min(1.0, HEALTHY_PER_CRASH * len(crashes) / len(healthy)) if len(healthy) else 1.0
        draw = np.random.default_rng([seed, number])
        some = draw.choice(healthy, round(share * len(healthy)), replace=False)
        taught = np.sort(np.concatenate([crashes, some]))
        probability = votes(fit(evidence[taught], crash[taught], seed), evidence[asked])
        found[asked] = probability * share / (probability * share + 1 - probability)
    return found
