"""Files and folders by DVC's hash: in DVC's cache, to which DVC's remote brings what is missing.

Every file is checked against its hash before it is used.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from crashcast import files
from crashcast.errors import UserError
from crashcast.text import some_of
from crashcast.versioning import dvc_files, git, remote

REVIEW = "crashcast-review"
READ_ONLY = 0o444  # as DVC keeps its cache


def members(digest: str, what: str) -> dict[str, str]:
    """Return the hash of each file of a folder.

    Parameters
    ----------
    digest : str
        DVC's hash of the folder; it ends with `.dir`.
    what : str
        What it is, for an error.
    """
    return dvc_files.members(locate(digest, what).read_bytes(), what)


def locate(digest: str, what: str) -> Path:
    """Return a file of DVC's cache, fetched if needed, that has the bytes its hash says.

    Raises
    ------
    UserError
        If neither the cache nor the remote has it, or it is damaged.
    """
    fetch([digest], what)
    path = cached(digest)
    if not dvc_files.is_of(digest, _md5(path, files.signature(path))):
        raise UserError(f"{what} is damaged: {path} is not what its name says; remove it and `dvc fetch`")
    return path


def fetch(digests: Iterable[str], what: str) -> None:
    """Bring what DVC's cache lacks from DVC's remote.

    Raises
    ------
    UserError
        If the remote does not answer, or lacks something.
    """
    if bring(digests, what):
        raise UserError(
            f"{what} is neither in DVC's cache nor on its remote, {remote.url()}: `make push` where it was made"
        )


def bring(digests: Iterable[str], what: str) -> set[str]:
    """Bring what DVC's cache lacks from DVC's remote, of folders the list of files alone; return what is nowhere.

    Raises
    ------
    UserError
        If the remote does not answer.
    """
    missing = {digest for digest in digests if not cached(digest).exists()}
    if not missing:
        return missing
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    remote.check()  # DVC would try for minutes
    try:
        with Repo() as repo:
            repo.cloud.pull({HashInfo("md5", digest) for digest in missing})
    except (DvcException, OSError) as error:
        raise UserError(f"{what} cannot be fetched from DVC's remote: {error}") from None
    return {digest for digest in missing if not cached(digest).exists()}


def fetch_whole(digests: Mapping[str, str]) -> None:
    """Bring files and folders, with all their files, from DVC's remote: in two transfers, for keys that expire soon.

    Parameters
    ----------
    digests : mapping of str to str
        The hash of each, by what it is.

    Raises
    ------
    UserError
        Naming those that are not on the remote.
    """
    missing = bring(digests.values(), "data")
    folders = {what: digest for what, digest in digests.items() if digest.endswith(".dir") and digest not in missing}
    files_of = {what: {*members(digest, what).values()} for what, digest in folders.items()}
    missing |= bring({md5 for found in files_of.values() for md5 in found}, "data")
    if absent := sorted(what for what in digests if missing & {digests[what], *files_of.get(what, ())}):
        raise UserError(f"not on DVC's remote: {some_of(absent)}: `make push` where it was made")


def lay_out(digest: str, target: Path, what: str, wanted: Callable[[str], bool] = lambda _: True) -> Path:
    """Make `target` a folder of the files of a folder that `wanted` picks by name, or a file; and return it.

    They are hard links like DVC's own, to DVC's cache itself: to be read only.
    """
    if not digest.endswith(".dir"):
        files.link(locate(digest, what), target)
        return target
    picked = {path: member for path, member in members(digest, what).items() if wanted(path)}
    fetch(picked.values(), what)
    target.mkdir(parents=True, exist_ok=True)
    for path, member in picked.items():
        files.link(locate(member, what), target / path)
    return target


def hold(path: Path) -> str:
    """Put a file into DVC's cache, and return its hash."""
    return _copy_in(path, files.md5(path))


def hold_folder(contents: Mapping[str, str]) -> str:
    """Put a folder of files that DVC's cache holds into it, and return the folder's hash."""
    with temporary() as folder:
        (folder / "listing").write_text(files.folder_list(contents), encoding="utf-8")
        return _copy_in(folder / "listing", files.md5(folder / "listing") + ".dir")


def is_whole(path: Path, digest: str) -> bool:
    """Tell whether a file is there and has the bytes that its hash says."""
    try:
        return path.is_file() and dvc_files.is_of(digest, files.md5(path))
    except OSError:
        return False


def is_held(digest: str) -> bool:
    """Tell whether DVC's cache has all of a file or folder."""
    path = cached(digest)
    if not path.exists() or not digest.endswith(".dir"):
        return path.exists()
    try:
        contents = dvc_files.members(path.read_bytes(), digest)
    except dvc_files.RefusedListError:
        return False
    return all(cached(md5).exists() for md5 in contents.values())


@contextmanager
def temporary() -> Iterator[Path]:
    """Give an empty folder on the file system of DVC's cache, for as long as needed."""
    place = shared_root() / REVIEW / "temporary"
    place.mkdir(parents=True, exist_ok=True)
    for left in place.iterdir():  # by killed processes
        if not psutil.pid_exists(int(left.name.partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(dir=place, prefix=f"{os.getpid()}-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def root() -> Path:
    """Return DVC's cache folder."""
    return _configured(Path.cwd()) or (Path.cwd() / ".dvc" / "cache").resolve()


def shared_root() -> Path:
    """Return the folder of what all work trees of a repository share: DVC's cache folder of the main one.

    Raises
    ------
    UserError
        If git tracks a file in it.
    """
    found = _configured(Path.cwd()) or _of_main_work_tree(Path.cwd()) or root()
    _refuse_tracked(found)
    return found


def review_folder() -> Path:
    """Return where the review keeps what it computed: in git's own folder, since no commit can write into that."""
    return git.common_folder() / REVIEW


def cached(digest: str) -> Path:
    """Return where DVC's cache has an object, or would have it."""
    return root() / dvc_files.object_path(digest)


def _copy_in(path: Path, digest: str) -> str:
    if not cached(digest).exists():
        with files.replacing(cached(digest)) as aside:
            shutil.copyfile(path, aside)
            aside.chmod(READ_ONLY)
    return digest


@cache
def _configured(project: Path) -> Path | None:
    from dvc.config import Config, ConfigError

    try:
        configured = Config(str(project / ".dvc"))["cache"].get("dir")
    except ConfigError as error:
        raise UserError(f"DVC's configuration: {error}") from None
    return Path(configured).resolve() if configured else None


@cache
def _of_main_work_tree(project: Path) -> Path | None:
    asked = git.run("rev-parse", "--path-format=absolute", "--git-common-dir", "--show-prefix", expected=(0, 128))
    if asked.status != 0:
        return None
    common, prefix = os.fsdecode(asked.output).split("\n")[:2]
    main = Path(common).parent / prefix / ".dvc"
    return (main / "cache").resolve() if main.is_dir() else None


@cache
def _refuse_tracked(folder: Path) -> None:
    """Refuse a cache that came with a commit: results kept in it would be taken for this machine's own."""
    if folder.is_dir() and (tracked := git.run("ls-files", "-z", folder=folder, expected=(0, 128)).entries):
        raise UserError(
            f"git tracks {some_of(tracked)} in {folder}, DVC's cache, so a commit wrote what is kept there: nothing in "
            f"it is used. `git rm -r --cached` these files, commit that, and remove the folder"
        )


@cache
def _md5(path: Path, _: files.Signature) -> str:
    return files.md5(path)
