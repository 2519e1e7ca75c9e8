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
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cfnsr.data import download
from cfnsr.data.download import (
    CHUNK_BYTES,
    CLIPS_RECORD,
    LANDMARKS_RECORD,
    LONGEST_WAIT_S,
    N_FRUITLESS_ATTEMPTS,
    Archive,
    archives,
    fetch,
)
from cfnsr.errors import InputError

VIDEO = Archive("Video_Speech_Actor_05.zip", CLIPS_RECORD, (5,), modality=1, suffix=".mp4")
ETAG = '"fixed"'


@dataclass
class Request:
    path: str
    range: str | None
    if_range: str | None
    user_agent: str | None


@dataclass
class Fault:
    """What the server does to one request instead of answering it well."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    n_bytes: int | None = None  # the body ends here, whatever Content-Length says
    reset: bool = False  # … by a TCP reset instead of an orderly close
    claims: int | None = None  # Content-Length
    ignores_range: bool = False
    body: bytes | None = None


class Zenodo:
    """Files by record and name, faults by name (the record's API: `api`), and what was asked."""

    def __init__(self) -> None:
        self.files: dict[int, dict[str, bytes]] = {CLIPS_RECORD: {}, LANDMARKS_RECORD: {}}
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[Request] = []
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
        headers = http.headers
        self.requests.append(
            Request(http.path, headers["Range"], headers["If-Range"], headers["User-Agent"])
        )
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
        status, start = fault.status, 0
        if headers["Range"] and not fault.ignores_range and status == 200:
            status, start = 206, int(headers["Range"].removeprefix("bytes=").removesuffix("-"))
        http.send_response(status)
        if status == 206:
            http.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        http.send_header("ETag", ETAG)
        claimed = len(body) - start if fault.claims is None else fault.claims
        http.send_header("Content-Length", str(claimed))
        for key, value in fault.headers.items():
            http.send_header(key, value)
        http.end_headers()
        http.wfile.write(body[start:][: fault.n_bytes])
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


@pytest.fixture
def sleeps() -> list[float]:
    return []


@pytest.fixture
def get(zenodo: Zenodo, tmp_path: Path, sleeps: list[float]) -> Any:
    """Fetch archives (by default the one of actor 5) from the loopback server."""

    def run(*wanted: Archive) -> None:
        fetch(wanted or [VIDEO], tmp_path, base_url=zenodo.url, sleep=sleeps.append)

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
    assert {archive.name for archive in archives("ravdess")} == {tracking, *videos}
    assert {archive.name for archive in archives("ravdess_landmarks")} == {
        tracking,
        "Audio_Speech_Actors_01-24.zip",
    }
    for source in ("ravdess", "ravdess_landmarks"):
        for archive in archives(source):
            assert len(archive.files) == 60 * len(archive.actors)
            is_tracking = archive.name == tracking
            assert archive.record == (LANDMARKS_RECORD if is_tracking else CLIPS_RECORD)


@pytest.mark.parametrize(
    ("source", "clip"),
    [
        ("ravdess", "Actor_24/01-01-08-02-02-02-24.mp4"),
        ("ravdess_landmarks", "Actor_24/03-01-08-02-02-02-24.wav"),
    ],
)
def test_a_source_is_laid_out_whole_and_a_second_call_asks_nothing(
    zenodo: Zenodo, tmp_path: Path, source: Any, clip: str
) -> None:
    for archive in archives(source):
        zenodo.publish(archive, build_zip(archive, prefix="", n_bytes=8))
    fetch(archives(source), tmp_path, base_url=zenodo.url)
    expected = {file for archive in archives(source) for file in archive.files.values()}
    assert files_under(tmp_path) == expected
    assert {Path(clip), Path("landmarks/01-01-08-02-02-02-24.csv")} < expected
    assert len(expected) == 2 * 24 * 60
    assert not (tmp_path / "archives").exists()
    n_requests = len(zenodo.requests)
    assert n_requests == 2 + len(archives(source))  # two records, each archive once
    fetch(archives(source), tmp_path, base_url=zenodo.url)
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


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("reset", [False, True])
def test_a_dropped_connection_resumes_where_it_stopped(
    zenodo: Zenodo, tmp_path: Path, get: Any, sleeps: list[float], reset: bool
) -> None:
    n_sent = 3 * CHUNK_BYTES + 100
    zenodo.faults[VIDEO.name] = [Fault(n_bytes=n_sent, reset=reset)]
    get()
    assert_complete(tmp_path)
    first, second = zenodo.file_requests
    assert first.range is None
    assert second.range == f"bytes={3 * CHUNK_BYTES}-"
    assert second.if_range == ETAG
    assert sleeps == [1]


def test_a_body_shorter_than_the_archive_is_continued(
    zenodo: Zenodo, tmp_path: Path, get: Any, published: bytes
) -> None:
    zenodo.faults[VIDEO.name] = [Fault(n_bytes=200_000, claims=200_000)]
    get()
    assert_complete(tmp_path)
    assert [request.range for request in zenodo.file_requests] == [None, "bytes=200000-"]


def test_a_killed_download_is_continued_by_the_next_call(
    zenodo: Zenodo, tmp_path: Path, get: Any, published: bytes
) -> None:
    part = tmp_path / "archives" / f"{VIDEO.name}.part"
    part.parent.mkdir()
    part.write_bytes(published[:123_456])
    get()
    assert_complete(tmp_path)
    assert [request.range for request in zenodo.file_requests] == ["bytes=123456-"]


def test_a_whole_part_file_is_not_asked_for_again(
    zenodo: Zenodo, tmp_path: Path, get: Any, published: bytes
) -> None:
    part = tmp_path / "archives" / f"{VIDEO.name}.part"
    part.parent.mkdir()
    part.write_bytes(published)
    get()
    assert_complete(tmp_path)
    assert not zenodo.file_requests


@pytest.mark.usefixtures("published")
def test_a_server_that_ignores_ranges_starts_over(zenodo: Zenodo, tmp_path: Path, get: Any) -> None:
    zenodo.faults[VIDEO.name] = [Fault(n_bytes=150_000), Fault(ignores_range=True)]
    get()
    assert_complete(tmp_path)
    assert len(zenodo.file_requests) == 2


@pytest.mark.usefixtures("published")
def test_a_range_that_is_not_the_one_asked_for_starts_over(
    zenodo: Zenodo, tmp_path: Path, get: Any
) -> None:
    wrong = Fault(status=206, headers={"Content-Range": "bytes 0-9/10"}, ignores_range=True)
    zenodo.faults[VIDEO.name] = [Fault(n_bytes=150_000), wrong, Fault(status=416)]
    get()
    assert_complete(tmp_path)
    assert zenodo.file_requests[-1].range is None


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("retry_after", "wait_s"), [("7", 7), ("86400", LONGEST_WAIT_S), ("soon", 1), (None, 1)]
)
def test_too_many_requests_waits_as_long_as_told(
    zenodo: Zenodo,
    tmp_path: Path,
    get: Any,
    sleeps: list[float],
    retry_after: str | None,
    wait_s: float,
) -> None:
    headers = {"Retry-After": retry_after} if retry_after else {}
    zenodo.faults[VIDEO.name] = [Fault(status=429, headers=headers)]
    get()
    assert_complete(tmp_path)
    assert sleeps == [wait_s]


