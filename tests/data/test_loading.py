import dataclasses
import os
import pickle
import signal

import numpy as np
import pytest
import torch

from tailor.data.images import open_data
from tailor.data.loading import DRAW, PixelMemory, batches, cached, loader
from tailor.data.transforms import Preprocessing, eval_transform, train_transform
from tailor.errors import DataError

PRE = Preprocessing((16, 16))
SETTINGS = {"batch_size": 4, "seed": 3, "epoch": 2, "shuffle": True}


@pytest.fixture
def split(tree):
    return open_data(tree({"cat": 7, "dog": 8})).splits["all"]


def run(split, transform=None, **changes):
    return list(loader(split, transform or train_transform(PRE, "strong"), **{**SETTINGS, **changes}))


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets)
        assert torch.equal(a.indices, b.indices) and a.sources == b.sources


def test_an_epoch_is_every_image_once_with_its_own_label_and_source(split):
    found = run(split)
    assert [len(batch.targets) for batch in found] == [4, 4, 4, 3]
    indices = torch.cat([batch.indices for batch in found]).tolist()
    assert sorted(indices) == list(range(15)) and indices != list(range(15))
    for batch in found:
        assert batch.images.shape == (len(batch.targets), 3, 16, 16) and batch.images.dtype == torch.float32
        for index, label, source in zip(batch.indices.tolist(), batch.targets.tolist(), batch.sources, strict=True):
            assert (source, label) == (split.records[index].source, split.records[index].target)


def test_in_order_without_shuffle_and_short_with_drop_last(split):
    found = run(split, shuffle=False, drop_last=True)
    assert torch.cat([batch.indices for batch in found]).tolist() == list(range(12))
    assert len(loader(split, eval_transform(PRE), **{**SETTINGS, "drop_last": True})) == 3


@pytest.mark.parametrize("augment", ["none", "flip", "fgvc", "imagenet", "strong"])
def test_an_image_is_what_the_transform_makes_of_it(split, augment):
    transform = train_transform(PRE, augment)
    for batch in run(split, transform):
        for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
            assert torch.equal(image, draw(transform, split, index))


def draw(transform, split, index):
    """What `transform` makes of an image under this epoch's seed, found without the loader's help."""
    words = np.random.SeedSequence([DRAW, 3, 2, index]).generate_state(1, np.uint64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(words[0] >> np.uint64(1)))
        return transform(split.read(index))


def test_seed_and_epoch_change_order_and_draws(split):
    base = run(split)
    for change in ({"seed": 4}, {"epoch": 3}):
        other = run(split, **change)
        assert [b.indices.tolist() for b in base] != [b.indices.tolist() for b in other]
        fixed = run(split, shuffle=False), run(split, shuffle=False, **change)
        assert not torch.equal(fixed[0][0].images, fixed[1][0].images)


def test_seed_and_epoch_are_not_exchangeable():
    orders = {tuple(batches(15, 15, seed=s, epoch=e, shuffle=True)[0]) for s in range(5) for e in range(5)}
    assert len(orders) == 25


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("augment", ["none", "flip", "strong"])
def test_workers_change_nothing(split, augment, workers):
    transform = train_transform(PRE, augment)
    assert_same(run(split, transform, memory=False), run(split, transform, workers=workers))


def test_more_workers_than_cores_do_not_warn(split):
    assert_same(run(split), run(split, workers=64))


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_a_resume_in_mid_epoch_continues_exactly(split, start):
    assert_same(run(split)[start:], run(split, start=start))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_shares_of_all_processes_are_the_batches_of_one(split, world):
    alone = run(split)
    shares = [run(split, rank=rank, world=world) for rank in range(world)]
    for number, batch in enumerate(alone):
        parts = [share[number] for share in shares]
        assert max(len(p.targets) for p in parts) - min(len(p.targets) for p in parts) <= 1
        assert torch.equal(torch.cat([p.images for p in parts]), batch.images)
        assert torch.equal(torch.cat([p.indices for p in parts]), batch.indices)
        assert sum((p.sources for p in parts), ()) == batch.sources


def test_an_empty_share_keeps_the_image_shape(split):
    last = [run(split, rank=rank, world=4)[-1] for rank in range(4)]  # three images for four processes
    assert sorted(len(batch.targets) for batch in last) == [0, 1, 1, 1]
    assert all(batch.images.shape[1:] == (3, 16, 16) for batch in last)


