"""What the documentation names exists: files, headings, modules, commands and their options, targets, parameters."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from crashcast.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def named(page: Path, pattern: str) -> set[str]:
    """Return what the pattern's group finds in the page, in code or outside it."""
    return set(re.findall(pattern, page.read_text(encoding="utf-8")))


def test_links_lead_to_files(page: Path) -> None:
    links = named(page, r"\]\(([^)#]+)[^)]*\)") | named(page, r'src="([^"]+)"')
    assert {link for link in links if "://" not in link and not (page.parent / link).exists()} == set()


def test_source_files_and_tests_exist(page: Path) -> None:
    paths = {path for path in named(page, r"`([\w./-]+(?:\.py|/))`") if "/" in path and "NAME" not in path}
    paths = {path for path in paths if "crashcast-damaged" not in path}  # `crashcast doctor` makes these
    folders = (ROOT, ROOT / "src/crashcast", ROOT / "src/crashcast/sources/tickets", ROOT / "data/raw")
    assert {path for path in paths if not any((folder / path).exists() for folder in folders)} == set()


def test_imports_in_examples_work(page: Path) -> None:
    for module, name in re.findall(r"^from (crashcast[\w.]*) import (\w+)", page.read_text(), flags=re.MULTILINE):
        found = importlib.import_module(module)
        assert hasattr(found, name) or importlib.import_module(f"{module}.{name}")


def test_commands_exist(page: Path) -> None:
    known = get_command(app).commands  # type: ignore[attr-defined]
    assert named(page, r"(?:`|\n|-- )crashcast ([a-z][\w-]*)") - known.keys() == set()


def test_options_exist(page: Path) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for words in re.findall(r"(?:`|\n|-- |&& )crashcast ([a-z][^`\n#|&>]*)", page.read_text(encoding="utf-8")):
        own = words.partition(" -- ")[0]
        command = commands.get(own.split()[0])
        assert command, own
        subcommands = getattr(command, "commands", {})
        command = subcommands.get((own.split()[1:] or [""])[0], command)
        known = {"--help", *(name for one in command.params for name in one.opts)}
        assert set(re.findall(r"(?<!\S)--?[a-z][\w-]*", own)) - known == set(), own


def test_headings_that_links_name_exist(page: Path) -> None:
    for file, heading in re.findall(r"\]\(([\w./-]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        text = (page.parent / file if file else page).read_text(encoding="utf-8")
        titles = [re.sub(r"[^\w\- ]", "", title.lower()) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
        assert heading in [title.replace(" ", "-") for title in titles], f"{file}#{heading}"


def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named(page, r"(?:`|\n|&& )make ([a-z][\w-]*)[`\s]") - targets == set()


def test_parameters_exist(page: Path) -> None:
    sections = "|".join(PARAMS)
    dotted = named(page, rf"`((?:{sections})\.[a-z_]+)[`:]") - {"telemetry.py"}
    assert {name for name in dotted if name.split(".")[1] not in PARAMS[name.split(".")[0]]} == set()


def test_every_threat_names_a_test_that_is_there() -> None:
    """The table in docs/security.md says which test shows that a threat is stopped."""
    rows = [line for line in (ROOT / "docs/security.md").read_text().splitlines() if line.startswith("| ")][1:]
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row)
        assert named, row
        for path, name in named:
            assert f"def {name or 'test_'}" in (ROOT / path).read_text(), (path, name)
