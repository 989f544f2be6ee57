import numpy as np
import pytest

from tailor.data.images import open_data
from tailor.errors import DataError


@pytest.fixture
def binary(tmp_path):
    """Writes n images in the binary version's form: coarse label, fine label, three planes of 32 x 32."""

    def make(name="train.bin", n=200, top=100):
        rng = np.random.default_rng(n)
        records = rng.integers(0, 256, (n, 3074), dtype=np.uint8)
        records[:, 1] = np.arange(n) % top
        records.tofile(tmp_path / name)
        return records

    return make


def refusal(where):
    with pytest.raises(DataError) as caught:
        open_data(where)
    return caught.value


def test_records_are_read_one_by_one(binary, tmp_path):
    train, test = binary(), binary("test.bin", 100)
    data = open_data(f"cifar100@{tmp_path}")
    assert len(data.classes) == 100
    for split, records in (("train", train), ("test", test)):
        assert data.splits[split].labels == tuple(records[:, 1])
        for index in (0, 57, len(records) - 1):
            planes = np.asarray(data.splits[split].read(index)).transpose(2, 0, 1)
            assert np.array_equal(planes.ravel(), records[index, 2:])
    assert data.splits["test"].records[57].source == f"{tmp_path}/test.bin#57"


def test_the_class_names_are_those_beside_the_file(binary, tmp_path):
    binary()
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"thing{i}" for i in range(100)))
    assert open_data(f"cifar100@{tmp_path}").classes[42] == "thing42"
    (tmp_path / "fine_label_names.txt").write_text("apple\n")
    assert "1 names instead of 100" in refusal(f"cifar100@{tmp_path}").message


def test_the_pickled_version_is_never_opened(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "train").write_bytes(b"\x80\x02}q\x00.")
    error = refusal(f"cifar100@{tmp_path}")
    assert "pickled" in error.message and "train.bin" in error.hint


def test_a_file_of_another_length_or_content(binary, tmp_path):
    binary(n=7)
    whole = (tmp_path / "train.bin").read_bytes()
    (tmp_path / "train.bin").write_bytes(whole[:-1])
    assert "not a multiple of 3074" in refusal(f"cifar100@{tmp_path}").message
    binary(n=120, top=120)
    assert "image 100 of" in refusal(f"cifar100@{tmp_path}").message


def test_a_file_cut_short_later_is_named(binary, tmp_path):
    binary()
    data = open_data(f"cifar100@{tmp_path}")
    binary(n=10)
    with pytest.raises(DataError, match=r"train\.bin#57"):
        data.splits["train"].read(57)


def test_a_folder_needs_all_hundred_classes(tree):
    error = refusal(f"cifar100@{tree({'cat': 1, 'dog': 1})}")
    assert "2 class folders instead of 100" in error.message
    full = tree({f"class{i:02}": 1 for i in range(100)}, root="full")
    assert len(open_data(f"cifar100@{full}").classes) == 100
