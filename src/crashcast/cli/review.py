"""Commands that judge a retrained model, and register models."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from crashcast.cli.shared import AsJson, print_result
from crashcast.errors import UserError

commands = typer.Typer()
Step = Literal["fetch", "run", "judge"]
TrustAuthors = Annotated[
    bool,
    typer.Option(
        "--trust-authors",
        help="Run the challenger's code even without a sandbox, and install packages that it changes. It is recorded.",
    ),
]
FORMS = {
    "first": "the first model, compared only with chance and one-rule baselines",
    "improvement": "better than the last model",
    "renewal": "as good as the last model, which was stale",
}


@commands.command()
def review(
    base: Annotated[
        str | None,
        typer.Option(
            help="The champion's commit.", show_default="the last commit that HEAD shares with the remote's main branch"
        ),
    ] = None,
    first: Annotated[
        bool, typer.Option("--first", help="There is no champion: compare with the baselines only.")
    ] = False,
    head: Annotated[str, typer.Option(help="The challenger's commit.")] = "HEAD",
    unreserved: Annotated[
        bool, typer.Option("--unreserved", help="Do not count this attempt in the shared ledger, as in a fork.")
    ] = False,
    trust_authors: TrustAuthors = False,
    step: Annotated[
        Step | None,
        typer.Option(
            help="Do one part, for jobs of CI that have different rights: bring all data into DVC's cache; run the "
            "challenger's code and keep its answers in --answers; judge those.",
            show_default="all of it here",
        ),
    ] = None,
    answers: Annotated[
        Path, typer.Option(help="The folder in which --step run leaves the answers, and --step judge finds them.")
    ] = Path("answers"),
    folder: Annotated[
        Path, typer.Option("--out", help="The folder for record.json, comment.md and review.html.")
    ] = Path("reports/review"),
) -> None:
    """Decide whether HEAD's model may replace that of another commit.

    Exit status: 0 ACCEPT, 1 REJECT, 3 INCONCLUSIVE, 2 an error.
    """
    from crashcast.canonical import write_text
    from crashcast.console import Console
    from crashcast.files import refuse_committed_links, replacing
    from crashcast.review import commit_changes
    from crashcast.review import review as reviewing
    from crashcast.review.report import comment, html, schema, terminal
    from crashcast.versioning import commit_limits
    from crashcast.versioning import sandbox_answers as given_answers
    from crashcast.versioning.revision import Revision

    if first and base is not None:
        raise UserError("--first says that there is no champion, but --base names one: leave one of them out")
    if step and (first or trust_authors):
        raise UserError("--step is for jobs that no person watches: leave --first and --trust-authors out")
    if base is None and not first:
        base = reviewing.default_base().sha
    refuse_committed_links(folder / "record.json")  # before minutes of work
    if base is not None:
        commit_limits.check_same_settings(Revision.find(base), Revision.find(head))
    if step in ("fetch", "run"):
        assert base is not None
        reviewing.fetch(base, head) if step == "fetch" else reviewing.run(base, head, answers)
        return
    is_judge = step == "judge"
    reading = given_answers.given(answers, Revision.find(head).sha) if is_judge else nullcontext()
    try:
        with reading:
            found = reviewing.review(
                base, head, reserve=not unreserved, pushed=not is_judge, trust_authors=trust_authors
            )
    except reviewing.UntrustedCodeError as error:
        write_text(
            folder / "comment.md", f"{comment.MARKER}\n## {comment.EMOJI['INCONCLUSIVE']} INCONCLUSIVE\n\n{error}"
        )
        print(f"INCONCLUSIVE: {error}")
        raise typer.Exit(reviewing.EXIT_STATUS["INCONCLUSIVE"]) from None
    if found is None:
        text = "Both commits have the same model: there is nothing to judge."
        changed = [] if base is None else commit_changes.of_the_rules(Revision.find(base), Revision.find(head))
        if changed:
            text += " But later models would be judged by other rules or rows. People must decide about that:\n\n- "
            text += "\n- ".join(changed)
        write_text(folder / "comment.md", f"{comment.MARKER}\n{text}")
        print(text)
        raise typer.Exit(reviewing.EXIT_STATUS["INCONCLUSIVE"] if changed else 0)
    names = ("record.json", "comment.md", "review.html")
    with ExitStack() as together:  # of a full disk, all stay as they were
        record, text_file, page = (together.enter_context(replacing(folder / name)) for name in names)
        schema.write(record, found.record)
        write_text(text_file, comment.as_markdown(found.record))
        html.write(page, found.record, found.plot_data)
    terminal.show(found.record, Console())
    print(f"The page: {folder / 'review.html'}")
    raise typer.Exit(reviewing.EXIT_STATUS[found.record["verdict"]])


@commands.command()
def accept(
    record: Annotated[
        Path | None, typer.Option(help="The decision record of the pull request that was merged.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Such as v2.0.0.", show_default="the next one")] = None,
    force: Annotated[str | None, typer.Option(help="Register without ACCEPT, for this reason.")] = None,
    first: Annotated[
        bool, typer.Option("--first", help="This is another fleet than the last version's: there is no champion.")
    ] = False,
    trust_authors: TrustAuthors = False,
) -> None:
    """Register HEAD's model as a version (a git tag that carries the evidence), if the review accepts it."""
    from crashcast import registry
    from crashcast.review.report.schema import read
    from crashcast.review.review import review

    evidence = None if record is None else read(record)
    model = registry.accept(
        evidence, review=review, version=version, force_reason=force, first=first, trust_authors=trust_authors
    )
    told = [model.verdict, model.form and FORMS[model.form]]
    print(f"Registered {model.tag}, a git tag: {', '.join(filter(None, told))}")


@commands.command()
def models(
    csv: Annotated[
        Path | None, typer.Option(help="Write who registered which model when, and on what evidence, to this file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the registered models with their verdicts and stages; as JSON, with their evidence."""
    from crashcast import registry

    known = registry.models()
    if csv is not None:
        registry.write_evidence(known, csv)
    print_result(known, as_json, registry.as_json, registry.show)


@commands.command()
def stage(
    version: Annotated[str, typer.Argument(help="Such as v1.2.0.")],
    name: Annotated[str, typer.Argument(help="Such as prod.")],
) -> None:
    """Record what a registered model is used for (a git tag)."""
    from crashcast import registry

    print(f"{version} is now {name}: git tag {registry.stage(version, name)}")
