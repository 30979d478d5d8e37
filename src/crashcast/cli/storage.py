"""Commands that keep data safe: what is stored, damaged, lost, not needed, and what its versions hold."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Annotated, Literal

import typer

from crashcast.cli.shared import AsJson, print_result

commands = typer.Typer()
versions = typer.Typer(no_args_is_help=True, help="Show versions of the data, and how they differ.")
commands.add_typer(versions, name="data")


@commands.command()
def doctor(
    revs: Annotated[list[str] | None, typer.Option(help="A commit whose data must be there; may be repeated.")] = None,
    all_commits: Annotated[bool, typer.Option("--all-commits", help="Every branch and tag, instead of HEAD.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Check only this: environment, project, bucket, remote or cache; may be repeated."),
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read and hash every byte, on the remote too.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair data of which a good copy exists; nothing is deleted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find data that is lost, damaged or not pushed, and other faults.

    Exit status: 0 nothing is wrong, 1 something is, 2 not everything could be checked.
    """
    from crashcast.doctor import PARTS, examine, findings

    found = examine(revs or ["HEAD"], all_commits, only or PARTS, deep, repair)
    print_result(found, as_json, findings.as_json, findings.show)
    raise typer.Exit(findings.exit_status(found))


@commands.command()
def upgrade() -> None:
    """Keep this fleet's data, figures and parameters in a merge of a newer Crashcast (docs/upgrade.md)."""
    from crashcast.versioning.upgrade import upgrade

    found = upgrade()
    for name in found.added:
        print(f"New in params.yaml: {name}")
    for name in found.unknown:
        print(f"Not known any more, remove it from params.yaml: {name}")
    for table in found.empty:
        print(f"New, and empty: {table}")
    for path in found.conflicts:
        print(f"To be resolved by hand: {path}")
    print("Next:\n  git commit\n  make env\n  dvc repro")


@commands.command()
def pull(
    targets: Annotated[
        list[str] | None, typer.Argument(help="As `dvc pull` takes them, such as models.", show_default="everything")
    ] = None,
) -> None:
    """Bring data and models from DVC's remote: `dvc pull`, after a check of every name that it would write."""
    from crashcast.versioning.pull import pull

    raise typer.Exit(pull(targets or ()))


@commands.command()
def push() -> None:
    """Bring data and models to DVC's remote: `dvc push`, and the doctor's check of the stored objects."""
    from crashcast.versioning import dvc_command

    dvc_command.forget_files()
    if status := dvc_command.run("push"):
        raise typer.Exit(status)
    doctor(only=["remote"], repair=True)


@commands.command()
def gc(
    on_remote: Annotated[
        bool, typer.Option("--remote", help="Also from DVC's remote, which all clones share.")
    ] = False,
    min_age_days: Annotated[float, typer.Option(help="Keep data younger than this.")] = 14,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the data, and delete nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete data that no commit of any branch, tag, stash or work tree needs; lists it first, and asks."""
    from crashcast.doctor.garbage import collect

    collect(on_remote, min_age_days, dry_run, yes)


@commands.command()
def forget(
    names: Annotated[list[str], typer.Argument(help="All that a person is called: name, login, address.")],
    now: Annotated[
        bool, typer.Option("--now", help="Replace them in raw data and in serve's log, instead of listing them.")
    ] = False,
    old_versions: Annotated[
        bool, typer.Option("--old-versions", help="List older versions of the data that name them, and ask to delete.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """List where the data names a person, and take the name out (docs/privacy.md)."""
    from crashcast.doctor import garbage, personal_data

    if now:
        changed = personal_data.remove(names)
        print("\n".join(f"Replaced in {path}" for path in changed) or "Nothing names them.")
        if changed:
            print('Next:\n  git add data/raw && git commit -m "Take a name out of the data"\n  dvc repro')
        return
    if not old_versions:
        for place, column, cells in personal_data.find(names):
            print(f"{place}, {column}: {cells:,} cells")
        return
    found = personal_data.old_versions(names)
    for md5, (path, commit) in found.items():
        print(f"{md5}  {path}, such as of commit {commit}")
    if not found:
        print("No version in DVC's cache or on its remote names them.")
        return
    print(f"If these {len(found)} are deleted, commits that have them can no longer be pulled whole or reproduced.")
    if yes or garbage.confirmed(len(found)):
        personal_data.delete(found)
        print(f"{len(found)} objects deleted")


@commands.command(context_settings={"allow_interspersed_args": False})
def s3(
    command: Annotated[
        list[str] | None, typer.Argument(help="The command to run, such as: crashcast s3 -- crashcast pull")
    ] = None,
    elsewhere: Annotated[
        Literal["serve", "run", "skip"],
        typer.Option(
            help="If DVC's remote is not this server: start it nevertheless, run COMMAND with your own credentials "
            "once that remote answers, or skip COMMAND."
        ),
    ] = "serve",
    port: Annotated[int, typer.Option(help="The server's port; .dvc/config names it.")] = 18333,
) -> None:
    """Run a command with a local S3 server beside it, or the server alone."""
    from crashcast.versioning import local_s3, remote

    if command and elsewhere != "serve" and remote.endpoint() != local_s3.endpoint(port):
        if elsewhere == "skip":
            print(f"skipped, because DVC's remote is {remote.url()}, not this machine: {' '.join(command)}")
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


@commands.command(hidden=True)
def pushed(
    name: Annotated[str, typer.Argument(help="The git remote.")],
    url: Annotated[str, typer.Argument(help="Its URL.")] = "",
) -> None:
    """Act as git's pre-push hook: refuse commits whose data is not on DVC's remote."""
    from crashcast.doctor.pre_push import main as check

    raise typer.Exit(check(name))


@versions.command("log")
def data_log(
    paths: Annotated[
        list[str] | None, typer.Argument(help="Such as data/raw or data/labels.", show_default="all that DVC keeps")
    ] = None,
    revision: Annotated[str, typer.Option("--rev", help="The commit to begin with.")] = "HEAD",
    number: Annotated[int | None, typer.Option("--max-count", "-n", min=1, help="The number of commits.")] = None,
    on_remote: Annotated[
        bool, typer.Option("--remote", help="Also read the files' footers on DVC's remote; nothing is stored.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the commits that changed data: rows, servers, partitions, incidents, size (docs/data-versions.md)."""
    from crashcast.history import log

    print_result(log.history(paths or (), revision, number, on_remote), as_json, log.as_json, log.show)


@versions.command("diff")
def data_diff(
    base: Annotated[str, typer.Argument(metavar="REV", help="The earlier commit.")],
    head: Annotated[
        str | None, typer.Argument(metavar="[REV]", help="The later one.", show_default="the work tree")
    ] = None,
    paths: Annotated[
        list[str] | None,
        typer.Option("--path", help="Such as data/raw; may be repeated.", show_default="all that DVC keeps"),
    ] = None,
    pull: Annotated[bool, typer.Option("--pull", help="Fetch files that differ from DVC's remote.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the data of two commits, or of one and the work tree, by partition and column.

    Exit status: 0 the same, 1 it differs, 2 not all of it could be read.
    """
    from crashcast.history import diff

    found = diff.diff(base, head, paths or (), pull)
    print_result(found, as_json, diff.as_json, diff.show)
    raise typer.Exit(diff.exit_status(found))
