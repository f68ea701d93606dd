import gzip

import numpy as np
import pytest

from posterior.io._files import FileError
from posterior.io.observations import read_observations, summarise

pytest.importorskip("metar")

REPORTS = """METAR KJFK 252351Z 18010G20KT 10SM FEW250 24/17 A3012 RMK AO2 SLP199 T02440172
SPECI KDEN 252353Z COR 00000KT 10SM CLR 30/M02 A2998
EGLL 260020Z VRB03KT 9999 SCT030 15/12 Q1016=
ZZZZ 260000Z 18010KT 10SM CLR 24/17 A3012
KJFK 260051Z gibberish beyond repair
"""


@pytest.fixture
def file(tmp_path):
    def write(text, name="a.txt"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def _value(table, station, variable):
    rows = table[(table["station"] == station) & (table["variable"] == variable)]
    return rows["value"].item() if len(rows) else None


def test_reports(file):
    table = read_observations(file(REPORTS), date="2005-08-26")
    assert _value(table, "KJFK", "air_temperature") == pytest.approx(297.55)
    assert _value(table, "KJFK", "dew_point_temperature") == pytest.approx(290.35)
    assert _value(table, "KJFK", "air_pressure_at_mean_sea_level") == pytest.approx(101990)
    assert _value(table, "KJFK", "altimeter_setting") == pytest.approx(30.12 * 3386.389, rel=1e-4)
    assert _value(table, "KJFK", "wind_speed") == pytest.approx(10 * 1852 / 3600, rel=1e-3)
    assert _value(table, "KJFK", "wind_speed_of_gust") == pytest.approx(20 * 1852 / 3600, rel=1e-3)
    assert _value(table, "KJFK", "wind_from_direction") == 180
    assert _value(table, "KDEN", "dew_point_temperature") == pytest.approx(271.15)
    assert _value(table, "EGLL", "altimeter_setting") == pytest.approx(101600)
    assert _value(table, "EGLL", "wind_from_direction") is None
    place = table[table["station"] == "KJFK"].iloc[0]
    assert (place["latitude"], place["longitude"]) == pytest.approx((40.65, -73.78), abs=0.05)
    assert place["time"] == np.datetime64("2005-08-25T23:51")
    assert summarise(table).reports == 5
    assert summarise(table).dropped == {"report not understood": 1, "report of a station without a position": 1}


def test_positions_of_the_caller(file):
    table = read_observations(file(REPORTS), date="2005-08-26", stations={"ZZZZ": (1.0, 2.0, 300.0)})
    assert set(table["station"]) == {"ZZZZ"}
    assert table["elevation"].tolist()[0] == 300
    assert summarise(table).dropped["report of a station without a position"] == 3


def test_month_is_that_of_the_nearest_day(file):
    table = read_observations(file("KJFK 312351Z 18010KT 10SM CLR 24/17 A3012\n"), date="2006-01-02")
    assert table["time"].iloc[0] == np.datetime64("2005-12-31T23:51")


def test_cycle_files_carry_their_dates_and_break_lines(file):
    text = "2005/08/25 23:51\nKJFK 252351Z 18010KT 10SM FEW250 24/17\n     A3012 RMK AO2 SLP199\n\n"
    text += "2004/02/29 12:00\nKJFK 291200Z 18010KT 10SM CLR 24/17 A3012\n"
    table = read_observations(file(text))
    assert set(table["time"]) == {np.datetime64("2005-08-25T23:51"), np.datetime64("2004-02-29T12:00")}
    assert table[table["variable"] == "air_pressure_at_mean_sea_level"]["value"].tolist() == pytest.approx([101990])


def test_date_is_never_guessed(file, refused):
    refused(FileError, ["a.txt", "no month and no year", "date="], read_observations, file(REPORTS))


def test_truncated_report_is_counted_or_refused(file, tmp_path, refused):
    table = read_observations(file(REPORTS[:100]), date="2005-08-26")
    assert summarise(table).reports == 2
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(REPORTS.encode())[:-20])
    refused(FileError, ["a.gz", "truncated"], read_observations, packed, date="2005-08-26")


def test_wrong_variable(file, refused):
    words = ["a.txt", "no variable 'ozone' but"]
    refused(FileError, words, read_observations, file(REPORTS), date="2005-08-26", variables=["ozone"])


def test_agrees_with_what_madis_decoded(data_file, tmp_path):
    """The MADIS file holds the text of every report beside the values that NOAA decoded from it."""
    import io

    import xarray as xr

    path = data_file("metar-2005082600")
    raw = xr.open_dataset(io.BytesIO(gzip.decompress(path.read_bytes())), engine="scipy", decode_times=False)
    reports = [" ".join(text.decode("latin-1").split()) for text in raw["rawMETAR"].values]
    names = [name.decode().strip() for name in raw["stationName"].values]
    text = tmp_path / "reports.txt"
    text.write_text("\n".join(reports) + "\n")
    places = dict(zip(names, zip(raw["latitude"].values.tolist(), raw["longitude"].values.tolist(), strict=True), strict=True))
    ours = read_observations(text, date="2005-08-26", stations=places)
    theirs = read_observations(path, accept="VSCGZQ")
    assert summarise(ours).reports == 3328
    assert summarise(ours).dropped["report not understood"] < 0.02 * 3328
    key = ["station", "time", "variable"]
    both = ours.astype({"variable": str}).merge(theirs.astype({"variable": str}), on=key, suffixes=("", "_madis"))
    assert len(both) > 0.95 * len(theirs)
    # whole degrees where only one of the two took the tenths from the remarks; factors of units in the last digits
    allowed = both["variable"].map(
        {
            "air_pressure_at_mean_sea_level": 1.0,
            "altimeter_setting": 0.5,
            "air_temperature": 0.6,
            "dew_point_temperature": 0.6,
            "wind_speed": 0.05,
            "wind_speed_of_gust": 0.05,
            "wind_from_direction": 0.5,
        }
    )
    assert ((both["value"] - both["value_madis"]).abs() <= allowed).all()
