"""The command line: parse, call, print. What a command needs is imported when it runs."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer

from crashcast.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train a predictor of server crashes: bring in data, then `dvc repro`. Run from the root of the project.",
)
data_app = typer.Typer(no_args_is_help=True, help="What versions of the data hold, and how they differ.")
app.add_typer(data_app, name="data")
annotate = typer.Typer(no_args_is_help=True, help="Ask people about server-windows, and take in their answers.")
app.add_typer(annotate, name="annotate")
NEXT = """Next:
  git add params.yaml data/raw/*.dvc data/.gitignore data/raw/.gitignore && git commit -m "{}"
  dvc repro"""
DAY = timedelta(days=1)
FORMS = {
    "first": "the first one, judged against chance and one-rule baselines alone",
    "improvement": "an improvement on the last one",
    "renewal": "as good as the last one, which was stale",
}


def _duration(text: str | timedelta) -> timedelta:
    from crashcast.params.base import parse_duration

    return parse_duration(text)


Window = Annotated[
    timedelta,
    typer.Option(
        parser=_duration,
        metavar="DURATION",
        show_default="1d",
        help="What has one label: a server for so long. Keep to one length.",
    ),
]


def main() -> None:
    """Run a command; bad input ends in a message and exit status 2."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait must not spin (src/run.py)
    try:
        _require_root()
        app()
    except UserError as error:
        print(f"crashcast: {error}", file=sys.stderr)
        sys.exit(2)


def _require_root() -> None:
    """Refuse to work in a folder below the project's root, where every file would seem to be missing."""
    here, needed = Path.cwd(), ("dvc.yaml", "params.yaml")
    if "--help" in sys.argv or any((here / name).exists() for name in needed):
        return
    if root := next((folder for folder in here.parents if all((folder / name).exists() for name in needed)), None):
        raise UserError(f"run from the root of the project: cd {os.path.relpath(root)}")


@app.command()
def demo() -> None:
    """Simulate the fleet that params.yaml describes under `demo` and track it with DVC."""
    from crashcast.sources.demo.simulator import OUTPUTS, write
    from crashcast.versioning.tracking import track

    summary = write()
    track(OUTPUTS)
    print(summary)


@app.command("import")
def import_(
    telemetry: Annotated[
        list[Path], typer.Option(help="Samples: a Parquet or CSV file, or a folder of them; may be repeated.")
    ],
    incidents: Annotated[Path, typer.Option(help="Incidents: a Parquet or CSV file.")],
    coverage: Annotated[
        Path | None,
        typer.Option(help="When incidents were recorded, by server; by default, while the server has telemetry."),
    ] = None,
    interval: Annotated[
        str | None, typer.Option(help="The cadence of rows, such as 5m; by default, that of the samples.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Start over, instead of merging.")] = False,
) -> None:
    """Bring in your own fleet: telemetry and incident records from Parquet or CSV files."""
    from crashcast.sources.importing.files import import_files

    print("\n".join(import_files(telemetry, incidents, coverage, replace, interval)))
    print(NEXT.format("Import telemetry and incidents"))


@app.command()
def incidents(
    source: Annotated[
        list[str] | None, typer.Option(help="One under tickets.sources, by name; may be repeated. By default, all.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="From which day on; by default, tickets.since.")
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Until the start of which day, UTC; by default, today."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Forget what these sources gave before, instead of merging.")
    ] = False,
) -> None:
    """Collect tickets from the systems and files under `tickets` in params.yaml; one outage is one incident."""
    from crashcast.sources.tickets.collect import collect

    first, end = (None if moment is None else moment.date() for moment in (since, until))
    print("\n".join(collect(source or [], first, end, replace)))
    print("Next:")
    print('  git add data/raw/*.dvc data/raw/.gitignore && git commit -m "Collect incidents"')
    print("  dvc repro")


@app.command()
def collect(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Samples: files, folders, s3://bucket/prefix; by default, the server in params.yaml."),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Where to begin, UTC; by default, where the last collection ended."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Where to end, UTC; by default, now.")
    ] = None,
    is_open: Annotated[bool, typer.Option("--open", help="Also the partition that is not over yet.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also partitions that are there.")] = False,
    incidents: Annotated[Path | None, typer.Option(help="Incidents: a Parquet or CSV file; see import.")] = None,
    coverage: Annotated[Path | None, typer.Option(help="When incidents were recorded, by server; see import.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Start over, instead of merging.")] = False,
) -> None:
    """Bring in telemetry from a Prometheus-compatible server, S3 or files; run again, it goes on (docs/collect.md)."""
    from crashcast.sources.prometheus.collect import collect as bring_in

    done = bring_in(sources or (), since, until, is_open, again, incidents, coverage, replace)
    print("\n".join(done) or f"Nothing to collect: no partition has ended since{'' if is_open else '; see --open'}")
    if done:
        print(NEXT.format("Collect telemetry"))


@app.command()
def suspects(
    out: Annotated[Path, typer.Option(help="Where the table goes: .csv or .parquet.")] = Path("reports/suspects.csv"),
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 200,
    window: Window = DAY,
    seed: Annotated[int, typer.Option(help="Of the forests that judge.")] = 1,
) -> None:
    """List the incident records that telemetry contradicts, the least believable first (docs/annotation.md)."""
    from crashcast.annotation import write_suspects

    print("\n".join(write_suspects(out, limit, window, seed)))


@app.command("learning-curve")
def learning_curve(
    out: Annotated[Path, typer.Option(help="Where the figures go, as CSV.")] = Path("reports/learning_curve.csv"),
) -> None:
    """Say what more labels, more servers or more months would buy, judged on validation; takes some minutes."""
    from rich.console import Console

    from crashcast.annotation import learning_curve as curve
    from crashcast.files import replacing
    from crashcast.params.evaluate import Evaluate

    found = curve.learning_curve()
    with replacing(out) as aside:
        found.write_csv(aside, float_precision=6)
    curve.show(found, Evaluate.read().confidence, Console())


@app.command()
def transfer(
    other: Annotated[Path, typer.Argument(help="Another fleet's project, after `dvc repro` or `dvc pull`.")],
    out: Annotated[Path, typer.Option(help="Where the figures go, as CSV.")] = Path("reports/transfer.csv"),
) -> None:
    """Say whether another fleet's model and labels help this one, judged on validation."""
    from rich.console import Console

    from crashcast.annotation import transfer as transferring
    from crashcast.files import replacing

    found = transferring.transfer(other)
    with replacing(out) as aside:
        found.write_csv(aside, float_precision=6)
    transferring.show(found, Console())


@annotate.command("export")
def annotate_export(
    folder: Annotated[Path, typer.Option("--out", help="Where tasks.json and labelling.xml go.")] = Path(
        "reports/annotation"
    ),
    budget: Annotated[int, typer.Option(min=1, help="How many server-windows to ask about.")] = 100,
    window: Window = DAY,
    seed: Annotated[int, typer.Option(help="Of the choice.")] = 1,
) -> None:
    """Write the server-windows whose labels would teach most as Label Studio tasks, with their telemetry."""
    from crashcast.annotation import export_tasks

    print("\n".join(export_tasks(folder, budget, window, seed)))


@annotate.command("import")
def annotate_import(
    file: Annotated[Path, typer.Argument(help="Label Studio's export of the project, as JSON.")],
) -> None:
    """Add people's answers to data/raw/annotations.parquet and say how far they agree."""
    from crashcast.annotation import import_answers
    from crashcast.annotation.answers import PATH as ANSWERS

    print("\n".join(import_answers(file)))
    print(f"Next:\n  git add {ANSWERS} && git commit -m 'Add annotations'\n  dvc repro")


@app.command(context_settings={"allow_interspersed_args": False})
def s3(
    command: Annotated[list[str] | None, typer.Argument(help="What to run, as in: crashcast s3 -- dvc pull")] = None,
    elsewhere: Annotated[
        Literal["serve", "run", "skip"],
        typer.Option(
            help="Where DVC's remote is another: serve all the same, run COMMAND with your own credentials once that "
            "remote answers, or skip COMMAND."
        ),
    ] = "serve",
    port: Annotated[int, typer.Option(help="Of the server; .dvc/config names it.")] = 18333,
) -> None:
    """Run a command with a local S3 server beside it, or the server alone."""
    from crashcast.versioning import local_s3, remote

    if command and elsewhere != "serve" and remote.endpoint() != local_s3.endpoint(port):
        if elsewhere == "skip":
            print(f"skipped, since DVC's remote is {remote.url()}, not this machine: {' '.join(command)}")
            return
        remote.check()
        raise typer.Exit(local_s3.run(command, os.environ))
    store = local_s3.default_store()
    with local_s3.serving(store, port) as environment:
        if command:
            raise typer.Exit(local_s3.run(command, environment))
        with suppress(KeyboardInterrupt):
            print(f"S3 at {local_s3.endpoint(port)}, bucket {local_s3.BUCKET}, stored in {store}")
            print("`crashcast s3 -- COMMAND` runs a command that uses it; Ctrl-C stops it", flush=True)
            local_s3.wait_for_end(store)


@app.command()
def verdict(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, as for a pull request.")] = False,
) -> None:
    """Show the figures of the last run beside chance and the one-rule baselines."""
    from rich.console import Console

    from crashcast import run_summary as last_run

    summary = last_run.summarise(last_run.read(Path("metrics")))
    if markdown:
        print(last_run.as_markdown(summary))
    else:
        last_run.show(summary, Console())


@app.command()
def reproduced(
    revision: Annotated[str, typer.Argument(help="The commit to compare with.")] = "HEAD",
) -> None:
    """Say which outputs of this run differ from a commit's, and whether the figures agree all the same."""
    from crashcast.versions.reproduced import compare

    print("\n".join(compare(revision)) or f"Every output has the bytes of {revision}.")


@app.command()
def reproduce(
    revision: Annotated[str, typer.Argument(metavar="REV", help="The commit to rebuild.")] = "HEAD",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rebuild a commit from its raw data alone, in a worktree, and compare every output with its dvc.lock.

    Exit status: 0 the same bytes, 3 other bytes whose figures agree, 1 it differs, 2 it could not be rebuilt.
    """
    from rich.console import Console

    from crashcast.canonical import json_text
    from crashcast.versions import rebuild

    found = rebuild.rebuild(revision)
    if as_json:
        print(json_text(rebuild.as_json(found)))
    else:
        rebuild.show(found, Console())
    raise typer.Exit(rebuild.EXIT_STATUS[found.verdict])


@data_app.command("log")
def data_log(
    paths: Annotated[
        list[str] | None, typer.Argument(help="Such as data/raw or data/labels.", show_default="all that DVC keeps")
    ] = None,
    revision: Annotated[str, typer.Option("--rev", help="The commit to begin with.")] = "HEAD",
    number: Annotated[int | None, typer.Option("--max-count", "-n", min=1, help="How many commits to show.")] = None,
    on_remote: Annotated[
        bool, typer.Option("--remote", help="Read footers on DVC's remote too, by ranges; nothing is kept.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which commits changed which dataset: rows, servers, partitions, incidents, size (docs/data-versions.md)."""
    from rich.console import Console

    from crashcast.canonical import json_text
    from crashcast.versions import log

    commits = log.history(paths or (), revision, number, on_remote)
    if as_json:
        print(json_text(log.as_json(commits)))
    else:
        log.show(commits, Console())


@data_app.command("diff")
def data_diff(
    base: Annotated[str, typer.Argument(metavar="REV", help="The earlier commit.")],
    head: Annotated[str, typer.Argument(metavar="[REV]", help="The later one.")] = "HEAD",
    paths: Annotated[
        list[str] | None,
        typer.Option("--path", help="Such as data/raw; may be repeated.", show_default="all that DVC keeps"),
    ] = None,
    pull: Annotated[bool, typer.Option("--pull", help="Fetch the files that differ from DVC's remote.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the data of two commits, by partition and column: 0 the same, 1 it differs, 2 not all could be read."""
    from rich.console import Console

    from crashcast.canonical import json_text
    from crashcast.versions import diff

    found = diff.diff(base, head, paths or (), pull)
    if as_json:
        print(json_text(diff.as_json(found)))
    else:
        diff.show(found, Console())
    raise typer.Exit(diff.exit_status(found))


@app.command()
def review(
    base: Annotated[
        str | None,
        typer.Option(help="The champion's commit.", show_default="where HEAD left the remote's main branch"),
    ] = None,
    first: Annotated[bool, typer.Option("--first", help="There is no champion: judge against baselines.")] = False,
    head: Annotated[str, typer.Option(help="The challenger's commit.")] = "HEAD",
    unreserved: Annotated[
        bool, typer.Option("--unreserved", help="Leave the ledger of looks alone, as in a fork.")
    ] = False,
    folder: Annotated[Path, typer.Option("--out", help="Where record.json, comment.md and review.html go.")] = Path(
        "reports/review"
    ),
) -> None:
    """Decide whether HEAD's model may replace that of another commit.

    Exit status: 0 ACCEPT, 1 REJECT, 3 INCONCLUSIVE, 2 an error.
    """
    try:
        status = _review(base, first, head, not unreserved, folder)
    except UserError:
        raise
    except Exception:  # 1 would mean REJECT
        import traceback

        traceback.print_exc()
        status = 2
    raise typer.Exit(status)


def _review(base: str | None, first: bool, head: str, reserve: bool, folder: Path) -> int:
    from rich.console import Console

    from crashcast.canonical import write_text
    from crashcast.review import commit_changes
    from crashcast.review import review as reviewing
    from crashcast.review.report import html, record
    from crashcast.versioning.revision import Revision

    if first and base is not None:
        raise UserError("--first says that there is no champion, and --base names one: leave out either")
    if base is None and not first:
        base = reviewing.default_base().sha
    found = reviewing.review(base, head, reserve=reserve)
    if found is None:
        told = "Both commits have the same model: there is nothing to judge."
        exam = [] if base is None else commit_changes.of_the_exam(Revision.find(base), Revision.find(head))
        if exam:
            told += " But later models would be judged by other rules or rows, which is for people to decide:\n\n- "
            told += "\n- ".join(exam)
        write_text(folder / "comment.md", f"{record.MARKER}\n{told}")
        print(told)
        return reviewing.EXIT_STATUS["INCONCLUSIVE"] if exam else 0
    record.write(folder / "record.json", found.record)
    write_text(folder / "comment.md", record.as_markdown(found.record))
    html.write(folder / "review.html", found.record, found.pictures)
    record.show(found.record, Console())
    print(f"The page: {folder / 'review.html'}")
    return reviewing.EXIT_STATUS[found.record["verdict"]]


@app.command()
def accept(
    record: Annotated[
        Path | None, typer.Option(help="The decision record of the pull request that was merged.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Such as v2.0.0.", show_default="the next one")] = None,
    force: Annotated[str | None, typer.Option(help="Register without ACCEPT, for this reason.")] = None,
    first: Annotated[
        bool, typer.Option("--first", help="The fleet is another one than the last version's: no champion.")
    ] = False,
) -> None:
    """Register HEAD's model as a version (a git tag that carries the evidence), if the review accepts it."""
    from crashcast import registry
    from crashcast.review.report.record import read
    from crashcast.review.review import review

    evidence = None if record is None else read(record)
    model = registry.accept(evidence, review=review, version=version, force_reason=force, first=first)
    told = [model.verdict, model.form and FORMS[model.form]]
    print(f"Registered {model.tag}, a git tag: {', '.join(filter(None, told))}")


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, evidence included.")] = False) -> None:
    """List the registered models with their verdicts and stages."""
    from rich.console import Console

    from crashcast import registry

    if as_json:
        print(registry.as_json(registry.models()))
    else:
        registry.show(registry.models(), Console())


@app.command()
def stage(
    version: Annotated[str, typer.Argument(help="Such as v1.2.0.")],
    name: Annotated[str, typer.Argument(help="Such as prod.")],
) -> None:
    """Say what a registered model is used for (a git tag)."""
    from crashcast import registry

    print(f"{version} is now {name}: git tag {registry.stage(version, name)}")


@app.command()
def memo(
    clear: Annotated[bool, typer.Option("--clear", help="Forget everything: the next run computes it again.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read it all, and forget what decayed on the disk.")] = False,
) -> None:
    """Show the results of past partitions that stages reuse, check or clear them."""
    from rich.console import Console

    from crashcast.execution import memo as past

    store = past.Memo(past.cache_folder() / past.NAME)
    if verify:
        damaged = store.verify()
        print(
            "\n".join(f"damaged, computed again by the next run: {one.stage} {one.partition}" for one in damaged)
            or "whole"
        )
    if clear:
        store.clear()
        print(f"{store.folder} is empty")
    else:
        past.show(store, Console())


@app.command()
def docs() -> None:
    """Build Great Expectations' Data Docs of the raw data, refused or not; the pages load their styles from CDNs."""
    from crashcast.data_docs import build
    from crashcast.paths import TABLES

    html = build(*TABLES, Path("reports/data_docs"))
    print(f"Data Docs: {html}")


@app.command()
def doctor(
    revs: Annotated[list[str] | None, typer.Option(help="A commit whose data must be there; may be repeated.")] = None,
    all_commits: Annotated[bool, typer.Option("--all-commits", help="Every branch and tag, instead of HEAD.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Look at this alone: environment, project, bucket, remote or cache; may be repeated."),
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read and hash every byte, on the remote too.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what has a good copy; nothing is deleted.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find data that is lost, damaged or not pushed, and what else is wrong: 0 nothing is, 1 something, 2 not known."""
    from rich.console import Console

    from crashcast.canonical import json_text
    from crashcast.doctor import PARTS, examine, findings

    found = examine(revs or ["HEAD"], all_commits, only or PARTS, deep, repair)
    if as_json:
        print(json_text(findings.as_json(found)))
    else:
        findings.show(found, Console())
    raise typer.Exit(findings.exit_status(found))


@app.command(hidden=True)
def pushed(
    name: Annotated[str, typer.Argument(help="The git remote.")],
    url: Annotated[str, typer.Argument(help="Its URL.")] = "",
) -> None:
    """Be git's pre-push hook: refuse commits whose data is not on DVC's remote."""
    from crashcast.doctor.pushed import main as check

    raise typer.Exit(check(name))


@app.command()
def gc(
    on_remote: Annotated[bool, typer.Option("--remote", help="From DVC's remote too, which all clones share.")] = False,
    min_age_days: Annotated[float, typer.Option(help="What is younger stays.")] = 14,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show, and delete nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete data that no commit of any branch, tag, stash or work tree needs; shows it first, and asks."""
    from crashcast.doctor.garbage import collect

    collect(on_remote, min_age_days, dry_run, yes)
