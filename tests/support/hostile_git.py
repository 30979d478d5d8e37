"""A user whose git settings and variables change every answer of git: those of a hook of another repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

SETTINGS = """
[color]
    ui = always
[commit]
    gpgSign = true
[core]
    attributesFile = {folder}/attributes
    autocrlf = true
    fsmonitor = {folder}/fail
    hooksPath = {folder}/hooks
    pager = {folder}/fail
    quotePath = true
[diff]
    external = {folder}/fail
    noprefix = true
    relative = true
    renames = copies
[diff "text"]
    textconv = {folder}/fail
[fetch]
    prune = true
    pruneTags = true
[i18n]
    logOutputEncoding = UTF-16
[log]
    decorate = full
    diffMerges = combined
    follow = true
    showSignature = true
[push]
    followTags = true
    gpgSign = true
[status]
    branch = true
    showUntrackedFiles = no
[tag]
    gpgSign = true
"""
# a remote on the same machine has hooks of its own, which are to run
FAIL = '#!/bin/sh\ncase "$PWD" in */remote.git | */twin.git) exit 0 ;; esac\necho hostile\nexit 1\n'
HOOKS = ("post-checkout", "pre-push", "reference-transaction", "post-index-change")


def lay_out(top: Path) -> dict[str, str]:
    """Write the settings and the other repository below a folder, and return the variables."""
    folder = top / "hostile"
    (folder / "hooks").mkdir(parents=True)
    command = f"git init -q '{top}/other' && git -C '{top}/other' commit -q --allow-empty -m other"
    subprocess.run(command, shell=True, check=True)
    for name in ("fail", *(f"hooks/{hook}" for hook in HOOKS)):
        (folder / name).write_text(FAIL)
        (folder / name).chmod(0o755)
    (folder / "attributes").write_text("* diff=text\n")
    (folder / "config").write_text(SETTINGS.format(folder=folder))
    return {
        "GIT_CONFIG_GLOBAL": f"{folder}/config",
        "GIT_DIFF_OPTS": "--unified=9",
        "GIT_DIR": f"{top}/other/.git",
        "GIT_EXTERNAL_DIFF": f"{folder}/fail",
        "GIT_GLOB_PATHSPECS": "1",
        "GIT_INDEX_FILE": f"{folder}/index",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_NAMESPACE": "other",
        "GIT_OBJECT_DIRECTORY": f"{folder}/objects",
        "GIT_PREFIX": "nowhere/",
        "GIT_WORK_TREE": f"{top}/other",
        "LANG": "de_DE.UTF-8",
    }
