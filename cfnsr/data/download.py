"""Fetches and checks the official RAVDESS archives (Zenodo records 1188976 and 3255102).

root/Actor_XX/01-01-*.mp4    audio-video speech clips (source `ravdess`)
root/Actor_XX/03-01-*.wav    audio-only speech clips (source `ravdess_landmarks`)
root/landmarks/01-01-*.csv   their tracked landmarks (both sources)
root/archives/               what is on its way; empty again, and removed, at the end

RAVDESS speech is a full grid of 60 takes an actor, so the clips themselves say what is still
missing: no record of finished archives is kept that could disagree with them. An interrupted
download starts with the next call at the archive where it stopped, from its first byte.
"""

import re
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pooch
import requests
from pydantic import AliasPath, BaseModel, Field, ValidationError
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from cfnsr import InputError
from cfnsr.data.corpora.ravdess import AUDIO_ONLY, AUDIO_VIDEO, CORPUS, stem
from cfnsr.data.files import replacing, writing

ZENODO = "https://zenodo.org"
CLIPS_RECORD = 1188976
LANDMARKS_RECORD = 3255102

HEADERS = {"User-Agent": f"cfnsr/{version('cfnsr')} (+reproducing CFN-SR)"}
N_RETRIES = 5
LONGEST_WAIT_S = 120
TIMEOUT_S = (15, 60)  # to connect, to read


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
            for take in CORPUS.takes
            if take.actor in self.actors
            for name in [stem(take, self.modality) + self.suffix]
        }

    def is_unpacked(self, root: Path) -> bool:
        """Whether all the files are under the root, none of them empty."""
        return all(_size(root / file) > 0 for file in self.files.values())


class Published(BaseModel):
    """What Zenodo says of an archive."""

    name: str = Field(alias="key")
    checksum: str = Field(pattern="^md5:[0-9a-f]{32}$")
    n_bytes: int = Field(alias="size", ge=0)
    url: str = Field(validation_alias=AliasPath("links", "self"))


class _Record(BaseModel):
    files: list[Published]


def archives(without_films: bool) -> list[Archive]:
    """The official archives of RAVDESS's films or sounds, in the order of fetching."""
    everyone = CORPUS.people
    tracking, voices = "FacialTracking_Actors_01-24.zip", "Audio_Speech_Actors_01-24.zip"
    landmarks = Archive(tracking, LANDMARKS_RECORD, everyone, AUDIO_VIDEO, ".csv", "landmarks")
    if without_films:
        return [landmarks, Archive(voices, CLIPS_RECORD, everyone, AUDIO_ONLY, ".wav")]
    videos = ((actor, f"Video_Speech_Actor_{actor:02d}.zip") for actor in everyone)
    return [
        landmarks,
        *(Archive(name, CLIPS_RECORD, (actor,), AUDIO_VIDEO, ".mp4") for actor, name in videos),
    ]


def fetch(wanted: Sequence[Archive], root: Path, *, base_url: str = ZENODO) -> None:
    """Download, check and unpack the archives whose files are not all under `root`.

    When everything is there, the network is asked nothing. An archive that lies in
    `root/archives` already is checked and used, without a connection by the CRC of its clips
    alone; it is deleted once its files are out, so that nothing is stored twice.

    Raises:
        InputError: no connection, wrong checksum, damaged or incomplete archive, full disk; one
            line, with the remedy.
    """
    pending = [archive for archive in wanted if not archive.is_unpacked(root)]
    if not pending:
        return
    folder = root / "archives"
    with writing(root):
        folder.mkdir(parents=True, exist_ok=True)
        missing = [archive for archive in pending if not (folder / archive.name).exists()]
        try:
            published = read_records({archive.record for archive in pending}, base_url)
        except requests.RequestException as error:
            if missing:
                raise _failure(missing[0], folder, base_url, error) from error
            published = {}
        for archive in pending:
            path = folder / archive.name
            if published:
                _download(archive, published, path, base_url)
            unpack(archive, path, root)
            path.unlink()
        with suppress(OSError):  # the user keeps something else there
            folder.rmdir()


