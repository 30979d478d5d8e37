"""What happens before a crash: which metrics move, by how much, and how early."""

import marimo

__generated_with = "0.25.2"
app = marimo.App()


@app.cell
def _():
    import marimo as mo
    import pandas as pd

    import crashcast
    from crashcast.params.telemetry import Telemetry

    metrics = list(Telemetry.read().metrics)
    mo.md("# Before a crash")
    return crashcast, metrics, pd


@app.cell
def _(crashcast, metrics):
    rows = crashcast.load("clean", columns=metrics)  # of a large fleet, pass servers=[...] or since="2025-08-01"
    incidents = crashcast.load("incidents")
    crashes = incidents[incidents["kind"] == "crash"]
    crashcast.plot.before_crash(rows, crashes, metrics)
    return crashes, rows


@app.cell
def _(crashes, metrics, pd, rows):
    # the last row before each crash, in the fleet's standard deviations from its mean: the largest shift first
    last = pd.merge_asof(
        crashes[["server_id", "started_at"]].sort_values("started_at"),
        rows.sort_values("timestamp"),
        left_on="started_at",
        right_on="timestamp",
        by="server_id",
        tolerance=pd.Timedelta("1D"),
    )
    shift = (last[metrics].mean() - rows[metrics].mean()) / rows[metrics].std()
    shift.sort_values(key=abs, ascending=False).to_frame("standard deviations")
    return


if __name__ == "__main__":
    app.run()
