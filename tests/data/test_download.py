"""The official download, against a loopback server that imitates Zenodo and its bad days."""

import hashlib
import io
import json
import random
import shutil
import socket
import struct
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cfnsr import InputError
from cfnsr.data.download import (
    CLIPS_RECORD,
    LANDMARKS_RECORD,
    LONGEST_WAIT_S,
    N_RETRIES,
    Archive,
    archives,
    fetch,
    unpack,
)
from cfnsr.data.files import writing

VIDEO = Archive("Video_Speech_Actor_05.zip", CLIPS_RECORD, (5,), modality=1, suffix=".mp4")


@dataclass
class Request:
    path: str
    user_agent: str | None


@dataclass
class Fault:
    """What the server does to one request instead of answering it well."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    n_bytes: int | None = None  # the body ends here, whatever Content-Length says
    reset: bool = False  # … by a TCP reset instead of an orderly close
    body: bytes | None = None


@dataclass
class Endless:
    """A body that goes on until the reader has had enough."""

    n_bytes: int = 0

    def send(self, file: Any) -> None:
        with suppress(OSError):
            while True:
                self.n_bytes += file.write(bytes(1 << 16))


class Zenodo:
    """Files by record and name, faults by name (the record's API: `api`), and what was asked."""

    def __init__(self) -> None:
        self.files: dict[int, dict[str, bytes]] = {CLIPS_RECORD: {}, LANDMARKS_RECORD: {}}
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[Request] = []
        self.endless: Endless | None = None
        zenodo = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                zenodo.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        serve = partial(self.server.serve_forever, poll_interval=0.01)
        threading.Thread(target=serve, daemon=True).start()

    def publish(self, archive: Archive, content: bytes) -> None:
        self.files[archive.record][archive.name] = content

    @property
    def file_requests(self) -> list[Request]:
        return [request for request in self.requests if request.path.endswith("/content")]

    def answer(self, http: BaseHTTPRequestHandler) -> None:
        self.requests.append(Request(http.path, http.headers["User-Agent"]))
        parts = http.path.split("/")  # '', api, records, number[, files, name, content]
        files = self.files[int(parts[3])]
        name = parts[5] if len(parts) > 4 else "api"
        body = files[name] if name != "api" else self._record(int(parts[3]))
        faults = self.faults.get(name, [])
        fault = faults.pop(0) if faults else Fault()
        if fault.body is not None:
            body = fault.body
        if fault.status >= 400:
            body = b""
        if name != "api" and self.endless is not None:
            http.send_response(200)
            http.end_headers()
            self.endless.send(http.wfile)
            return
        http.send_response(fault.status)
        http.send_header("Content-Length", str(len(body)))
        for key, value in fault.headers.items():
            http.send_header(key, value)
        http.end_headers()
        http.wfile.write(body[: fault.n_bytes])
        if fault.reset:
            http.wfile.flush()
            time.sleep(0.1)  # let the bytes arrive: a reset discards what was not read
            linger = struct.pack("ii", 1, 0)
            http.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            http.connection.close()

    def _record(self, number: int) -> bytes:
        files = [
            {
                "key": name,
                "size": len(content),
                "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
                "links": {"self": f"{self.url}/api/records/{number}/files/{name}/content"},
            }
            for name, content in self.files[number].items()
        ]
        return json.dumps({"id": number, "files": files}).encode()


@pytest.fixture
def zenodo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zenodo]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Zenodo()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture(autouse=True)
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long pooch and urllib3 would have waited, in seconds."""
    waited: list[float] = []
    clock = SimpleNamespace(sleep=waited.append, time=time.time, monotonic=time.monotonic)
    monkeypatch.setattr("pooch.core.time", clock)
    monkeypatch.setattr("urllib3.util.retry.time", clock)
    return waited


@pytest.fixture
def get(zenodo: Zenodo, tmp_path: Path) -> Any:
    """Fetch archives (by default the one of actor 5) from the loopback server."""

    def run(*wanted: Archive) -> None:
        fetch(wanted or [VIDEO], tmp_path, base_url=zenodo.url)

    return run


def content_of(name: str, n_bytes: int = 5_000) -> bytes:
    """What a file holds: noise that its name determines."""
    return random.Random(name).randbytes(n_bytes)


def build_zip(archive: Archive, prefix: str = "Actor_05/", n_bytes: int = 5_000) -> bytes:
    """The archive as published: its files, stored, and the video-only or song takes beside them."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as members:
        for name in archive.files:
            unused = f"02{name[2:]}" if archive.suffix == ".mp4" else f"01-02{name[5:]}"
            members.writestr(prefix + name, content_of(name, n_bytes))
            members.writestr(prefix + unused, content_of(unused, 10))
    return memory.getvalue()


