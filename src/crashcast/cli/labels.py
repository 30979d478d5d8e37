"""Commands that ask people about labels, and find which further labels would help."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crashcast.cli.shared import parsed_duration

if TYPE_CHECKING:
    import polars as pl

commands = typer.Typer()
annotate = typer.Typer(no_args_is_help=True, help="Ask people about server-windows, and import their answers.")
commands.add_typer(annotate, name="annotate")
DAY = timedelta(days=1)


Window = Annotated[
    timedelta,
    typer.Option(
        parser=parsed_duration,
        metavar="DURATION",
        show_default="1d",
        help="The period of one server that gets one label. Always use the same.",
    ),
]


@commands.command()
def suspects(
    out: Annotated[Path, typer.Option(help="The table to write: .csv or .parquet.")] = Path("reports/suspects.csv"),
    limit: Annotated[int, typer.Option(min=1, help="The largest number of rows.")] = 200,
    window: Window = DAY,
    seed: Annotated[int, typer.Option(help="The seed of the random forests.")] = 1,
) -> None:
    """List the incident records that telemetry contradicts, the least credible first (docs/annotation.md)."""
    from crashcast.annotation.suspects import write_suspects

    print("\n".join(write_suspects(out, limit, window, seed)))


@commands.command("learning-curve")
def learning_curve(
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = Path("reports/learning_curve.csv"),
) -> None:
    """Estimate what more labels, servers or months would gain, on the validation part; takes some minutes."""
    from crashcast.annotation import learning_curve as curve
    from crashcast.console import Console
    from crashcast.params.evaluate import Evaluate

    found = curve.learning_curve()
    _write_csv(found, out)
    curve.show(found, Evaluate.read().confidence, Console())


@commands.command()
def transfer(
    other: Annotated[Path, typer.Argument(help="Another fleet's project, after `dvc repro` or `dvc pull`.")],
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = Path("reports/transfer.csv"),
) -> None:
    """Estimate whether another fleet's model and labels help this one, on the validation part."""
    from crashcast.annotation import transfer_learning as transferring
    from crashcast.console import Console

    found = transferring.transfer(other)
    _write_csv(found, out)
    transferring.show(found, Console())


@annotate.command("export")
def annotate_export(
    folder: Annotated[Path, typer.Option("--out", help="The folder for tasks.json and labelling.xml.")] = Path(
        "reports/annotation"
    ),
    budget: Annotated[int, typer.Option(min=1, help="The number of server-windows to ask about.")] = 100,
    window: Window = DAY,
    seed: Annotated[int, typer.Option(help="The seed of the random choice.")] = 1,
) -> None:
    """Write the server-windows whose labels would help training most as Label Studio tasks, with their telemetry."""
    from crashcast.annotation.annotation_round import export_tasks

    print("\n".join(export_tasks(folder, budget, window, seed)))


@annotate.command("import")
def annotate_import(
    file: Annotated[Path, typer.Argument(help="Label Studio's export of the project, as JSON.")],
) -> None:
    """Add people's answers to data/raw/annotations.parquet, and report how far they agree."""
    from crashcast.annotation.annotation_round import import_answers
    from crashcast.annotation.answers import PATH as ANSWERS

    print("\n".join(import_answers(file)))
    print(f"Next:\n  git add {ANSWERS} && git commit -m 'Add annotations'\n  dvc repro")


def _write_csv(figures: pl.DataFrame, path: Path) -> None:
    from crashcast.files import replacing
    from crashcast.spreadsheet import write_csv

    with replacing(path) as aside:
        write_csv(figures, aside, float_precision=6)
