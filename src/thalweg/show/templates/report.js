"use strict";
{
  // Sorts a table by the column whose head is pressed: numbers as numbers, first upwards, then downwards.
  const units = document.documentElement.dataset.units.split(" ");
  function valueOf(text) {
    const unit = units.indexOf(text.split("\u00a0").at(-1));
    const power = text.match(/10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)/);
    const lowered = (found) => [...found].map((c) => (c === "⁻" ? "-" : "⁰¹²³⁴⁵⁶⁷⁸⁹".indexOf(c))).join("");
    const scale = power ? 10 ** Number(lowered(power[1])) : 1;
    const rest = power ? text.slice(0, power.index).replace("×", "") : text;
    const number = rest.replaceAll("−", "-").match(/-?[\d,]*\.?\d+/);
    return (number ? Number(number[0].replaceAll(",", "")) : 1) * scale * (unit < 0 ? 1 : [1e-6, 1e-3, 1, 60, 3600][unit]);
  }
  for (const table of document.querySelectorAll("table.sorts")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...body.rows].map((row) => [row, row.cells[column].textContent.trim()]);
        const numeric = head.classList.contains("number");
        const missing = (text) => text === "" || text === "–";
        rows.sort(([, a], [, b]) => {
          if (missing(a) || missing(b)) return missing(a) - missing(b);
          const order = numeric ? valueOf(a) - valueOf(b) : a.localeCompare(b, undefined, { numeric: true });
          return up ? order : -order;
        });
        body.append(...rows.map(([row]) => row));
      });
    });
  }

  const said = document.documentElement.dataset;
  function made(tag, name, parent, text = "") {
    const element = document.createElement(tag);
    element.className = name;
    element.textContent = text;
    parent.append(element);
    return element;
  }
  function pressable(name, parent, text, label, press) {
    const button = made("button", name, parent, text);
    button.type = "button";
    if (label) button.setAttribute("aria-label", label);
    button.addEventListener("click", press);
    return button;
  }

  // Says what the mark nearest to the pointer stands for. The tables say the same to those who use none.
  const reach = 20;
  const tip = made("div", "tip", document.body);
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  for (const plot of document.querySelectorAll("svg.plot")) {
    const marks = [...plot.querySelectorAll("[data-tip]")];
    const say = (event) => {
      let best = null, least = reach;
      for (const mark of marks) {
        const box = mark.getBoundingClientRect();
        if (!box.width && !box.height && !box.left) continue;
        const x = box.left + box.width / 2, y = box.top + box.height / 2;
        const away = Math.hypot(x - event.clientX, y - event.clientY);
        if (away < least) [best, least] = [{ mark, x, y }, away];
      }
      tip.hidden = !best;
      if (!best) return;
      (plot.closest("dialog") || document.body).append(tip);
      tip.textContent = best.mark.dataset.tip;
      const width = document.documentElement.clientWidth, size = tip.getBoundingClientRect();
      tip.style.left = `${Math.max(8, Math.min(best.x - size.width / 2, width - size.width - 8))}px`;
      tip.style.top = `${best.y > size.height + 20 ? best.y - size.height - 12 : best.y + 14}px`;
    };
    plot.addEventListener("pointermove", say);
    plot.addEventListener("pointerdown", say);  // a finger does not move before it taps
    plot.addEventListener("pointerleave", (event) => { tip.hidden = event.pointerType !== "touch" || tip.hidden; });
  }

  // Opens a picture in the whole window, where a wheel, a drag or a key changes what is seen of it.
  const stage = document.createElement("dialog");
  const bar = made("div", "bar", stage);
  const title = made("h2", "kicker", bar);
  title.id = "stage-title";
  stage.setAttribute("aria-labelledby", title.id);
  let shown = null;
  function view(box) {
    shown.plot.setAttribute("viewBox", box.join(" "));
  }
  function box() {
    return shown.plot.getAttribute("viewBox").split(" ").map(Number);
  }
  function zoom(factor, across = 0.5, up = 0.5) {
    const [x, y, width, height] = box();
    const scale = Math.max(0.05, Math.min(1, (width * factor) / shown.whole[2])) * (shown.whole[2] / width);
    view([x + width * (1 - scale) * across, y + height * (1 - scale) * up, width * scale, height * scale]);
  }
  function drag(right, down) {
    const [x, y, width, height] = box();
    view([x - right * width, y - down * height, width, height]);
  }
  // What a place or a way on the screen is in the picture, which need not fill its element.
  function inside(event) {
    const scale = shown.plot.getScreenCTM(), [x, y, width, height] = box();
    const at = [(event.clientX - scale.e) / scale.a, (event.clientY - scale.f) / scale.d];
    return {
      across: (at[0] - x) / width, up: (at[1] - y) / height,
      right: event.movementX / scale.a / width, down: event.movementY / scale.d / height,
    };
  }
  pressable("", bar, "+", said.closer, () => zoom(0.7));
  pressable("", bar, "−", said.farther, () => zoom(1 / 0.7));
  pressable("", bar, "1:1", said.whole, () => view(shown.whole));
  pressable("", bar, "×", said.close, () => stage.close());
  stage.addEventListener("close", () => {
    view(shown.whole);
    tip.hidden = true;
    document.body.append(tip);
    shown.place.replaceWith(shown.plot);
    shown.from.focus();
    shown = null;
  });
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
    if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 0.7 : 1 / 0.7);
    else if (event.key === "0") view(shown.whole);
    else if (moves[event.key]) drag(...moves[event.key]);
    else return;
    event.preventDefault();
  });
  stage.addEventListener("wheel", (event) => {
    if (!event.deltaY || !event.target.closest("svg.plot")) return;
    event.preventDefault();
    const { across, up } = inside(event);
    zoom(event.deltaY < 0 ? 0.85 : 1 / 0.85, across, up);
  }, { passive: false });
  stage.addEventListener("pointermove", (event) => {
    if (event.buttons !== 1 || !event.isPrimary || !event.target.closest("svg.plot")) return;
    const { right, down } = inside(event);
    drag(right, down);
  });
  document.body.append(stage);
  for (const panel of document.querySelectorAll(".panel")) {
    const heading = panel.querySelector("h3"), plot = panel.querySelector("svg.plot");
    const button = pressable("enlarge", panel, "⤢", `${said.enlarge}: ${heading.textContent}`, () => {
      const place = document.createComment("");
      plot.replaceWith(place);
      shown = { plot, place, from: button, whole: plot.getAttribute("viewBox").split(" ").map(Number) };
      title.textContent = heading.textContent;
      stage.append(plot);
      stage.showModal();
    });
  }

  // A press on an entry of a legend takes its marks away and brings them back, where its colour is that of nothing else.
  for (const figure of document.querySelectorAll("figure")) {
    const keys = [...figure.querySelectorAll(".legend li[data-hue]")];
    for (const key of keys) {
      const hue = key.dataset.hue;
      if (["ink", "muted"].includes(hue) || keys.filter((other) => other.dataset.hue === hue).length > 1) continue;
      const drawn = [...figure.querySelectorAll(`.plot .f-${hue}, .plot .s-${hue}`)].filter((one) => !one.closest(".frame"));
      if (!drawn.length) continue;
      const button = pressable("toggle", key, "", "", () => {
        const on = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", on);
        for (const one of drawn) one.classList.toggle("off", !on);
      });
      button.setAttribute("aria-pressed", "true");
      button.append(...[...key.childNodes].filter((child) => child !== button));
    }
  }

  // Paper cannot be pressed: the words are explained on it.
  addEventListener("beforeprint", () => {
    for (const words of document.querySelectorAll("details.terms")) words.open = true;
  });
}