def assert_complete(root: Path, archive: Archive = VIDEO, n_bytes: int = 5_000) -> None:
    for name, file in archive.files.items():
        assert (root / file).read_bytes() == content_of(name, n_bytes)


def files_under(root: Path) -> set[Path]:
    return {path.relative_to(root) for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def published(zenodo: Zenodo) -> bytes:
    content = build_zip(VIDEO)
    zenodo.publish(VIDEO, content)
    return content


def test_the_official_sources_name_the_official_archives() -> None:
    videos = [f"Video_Speech_Actor_{actor:02d}.zip" for actor in range(1, 25)]
    tracking = "FacialTracking_Actors_01-24.zip"
    assert {archive.name for archive in archives(without_films=False)} == {tracking, *videos}
    assert {archive.name for archive in archives(without_films=True)} == {
        tracking,
        "Audio_Speech_Actors_01-24.zip",
    }
    for without_films in (False, True):
        for archive in archives(without_films):
            assert len(archive.files) == 60 * len(archive.actors)
            is_tracking = archive.name == tracking
            assert archive.record == (LANDMARKS_RECORD if is_tracking else CLIPS_RECORD)


@pytest.mark.parametrize(
    ("without_films", "clip"),
    [
        (False, "Actor_24/01-01-08-02-02-02-24.mp4"),
        (True, "Actor_24/03-01-08-02-02-02-24.wav"),
    ],
)
def test_a_source_is_laid_out_whole_and_a_second_call_asks_nothing(
    zenodo: Zenodo, tmp_path: Path, without_films: bool, clip: str
) -> None:
    wanted = archives(without_films)
    for archive in wanted:
        zenodo.publish(archive, build_zip(archive, prefix="", n_bytes=8))
    fetch(wanted, tmp_path, base_url=zenodo.url)
    expected = {file for archive in wanted for file in archive.files.values()}
    assert files_under(tmp_path) == expected
    assert {Path(clip), Path("landmarks/01-01-08-02-02-02-24.csv")} < expected
    assert len(expected) == 2 * 24 * 60
    assert not (tmp_path / "archives").exists()
    n_requests = len(zenodo.requests)
    assert n_requests == 2 + len(wanted)  # two records, each archive once
    fetch(wanted, tmp_path, base_url=zenodo.url)
    assert len(zenodo.requests) == n_requests


@pytest.mark.parametrize("prefix", ["", "Actor_05/", "Video_Speech/Actor_05/", "Actor_05\\"])
def test_any_folder_inside_the_zip_gives_the_same_layout(
    zenodo: Zenodo, tmp_path: Path, get: Any, prefix: str
) -> None:
    zenodo.publish(VIDEO, build_zip(VIDEO, prefix))
    get()
    assert_complete(tmp_path)
    assert files_under(tmp_path) == set(VIDEO.files.values())


@pytest.mark.usefixtures("published")
def test_video_only_takes_stay_in_the_zip(tmp_path: Path, get: Any) -> None:
    get()
    assert not list(tmp_path.rglob("02-*"))


@pytest.mark.usefixtures("published")
def test_every_request_names_this_project(zenodo: Zenodo, get: Any) -> None:
    get()
    agents = {request.user_agent for request in zenodo.requests}
    assert len(agents) == 1
    assert str(agents.pop()).startswith("cfnsr/")


def test_a_record_without_the_archive_is_named(zenodo: Zenodo, get: Any) -> None:
    zenodo.publish(Archive("other.zip", CLIPS_RECORD, (1,), 1, ".mp4"), b"")
    with pytest.raises(InputError, match=f"records/{CLIPS_RECORD} .* no such file"):
        get()


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    "fault",
    [Fault(n_bytes=200_000), Fault(n_bytes=200_000, reset=True), Fault(500), Fault(429)],
    ids=["dropped", "reset", "HTTP 500", "HTTP 429"],
)
def test_a_download_that_fails_is_tried_again(
    zenodo: Zenodo, tmp_path: Path, get: Any, sleeps: list[float], fault: Fault
) -> None:
    zenodo.faults[VIDEO.name] = [fault, fault]
    get()
    assert_complete(tmp_path)
    assert len(zenodo.file_requests) == 3
    assert sleeps == [1, 2]
    assert files_under(tmp_path) == set(VIDEO.files.values())


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("retry_after", "wait_s"), [("7", 7), ("86400", LONGEST_WAIT_S)])
def test_a_record_is_asked_for_again_when_zenodo_says(
    zenodo: Zenodo,
    tmp_path: Path,
    get: Any,
    sleeps: list[float],
    status: int,
    retry_after: str,
    wait_s: float,
) -> None:
    zenodo.faults["api"] = [Fault(status, {"Retry-After": retry_after})]
    get()
    assert_complete(tmp_path)
    assert sleeps == [wait_s]


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("name", [VIDEO.name, "api"])
def test_a_server_that_never_recovers_is_given_up(zenodo: Zenodo, get: Any, name: str) -> None:
    zenodo.faults[name] = [Fault(500) for _ in range(100)]
    with pytest.raises(InputError, match=rf"^{VIDEO.name} .*500.* by hand"):
        get()
    assert len(zenodo.faults[name]) == 100 - (1 + N_RETRIES)


