"""Models from somebody who wants to run code here, fill the memory or write elsewhere."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import skops.io
import yaml

from crashcast.errors import UserError
from crashcast.files import md5
from crashcast.modeling import model
from crashcast.modeling.algorithms import candidates
from crashcast.modeling.model import fit, load, save
from crashcast.params.train import Candidates
from crashcast.versioning import cache, committed_model

FEATURES = ["cpu_pct", "latency_ms"]
GRIDS = Candidates.model_validate({"logistic_regression": {"C": [1.0]}})


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.canary),)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model as `train` writes it."""
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(200, 2)).astype(np.float32)
    candidate = next(one for one in candidates(GRIDS, 1, FEATURES) if one.algorithm == "logistic_regression")
    folder = tmp_path_factory.mktemp("honest") / "models"
    save(fit(candidate, FEATURES, rows, rows[:, 0] > 0), folder)
    return folder


@pytest.fixture
def here(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with that model and its dvc.lock."""
    shutil.copytree(honest, tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    lock()
    return tmp_path


def lock() -> None:
    out = {"path": "models", "hash": "md5", "md5": md5(Path("models"))}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"train": {"cmd": "x", "outs": [out]}}}))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Return a path that nothing may make; a test makes sure that the attack would have."""
    return tmp_path / "canary"


def refused(match: str) -> None:
    """Refuse the model with the right hash too: somebody may have committed it."""
    lock()
    for reader in (committed_model.load, lambda: load(Path("models"))):
        with pytest.raises(UserError, match=match):
            reader()


def rewrite(change: dict[str, bytes], name: str = "models/model.skops") -> None:
    """Replace members of the archive."""
    with zipfile.ZipFile(name) as source:
        members = {member: source.read(member) for member in source.namelist()}
    with zipfile.ZipFile(name, "w", zipfile.ZIP_STORED) as target:
        for member, content in (members | change).items():
            target.writestr(member, content)


def array_in(name: str = "models/model.skops") -> str:
    with zipfile.ZipFile(name) as source:
        return next(member for member in source.namelist() if member.endswith(".npy"))


def test_a_model_that_is_the_locked_one_is_loaded(here: Path) -> None:
    assert committed_model.load().features == FEATURES
    assert committed_model.load(Path("models"), here / "dvc.lock").features == FEATURES


@pytest.mark.parametrize("name", ["model.skops", "model.json", "one more"])
def test_a_model_with_another_hash_is_refused_before_anything_is_read(
    here: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("models", name)
    path.write_bytes((path.read_bytes() if path.exists() else b"") + b" ")
    monkeypatch.setattr(model, "load", lambda folder: pytest.fail("it was loaded"))
    monkeypatch.setattr(skops.io, "get_untrusted_types", lambda **_: pytest.fail("it was read"))

    with pytest.raises(UserError, match=r"models is refused: its hash is \w+\.dir, dvc.lock names \w+\.dir"):
        committed_model.load()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "dvc.lock is missing"),
        ("<<<<<<< HEAD\n", "dvc.lock holds a merge conflict"),
        ("[]", "dvc.lock is unreadable"),
        ("\x00", "dvc.lock is unreadable"),
        ("stages: {train: {cmd: train, outs: []}}", "dvc.lock names no models"),
        ("!!python/object/apply:os.mkdir [canary]", "dvc.lock is unreadable"),
    ],
)
def test_a_model_that_no_lock_names_is_refused(here: Path, canary: Path, text: str | None, told: str) -> None:
    Path("dvc.lock").unlink() if text is None else Path("dvc.lock").write_text(text)

    with pytest.raises(UserError, match=told):
        committed_model.load()
    assert not canary.exists()


def test_a_model_that_is_not_there_is_refused(here: Path) -> None:
    shutil.rmtree("models")
    with pytest.raises(UserError, match="its hash is nothing"):
        committed_model.load()


