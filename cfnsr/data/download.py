"""Fetches and checks the official RAVDESS archives (Zenodo records 1188976 and 3255102).

root/Actor_XX/01-01-*.mp4    audio-video speech clips (source `ravdess`)
root/Actor_XX/03-01-*.wav    audio-only speech clips (source `ravdess_landmarks`)
root/landmarks/01-01-*.csv   their tracked landmarks (both sources)
root/archives/               what is on its way; empty again, and removed, at the end

RAVDESS speech is a full grid of 60 takes an actor, so the clips themselves say what is still
missing: no record of finished archives is kept that could disagree with them.
"""

import re
import shutil
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import pooch
import requests
from tqdm import tqdm
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from cfnsr.data.corpora.ravdess import AUDIO_ONLY, AUDIO_VIDEO, N_ACTORS, speech_takes
from cfnsr.errors import InputError

OfficialSource = Literal["ravdess", "ravdess_landmarks"]

ZENODO = "https://zenodo.org"
CLIPS_RECORD = 1188976
LANDMARKS_RECORD = 3255102

USER_AGENT = f"cfnsr/{version('cfnsr')} (+reproducing CFN-SR)"
N_FRUITLESS_ATTEMPTS = 6
LONGEST_WAIT_S = 120
CONNECT_AND_READ_TIMEOUT_S = (15, 60)
# What a dropped connection loses at most.
CHUNK_BYTES = 1 << 16

_T = TypeVar("_T")


@dataclass(frozen=True)
class Archive:
    """One zip of a Zenodo record, and which of its files are used.

    `folder` is where they go under the root; `{actor}` stands for the actor's number.
    """

    name: str
    record: int
    actors: tuple[int, ...]
    modality: int
    suffix: str
    folder: str = "Actor_{actor:02d}"

    @property
    def files(self) -> dict[str, Path]:
        """The base name of each file that is used, and its path under the root."""
        return {
            name: Path(self.folder.format(actor=take.actor), name)
            for take in speech_takes()
            if take.actor in self.actors
            for name in [take.stem(self.modality) + self.suffix]
        }

    def is_unpacked(self, root: Path) -> bool:
        """Whether all the files are under the root, none of them empty."""
        return all(_size(root / file) > 0 for file in self.files.values())


@dataclass(frozen=True)
class Published:
    """What Zenodo says of an archive. `checksum` is `md5:` and 32 hexadecimal digits."""

    url: str
    checksum: str
    n_bytes: int


def archives(source: OfficialSource) -> list[Archive]:
    """The official archives of a data source, in the order in which they are fetched."""
    everyone = range(1, N_ACTORS + 1)
    tracking, voices = "FacialTracking_Actors_01-24.zip", "Audio_Speech_Actors_01-24.zip"
    landmarks = Archive(
        tracking, LANDMARKS_RECORD, tuple(everyone), AUDIO_VIDEO, ".csv", folder="landmarks"
    )
    if source == "ravdess_landmarks":
        return [landmarks, Archive(voices, CLIPS_RECORD, tuple(everyone), AUDIO_ONLY, ".wav")]
    videos = ((actor, f"Video_Speech_Actor_{actor:02d}.zip") for actor in everyone)
    return [
        landmarks,
        *(Archive(name, CLIPS_RECORD, (actor,), AUDIO_VIDEO, ".mp4") for actor, name in videos),
    ]


