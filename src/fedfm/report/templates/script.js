(function () {
'use strict';
const root = document.documentElement, tip = document.getElementById('tip');
const all = (what, from) => Array.from((from || document).querySelectorAll(what));

// Theme: #theme=dark in the address, else the reader's last choice, else the system's.
const button = document.getElementById('theme'), names = ['auto', 'light', 'dark'];
let theme = (/theme=(light|dark)/.exec(location.hash + location.search) || [])[1];
try { theme = theme || localStorage.getItem('fedfm-theme'); } catch (e) { /* storage may be barred */ }
function paint() {
  theme = names.includes(theme) ? theme : 'auto';
  if (theme === 'auto') root.removeAttribute('data-theme'); else root.setAttribute('data-theme', theme);
  button.textContent = { auto: '◐ Auto', light: '○ Light', dark: '● Dark' }[theme];
}
paint();
button.addEventListener('click', () => {
  theme = names[(names.indexOf(theme) + 1) % 3];
  try { localStorage.setItem('fedfm-theme', theme); } catch (e) { /* as above */ }
  paint();
});

// One tooltip for the page; text only, so that no name of a party is ever read as markup.
function node(tag, text, parent) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.appendChild(made);
  return made;
}
function hide() {
  tip.className = '';
  all('.cross,.focus').forEach(n => { n.style.visibility = 'hidden'; });
}
function say(head, rows, x, y) {
  tip.textContent = '';
  if (head) node('b', head, tip);
  rows.forEach(([name, value, colour]) => {
    const line = node('div', undefined, tip), left = node('span', undefined, line);
    if (colour) node('i', undefined, left).className = 'b-' + colour;
    left.appendChild(document.createTextNode(name));
    if (value !== undefined) node('span', value, line);
  });
  const w = tip.offsetWidth, h = tip.offsetHeight, beside = x + 14 + w > innerWidth ? x - w - 14 : x + 14;
  tip.style.left = Math.max(6, Math.min(innerWidth - w - 6, beside)) + 'px';
  tip.style.top = Math.max(6, y - h - 12 < 6 ? y + 18 : y - h - 12) + 'px';
  tip.className = 'on';
}
const facts = new WeakMap();
function info(svg) {
  const figure = svg.closest('figure');
  if (figure && !facts.has(figure)) {
    const block = figure.querySelector('script.tip');
    facts.set(figure, block ? JSON.parse(block.textContent) : null);
  }
  return figure && facts.get(figure);
}
const numbers = (svg, name) => svg.getAttribute(name).split(',').map(Number);
function toChart(svg, e) {
  const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
  return [(e.clientX - box.left) / box.width * view.width, (e.clientY - box.top) / box.height * view.height];
}
function toScreen(svg, x, y) {
  const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
  return [box.left + x / view.width * box.width, box.top + y / view.height * box.height];
}
const clamp = (i, n) => Math.max(0, Math.min(n - 1, i));

// Charts over rounds: a line (or a band behind a column) at the nearest round.
function showRound(svg, at, y) {
  const d = info(svg), [left, plot, x0, x1] = numbers(svg, 'data-frame'), i = svg.at = clamp(at, d.x.length);
  const x = left + (x1 > x0 ? (d.x[i] - x0) / (x1 - x0) * plot : plot / 2);
  const cross = svg.querySelector('.cross');
  cross.setAttribute('d', cross.getAttribute('d').replace(/^M\S+/, 'M' + x.toFixed(1)));
  if (svg.dataset.bar) cross.style.strokeWidth = +svg.dataset.bar + 4;
  cross.style.visibility = 'visible';
  const shown = d.s.filter(s => s.v[i] !== '').map(s => [s.n, s.v[i], s.c]);
  say(d.h[i], shown, ...toScreen(svg, x, y));
}
// Grids: one cell.
function showCell(svg, i, j) {
  const d = info(svg), [left, top, w, h] = numbers(svg, 'data-grid');
  if (i < 0 || j < 0 || i >= d.cols.length || j >= d.rows.length) return;
  svg.at = i; svg.row = j;
  const box = svg.querySelector('.focus');
  const place = { x: left + i * w - 1, y: top + j * h, width: w, height: h };
  Object.keys(place).forEach(k => box.setAttribute(k, place[k]));
  box.style.visibility = 'visible';
  const cell = d.cells[j][i];
  const at = toScreen(svg, left + (i + 0.5) * w, place.y);
  say(d.rows[j], [[d.cols[i], d.names ? d.names[cell] : cell]], ...at);
}
document.addEventListener('pointermove', e => {
  hide();
  const hit = e.target.closest && e.target.closest('[data-t]');
  if (hit) {
    const [head, ...rows] = hit.getAttribute('data-t').split('|');
    say(head, rows.map(r => [r]), e.clientX, e.clientY);
    return;
  }
  const svg = e.target.closest && e.target.closest('svg[data-frame],svg[data-grid]');
  if (!svg || !info(svg)) return;
  const [x, y] = toChart(svg, e);
  if (svg.dataset.grid) {
    const [left, top, w, h] = numbers(svg, 'data-grid');
    showCell(svg, Math.floor((x - left) / w), Math.floor((y - top) / h));
  } else {
    const [left, plot, x0, x1] = numbers(svg, 'data-frame'), want = x0 + (x - left) / plot * (x1 - x0);
    const off = info(svg).x.map(v => Math.abs(v - want));
    showRound(svg, off.indexOf(Math.min(...off)), y);
  }
});
document.addEventListener('keydown', e => {
  if (e.key === 'Escape') hide();
  const svg = document.activeElement;
  const dx = { ArrowLeft: -1, ArrowRight: 1 }[e.key] || 0, dy = { ArrowUp: -1, ArrowDown: 1 }[e.key] || 0;
  if (!(dx || dy) || !svg.matches('svg[tabindex]') || !info(svg)) return;
  e.preventDefault();
  hide();
  const d = info(svg), at = svg.at === undefined ? -1 : svg.at;
  if (svg.dataset.grid) {
    showCell(svg, clamp(at + dx, d.cols.length), clamp((svg.row || 0) + dy, d.rows.length));
  } else showRound(svg, at + (dx || dy), 40);
});
document.addEventListener('scroll', hide, { passive: true });
document.addEventListener('focusout', hide);
root.addEventListener('pointerleave', hide);

// Tables that sort by a click on a head, numbers as numbers.
all('table.sort thead th').forEach(th => {
  function key(row) {
    const text = row.cells[th.cellIndex].textContent;
    const n = parseFloat(text.replace(/,/g, '').replace('−', '-'));
    return /^[\d−+]/.test(text) && !isNaN(n) ? [0, n] : [1, text];
  }
  function sort() {
    const up = th.getAttribute('aria-sort') === 'descending' ? 1 : -1, body = th.closest('table').tBodies[0];
    all('th', th.parentNode).forEach(other => other.removeAttribute('aria-sort'));
    th.setAttribute('aria-sort', up > 0 ? 'ascending' : 'descending');
    const rows = Array.from(body.rows).map(row => [key(row), row]);
    rows.sort(([a], [b]) => a[0] - b[0]
      || up * (a[0] ? a[1].localeCompare(b[1], undefined, { numeric: true }) : a[1] - b[1]));
    rows.forEach(([, row]) => body.appendChild(row));
  }
  th.tabIndex = 0;
  th.addEventListener('click', sort);
  th.addEventListener('keydown', e => { if (e.key === 'Enter') sort(); });
});

all('.copy>button').forEach(copy => copy.addEventListener('click', () => {
  const pre = copy.parentNode.querySelector('pre');
  function done() { copy.textContent = 'Copied'; setTimeout(() => { copy.textContent = 'Copy'; }, 1400); }
  function select() { getSelection().selectAllChildren(pre); if (document.execCommand('copy')) done(); }
  if (navigator.clipboard) navigator.clipboard.writeText(pre.textContent).then(done, select); else select();
}));
})();
