import gzip
import zipfile

import numpy as np
import pandas as pd
import pytest

from posterior.io._files import FileError
from posterior.io.observations import COLUMNS, read_observations, summarise, wind_components
from posterior.io.tables import write_observations

pytest.importorskip("pint")

CSV = """time,lat,lon,level,variable,value,error,station,units
2005-08-26T00:00:00Z,51.5,-0.1,,air_temperature,290.5,0.8,London,K
2005-08-26T01:00:00+01:00,48.9,2.4,,air_temperature,293.0,,Paris,K
2005-08-26T00:00:00Z,48.9,2.4,,depth of snow,0,,Paris,cm
"""


@pytest.fixture
def file(tmp_path):
    def write(text, name="a.csv"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


# tables


def test_csv(file):
    table = read_observations(file(CSV))
    assert tuple(table.columns) == COLUMNS
    assert table["time"].tolist() == [pd.Timestamp("2005-08-26")] * 3
    assert table["time"].dtype == "datetime64[ns]"
    assert table["latitude"].tolist() == [51.5, 48.9, 48.9]
    assert table["value"].dtype == np.float64
    assert table["error"].tolist()[0] == 0.8 and np.isnan(table["error"].tolist()[1])
    assert table["station"].tolist() == ["London", "Paris", "Paris"]
    assert table.attrs["units"]["depth of snow"] == "cm"
    assert table.attrs["units"]["air_temperature"] == "K"
    assert table.attrs["renamed"] == {"lat": "latitude", "lon": "longitude"}
    assert summarise(table).kept == summarise(table).reports == 3
    assert summarise(table).dropped == {}


@pytest.mark.parametrize("name", ["b.csv", "b.parquet"])
def test_in_and_out(file, tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    table = read_observations(file(CSV))
    write_observations(table, tmp_path / name)
    again = read_observations(tmp_path / name)
    pd.testing.assert_frame_equal(again, table, check_categorical=False)
    assert again.attrs["units"] == table.attrs["units"]


@pytest.mark.parametrize("pack", ["gzip", "zip"])
def test_packed_csv(tmp_path, pack):
    path = tmp_path / "a.csv.packed"
    if pack == "gzip":
        path.write_bytes(gzip.compress(CSV.encode()))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.csv", CSV)
    assert len(read_observations(path)) == 3


def test_quoted_names_of_columns(file):
    """As R's write.csv and Python's QUOTE_ALL write them."""
    header, *rows = CSV.splitlines()
    quoted = ",".join(f'"{name}"' for name in header.split(","))
    table = read_observations(file("\n".join([quoted, *rows, ""])))
    pd.testing.assert_frame_equal(table, read_observations(file(CSV, "b.csv")), check_categorical=False)


def test_parquet_with_gaps_in_its_texts(tmp_path, refused):
    pytest.importorskip("pyarrow")
    place = {"time": pd.Timestamp("2005-08-26"), "latitude": 10.0, "longitude": 20.0}
    rows = [
        {**place, "variable": "t", "value": 280.0, "units": "K", "level": 850.0, "level_units": "hPa"},
        {**place, "variable": "t", "value": 290.0, "units": None, "level": np.nan, "level_units": None},
    ]
    path = tmp_path / "a.parquet"
    pd.DataFrame(rows).to_parquet(path)
    table = read_observations(path)
    assert table.attrs["units"]["t"] == "K"
    np.testing.assert_array_equal(table["level"], [850, np.nan])
    pd.DataFrame([rows[0], {**rows[1], "variable": None}]).to_parquet(path)
    refused(FileError, ["a.parquet", "row 2, column 'variable' is empty"], read_observations, path)


def test_units_of_levels(file, refused):
    text = "time,latitude,longitude,level,variable,value\n2005-08-26,10,20,85000,t,280\n"
    path = file(text)
    units = {"t": "K", "level": "Pa"}
    refused(FileError, ["a.csv", "variable 't' has no unit", "units="], read_observations, path)
    refused(FileError, ["a.csv", "column 'level' has no unit"], read_observations, path, units={"t": "K"})
    assert read_observations(path, units=units)["level"].tolist() == [850.0]


def test_two_units_for_one_variable(file, refused):
    path = file(CSV.replace("Paris,K", "Paris,degC"))
    refused(FileError, ["a.csv", "'air_temperature' has the units K, degC", "wanted one"], read_observations, path)


def test_what_is_left_out_is_counted(file):
    rows = [
        "2005-08-26,10,20,air_temperature,,a,K",  # value missing
        ",10,20,air_temperature,280,a,K",  # time missing
        "2005-08-26,95,20,air_temperature,280,a,K",  # off the globe
        "2005-08-26,,20,air_temperature,280,a,K",
        "2005-08-26,10,20,air_temperature,28,a,K",  # gross error: Celsius taken for kelvin
        "2005-08-26,10,20,air_temperature,280,a,K",
        "2005-08-26,10,20,air_temperature,280,a,K",  # duplicate
        "2005-08-26,10,20,air_temperature,281,a,K",  # a correction
        "2005-08-26,10,20,air_temperature,282,b,K",  # another station
    ]
    table = read_observations(file("\n".join(["time,latitude,longitude,variable,value,station,units", *rows]) + "\n"))
    assert table["value"].tolist() == [281, 282]
    assert summarise(table).dropped == {
        "duplicate": 1,
        "gross error: air_temperature": 1,
        "position missing or off the globe": 2,
        "replaced by a later report": 1,
        "time missing": 1,
        "value missing": 1,
    }
    text = str(summarise(table))
    assert "9 reports, 2 values kept" in text
    assert "2 dropped: position missing" in text


def test_gross_errors_are_judged_in_known_units_only(file):
    text = "time,latitude,longitude,variable,value,units\n2005-08-26,10,20,air_temperature,28,degC\n"
    assert read_observations(file(text))["value"].tolist() == [28]


def test_chosen_variables(file, refused):
    path = file(CSV)
    assert read_observations(path, variables=["air_temperature"])["station"].tolist() == ["London", "Paris"]
    refused(
        FileError,
        ["a.csv", "no variable 'wind' but air_temperature, depth of snow"],
        read_observations,
        path,
        variables=["wind"],
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("variable,", "name,"), ["no column 'variable' but time, lat, lon"]),
        (("290.5", "warm"), ["row 1, column 'value' is 'warm'", "wanted a number"]),
        (("2005-08-26T00:00:00Z,51", "yesterday,51"), ["column 'time'", "ISO 8601"]),
        ((",0.8,", ",-0.8,"), ["column 'error' goes down to -0.8"]),
        (("depth of snow", ""), ["row 3, column 'variable' is empty"]),
    ],
)
def test_wrong_tables(file, refused, change, words):
    refused(FileError, ["a.csv", *words], read_observations, file(CSV.replace(*change)))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: "\n" + text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", ";").replace(".", ","),
        lambda text: text.replace("time,lat,lon,level,variable", "Time,LAT,Lon, Level,Variable"),
    ],
    ids=["mark of byte order", "Windows", "old Macintosh", "tabs", "semicolons", "decimal commas", "capitals"],
)
def test_tables_as_spreadsheets_write_them(file, tmp_path, change):
    path = tmp_path / "b.csv"
    path.write_bytes(change(CSV).encode())
    pd.testing.assert_frame_equal(read_observations(path), read_observations(file(CSV)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("error,station", "value,station"), ["two columns 'value'; wanted one"]),  # of which pandas would rename the second
        (("Paris,K", "Paris,K,,"), ["line 3 has 11 fields; wanted 9"]),
        (("London,K", "London"), ["line 2 has 8 fields; wanted 9"]),
        (("1.5,-0.1", '1.5,"-0.1'), ["b.csv"]),
    ],
)
def test_tables_whose_columns_do_not_line_up(tmp_path, refused, change, words):
    path = tmp_path / "b.csv"
    path.write_text(CSV.replace(*change))
    refused(FileError, ["b.csv", *words], read_observations, path)


