import functools
import hashlib
import http.server
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest

from posterior.io import registry
from posterior.io.registry import ChecksumError, Entry, available, entries, fetch

ROOT = Path(__file__).parents[2]
CONTENT = b"some measured bytes"


def _entry(**changes):
    fields = dict(
        name="sample",
        file="room/sample.bin",
        origin="https://example.org/sample",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        licence="CC0-1.0",
        description="a sample",
    )
    return Entry(**(fields | changes))


@pytest.fixture
def register(monkeypatch):
    """Make the registry hold one entry."""

    def put(**changes):
        entry = _entry(**changes)
        monkeypatch.setattr(registry, "entries", lambda: {entry.name: entry})
        return entry

    return put


@pytest.fixture
def local(tmp_path, monkeypatch):
    """An empty local data folder, named in the environment."""
    folder = tmp_path / "local"
    folder.mkdir()
    monkeypatch.setenv(registry.DATA_DIR_VARIABLE, str(folder))
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty download cache, and no local data folder."""
    folder = tmp_path / "cache"
    monkeypatch.delenv(registry.DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setattr(registry, "_cache_folder", lambda: folder)
    return folder


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on this machine over an empty folder: yields (folder, address, requests seen)."""
    folder = tmp_path / "served"
    folder.mkdir()
    seen = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, code="-", size="-"):
            seen.append(self.path)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as web:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{web.server_port}", seen
        web.shutdown()
        thread.join()


def _write(folder, content=CONTENT, file="room/sample.bin"):
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_registry_file_is_well_formed():
    found = entries()
    assert len(found) == 21
    assert len({entry.file for entry in found.values()}) == len(found)
    for name, entry in found.items():
        assert entry.name == name
        assert len(entry.sha256) == 64
        assert int(entry.sha256, 16) >= 0
        assert entry.licence
        assert entry.description
        assert entry.origin.startswith("https://")
        if entry.url is None:
            assert "derived" in entry.description
        else:
            owner_and_repository = entry.origin.removeprefix("https://github.com/")
            assert entry.url.startswith(f"https://raw.githubusercontent.com/{owner_and_repository}/")
        assert ".." not in entry.file.split("/")
        assert not entry.file.startswith("/")


@pytest.mark.parametrize("name", entries())
def test_real_files_match_their_checksums(name, data_file):
    assert data_file(name).is_file()


def test_unknown_name_says_what_is_close():
    with pytest.raises(ValueError, match="no dataset 'colin72'.*did you mean 'colin27'"):
        fetch("colin72")
    with pytest.raises(ValueError, match="no dataset 'zzz'.*known: .*colin27"):
        available("zzz")


def test_local_folder_is_used(register, local):
    register(url="http://127.0.0.1:9/never-asked")
    path = _write(local)
    assert available("sample")
    assert fetch("sample") == path


def test_local_file_with_other_bytes_is_refused(register, local):
    register()
    path = _write(local, b"other bytes")
    assert available("sample")
    with pytest.raises(ChecksumError, match="room/sample.bin has sha256 .* the registry wants"):
        fetch("sample")
    assert path.read_bytes() == b"other bytes"


def test_file_missing_from_local_folder_is_not_downloaded(register, local, server):
    folder, address, seen = server
    _write(folder, file="sample.bin")
    register(url=f"{address}/sample.bin")
    assert not available("sample")
    with pytest.raises(FileNotFoundError, match="room/sample.bin is not in .*POSTERIOR_DATA_DIR"):
        fetch("sample")
    assert not seen


def test_local_folder_that_does_not_exist(register, tmp_path, monkeypatch):
    register()
    monkeypatch.setenv(registry.DATA_DIR_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="POSTERIOR_DATA_DIR is .*nowhere.* not a folder"):
        fetch("sample")


def test_entry_without_url_says_where_it_comes_from(register, cache):
    register()
    assert not available("sample")
    with pytest.raises(FileNotFoundError, match="no direct download.*https://example.org/sample"):
        fetch("sample")


def test_download_once_then_from_cache(register, cache, server):
    folder, address, seen = server
    _write(folder, file="sample.bin")
    register(url=f"{address}/sample.bin")
    assert fetch("sample") == cache / "room" / "sample.bin"
    assert available("sample")
    assert fetch("sample").read_bytes() == CONTENT
    assert seen == ["/sample.bin"]


def test_download_of_other_bytes_leaves_nothing_behind(register, cache, server):
    folder, address, _ = server
    _write(folder, b"other bytes", file="sample.bin")
    register(url=f"{address}/sample.bin")
    with pytest.raises(ChecksumError, match="is not the registered file"):
        fetch("sample")
    assert not available("sample")
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_failed_download_is_one_clear_error(register, cache, server):
    _, address, _ = server
    register(url=f"{address}/absent.bin")
    with pytest.raises(ConnectionError, match="could not download .*absent.bin"):
        fetch("sample")
    assert not available("sample")


def test_no_network_is_one_sentence_with_its_cause(register, cache, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/sample.bin"  # bound and not listening: refused
        register(url=url)
        with pytest.raises(ConnectionError) as caught:
            fetch("sample")
    text = str(caught.value)
    assert url in text and "refused" in text and "POSTERIOR_DATA_DIR" in text
    assert "Max retries" not in text and "object at 0x" not in text
    assert "urllib3" not in "".join(traceback.format_exception(caught.value))
    assert not available("sample")


def test_import_touches_no_network_and_no_downloader():
    code = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise AssertionError('network at import')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from posterior.io.registry import entries\n"
        "assert entries()\n"
        "assert 'pooch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
