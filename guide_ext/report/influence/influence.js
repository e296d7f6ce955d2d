// Runs in one module with values.js, which comes before it.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const group = one("#group"), layer = one("#layer"), readout = one("#readout");
  const plain = one("#view-plain"), values = one("#view-values"), difference = one("#view-difference");
  const oneScale = one("#one-scale");
  const plots = all(".plot"), tokens = all(".text .tok");
  // spans[run][token]
  const spans = data.runs.map(() => []);
  for (const span of tokens) spans[span.dataset.run][span.dataset.token] = span;
  let here = null;

  const value = (run, token) => data.runs[run].values[+group.value][+layer.value][token];
  const compared = (token) => data.runs.length === 2 && token < data.compared;
  // Guided minus plain; null where it was not measured or the runs have read different texts.
  function change(token) {
    const [before, after] = compared(token) ? [value(0, token), value(1, token)] : [null, null];
    return before === null || after === null ? null : after - before;
  }
  const isChange = () => Boolean(difference?.checked);
  const member = (token) => data.ranges[+group.value].some(([from, to]) => from <= token && token < to);

  // Where the scale of text and curve ends: at what is shown, or at the largest of all layers.
  function end() {
    const [each, whole] = isChange() ? [data.differenceTops, data.differenceTop] : [data.tops, data.top];
    return oneScale.checked ? whole[+group.value] : each[+group.value][+layer.value];
  }

  function line(found, top) {
    const x = 1000 / data.longest, [zero, height] = isChange() ? [100, 100] : [200, 200];
    const points = found.flatMap((one, token) =>
      one === null ? [] : [`${((token + 0.5) * x).toFixed(2)} ${(zero - height * clamp(one / top, -1, 1)).toFixed(2)}`]);
    return points.length ? `M${points.join("L")}` : "";
  }

  function draw() {
    const top = end(), x = 1000 / data.longest, isShownChange = isChange();
    const [low, high] = isShownChange ? [`${MINUS}${top}`, `+${top}`] : ["0", String(top)];
    one("#layer-name").textContent = `${layer.value} of ${data.layers}`;
    one("#top").textContent = one("#curve-top").textContent = high;
    one("#bottom").textContent = one("#curve-bottom").textContent = low;
    one("#ramp").classList.toggle("both", isShownChange);
    for (const span of tokens) {
      const { run, token } = span.dataset, found = isShownChange ? change(+token) : value(run, token);
      const name = span.classList.contains("raw") ? data.runs[run].tokens[token] : `“${data.runs[run].tokens[token]}”`;
      const missing = isShownChange && !compared(+token) ? "not compared" : "not measured";
      paint(span, name, found, top, isShownChange, missing);
      outline(span, +token, member);
    }
    for (const text of all(".text")) {
      const { part, run } = text.dataset;
      text.setAttribute("aria-label", `${part}, ${isShownChange ? `guided ${MINUS} plain` : data.runs[run].label}`);
    }
    data.runs.forEach((run, index) => {
      const found = run.tokens.map((_, token) => value(index, token));
      one(`path[data-run="${index}"]`).setAttribute("d", isShownChange ? "" : line(found, top));
    });
    if (isShownChange) one("#difference").setAttribute("d", line(data.runs[1].tokens.map((_, token) => change(token)), top));
    one("#bands").replaceChildren(...data.ranges[+group.value].map(([from, to]) => {
      const band = document.createElementNS(one("svg").namespaceURI, "rect");
      const shape = { class: "band", x: from * x, y: 0, width: (to - from) * x, height: 200 };
      for (const [name, at] of Object.entries(shape)) band.setAttribute(name, at);
      return band;
    }));
    for (const map of all(".map")) {
      const most = (map.classList.contains("difference") ? data.differenceTop : data.top)[+group.value];
      const ends = map.classList.contains("difference") ? [`${MINUS}${most}`, 0, `+${most}`] : [0, most / 4, most];
      all(".map-scale", map).forEach((place, at) => { place.textContent = ends[at]; });
    }
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
    // A factor and a difference say nothing where the runs have read different texts.
    const more = change(token), isKnown = more !== null;
    const factor = isKnown && found[0] ? `×${(found[1] / found[0]).toFixed(2)}, ` : "";
    const step = isKnown ? [piece("where", `${factor}${number(more, true)}`)] : [];
    readout.replaceChildren(piece("", names.map((name) => `“${name}”`).join(" / ")), where, ...shown, ...step);
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

  function changeLayer(step) {
    layer.value = clamp(+layer.value + step, 0, data.layers);
    draw();
  }

  for (const text of all('.text[role="listbox"]')) {
    walkable(text, (span) => say(+span.dataset.token), changeLayer);
  }
  for (const plot of plots) {
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      const token = Math.floor(((event.clientX - box.left) / box.width) * data.longest);
      say(clamp(token, 0, data.longest - 1));
    });
    plot.addEventListener("click", (event) => {
      if (plot.dataset.levels === undefined) return;
      const box = plot.getBoundingClientRect();
      const level = data.layers - Math.floor(((event.clientY - box.top) / box.height) * (data.layers + 1));
      layer.value = clamp(level, 0, data.layers);
      draw();
    });
    plot.addEventListener("focus", () => say(here ?? 0));
    plot.addEventListener("keydown", (event) => walk(event, here ?? 0, 0, data.longest - 1, say, changeLayer));
  }
  for (const control of [group, layer, oneScale, ...all(".views input")]) control.addEventListener("input", draw);
  for (const form of all("form")) form.addEventListener("submit", (event) => event.preventDefault());
  // "plain" alone is a choice of narrow screens; a wide one shows both.
  matchMedia("(min-width: 48rem)").addEventListener("change", (event) => {
    if (event.matches && plain?.checked) values.checked = true;
  });
  document.documentElement.classList.add("js");
  group.closest("label").hidden = data.groups.length === 1;
  draw();
})();
