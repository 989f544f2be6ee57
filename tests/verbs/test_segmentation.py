"""Images with label maps through the same verbs: adapt with any decoder, resume, evaluate, predict, export, prune."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import tailor
from tailor.cli import main
from tailor.cli.show import freezing_lines
from tailor.data.images import open_data
from tailor.data.transforms import eval_transform
from tailor.dense.attach import head_of
from tailor.dense.several import Several
from tailor.dense.views import Views
from tailor.errors import DataError, ModelError, UsageError
from tailor.preprocessing import Preprocessing
from tailor.tasks.segmentation import Segmentation
from tailor.workflow import export as exporting

SMALL = {
    "masks": {"width": 32, "queries": 6, "heads": 2, "hidden": 32, "blocks": 2},
    "faseg": {"width": 32, "queries": 6, "heads": 2, "hidden": 32, "blocks": 5, "encoder_layers": 1},
}
SIDE = ("linear", "faseg")
SHORT = {"model": "tailor_mini_ti", "image_size": 32, "epochs": 1, "batch_size": 4, "decoders": SMALL, "progress": None}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Dark ground and a bright square, and a stripe that is not known."""
    root = tmp_path_factory.mktemp("scenes")
    (root / "classes.txt").write_text("ground\nsquare\nvoid\n")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for i in range(count):
            labels = np.zeros((36, 48), dtype=np.uint8)
            y, x = rng.integers(2, 14), rng.integers(2, 26)
            labels[y : y + 18, x : x + 18] = 1
            image = np.where(labels[..., None] == 1, 220, 40) + rng.integers(-20, 20, (36, 48, 3))
            labels[-2:] = 2
            Image.fromarray(image.astype(np.uint8)).save(root / "images" / split / f"{i}.png")
            Image.fromarray(labels).save(root / "labels" / split / f"{i}.png")
    return str(root)


@pytest.fixture(scope="module")
def adapted(scenes, tmp_path_factory):
    return tailor.adapt(scenes, method="eva-2", out=tmp_path_factory.mktemp("seg") / "a", **{**SHORT, "epochs": 3})


def test_the_default_decoder_trains_and_is_reported_as_evaluate_says(adapted, scenes):
    assert adapted.metric == "miou" and adapted.split == "test" and 0 <= adapted.miou <= 1
    again = tailor.evaluate(adapted.bundle, scenes, progress=None)
    assert again.miou == adapted.miou
    assert set(again.per_class) == {"ground", "square"} and again.n == 3
    assert again.worst[0]["source"].endswith(".png")
    assert again.figures["pixel_accuracy"] >= again.figures["miou"]


def test_label_maps_are_compared_at_their_own_size(adapted, scenes):
    model = tailor.load(adapted.bundle)
    split, right, known = open_data(scenes).splits["test"], 0, 0
    from tailor.dense import decode

    for i in range(len(split)):
        image, truth = split.sample(i)
        assert model.transform(image).shape == (3, 32, 32)
        with torch.no_grad():
            guess = decode.label_maps(model(model.transform(image)[None]), [(36, 48)])[0]
        there = truth != 255
        right, known = right + int((guess == truth)[there].sum()), known + int(there.sum())
    again = tailor.evaluate(adapted.bundle, scenes, progress=None)
    assert again.figures["pixel_accuracy"] == pytest.approx(right / known)


def test_a_stopped_run_ends_as_one_that_was_not(scenes, tmp_path, monkeypatch):
    from tailor.workflow import batches

    whole = tailor.adapt(scenes, method="lora-2", out=tmp_path / "whole", **{**SHORT, "epochs": 2})
    made = batches.on_images

    class Stopped(Exception):
        pass

    def breaking(*arguments):
        course = made(*arguments)

        def few(epoch, *rest):
            if epoch == 1:
                raise Stopped
            return course.batches(epoch, *rest)

        return type(course)(course.module, few, course.validate)

    monkeypatch.setattr(batches, "on_images", breaking)
    with pytest.raises(Stopped):
        tailor.adapt(scenes, method="lora-2", out=tmp_path / "a", **{**SHORT, "epochs": 2})
    monkeypatch.undo()
    again = tailor.adapt(scenes, method="lora-2", out=tmp_path / "a", resume=True, **{**SHORT, "epochs": 2})
    ours, theirs = (tailor.load(one.bundle).state_dict() for one in (again, whole))
    assert again.miou == whole.miou
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_pictures_are_drawn_for_each_image(adapted, scenes, tmp_path):
    found = tailor.predict(adapted.bundle, f"{scenes}/images/test", out=tmp_path / "drawn", progress=None)
    assert len(found) == 3
    for one in found:
        with Image.open(one.mask) as mask, Image.open(one.overlay) as overlay:
            assert mask.size == overlay.size == (48, 36)
            assert set(np.unique(np.asarray(mask))) <= {0, 1}
    with pytest.raises(UsageError, match="exists"):
        tailor.predict(adapted.bundle, f"{scenes}/images/test", out=tmp_path / "drawn", progress=None)


