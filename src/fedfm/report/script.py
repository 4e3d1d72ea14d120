"""The page's script: theme, tooltips by pointer and keyboard, sorting, copying. It never writes HTML."""

from __future__ import annotations

SCRIPT = r"""
(function(){'use strict';
var root=document.documentElement,names=['auto','light','dark'],button=document.getElementById('theme'),tip=document.getElementById('tip');
var theme=(/theme=(light|dark)/.exec(location.hash+location.search)||[])[1];
try{theme=theme||localStorage.getItem('fedfm-theme')}catch(e){}
function paint(){if(theme==='light'||theme==='dark')root.setAttribute('data-theme',theme);else{theme='auto';root.removeAttribute('data-theme')}
if(button)button.textContent={auto:'◐ Auto',light:'○ Light',dark:'● Dark'}[theme]}
paint();
if(button)button.addEventListener('click',function(){theme=names[(names.indexOf(theme)+1)%3];
try{localStorage.setItem('fedfm-theme',theme)}catch(e){}paint()});
function node(tag,text,parent){var n=document.createElement(tag);if(text!==undefined)n.textContent=text;if(parent)parent.appendChild(n);return n}
function hide(){tip.className='';document.querySelectorAll('.cross,.focus').forEach(function(n){n.style.visibility='hidden'})}
function place(x,y){var w=tip.offsetWidth,h=tip.offsetHeight;
tip.style.left=Math.max(6,Math.min(innerWidth-w-6,x+14+w>innerWidth?x-w-14:x+14))+'px';
tip.style.top=Math.max(6,y-h-12<6?y+18:y-h-12)+'px';tip.className='on'}
function say(head,rows,x,y){tip.textContent='';if(head)node('b',head,tip);
rows.forEach(function(r){var d=node('div',undefined,tip),s=node('span',undefined,d);
if(r[2])node('i',undefined,s).className='b-'+r[2];s.appendChild(document.createTextNode(r[0]));if(r[1]!==undefined)node('span',r[1],d)});place(x,y)}
function info(svg){var f=svg.closest('figure');if(!f)return null;
if(!f._tip){var s=f.querySelector('script.tip');try{f._tip=s?JSON.parse(s.textContent):null}catch(e){return null}}return f._tip}
function inner(svg,e){var b=svg.getBoundingClientRect(),v=svg.viewBox.baseVal;return[(e.clientX-b.left)/b.width*v.width,(e.clientY-b.top)/b.height*v.height]}
function outer(svg,x,y){var b=svg.getBoundingClientRect(),v=svg.viewBox.baseVal;return[b.left+x/v.width*b.width,b.top+y/v.height*b.height]}
function frame(svg,which){return svg.getAttribute(which).split(',').map(Number)}
function showColumn(svg,i,y){var d=info(svg),f=frame(svg,'data-frame'),n=d.x.length;i=Math.max(0,Math.min(n-1,i));svg._i=i;
var x=f[0]+(f[3]>f[2]?(d.x[i]-f[2])/(f[3]-f[2])*f[1]:f[1]/2),c=svg.querySelector('.cross'),at=outer(svg,x,y);
if(c){var low=c.getAttribute('d').split('V');c.setAttribute('d','M'+x.toFixed(1)+' '+low[0].split(' ')[1]+'V'+low[1]);
if(svg.dataset.bar)c.style.strokeWidth=+svg.dataset.bar+4;c.style.visibility='visible'}
say(d.h[i],d.s.filter(function(s){return s.v[i]!==''}).map(function(s){return[s.n,s.v[i],s.c]}),at[0],at[1])}
function showCell(svg,i,j){var d=info(svg),g=frame(svg,'data-grid');
if(i<0||j<0||i>=d.cols.length||j>=d.rows.length){hide();return}svg._i=i;svg._j=j;
var r=svg.querySelector('.focus'),at=outer(svg,g[0]+(i+.5)*g[2],g[1]+j*g[3]);
r.setAttribute('x',g[0]+i*g[2]-1);r.setAttribute('y',g[1]+j*g[3]);r.setAttribute('width',g[2]);r.setAttribute('height',g[3]);r.style.visibility='visible';
say(d.rows[j],[[d.cols[i],d.names?d.names[d.cells[j][i]]:d.cells[j][i]]],at[0],at[1])}
document.addEventListener('pointermove',function(e){var t=e.target;if(!t.closest){hide();return}
var hit=t.closest('[data-t]');if(hit){hide();var p=hit.getAttribute('data-t').split('|');say(p[0],p.slice(1).map(function(x){return[x]}),e.clientX,e.clientY);return}
var svg=t.closest('svg[data-frame],svg[data-grid]');hide();if(!svg||!info(svg))return;var xy=inner(svg,e);
if(svg.dataset.grid){var g=frame(svg,'data-grid');showCell(svg,Math.floor((xy[0]-g[0])/g[2]),Math.floor((xy[1]-g[1])/g[3]))}
else{var f=frame(svg,'data-frame'),x=f[2]+(xy[0]-f[0])/f[1]*(f[3]-f[2]),d=info(svg).x,best=0;
d.forEach(function(v,i){if(Math.abs(v-x)<Math.abs(d[best]-x))best=i});showColumn(svg,best,xy[1])}});
document.addEventListener('pointerleave',hide);document.addEventListener('scroll',hide,{passive:true});
document.addEventListener('focusout',hide);
document.addEventListener('keydown',function(e){if(e.key==='Escape'){hide();return}
var svg=document.activeElement,dx={ArrowLeft:-1,ArrowRight:1}[e.key]||0,dy={ArrowUp:-1,ArrowDown:1}[e.key]||0;
if(!(dx||dy)||!svg||!svg.matches('svg[tabindex]')||!info(svg))return;e.preventDefault();var d=info(svg);hide();
if(svg.dataset.grid)showCell(svg,Math.max(0,Math.min(d.cols.length-1,(svg._i===undefined?-1:svg._i)+dx)),Math.max(0,Math.min(d.rows.length-1,(svg._j||0)+dy)));
else showColumn(svg,(svg._i===undefined?-1:svg._i)+(dx||dy),40)});
document.querySelectorAll('table.sort thead th').forEach(function(th){function go(){
var body=th.closest('table').tBodies[0],i=th.cellIndex,up=th.getAttribute('aria-sort')==='descending'?1:-1;
th.parentNode.querySelectorAll('th').forEach(function(o){o.removeAttribute('aria-sort')});th.setAttribute('aria-sort',up>0?'ascending':'descending');
function key(r){var s=r.cells[i].textContent,n=parseFloat(s.replace(/,/g,'').replace('−','-'));return isNaN(n)?[1,s]:[0,n]}
Array.from(body.rows).sort(function(a,b){a=key(a);b=key(b);return a[0]-b[0]||(a[0]?up*a[1].localeCompare(b[1],undefined,{numeric:true}):up*(a[1]-b[1]))})
.forEach(function(r){body.appendChild(r)})}
th.tabIndex=0;th.addEventListener('click',go);th.addEventListener('keydown',function(e){if(e.key==='Enter')go()})});
document.querySelectorAll('.copy>button').forEach(function(b){b.addEventListener('click',function(){
var pre=b.parentNode.querySelector('pre'),range=document.createRange(),old=b.textContent;range.selectNodeContents(pre);
function done(){b.textContent='Copied';setTimeout(function(){b.textContent=old},1400)}
function old_way(){var s=getSelection();s.removeAllRanges();s.addRange(range);try{if(document.execCommand('copy'))done()}catch(e){}}
if(navigator.clipboard)navigator.clipboard.writeText(pre.textContent).then(done,old_way);else old_way()})});
addEventListener('beforeprint',function(){document.querySelectorAll('details.open-in-print').forEach(function(d){d.open=true})});
})();
"""