def test_a_pickle_under_the_models_name_runs_nothing(here: Path, canary: Path) -> None:
    attack = pickle.dumps(Evil(canary))
    Path("models/model.skops").write_bytes(attack)

    refused("holds no readable model")
    assert not canary.exists()
    pickle.loads(attack)
    assert canary.exists()  # it would have worked


def test_a_pickle_inside_the_archive_runs_nothing(here: Path, canary: Path) -> None:
    evil = io.BytesIO()
    np.save(evil, np.array([Evil(canary)], dtype=object))
    rewrite({array_in(): evil.getvalue()})

    refused(r"holds no readable model \(Object arrays cannot be loaded")
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["sklearn.preprocessing.FunctionTransformer", "subprocess.Popen", "builtins.eval"])
def test_a_type_that_no_model_has_is_refused_before_it_is_loaded(
    here: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile("models/model.skops") as source:
        schema = json.loads(source.read("schema.json"))
    schema["__module__"], _, schema["__class__"] = kind.rpartition(".")
    rewrite({"schema.json": json.dumps(schema).encode()})
    monkeypatch.setattr(skops.io, "loads", lambda *_, **__: pytest.fail("it was loaded"))

    refused(f"is refused: it holds {kind}")


@pytest.mark.parametrize("name", ["../../canary", "/tmp/canary", "..\\canary", "a/../../canary"])
def test_a_member_whose_name_leads_elsewhere_is_never_written(here: Path, canary: Path, name: str) -> None:
    rewrite({name: b"x"})
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}

    load(Path("models"))

    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before
    assert not canary.exists()
    assert not Path("/tmp/canary").exists()


def test_a_folders_list_whose_names_lead_elsewhere_makes_no_link(here: Path, canary: Path) -> None:
    """The review lays a commit's model out as its list of files says, and the list's own hash may be right."""
    md5s = {name: md5(Path("models", name)) for name in ("model.skops", "model.json")}
    names = {"model.skops": md5s["model.skops"], "../canary": md5s["model.json"]}
    listing = json.dumps([{"md5": digest, "relpath": name} for name, digest in names.items()]).encode()
    Path("listing").write_bytes(listing)
    digest = f"{md5(Path('listing'))}.dir"
    Path(".dvc").mkdir()
    for source, name in (("listing", digest), *((f"models/{name}", md5s[name]) for name in md5s)):
        cache.cached(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, cache.cached(name))

    with pytest.raises(UserError, match=r"the model of commit 1 is refused: .* names '../canary'"):
        cache.lay_out(digest, here / "laid", "the model of commit 1")
    assert not canary.is_symlink()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        zipfile.ZipFile("models/model.skops", "w", zipfile.ZIP_DEFLATED) as bomb,
        bomb.open("schema.json", "w") as file,
    ):
        for _ in range(200):
            file.write(bytes(1 << 20))
    assert Path("models/model.skops").stat().st_size < 1 << 20
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("it was unpacked"))

    refused(r"would unpack to 209,715,200 bytes")


def test_members_that_share_their_bytes_are_refused_before_they_are_read(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many names for one stretch of the file: no member is compressed, and all together are a bomb."""
    content = bytes(1 << 20)
    with zipfile.ZipFile("models/model.skops", "w", zipfile.ZIP_STORED) as bomb:
        bomb.writestr("schema.json", content)
        first = bomb.infolist()[0]
        for number in range(100):
            twin = copy.copy(first)
            twin.filename = f"{number}.npy"
            bomb.filelist.append(twin)
        bomb._didModify = True
    with zipfile.ZipFile("models/model.skops") as bomb:
        assert len(bomb.infolist()) == 101
    assert Path("models/model.skops").stat().st_size < 2 << 20
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("it was read"))

    refused("would unpack to 105,906,176 bytes")


def test_an_array_that_claims_to_be_vast_fills_no_memory(here: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})
    rewrite({array_in(): header.getvalue()})

    refused("holds no readable model")