def odd(root, size, kind):
    """An image of (height, width), by its kind of pixels."""
    pixels = np.full(size, 200, dtype=np.uint8)
    arrays = {"L": pixels, "I;16": pixels.astype(np.uint16) * 257, "RGB": pixels[..., None].repeat(3, -1)}
    Image.fromarray(arrays[kind]).save(root)


def test_images_of_any_size_and_depth_are_predicted(adapted, tmp_path):
    sizes = {"dot": (1, 1), "strip": (3, 170), "pole": (90, 1), "grey": (20, 31), "deep": (33, 20)}
    (tmp_path / "images").mkdir()
    for name, size in sizes.items():
        odd(tmp_path / "images" / f"{name}.png", size, {"grey": "L", "deep": "I;16"}.get(name, "RGB"))
    for looks in ({}, {"scales": "1,2", "flip": True, "windows": True}):
        out = tmp_path / f"drawn{len(looks)}"
        found = tailor.predict(adapted.bundle, tmp_path / "images", out=out, progress=None, **looks)
        assert len(found) == len(sizes)
        for name, (height, width) in sizes.items():
            with Image.open(out / f"{name}.mask.png") as mask:
                assert mask.size == (width, height)


@pytest.mark.slow  # 24 million pixels
def test_a_photograph_of_24_million_pixels_is_predicted(adapted, tmp_path):
    odd(tmp_path / "large.png", (4000, 6000), "RGB")
    found = tailor.predict(adapted.bundle, tmp_path / "large.png", out=tmp_path / "drawn", progress=None)
    with Image.open(found[0].mask) as mask:
        assert mask.size == (6000, 4000)


@pytest.mark.parametrize("decoder", ["masks", "linear"])
def test_odd_scenes_are_learnt_from_and_counted(decoder, tmp_path):
    """Nothing known, nothing but ground, an object of a pixel, an image of one, grey of 8 and 16 bits."""
    (tmp_path / "classes.txt").write_text("ground\nsquare\nvoid\n")
    dot = np.zeros((36, 48), dtype=np.uint8)
    dot[3, 5] = 1
    scenes = {
        "a": (dot, "RGB"),
        "unknown": (np.full((36, 48), 2), "L"),
        "ground": (np.zeros((20, 31)), "I;16"),
        "one": (np.ones((1, 1)), "RGB"),
    }
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (tmp_path / folder / split).mkdir(parents=True)
        for name, (labels, kind) in scenes.items():
            odd(tmp_path / "images" / split / f"{name}.png", labels.shape, kind)
            Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "labels" / split / f"{name}.png")
    made = tailor.adapt(tmp_path, method="linear", decoder=decoder, out=tmp_path / "run", **SHORT)
    assert 0 <= made.miou <= 1
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows)
    again = tailor.evaluate(made.bundle, tmp_path, progress=None)
    assert again.miou == made.miou and again.n == 4


def test_a_file_is_kept_where_its_masks_agree(adapted, scenes, tmp_path):
    import onnxruntime

    file = tmp_path / "a.onnx"
    with pytest.raises(UsageError, match="compared on images"):
        tailor.export(adapted.bundle, out=file, progress=None)
    made = tailor.export(adapted.bundle, out=file, data=scenes, progress=None)
    assert made.agreement >= 0.999
    session = onnxruntime.InferenceSession(file)
    images = torch.randn(3, 3, *session.get_inputs()[0].shape[2:])
    assert session.run(None, {"images": images.numpy()})[0].shape == (3, 2, *images.shape[2:])


