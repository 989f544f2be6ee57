import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tailor.data.images import open_data
from tailor.data.loading import loader
from tailor.data.transforms import Preprocessing, eval_transform
from tailor.errors import DataError


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError) as caught:
        open_data("hfds/owner/name")
    assert "pip install 'tailor-models[data]'" in caught.value.hint


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    """The package, with its cache in the test's folder and no network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    package = pytest.importorskip("datasets", reason="needs `pip install 'tailor-models[data]'`")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    package.disable_progress_bars()
    return package


@pytest.fixture
def parquet(tmp_path):
    """Writes a parquet file without the package's own metadata and gives its folder."""

    def make(images, labels):
        cells = [{"bytes": content, "path": None} for content in images]
        (tmp_path / "bare").mkdir()
        pyarrow.parquet.write_table(
            pyarrow.table({"image": cells, "label": labels}), tmp_path / "bare" / "train.parquet"
        )
        return tmp_path / "bare"

    return make


@pytest.fixture
def table(datasets, write, tmp_path):
    def make(labels, names=("cat", "dog"), start=0):
        files = [str(write(tmp_path / "files" / f"{start + i}.png", start + i)) for i in range(len(labels))]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
        made = datasets.Dataset.from_dict({"image": files, "label": labels}, features=features)
        return made.map(lambda row: row)  # embeds nothing: the files stay where they are

    return make


def test_a_saved_data_set_with_splits(datasets, table, write, tmp_path):
    splits = datasets.DatasetDict(train=table([0, 1, 1]), validation=table([1], start=3), test=table([0, -1], start=4))
    splits.save_to_disk(str(tmp_path / "saved"))
    data = open_data(f"hfds/{tmp_path / 'saved'}")
    assert data.classes == ("cat", "dog")
    assert {name: split.labels for name, split in data.splits.items()} == {
        "train": (0, 1, 1),
        "val": (1,),
        "test": (0,),
    }
    assert any("1 images of test have no label" in note for note in data.notes)
    expected = np.random.default_rng(2).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(data.splits["train"].read(2)), expected)
    assert data.splits["val"].records[0].source == f"hfds/{tmp_path / 'saved'}#val/0"


def test_a_lone_table_is_one_split_and_workers_read_it(table, tmp_path):
    table([0, 1, 1, 0]).save_to_disk(str(tmp_path / "saved"))
    data = open_data(f"hfds/{tmp_path / 'saved'}")
    assert list(data.splits) == ["all"]
    transform = eval_transform(Preprocessing((16, 16)))
    batches = list(loader(data.splits["all"], transform, batch_size=3, seed=0, epoch=0, shuffle=False, workers=2))
    assert [batch.targets.tolist() for batch in batches] == [[0, 1, 1], [0]]


def test_an_image_folder_and_bare_parquet(datasets, tree, parquet):
    root = tree({"train/cat": 3, "train/dog": 2, "test/cat": 1, "test/dog": 1})
    data = open_data(f"hfds/{root}")
    assert data.classes == ("cat", "dog") and {n: len(s) for n, s in data.splits.items()} == {"train": 5, "test": 2}
    bare = parquet([path.read_bytes() for path in sorted(root.glob("train/*/*.png"))], [9, 9, 10, 9, 10])
    data = open_data(f"hfds/{bare}")
    assert data.classes == ("9", "10") and data.splits["train"].labels == (0, 0, 1, 0, 1)
    assert data.splits["train"].read(0).size == (48, 40)


def test_what_cannot_be_opened_or_used(datasets, table, tmp_path):
    for where in ("hfds/", "hfds/no-such-owner/no-such-name", f"hfds/{tmp_path}"):
        with pytest.raises(DataError) as caught:
            open_data(where)
        assert "\n" not in caught.value.message and caught.value.hint
    table([0, 1]).rename_column("image", "picture").remove_columns("label").save_to_disk(str(tmp_path / "unlabelled"))
    with pytest.raises(DataError, match="has no label column"):
        open_data(f"hfds/{tmp_path / 'unlabelled'}")


def test_a_corrupt_image_is_named(datasets, parquet):
    root = parquet([b"\x89PNG cut short", b"", None], [0, 1, 1])
    split = open_data(f"hfds/{root}").splits["train"]
    for index in range(3):
        with pytest.raises(DataError) as caught:
            split.read(index)
        assert f"hfds/{root}#train/{index}" in caught.value.message
