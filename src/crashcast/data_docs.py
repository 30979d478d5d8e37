"""Great Expectations' Data Docs: the outcomes of `validate` as web pages.

Not part of the pipeline: no two builds have the same bytes. Like the commands, it stands above the stages.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import great_expectations as gx
import polars as pl
from great_expectations.data_context.types.base import ProgressBarsConfig

from crashcast import tables
from crashcast.expectations import WITH_EXAMPLES, Batch, Outcome, outcomes_of
from crashcast.files import replacing_folder
from crashcast.params.telemetry import Telemetry
from crashcast.params.validate import Validate
from stages.validate import check, check_partition, read_or_none

LONGEST_NAME = 60
MARKS, LOOK_ALIKES = '<>&"', "\u2039\u203a\uff06\u201d"  # in HTML


def build(telemetry_path: Path, *records: Path, out: Path) -> Path:
    """Validate raw data and write the pages, whether it is refused or not.

    Parameters
    ----------
    telemetry_path, *records : Path
        Raw data: see `validate.check`.
    out : Path
        A folder, replaced.

    Returns
    -------
    Path
        The first page.
    """
    with TemporaryDirectory() as project:
        context = gx.get_context(mode="file", project_root_dir=project)
        context.enable_analytics(False)  # nothing about a fleet leaves the machine
        context.variables.progress_bars = ProgressBarsConfig(globally=False)

        def ask(batch: Batch) -> list[Outcome]:
            batch, name = _escaped(batch), _file_name(batch.name)
            source = context.data_sources.add_pandas(name)
            rows = source.add_dataframe_asset(batch.table).add_batch_definition_whole_dataframe("rows")
            suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=batch.expectations))
            question = gx.ValidationDefinition(name=name, data=rows, suite=suite)
            answer: Any = context.validation_definitions.add(question).run(
                batch_parameters={"dataframe": batch.rows.to_pandas()}, result_format=WITH_EXAMPLES
            )
            context.data_sources.delete(name)  # and with it the frame
            return outcomes_of(batch, answer.results)

        sections = Telemetry.read(), Validate.read()
        findings = [
            check_partition(partition, read_or_none(partition.path(telemetry_path)), *sections, ask)
            for partition in tables.partitions(telemetry_path)
        ]
        check(findings, records, *sections, ask)
        context.build_data_docs()
        with replacing_folder(out) as aside:
            shutil.copytree(Path(context.root_directory, "uncommitted/data_docs/local_site"), aside, dirs_exist_ok=True)
    return out / "index.html"


def _escaped(batch: Batch) -> Batch:
    """Return a batch whose names and values act on no page: Great Expectations writes some of them as HTML."""
    texts = [name for name, dtype in batch.rows.schema.items() if dtype in (pl.String, pl.Categorical)]
    values = [
        pl.col(name).cast(pl.String).str.replace_many([*MARKS], [*LOOK_ALIKES]).cast(batch.rows[name].dtype)
        for name in texts
    ]
    return replace(
        batch,
        rows=batch.rows.with_columns(values).rename(_as_text),
        expectations=[
            expectation.copy(update={name: _as_text(value) for name, value in expectation})
            for expectation in batch.expectations
        ],
    )


def _as_text(value: Any) -> Any:
    if isinstance(value, list | set):
        return type(value)(map(_as_text, value))
    return value.translate(str.maketrans(MARKS, LOOK_ALIKES)) if type(value) is str else value  # an enumeration stays


def _file_name(name: str) -> str:
    """Return a batch's name as that of its files: metrics are part of it, whose names may be any text."""
    plain = re.sub(r"[^\w =-]", "_", name)[:LONGEST_NAME]
    return name if plain == name else f"{plain} {hashlib.sha256(name.encode()).hexdigest()[:8]}"
