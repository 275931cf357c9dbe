"""The page itself: HTML, style and script in one piece, nothing from elsewhere, no build step.

All that comes from the store is put into the page as text, but for two things that the server has drawn
and escaped: the wheel and the ladder of an explained read.
"""

# ruff: noqa: E501 - lines of another language

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_STYLE = """
:root { color-scheme: light dark; --line: rgba(128,128,128,.35); --soft: rgba(128,128,128,.12); --up: #1a7f37;
  --down: #d1242f; --between: #9a6700; --one: #0072b2; --two: #d55e00; --bg: #fff; --ink: #1c1c1c; }
@media (prefers-color-scheme: dark) { :root { --bg: #15181c; --ink: #e8e8e8; --up: #3fb950; --down: #ff6b64;
  --between: #d29922; --one: #58a6ff; --two: #f0883e; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 12px; background: var(--bg); color: var(--ink); font: 14px/1.4 system-ui, sans-serif; }
header { display: flex; flex-wrap: wrap; gap: 4px 18px; align-items: baseline; margin-bottom: 10px; }
h1 { font-size: 20px; margin: 0; } h2 { font-size: 15px; margin: 0 0 6px; }
main { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
section { border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; min-width: 0; overflow-x: auto; }
section.wide { grid-column: 1 / -1; } section > table + h2 { margin-top: 12px; } td.number, th.number { text-align: right; }
@media (prefers-color-scheme: dark) { #wheel svg, #ladder svg { filter: invert(0.92) hue-rotate(180deg); } }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: 3px 10px 3px 0; white-space: nowrap; }
tbody tr { border-top: 1px solid var(--line); } td.wrap { white-space: normal; min-width: 200px; }
.up, .good { color: var(--up); font-weight: 600; } .down, .bad, .critical { color: var(--down); font-weight: 600; }
.between, .warning { color: var(--between); font-weight: 600; } .soft { opacity: .7; }
#wheel svg { max-width: 100%; height: auto; } #ladder svg { max-width: none; }
#ladder { overflow-x: auto; margin-top: 8px; } #ladder > div { background: transparent !important; }
ol { margin: 0; padding: 0; list-style: none; max-height: 320px; overflow-y: auto; } li { padding: 2px 0; }
input, button { font: inherit; color: inherit; background: var(--soft); border: 1px solid var(--line); border-radius: 6px;
  padding: 5px 9px; max-width: 100%; }
button { cursor: pointer; } :focus-visible { outline: 2px solid var(--one); outline-offset: 2px; }
form { display: flex; flex-wrap: wrap; gap: 6px; align-items: end; } label { display: grid; gap: 2px; }
nav { display: flex; flex-wrap: wrap; gap: 4px; } nav[hidden] { display: none; }
nav a { color: inherit; text-decoration: none; border: 1px solid var(--line); border-radius: 6px; padding: 2px 9px; }
nav a[aria-current] { background: var(--soft); font-weight: 600; } progress { width: 100%; height: 10px; accent-color: var(--one); }
svg.chart { width: 100%; height: 100px; display: block; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 12px; margin: 0 0 12px 46px; }
.legend span::before { content: ""; display: inline-block; width: 14px; height: 3px; margin: 0 6px 3px 0; background: var(--key); } #trouble:empty { display: none; }
#trouble { color: var(--down); font-weight: 600; }
@media (prefers-reduced-motion: reduce) { * { transition: none !important; } }
"""

