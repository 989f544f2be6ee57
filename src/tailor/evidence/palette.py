"""A palette in pictures: what each route costs and how good it is, as a PNG and as one page that needs no network.

Where accuracies were not measured the routes stand by their score, the importance that the sampler gave them.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, StrictUndefined
from matplotlib.axes import Axes

from tailor.evidence.canvas import BLUE, FAINT, GREY, INK, PALE, VERMILION, head, save, sheet


class Route(Protocol):
    """What is drawn of a route."""

    @property
    def route(self) -> str: ...  # noqa: D102

    @property
    def macs(self) -> int: ...  # noqa: D102

    @property
    def deployed(self) -> bool: ...  # noqa: D102

    @property
    def score(self) -> float: ...  # noqa: D102

    @property
    def latency_ms(self) -> float | None: ...  # noqa: D102

    @property
    def accuracy(self) -> float | None: ...  # noqa: D102


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points (cost, value) that no other beats in both, by rising cost."""
    best, found = float("-inf"), []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best:
            best = points[index][1]
            found.append(index)
    return found


def palette_plot(routes: Sequence[Route], out: Path, metric: str) -> Path:
    """The routes against MACs and, where they were measured, against milliseconds: anchors, front, deployed routes."""
    scored = [route for route in routes if route.accuracy is not None]
    value: Callable[[Any], float] = (lambda r: 100 * r.accuracy) if scored else (lambda r: r.score)
    label = f"{metric}, %" if scored else "importance"
    timed = [route for route in (scored or routes) if route.latency_ms is not None]
    figure, axes = sheet(10.4 if timed else 5.6, 4.2, 1, 2 if timed else 1)
    _panel(axes[0], scored or routes, lambda r: r.macs / 1e9, value, "GMACs", label)
    if timed:
        _panel(axes[1], timed, lambda r: r.latency_ms, value, "milliseconds, batch 1, this machine", label)
    head(axes[0], "Routes of the palette", f"{len(routes)} routes, {sum(r.deployed for r in routes)} deployed")
    return save(figure, out)


def _panel(
    ax: Axes,
    routes: Sequence[Any],
    cost: Callable[[Any], float],
    value: Callable[[Any], float],
    xlabel: str,
    ylabel: str,
) -> None:
    points = [(cost(route), value(route)) for route in routes]
    line = front(points)
    ax.grid(color=FAINT, linewidth=0.8)
    ax.step([points[i][0] for i in line], [points[i][1] for i in line], where="post", color=PALE, zorder=1)
    groups = [
        ("stitched", GREY, "o", 14, [i for i, r in enumerate(routes) if "." in r.route and not r.deployed]),
        ("deployed", BLUE, "o", 30, [i for i, r in enumerate(routes) if "." in r.route and r.deployed]),
        ("anchors", VERMILION, "s", 42, [i for i, r in enumerate(routes) if "." not in r.route]),
    ]
    for name, colour, marker, size, which in groups:
        if which:
            places = [points[i] for i in which]
            ax.scatter(
                [x for x, _ in places], [y for _, y in places], s=size, c=colour, marker=marker, label=name, zorder=2
            )
    ax.set_xlabel(xlabel, color=INK, fontsize=9)
    ax.set_ylabel(ylabel, color=INK, fontsize=9)
    ax.legend(frameon=False, fontsize=8, loc="lower right")


