"""The style of the report page: for screens of any width, and for paper."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root{--ink:#1b1b1b;--soft:#555;--line:#d5d5d5;--link:#0b57a4;--paper:#fff;--band:#f5f6f8}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;color:var(--ink);background:var(--paper);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
header,nav,main,footer{max-width:1200px;margin:0 auto;padding:0 20px}
header{padding-top:28px}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .5rem}
h2{font-size:1.25rem;margin:2.2rem 0 .6rem;padding-top:.6rem;border-top:2px solid var(--line)}
p,dd,li,figcaption{overflow-wrap:anywhere}
header p{margin:.15rem 0}
a{color:var(--link)}
a:focus-visible,summary:focus-visible,.wide:focus-visible{outline:3px solid var(--link);
outline-offset:2px}
.skip{position:absolute;left:-999px}
.skip:focus{left:8px;top:8px;background:var(--paper);padding:8px;z-index:2}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1rem;list-style:none;padding:.6rem 0;margin:0}
.wide{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;width:100%;font-size:.82rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.4rem 0;font-size:.95rem}
th,td{text-align:left;vertical-align:top;padding:.4rem .5rem;border-bottom:1px solid var(--line)}
thead th{background:var(--band);font-weight:600}
.interval{display:block;color:var(--soft);font-size:.92em;white-space:nowrap}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr));gap:24px}
figure{margin:0;min-width:0}
figure svg{display:block;width:100%;height:auto;max-height:620px}
figcaption{color:var(--soft);font-size:.9rem;margin-top:.3rem}
dl{display:grid;grid-template-columns:minmax(9rem,15rem) 1fr;gap:.3rem 1rem}
dt{font-weight:600}
dd{margin:0;min-width:0}
details{margin:1rem 0}
summary{cursor:pointer;font-weight:600}
.signatures{margin-top:1.5rem}
.line{display:grid;grid-template-columns:3fr 1fr;gap:24px;margin:2.4rem 0 0}
.line span{border-top:1px solid var(--ink);padding-top:.2rem;font-size:.85rem}
footer{color:var(--soft);padding:1.5rem 20px 3rem}
@media (max-width:760px){
dl{display:block}dd{margin-bottom:.6rem}
.wide{overflow-x:visible}
thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
table,caption,tbody,tr,th,td{display:block;width:100%}
tr{border:1px solid var(--line);border-radius:6px;margin:0 0 .8rem;overflow:hidden}
tbody th{background:var(--band)}
td{display:flex;justify-content:space-between;gap:1rem;text-align:right;flex-wrap:wrap}
td::before{content:attr(data-label);font-weight:600;text-align:left}
.interval{width:100%}
}
@media print{
nav,.skip{display:none}
body{font-size:10.5pt}
h2{break-after:avoid}
tr,figure,.line{break-inside:avoid}
.wide{overflow:visible}
table{font-size:7pt}
a{color:inherit;text-decoration:none}
}
""".strip()