def test_parquet_tables_whose_index_is_a_column(file, tmp_path):
    pytest.importorskip("pyarrow")
    write_observations(read_observations(file(CSV)), tmp_path / "b.parquet")
    pd.read_parquet(tmp_path / "b.parquet").set_index(["time", "station"]).to_parquet(tmp_path / "c.parquet")
    pd.testing.assert_frame_equal(read_observations(tmp_path / "c.parquet"), read_observations(tmp_path / "b.parquet"))


def test_truncated_tables(file, tmp_path, refused):
    refused(FileError, ["a.csv", "last line has 6 of 9 fields"], read_observations, file(CSV[: CSV.rindex(",0,,Paris") + 2]))
    refused(FileError, ["a.csv", "without rows"], read_observations, file(CSV.splitlines()[0]))
    pytest.importorskip("pyarrow")
    path = tmp_path / "b.parquet"
    write_observations(read_observations(file(CSV)), path)
    path.write_bytes(path.read_bytes()[:-100])
    refused(FileError, ["b.parquet", "not a complete Parquet file"], read_observations, path)


def test_files_of_another_kind(file, tmp_path, refused):
    refused(FileError, ["none.csv", "no such file"], read_observations, tmp_path / "none.csv")
    refused(FileError, ["a.txt", "starts with", "wanted observations"], read_observations, file("Dear reader,\n", "a.txt"))
    refused(FileError, ["empty", "wanted observations"], read_observations, file("", "empty"))
    (tmp_path / "b").write_bytes(b"\x93NUMPY\x01\x00")
    refused(FileError, ["starts with", "as text, Parquet or NetCDF"], read_observations, tmp_path / "b")


