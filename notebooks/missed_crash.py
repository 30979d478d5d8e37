"""A crash that no alarm warned of: which one, why, and what its server looked like."""

import marimo

__generated_with = "0.25.2"
app = marimo.App()


@app.cell
def _():
    import marimo as mo
    import pandas as pd

    import crashcast
    from crashcast.explore import page

    content = page.read()  # what `crashcast explore` shows
    judged = content["judged"]
    mo.md(f"# A missed crash\n\n{judged.crashes_missed} of {judged.crashes} crashes of the test part were missed.")
    return content, crashcast, mo, pd


@app.cell
def _(content, pd):
    # all of them, the newest first
    pd.DataFrame([(case.server_id, case.at, case.why) for case in content["missed"]], columns=["server", "at", "why"])
    return


@app.cell
def _(content, mo):
    # choose one by its place in the list above
    mo.stop(not content["missed"], "No crash was missed.")
    case = content["missed"][0]
    reasons = "\n".join(f"1. {reason}" for reason in case.reasons)
    mo.md(f"## {case.server_id}, {case.at} UTC\n\n{case.why}\n\nWhat raised the score most:\n\n{reasons}")
    return (case,)


@app.cell
def _(case, crashcast):
    crashcast.plot.server(case.server_id, around=case.at)
    return


@app.cell
def _(case, crashcast, pd):
    # the rows before it, with labels and scores
    crashcast.load("features", servers=[case.server_id], since=case.at - pd.Timedelta("8h"), until=case.at)
    return


if __name__ == "__main__":
    app.run()
