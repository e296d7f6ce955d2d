"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const group = one("#group"), layer = one("#layer"), readout = one("#readout");
  const plots = all(".plot"), tokens = all(".text .tok");
  // spans[run][token]
  const spans = data.runs.map(() => []);
  for (const span of tokens) spans[span.dataset.run][span.dataset.token] = span;
  let here = null;

  const value = (run, token) => data.runs[run].values[+group.value][+layer.value][token];
  const number = (found) => (found === null || found === undefined ? "–" : found.toFixed(4));
  const member = (token) => data.ranges[+group.value].some(([from, to]) => from <= token && token < to);
  const clamp = (found, least, most) => Math.min(most, Math.max(least, found));

  function draw() {
    const top = data.tops[+group.value], x = 1000 / data.longest;
    one("#layer-name").textContent = `${layer.value} of ${data.layers}`;
    one("#top").textContent = one("#curve-top").textContent = String(top);
    for (const span of tokens) {
      const { run, token } = span.dataset, found = value(run, token);
      const name = span.classList.contains("raw") ? data.runs[run].tokens[token] : `“${data.runs[run].tokens[token]}”`;
      const label = `${name}: ${found === null ? "not measured" : number(found)}`;
      span.style.setProperty("--v", Math.min(1, (found ?? 0) / top).toFixed(3));
      span.dataset.number = number(found);
      span.title = label;
      span.setAttribute("aria-label", label);
      span.classList.toggle("in", member(+token));
    }
    data.runs.forEach((run, index) => {
      const points = run.values[+group.value][+layer.value].flatMap((found, token) =>
        found === null ? [] : [`${((token + 0.5) * x).toFixed(2)} ${(200 * (1 - Math.min(1, found / top))).toFixed(2)}`]);
      one(`path[data-run="${index}"]`).setAttribute("d", points.length ? `M${points.join("L")}` : "");
    });
    one("#bands").replaceChildren(...data.ranges[+group.value].map(([from, to]) => {
      const band = document.createElementNS(one("svg").namespaceURI, "rect");
      const shape = { class: "band", x: from * x, y: 0, width: (to - from) * x, height: 200 };
      for (const [name, at] of Object.entries(shape)) band.setAttribute(name, at);
      return band;
    }));
    for (const image of all(".plot img")) image.hidden = image.dataset.group !== group.value;
    for (const level of all(".level")) {
      const height = 100 / (data.layers + 1);
      level.style.cssText = `display:block;height:${height}%;top:${(data.layers - layer.value) * height}%`;
    }
    if (here !== null) say(here);
  }

  function piece(className, text) {
    const span = document.createElement("span");
    span.className = className;
    span.textContent = text;
    return span;
  }

  function say(token) {
    here = token;
    const part = token < data.prompt ? "prompt" : "answer";
    const names = [...new Set(data.runs.map((run) => run.tokens[token]).filter((name) => name !== undefined))];
    const where = piece("where", `token ${token} of ${data.longest} (${part}), after layer ${layer.value}`);
    const found = data.runs.map((run, index) => value(index, token));
    const shown = data.runs.map((run, index) => {
      const box = piece(index ? "guided" : "plain", `${run.label} `);
      box.append(piece("number", number(found[index])));
      return box;
    });
    const factor = found[0] && found[1] != null ? [piece("where", `×${(found[1] / found[0]).toFixed(2)}`)] : [];
    readout.replaceChildren(piece("", names.map((name) => `“${name}”`).join(" / ")), where, ...shown, ...factor);
    for (const span of all(".tok.here")) span.classList.remove("here");
    for (const run of spans) run[token]?.classList.add("here");
    for (const plot of plots) {
      const line = one(".cursor", plot);
      line.style.display = "block";
      line.style.left = `${(100 * (token + 0.5)) / data.longest}%`;
      plot.setAttribute("aria-valuenow", token);
      plot.setAttribute("aria-valuetext", readout.textContent);
    }
  }

  // ↑ ↓ change the layer everywhere; → 1, Page Down 10 tokens.
  const LAYERS = { ArrowUp: 1, ArrowDown: -1 };
  const STEPS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };

  function walk(event, token, first, last, go) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key in LAYERS) {
      layer.value = clamp(+layer.value + LAYERS[event.key], 0, data.layers);
      draw();
    } else if (event.key in STEPS) {
      go(clamp(token + STEPS[event.key], first, last));
    } else {
      return;
    }
    event.preventDefault();
  }

  for (const text of all('.text[role="listbox"]')) {
    const own = all(".tok", text), first = +own[0].dataset.token;
    const go = (token) => own[token - first].focus();
    text.addEventListener("focusin", (event) => {
      for (const span of own) {
        span.tabIndex = span === event.target ? 0 : -1;
        span.setAttribute("aria-selected", span === event.target);
      }
      say(+event.target.dataset.token);
    });
    text.addEventListener("pointerover", (event) => {
      const span = event.target.closest(".tok");
      if (span) say(+span.dataset.token);
    });
    text.addEventListener("keydown", (event) => {
      walk(event, +event.target.dataset.token, first, first + own.length - 1, go);
    });
  }
  for (const plot of plots) {
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      const token = Math.floor(((event.clientX - box.left) / box.width) * data.longest);
      say(clamp(token, 0, data.longest - 1));
    });
    plot.addEventListener("click", (event) => {
      if (plot.dataset.run === undefined) return;
      const box = plot.getBoundingClientRect();
      const level = data.layers - Math.floor(((event.clientY - box.top) / box.height) * (data.layers + 1));
      layer.value = clamp(level, 0, data.layers);
      draw();
    });
    plot.addEventListener("focus", () => say(here ?? 0));
    plot.addEventListener("keydown", (event) => walk(event, here ?? 0, 0, data.longest - 1, say));
  }
  group.addEventListener("input", draw);
  layer.addEventListener("input", draw);
  one(".controls").addEventListener("submit", (event) => event.preventDefault());
  document.documentElement.classList.add("js");
  group.closest("label").hidden = data.groups.length === 1;
  draw();
})();
