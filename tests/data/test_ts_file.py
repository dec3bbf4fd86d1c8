import importlib.util
from pathlib import Path

import numpy as np
import pytest

from treadle.data.ts_file import read_ts
from treadle.errors import DataError

HEADER = "@problemName p\n@timeStamps false\n@dimensions 2\n@equalLength false\n@classLabel true a b\n@data\n"


@pytest.fixture
def written(tmp_path):
    def write(text):
        (tmp_path / "x.ts").write_text(text)
        return tmp_path / "x.ts"

    return write


def test_cases_of_unequal_length_with_gaps_and_comments(written):
    file = read_ts(written("# a comment\n\n" + HEADER + "1,2,3:4,?,NaN:a\n\n# another\n 5 : -6e1 : b \n"))
    np.testing.assert_array_equal(file.cases[0], [[1, 4], [2, np.nan], [3, np.nan]])
    np.testing.assert_array_equal(file.cases[1], [[5, -60]])
    assert file.answers == ["a", "b"]
    assert file.labels == ("a", "b")
    assert file.lines == [9, 12]


def test_numbers_to_predict_and_neither(written):
    assert read_ts(written("@univariate true\n@targetLabel true\n@data\n1,2:3.5\n4:-1\n")).answers == [3.5, -1]
    file = read_ts(written("@univariate true\n@data\n1,2\n"))
    assert file.answers is None
    assert file.cases[0].shape == (2, 1)


BAD = {
    "@timeStamps true\n@data\n(0,1):a\n": r"x\.ts has time stamps \(@timeStamps true\)",
    "@classLabel true a\n1,2:a\n": "line 2: a header line begins with @, but this is '1,2:a'",
    "@classLabel true a\n": "has no line @data",
    HEADER: "has no cases",
    "@dimensions two\n@data\n": "@dimensions is a positive whole number, but is 'two'",
    HEADER + "1:2:a\n1:2:c\n": "line 8: 'c' is no label: @classLabel declares a, b",
    HEADER + "1:2:\n": "line 7: '' is no label",
    HEADER + "1:2:3:a\n": "line 7: 3 dimensions besides the label, but 2 are expected",
    HEADER + "1,2:3:a\n": "line 7: dimension 2 has 1 values, dimension 1 has 2",
    HEADER + "1,2:3,x:a\n": "line 7, dimension 2, value 2: 'x' is not a number",
    HEADER + "1,2:3,inf:a\n": "line 7, dimension 2, value 2: the value is infinite",
    "@targetLabel true\n@data\n1,2:high\n": "line 3, the number to predict, value 1: 'high' is not a number",
}


@pytest.mark.parametrize("text", BAD)
def test_what_does_not_fit_is_refused_with_its_line(written, text):
    with pytest.raises(DataError, match=BAD[text]):
        read_ts(written(text))


def test_the_archive_is_read():
    """Every file of the archive that aeon brings along, but those with time stamps."""
    (folder,) = importlib.util.find_spec("aeon").submodule_search_locations
    for path in sorted(Path(folder, "datasets", "data").rglob("*_TRAIN.ts")):
        if "TimeStamps" in path.name or path.stat().st_size > 500_000:
            continue
        file = read_ts(path)
        assert len(file.cases) == len(file.answers)
    file = read_ts(Path(folder, "datasets/data/JapaneseVowels/JapaneseVowels_TRAIN.ts"))
    assert len(file.cases) == 270
    assert file.cases[0].shape == (20, 12)
    assert file.cases[0][1, 0] == 1.891651
    assert len(file.labels) == 9


@pytest.mark.parametrize("word", ["1_0", "٣", "0x1", "1e", "one", "+-1"])
def test_a_number_is_written_as_all_programs_write_it(tmp_path, word):
    (tmp_path / "x.ts").write_text(f"@classLabel true a\n@data\n1,{word}:a\n")
    with pytest.raises(DataError, match=r"line 3, dimension 1, value 2: .* is not a number"):
        read_ts(tmp_path / "x.ts")


@pytest.mark.parametrize("target", ["", "?", "nan", "1,2"])
def test_a_case_has_one_number_to_predict(tmp_path, target):
    (tmp_path / "x.ts").write_text(f"@targetLabel true\n@data\n1,2:{target}\n")
    with pytest.raises(DataError, match="line 3: a case ends with one number to predict"):
        read_ts(tmp_path / "x.ts")
