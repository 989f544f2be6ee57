import pytest

from tailor.data.images import open_data
from tailor.errors import DataError


@pytest.fixture
def listing(write, tmp_path):
    """Writes a CSV beside four pictures, one of them with spaces and a comma in its name."""
    for number, name in enumerate(("a.png", "b.png", "more/c.png", "d, the last.png")):
        write(tmp_path / "pictures" / name, number)

    def make(text, encoding="utf-8"):
        path = tmp_path / "pictures" / "list.CSV"
        path.write_bytes(text.encode(encoding))
        return path

    return make


def refusal(path):
    with pytest.raises(DataError) as caught:
        open_data(path)
    assert "\n" not in caught.value.message
    return caught.value


def test_paths_are_relative_to_the_file_and_labels_are_names(listing):
    path = listing('Label, path\nbig cat,a.png\ndog,b.png\nbig cat,more/c.png\ndog, "d, the last.png"\n')
    data = open_data(path)
    assert data.classes == ("big cat", "dog")
    split = data.splits["all"]
    assert split.labels == (0, 1, 0, 1)
    assert split.records[3].source == str(path.parent / "d, the last.png")
    assert split.read(3).size == (48, 40)


def test_splits_by_any_of_their_names(listing):
    data = open_data(
        listing(
            "path,label,split\na.png,x,Train\nb.png,y,train\nmore/c.png,x,valid\nd%20,y,test\n".replace(
                "d%20", '"d, the last.png"'
            )
        )
    )
    assert {name: split.labels for name, split in data.splits.items()} == {"train": (0, 1), "val": (0,), "test": (1,)}


def test_a_byte_order_mark_is_no_column(listing):
    assert open_data(listing("path,label\na.png,x\nb.png,y\n", "utf-8-sig")).classes == ("x", "y")


def test_numbers_are_ordered_as_numbers(listing):
    assert open_data(listing("path,label\na.png,10\nb.png,9\n")).classes == ("9", "10")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file,label\na.png,x\n", "no column `path` in line 1: file, label"),
        ("path;label\na.png;x\n", "no column `path` in line 1: path;label"),
        ("", "no column `path` in line 1: nothing"),
        ("path,label\n", "lists no image"),
        ("path,label\na.png,x\n\nb.png,\n", "line 4 of"),
        ("path,label\na.png,x\n,y\n", "has no path"),
        ("path,label\na.png,x\nd, the last.png,y\n", "more fields than line 1"),
        ("path,label\na.png,x\nabsent.png,y\n", "line 3 of"),
        ("path,label,split\na.png,x,train\nb.png,y,trian\n", "unknown split: `trian`"),
        ("path,label,split\na.png,x,train\nb.png,y\n", "unknown split: ``"),
        ("path,label,split\na.png,x,train\nb.png,y,train\nmore/c.png,z,test\n", "`z` is in test but not in train"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(listing, text, expected):
    error = refusal(listing(text))
    assert expected in error.message and error.hint


def test_other_encodings_and_absent_files(listing, tmp_path):
    assert "not UTF-8" in refusal(listing("path,label\na.png,caf\xe9\n", "latin-1")).message
    assert "does not exist" in refusal(tmp_path / "lists.csv").message
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in refusal(tmp_path / "folder.csv").message
