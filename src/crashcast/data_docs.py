"""Great Expectations' Data Docs: the outcomes of `validate` as web pages.

Not part of the pipeline: no two builds have the same bytes. Like the commands, it stands above the stages.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import great_expectations as gx
from great_expectations.data_context.types.base import ProgressBarsConfig

from crashcast import tables
from crashcast.expectations import WITH_EXAMPLES, Batch, Outcome, outcomes_of
from crashcast.files import replacing_folder
from crashcast.params.telemetry import Telemetry
from crashcast.params.validate import Validate
from stages.validate import check, check_partition, read_or_none


def build(telemetry_path: Path, incidents: Path, coverage: Path, ticket_sources: Path, out: Path) -> Path:
    """Validate raw data and write the pages, whether it is refused or not.

    Parameters
    ----------
    telemetry_path, incidents, coverage, ticket_sources : Path
        Raw data.
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
            source = context.data_sources.add_pandas(batch.name)
            rows = source.add_dataframe_asset(batch.table).add_batch_definition_whole_dataframe("rows")
            suite = context.suites.add(gx.ExpectationSuite(name=batch.name, expectations=batch.expectations))
            question = gx.ValidationDefinition(name=batch.name, data=rows, suite=suite)
            answer: Any = context.validation_definitions.add(question).run(
                batch_parameters={"dataframe": batch.rows.to_pandas()}, result_format=WITH_EXAMPLES
            )
            context.data_sources.delete(batch.name)  # and with it the frame
            return outcomes_of(batch, answer.results)

        sections = Telemetry.read(), Validate.read()
        findings = [
            check_partition(partition, read_or_none(partition.path(telemetry_path)), *sections, ask)
            for partition in tables.partitions(telemetry_path)
        ]
        check(findings, incidents, coverage, ticket_sources, *sections, ask)
        context.build_data_docs()
        with replacing_folder(out) as aside:
            shutil.copytree(Path(context.root_directory, "uncommitted/data_docs/local_site"), aside, dirs_exist_ok=True)
    return out / "index.html"
