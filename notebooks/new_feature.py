"""A new feature, from idea to review: does it rank rows before a crash better, on rows that no model is tested on?"""

import marimo

__generated_with = "0.25.2"
app = marimo.App()


@app.cell
def _():
    import json
    from pathlib import Path

    import marimo as mo
    import pandas as pd
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import average_precision_score

    import crashcast
    from crashcast.params.telemetry import Telemetry

    mo.md(
        """
        # A new feature

        The idea: a metric that rises fast is a worse sign than one that is high. So the feature is the change of a
        metric in three rows, divided by its usual change.
        """
    )
    return (
        HistGradientBoostingClassifier,
        Path,
        Telemetry,
        average_precision_score,
        crashcast,
        json,
        mo,
        pd,
    )


@app.cell
def _(Path, Telemetry, crashcast, json):
    # train and validation rows alone: the test part is for the review (this notebook needs split.method: time)
    metrics = list(Telemetry.read().metrics)
    periods = json.loads(Path("data/split.json").read_text())["periods"]
    train, validation = periods["train"], periods["validation"]
    rows = crashcast.load("clean", since=train["from"], until=validation["to"], columns=metrics)
    rows = rows.sort_values(["server_id", "timestamp"])
    return metrics, rows, train, validation


@app.cell
def _(metrics, rows):
    # the feature, of each metric; it looks back only
    change = rows.groupby("server_id")[metrics].diff(3)
    new = (change / change.std()).add_suffix("_rise")
    return (new,)


@app.cell
def _(
    HistGradientBoostingClassifier,
    average_precision_score,
    metrics,
    new,
    pd,
    rows,
    train,
    validation,
):
    # the same model with and without it
    known = rows["label"].notna()
    is_train = known & (rows["timestamp"] < pd.Timestamp(train["to"], tz="UTC"))
    is_validation = known & (rows["timestamp"] >= pd.Timestamp(validation["from"], tz="UTC"))

    def pr_auc(columns):
        model = HistGradientBoostingClassifier(max_iter=50, random_state=1)
        model.fit(columns[is_train], rows.loc[is_train, "label"])
        scores = model.predict_proba(columns[is_validation])[:, 1]
        return average_precision_score(rows.loc[is_validation, "label"], scores)

    found = pd.Series(
        {
            "base rate": rows.loc[is_validation, "label"].mean(),
            "metrics": pr_auc(rows[metrics]),
            "metrics and the new feature": pr_auc(pd.concat([rows[metrics], new], axis=1)),
        }
    )
    found.to_frame("PR-AUC on validation")
    return


@app.cell
def _(mo):
    mo.md("""
    ## If it helps

    1. Add it to `src/stages/featurize.py`, where `metric_features` yields what every metric gets. Its window goes
       into `lookback`, its setting into `params.yaml` (CONTRIBUTING.md, "A feature").
    2. Calculate its value by hand for the five rows of `tests/code/stages/test_featurize.py`.
    3. `dvc repro && dvc metrics diff`, commit, `make push`.
    4. `make review`: both models on the same test rows, with intervals. Each look costs; the ledger counts them.
    """)
    return


if __name__ == "__main__":
    app.run()
