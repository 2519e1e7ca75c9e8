"""Where the clips of a data source lie, and what exactly is there."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from pooch import file_hash
from tqdm import tqdm

from cfnsr.data import download
from cfnsr.data.corpora.ravdess import AUDIO_ONLY, AUDIO_VIDEO, parse_name
from cfnsr.data.synthetic import recording
from cfnsr.errors import InputError
from cfnsr.params import Params, Source, checkout_of


def _root_of(params: Params, repository: Path) -> Path:
    """The folder with `Actor_XX/` and `landmarks/`: `root` of params.yaml, or data/<source>.

    A queued experiment uses those of the checkout that queued it, and downloads nothing again. Only
    what is drawn, which takes seconds, it writes anew: others may ask for other clips meanwhile.
    """
    root = params.source.root
    if root is None and params.drawn is not None:
        return repository / "data" / params.data
    checkout = checkout_of(repository)
    return checkout / "data" / params.data if root is None else checkout / root.expanduser()


def provide(params: Params, repository: Path) -> Path:
    """Make sure that the data are there: use `root`, write the control, or download.

    Whoever reads clips calls this: DVC restores the stage `dataset` without them, be it after a
    change of parameters and back, or in the workspace of a queued experiment.

    Returns:
        The folder that holds them.

    Raises:
        InputError: `root` is set but is no folder, or the download failed.
    """
    root = _root_of(params, repository)
    if params.source.root is not None:
        if not root.is_dir():
            raise InputError(
                f"{params.data}.root: {root} is no folder; expected the one that holds Actor_01 "
                "to Actor_24 and landmarks (or null to have the data made or downloaded)"
            )
    elif params.data == "ravdess" or params.data == "ravdess_landmarks":
        download.fetch(download.archives(params.data), root)
    elif params.drawn is not None:
        recording.write_dataset(root, params.drawn)
    return root


def manifest(root: Path, source: Source) -> pd.DataFrame:
    """List the media files of a source with their landmarks and both files' sha256.

    Every name is listed, also those that preprocessing will reject. `landmarks` and its hash are
    empty where there is no such file.

    Returns:
        Columns `media`, `landmarks` (paths below root), `media_sha256`, `landmarks_sha256`.

    Raises:
        InputError: no media file at all, or one that cannot be read.
    """
    media = list(_media(root, source))
    if not media:
        pattern = "Actor_*/03-*.wav" if source == "ravdess_landmarks" else "Actor_*/01-*.mp4"
        raise InputError(
            f"no clips in {root}: expected {pattern}; point {source}.root of params.yaml at the "
            "folder that holds Actor_01 to Actor_24"
        )
    landmarks = [_landmarks_of(path, root) for path in media]
    with ThreadPoolExecutor() as pool:
        files = [path for pair in zip(media, landmarks, strict=True) for path in pair]
        hashes = list(
            tqdm(pool.map(_sha256, files), "hash", len(files), unit="file", mininterval=2)
        )
    return pd.DataFrame(
        {
            "media": [str(path.relative_to(root)) for path in media],
            "landmarks": [str(path.relative_to(root)) if path else "" for path in landmarks],
            "media_sha256": hashes[::2],
            "landmarks_sha256": hashes[1::2],
        }
    )


def write_manifest(table: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, lineterminator="\n")


def read_manifest(path: Path) -> pd.DataFrame:
    """Read what `write_manifest` wrote.

    Raises:
        InputError: it does not exist.
    """
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run `dvc repro dataset`") from None


def _media(root: Path, source: Source) -> Iterator[Path]:
    """Files of the source's modality, and files whose name says nothing, in name order."""
    modality = AUDIO_ONLY if source == "ravdess_landmarks" else AUDIO_VIDEO
    suffix = ".wav" if source == "ravdess_landmarks" else ".mp4"
    for path in sorted(root.glob(f"Actor_*/*{suffix}")):
        try:
            if parse_name(path.stem).modality != modality:
                continue  # the video archives also hold 02- files, without sound
        except InputError:
            pass  # preprocessing rejects it with the reason
        yield path


def _landmarks_of(media: Path, root: Path) -> Path | None:
    """Landmarks carry the name of the take's audio-video file, whatever the media file is."""
    try:
        stem = parse_name(media.stem).stem(AUDIO_VIDEO)
    except InputError:
        return None
    path = root / "landmarks" / f"{stem}.csv"
    return path if path.is_file() else None


def _sha256(path: Path | None) -> str:
    if path is None or path.is_dir():  # preprocessing rejects it with the reason
        return ""
    try:
        return file_hash(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); mend it or move it away"
        ) from None