@pytest.mark.usefixtures("published")
def test_retry_after_may_be_a_date(zenodo: Zenodo, get: Any, sleeps: list[float]) -> None:
    date = formatdate(time.time() + 60, usegmt=True)
    zenodo.faults["api"] = [Fault(status=429, headers={"Retry-After": date})]
    get()
    assert 50 < sleeps[0] <= 60


@pytest.mark.usefixtures("published")
def test_server_errors_are_retried_with_growing_waits(
    zenodo: Zenodo, tmp_path: Path, get: Any, sleeps: list[float]
) -> None:
    zenodo.faults["api"] = [Fault(status=500)]
    zenodo.faults[VIDEO.name] = [Fault(status=500), Fault(status=503), Fault(status=502)]
    get()
    assert_complete(tmp_path)
    assert sleeps == [1, 1, 2, 4]


@pytest.mark.usefixtures("published")
def test_a_line_that_keeps_dropping_is_no_failure_while_bytes_arrive(
    zenodo: Zenodo, tmp_path: Path, get: Any, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "CHUNK_BYTES", 1 << 12)
    n_drops = 2 * N_FRUITLESS_ATTEMPTS
    zenodo.faults[VIDEO.name] = [Fault(n_bytes=10_000) for _ in range(n_drops)]
    get()
    assert_complete(tmp_path)
    assert sleeps == [1] * n_drops


