"""Great Expectations' Data Docs: the outcomes of `validate` as web pages that run and fetch nothing.

Great Expectations' own pages fetch their styles, scripts and logo, and its index is made by a script: offline it is
blank, and online its maker learns who reads it. So the pages get a style of ours, and there is an index of ours.

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
from markupsafe import Markup

from crashcast import html_templates, tables
from crashcast.expectations import WITH_EXAMPLES, Batch, Outcome, outcomes_of
from crashcast.files import replacing_folder
from crashcast.params.telemetry import Telemetry
from crashcast.params.validate import Validate
from crashcast.text import printable
from stages.validate import check, check_partition, read_or_none

LONGEST_NAME = 60
FOLDER = Path(__file__).parent
STYLE = (FOLDER / "data_docs.css").read_text(encoding="utf-8")
# no value can hold these: its < > and " are replaced below
RUN_OR_FETCHED = re.compile(r'<(script|style|footer)\b.*?</\1>|<(link|img)\b[^>]*>| onclick="\w+\(\)"', re.DOTALL)
OFFLINE = "default-src 'none'; style-src 'unsafe-inline'"  # elements have styles of their own
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

        has_passed = dict[str, bool]()

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
            has_passed[name] = bool(answer.success)
            return outcomes_of(batch, answer.results)

        sections = Telemetry.read(), Validate.read()
        findings = [
            check_partition(partition, read_or_none(partition.path(telemetry_path)), *sections, ask)
            for partition in tables.partitions(telemetry_path)
        ]
        check(findings, records, *sections, ask)
        context.build_data_docs()
        with replacing_folder(out) as aside:
            site = Path(context.root_directory, "uncommitted/data_docs/local_site")
            shutil.copytree(site, aside, ignore=shutil.ignore_patterns("static"), dirs_exist_ok=True)
            for page in aside.rglob("*.html"):
                page.write_text(_offline(page.read_text(encoding="utf-8")), encoding="utf-8")
            (aside / "index.html").write_text(_index(aside, has_passed), encoding="utf-8")
    return out / "index.html"


def _offline(page: str) -> str:
    """Return a page of Great Expectations' without whatever it runs or fetches, in our style."""
    policy = f'<meta http-equiv="Content-Security-Policy" content="{OFFLINE}">'
    head = f'{policy}<meta name="color-scheme" content="light dark"><style>{STYLE}</style></head>'
    return RUN_OR_FETCHED.sub("", page).replace("<html>", '<html lang="en">', 1).replace("</head>", head, 1)


def _index(site: Path, has_passed: dict[str, bool]) -> str:
    """Return a page with a link to the outcome of each batch, the failed ones first."""
    found = {page.parents[2].name: page.relative_to(site).as_posix() for page in site.glob("validations/*/*/*/*.html")}
    return (
        html_templates.environment(FOLDER, printable)
        .get_template("data_docs.html")
        .render(
            style=Markup(STYLE),  # our own
            policy=html_templates.policy_of(STYLE),
            outcomes=[(name, found[name], has_passed[name]) for name in sorted(has_passed, key=has_passed.__getitem__)],
        )
    )


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
