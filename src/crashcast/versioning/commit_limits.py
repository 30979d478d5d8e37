"""What a commit must not bring: files where this machine keeps its own, and settings of DVC that name programs.

Whoever may push a branch can write both, and what they say would rule over the review of that branch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from crashcast.errors import UserError
from crashcast.text import some_of
from crashcast.versioning import git
from crashcast.versioning.revision import Revision

CONFIG = ".dvc/config"
# of this machine alone; an entry .dvc is a link, since git lists no folders. The last: issued scores, begun imports
OWN = re.compile(
    r"\.dvc|(\.venv|\.dvc/(cache|tmp|config\.local)|data/(served|\.collect|\.import\.[^/]*))(/.*)?",
    re.IGNORECASE,
)
SECTION = re.compile(r'(\w+)(?: "(.*)")?')  # of DVC's configuration
NETWORK = {"url", "endpointurl", "region", "use_ssl", "verify", "connect_timeout", "read_timeout", "jobs"}
ENCRYPTION = {"sse", "sse_kms_key_id"}
PAGE = "plots.html_template"
SETTINGS = {
    "core": {"remote", "analytics", "autostage", "check_update", "checksum_jobs", "hardlink_lock"},
    "plots": {"html_template"},
    "cache": {"dir", "type", "shared", "slow_link_warning", "verify"},
    "remote": {*NETWORK, *ENCRYPTION, "allow_anonymous_login", "checksum_jobs"},
}


def check_places(revision: Revision | None = None) -> None:
    """Refuse a commit, by default git's index, with files where this machine keeps its cache, environment and imports.

    Raises
    ------
    UserError
        Naming them.
    """
    found = [path for path in git.modes(revision.sha if revision else "") if OWN.fullmatch(path)]
    if found:
        where = f"commit {revision.name}" if revision else "git's index"
        raise UserError(
            f"{some_of(found)} in {where}: what lies there is taken for this machine's own results, packages and "
            f"settings, so no commit may have it: `git rm -r --cached` it, and commit that"
        )


def check_settings(content: bytes) -> None:
    """Refuse a .dvc/config with other settings than those that say where data is stored, and which page shows plots.

    Parameters
    ----------
    content : bytes
        Of the file.

    Raises
    ------
    UserError
        Naming the others: a profile or a path of credentials can name a program, which DVC would run.
    """
    if refused := sorted(name for name, _, is_allowed in _settings(content) if not is_allowed):
        raise UserError(
            f"{CONFIG} sets {', '.join(refused)}: a file that is committed may only say where data is stored. "
            "Set it on this machine alone: `dvc config --local`, `dvc remote modify --local`"
        )


def check_same_settings(base: Revision, head: Revision) -> None:
    """Refuse a challenger that changes DVC's configuration: it would choose where the review gets its data from.

    The page of plots may change: the review does not use it, and a newer version of Crashcast brings one.

    Raises
    ------
    UserError
        Naming each change, or if the file is a link: git compares where it points to, and DVC reads what is there.
    """
    if git.modes(head.sha).get(CONFIG) == git.LINK:
        raise UserError(f"{CONFIG} of commit {head.name} is a symbolic link: commit the file itself")
    old, new = (
        {name: text for name, text, _ in _settings(side.find_file(CONFIG) or b"") if name != PAGE}
        for side in (base, head)
    )
    changes = [
        f"{name}: {old.get(name, 'not set')} -> {new.get(name, 'not set')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if changes:
        raise UserError(
            f"{CONFIG} of commit {head.name} differs from that of the base, {base.name}:\n  "
            + "\n  ".join(changes)
            + "\nThe review takes data from where the base says: change this on the main branch first, on its own"
        )


def _settings(content: bytes) -> Iterator[tuple[str, str, bool]]:
    """Yield name, value and whether it is allowed of each setting, as DVC reads the file."""
    from configobj import ConfigObj, ConfigObjError

    try:
        sections = ConfigObj(content.decode().splitlines(), interpolation=False).dict()
    except (ConfigObjError, UnicodeDecodeError) as error:
        raise UserError(f"{CONFIG} cannot be read: {error}") from None
    for section, held in _lower_keys(sections).items():
        named = SECTION.fullmatch(section)
        kind, name = (named[1], ".".join(filter(None, named.groups()))) if named else ("", section)
        for key, value in (held if isinstance(held, dict) else {"": held}).items():
            is_allowed = key in SETTINGS.get(kind, ()) and not isinstance(value, dict)
            yield f"{name}.{key}".rstrip("."), str(value), is_allowed


def _lower_keys(held: dict[str, Any]) -> dict[str, Any]:
    """Return sections with names in lower case; of two that then have the same name, DVC reads the last one alone."""
    return {key.lower(): _lower_keys(value) if isinstance(value, dict) else value for key, value in held.items()}