_SCRIPT = """
"use strict";
const $ = (id) => document.getElementById(id);
const make = (tag, text, kind) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text;
  if (kind) e.className = kind; return e; };
const size = (b) => { if (b === null || b === undefined) return "?"; const u = ["B", "KiB", "MiB", "GiB", "TiB"]; let i = 0;
  while (b >= 1024 && i < 4) { b /= 1024; i++; } return (i ? b.toFixed(1) : b) + " " + u[i]; };
const clock = (s) => new Date(s * 1000).toLocaleTimeString();
const ns = "http://www.w3.org/2000/svg";
function chart(id, rows, lines, unit) {
  const svg = $(id), w = Math.max(200, svg.clientWidth || 600), h = 100, left = 46, top = 8, low = 92;
  svg.setAttribute("viewBox", `0 0 ${w} ${h}`); svg.replaceChildren();
  const most = Math.max(1, ...rows.flatMap((r) => lines.map(([name]) => r[name])));
  const el = (tag, at, text) => { const e = document.createElementNS(ns, tag);
    for (const [k, v] of Object.entries(at)) e.setAttribute(k, v); if (text !== undefined) e.textContent = text;
    svg.append(e); return e; };
  for (const share of [0, 0.5, 1]) { const y = low - share * (low - top);
    el("line", { x1: left, x2: w - 4, y1: y, y2: y, stroke: "currentColor", "stroke-opacity": 0.15 });
    el("text", { x: left - 6, y: y + 4, "text-anchor": "end", fill: "currentColor", "font-size": 11 },
      (share * most).toFixed(most < 10 ? 1 : 0)); }
  const legend = $(id + "-legend");
  if (!rows.length) { el("text", { x: w / 2, y: 55, "text-anchor": "middle", fill: "currentColor" }, "no traffic seen yet");
    legend.replaceChildren("\u00a0"); return; }
  const first = rows[0].at_s, last = Math.max(first + 60, rows[rows.length - 1].at_s);
  for (const [name, colour] of lines) {
    el("polyline", { fill: "none", stroke: `var(${colour})`, "stroke-width": 1.6, points: rows.map((r) =>
      `${(left + (r.at_s - first) / (last - first) * (w - left - 6)).toFixed(1)},${(low - r[name] / most * (low - top)).toFixed(1)}`
    ).join(" ") }); }
  const now = rows[rows.length - 1], words = lines.map(([name, , label]) => `${label} ${now[name]}${unit}`);
  legend.replaceChildren(...lines.map(([, colour], index) => { const e = make("span", words[index]);
    e.style.setProperty("--key", `var(${colour})`); return e; }));
  svg.setAttribute("aria-label", words.join(", "));
}
function table(id, columns, rows) {
  const head = make("tr"); for (const c of columns) { const th = make("th", c); th.scope = "col"; head.append(th); }
  const body = make("tbody");
  for (const row of rows) { const tr = make("tr"); for (const cell of row) tr.append(cell instanceof Node ? cell : make("td", cell));
    body.append(tr); }
  if (!rows.length) { const td = make("td", "none", "soft"); td.colSpan = columns.length; const tr = make("tr"); tr.append(td); body.append(tr); }
  const thead = make("thead"); thead.append(head); $(id).replaceChildren(thead, body);
}
addEventListener("resize", () => { if (last) show(last); });
let wheel = "", last = null, most = 1, since = "";
const store = new URLSearchParams(location.search).get("store") || "";
const at = (path, more) => path + "?" + new URLSearchParams({ store, ...more });
const me = Math.random().toString(36).slice(2);
function show(s) {
  $("trouble").textContent = s.trouble || "";
  if (s.events) $("events").replaceChildren(...s.events.map((e) => { const li = make("li");
    li.append(make("time", clock(e.at_s), "soft"), " ", make("span", e.what, e.kind));
    if (e.cause) li.append(make("span", ": " + e.cause)); return li; }),
    ...(s.events.length ? [] : [make("li", "nothing yet", "soft")]));
  if (!s.nodes) return;
  last = s;
  document.title = `${s.store} - raykv`; $("store").textContent = `store ${s.store}`;
  $("about").textContent = `${s.nodes.length} nodes, ${s.copies} copies, ring epoch ${s.epoch}; buckets: ${s.buckets.join(", ")}`;
  const m = s.moving; $("moves").hidden = !m;
  if (m) { $("moving").textContent = `${m.partitions_left} partitions still to move` + (m.paused ? ", paused" : "") + `: ${m.why}`;
    most = Math.max(most, m.partitions_left); $("done").max = most; $("done").value = most - m.partitions_left;
    $("wave").textContent = [m.moving.length ? `now ${m.moving.join(", ")} (${m.step})` : "", m.waits_for].filter(Boolean).join("; "); }
  else most = 1;
  $("now").textContent = clock(s.at_s);
  if (s.wheel !== wheel) { wheel = s.wheel; fetch(at("/api/wheel")).then((r) => r.text()).then((svg) => { $("wheel").innerHTML = svg; }); }
  const ill = s.nodes.some((n) => n.cause);
  table("nodes", ["node", "state", ...(ill ? ["cause"] : []), "host", "zone", "partitions", "records", "on disk", "free", "memory", "hints", "ops/s", "p99", "restarts"],
    s.nodes.map((n) => { const td = make("td", n.complete === false ? `${n.state}, incomplete` : n.state,
        n.state === "up" ? (n.complete === false ? "between" : "up") : n.state === "down" ? "down" : "between");
      const cause = make("td", n.cause, "wrap");
      return [n.node_id, td, ...(ill ? [cause] : []), n.host, n.zone, n.partitions, n.records === null ? "?" : n.records.toLocaleString(), size(n.disk_bytes), size(n.free_bytes), size(n.memory_bytes),
        n.hints, n.ops_per_s ?? "", n.p99_ms === null || n.p99_ms === undefined ? "" : `${n.p99_ms} ms`, n.restarts]; }));
  chart("ops", s.history, [["ops", "--one", "answers a second"], ["errors", "--two", "errors a second"]], "");
  chart("times", s.history, [["p50_ms", "--one", "p50"], ["p99_ms", "--two", "p99"]], " ms");
  table("hot", ["bucket", "key", "operations a second"], s.hot.map((k) => [k.bucket, k.key, k.ops_per_s]));
  table("large", ["bucket", "key", "size"], s.large.map((k) => [k.bucket, k.key, size(k.bytes)]));
  table("waited", ["operation", "how many", "p50 below", "p99 below"], s.waited.map((k) =>
    [k.kind.replace("_", " "), k.count.toLocaleString(), `${k.p50_ms} ms`, `${k.p99_ms} ms`]));
  $("clients").textContent = `${s.clients} client ${s.clients === 1 ? "process has" : "processes have"} reported within ten minutes; each reports twice a minute, and when it ends.`;
  $("findings").replaceChildren(...s.findings.map((f) => { const li = make("li");
    li.append(make("span", `${f.subject}: ${f.what}. `, f.severity), make("span", f.do, "soft")); return li; }),
    ...(s.findings.length ? [] : [make("li", "nothing", "good")]));
}
async function look() {
  let again = 2;
  try { const r = await fetch(at("/api/state", { page: me, since }));
    if (r.status === 401) { location.reload(); return; }
    again = Number(r.headers.get("Raykv-Again-S")) || again;
    if (r.status === 200) { show(await r.json()); since = r.headers.get("Raykv-Look"); }
    else if (r.status !== 204) { $("trouble").innerHTML = await r.text(); since = ""; } }
  catch (e) { $("trouble").textContent = "the dashboard does not answer: " + e.message; since = ""; }
  setTimeout(look, 1000 * (document.hidden ? 3 * again : again));
}
async function list() {
  try { const names = await (await fetch(at("/api/stores"))).json(); const nav = $("stores"); nav.hidden = names.length < 2;
    nav.replaceChildren(...names.map((name, index) => { const a = make("a", name); a.href = "/?" + new URLSearchParams({ store: name });
      if (name === store || (!store && !index)) a.setAttribute("aria-current", "page"); return a; })); }
  catch (e) { /* the page says so */ }
  setTimeout(list, 30000);
}
$("find").addEventListener("submit", async (event) => { event.preventDefault();
  $("ladder").setAttribute("aria-busy", "true");
  try { const r = await fetch(at("/api/explain", { bucket: $("bucket").value || "default", key: $("key").value })); $("ladder").innerHTML = await r.text(); }
  catch (e) { $("ladder").textContent = e.message; }
  $("ladder").removeAttribute("aria-busy"); });
for (const name of COMMANDS) { const b = make("button", name); b.type = "button"; $("commands").append(b, " ");
  b.addEventListener("click", async () => { if (!confirm(`${name}?`)) return; b.disabled = true;
    try { const r = await fetch(at("/api/do/" + encodeURIComponent(name)), { method: "POST" }); $("said").textContent = (await r.json()).said; }
    catch (e) { $("said").textContent = e.message; } b.disabled = false; }); }
if (COMMANDS.length) $("admin").hidden = false;
look(); list();
"""

