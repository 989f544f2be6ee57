"use strict";
document.documentElement.classList.add("scripted");

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    let done = false;
    try { await navigator.clipboard.writeText(code.textContent); done = true; } catch { /* not allowed here */ }
    if (!done) { getSelection().selectAllChildren(code); }
    button.textContent = done ? "Copied" : "Selected";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

for (const box of document.querySelectorAll("[data-candidates]")) {
  const panels = [...box.querySelectorAll("[data-panel]")];
  const show = key => { for (const panel of panels) { panel.hidden = panel.dataset.panel !== key; } };
  for (const radio of box.querySelectorAll("input[type=radio]")) {
    radio.addEventListener("change", () => show(radio.value));
    if (radio.checked) { show(radio.value); }
  }
  for (const panel of panels) { prepare(panel); }
}

function prepare(panel) {
  const dots = [...panel.querySelectorAll(".dot")];
  const front = panel.dataset.front.split(" ").map(Number);
  const slider = panel.querySelector("input[type=range]");
  const plot = panel.querySelector(".plot");
  const part = name => panel.querySelector(name);
  const said = {name: part(".card .name"), text: part(".card .text"), plans: part(".card .plans")};
  let at = front[slider.value], held = false; // a click holds a candidate, so that the pointer can go to its command

  const choose = index => {
    dots[at].classList.remove("on");
    at = index;
    const data = dots[at].dataset;
    dots[at].classList.add("on");
    for (const key in said) { said[key].textContent = data[key]; }
    part(".card code").textContent = data.command;
    part(".card .command").hidden = !data.command;
    part(".guide").setAttribute("d", `M${data.x},14V252`);
    if (front.includes(index)) {
      slider.value = front.indexOf(index);
      slider.setAttribute("aria-valuetext", `${data.name}, ${data.text}`);
      part("output").textContent = "at most " + data.text.split(",")[0];
    }
  };
  slider.addEventListener("input", () => { held = true; choose(front[slider.value]); });
  dots.forEach((dot, index) => {
    dot.addEventListener("click", () => { held = !(held && at === index); choose(index); });
    dot.addEventListener("pointerenter", event => { if (event.pointerType === "mouse" && !held) { choose(index); } });
  });
  const order = dots.map((dot, index) => index).sort((a, b) => dots[a].dataset.x - dots[b].dataset.x);
  plot.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1}[event.key];
    if (!step) { return; }
    event.preventDefault();
    const next = order[order.indexOf(at) + step];
    if (next !== undefined) { choose(next); }
  });
}

let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const one of opened) { one.open = true; }
});
addEventListener("afterprint", () => { for (const one of opened) { one.open = false; } });