def described(**changes: Any) -> bytes:
    """A record of one file, as Zenodo describes it but for the changes."""
    file = {
        "key": VIDEO.name,
        "size": 3,
        "checksum": f"md5:{32 * '0'}",
        "links": {"self": "http://127.0.0.1/a"},
    }
    return json.dumps({"files": [file | changes]}).encode()


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>Sign in",
        b"[]",
        b"3",
        b'{"files": {"key": 1}}',
        b'{"files": [{}]}',
        b"[" * 100_000,
        described(size="many"),
        described(size=-1),
        described(size=1e400),
        described(checksum=None),
        described(checksum="md5:abc"),
        described(checksum=f"crc:{32 * '0'}"),
        described(links=[]),
        described(links={"self": None}),
        described(key=[]),
    ],
)
def test_an_answer_that_is_no_record_is_an_input_error(
    zenodo: Zenodo, get: Any, answer: bytes
) -> None:
    zenodo.faults["api"] = [Fault(body=answer)]
    with pytest.raises(InputError, match=f"{VIDEO.name} .* could not be fetched: expected a"):
        get()


@pytest.mark.usefixtures("published")
def test_a_body_longer_than_announced_is_cut_off(
    zenodo: Zenodo, tmp_path: Path, get: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless()
    monkeypatch.setattr(zenodo, "endless", endless)
    with pytest.raises(InputError, match=r"more came than the announced \d+ bytes"):
        get()
    n_announced = len(zenodo.files[CLIPS_RECORD][VIDEO.name])
    assert endless.n_bytes < (1 + N_RETRIES) * (n_announced + 20_000_000)
    assert not files_under(tmp_path)


def test_a_corrupted_download_is_replaced(
    zenodo: Zenodo, tmp_path: Path, get: Any, published: bytes
) -> None:
    zenodo.faults[VIDEO.name] = [Fault(body=published[:-1000] + bytes(1) + published[-999:])]
    get()
    assert_complete(tmp_path)
    assert len(zenodo.file_requests) == 2


def test_downloads_that_are_all_corrupted_are_deleted_and_reported(
    zenodo: Zenodo, tmp_path: Path, get: Any, published: bytes
) -> None:
    corrupted = bytes(len(published))
    zenodo.faults[VIDEO.name] = [Fault(body=corrupted) for _ in range(1 + N_RETRIES)]
    with pytest.raises(InputError) as caught:
        get()
    message = str(caught.value)
    assert hashlib.md5(published).hexdigest() in message
    assert hashlib.md5(corrupted).hexdigest() in message
    assert "by hand" in message
    assert "\n" not in message
    assert not files_under(tmp_path)


@pytest.fixture
def nowhere() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_an_unreachable_host_is_one_line_that_names_the_remedies(
    tmp_path: Path, nowhere: str
) -> None:
    with pytest.raises(InputError) as caught:
        fetch([VIDEO], tmp_path, base_url=nowhere)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(
        f"{VIDEO.name} of {nowhere}/records/{CLIPS_RECORD} could not be fetched"
    )
    assert "Connection refused" in message
    assert str(tmp_path / "archives") in message
    assert "root: in params.yaml" in message


def test_an_archive_downloaded_by_hand_is_checked_and_used(
    zenodo: Zenodo, tmp_path: Path, get: Any, published: bytes
) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / VIDEO.name).write_bytes(published)
    get()
    assert_complete(tmp_path)
    assert not zenodo.file_requests
    assert not (tmp_path / "archives").exists()


def test_a_wrong_archive_downloaded_by_hand_is_replaced(
    zenodo: Zenodo, tmp_path: Path, get: Any, published: bytes
) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / VIDEO.name).write_bytes(published[:-5])
    get()
    assert_complete(tmp_path)
    assert len(zenodo.file_requests) == 1