def fetch(
    wanted: Sequence[Archive],
    root: Path,
    *,
    base_url: str = ZENODO,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Download, check and unpack the archives whose files are not all under `root`.

    Interrupted at any point, a second call goes on there; when everything is there, it asks the
    network nothing. An archive that lies in `root/archives` already is checked and used; it is
    deleted once its files are out, so that nothing is stored twice.

    Raises:
        InputError: no connection, wrong checksum, damaged or incomplete archive, full disk; one
            line, with the remedy.
    """
    pending = [archive for archive in wanted if not archive.is_unpacked(root)]
    if not pending:
        return
    folder = root / "archives"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with requests.Session() as session:
            # A compressed answer has another length, and ranges would count its bytes.
            session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
            zenodo = _Zenodo(session, base_url, folder, sleep)
            for archive in pending:
                path = zenodo.obtain(archive)
                unpack(archive, path, root)
                path.unlink()
                zenodo.part(archive).unlink(missing_ok=True)
        with suppress(OSError):  # the user keeps something else there
            folder.rmdir()
    except OSError as error:
        raise InputError(
            f"{error.filename or root} cannot be written: {error.strerror}; free some space, "
            "correct the folder's permissions or set root: in params.yaml to another folder"
        ) from error


def unpack(archive: Archive, path: Path, root: Path) -> None:
    """Write the archive's files that are used under `root`, each whole or not at all.

    Files are found by base name, so it does not matter whether the zip has `Actor_XX` folders,
    and no path of the zip is ever followed. The zip's CRC of each file is checked.

    Raises:
        InputError: the zip is damaged, or a take is not in it.
    """
    try:
        with zipfile.ZipFile(path) as members:
            by_name = {re.split(r"[/\\]", info.filename)[-1]: info for info in members.infolist()}
            files = archive.files
            absent = [name for name in files if name not in by_name]
            if absent:
                raise InputError(
                    f"{path} is incomplete: expected {len(files)} files such as {absent[0]}, "
                    f"found {len(files) - len(absent)}; delete it and run this again"
                )
            todo = {
                by_name[name]: root / file
                for name, file in files.items()
                if _size(root / file) != by_name[name].file_size
            }
            _require_space(root, sum(info.file_size for info in todo), f"unpacking {archive.name}")
            for info, target in tqdm(todo.items(), f"unpacking {archive.name}", leave=False):
                target.parent.mkdir(parents=True, exist_ok=True)
                unfinished = target.with_name(f"{target.name}.part")
                with members.open(info) as packed, unfinished.open("wb") as file:
                    shutil.copyfileobj(packed, file)
                unfinished.replace(target)
    # RuntimeError: encrypted; NotImplementedError: a compression that RAVDESS does not use.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InputError(
            f"{path} is damaged ({' '.join(str(error).split())}); delete it and run this again, "
            "or download it by hand once more"
        ) from error


class _FetchError(Exception):
    """Why a request failed for good, in a few words."""


@dataclass(frozen=True)
class _Zenodo:
    """Zenodo's records and files, asked politely and again."""

    session: requests.Session
    base_url: str
    folder: Path
    sleep: Callable[[float], None]
    records: dict[int, dict[str, Published] | _FetchError] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)

    def part(self, archive: Archive) -> Path:
        """Where the bytes are kept that have arrived so far."""
        return self.folder / f"{archive.name}.part"

    def obtain(self, archive: Archive) -> Path:
        """The archive in `folder`, downloaded if need be, its checksum verified if known."""
        path, part = self.folder / archive.name, self.part(archive)
        try:
            published = self._published(archive)
        except _FetchError as cause:
            if not path.exists():
                raise self._failure(archive, cause) from cause
            _say(f"No MD5 sum for {path} ({cause}): its clips are checked one by one (CRC) instead")
            return path
        try:
            if not path.exists():
                n_left = published.n_bytes - _size(part)
                _require_space(self.folder, n_left, f"downloading {archive.name}")
            return self._retrieve(published, path, part)
        except _FetchError as cause:
            raise self._failure(archive, cause) from cause

    def _failure(self, archive: Archive, cause: _FetchError) -> InputError:
        return InputError(
            f"{archive.name} could not be fetched from {self.base_url}: {cause}. Run this again "
            f"(it goes on where it stopped), or download it by hand from {self.base_url}/records/"
            f"{archive.record} into {self.folder}, or set root: in params.yaml to a folder that "
            "holds the clips"
        )

    def _published(self, archive: Archive) -> Published:
        if archive.record not in self.records:
            try:
                self.records[archive.record] = self._read_record(archive.record)
            except _FetchError as cause:  # ask for a record once, not once an archive
                self.records[archive.record] = cause
        record = self.records[archive.record]
        if isinstance(record, _FetchError):
            raise record
        if archive.name not in record:
            raise _FetchError(f"record {archive.record} has no such file")
        return record[archive.name]

    def _read_record(self, number: int) -> dict[str, Published]:
        url = f"{self.base_url}/api/records/{number}"

        def ask() -> dict[str, Published]:
            response = self.session.get(url, timeout=CONNECT_AND_READ_TIMEOUT_S)
            response.raise_for_status()
            return {
                file["key"]: Published(file["links"]["self"], file["checksum"], file["size"])
                for file in response.json()["files"]
            }

        try:
            return self._persist(f"record {number}", ask)
        except (KeyError, TypeError) as error:
            raise _FetchError(
                f"expected key, size, checksum and links.self of each file at {url}, {error!r}"
            ) from error

    def _retrieve(self, published: Published, path: Path, part: Path) -> Path:
        """Download to `path` unless a file of the right checksum is there."""

        def resume(url: str, output_file: str, _: None) -> None:
            with tqdm(
                total=published.n_bytes,
                initial=_size(part),
                desc=path.name,
                unit="B",
                unit_scale=True,
            ) as bar:
                attempt = partial(self._append, url, part, published.n_bytes, bar)
                self._persist(path.name, attempt, progress=partial(_size, part))
            part.replace(output_file)

        for attempts_left in (1, 0):
            try:
                pooch.retrieve(
                    published.url, published.checksum, path.name, self.folder, downloader=resume
                )
                break
            except ValueError as error:  # the checksum; pooch has deleted what came
                mismatch = str(error).partition(" Deleted")[0]
                if not attempts_left:
                    raise _FetchError(f"{mismatch} Two downloads were deleted") from error
                _say(f"{mismatch} It is deleted and downloaded again")
        return path

    def _append(self, url: str, part: Path, n_bytes: int, bar: "tqdm[Any]") -> None:
        n_have = _size(part)
        if n_have > n_bytes:
            part.unlink()
            n_have = 0
        bar.n = n_have
        bar.refresh()
        if n_have == n_bytes:
            return
        headers = {}
        if n_have:
            headers["Range"] = f"bytes={n_have}-"
            if url in self.etags:
                headers["If-Range"] = self.etags[url]
        with self.session.get(
            url, headers=headers, stream=True, timeout=CONNECT_AND_READ_TIMEOUT_S
        ) as response:
            served = response.headers.get("Content-Range", "")
            resumes = response.status_code == 206 and served.startswith(f"bytes {n_have}-")
            if response.status_code == 416 or (response.status_code == 206 and not resumes):
                part.unlink(missing_ok=True)
                raise requests.ConnectionError(f"asked for bytes from {n_have}, got {served!r}")
            response.raise_for_status()
            etag = response.headers.get("ETag", "W/")
            if not etag.startswith("W/"):  # a weak one does not vouch for equal bytes
                self.etags[url] = etag
            if not resumes:
                bar.reset()
            with part.open("ab" if resumes else "wb") as file:
                for chunk in response.iter_content(CHUNK_BYTES):
                    bar.update(file.write(chunk))
        if _size(part) < n_bytes:
            raise requests.ConnectionError(f"it ended after {_size(part)} of {n_bytes} bytes")

    def _persist(
        self, name: str, attempt: Callable[[], _T], progress: Callable[[], int] = lambda: 0
    ) -> _T:
        """Repeat `attempt` until it succeeds or fails too often without progress."""
        n_failures, furthest = 0, progress()
        while True:
            try:
                return attempt()
            except requests.RequestException as error:
                n_failures = 1 if progress() > furthest else n_failures + 1
                furthest = max(furthest, progress())
                cause = _cause(error)
                if n_failures == N_FRUITLESS_ATTEMPTS or not _may_pass(error):
                    raise _FetchError(cause) from error
                wait_s = _wait_s(error, n_failures)
            _say(f"{name}: {cause}; trying again in {wait_s:.0f} s")
            self.sleep(wait_s)