def read_records(records: Iterable[int], base_url: str) -> dict[str, Published]:
    """The archives of some Zenodo records, by name.

    Raises:
        requests.RequestException: no answer, or none that describes files.
    """
    retry = Retry(
        N_RETRIES,
        backoff_factor=1,
        status_forcelist=(429, 500, 502, 503, 504),
        retry_after_max=LONGEST_WAIT_S,
    )
    published: dict[str, Published] = {}
    with requests.Session() as session:
        session.mount(base_url, HTTPAdapter(max_retries=retry))
        for record in records:
            url = f"{base_url}/api/records/{record}"
            response = session.get(url, headers=HEADERS, timeout=TIMEOUT_S)
            response.raise_for_status()
            try:
                files = _Record.model_validate_json(response.content).files
            except ValidationError as error:
                raise requests.RequestException(f"expected a record's files at {url}") from error
            published |= {file.name: file for file in files}
    return published


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
            absent = [name for name in files if name not in by_name or by_name[name].file_size == 0]
            if absent:
                raise InputError(
                    f"{path} is incomplete: expected {len(files)} files such as {absent[0]}, "
                    f"found {len(files) - len(absent)} that are not empty; delete it and run this "
                    "again"
                )
            todo = {
                by_name[name]: root / file
                for name, file in files.items()
                if _size(root / file) != by_name[name].file_size
            }
            for info, target in tqdm(todo.items(), f"unpacking {archive.name}", leave=False):
                with (
                    replacing(target, info.file_size) as unfinished,
                    members.open(info) as packed,
                    unfinished.open("wb") as file,
                ):
                    shutil.copyfileobj(packed, file)
    # RuntimeError: encrypted; NotImplementedError: a compression that RAVDESS does not use.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InputError(
            f"{path} is damaged ({' '.join(str(error).split())}); delete it and run this again, "
            "or download it by hand once more"
        ) from error


def _download(archive: Archive, published: dict[str, Published], path: Path, base_url: str) -> None:
    """Download an archive unless a file of the right checksum is at `path`."""
    folder = path.parent
    if archive.name not in published:
        raise _failure(archive, folder, base_url, "the record has no such file")
    wanted = published[archive.name]
    free = shutil.disk_usage(folder).free
    if not path.exists() and free < wanted.n_bytes:
        raise InputError(
            f"downloading {archive.name} needs {wanted.n_bytes / 1e9:.2f} GB in {folder}, found "
            f"{free / 1e9:.2f} GB free; free some space and run this again, or set root: in "
            "params.yaml to another disk"
        )
    registry, urls = {wanted.name: wanted.checksum}, {wanted.name: wanted.url}
    files = pooch.create(folder, base_url, registry=registry, urls=urls, retry_if_failed=N_RETRIES)
    try:
        files.fetch(archive.name, downloader=partial(_stream, n_bytes=wanted.n_bytes))
    except (requests.RequestException, ValueError) as error:  # ValueError: other bytes than wanted
        raise _failure(archive, folder, base_url, error) from error


def _stream(url: str, path: str, files: pooch.Pooch, *, n_bytes: int) -> None:
    """For pooch: write what comes from `url`, and no more than was announced."""
    with (
        requests.get(url, headers=HEADERS, timeout=TIMEOUT_S, stream=True) as response,
        Path(path).open("wb") as file,
        tqdm(total=n_bytes, unit="B", unit_scale=True) as progress,
    ):
        response.raise_for_status()
        for chunk in response.iter_content(1 << 16):
            progress.update(file.write(chunk))
            if file.tell() > n_bytes:
                raise ValueError(f"more came than the announced {n_bytes} bytes")


def _failure(archive: Archive, folder: Path, base_url: str, cause: Exception | str) -> InputError:
    words = " ".join(str(cause).split())
    return InputError(
        f"{archive.name} of {base_url}/records/{archive.record} could not be fetched: {words}; run "
        f"this again, download it by hand into {folder}, or set root: in params.yaml to a folder "
        "that holds the clips"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
