"""Where the clips of a data source lie, and what exactly is there."""

from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd
from pooch import file_hash
from tqdm import tqdm

from cfnsr import InputError
from cfnsr.data import download
from cfnsr.data.corpora import Corpus, Take, ravdess
from cfnsr.data.synthetic import recording
from cfnsr.params import Params, checkout_of


def provide(params: Params, repository: Path) -> Path:
    """Make sure that the data are there: use `root`, write the control, or download.

    Whoever reads clips calls this: DVC restores the stage `dataset` without them, be it after a
    change of parameters and back, or in the workspace of a queued experiment. That one uses the
    clips of the checkout that queued it, and downloads nothing again.

    Returns:
        The folder with the corpus's folders and `landmarks/`: `root`, or data/<source>.

    Raises:
        InputError: `root` is set but is no folder, the download failed, or the corpus has to be
            asked for.
    """
    corpus, named = params.corpus, params.source.root
    root = checkout_of(repository) / (named or Path("data", params.data))
    if named is not None:
        if not root.is_dir():
            raise InputError(
                f"{params.data}.root: {root} is no folder; expected the one that holds "
                f"{corpus.pattern} (or null to have the data made or downloaded)"
            )
    elif params.drawn is not None:
        # Drawn anew, which takes seconds: other experiments may ask for other clips meanwhile.
        root = repository / "data" / params.data
        recording.write_dataset(root, params.drawn)
    elif corpus is ravdess.CORPUS:
        download.fetch(download.archives(params.draws_landmarks), root)
    else:
        raise InputError(
            f"{corpus.name} cannot be downloaded from here: ask for it ({corpus.source}; "
            f"{corpus.licence}), and point {params.data}.root of params.yaml at the folder that "
            f"holds {corpus.pattern}"
        )
    return root


def manifest(root: Path, params: Params) -> pd.DataFrame:
    """List the media files of a data source with their landmarks and both files' sha256.

    Every name is listed, also those that preprocessing will reject. Folders and suffixes may be in
    any case and nested once more, as unpacking leaves them. Where there are no landmarks,
    `landmarks` is where they were looked for, and their hash is empty.

    Returns:
        Columns `media`, `landmarks` (paths below root), `media_sha256`, `landmarks_sha256`.

    Raises:
        InputError: no media file or no landmarks at all, or a file that cannot be read.
    """
    corpus = params.corpus
    suffixes = (".wav",) if params.draws_landmarks else corpus.suffixes
    # A file whose name says no take is rejected by preprocessing, with the reason.
    media = list(filter(corpus.uses, _files(root, corpus.folders, suffixes)))
    if not media:
        pattern = corpus.voices if params.draws_landmarks else corpus.pattern
        raise InputError(
            f"no clips in {root}: expected {pattern}; point {params.data}.root of params.yaml at "
            "the folder that holds them"
        )
    takes = [_take(path, corpus) for path in media]
    stems = [
        corpus.landmarks_name(take) if take else path.stem
        for path, take in zip(media, takes, strict=True)
    ]
    there = {path.stem: path for path in _files(root, "landmarks", (".csv",))}
    landmarks = [there.get(stem) for stem in stems]
    if corpus.has_landmarks and any(takes) and not any(landmarks):
        raise InputError(
            f"no landmarks of these clips in {root / 'landmarks'}: expected {stems[0]}.csv and so "
            "on; move the csv files of FacialTracking_Actors_01-24.zip there"
        )
    with ThreadPoolExecutor() as pool:
        files = [path for pair in zip(media, landmarks, strict=True) for path in pair]
        hashes = list(
            tqdm(pool.map(_sha256, files), "hash", len(files), unit="file", mininterval=2)
        )
    return pd.DataFrame(
        {
            "media": [str(path.relative_to(root)) for path in media],
            "landmarks": [
                str(path.relative_to(root)) if path else f"landmarks/{stem}.csv"
                for path, stem in zip(landmarks, stems, strict=True)
            ],
            "media_sha256": hashes[::2],
            "landmarks_sha256": hashes[1::2],
        }
    )


def lacking(manifest: pd.DataFrame, root: Path, corpus: Corpus) -> str:
    """Which of a corpus's takes a manifest lacks, as a sentence; empty if it has all known ones."""
    there = {take.clip for path in manifest["media"] if (take := _take(root / path, corpus))}
    absent = [take for take in corpus.takes if take.clip not in there]
    if not absent or not corpus.takes_are_known:
        return ""
    people = {take.actor for take in corpus.takes if take.clip in there}
    parts = []
    for actor in sorted(people):
        if clips := [take.clip for take in absent if take.actor == actor]:
            parts.append(f"{len(clips)} of actor {actor}, such as {clips[0]}")
    if whole := [str(actor) for actor in corpus.people if actor not in people]:
        parts.append(f"every take of actor {', '.join(whole)}")
    return f"{len(absent)} of {len(corpus.takes)} official takes are not there: {'; '.join(parts)}"


def write_manifest(table: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, lineterminator="\n")


def read_manifest(path: Path) -> pd.DataFrame:
    """Read what `write_manifest` wrote; an `InputError` where it does not exist."""
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run `dvc repro dataset`") from None


def _files(root: Path, folders: str, suffixes: tuple[str, ...]) -> list[Path]:
    """What lies in or below the folders of `root`, in any case, by folder and name."""
    found = [
        path
        for folder in ([root] if folders == "*" else root.iterdir())
        if fnmatch(folder.name.lower(), folders)
        for path in folder.rglob("*")
        # macOS leaves a ._ file beside each one.
        if path.suffix.lower() in suffixes and not path.name.startswith("._")
    ]
    return sorted(found, key=lambda path: (path.parent.name.lower(), path.name, path))


def _take(path: Path, corpus: Corpus) -> Take | None:
    try:
        return corpus.read(path)
    except InputError:
        return None


def _sha256(path: Path | None) -> str:
    if path is None or path.is_dir():  # preprocessing rejects it with the reason
        return ""
    try:
        return file_hash(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); mend it or move it away"
        ) from None
