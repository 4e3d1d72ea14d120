"""The page's style sheet: light, dark, narrow and printed."""

from __future__ import annotations

LIGHT = (
    "--bg:#f5f6f8;--card:#fff;--ink:#161a22;--soft:#586174;--faint:#8a93a5;--line:#e3e6ec;--grid:#eceef3;"
    "--none:#eef0f4;--mute:#c6ccd8;--bad:#c2293a;--good:#0b7a62;--warn:#9a5b00;--tint:#eef3fd;"
    "--c1:#2a62d6;--c2:#c9650a;--c3:#0b8472;--c4:#a03c95;--c5:#b08d00;--c6:#2f93c4;--c7:#9c4a3c;--c8:#6d778a;"
    "--shadow:0 1px 2px rgba(20,28,46,.05),0 6px 20px -8px rgba(20,28,46,.10);color-scheme:light"
)
DARK = (
    "--bg:#0d1016;--card:#151a22;--ink:#e9ecf2;--soft:#a2abbc;--faint:#77819a;--line:#262d39;--grid:#222935;"
    "--none:#1e2530;--mute:#414b5c;--bad:#ff7b81;--good:#4fd0ae;--warn:#f0b25c;--tint:#17233b;"
    "--c1:#6c9dff;--c2:#ff9f4a;--c3:#41c9b3;--c4:#e389d9;--c5:#e2c54a;--c6:#74c7ef;--c7:#e0897a;--c8:#97a2b6;"
    "--shadow:none;color-scheme:dark"
)
COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "mute", "none", "bad")