def test_the_global_generator_is_left_alone(split):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    run(split)
    run(split, workers=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loader_gives_the_same_batches_again(split):
    epoch = loader(split, train_transform(PRE, "strong"), **SETTINGS)
    assert_same(list(epoch), list(epoch))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("memory", [False, True])
def test_a_corrupt_image_is_named_also_from_a_worker(split, workers, memory):
    bad = split.records[11].source
    with open(bad, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError) as caught:
        run(split, workers=workers, memory=memory)
    assert bad in caught.value.message and caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("workers", [0, 2])
def test_a_tolerant_split_leaves_a_corrupt_image_out_and_notes_it(split, workers):
    bad = split.records[11].source
    with open(bad, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
    tolerant = dataclasses.replace(split, tolerant=True)
    found = run(tolerant, workers=workers, memory=False)
    assert sorted(torch.cat([b.indices for b in found]).tolist()) == [i for i in range(15) if i != 11]
    assert all(len(b.images) == len(b.targets) == len(b.indices) == len(b.sources) for b in found)
    assert list(tolerant.left_out) == [bad] and bad in tolerant.left_out[bad]
    alone = [b for rank in range(3) for b in run(tolerant, batch_size=3, shuffle=False, rank=rank, world=3)]
    assert sum(len(b.indices) for b in alone) == 14 and all(b.images.shape[1:] == (3, 16, 16) for b in alone)


def test_a_tolerant_split_without_a_readable_image_is_an_error(split):
    def never(source):
        raise DataError(f"`{source}` cannot be read", hint="none")

    with pytest.raises(DataError, match="cannot be read"):
        run(dataclasses.replace(split, opener=never, tolerant=True), memory=False)


def test_a_worker_that_is_killed_is_an_error_with_a_hint(split):
    def die(source):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(DataError) as caught:
        run(dataclasses.replace(split, opener=die), workers=1)
    assert "a loading process ended" in caught.value.message and "fewer workers" in caught.value.hint


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_that_is_not_about_the_data_stays_what_it_is(split, workers):
    def broken(image):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run(split, broken, workers=workers)


@pytest.mark.parametrize("augment", ["none", "flip", "fgvc"])
@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_decoded_once_and_stay_exact(split, augment, workers):
    transform = train_transform(PRE, augment)
    expected = [run(split, transform, epoch=epoch, memory=False) for epoch in range(2)]
    first = run(split, transform, epoch=0, workers=workers)
    for record in split.records:
        os.remove(record.source)
    second = run(split, transform, epoch=1, workers=workers)
    assert_same(first, expected[0])
    assert_same(second, expected[1])


def test_two_sizes_have_two_memories(split):
    small, large = eval_transform(PRE), eval_transform(Preprocessing((24, 24)))
    assert run(split, small)[0].images.shape[-1] == 16
    assert run(split, large)[0].images.shape[-1] == 24
    assert len(split.memory) == 2


def test_what_is_kept_cannot_be_changed_through_a_batch(split):
    transform = eval_transform(PRE)
    first = run(split, transform)
    kept = cached(split, transform).read(split, 0)
    kept.zero_()
    for batch in first:
        batch.images.zero_()
    assert_same(run(split, transform), run(split, transform, memory=False))


def test_nothing_is_kept_where_sizes_vary_or_memory_is_short(split):
    assert cached(split, train_transform(PRE, "strong")) is None
    assert cached(split, eval_transform(PRE), limit=15 * 3 * 16 * 16 - 1) is None
    assert isinstance(cached(split, eval_transform(PRE), limit=15 * 3 * 16 * 16), PixelMemory)
    run(split, eval_transform(PRE), memory=False)
    assert len(split.memory) == 1


def test_a_small_machine_keeps_less(split, monkeypatch):
    pages = 15 * 3 * 16 * 16 * 8 // os.sysconf("SC_PAGE_SIZE")
    sizes = {"SC_PHYS_PAGES": pages - 1, "SC_PAGE_SIZE": os.sysconf("SC_PAGE_SIZE")}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert cached(split, eval_transform(PRE)) is None
    sizes["SC_PHYS_PAGES"] = pages + 1
    assert cached(split, eval_transform(PRE)) is not None


def test_a_split_pickles_without_its_memory(split):
    run(split, eval_transform(PRE))
    copy = pickle.loads(pickle.dumps(split))
    assert copy == split and copy.memory == {} and split.memory


def test_any_function_of_an_image_is_a_transform(split):
    (batch,) = run(split, lambda image: torch.full((1, 2, 2), float(image.width)), batch_size=15)
    assert torch.equal(batch.images, torch.full((15, 1, 2, 2), 48.0))


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"rank": 2, "world": 2}, {"rank": -1}])
def test_settings_that_mean_nothing(split, wrong):
    with pytest.raises(DataError, match="no such batch"):
        run(split, **wrong)


@pytest.mark.shared_data
def test_real_photos_with_workers(shared):
    train = open_data(shared / "flowers").splits["train"]
    transform = train_transform(Preprocessing((64, 64)), "fgvc")
    settings = {"batch_size": 64, "seed": 0, "epoch": 0, "shuffle": True}
    first = list(loader(train, transform, **settings, memory=False))
    assert sum(len(batch.targets) for batch in first) == 800
    assert_same(first, list(loader(train, transform, **settings, workers=2)))
    assert_same(first, list(loader(train, transform, **settings)))


@pytest.mark.parametrize("world", [1, 2])
def test_repeated_images_come_in_a_row_each_time_drawn_anew(split, world):
    shares = [run(split, repeats=3, batch_size=6, rank=r, world=world) for r in range(world)]
    found = [list(zip(b.indices.tolist(), b.images, b.sources)) for step in zip(*shares, strict=True) for b in step]
    flat = [one for batch in found for one in batch]
    assert len(flat) == 15  # as many as there are images
    order = [index for index, _, _ in flat]
    assert order == [i for i in order[::3] for _ in range(3)] and len(set(order)) == 5
    for start in range(0, 15, 3):
        first, second, third = (image for _, image, _ in flat[start : start + 3])
        assert not torch.equal(first, second) and not torch.equal(second, third)
    assert all(source == split.records[index].source for index, _, source in flat)
    whole = {int(b.indices[i]): b.images[i] for b in run(split) for i in range(len(b.indices))}
    assert all(torch.equal(flat[start][1], whole[order[start]]) for start in range(0, 15, 3))  # the first copy
