"""A bundle's backbone is looked for on this machine; what is not here is named, and fetched only with leave."""

import json
import socket
from dataclasses import replace

import huggingface_hub
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import tailor
from tailor import backbones, bundle
from tailor import build as builder
from tailor.backbones import local
from tailor.errors import ModelError, TailorError
from tailor.preprocessing import Preprocessing
from tailor.spec import BackboneRef
from tailor.tasks.classification import ClassifierHead
from tailor.tuning import planner

NAME = "mobilenetv3_small_050"
REPOSITORY = "timm/mobilenetv3_small_050.lamb_in1k"
ALONE = "someone/small"


class Asked(Exception):
    """The network was asked."""


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch):
    """What the network was asked for, in order."""
    asked = []

    def refuse(*arguments, **others):
        asked.append(arguments[0])
        raise Asked(arguments[0])

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return asked


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The hub's cache, and a function that puts files into it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))

    def put(repository, files):
        place = tmp_path / "cache" / f"models--{repository.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("abc")
        (place / "snapshots" / "abc").mkdir(parents=True)
        for name, write in files.items():
            write(place / "snapshots" / "abc" / name)
        return place / "snapshots" / "abc"

    return put


def weights(path):
    model = timm.create_model(NAME)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    save_file(model.state_dict(), path)