def test_an_archive_downloaded_by_hand_is_used_without_a_connection(
    tmp_path: Path, nowhere: str
) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / VIDEO.name).write_bytes(build_zip(VIDEO))
    fetch([VIDEO], tmp_path, base_url=nowhere)
    assert_complete(tmp_path)


def test_the_archive_that_is_missing_is_named_when_another_was_put_there_by_hand(
    tmp_path: Path, nowhere: str
) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / VIDEO.name).write_bytes(build_zip(VIDEO))
    other = Archive("Video_Speech_Actor_06.zip", CLIPS_RECORD, (6,), 1, ".mp4")
    with pytest.raises(InputError, match=f"^{other.name}"):
        fetch([VIDEO, other], tmp_path, base_url=nowhere)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no zip"])
def test_a_damaged_zip_is_an_input_error(tmp_path: Path, nowhere: str, damage: str) -> None:
    content = build_zip(VIDEO)
    damaged = {
        "truncated": content[:-200],
        "flipped": content[:2000] + bytes([content[2000] ^ 1]) + content[2001:],
        "no zip": b"<html>",
    }[damage]
    path = tmp_path / "archives" / VIDEO.name
    path.parent.mkdir()
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"is damaged .* delete it"):
        fetch([VIDEO], tmp_path, base_url=nowhere)
    assert files_under(tmp_path) == {Path("archives", VIDEO.name)}


def test_a_file_that_a_disk_does_not_take_leaves_nothing_on_it(
    tmp_path: Path, bad_disk: tuple[Path, str]
) -> None:
    folder, answer = bad_disk
    path = tmp_path / VIDEO.name
    path.write_bytes(build_zip(VIDEO, n_bytes=10_000))
    with pytest.raises(InputError, match=f"cannot be written: {answer}"), writing(folder):
        unpack(VIDEO, path, folder)
    assert not list(folder.rglob("*.part"))


def test_an_incomplete_zip_is_an_input_error(zenodo: Zenodo, get: Any) -> None:
    both = Archive(VIDEO.name, CLIPS_RECORD, (5, 6), 1, ".mp4")
    zenodo.publish(VIDEO, build_zip(VIDEO))
    with pytest.raises(InputError, match=r"expected 120 files such as 01-.*-06.mp4, found 60 that"):
        get(both)


def test_a_zip_of_empty_files_is_an_input_error(zenodo: Zenodo, tmp_path: Path, get: Any) -> None:
    zenodo.publish(VIDEO, build_zip(VIDEO, n_bytes=0))
    with pytest.raises(InputError, match=r"expected 60 files .*, found 0 that are not empty"):
        get()
    assert not list(tmp_path.rglob("*.mp4"))


@pytest.mark.usefixtures("published")
def test_an_interrupted_unpacking_is_continued(
    zenodo: Zenodo, tmp_path: Path, get: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_copied = 0

    def interrupted(source: Any, target: Any) -> None:
        nonlocal n_copied
        target.write(source.read(100 if n_copied == 10 else -1))
        if n_copied == 10:
            raise KeyboardInterrupt
        n_copied += 1

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            get()
    finished = {path: path.stat().st_ino for path in tmp_path.rglob("*.mp4")}
    assert len(finished) == 10
    get()
    assert_complete(tmp_path)
    assert files_under(tmp_path) == set(VIDEO.files.values())
    assert {path: path.stat().st_ino for path in finished} == finished
    assert len(zenodo.file_requests) == 1


@pytest.mark.parametrize("prefix", ["../../", "/tmp/cfnsr_escaped/", "..\\..\\"])
def test_a_path_inside_the_zip_cannot_lead_outside(
    zenodo: Zenodo, tmp_path: Path, prefix: str
) -> None:
    zenodo.publish(VIDEO, build_zip(VIDEO, prefix, n_bytes=50))
    root = tmp_path / "a" / "b"
    fetch([VIDEO], root, base_url=zenodo.url)
    assert {tmp_path / path for path in files_under(tmp_path)} == {
        root / file for file in VIDEO.files.values()
    }
    assert not Path("/tmp/cfnsr_escaped").exists()


@pytest.mark.usefixtures("published")
def test_a_lost_clip_is_fetched_again(zenodo: Zenodo, tmp_path: Path, get: Any) -> None:
    get()
    lost = next(tmp_path.rglob("*.mp4"))
    lost.unlink()
    get()
    assert_complete(tmp_path)
    assert len(zenodo.file_requests) == 2


@pytest.mark.usefixtures("published")
def test_a_full_disk_is_noticed_before_the_download(
    zenodo: Zenodo, get: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=rf"downloading {VIDEO.name} needs .* free"):
        get()
    assert not zenodo.file_requests


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        fetch([VIDEO], tmp_path / "file" / "root")
