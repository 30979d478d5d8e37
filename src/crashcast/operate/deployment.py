"""The model in use, with the parameters by which its commit makes features.

A score is right only if its features are made as they were in training. So the code that makes them here must be that
of the model's commit: anything else is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from crashcast import registry
from crashcast.errors import UserError
from crashcast.execution.code_hash import SRC
from crashcast.modeling import model
from crashcast.modeling.model import Model
from crashcast.params.clean import Clean
from crashcast.params.features import Features
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.run_summary import WHAT_MIGHT_HELP, Figures, beside_chance
from crashcast.text import some_of
from crashcast.versioning import cache, committed_model
from crashcast.versioning.environment import RUN
from crashcast.versioning.revision import EVALUATION, MODELS, Revision
from stages import clean, featurize

PROD = "prod"


@dataclass(frozen=True)
class Deployment:
    """A commit's model and the parameters of its features.

    Attributes
    ----------
    name : str
        The registered version, or else the start of the commit's hash.
    model : Model
    telemetry, clean, features, incidents, label
        The sections of the commit's params.yaml.
    """

    name: str
    model: Model
    telemetry: Telemetry
    clean: Clean
    features: Features
    incidents: Incidents
    label: Label

    @classmethod
    def of(cls, name: str, revision: Revision) -> Self:
        """Load the model of a commit; its bytes are checked against the hash in the commit's dvc.lock.

        Raises
        ------
        UserError
            If the commit has no model, its code or packages are not those that run here, or the model cannot be had.
        """
        if MODELS not in revision.outs:
            raise UserError(f"no stage of commit {revision.name} writes {MODELS}: there is no model to score with")
        code = [Path(str(module.__file__)) for module in (clean, featurize, model)]
        differing = committed_model.differing_code(revision, code)
        if revision.find_file(RUN) != (SRC.parent / RUN).read_bytes():
            differing.append(RUN)
        if differing:
            raise UserError(
                f"the model {name} was trained by other code than runs here ({some_of(differing)}): score in a work "
                f"tree of its commit: git worktree add ../{name} {revision.name}"
            )
        with cache.temporary() as place:
            folder = cache.lay_out(revision.outs[MODELS], place / MODELS, f"the model of commit {revision.name}")
            loaded = model.load(folder)
        sections = (revision.section(kind) for kind in (Telemetry, Clean, Features, Incidents, Label))
        return cls(name, loaded, *sections)  # type: ignore[arg-type]


def find(name: str | None = None, without_skill: bool = False) -> tuple[Deployment, str]:
    """Return the model to score with, and what to say of the choice: see `find_revision`.

    Raises
    ------
    UserError
        See `Deployment.of`, and, unless `without_skill`, `check_skill`.
    """
    shown, revision, note = find_revision(name)
    if not without_skill:
        check_skill(shown, revision)
    return Deployment.of(shown, revision), note


def check_skill(name: str, revision: Revision) -> None:
    """Refuse a model that is not shown to be better than chance on its test part: its alarms would be noise.

    Raises
    ------
    UserError
        If its commit's evaluation does not show it.
    """
    figures = Figures(revision.metrics.get(EVALUATION, {}).items(), Path(EVALUATION))
    if figures["lift_low"] <= 1:
        raise UserError(
            f"on its test part the model {name} is {beside_chance(figures)}, so its alarms would say nothing: "
            f"{WHAT_MIGHT_HELP}; --without-skill uses it all the same"
        )


def in_use() -> registry.Model | None:
    """Return the registered version in stage `prod`, as far as this clone knows; None if there is none."""
    return next((known for known in reversed(registry.models()) if PROD in known.stages), None)


def find_revision(name: str | None = None) -> tuple[str, Revision, str]:
    """Return what the model in use is called, its commit, and what to say of the choice.

    Parameters
    ----------
    name : str or None
        A registered version or a commit. By default the version in stage `prod`, or HEAD's model if there is none.
    """
    if name is not None:
        revision = Revision.find(name)
        return revision.name if name == "HEAD" else name, revision, ""
    if used := in_use():
        return used.version, Revision.find(used.revision), ""
    head = Revision.find("HEAD")
    note = f"no version is in stage {PROD}, so HEAD's model is used; `crashcast stage VERSION {PROD}` names another"
    return head.name, head, note