def config(path):
    path.write_text(
        json.dumps({"architecture": NAME, "pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0.5] * 3}})
    )


def a_bundle(out, name, source):
    reference, head = BackboneRef(name, source), ClassifierHead(("ash", "birch"))
    made = builder.base(reference, head)
    plan = planner.plan(made.model, made.anatomy, planner.parse("linear"))
    made = builder.apply_plans_(made, (plan,))
    spec = replace(made.spec, preprocessing=Preprocessing((64, 64)))
    bundle.write(out, spec, bundle.state(made.model, False), complete=False, metrics={}, provenance={})
    return made.model.eval()


def test_what_lies_in_the_hubs_cache_is_used_without_asking(cache, tmp_path, nobody_answers):
    snapshot = cache(REPOSITORY, {"model.safetensors": weights})
    assert local(NAME, "pretrained") == (NAME, str(snapshot / "model.safetensors"))
    model = a_bundle(tmp_path / "b", NAME, str(snapshot / "model.safetensors"))
    manifest = json.loads((tmp_path / "b" / "bundle.json").read_text())
    manifest["spec"]["backbone"]["weights"] = "pretrained"  # as a bundle says whose backbone was fetched
    (tmp_path / "b" / "bundle.json").write_text(json.dumps(manifest))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(tailor.load(tmp_path / "b")(x), model(x))
    assert not nobody_answers
    with torch.no_grad():  # with leave the hub is asked, and where it does not answer its cache serves
        assert torch.equal(tailor.load(tmp_path / "b", download=True)(x), model(x))
    assert nobody_answers


def test_what_is_not_here_is_named_and_not_fetched(cache, tmp_path):
    snapshot = cache(REPOSITORY, {"model.safetensors": weights})
    a_bundle(tmp_path / "b", NAME, str(snapshot / "model.safetensors"))
    for reference, says in (
        ({"weights": "pretrained", "name": NAME + ".other"}, "other"),
        ({"weights": "pretrained", "name": "resnet18"}, "huggingface.co/timm/resnet18.a1_in1k would be fetched"),
        ({"weights": "random", "name": "hf-hub:evil/beacon"}, "huggingface.co/evil/beacon would be fetched"),
        ({"weights": "pretrained", "name": "hf_hub:evil/../x y"}, "would be fetched"),
    ):
        manifest = json.loads((tmp_path / "b" / "bundle.json").read_text())
        manifest["spec"]["backbone"].update(reference)
        (tmp_path / "b" / "bundle.json").write_text(json.dumps(manifest))
        for read in (tailor.load, lambda path: bundle.blank(bundle.read(path))):
            if read is not tailor.load and not reference["name"].startswith("hf"):
                continue
            with pytest.raises(TailorError) as caught:
                read(tmp_path / "b")
            assert says in caught.value.message, caught.value
            if "fetched" in says:
                assert "--download" in caught.value.hint


def test_a_repository_in_the_cache_is_a_folder(cache):
    files = {"config.json": config, "model.safetensors": weights}
    snapshot = cache(ALONE, files)
    assert local(f"hf-hub:{ALONE}", "pretrained") == (f"local-dir:{snapshot}", "pretrained")
    model = backbones.create(*local(f"hf-hub:{ALONE}", "pretrained"))
    assert torch.equal(
        model.conv_stem.weight, backbones.create(NAME, str(snapshot / "model.safetensors")).conv_stem.weight
    )
    (snapshot / "model.safetensors").unlink()
    assert local(f"hf-hub:{ALONE}", "random")[1] == "random"
    with pytest.raises(ModelError, match=r"`model.safetensors` of huggingface.co/someone/small would be fetched"):
        local(f"hf-hub:{ALONE}", "pretrained")


def test_a_file_behind_a_plain_address(cache, tmp_path):
    name = next(n for n in timm.list_pretrained() if not timm.models.get_pretrained_cfg(n).hf_hub_id)
    url = timm.models.get_pretrained_cfg(name).url
    with pytest.raises(ModelError) as caught:
        local(name, "pretrained")
    assert url in caught.value.message
    file = tmp_path / "torch" / "checkpoints" / url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    file.touch()
    assert local(name, "pretrained") == (name, str(file))


@pytest.mark.parametrize(
    "given",
    [("tailor_mini_s", "pretrained"), ("resnet18", "random"), ("resnet18", "x.pth"), ("local-dir:x", "pretrained")],
)
def test_what_needs_no_network_stays(cache, given):
    assert local(*given) == given


VERBS = {
    "predict": lambda path, **given: tailor.predict(path, path.parent / "a.png", **given),
    "evaluate": lambda path, **given: tailor.evaluate(path, path.parent / "photos", **given),
    "bench": lambda path, **given: tailor.bench(str(path), **given),
    "merge": lambda path, **given: tailor.merge(path, out=path.parent / "merged", **given),
    "export": lambda path, **given: tailor.export(path, out=path.parent / "x.pt2", **given),
    "prune": lambda path, **given: tailor.prune(
        str(path), method="isomorphic", out=path.parent / "p", **PRUNE, **given
    ),
    "load": lambda path, **given: tailor.load(path, **given),
    "Predictor": lambda path, **given: tailor.Predictor(path, **given),
}
PRUNE = {"criterion": "l1", "macs": "50%"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_names_what_it_would_fetch_and_fetches_it_with_leave(cache, tmp_path, verb):
    snapshot = cache(REPOSITORY, {"model.safetensors": weights})
    a_bundle(tmp_path / "b", NAME, str(snapshot / "model.safetensors"))
    manifest = json.loads((tmp_path / "b" / "bundle.json").read_text())
    manifest["spec"]["backbone"]["weights"] = "pretrained"
    (tmp_path / "b" / "bundle.json").write_text(json.dumps(manifest))
    (snapshot / "model.safetensors").unlink()
    for place in ("a.png", "photos/ash/a.png", "photos/birch/b.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64)).save(tmp_path / place)
    with pytest.raises(ModelError, match=r"model.safetensors.*would be fetched"):
        VERBS[verb](tmp_path / "b")
    with pytest.raises((Asked, ModelError)) as caught:
        VERBS[verb](tmp_path / "b", download=True)
    assert "would be fetched" not in str(caught.value)


def test_a_package_holds_its_weights_itself(cache, monkeypatch, tmp_path):
    monkeypatch.setattr("tailor.backbones.packaged.file_of", lambda name: tmp_path if "lite0" in name else None)
    assert local("tf_efficientnet_lite0", "pretrained") == ("tf_efficientnet_lite0", "pretrained")
    with pytest.raises(ModelError, match="would be fetched"):
        local("tf_efficientnet_lite1", "pretrained")
