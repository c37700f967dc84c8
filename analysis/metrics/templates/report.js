"use strict";
// Hide and show targets; read values off the curves. Every scale is on the SVG element, every point in its polylines.
(() => {
  const tip = document.getElementById("tip");
  const chips = [...document.querySelectorAll(".chip")];
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      const on = chip.getAttribute("aria-pressed") !== "true";
      chip.setAttribute("aria-pressed", on);
      document.body.classList.toggle("hide-" + (chip.dataset.slot % 7), !on);
    });
  }
  const short = (v) => (v === 0 ? "0" : Math.abs(v) >= 100 ? v.toFixed(0) : v.toPrecision(3));
  const time = (ns) => (ns >= 1e9 ? short(ns / 1e9) + " s" : ns >= 1e6 ? short(ns / 1e6) + " ms" : short(ns / 1e3) + " µs");
  const words = {
    logns: (v) => time(10 ** v),
    s: (v) => short(v) + " s",
    pct: (v) => (v * 100).toFixed(1) + " %",
    n: (v) => short(v),
  };
  const numbers = (text) => text.split(",").map(Number);

  for (const svg of document.querySelectorAll("svg.chart")) {
    const [left, right, top, bottom] = numbers(svg.dataset.px);
    const [x0, x1] = numbers(svg.dataset.x);
    const [y0, y1] = numbers(svg.dataset.y);
    const rows = svg.parentElement.dataset.rows ? JSON.parse(svg.parentElement.dataset.rows) : null;
    const curves = [...svg.querySelectorAll("polyline")]
      .filter((line) => /\bt\d\b/.test(line.getAttribute("class") || ""))
      .map((line) => ({
        slot: Number(/\bt(\d)\b/.exec(line.getAttribute("class"))[1]),
        points: line.getAttribute("points").trim().split(/\s+/).map(numbers),
      }));
    const cursor = document.createElementNS(svg.namespaceURI, "line");
    cursor.setAttribute("class", "cursor");
    cursor.setAttribute("y1", top);
    cursor.setAttribute("y2", bottom);
    cursor.style.display = "none";
    svg.append(cursor);
    const hide = () => {
      tip.hidden = true;
      cursor.style.display = "none";
    };
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const scale = svg.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale;
      const y = (event.clientY - box.top) * scale;
      if (x < left || x > right || y < top || y > bottom) return hide();
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      cursor.style.display = "";
      const lines = [words[svg.dataset.xunit](x0 + ((x - left) / (right - left)) * (x1 - x0))];
      if (rows) {
        const row = Math.floor(y0 + ((bottom - y) / (bottom - top)) * (y1 - y0));
        lines.push(rows[row] ?? "");
      }
      for (const curve of curves) {
        if (document.body.classList.contains("hide-" + curve.slot)) continue;
        const next = curve.points.findIndex((p) => p[0] >= x);
        let py;
        if (next < 0) py = curve.points[curve.points.length - 1][1];
        else if (next === 0) py = curve.points[0][0] > x + 1 ? bottom : curve.points[0][1];
        else {
          const [ax, ay] = curve.points[next - 1];
          const [bx, by] = curve.points[next];
          py = bx > ax ? ay + ((by - ay) * (x - ax)) / (bx - ax) : by;
        }
        const name = chips.filter((c) => c.dataset.slot % 7 === curve.slot).map((c) => c.querySelector("span").textContent).join(", ");
        lines.push(name + ": " + words[svg.dataset.yunit](y0 + ((bottom - py) / (bottom - top)) * (y1 - y0)));
      }
      tip.replaceChildren(...lines.filter(Boolean).map((line) => {
        const div = document.createElement("div");
        div.textContent = line;
        return div;
      }));
      tip.hidden = false;
      tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
      tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
    });
  }
})();
