"""Grids that R keeps, written here by rdata."""

import numpy as np
import pytest

from posterior.io._files import FileError
from posterior.io.fields import open_fields

pytest.importorskip("dask")


def _rda(path, shape, **changes):
    """A climate4R grid; rdata writes no names of dimensions, which are spliced in as R keeps them."""
    conversion, unparser = pytest.importorskip("rdata.conversion"), pytest.importorskip("rdata.unparser")
    dates = {"start": np.array(["2001-01-01 GMT", "2001-01-02 GMT"][: shape[0]])}
    grid = {"Variable": {"varName": "tas"}, "Data": np.full(shape, 280.0)}
    grid |= {"xyCoords": {axis: np.arange(float(n)) for axis, n in zip("yx", shape[1:], strict=True)}}
    grid |= {"Dates": dates | {"end": dates["start"]}} | changes
    made, names = (
        conversion.convert_python_to_r_data(part, file_type="rda")
        for part in ({"g": grid}, {"dimensions": np.array(["time", "lat", "lon"])})
    )
    attributes = made.object.value[0].value[1].attributes
    attributes.value = (attributes.value[0], names.object)
    unparser.unparse_file(path, made, file_type="rda")
    return path


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 3, 4), (1, 1, 1)])
def test_grids_in_r_files_down_to_one_value(tmp_path, refused, shape):
    field = open_fields(_rda(tmp_path / "a.rda", shape), source_units="K")
    assert field.shape == shape and (field.values == 280).all() and field["time"].values[0] == np.datetime64("2001-01-01")
    several = _rda(tmp_path / "b.rda", shape, Dates=[{"start": np.array(["2001-01-01"])}])
    refused(FileError, ["b.rda: g", "as in a multigrid"], open_fields, several, source_units="K")