def palette_page(routes: Sequence[Route], out: Path, metric: str, anchors: Sequence[str]) -> Path:
    """One HTML file: the routes under the pointer, against MACs or milliseconds, and the command that picks one."""
    rows = [
        {
            "route": route.route,
            "macs": route.macs,
            "ms": route.latency_ms,
            "accuracy": route.accuracy,
            "score": route.score,
            "deployed": route.deployed,
        }
        for route in routes
    ]
    data = json.dumps(rows).replace("</", "<\\/")
    page = Environment(undefined=StrictUndefined, autoescape=True).from_string(_PAGE)
    text = page.render(rows=rows, data=data, metric=metric, anchors=list(enumerate(anchors)))
    out.write_text(text, encoding="utf-8")
    return out


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Palette</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;color:#1f2933;max-width:64rem;margin:2rem auto;padding:0 1rem}
svg{width:100%;height:auto;background:#fff}svg text{font-size:12px;fill:#66717e}
circle,rect.p{cursor:pointer}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #e4e7eb}
td:first-child,th:first-child{text-align:left}
code{background:#f3f5f7;padding:.1rem .3rem}#tip{min-height:1.6em}.on{font-weight:700}
</style></head><body>
<h1>Palette</h1>
<p>{% for number, name in anchors %}anchor {{ number }}: <code>{{ name }}</code>{{ "; " if not loop.last }}{% endfor %}.
Route <code>0.6-1.7</code> leaves anchor 0 behind block 6 and goes on in anchor 1 with block 7.</p>
<p><label><input type="radio" name="x" value="macs" checked> MACs</label>
<label><input type="radio" name="x" value="ms"> milliseconds (batch 1, the machine that trained)</label></p>
<svg id="plot" viewBox="0 0 760 400" role="img" aria-label="routes by cost and {{ metric }}"></svg>
<p id="tip">Point at a route; a click copies the command that picks it.</p>
<table><thead><tr><th>route</th><th>GMACs</th><th>ms</th><th>{{ metric }}</th><th>importance</th><th>deployed</th></tr>
</thead><tbody>
{% for row in rows %}<tr><td>{{ row.route }}</td><td>{{ "%.4f"|format(row.macs / 1e9) }}</td>
<td>{{ "%.3f"|format(row.ms) if row.ms is not none else "" }}</td>
<td>{{ "%.1f %%"|format(100 * row.accuracy) if row.accuracy is not none else "" }}</td>
<td>{{ "%.4g"|format(row.score) }}</td><td>{{ "yes" if row.deployed else "" }}</td></tr>
{% endfor %}</tbody></table>
<script>
const rows={{ data|safe }}, svg=document.getElementById("plot"), tip=document.getElementById("tip");
const measured=rows.some(r=>r.accuracy!==null), value=r=>measured?(r.accuracy===null?null:100*r.accuracy):r.score;
function draw(key){
 const points=rows.filter(r=>r[key]!==null&&value(r)!==null);
 svg.innerHTML="";
 if(!points.length){tip.textContent="nothing was measured for this axis";return}
 const xs=points.map(r=>r[key]), ys=points.map(value), pad=(a,b)=>[a-(b-a||1)*.05,b+(b-a||1)*.05];
 const [x0,x1]=pad(Math.min(...xs),Math.max(...xs)), [y0,y1]=pad(Math.min(...ys),Math.max(...ys));
 const X=v=>60+680*(v-x0)/(x1-x0), Y=v=>350-330*(v-y0)/(y1-y0);
 const add=(kind,at,text)=>{const e=document.createElementNS("http://www.w3.org/2000/svg",kind);
  for(const k in at)e.setAttribute(k,at[k]);if(text!==undefined)e.textContent=text;svg.appendChild(e);return e};
 for(let i=0;i<=4;i++){const v=y0+(y1-y0)*i/4;add("line",{x1:60,x2:740,y1:Y(v),y2:Y(v),stroke:"#e4e7eb"});
  add("text",{x:52,y:Y(v)+4,"text-anchor":"end"},v.toPrecision(3));
  const u=x0+(x1-x0)*i/4, said=key==="macs"?u/1e9:u;
  add("text",{x:X(u),y:372,"text-anchor":"middle"},said.toPrecision(3))}
 add("text",{x:400,y:394,"text-anchor":"middle"},key==="macs"?"GMACs":"milliseconds");
 let best=-Infinity, line="";
 for(const r of [...points].sort((a,b)=>a[key]-b[key]))if(value(r)>best){
  line+=(line?`H${X(r[key])}V`:`M${X(r[key])},`)+Y(value(r));best=value(r)}
 add("path",{d:line,fill:"none",stroke:"#86b6d8"});
 for(const r of points){const anchor=!r.route.includes(".");
  const e=anchor?add("rect",{class:"p",x:X(r[key])-5,y:Y(value(r))-5,width:10,height:10,fill:"#d55e00"}):
   add("circle",{cx:X(r[key]),cy:Y(value(r)),r:r.deployed?5:3.5,fill:r.deployed?"#0072b2":"#9aa5b1"});
  e.onmouseenter=()=>{tip.textContent=`route ${r.route}: ${(r.macs/1e9).toPrecision(4)} GMACs`+
   (r.ms===null?"":`, ${r.ms.toPrecision(3)} ms`)+(r.accuracy===null?"":`, ${(100*r.accuracy).toFixed(1)} %`)+
   (r.deployed?", deployed":"")};
  e.onclick=()=>{const c=`tailor pick PALETTE --route ${r.route} -o OUT`;
   if(navigator.clipboard)navigator.clipboard.writeText(c);tip.textContent=c}}
}
for(const e of document.getElementsByName("x"))e.onchange=()=>draw(e.value);
draw("macs");
</script></body></html>
"""
