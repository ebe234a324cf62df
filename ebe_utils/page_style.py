"""How the page of an explanation looks: plain, on a phone as on paper."""

STYLE = """
:root { --ink: #1c2430; --soft: #5a6675; --line: #d9dee5; --for: #1b7f5c; --against: #b3541e; --bad: #fff4e5; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f6f8; color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 860px; margin: 0 auto; padding: 16px; }
header, section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 16px 20px;
  margin: 0 0 14px; }
h1 { font-size: 1.6rem; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 8px; }
h3 { font-size: 1rem; margin: 14px 0 6px; overflow-wrap: anywhere; }
p { margin: 0 0 8px; overflow-wrap: anywhere; }
.note { color: var(--soft); }
.warning { background: var(--bad); border: 1px solid #e8b86d; border-left: 6px solid #d98a1f; border-radius: 8px;
  padding: 10px 14px; margin: 0 0 14px; }
.answer { display: flex; gap: 18px; align-items: flex-start; flex-wrap: wrap; }
.answer > div { flex: 1 1 260px; }
.cards { display: flex; flex-wrap: wrap; gap: 10px; }
figure { margin: 0; width: 104px; border: 1px solid var(--line); border-radius: 8px; padding: 9px; background: #fff;
  overflow-wrap: anywhere; font-size: .8rem; }
figure.input { width: 142px; }
figure.for { border-top: 4px solid var(--for); }
figure.against { border-top: 4px solid var(--against); }
figure img { width: 100%; height: auto; display: block; }
figcaption span { display: block; line-height: 1.35; color: var(--soft); }
figcaption b { color: var(--ink); }
.after { margin-top: 12px; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 20px; }
.side > p { color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; font-weight: 400; color: var(--soft); padding: 5px 14px 5px 0; vertical-align: top; width: 45%; }
td { padding: 5px 0; vertical-align: top; overflow-wrap: anywhere; }
tr + tr { border-top: 1px solid var(--line); }
@media (max-width: 480px) { main { padding: 8px; } header, section { padding: 12px 14px; } }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""