_BODY = """
<header><h1 id="store">raykv</h1><span id="about" class="soft"></span><span id="now" class="soft"></span>
<nav id="stores" aria-label="Stores" hidden></nav><span id="trouble" role="alert"></span></header>
<main>
<section aria-label="Ring"><h2>Ring</h2><div id="wheel"></div></section>
<section aria-label="Traffic"><h2>Traffic at the nodes</h2><svg id="ops" class="chart" role="img"></svg><div id="ops-legend" class="legend"></div>
<h2>Latency at the nodes</h2><svg id="times" class="chart" role="img"></svg>
<div id="times-legend" class="legend"></div></section>
<section class="wide" id="moves" aria-label="Moves" hidden><h2>Moves</h2><div id="moving" class="between" role="status"></div>
<progress id="done" aria-label="partitions moved"></progress><div id="wave" class="soft"></div></section>
<section class="wide" aria-label="Nodes"><h2>Nodes</h2><table id="nodes"></table></section>
<section aria-label="Events"><h2>What happened</h2><ol id="events" tabindex="0"></ol></section>
<section aria-label="Findings"><h2>To look after</h2><ol id="findings" tabindex="0"></ol></section>
<section aria-label="Keys"><h2>Hot keys</h2><table id="hot"></table><h2>Largest pairs</h2><table id="large"></table></section>
<section aria-label="Clients"><h2>Waited by clients</h2><table id="waited"></table><p id="clients" class="soft"></p></section>
<section class="wide" aria-label="A key"><h2>What a read of a key does</h2>
<form id="find"><label>bucket<input id="bucket" placeholder="default" autocomplete="off"></label>
<label>key<input id="key" required autocomplete="off"></label><button>explain</button></form>
<div id="ladder" aria-live="polite"></div></section>
<section class="wide" id="admin" aria-label="Commands" hidden><h2>Commands</h2><div id="commands"></div><p id="said" role="status"></p>
</section>
</main>
"""


def page(nonce: str, commands: Sequence[str]) -> str:
    """Return the page. ``nonce``: what its script is allowed by; ``commands``: names of buttons, for administrators."""
    named = json.dumps(list(commands)).replace("<", "\\u003c")
    script = f'<script nonce="{escape(nonce)}">const COMMANDS = {named};{_SCRIPT}</script>'
    return _document("raykv", _BODY + script)


def login(said: str = "") -> str:
    """Return the form that asks for the token."""
    return _document(
        "raykv: token",
        f"""<header><h1>raykv</h1></header><main><section><h2>Token</h2><p class="down" role="alert">{escape(said)}</p>
<form method="post" action="/login"><label><span>the token that <code>raykv dashboard</code> has printed</span>
<input name="token" type="password" required autofocus autocomplete="off"></label><button>open</button></form></section></main>""",
    )


def text(said: str) -> str:
    """Return a line of text as HTML."""
    return f'<p class="down">{escape(said)}</p>'


def _document(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>"
    )