def test_a_file_whose_masks_differ_is_refused():
    scores = torch.randn(1, 2, 4, 4)
    other = scores.clone()
    other[0, :, 0, 0] = scores[0, :, 0, 0].flip(0)
    agreement = exporting._Agreement(torch.nn.Identity(), Segmentation(), [scores[0], scores[0]])
    agreement(lambda example: [example[0]])
    assert agreement.share == 1.0
    with pytest.raises(ModelError, match=r"agrees with the model on 93.75% of the pixels of 2 images"):
        agreement(lambda example: [other])


def test_several_decoders_and_methods_are_compared(scenes, tmp_path, capsys):
    settings = tmp_path / "small.yaml"
    settings.write_text(json.dumps({"decoders": SMALL}))
    words = ["adapt", scenes, "--model", "tailor_mini_ti", "--image-size", "32", "--epochs", "1", "--batch-size", "8"]
    more = [
        "--decoder",
        ",".join(SIDE),
        "--method",
        "linear,lora-2",
        "--config",
        str(settings),
        "-o",
        str(tmp_path / "o"),
    ]
    with pytest.raises(SystemExit) as done:
        main([*words, *more, "-o", str(tmp_path / "o"), "--json"])
    assert done.value.code == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(row["decoder"], row["method"]) for row in rows] == [(d, m) for d in SIDE for m in ("linear", "lora-2")]
    for frozen, tuned in (rows[:2], rows[2:]):
        assert (
            frozen["cost_of_freezing"] == {"lora-2": tuned["miou"] - frozen["miou"]} and not tuned["cost_of_freezing"]
        )
    lines = freezing_lines(rows)
    assert len(lines) == 2 and lines[1].startswith("cost of freezing of `faseg`: miou 0.") and "lora-2" in lines[1]
    assert (tmp_path / "o/faseg/lora-2/bundle.json").is_file()
    settings = [yaml.safe_load((tmp_path / f"o/{name}/lora-2/config.yaml").read_text())["recipe"] for name in SIDE]
    assert [one["clip_norm"] for one in settings] == [1.0, 0.01] and [one["lr"] for one in settings] == [1e-3, 1e-4]
    assert [one["batch_size"] for one in settings] == [8, 8]  # the flag wins
    assert rows[0]["head_params"] == 64 * 2 + 2 + 2 * 64


