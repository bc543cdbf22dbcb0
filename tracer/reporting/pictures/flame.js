"use strict";

// Zoom, search and details of the flame graphs in this document. Without it they are pictures.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const CHARACTER = 6.8; // pixels, at most: as in flamesvg.py
  const PAD = 4;

  function start(svg) {
    const said = svg.querySelector(".said");
    const usual = `${said.textContent} Click a box to zoom in; click one above it or press Escape to zoom out.`;
    const left = Number(svg.dataset.left);
    const width = Number(svg.dataset.width);
    const boxes = [...svg.querySelectorAll("g.b")].map((group) => {
      const title = group.querySelector("title").textContent;
      const lines = title.split("\n"); // name, module where there is one, weights
      return {
        group,
        rect: group.querySelector("rect"),
        text: group.querySelector("text"),
        title: lines.join(" · "),
        name: lines[0],
        names: lines.slice(0, lines.findIndex((line) => line.endsWith("of total"))).join(" "),
        start: Number(group.dataset.s),
        size: Number(group.dataset.n),
        depth: Number(group.dataset.d),
      };
    });
    const root = boxes[0];
    if (!root) return;
    let shown = root;

    function cut(name, most) {
      let used = 0;
      let short = "";
      for (const letter of name) {
        used += letter.codePointAt(0) < 0x1100 ? 1 : 2; // from there on many take two places
        if (used <= most - 1) short += letter;
      }
      return used <= most ? name : short + "…";
    }

    function label(box, room) {
      const most = Math.floor((room - 2 * PAD) / CHARACTER);
      if (most < 3) {
        if (box.text) box.text.textContent = "";
        return;
      }
      if (!box.text) {
        box.text = document.createElementNS(SVG, "text");
        box.text.setAttribute("y", Number(box.rect.getAttribute("y")) + 12.5);
        box.group.append(box.text);
      }
      box.text.setAttribute("x", Number(box.rect.getAttribute("x")) + PAD);
      box.text.textContent = cut(box.name, most);
    }

    function zoom(to) {
      shown = to;
      const scale = width / to.size;
      const end = to.start + to.size;
      for (const box of boxes) {
        const above = box.depth < to.depth && box.start <= to.start && box.start + box.size >= end;
        const inside = box.depth >= to.depth && box.start >= to.start && box.start + box.size <= end;
        const room = above ? width : box.size * scale;
        box.group.classList.toggle("above", above);
        box.group.classList.toggle("off", !(above || (inside && room >= 0.1)));
        if (!above && !inside) continue;
        const x = above ? left : left + (box.start - to.start) * scale;
        box.rect.setAttribute("x", x.toFixed(2));
        box.rect.setAttribute("width", Math.max(room - 0.5, 0.1).toFixed(2));
        label(box, room);
      }
    }

    function seek(words) {
      const wanted = words.trim().toLowerCase();
      svg.classList.toggle("sought", wanted !== "");
      let end = 0;
      let sum = 0;
      const hits = boxes.filter((box) => wanted && box.names.toLowerCase().includes(wanted));
      for (const box of boxes) box.group.classList.remove("hit");
      for (const box of hits) box.group.classList.add("hit");
      hits.sort((a, b) => a.start - b.start || b.size - a.size);
      for (const box of hits) {
        if (box.start < end) continue; // in a box that is counted already
        end = box.start + box.size;
        sum += box.size;
      }
      const part = ((100 * sum) / root.size).toFixed(1);
      say(wanted ? `${hits.length} boxes match “${words.trim()}”: ${part} % of total.` : usual);
    }

    function say(words) {
      said.textContent = cut(words, Math.floor((width - 20) / CHARACTER));
    }

    for (const box of boxes) {
      box.group.addEventListener("click", () => zoom(box === shown && box.depth ? root : box));
      box.group.addEventListener("mouseenter", () => say(box.title));
    }
    svg.addEventListener("mouseleave", () => seek(field.value));

    const place = document.createElementNS(SVG, "foreignObject");
    const [x, y] = svg.dataset.search.split(" ");
    for (const [name, value] of Object.entries({ x, y, width: 220, height: 26 }))
      place.setAttribute(name, value);
    const field = document.createElementNS("http://www.w3.org/1999/xhtml", "input");
    field.setAttribute("type", "search");
    field.setAttribute("placeholder", "Search functions and modules");
    field.setAttribute("aria-label", "Search functions and modules");
    field.addEventListener("input", () => seek(field.value));
    place.append(field);
    svg.append(place);
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      field.value = "";
      seek("");
      zoom(root);
    });
    say(usual);
  }

  for (const svg of document.querySelectorAll("svg.flame")) start(svg);
})();
