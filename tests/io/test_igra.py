import warnings
import zipfile
from datetime import datetime

import numpy as np
import pytest

from posterior.io._files import FileError
from posterior.io.observations import read_observations, summarise


def _header(station="USM00072201", day=1, hour=0, levels=0, latitude=245553, longitude=-817889):
    return f"#{station} 2005 08 {day:02d} {hour:02d} 2315 {levels:4d} ncdc6301 ncdc6301 {latitude:7d} {longitude:8d}"


def _level(pressure, height=-9999, temperature=-9999, humidity=-9999, depression=-9999, direction=-9999, speed=-9999, kind=10):
    return (
        f"{kind:2d} -9999 {pressure:6d}B{height:5d}B{temperature:5d}B{humidity:5d} {depression:5d} {direction:5d} {speed:5d} "
    )


def _sounding(*levels, **header):
    return "\n".join([_header(levels=len(levels), **header), *levels]) + "\n"


LEVELS = (
    _level(101500, 6, 284, 790, 38, 90, 41, kind=21),
    _level(85000, 1530, 172, -9999, 52, 130, 62),
    _level(50000, 5870, -61, 250, -9999, 0, 0),
    _level(-9999, 9000, -9999, -9999, -9999, 250, 310, kind=30),
    _level(10000, 16560, -721, -9999, -9999, -8888, -8888),
)


@pytest.fixture
def file(tmp_path):
    def write(text, name="a.txt"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_levels(file):
    table = read_observations(file(_sounding(*LEVELS) + _sounding(LEVELS[1], day=2, hour=12)))
    first = table[table["time"] == np.datetime64("2005-08-01")]
    temperature = first[first["variable"] == "air_temperature"]
    assert temperature["level"].tolist() == [1015.0, 850.0, 500.0, 100.0]
    assert temperature["value"].tolist() == pytest.approx([301.55, 290.35, 267.05, 201.05])
    assert first[first["variable"] == "relative_humidity"]["value"].tolist() == pytest.approx([79.0, 25.0])
    assert first[first["variable"] == "dew_point_depression"]["value"].tolist() == pytest.approx([3.8, 5.2])
    assert first[first["variable"] == "wind_speed"]["value"].tolist() == pytest.approx([4.1, 6.2, 0.0])
    assert first[first["variable"] == "wind_from_direction"]["value"].tolist() == [90, 130, 0]
    assert (first["latitude"] == 24.5553).all() and (first["longitude"] == -81.7889).all()
    assert set(table["station"]) == {"USM00072201"}
    assert set(table["time"]) == {np.datetime64("2005-08-01"), np.datetime64("2005-08-02T12:00")}
    assert summarise(table).reports == 2
    assert summarise(table).dropped == {"level without a pressure": 3, "removed by the archive's quality control": 2}


@pytest.mark.parametrize(("text", "degrees"), [(333, 0.0333), (500, 0.05), (-500, -0.05), (5, 0.0005), (-817889, -81.7889)])
def test_positions_near_the_equator_and_greenwich(file, text, degrees):
    table = read_observations(file(_sounding(LEVELS[1], latitude=min(max(text, -900000), 900000), longitude=text)))
    assert table["latitude"].iloc[0] == pytest.approx(degrees, abs=1e-12)
    assert table["longitude"].iloc[0] == pytest.approx(degrees, abs=1e-12)


def test_agrees_with_siphon(file, monkeypatch):
    siphon = pytest.importorskip("siphon.simplewebservice.igra2")
    text = _sounding(*LEVELS[:3], LEVELS[4])
    path = file(text)
    lines = text.splitlines(keepends=True)
    reader = siphon.IGRAUpperAir()
    reader.suffix = "-data.txt"
    reader.begin_date = reader.end_date = datetime(2005, 8, 1)
    monkeypatch.setattr(reader, "_get_data_raw", lambda: reader._select_date_range(lines))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # siphon's, about pandas
        body, header = reader._get_data()
    table = read_observations(path)
    for variable, column, scale in (
        ("air_temperature", "temperature", lambda v: v + 273.15),
        ("geopotential_height", "height", float),
        ("wind_speed", "speed", float),
        ("wind_from_direction", "direction", float),
        ("relative_humidity", "relative_humidity", float),
    ):
        ours = table[table["variable"] == variable].set_index("level")["value"]
        theirs = body.set_index("pressure")[column].map(scale)
        theirs = theirs[theirs.notna() & (theirs > -8888)]
        assert len(ours) > 0
        assert ours.to_dict() == pytest.approx(theirs.to_dict())
    assert table["latitude"].iloc[0] == pytest.approx(header["latitude"].iloc[0])
    assert table["longitude"].iloc[0] == pytest.approx(header["longitude"].iloc[0])


def test_zip_as_the_archive_serves_it(tmp_path):
    path = tmp_path / "USM00072201-data.txt.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("USM00072201-data.txt", _sounding(*LEVELS))
    assert summarise(read_observations(path)).reports == 1


def test_files_joined_with_blank_lines(file):
    assert summarise(read_observations(file(_sounding(*LEVELS) + "\n" + _sounding(LEVELS[1], day=2) + "\n \n"))).reports == 2


def test_report_without_an_hour(file):
    table = read_observations(file(_sounding(*LEVELS, hour=99) + _sounding(LEVELS[1])))
    assert summarise(table).dropped == {"report without an hour": 1}


def test_only_gaps(file):
    table = read_observations(file(_sounding(_level(85000))))
    assert len(table) == 0
    assert summarise(table).reports == 1


def test_truncated(file, refused):
    text = _sounding(*LEVELS)
    cut = "\n".join(text.splitlines()[:3]) + "\n"
    refused(FileError, ["a.txt", "line 1", "USM00072201 has 2 levels", "wanted 5"], read_observations, file(cut))
    refused(FileError, ["a.txt", "has 2 levels; wanted 5"], read_observations, file(cut + _sounding(LEVELS[1])))
    short = text[: text.rindex("16560")]
    refused(FileError, ["a.txt", "line 6 has .* characters"], read_observations, file(short))


def test_damaged(file, refused):
    text = _sounding(*LEVELS)
    refused(
        FileError,
        ["a.txt", "line 3: PRESS, columns 10 to 15, is ' 8x000'"],
        read_observations,
        file(text.replace(" 85000", " 8x000")),
    )
    refused(FileError, ["a.txt", "line 1: LAT, columns 56 to 62"], read_observations, file(text.replace(" 245553", " north ")))
    refused(FileError, ["a.txt", "no date and hour"], read_observations, file(text.replace("2005 08 01", "2005 08 41")))
    refused(FileError, ["a.txt", "line 7", "wanted the header"], read_observations, file(text + "rubbish\n"))


def test_wrong_variable(file, refused):
    words = ["a.txt", "no variable 'ozone' but"]
    refused(FileError, words, read_observations, file(_sounding(*LEVELS)), variables=["ozone"])
