"""The page of a run: it says what the evidence says, obeys nobody's names, asks no network, and stays small."""

import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import invented
import pytest

from tailor.bundle.evidence import HERE, Asked, CandidateRecord, CostRecord, Map, ModelCost, Score, Width
from tailor.errors import UsageError
from tailor.evidence.page import LARGEST, Mistake, Parity, page, verdict
from tailor.evidence.page.chart import front
from tailor.evidence.page.run import command

EVIL = '<script>parent.document.title = "owned"</script>'
WORSE = "\"'><img src=x onerror=parent.document.title=1>\u202e"


class Read(HTMLParser):
    """Elements with their attributes, and all text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def strangers_run():
    odd = (EVIL, WORSE, "{{ 7 * 7 }}")
    asked = Asked(EVIL, (WORSE, "; rm -rf ~"), {EVIL: WORSE}, {EVIL: WORSE})
    found = invented.evidence(
        versions={EVIL: WORSE},
        machine={WORSE: EVIL},
        asked=asked,
        score=Score(EVIL, True, WORSE, 3, 0.5, 0.5, 0.5, True),
        confusion=((1, 2, 3), (4, 5, 6), (7, 8, 9)),
        candidates=tuple(
            CandidateRecord(EVIL + str(i), WORSE, 1.0 + i, 5, 5, {WORSE: 0.1 * i}, made_by=asked) for i in range(3)
        ),
        network=replace(invented.evidence().network, widths=(Width(f"blocks.0.{EVIL}", 4, 2), Width(WORSE, 4, 2))),
        budget=replace(invented.evidence().budget, method=EVIL, operations=(EVIL, WORSE)),
        layers=replace(invented.evidence().layers, reason=WORSE),
    )
    return invented.run(
        EVIL,
        evidence=found,
        classes=odd,
        backbone=WORSE,
        task=EVIL,
        made_by={EVIL: WORSE},
        plans=(EVIL, WORSE),
        mistakes=(Mistake(EVIL, 1.0, WORSE, 0.5, EVIL, "AAAA"),),
        parity=(Parity(EVIL, reason=WORSE),),
    )


@pytest.mark.parametrize("runs", [1, 2])
def test_names_of_a_stranger_are_text(runs):
    text = page([strangers_run()] * runs)
    read = Read(text)
    assert [*read.all("script")] == [{}]  # ours
    assert all(not key.startswith("on") for _, attrs in read.elements for key in attrs)
    assert {attrs["src"][:23] for attrs in read.all("img")} == {"data:image/jpeg;base64,"}
    assert "\u202e" not in text and "\\u202e" in text  # what turns the direction of text is written out
    assert "49" not in [piece.strip() for piece in read.texts] and "{{ 7 * 7 }}" in text
    assert any(EVIL in piece for piece in read.texts)  # and it is shown, as it is


def test_only_the_script_of_the_page_may_run():
    read = Read(page([invented.run()]))
    (policy,) = [attrs["content"] for attrs in read.all("meta") if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'") and re.search(r"script-src 'sha256-[\w+/=]{44}'", policy)
    assert "unsafe-eval" not in policy and policy.count("unsafe-inline") == 1


@pytest.mark.parametrize("runs", [1, 2])
def test_nothing_is_asked_of_a_network(runs):
    text = page([invented.run(f"run {i}") for i in range(runs)])
    assert "http:" not in text and "https:" not in text and "//" not in re.sub(r"base64,[\w+/=]+|// .*", "", text)
    assert "url(" not in text and "@import" not in text
    places = [(tag, key) for tag, attrs in Read(text).elements for key in attrs if key in ("src", "href", "srcset")]
    assert set(places) == {("img", "src"), ("a", "href")}
    assert [attrs["href"] for attrs in Read(text).all("a")] == ["#evidence"]


def test_a_page_of_everything_at_once_stays_small():
    dice = range(2000)
    classes = tuple(f"class {i} of many" for i in range(400))
    network = replace(
        invented.evidence().network,
        blocks=tuple(f"b.{i}" for i in range(450)),
        widths=tuple(Width(f"b.{i}.mlp", 99, 3) for i in range(450)),
    )
    layers = replace(
        invented.evidence().layers,
        labels=tuple(i % 1000 for i in dice),
        maps=tuple(Map(1 + b % 12, tuple(i % 1000 for i in dice), tuple(i % 997 for i in dice)) for b in range(12)),
    )
    found = invented.evidence(
        candidates=invented.candidates(1500),
        network=network,
        layers=layers,
        confusion=tuple(tuple(1 for _ in classes) for _ in classes),
    )
    size = len(page([invented.run(evidence=found, classes=classes)]).encode())
    assert size < LARGEST
    with pytest.raises(UsageError, match="more than 5,000,000"):
        page([invented.run("x" * LARGEST)])


def test_the_verdict_comes_first():
    read = Read(page([invented.run()]))
    text = " ".join("".join(read.texts).split())
    sentence = "4.1x faster, \u22120.2 \u00b1 2.1 points, 1.4 MB: keep"
    assert sentence in text and next(tag for tag, _ in read.elements if tag in ("h1", "h2")) == "h1"
    assert text.index("keep") < text.index("What could be had")


def scored(after, before=0.64, ratio=4.0, larger=True, counted=True, n=1000):
    costs = CostRecord(ModelCost(25, 10), ModelCost(100, 40), ratio)
    found = invented.evidence(score=Score("accuracy", larger, "test", n, after, before, counted=counted), costs=costs)
    return invented.run(evidence=found)


@pytest.mark.parametrize(
    ("run", "word"),
    [
        (scored(0.64), "keep"),
        (scored(0.70), "keep"),
        (scored(0.62), "keep"),  # two points are less than chance on a thousand images
        (scored(0.61), "weigh"),
        (scored(0.62, n=10_000), "weigh"),
        (scored(0.70, ratio=1.01), "leave"),
        (scored(0.70, ratio=None), "keep"),  # by its MACs where nothing was timed
        (scored(0.63, counted=False), "weigh"),  # without known chance, any loss
        (scored(3.1, before=3.0, larger=False, counted=False), "weigh"),
        (scored(2.9, before=3.0, larger=False, counted=False), "keep"),
        (scored(0.64, before=None), "measured"),
    ],
)
def test_the_rule_of_the_verdict(run, word):
    assert verdict(run).word == word


def test_a_palette_says_how_many_models_it_holds():
    pick = Asked("pick", (HERE,), {"route": "0"})
    rows = tuple(CandidateRecord(str(i), "", 1.0 + i, 5, 5, {"accuracy": 0.5}, made_by=pick) for i in range(3))
    found = invented.evidence(
        candidates=rows, costs=None, score=Score("accuracy", True, "test", 100, 0.5, counted=True)
    )
    assert verdict(invented.run(evidence=found)).sentence.startswith("3 models in one file, 50.0 \u00b1 5.0 % accuracy")


def test_a_command_is_quoted_word_by_word():
    asked = Asked("prune", (HERE, "a b; rm -rf ~"), {"macs": "33%", "exports": True, "lr": 1e-3, "out": "$(x)"})
    line = command(asked, "runs/my photos")
    assert shlex.split(line) == [
        *("tailor", "prune", "runs/my photos", "a b; rm -rf ~"),
        *("--macs", "33%", "--exports", "--lr", "0.001", "-o", "$(x)"),
    ]
    assert command(Asked("adapt", ("photos",)), "runs/fast").endswith(" -o fast-again")


def test_no_candidate_beats_one_on_the_front():
    points = [((i * 37) % 101 / 10, (i * 53) % 97 / 100) for i in range(60)]
    edge = front(points)
    assert edge and [points[i][0] for i in edge] == sorted(points[i][0] for i in edge)
    for i, (cost, value) in enumerate(points):
        beaten = any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points)
        assert (i in edge) != beaten or points.index((cost, value)) != i
    fewer = front([(cost, -value) for cost, value in points], larger=False)
    assert fewer == edge


def test_every_candidate_is_in_the_drawing_and_in_the_table():
    read = Read(page([invented.run()]))
    dots = [attrs for attrs in read.all("g") if attrs.get("class", "").startswith("dot")]
    names = {one.name for one in invented.candidates()}
    assert {attrs["data-name"] for attrs in dots} == names and len(dots) == 3 * len(names)  # three costs
    assert names <= set(read.texts)
    assert all(shlex.split(attrs["data-command"])[:3] == ["tailor", "prune", "runs/fast"] for attrs in dots)


def test_what_a_run_has_not_measured_is_left_out():
    text = page([invented.run(evidence=invented.evidence(**dict.fromkeys(
        ("score", "costs", "network", "budget", "layers", "asked", "seconds"))), mistakes=(), parity=())])  # fmt: skip
    for heading in ("Why blocks went", "The network", "Exports held"):
        assert heading not in text
    empty = page([replace(invented.run(), evidence=type(invented.evidence())(), mistakes=(), parity=())])
    assert "What could be had" not in empty and "Made by" in empty


def test_two_runs_stand_side_by_side():
    other = invented.run("runs/other", bytes=2_824_000, evidence=scored(0.60).evidence)
    read = Read(page([invented.run(), other]))
    text = " ".join("".join(read.texts).split())
    assert "Side by side" in text and "Beside runs/other:" in text and "2x smaller on disk" in text
    assert len(read.all("h1")) == 1 and {name for name, _ in read.elements} >= {"h3", "table"}
    with pytest.raises(UsageError, match="do not fit side by side"):
        page([invented.run()] * 9)


def test_a_screen_reader_finds_its_way():
    read = Read(page([invented.run()]))
    assert all(attrs.get("alt") for attrs in read.all("img"))
    assert all(
        attrs.get("aria-hidden") == "true" or attrs.get("aria-label") or attrs.get("aria-labelledby")
        for attrs in read.all("svg")
    )
    ids = [attrs["id"] for _, attrs in read.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {attrs["aria-labelledby"] for _, attrs in read.elements if "aria-labelledby" in attrs}
    assert wanted <= set(ids)
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and all(b <= a + 2 for a, b in pairwise(levels))
    assert all("scope" in attrs for attrs in read.all("th"))


def luminance(colour):
    value = colour if len(colour) == 7 else "#" + "".join(2 * c for c in colour[1:])
    parts = [int(value[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("scheme", [0, 1, 2], ids=["light", "dark", "print"])
def test_text_stands_out_from_its_paper(scheme):
    (style,) = re.findall(r"<style>(.*?)</style>", page([invented.run()]), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+):(#\w+)", re.findall(r":root\{(.*?)\}", style, re.DOTALL)[scheme]))
    for ink in ("ink", "grey", "blue", "vermilion", "green", "amber"):
        for paper in ("paper", "panel"):
            light, dark = sorted((luminance(colours[ink]), luminance(colours[paper])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{ink} on {paper}"


def test_only_what_was_trained_is_on_the_front_of_a_race():
    rows = [
        CandidateRecord("bare and best", "", 1.0, 10, 10, {"cut": 0.9}),
        CandidateRecord("small", "1 -> 2", 2.0, 20, 20, {"cut": 0.1, "round 1": 0.5}),
        CandidateRecord("middle", "", 3.0, 30, 30, {"cut": 0.2, "round 1": 0.4}),
        CandidateRecord("large", "", 4.0, 40, 40, {"cut": 0.2, "round 1": 0.5, "round 2": 0.7}, True),
    ]
    read = Read(page([invented.run(evidence=invented.evidence(candidates=tuple(rows)))]))
    dots = [attrs for attrs in read.all("g") if attrs.get("class", "").startswith("dot")][:4]
    assert {d["data-name"]: d["class"].split()[1] for d in dots} == {
        "large": "chosen",
        "bare and best": "early",
        "small": "front",
        "middle": "other",
    }
    assert any(d["data-text"] == "4 milliseconds, 70.0 %, after round 2" for d in dots)
    assert any(d["data-plans"] == "1 \u2192 2" for d in dots)
    assert {"milliseconds a batch of 64", "accuracy on val, %"} <= set(read.texts)