def test_what_values_were_derived_from_is_read_back(file, tmp_path):
    table = read_observations(file(CSV)).assign(derived=["", "from elsewhere", ""])
    write_observations(table, tmp_path / "b.csv")
    pd.testing.assert_frame_equal(read_observations(tmp_path / "b.csv"), table, check_categorical=False, check_like=True)


def test_the_latest_of_several_reports_counts_where_it_repeats_the_first(file):
    rows = "\n".join(f"2005-08-26,10,20,air_temperature,{value},a,K" for value in (280, 290, 280))
    table = read_observations(file(f"time,latitude,longitude,variable,value,station,units\n{rows}\n"))
    assert table["value"].tolist() == [280]


def test_gross_errors_are_found_in_any_unit(file):
    rows = "\n".join(f"2005-08-26,{i},20,air_temperature,{value},degC" for i, value in enumerate((15, -9999, 280)))
    table = read_observations(file(f"time,latitude,longitude,variable,value,units\n{rows}\n"))
    assert table["value"].tolist() == [15]
    assert summarise(table).dropped == {"gross error: air_temperature": 2}


def test_writing_needs_units_and_columns(file, tmp_path):
    table = read_observations(file(CSV))
    with pytest.raises(ValueError, match="no column 'value' but"):
        write_observations(table.drop(columns="value"), tmp_path / "b.csv")
    with pytest.raises(ValueError, match=r"b.xls: .* \.csv or \.parquet; got '\.xls'"):
        write_observations(table, tmp_path / "b.xls")
    table.attrs["units"] = {}
    with pytest.raises(ValueError, match="no unit for air_temperature"):
        write_observations(table, tmp_path / "b.csv")


def test_wind_components(file):
    rows = [
        (0, "a", 10, 270),  # from the west: eastward
        (1, "a", 10, 180),  # from the south: northward
        (2, "a", 0, None),  # calm
        (3, "a", 5, None),  # variable
        (4, "a", None, 90),
    ]
    lines = ["time,latitude,longitude,variable,value,station,units"]
    for hour, station, speed, direction in rows:
        for name, value, unit in (("wind_speed", speed, "m s-1"), ("wind_from_direction", direction, "degree")):
            if value is not None:
                lines.append(f"2005-08-26T0{hour}:00,1,2,{name},{value},{station},{unit}")
    lines.append("2005-08-26,1,2,air_temperature,280,a,K")
    winds = wind_components(read_observations(file("\n".join(lines) + "\n")))
    east = winds[winds["variable"] == "eastward_wind"]["value"].to_numpy()
    north = winds[winds["variable"] == "northward_wind"]["value"].to_numpy()
    np.testing.assert_allclose(east, [10, 0, 0], atol=1e-12)
    np.testing.assert_allclose(north, [0, 10, 0], atol=1e-12)
    assert set(winds["variable"]) == {"eastward_wind", "northward_wind", "air_temperature"}
    assert winds.attrs["units"]["eastward_wind"] == "m s-1"
    assert summarise(winds).dropped == {"wind speed without direction": 1, "wind direction without speed": 1}


@pytest.mark.parametrize(("own", "unit", "value"), [("", "m s-1", 18.52 / 3.6), ("eastward_wind,3,km/h", "km/h", 18.52)])
def test_wind_components_of_speeds_in_knots(file, own, unit, value):
    rows = ["wind_speed,10,knots", "wind_from_direction,4.71238898,rad", own]
    lines = [f"2005-08-26,{i // 2},2,{row}" for i, row in enumerate(rows) if row]
    winds = wind_components(read_observations(file("\n".join(["time,latitude,longitude,variable,value,units", *lines, ""]))))
    east = winds[(winds["variable"] == "eastward_wind") & (winds["latitude"] == 0)]
    np.testing.assert_allclose(east["value"], value)
    assert winds.attrs["units"]["eastward_wind"] == unit


def test_a_table_from_elsewhere_has_no_account():
    with pytest.raises(ValueError, match="wanted a table from read_observations"):
        summarise(pd.DataFrame({"value": [1.0]}))
