"""Labels that are probably wrong, the worst first.

Source: Northcutt, Jiang, Chuang, Confident learning: estimating uncertainty in dataset labels, JAIR 70 (2021); here by
cleanlab. A label is judged by forests that never saw its server (`committee`).
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast.annotation.committee import Floats, votes_out_of_fold
from crashcast.annotation.windows import Windows

ROUNDED = 4  # digits


def quality(crash: NDArray[np.bool_], probability: Floats) -> Floats:
    """Return how far each label can be believed, between 0 (not at all) and 1, shape (n,).

    Parameters
    ----------
    crash : bool array of shape (n,)
        The labels.
    probability : float array of shape (n,)
        Of a crash, by a model that was not taught this label.
    """
    from cleanlab.rank import get_label_quality_scores

    both = np.column_stack([1 - probability, probability])
    # crashes are rare: each class is measured by how sure the model usually is of it
    score = get_label_quality_scores(crash.astype(int), both, method="normalized_margin", adjust_pred_probs=True)
    return np.abs(score)  # rounding leaves some a hair below 0


def suspects(windows: Windows, seed: int) -> pl.DataFrame:
    """Rank the windows by how little their label can be believed.

    Returns
    -------
    DataFrame
        The windows' `server_id`, `started_at`, `ended_at`; `recorded` ("crash" or "no crash"), `crash_at`,
        `probability` of a crash by telemetry, `quality` of the label (see `quality`), `is_issue` (cleanlab's estimate
        of which labels are wrong), and what stands out most in the window.
    """
    from cleanlab.filter import find_label_issues

    servers = windows.frame["server_id"].to_numpy()
    probability = votes_out_of_fold(windows.evidence, windows.crash, servers, seed).mean(axis=1)
    score = quality(windows.crash, probability)
    both = np.column_stack([1 - probability, probability])
    issues = find_label_issues(windows.crash.astype(int), both, filter_by="prune_by_noise_rate", n_jobs=1)
    shown = {name: windows.evidence[:, windows.names.index(name)] for name in ("gap_h", "gap_company")}
    return windows.frame.with_columns(
        recorded=pl.when(pl.col("crash_at").is_null()).then(pl.lit("no crash")).otherwise(pl.lit("crash")),
        probability=pl.Series(probability).round(ROUNDED),
        quality=pl.Series(score).round(ROUNDED),
        is_issue=pl.Series(issues),
        **{name: pl.Series(values).round(ROUNDED) for name, values in shown.items()},
    ).sort("quality", "started_at", "server_id")
