// The page's own components (see app/web/__init__.py). Data reaches the DOM as text nodes only.
window.studio = (() => {
  const TAGS = new Set(("div span p b em strong small h2 h3 h4 ul ol li dl dt dd table caption thead tbody tr th td " +
    "details summary button pre code ins del progress meter section article header footer time br hr label").split(" "));
  const ATTRIBUTES = new Set("class id role tabindex title type disabled open colspan rowspan scope value max min low high".split(" "));
  const NS = "http://www.w3.org/2000/svg";

  function build(spec) {
    if (!Array.isArray(spec)) return document.createTextNode(String(spec));
    const [tag, attributes, ...children] = spec;
    const node = document.createElement(TAGS.has(tag) ? tag : "span");
    for (const [name, value] of Object.entries(attributes || {})) {
      if (shown(name)) node.setAttribute(name, value);
    }
    for (const child of children) node.appendChild(build(child));
    return node;
  }

  const shown = (name) => ATTRIBUTES.has(name) || /^(aria|data)-[a-z-]+$/.test(name);

  // Change what differs and leave the rest: a button that is being pressed must outlive the redraw of every second.
  function patch(node, spec) {
    if (!Array.isArray(spec)) {
      if (node.nodeType !== Node.TEXT_NODE) node.replaceWith(build(spec));
      else if (node.data !== String(spec)) node.data = String(spec);
      return;
    }
    const [tag, attributes, ...children] = spec;
    const wanted = attributes || {};
    const same = node.nodeType === Node.ELEMENT_NODE && node.localName === (TAGS.has(tag) ? tag : "span") &&
      (node.dataset.fold || "") === (wanted["data-fold"] || "");
    if (!same) { node.replaceWith(build(spec)); return; }
    for (const { name } of [...node.attributes]) if (shown(name) && !(name in wanted) && name !== "open") node.removeAttribute(name);
    for (const [name, value] of Object.entries(wanted)) {
      if (shown(name) && name !== "open" && node.getAttribute(name) !== value) node.setAttribute(name, value);
    }
    while (node.childNodes.length > children.length) node.lastChild.remove();
    children.forEach((child, i) => { if (node.childNodes[i]) patch(node.childNodes[i], child); else node.appendChild(build(child)); });
  }

  // ---- trees of text -------------------------------------------------------------------------------------------
  const sheets = new WeakMap();
  function words(context, live) {
    const { element, props, trigger, watch } = context;
    const box = element.querySelector("div") || element;
    if (live) { box.setAttribute("role", "status"); box.setAttribute("aria-live", "polite"); }
    let last = null;

    function render() { draw(props.value); }
    function draw(value) {
      const text = JSON.stringify(value ?? null);
      if (text === last) return;
      last = text;
      const folds = new Map([...box.querySelectorAll("details[data-fold]")].map((d) => [d.dataset.fold, d.open]));
      const scrolls = new Map([...box.querySelectorAll("[data-scroll]")].map((d) => [d.dataset.scroll, d.scrollTop]));
      const focus = box.contains(document.activeElement) && document.activeElement.dataset;
      const wanted = focus && focus.event ? [focus.event, focus.key] : null;
      if (value && box.firstChild) patch(box.firstChild, value);
      else box.replaceChildren(...(value ? [build(value)] : []));
      for (const d of box.querySelectorAll("details[data-fold]")) if (folds.has(d.dataset.fold)) d.open = folds.get(d.dataset.fold);
      for (const d of box.querySelectorAll("[data-scroll]")) {
        if (d.dataset.scroll.startsWith("end")) d.scrollTop = d.scrollHeight;
        else if (scrolls.has(d.dataset.scroll)) d.scrollTop = scrolls.get(d.dataset.scroll);
      }
      if (wanted) {
        const again = [...box.querySelectorAll("[data-event]")].find((n) => n.dataset.event === wanted[0] && n.dataset.key === wanted[1]);
        if (again) again.focus({ preventScroll: true });
      }
    }

    function act(node) {
      if (!node.disabled) trigger("act", { name: node.dataset.event, key: node.dataset.key ?? "" });
    }
    box.addEventListener("click", (event) => {
      const node = event.target.closest("[data-event]");
      if (node && box.contains(node)) act(node);
    });
    box.addEventListener("keydown", (event) => {
      const node = event.target.closest("[data-event]");
      if (!node || node.tagName === "BUTTON") return;
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(node); }
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (step) {
        event.preventDefault();
        const all = [...box.querySelectorAll(`${node.tagName.toLowerCase()}[data-event]`)];
        const next = all[all.indexOf(node) + step];
        if (next) next.focus();
      }
    });
    sheets.set(box, draw);
    watch("value", render);
    render();
  }

  // Trees that a server function answered with, by the id of the sheet they belong to.
  function drawAll(trees) {
    for (const [id, tree] of Object.entries(trees || {})) {
      const box = document.querySelector(`#${CSS.escape(id)} .studio-tree, #${CSS.escape(id)} .studio-live`);
      if (box && sheets.has(box)) sheets.get(box)(tree);
    }
  }

  // ---- the linked plot -----------------------------------------------------------------------------------------
  const FONT = "system-ui, -apple-system, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', sans-serif";
  const HUES = { "@blue": "#0072B2", "@vermilion": "#D55E00", "@green": "#009E73", "@purple": "#CC79A7", "@orange": "#E69F00", "@sky": "#56B4E9", "@yellow": "#8C6D1F", "@grey": "#7A7A7A" };
  const THEMES = {
    light: { "@ink": "#1c2430", "@muted": "#5b6675", "@grid": "#e6e9ee", "@panel": "#ffffff", "@off": "#b4bac4", "@accent": "#0b6270", "@bad": "#b3261e", "@shade": "rgba(11,98,112,0.07)", "@font": FONT, ...HUES },
    dark: { "@ink": "#e9edf2", "@muted": "#a3adba", "@grid": "#2c343f", "@panel": "#171c23", "@off": "#56606d", "@accent": "#5cc3d2", "@bad": "#ff7a6e", "@shade": "rgba(92,195,210,0.10)", "@font": FONT, ...HUES, "@blue": "#3f9fdc", "@vermilion": "#e8762c", "@green": "#1fb98b" },
  };
  const isDark = () => document.body.classList.contains("dark") || document.documentElement.classList.contains("dark");

  function themed(value, theme) {
    if (typeof value === "string") {
      if (value[0] !== "@") return value;
      if (!value.endsWith("~")) return theme[value] || value;
      const hex = theme[value.slice(0, -1)] || "#808080";
      return `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(",")},0.55)`;
    }
    if (Array.isArray(value)) return value.map((item) => themed(item, theme));
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v, theme)]));
    return value;
  }

  function save(name, content, type) {
    const link = document.createElement("a");
    link.href = content.startsWith("data:") ? content : URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
  }

  function plot(context, zoomable = true) {
    const { element, props, trigger, watch, server } = context;
    const box = element.querySelector("div") || element;
    const tools = document.createElement("div");
    tools.className = "s-tools";
    const stage = document.createElement("div");
    stage.className = "stage";
    stage.setAttribute("role", "img");
    box.replaceChildren(tools, stage);
    let zoom = false, shade = false, other = false, bound = false, last = "";

    function tool(label, title, fn) {
      const b = document.createElement("button");
      b.type = "button"; b.className = "s-tool"; b.textContent = label; b.title = title;
      b.addEventListener("click", () => fn(b));
      tools.appendChild(b);
      return b;
    }
    const shown = () => (other && props.value.other ? props.value.other : props.value.figure);
    let o = null, z = null, s = null;
    function layout(figure, theme, width, height) {
      const narrow = width < 560;
      const out = themed(figure.layout, theme);
      out.width = width; out.height = height;
      if (narrow) {
        Object.assign(out.margin, { l: 44, r: 8, t: 70 }); out.dragmode = false; out.font.size = 11;
        for (const [axis, words] of Object.entries((shown() === props.value.other ? props.value.other_narrow : props.value.narrow) || {})) if (out[axis]) out[axis].title.text = words;
      }
      if (zoom) {
        out.uirevision = "data";
        for (const axis of ["xaxis", "yaxis", "yaxis2"]) if (out[axis]) Object.assign(out[axis], { range: undefined, autorange: true });
      }
      return out;
    }
    const traces = () => shown().data.map((trace, i) => {
      const shaded = shade && !other && (props.value.shades || {})[i];
      return shaded ? { ...trace, marker: { ...trace.marker, ...shaded } } : trace;
    });
    async function picture(format) {
      if (!props.value) return;
      const figure = shown(), theme = THEMES.light;
      const height = zoomable ? 840 : Math.max(840, props.value.height);
      const url = await Plotly.toImage({ data: themed(traces(), theme), layout: layout(figure, theme, 1200, height) }, { format, width: 1200, height, scale: format === "png" ? 2 : 1 });
      save(`dualselect.${format}`, url, `image/${format}`);
    }
    const keys = () => [...new Set((props.value ? props.value.figure.data : []).flatMap((t) => (t.customdata || []).map(Number)))];
    if (props.value !== undefined) {
      o = zoomable && tool("At equal strength", "Put the points where their merge walked to, so that methods can be compared at equal strength", () => { other = !other; o.setAttribute("aria-pressed", other); last = ""; draw(); });
      z = zoomable && tool("Zoom to data", "Show only the range that has points", () => { zoom = !zoom; z.setAttribute("aria-pressed", zoom); last = ""; draw(); });
      s = zoomable && tool("Colour by over-refusal", "Colour by how often harmless requests are refused, or by method", () => { shade = !shade; s.setAttribute("aria-pressed", shade); last = ""; draw(); });
      for (const b of [o, z, s]) if (b) b.setAttribute("aria-pressed", "false");
      tool("PNG", "Save the plot as a PNG picture", () => picture("png"));
      tool("SVG", "Save the plot as an SVG picture", () => picture("svg"));
      if (server && server.export_points) {
        tool("CSV", "Save these points as a table", async () => save("dualselect.csv", await server.export_points({ form: "csv", points: keys() }), "text/csv"));
        tool("JSON", "Save these points with their recipes", async () => save("dualselect.json", await server.export_points({ form: "json", points: keys() }), "application/json"));
      }
    }

    function draw() {
      const value = props.value;
      if (!value || !value.figure) {
        if (bound && window.Plotly) { Plotly.purge(stage); bound = false; last = ""; }
        return;
      }
      if (!window.Plotly) { setTimeout(draw, 40); return; }
      const width = Math.floor(box.clientWidth);
      if (width < 50) return;
      const dark = isDark();
      if (o) { o.hidden = !value.other; z.hidden = !!value.fixed; s.hidden = !!value.fixed || other; }
      const figure = shown();
      const stamp = JSON.stringify([value, width, dark, zoom, shade, other]);
      if (stamp === last) return;
      last = stamp;
      const theme = THEMES[dark ? "dark" : "light"];
      const named = figure.data.filter((trace) => trace.name && trace.showlegend !== false).length;
      const shrunk = value.fixed || !zoomable ? value.height : Math.round(value.height * 0.84) + 22 * Math.max(0, named - 3); // room for the legend
      const height = value.height ? (width < 560 ? shrunk : value.height) : 560;
      stage.setAttribute("aria-label", value.summary || "plot");
      stage.dataset.points = keys().length;
      Plotly.react(stage, themed(traces(), theme), layout(figure, theme, width, height),
        { displaylogo: false, displayModeBar: width >= 560 ? "hover" : false, modeBarButtonsToRemove: ["toImage", "autoScale2d", "zoomIn2d", "zoomOut2d"], doubleClick: "reset" });
      if (!bound) {
        bound = true;
        stage.on("plotly_click", (event) => {
          const hit = event.points.find((p) => p.customdata !== undefined && p.customdata !== null);
          if (hit) trigger("pick", { key: Number(hit.customdata) });
        });
        stage.on("plotly_selected", (event) => {
          const found = ((event && event.points) || []).map((p) => Number(p.customdata)).filter((n) => n > 0);
          trigger("area", { keys: [...new Set(found)] });
        });
      }
    }
    new ResizeObserver(() => draw()).observe(box);
    new MutationObserver(() => draw()).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    watch("value", draw);
    draw();
  }

  // ---- the λ slider --------------------------------------------------------------------------------------------
  let knobs = 0;
  function knob(context) {
    const { element, props, watch, server } = context;
    const box = element.querySelector("div") || element;
    const id = `knob-${++knobs}`;
    const label = document.createElement("label");
    const name = document.createElement("span");
    const output = document.createElement("output");
    const input = document.createElement("input");
    const ticks = document.createElement("div");
    const ends = document.createElement("div");
    label.htmlFor = id; label.append(name, output);
    Object.assign(input, { id, type: "range", min: 0, max: 1, step: 0.01 });
    ticks.className = "ticks"; ends.className = "ends"; ends.setAttribute("aria-hidden", "true"); ticks.setAttribute("aria-hidden", "true");
    box.replaceChildren(label, input, ticks, ends);
    const say = () => { output.textContent = `λ = ${Number(input.value).toFixed(2)}`; };
    let wanted = null, walking = false;
    input.addEventListener("input", () => { say(); wanted = Number(input.value); walk(); });
    const share = () => { const { aligned, tuned } = (props.value || {}).about || {}; if (aligned && tuned) remember({ aligned, tuned, lam: input.value }); };
    input.addEventListener("change", share);
    async function walk() {  // one call at a time; the newest λ wins
      if (walking || !server || !(props.value || {}).about) return;
      walking = true;
      try {
        while (wanted !== null) {
          const about = props.value.about, lam = wanted;
          wanted = null;
          const typed = document.querySelector("#request textarea"); // what stands there now, asked before or not
          let answer = await server.first({ ...about, ...(typed ? { prompt: typed.value } : {}), lam });
          drawAll(answer.draw);
          while (answer.more && wanted === null) {
            answer = await server.more({ session: about.session, ticket: answer.ticket });
            drawAll(answer.draw);
          }
        }
      } catch (error) {
        drawAll({ "compare-status": ["p", { class: "s-note error", role: "alert" }, "The studio did not answer. Ask again, or reload the page."] });
        console.warn(error);
      } finally { walking = false; }
    }
    let value = null, pair = "";
    function show() {
      const state = props.value || {}, about = state.about || {};
      const now = about.aligned && about.tuned ? `${about.aligned} ${about.tuned}` : "";
      if (pair && now && now !== pair) share();  // the first pair is the page's own choice
      pair = now || pair;
      name.textContent = state.label || "";
      if (state.value !== undefined && state.value !== value) { value = state.value; input.value = state.value; }
      ticks.replaceChildren(...(state.ticks || []).map((at) => {
        const mark = document.createElement("span");
        mark.style.left = `calc(${100 * at}% + ${(0.5 - at) * 18}px)`;
        return mark;
      }));
      ends.replaceChildren(...(state.ends || []).map((text) => { const s = document.createElement("span"); s.textContent = text; return s; }));
      say();
    }
    watch("value", show);
    show();
  }

  // ---- the address bar -----------------------------------------------------------------------------------------
  let arrived = false; // the first tab says "selected" while the link is still being read
  function remember(part) {
    if (!arrived) return;
    const url = new URL(location.href), before = url.searchParams.get("view") || "explore";
    for (const [key, value] of Object.entries(part || {})) {
      if (value === null || value === "") url.searchParams.delete(key); else url.searchParams.set(key, value);
    }
    // Back walks through the tabs: only another tab is a step of its own
    const step = (url.searchParams.get("view") || "explore") !== before ? "pushState" : "replaceState";
    history[step](history.state, "", url);
  }
  window.addEventListener("popstate", () => {
    const view = new URL(location.href).searchParams.get("view") || "explore";
    const tab = document.querySelector(`[role=tab][data-tab-id="${CSS.escape(view)}"]`);
    if (tab && tab.getAttribute("aria-selected") !== "true") tab.click();
  });
  function address(context) {
    const { element, props, watch } = context;
    const box = element.querySelector("div") || element;
    const b = document.createElement("button");
    b.type = "button"; b.className = "s-btn s-quiet"; b.textContent = (props.value || {}).label || "Copy link";
    const said = document.createElement("span");
    said.setAttribute("role", "status"); said.className = "said";
    b.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(location.href); said.textContent = "Copied."; }
      catch { const field = document.createElement("input"); field.value = location.href; field.readOnly = true; field.setAttribute("aria-label", "link"); said.replaceChildren(field); field.select(); }
      setTimeout(() => { said.textContent = ""; }, 4000);
    });
    box.replaceChildren(said, b);
    watch("value", () => { const { label, ...part } = props.value || {}; arrived = true; remember(part); });
  }

  return { tree: (c) => words(c, false), live: (c) => words(c, true), plot: (c) => plot(c), curves: (c) => plot(c, false), knob, address, remember };
})();
