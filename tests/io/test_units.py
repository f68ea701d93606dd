import pytest

pytest.importorskip("pint")

from posterior.io.units import UnitError, conversion


@pytest.mark.parametrize(
    ("source", "target", "factor", "offset"),
    [
        ("Pa", "hPa", 0.01, 0),
        ("Pascals", "hPa", 0.01, 0),
        ("hectopascal", "Pa", 100, 0),
        ("mb", "Pa", 100, 0),
        ("K", "degC", 1, -273.15),
        ("Celsius", "K", 1, 273.15),
        ("degF", "K", 5 / 9, 255.3722222222222),
        ("m s-1", "km/h", 3.6, 0),
        ("meter/sec", "m s**-1", 1, 0),
        ("knot", "m s-1", 1852 / 3600, 0),
        ("kg m-2 s-1", "kg m-2 day-1", 86400, 0),
        ("m2 s-2", "J kg-1", 1, 0),
        ("%", "1", 0.01, 0),
        ("degree_true", "degree", 1, 0),
        ("gpm", "km", 1e-3, 0),
    ],
)
def test_conversion(source, target, factor, offset):
    assert conversion(source, target) == pytest.approx((factor, offset), rel=1e-12, abs=1e-9)


def test_same_unit_is_left_alone_even_if_nobody_knows_it():
    assert conversion("counts of something", "counts of something") == (1.0, 0.0)


def test_refusals(refused):
    refused(UnitError, ["variable 't'", "'K' does not convert to 'Pa'"], conversion, "K", "Pa", "variable 't'")
    refused(UnitError, ["'foo' is not a unit"], conversion, "foo", "Pa")
    # a mass over an area is no depth until somebody says of what
    refused(UnitError, ["'kg m-2 s-1' does not convert"], conversion, "kg m-2 s-1", "mm/day")


def test_pint_of_the_caller_is_left_alone():
    import pint

    before = pint.get_application_registry()
    conversion("K", "degC")
    assert pint.get_application_registry() is before