_BASE = """
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:64px;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 Inter,system-ui,-apple-system,"Segoe UI",
Roboto,
"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums;-webkit-font-smoothing:antialiased}
h1,h2,h3,p,ul,figure,table{margin:0;padding:0}
ul{list-style:none}
a{color:var(--c1)}
code,pre,.mono{font-family:ui-monospace,SFMono-Regular,"Cascadia Mono",Menlo,Consolas,"Liberation Mono",
monospace;
font-size:.86em}
.page{max-width:1260px;margin:0 auto;padding:0 20px 48px}
.bar{position:sticky;top:0;z-index:5;background:color-mix(in srgb,var(--bg) 86%,transparent);
backdrop-filter:blur(10px);-webkit-backdrop-filter:blur(10px);border-bottom:1px solid var(--line)}
.bar>div{max-width:1260px;margin:0 auto;padding:9px 20px;display:flex;align-items:center;gap:18px}
.bar .brand{font-weight:700;letter-spacing:-.01em}
.bar nav{display:flex;gap:2px;overflow-x:auto;scrollbar-width:none;flex:1}
.bar nav a{color:var(--soft);text-decoration:none;padding:4px 10px;border-radius:7px;white-space:nowrap;
font-size:14px}
.bar nav a:hover{background:var(--none);color:var(--ink)}
button{font:inherit;font-size:13px;color:var(--soft);background:var(--card);border:1px solid var(--line);
border-radius:8px;padding:4px 11px;cursor:pointer}
button:hover{color:var(--ink);border-color:var(--faint)}
:focus-visible{outline:2px solid var(--c1);outline-offset:2px;border-radius:6px}
.hero{padding:36px 0 26px}
.hero .top{display:flex;flex-wrap:wrap;align-items:center;gap:10px 14px}
h1{font-size:clamp(26px,3.6vw,38px);line-height:1.12;letter-spacing:-.025em;font-weight:720;
overflow-wrap:anywhere}
.badge{display:inline-flex;align-items:center;gap:7px;padding:3px 11px 3px 9px;border-radius:99px;
font-size:13px;
font-weight:600;border:1px solid currentColor}
.badge::before{content:"";width:8px;height:8px;border-radius:50%;background:currentColor}
.badge.finished{color:var(--good)}
.badge.interrupted{color:var(--warn)}
.badge.failed{color:var(--bad)}
.verdict{margin-top:12px;font-size:clamp(17px,1.9vw,21px);line-height:1.42;color:var(--soft);max-width:56em;
text-wrap:pretty}
.verdict b{font-weight:680}
.runs{display:grid;grid-template-columns:auto auto 1fr;gap:8px 16px;align-items:center;margin-top:16px}
.runs .verdict{font-size:16px;margin:0}
.runs .verdict b{color:var(--ink)}
.runs .chip{font-size:14px;max-width:none}
.card.empty{background:none;box-shadow:none;border-style:dashed}
.facts{display:flex;flex-wrap:wrap;gap:6px 20px;margin-top:14px;font-size:13px;color:var(--faint)}
.facts b{font-weight:500;color:var(--soft)}
.banner{border:1px solid color-mix(in srgb,var(--warn) 45%,transparent);background:color-mix(in srgb,
var(--warn) 9%,
var(--card));border-radius:12px;padding:12px 16px;margin-bottom:18px;font-size:14px}
.banner ul{margin-top:4px;color:var(--soft)}
.banner li::before{content:"· "}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(172px,1fr));gap:14px}
.tiles.four{grid-template-columns:repeat(4,1fr)}
.tiles+.tiles,.runname+.tiles{margin-top:10px}
.runname{margin:20px 0 0;font-size:14px;font-weight:600}
.tile{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:14px 16px 12px;
box-shadow:var(--shadow);display:flex;flex-direction:column;min-width:0}
.tile .k{font-size:13px;color:var(--soft)}
.tile .v{font-size:27px;line-height:1.2;font-weight:690;letter-spacing:-.025em;margin-top:3px;
white-space:nowrap}
.tile .v small{font-size:.56em;font-weight:600;letter-spacing:0;color:var(--soft)}
.tile .d{font-size:12.5px;color:var(--faint);line-height:1.4;margin-top:2px}
.spark *{vector-effect:non-scaling-stroke}
.tile .spark{margin-top:auto;padding-top:6px;width:100%;height:36px}
.up{color:var(--good)}
.down{color:var(--bad)}
section{padding-top:34px}
h2{font-size:20px;letter-spacing:-.015em;font-weight:690;margin-bottom:12px}
.grid{display:grid;grid-template-columns:repeat(12,minmax(0,1fr));gap:18px}
.card{background:var(--card);border:1px solid var(--line);border-radius:16px;padding:18px 20px 16px;
box-shadow:var(--shadow);min-width:0;break-inside:avoid;display:flex;flex-direction:column}
.card>.numbers{margin-top:auto}
.card>.numbers::before{content:"";display:block;height:10px}
.w3{grid-column:span 3}
.w4{grid-column:span 4}
.w5{grid-column:span 5}
.w6{grid-column:span 6}
.w7{grid-column:span 7}
.w8{grid-column:span 8}
.w12{grid-column:span 12}
.card header{display:flex;justify-content:space-between;gap:12px;align-items:baseline}
h3{font-size:15px;font-weight:660;letter-spacing:-.005em}
.chip{font-size:12px;font-weight:600;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;
max-width:60%}
.chip::before,.runname::before{content:"";display:inline-block;width:9px;height:9px;border-radius:3px;
background:currentColor;margin-right:6px}
.cap{color:var(--soft);font-size:13.5px;line-height:1.45;margin:3px 0 12px;max-width:64em;text-wrap:pretty}
.note{color:var(--faint);font-size:12.5px;margin-top:8px}
figure{position:relative}
figure+figure,figure+.legend,.legend+figure{margin-top:8px}
svg{display:block;max-width:100%;height:auto;overflow:visible}
.wide>svg,.wide figure>svg{width:100%}
.wide>svg[data-grid]{width:auto}
.scroll{overflow-x:auto;scrollbar-width:thin}
.scroll>svg,.scroll>figure>svg{max-width:none}
.narrow{display:none}
svg:focus{outline:none}
svg:focus-visible{outline:2px solid var(--c1);outline-offset:4px}
text{font-size:12px;fill:var(--soft)}
.t{fill:var(--faint);font-size:11.5px}
.tiny{font-size:9.5px}
.m{text-anchor:middle}
.e{text-anchor:end}
.l{font-size:12.5px;font-weight:600}
.l.tiny{font-size:9.5px}
.q{font-weight:500;fill:var(--ink)}
.q.strong{font-weight:700}
.v{font-weight:700}
.l.v{font-size:15px}
.l.v.strong{font-size:19px}
.g{stroke:var(--grid);stroke-width:1;fill:none;shape-rendering:crispEdges}
.axis{stroke:var(--mute);stroke-width:1;fill:none;shape-rendering:crispEdges}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.rule{fill:none;stroke-width:1.4;stroke-dasharray:2 4;stroke-linecap:round}
.lead{fill:none;stroke:var(--mute);stroke-width:1;stroke-dasharray:1 4;stroke-linecap:round}
.area{opacity:.09}
.dot{stroke:var(--card);stroke-width:1.2}
.bad{stroke:var(--bad);stroke-width:1.8;fill:none;stroke-linecap:round}
.tick{stroke:var(--ink);stroke-width:2;fill:none}
.stem{stroke-width:3;opacity:.28;fill:none;stroke-linecap:round}
.stem.strong{stroke-width:5;opacity:.38}
.knob{stroke:var(--card);stroke-width:2}
.party{opacity:.5;stroke:var(--card);stroke-width:1}
.cell{fill:none}
.h0{opacity:.05}
.h1{opacity:.13}
.h2{opacity:.26}
.h3{opacity:.42}
.h4{opacity:.6}
.h5{opacity:.8}
.pad{fill:transparent}
.hit:hover .pad{fill:var(--none);opacity:.6}
.cross{stroke:var(--faint);stroke-width:1;visibility:hidden;pointer-events:none}
.cross.band{stroke:var(--none);stroke-width:16}
.focus{fill:none;stroke:var(--ink);stroke-width:1.5;rx:2px;visibility:hidden;pointer-events:none}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:12.5px;color:var(--soft);margin:0 0 10px}
.legend b{font-weight:600;color:var(--ink);margin-left:5px}
.sw{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}
table{border-collapse:collapse;width:100%;font-size:13px}
th,td{text-align:left;padding:5px 12px 5px 0;border-bottom:1px solid var(--line);font-weight:400;
vertical-align:top}
td:last-child,th:last-child{padding-right:2px}
tbody tr:last-child>*{border-bottom:0}
thead th{color:var(--faint);font-size:12px;font-weight:500;white-space:nowrap;vertical-align:bottom}
tbody th{font-weight:500;overflow-wrap:anywhere;min-width:7em}
.n{text-align:right;white-space:nowrap}
table.sort thead th{cursor:pointer}
table.sort thead th:hover{color:var(--ink)}
th[aria-sort=ascending]::after{content:" ↑"}
th[aria-sort=descending]::after{content:" ↓"}
.best{font-weight:700}
.compare td,.compare th{padding:7px 14px 7px 0;font-size:14px}
.compare tr.sep>*{border-top:2px solid var(--line)}
details{font-size:13px}
summary{cursor:pointer;color:var(--soft);padding:3px 0}
summary:hover{color:var(--ink)}
.numbers{margin-top:10px}
.numbers summary{font-size:12.5px;color:var(--faint)}
.numbers .scroll{max-height:340px;overflow:auto;margin-top:6px}
pre{margin:8px 0 0;padding:13px 15px;background:var(--bg);border:1px solid var(--line);border-radius:10px;
overflow:auto;max-height:520px;line-height:1.5;tab-size:2}
.copy{position:relative}
.copy>button{position:absolute;top:16px;right:9px}
.multi{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:18px 24px}
.multi.k1{grid-template-columns:minmax(0,545px)}
.multi.k2{grid-template-columns:repeat(2,minmax(0,1fr))}
.multi.k3{grid-template-columns:repeat(3,minmax(0,1fr))}
.multi h4{margin:0 0 2px;font-size:13px;font-weight:600;display:flex;justify-content:space-between;gap:8px}
.multi h4 span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.multi svg{width:100%}
.multi h4 .ends{flex:none}
.split{display:grid;grid-template-columns:2fr 1fr;gap:28px;align-items:start}
dl{display:grid;align-content:start;grid-template-columns:auto 1fr;gap:4px 16px;margin:0;font-size:13.5px}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
.rank li{display:grid;grid-template-columns:1fr auto;gap:2px 12px;margin-bottom:10px;font-size:13.5px}
.rank i{grid-column:span 2;height:6px;border-radius:3px;min-width:2px}
.rank span{overflow-wrap:anywhere}
.cites li{padding:6px 0;border-bottom:1px solid var(--line);font-size:13.5px}
.cites li:last-child{border:0}
.cites span{color:var(--soft)}
footer{margin-top:40px;color:var(--faint);font-size:12.5px}
#tip{position:fixed;z-index:9;pointer-events:none;background:var(--ink);color:var(--bg);border-radius:9px;
padding:7px 11px;font-size:12.5px;line-height:1.45;max-width:300px;box-shadow:0 6px 24px rgba(0,0,0,.24);
opacity:0;
transition:opacity .09s;overflow-wrap:anywhere}
#tip.on{opacity:1}
#tip b{display:block;font-weight:650}
#tip div{display:flex;justify-content:space-between;gap:16px}
#tip i{display:inline-block;width:9px;height:9px;border-radius:3px;margin-right:6px}
.skip{position:absolute;left:-999px}
.skip:focus{left:8px;top:8px;background:var(--card);padding:6px 12px;z-index:10}
@media screen and (max-width:1020px){
.w3,.w4,.w5,.w6,.w7,.w8{grid-column:span 12}
.split{grid-template-columns:1fr;gap:12px}
.wide>svg,.wide figure>svg{max-width:760px}
}
@media screen and (max-width:680px){
.wide{display:none}
.narrow{display:block}
.page{padding:0 14px 40px}
.hero{padding:22px 0 18px}
.bar>div{padding:8px 14px;gap:10px}
.card{padding:15px 15px 13px;border-radius:14px}
.grid{gap:14px}
.tiles,.tiles.four{grid-template-columns:1fr 1fr;gap:10px}
.tile{padding:11px 13px 9px}
.tile .v{font-size:22px}
.narrow svg{width:100%}
.runs{grid-template-columns:auto 1fr}
.runs .verdict{grid-column:span 2;margin-bottom:8px}
.multi{grid-template-columns:1fr 1fr;gap:14px}
.multi.k1,.multi.k2,.multi.k3{grid-template-columns:1fr}
section{padding-top:26px}
.compare td,.compare th{font-size:13px;padding-right:10px}
}
@media (prefers-reduced-motion:reduce){
html{scroll-behavior:auto}
#tip{transition:none}
}
@media print{
.bar,#tip,button,.numbers,.skip{display:none!important}
body{font-size:12px;background:#fff}
.page{max-width:none;padding:0}
.w4,.w5,.w6,.w7{grid-column:span 6}
.card.empty{display:none}
.tile{padding:8px 10px}
.tile .v{font-size:20px}
.grid{gap:10px}
.card,.tile{box-shadow:none;padding:10px 12px}
section{padding-top:16px}
h2{break-after:avoid}
.hero{padding:0 0 14px}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
.scroll{overflow:visible}
.scroll>svg,.scroll>figure>svg{max-width:100%}
}
@page{margin:14mm}
"""


def sheet() -> str:
    """The whole style sheet; both palettes keep their hues apart for the common colour deficiencies."""
    classes = "".join(
        f".f-{c}{{fill:var(--{c})}}.s-{c}{{stroke:var(--{c})}}.b-{c}{{background:var(--{c})}}.k-{c}{{color:var(--{c})}}"
        for c in COLOURS
    )
    dark = f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{DARK}}}}}"
    forced = f"@media screen{{:root[data-theme=dark]{{{DARK}}}}}"
    return f":root{{{LIGHT}}}{dark}{forced}{_BASE}{classes}text.q{{fill:var(--ink)}}"
