import bz2
import gzip
import lzma
import zipfile

import pytest

from posterior.io._files import FileError, needs, read_bytes

CONTENT = b"time,value\n" * 1000


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_unpacks(tmp_path, pack):
    path = tmp_path / "a.bin"
    path.write_bytes(pack(CONTENT))
    assert read_bytes(path, "text") == CONTENT


def _zip(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_unzips_one_file_whatever_it_is_called(tmp_path):
    path = tmp_path / "in" / "a.zip"
    path.parent.mkdir()
    _zip(path, **{"../../escaped.txt": CONTENT})
    assert read_bytes(path, "text") == CONTENT
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["a.zip"]


def test_zip_of_several_files(tmp_path, refused):
    path = _zip(tmp_path / "a.zip", a=CONTENT, b=CONTENT)
    refused(FileError, ["a.zip", "archive of 2 files", "wanted one, a table"], read_bytes, path, "a table")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_bombs_are_not_unpacked(tmp_path, refused, pack):
    path = tmp_path / "bomb"
    path.write_bytes(pack(bytes(8_000_000)))
    assert path.stat().st_size < 60_000
    refused(FileError, ["bomb", "more than the 1000000 bytes allowed"], read_bytes, path, "text", limit=1_000_000)


def test_zip_bomb(tmp_path, refused):
    path = _zip(tmp_path / "bomb.zip", a=bytes(8_000_000))
    refused(FileError, ["bomb.zip", "more than the 1000000 bytes"], read_bytes, path, "text", limit=1_000_000)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_truncated_archive(tmp_path, refused, pack):
    path = tmp_path / "a.bin"
    packed = pack(bytes(range(256)) * 100)
    path.write_bytes(packed[: len(packed) // 2])
    refused(FileError, ["a.bin", "truncated or damaged archive", "wanted text"], read_bytes, path, "text")


def test_truncated_zip(tmp_path, refused):
    path = _zip(tmp_path / "a.zip", a=CONTENT)
    path.write_bytes(path.read_bytes()[:60])
    refused(FileError, ["a.zip", "truncated or damaged"], read_bytes, path, "text")


def test_missing_file_and_folder(tmp_path, refused):
    refused(FileError, ["nothing", "no such file", "wanted text"], read_bytes, tmp_path / "nothing", "text")
    refused(FileError, ["it is a folder"], read_bytes, tmp_path, "text")


def test_missing_package_names_the_extra(refused):
    words = [r"reading X needs no_such_package: pip install 'posterior\[weather\]'"]
    refused(ImportError, words, needs, "no_such_package.part", "weather", "reading X")
