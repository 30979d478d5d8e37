"""The title and the text of a retraining's pull request, made of its commits alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from crashcast.versioning import git
from crashcast.versioning.dvc_files import LOCK
from crashcast.versioning.revision import EVALUATION, RAW, Revision

Figures = Mapping[str, Mapping[str, Any]]


def _interval(figures: Mapping[str, Any], name: str) -> str:
    return f"{figures[name]:.3g} ({figures[f'{name}_low']:.3g} to {figures[f'{name}_high']:.3g})"


ROWS: dict[str, Callable[[Figures], str]] = {
    "labels until": lambda found: _until(found),
    "samples": lambda found: f"{found['metrics/clean.json']['samples']:,}",
    "crashes in the test part": lambda found: f"{found[EVALUATION]['crashes']:,}",
    "PR-AUC": lambda found: _interval(found[EVALUATION], "pr_auc"),
    "event recall": lambda found: _interval(found[EVALUATION], "event_recall"),
    "false alarms per server-day": lambda found: f"{found[EVALUATION]['false_alarms_per_server_day']:.3g}",
}


def write(base: Revision, tip: Revision, why: str) -> tuple[str, str, str]:
    """Return the title, the text, and the marker in the text that names this commit.

    Parameters
    ----------
    base, tip : Revision
        The main branch's commit, and the one with the new model.
    why : str
        The reasons, as a list in Markdown.
    """
    marker = f"<!-- crashcast retrain {tip.sha} -->"
    rows = [f"| {name} | {read(base.metrics)} | {read(tip.metrics)} |" for name, read in ROWS.items()]
    made = {LOCK, *(f"{path}.dvc" for path in RAW), *tip.metrics}
    changed = git.run("diff", "--name-only", "--relative", "-z", f"{base.sha}...{tip.sha}").entries
    others = [f"`{path}`" for path in changed if path not in made]
    text = "\n".join(
        [
            *(marker, "`crashcast retrain` trained the model again.", "", "**Why**", "", why, ""),
            *("**Figures**", "", f"| | {base.name} | {tip.name} |", "|---|---|---|", *rows, ""),
            "The columns are figures of different test rows, so they cannot be compared. The check `review` scores "
            "both models on the same rows, and gives the verdict.",
            "",
            f"Changed beside data and figures: {', '.join(others) or 'nothing'}. To see how the data differs: "
            f"`crashcast data diff {base.name} {tip.name} --path data/raw --pull`",
        ]
    )
    return f"Train the model again, with labels until {_until(tip.metrics)}", text, marker


def _until(found: Figures) -> str:
    return str(found["metrics/split.json"]["test.to"])[:10]
