"""The model of a commit: its files, and what they say of it."""

from __future__ import annotations

import json
from typing import Any

from crashcast.versioning.cache import locate, members
from crashcast.versioning.revision import MODELS, Revision

CARD = "card.md"


def files_of(revision: Revision) -> dict[str, str]:
    """Return the hash of each file of a commit's model."""
    return members(revision.outs[MODELS], f"the model of commit {revision.name}")


def is_same(one: Revision, other: Revision) -> bool:
    """Tell whether two commits have the same model, whatever its card says of how it was chosen."""
    files, others = ({name: digest for name, digest in files_of(r).items() if name != CARD} for r in (one, other))
    return files == others


def describe(revision: Revision) -> dict[str, Any]:
    """Return what model.json says of a commit's model."""
    file = locate(files_of(revision)["model.json"], f"the model of commit {revision.name}")
    described: dict[str, Any] = json.loads(file.read_bytes())
    return described
