"""The model card: what a model is, which data it was trained on, and its intended use.

Source: Mitchell et al., Model cards for model reporting, FAT* 2019.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crashcast.files import md5
from crashcast.modeling.model import Model

INTENDED_USE = """\
To warn the on-call engineers of the fleet it was trained on, some hours ahead, that a server may crash. A person
decides what to do. Not for another fleet without training on that fleet's own incidents, not for ranking people or
teams, and not for anything where a missed crash endangers somebody: a large share of crashes gives no sign."""


def model_card(
    model: Model,
    inputs: dict[str, Path],
    rule: dict[str, Any],
    figures: dict[str, Any],
    evidence: dict[str, dict[str, Any]],
    expected: dict[str, float],
    reason: str = "",
) -> str:
    """Write the card as Markdown.

    Parameters
    ----------
    model : Model
        The chosen one.
    inputs : dict of str to Path
        The data it was trained on; the card names them by hash.
    rule : dict
        What `split` wrote.
    figures, evidence : dict
        The chosen model's validation figures, and every candidate's.
    expected : dict
        Its PR-AUC and lift on a new period, corrected for the choice, with their intervals; empty if the dummy was
        chosen.
    reason : str
        Why the dummy was chosen, if it was.
    """
    chosen = ", ".join(f"{name} = {value:g}" for name, value in model.hyperparameters.items()) or "none"
    periods = [f"| {part} | {span['from']} | {span['to']} |" for part, span in rule["periods"].items()]
    rows = [f"| {name} | {_number(value)} |" for name, value in figures.items()]
    new_period = [
        f"{label} {_number(expected[name])} ({_number(expected[f'{name}_low'])} to {_number(expected[f'{name}_high'])})"
        for name, label in (("pr_auc", "PR-AUC"), ("lift", "lift"))
        if expected
    ]
    rivals = [
        f"| {name} | {_number(row['fold_lift'])} | {_number(row['pr_auc'])} | {_number(row['lift'])} "
        f"| {_number(row['event_recall'])} |"
        for name, row in evidence.items()
    ]
    return "\n".join(
        [
            "# Model card",
            f"\n## Model\n\n{model.algorithm} ({chosen}) on {len(model.features)} features.",
            "The probability is that of a crash of this server in (t + lead, t + lead + horizon].",
            f"An alarm opens at {model.threshold:.6g} or above.",
            *([f"\n{reason[0].upper()}{reason[1:]}."] if reason else []),
            f"\n## Intended use\n\n{INTENDED_USE}",
            "\n## Data\n\n| input | MD5, as DVC records it |\n|---|---|",
            *(f"| {name} | `{md5(path)}` |" for name, path in inputs.items()),
            f"\nSplit: {rule['method']}.\n\n| part | from | to |\n|---|---|---|",
            *periods,
            "\n## Validation\n\n| figure | value |\n|---|---|",
            *rows,
            *([f"\nExpected on a new period, corrected for the choice: {', '.join(new_period)}."] if expected else []),
            "\n## Candidates, over the folds, and on validation, which is the last one\n",
            "| candidate | mean lift of folds | PR-AUC | lift | event recall at the budget |\n|---|---|---|---|---|",
            *rivals,
            "\n## Features\n\n" + ", ".join(f"`{name}`" for name in model.features),
        ]
    )


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.6g}"