def _may_pass(error: requests.RequestException) -> bool:
    if error.response is not None:
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    dropped = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, dropped)


def _wait_s(error: requests.RequestException, n_failures: int) -> float:
    """What the server asks for, up to a limit; else 1, 2, 4, … seconds."""
    if error.response is not None and "Retry-After" in error.response.headers:
        with suppress(InvalidHeader):
            retry = Retry(retry_after_max=LONGEST_WAIT_S)
            return retry.parse_retry_after(error.response.headers["Retry-After"])
    return min(2.0 ** (n_failures - 1), LONGEST_WAIT_S)


def _cause(error: requests.RequestException) -> str:
    """The HTTP status, or the innermost reason of a chain of connection errors, in one line."""
    if error.response is not None:
        return f"HTTP {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.JSONDecodeError):
        return "expected a record in JSON, found something else (a login page of the network?)"
    reason: BaseException = error
    while inner := reason.__cause__ or reason.__context__:
        reason = inner
    text = (isinstance(reason, OSError) and reason.strerror) or str(reason)
    return " ".join(text.split()) or type(reason).__name__


def _require_space(folder: Path, n_bytes: int, purpose: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise InputError(
            f"{purpose} needs {n_bytes / 1e9:.2f} GB in {folder}, found {free / 1e9:.2f} GB free; "
            "free some space and run this again, or set root: in params.yaml to another disk"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _say(message: str) -> None:
    tqdm.write(message, file=sys.stderr)