def test_layers_go_and_the_decoder_reads_what_is_left(adapted, scenes, tmp_path):
    from tailor.pruning.layers import LayerPlan, apply_layers_

    model = tailor.load(adapted.bundle)
    images = torch.randn(1, 3, 32, 64)
    dropped = tuple(f"blocks.{i}" for i in range(8, 12))
    apply_layers_(model, LayerPlan(kept=tuple(range(8)), dropped=dropped, method="test"))
    assert [level.path for level in head_of(model).features(model).levels] == ["blocks.2", "blocks.5"] + [
        "blocks.7"
    ] * 2
    assert model(images).masks().isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decoder": "fasegg"}, "segmentation has no decoder `fasegg`"),
        ({"decoders": {"masks": {"widht": 3}}}, "`widht` of the decoder `masks`"),
        ({"decoders": {"mask": {}}}, "segmentation has no decoder `mask`"),
        ({"decoders": {"masks": 3}}, "are no section"),
    ],
)
def test_decoders_that_cannot_be_are_told(scenes, tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        tailor.adapt(scenes, method="linear", out=tmp_path / "a", **{**SHORT, **settings})
    assert not (tmp_path / "a/bundle.json").exists()


def test_a_classifier_has_no_decoder(photos, tmp_path):
    with pytest.raises(UsageError, match="classification has no decoder"):
        tailor.adapt(photos, method="linear", out=tmp_path / "a", **{**SHORT, "decoders": {}, "decoder": "masks"})


def test_data_of_other_classes_are_refused(adapted, scenes, tmp_path):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(scenes, other)
    (other / "classes.txt").write_text("ground\ncircle\nvoid\n")
    with pytest.raises(DataError, match=r"class 1 of .* is `circle`, the model's is `square`"):
        tailor.evaluate(adapted.bundle, other, progress=None)


def test_widths_go_from_backbone_and_decoder_and_the_bundle_is_read_again(scenes, tmp_path, hurried):
    made = tailor.adapt(scenes, method="linear", out=tmp_path / "a", **SHORT)
    wanted = {"method": "isomorphic", "macs": "70%", "criterion": "l2"}
    cut = tailor.prune(made.bundle, data=scenes, out=tmp_path / "b", progress=None, **wanted)
    assert cut.macs_after <= 0.7 * cut.macs_before
    head = tailor.load(cut.bundle).head.decoder
    assert sum(p.numel() for p in head.parameters()) < made.head_params
    assert tailor.evaluate(cut.bundle, scenes, progress=None).miou == cut.miou_after


@pytest.mark.slow
def test_a_narrower_segmenter_exports_and_its_masks_agree(scenes, tmp_path, hurried):
    made = tailor.adapt(scenes, method="linear", out=tmp_path / "a", **SHORT)
    cut = tailor.prune(
        made.bundle, method="isomorphic", macs="70%", criterion="l2", data=scenes, out=tmp_path / "b", progress=None
    )
    file = tailor.export(cut.bundle, out=tmp_path / "b.onnx", data=scenes, progress=None)
    assert file.agreement >= 0.999 and (tmp_path / "b.onnx").stat().st_size > 1000


def test_sls_compares_what_regions_show(scenes, tmp_path, hurried):
    made = tailor.adapt(scenes, method="linear", out=tmp_path / "a", **SHORT)
    cut = tailor.prune(made.bundle, method="sls", alpha=-1.0, data=scenes, out=tmp_path / "b", progress=None)
    assert 1 <= cut.kept_blocks <= 12
    assert tailor.evaluate(cut.bundle, scenes, progress=None).miou == cut.miou_after


def test_spt_places_modules_only_in_a_dense_task_and_the_same_again(scenes, tmp_path):
    plans = []
    for name in ("a", "b"):
        made = tailor.adapt(
            scenes, method="spt-lora", budget="5%", spt={"samples": 4}, out=tmp_path / name, plan_only=True, **SHORT
        )
        plans.append(json.loads((tmp_path / name / "plan.json").read_text())["spec"]["plans"])
        assert 0 < made.trainable_percent <= 5
    assert plans[0] == plans[1]
    assert plans[0][0]["tunes"] and not plans[0][0]["entries"]


def test_several_looks_are_measured_and_drawn(adapted, scenes, tmp_path):
    looks = {"scales": "1,2", "flip": True, "windows": True}
    often = tailor.evaluate(adapted.bundle, scenes, progress=None, **looks)
    assert 0 <= often.miou <= 1 and often.n == 3
    model, split = tailor.load(adapted.bundle), open_data(scenes).splits["test"]
    seen, read, found = Several(model, Views((1.0, 2.0), True, True), (32, 32)), Preprocessing((64, 64)), []
    for i in range(len(split)):
        image, truth = split.sample(i)
        with torch.no_grad():
            found.append(float(Segmentation().loss(seen(eval_transform(read)(image)[None]), truth[None])[0]))
    assert max(found) == pytest.approx(often.worst[0]["loss"], rel=1e-3)
    image = tmp_path / "large.png"
    Image.new("RGB", (600, 400)).save(image)
    one = tailor.predict(adapted.bundle, image, out=tmp_path / "drawn", progress=None, **looks)[0]
    with Image.open(one.mask) as mask:
        assert mask.size == (600, 400)


def test_the_backbone_s_own_weights_follow_a_slower_rate_and_what_is_put_in_does_not(scenes, tmp_path, monkeypatch):
    from tailor.workflow import batches

    seen = {}
    fit = batches.fit
    monkeypatch.setattr(batches, "fit", lambda model, *a, **k: seen.update(model=model, **k) or fit(model, *a, **k))
    for method in ("lora-2", "full"):
        made = tailor.adapt(scenes, method=method, decoder="faseg", out=tmp_path / method, **SHORT)
        names = {id(p): name for name, p in seen["model"].named_parameters()}
        slow = [names[id(p)] for g in seen["groups"] or () if g.get("lr_scale") == 0.1 for p in g["params"]]
        assert len(slow) == len(set(slow)) and (len(slow) > 50) == (method == "full")
        assert all(not name.startswith("head") and not name.endswith((".up", ".down")) for name in slow)
    trained = {id(p) for p in seen["model"].parameters() if p.requires_grad}
    assert {id(p) for g in seen["groups"] for p in g["params"]} == trained and made.miou >= 0


def test_a_bundle_is_retrained_as_its_decoder_is(tmp_path):
    from tailor.recipe import recipe_of
    from tailor.workflow.train import usual_of

    (tmp_path / "a").mkdir()
    assert usual_of(str(tmp_path / "a")) == {} and recipe_of(None, 0, usual_of("tailor_mini_ti")).clip_norm is None