@pytest.mark.usefixtures("published")
def test_a_server_that_never_recovers_is_given_up(
    zenodo: Zenodo, get: Any, sleeps: list[float]
) -> None:
    zenodo.faults[VIDEO.name] = [Fault(status=500) for _ in range(100)]
    with pytest.raises(InputError, match=rf"{VIDEO.name} .* HTTP 500 .* by hand"):
        get()
    assert len(zenodo.file_requests) == N_FRUITLESS_ATTEMPTS
    assert sleeps == [1, 2, 4, 8, 16]


@pytest.mark.usefixtures("published")
def test_a_file_that_is_not_there_is_not_asked_for_twice(
    zenodo: Zenodo, get: Any, sleeps: list[float]
) -> None:
    zenodo.faults[VIDEO.name] = [Fault(status=404)]
    with pytest.raises(InputError, match=rf"{VIDEO.name} .* HTTP 404 Not Found"):
        get()
    assert len(zenodo.file_requests) == 1
    assert not sleeps


def test_a_record_without_the_archive_is_named(zenodo: Zenodo, get: Any) -> None:
    zenodo.publish(Archive("other.zip", CLIPS_RECORD, (1,), 1, ".mp4"), b"")
    with pytest.raises(InputError, match=f"record {CLIPS_RECORD} has no such file"):
        get()


@pytest.mark.parametrize(
    ("answer", "found"),
    [(b"<html>Sign in", "JSON, found"), (b'{"files": [{}]}', "'key'"), (b"[]", "TypeError")],
)
def test_an_answer_that_is_no_record_is_an_input_error(
    zenodo: Zenodo, get: Any, answer: bytes, found: str
) -> None:
    zenodo.faults["api"] = [Fault(body=answer)]
    with pytest.raises(InputError, match=f"{VIDEO.name} could not be fetched .*{found}"):
        get()


def test_one_corrupted_download_is_replaced(
    zenodo: Zenodo, tmp_path: Path, get: Any, published: bytes
) -> None:
    corrupted = published[:-1000] + bytes(1) + published[-999:]
    zenodo.faults[VIDEO.name] = [Fault(body=corrupted)]
    get()
    assert_complete(tmp_path)
    assert [request.range for request in zenodo.file_requests] == [None, None]


def test_two_corrupted_downloads_are_deleted_and_reported(
    zenodo: Zenodo, tmp_path: Path, get: Any, published: bytes
) -> None:
    corrupted = bytes(len(published))
    zenodo.faults[VIDEO.name] = [Fault(body=corrupted) for _ in range(5)]
    with pytest.raises(InputError) as caught:
        get()
    message = str(caught.value)
    assert hashlib.md5(published).hexdigest() in message
    assert hashlib.md5(corrupted).hexdigest() in message
    assert "by hand" in message
    assert "\n" not in message
    assert len(zenodo.file_requests) == 2
    assert not files_under(tmp_path)


@pytest.fixture
def nowhere() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_an_unreachable_host_is_one_line_that_names_the_remedies(
    tmp_path: Path, nowhere: str, sleeps: list[float]
) -> None:
    with pytest.raises(InputError) as caught:
        fetch([VIDEO], tmp_path, base_url=nowhere, sleep=sleeps.append)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{VIDEO.name} could not be fetched from {nowhere}: Connection refus")
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
    tmp_path: Path, nowhere: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / VIDEO.name).write_bytes(build_zip(VIDEO))
    fetch([VIDEO], tmp_path, base_url=nowhere, sleep=lambda _: None)
    assert_complete(tmp_path)
    assert "No MD5 sum" in capsys.readouterr().err


def test_the_archive_that_is_missing_is_named_when_another_was_put_there_by_hand(
    tmp_path: Path, nowhere: str
) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / VIDEO.name).write_bytes(build_zip(VIDEO))
    other = Archive("Video_Speech_Actor_06.zip", CLIPS_RECORD, (6,), 1, ".mp4")
    with pytest.raises(InputError, match=f"^{other.name}"):
        fetch([VIDEO, other], tmp_path, base_url=nowhere, sleep=lambda _: None)
    assert_complete(tmp_path)


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
        fetch([VIDEO], tmp_path, base_url=nowhere, sleep=lambda _: None)
    assert not list(tmp_path.rglob("*.mp4"))


def test_an_incomplete_zip_is_an_input_error(zenodo: Zenodo, get: Any) -> None:
    both = Archive(VIDEO.name, CLIPS_RECORD, (5, 6), 1, ".mp4")
    zenodo.publish(VIDEO, build_zip(VIDEO))
    with pytest.raises(InputError, match=r"expected 120 files such as 01-01-.*-06.mp4, found 60"):
        get(both)


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
