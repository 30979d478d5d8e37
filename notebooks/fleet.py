"""What the fleet is: servers by group, gaps, missing values, incidents by month."""

import marimo

__generated_with = "0.25.2"
app = marimo.App()


@app.cell
def _():
    import marimo as mo

    import crashcast
    from crashcast.params.telemetry import Telemetry

    metrics = list(Telemetry.read().metrics)
    mo.md(f"# The fleet\n\nMetrics: {', '.join(metrics)}")
    return crashcast, metrics


@app.cell
def _(crashcast):
    # servers and crashes by group
    coverage = crashcast.load("coverage")
    incidents = crashcast.load("incidents")
    crashes = incidents[incidents["kind"] == "crash"]
    groups = coverage.assign(group=coverage["group"].fillna("no group")).groupby("group")["server_id"].nunique()
    of_server = coverage.drop_duplicates("server_id").set_index("server_id")["group"].fillna("no group")
    by_group = groups.to_frame("servers").assign(crashes=crashes["server_id"].map(of_server).value_counts())
    by_group.fillna({"crashes": 0})
    return (incidents,)


@app.cell
def _(incidents):
    # incidents by month and kind
    month = incidents["started_at"].dt.strftime("%Y-%m")
    incidents.groupby([month, "kind"]).size().unstack(fill_value=0)
    return


@app.cell
def _(crashcast, metrics):
    # gaps and missing values by month; of a large fleet, pass servers=[...] or since="2025-08-01"
    rows = crashcast.load("clean", columns=["observed", *metrics])
    of_month = rows["timestamp"].dt.strftime("%Y-%m")
    missing = rows[metrics].isna().groupby(of_month).mean()
    missing.assign(filled=1 - rows["observed"].groupby(of_month).mean())
    return (rows,)


@app.cell
def _(metrics, rows):
    # the range of each metric
    rows[metrics].describe(percentiles=[0.01, 0.5, 0.99]).T
    return


if __name__ == "__main__":
    app.run()
