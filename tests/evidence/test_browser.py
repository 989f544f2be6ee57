"""The page in a real browser without a network: it renders, says no error, its slider and keys work, it fits a phone.

One Chromium opens a sheet that holds pages in frames of a desktop's and of a phone's width, moves what can be moved,
and writes down what it saw.
"""

import base64
import html
import json
import re
import shutil
import subprocess

import invented
import pytest
from test_page import strangers_run

from tailor.evidence.page import page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (Debian: `apt-get install chromium`)"),
]

SHEET = """<!doctype html><meta charset="utf-8"><title>untouched</title><body>%s<pre id="seen"></pre><script>
const seen = {};
const point = (frame, query) => frame.contentDocument.querySelector(query);
const said = frame => point(frame, ".panel:not([hidden]) .card .name").textContent;
function look(frame) {
  const page = frame.contentDocument, own = frame.contentWindow, found = {errors: []};
  own.addEventListener("error", event => found.errors.push(event.message));
  found.scripted = page.documentElement.classList.contains("scripted");
  found.wide = page.documentElement.scrollWidth;
  found.inner = own.innerWidth;
  found.asked = own.performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length;
  found.drawn = [...page.querySelectorAll("svg")].filter(svg => {
    const box = svg.getBoundingClientRect(); return box.width > 10 && box.height > 10; }).length;
  found.svgs = [...page.querySelectorAll("svg")].filter(svg => !svg.closest("[hidden]")).length;
  found.pictures = [...page.images].filter(image => image.naturalWidth > 0).length;
  const slider = point(frame, ".panel:not([hidden]) input[type=range]");
  if (slider) {
    found.slid = [];
    for (let i = 0; i <= slider.max; i++) {
      slider.value = i;
      slider.dispatchEvent(new own.Event("input"));
      found.slid.push([said(frame), point(frame, ".panel:not([hidden]) .card code").textContent,
        point(frame, ".panel:not([hidden]) .dot.on").dataset.name, slider.getAttribute("aria-valuetext")]);
    }
    const plot = point(frame, ".panel:not([hidden]) .plot");
    const before = said(frame);
    plot.dispatchEvent(new own.KeyboardEvent("keydown", {key: "ArrowLeft", cancelable: true}));
    found.key = [before, said(frame)];
    const first = point(frame, ".panel:not([hidden]) .dot");
    first.dispatchEvent(new own.MouseEvent("click"));
    found.clicked = [first.dataset.name, said(frame)];
    const radio = [...page.querySelectorAll("input[type=radio]")].at(-1);
    radio.click();
    found.panels = [...page.querySelectorAll(".panel")].filter(p => !p.hidden).map(p => p.dataset.panel);
  }
  return found;
}
addEventListener("load", () => {
  for (const frame of document.querySelectorAll("iframe")) {
    try { seen[frame.id] = look(frame); } catch (error) { seen[frame.id] = {errors: [String(error)]}; }
  }
  seen.title = document.title;
  document.getElementById("seen").textContent = btoa(unescape(encodeURIComponent(JSON.stringify(seen))));
});
</script>"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    pages = {"desk": ([invented.run()], 1200), "phone": ([invented.run()], 360)}
    pages |= {"both": ([invented.run(), invented.run("other")], 390), "evil": ([strangers_run()], 390)}
    frames = "".join(
        f'<iframe id="{name}" width="{wide}" height="800" srcdoc="{html.escape(page(runs))}"></iframe>'
        for name, (runs, wide) in pages.items()
    )
    folder = tmp_path_factory.mktemp("browser")
    (folder / "sheet.html").write_text(SHEET % frames)
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    flags += ["--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking"]
    done = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", f"file://{folder / 'sheet.html'}"], capture_output=True, text=True, timeout=120
    )
    (coded,) = re.findall(r'<pre id="seen">([\w+/=]+)</pre>', done.stdout)
    return {**json.loads(base64.b64decode(coded)), "console": re.findall(r".*CONSOLE.*", done.stderr)}


@pytest.mark.parametrize("name", ["desk", "phone", "both", "evil"])
def test_it_renders_and_nothing_fails(seen, name):
    found = seen[name]
    assert found["errors"] == [] and seen["console"] == []
    assert found["scripted"] and found["asked"] == 0
    assert found["drawn"] == found["svgs"] >= 8


@pytest.mark.parametrize("name", ["desk", "phone", "both", "evil"])
def test_it_fits_its_width(seen, name):
    assert seen[name]["wide"] <= seen[name]["inner"]


def test_pictures_are_seen(seen):
    assert seen["desk"]["pictures"] == len(invented.run().mistakes)


def test_the_slider_goes_along_the_front(seen):
    slid = seen["desk"]["slid"]
    known = {one.name: one for one in invented.candidates()}
    assert len(slid) >= 4 and all(name == on and said.startswith(name) for name, _, on, said in slid)
    costs = [known[name].ms for name, *_ in slid]
    scores = [[*known[name].scores.values()][-1] for name, *_ in slid]
    assert costs == sorted(costs) and scores == sorted(scores)
    assert all(line.startswith("tailor prune runs/fast --method isomorphic --macs") for _, line, *_ in slid)


def test_keys_and_clicks_choose(seen):
    for name in ("desk", "phone"):
        before, after = seen[name]["key"]
        assert before != after
        assert seen[name]["clicked"][0] == seen[name]["clicked"][1]
        assert seen[name]["panels"] == ["params"]


def test_a_strangers_class_runs_no_script(seen):
    assert seen["title"] == "untouched"
