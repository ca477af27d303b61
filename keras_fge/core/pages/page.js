"use strict";
// Draws the panels of a page (see page.py), and moves their markers with the slider.

const page = JSON.parse(document.getElementById("content").textContent);
const slider = document.getElementById("slider");
const choices = [...document.querySelectorAll("select")];

function chosenFigure(panel) {
  const key = panel.follows.map((name) => choices.find((choice) => choice.name === name).value).join(" / ");
  return panel.figures[key];
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function themed(layout) {
  const axis = { gridcolor: color("--line"), zerolinecolor: color("--line"), linecolor: color("--line") };
  const result = { ...layout, font: { color: color("--ink"), size: 13 } };
  result.modebar = { bgcolor: "rgba(0,0,0,0)", color: color("--soft"), activecolor: color("--accent") };
  result.paper_bgcolor = result.plot_bgcolor = "rgba(0,0,0,0)";
  for (const name of ["xaxis", "yaxis"]) result[name] = { automargin: true, ...axis, ...layout[name] };
  if (layout.scene) {
    result.scene = { ...layout.scene };
    for (const name of ["xaxis", "yaxis", "zaxis"]) result.scene[name] = { ...axis, ...layout.scene[name] };
  }
  return result;
}

function at(marker, place) {
  const update = {};
  for (const name of ["x", "y", "z", "text"]) if (marker[name]) update[name] = [marker[name][place]];
  return update;
}

// Ink is what the theme of the reader makes it: black or white.
function inked(trace) {
  if (!trace.ink) return trace;
  return { ...trace, line: { ...trace.line, color: color("--ink") }, marker: { ...trace.marker, color: color("--ink") } };
}

function draw(panel, index) {
  const figure = chosenFigure(panel), place = Number(slider.value);
  const markers = figure.markers.map((marker) => ({ ...marker.style, ...at(marker, place) }));
  const options = { responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtonsToRemove: ["select2d", "lasso2d"] };
  return Plotly.react(`plot-${index}`, [...figure.data.map(inked), ...markers], themed(figure.layout), options);
}

function drawAll() {
  return Promise.all(page.panels.map(draw));
}

function move() {
  const place = Number(slider.value);
  document.getElementById("place").textContent = page.texts[place];
  slider.setAttribute("aria-valuetext", page.texts[place]);
  return Promise.all(page.panels.map((panel, index) => {
    const figure = chosenFigure(panel);
    return Promise.all(figure.markers.map((marker, number) => {
      const update = Object.fromEntries(Object.entries(at(marker, place)).map(([name, value]) => [name, [value]]));
      return Plotly.restyle(`plot-${index}`, update, [figure.data.length + number]);
    }));
  }));
}

let ready = drawAll().then(move);
slider.addEventListener("input", () => { ready = ready.then(move); });
for (const choice of choices) choice.addEventListener("change", () => { ready = ready.then(drawAll); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { ready = ready.then(drawAll); });
ready.then(() => { document.body.dataset.ready = "yes"; });
