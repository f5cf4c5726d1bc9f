// The style sheet of a search's page. Colours of formats are those of Okabe and Ito (2008), which
// stay apart for colour-blind eyes; cells carry marks and dots have shapes besides.
#include "search/search_page_style.h"

namespace vernier::search {

std::string_view page_style() {
  return R"(
:root { color-scheme: light dark; --page: #fff; --ink: #1a1d21; --soft: #5b636d; --rule: #d9dde2;
  --grid: #e6e9ed; --panel: #f6f7f9; --line: #1a1d21; --heat: #0072b2; --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171b; --ink: #e8eaed; --soft: #a3abb5; --rule: #363c44; --grid: #2a2f36;
    --panel: #1c2026; --line: #e8eaed; --heat: #56b4e9; --accent: #56b4e9; } }
@media print {
  :root { color-scheme: light; --page: #fff; --ink: #000; --soft: #444; --rule: #bbb; --grid: #ddd;
    --panel: #fff; --line: #000; --heat: #0072b2; --accent: #0072b2; } }
.c0 { --fill: #d55e00; --on: #000; }
.c1 { --fill: #e69f00; --on: #000; }
.c2 { --fill: #0072b2; --on: #fff; }
.c3 { --fill: #56b4e9; --on: #000; }
.c4 { --fill: #009e73; --on: #000; }
.c5 { --fill: #cc79a7; --on: #000; }
.c6 { --fill: #f0e442; --on: #000; }
.c7 { --fill: #8c8c8c; --on: #000; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 24px 20px 64px; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 40px 0 8px; padding-top: 12px; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 24px 0 6px; }
h4 { font-size: .85rem; margin: 0 0 2px; font-weight: 600; }
p { margin: 6px 0 12px; max-width: 75ch; }
.facts { color: var(--soft); margin: 0 0 16px; max-width: none; }
small { color: var(--soft); }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.35; }
caption { text-align: left; color: var(--soft); font-size: .8125rem; padding-bottom: 4px; }
th, td { padding: 5px 12px 5px 0; text-align: left; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 500; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
tbody tr:hover { background: var(--panel); }
tr.total th, tr.total td { font-weight: 600; }
code { font: .85em ui-monospace, "Cascadia Mono", Menlo, "DejaVu Sans Mono", monospace; }
figure { margin: 8px 0 16px; }
figcaption { color: var(--soft); font-size: .8125rem; max-width: 85ch; margin-top: 4px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 16px 32px; align-items: start; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr));
  gap: 14px 20px; }
.chart { display: block; width: 100%; height: auto; max-width: 640px; }
.legend { list-style: none; margin: 6px 0 10px; padding: 0; display: flex; flex-wrap: wrap;
  gap: 4px 18px; font-size: .8125rem; }
.legend li { display: flex; align-items: center; gap: 6px; }
.stroke { width: 20px; border-top: 2.5px solid var(--line); }
.map { display: flex; margin-bottom: 10px; }
.map svg { flex: none; display: block; }
.map .names { position: sticky; left: 0; background: var(--page); }
svg text { font: 13px system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; fill: var(--ink); }
svg .tick { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .row-name { font-size: 12px; }
svg .mark { font-size: 10px; font-weight: 600; fill: var(--on); pointer-events: none; }
svg .name { paint-order: stroke; stroke: var(--page); stroke-width: 3px; }
.grid { stroke: var(--grid); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1; }
.frontier { fill: none; stroke: var(--line); stroke-width: 2; stroke-linejoin: round; }
.diagonal { stroke: var(--soft); stroke-width: 1.5; }
.factor { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 4 4; }
.chosen { fill: var(--accent); stroke: var(--page); stroke-width: 1.5; }
.other { fill: var(--page); stroke: var(--soft); stroke-width: 1.8; }
.measured { fill: #d55e00; stroke: var(--page); stroke-width: 1; }
.measured-line { stroke: #d55e00; stroke-width: 1.5; }
.cell { fill: var(--fill); }
.dot { fill: var(--fill); stroke: var(--page); stroke-width: .6; }
.link { fill: none; stroke: var(--fill); stroke-width: 1; opacity: .55; }
.heat { fill: var(--heat); }
.blank { fill: var(--panel); }
.cell:hover, .heat:hover { stroke: var(--ink); stroke-width: 1.5; }
.bar { display: block; }
.choice { position: absolute; opacity: 0; }
.choice + label { display: inline-block; margin: 0 8px 8px 0; padding: 4px 12px; cursor: pointer;
  border: 1px solid var(--rule); border-radius: 6px; font-size: .875rem; }
.choice:checked + label { background: var(--ink); color: var(--page); border-color: var(--ink); }
.choice:focus-visible + label { outline: 2px solid var(--accent); outline-offset: 2px; }
.of-allocation { display: none; }
summary { cursor: pointer; font-weight: 600; }
@media (max-width: 600px) { body { padding: 16px 14px 48px; } }
@media print {
  body { max-width: none; padding: 0; font-size: 11pt; }
  h2, h3, h4 { break-after: avoid; }
  figure, tr, .panel-chart { break-inside: avoid; }
  .scroll { overflow: visible; }
  .map svg { width: var(--w); height: auto; flex: 0 1 auto; }
  .choice, .choice + label { display: none; }
  .of-allocation { display: block !important; }
  .pair { grid-template-columns: 1fr 1fr; }
  .panels { grid-template-columns: 1fr 1fr 1fr; }
  svg, .legend { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
)";
}

}  // namespace vernier::search
