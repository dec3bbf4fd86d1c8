"use strict";
// The page keeps the picture; the server keeps the session: what the network has seen, the clicks, the masks.
const at = (id) => document.getElementById(id);
const canvas = at("picture"), context = canvas.getContext("2d");
const layer = document.createElement("canvas");
const HELP = "Left click: the object. Right click: the background.";
let session = null, picture = null, mask = null, clicks = [], busy = Promise.resolve();

function say(text, isError = false) {
  at("message").textContent = text;
  at("message").className = isError ? "error" : "";
}

async function ask(path, body, type) {
  const answer = await fetch(path, { method: "POST", body, headers: { "Content-Type": type } }).catch(() => {
    throw new Error("no answer from the server: is treadle segment click still running?");
  });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

const askJson = (path, values) => ask(path, JSON.stringify(values), "application/json");

function loaded(source) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("the browser cannot show this image"));
    image.src = source;
  });
}

// One request after another: a click that comes while another is answered waits for it.
function queue(work) {
  busy = busy.then(work).catch((error) => say(error.message, true));
  return busy;
}

function draw() {
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (picture) context.drawImage(picture, 0, 0);
  if (mask) {
    const brush = layer.getContext("2d");
    layer.width = canvas.width;
    layer.height = canvas.height;
    brush.drawImage(mask, 0, 0);
    brush.globalCompositeOperation = "source-in";
    brush.fillStyle = "#ff2d95";
    brush.fillRect(0, 0, layer.width, layer.height);
    context.drawImage(layer, 0, 0);
  }
  const radius = Math.max(3, canvas.width / 150);
  for (const click of clicks) {
    context.beginPath();
    context.arc(click.column + 0.5, click.row + 0.5, radius, 0, 2 * Math.PI);
    context.fillStyle = click.positive ? "#00c853" : "#d50000";
    context.fill();
    context.lineWidth = radius / 3;
    context.strokeStyle = "white";
    context.stroke();
  }
  canvas.dataset.clicks = clicks.length;
  for (const id of ["undo", "clear", "save"]) at(id).disabled = !clicks.length;
}

async function show(found, began) {
  mask = found.mask ? await loaded("data:image/png;base64," + found.mask) : null;
  clicks = found.clicks;
  draw();
  const whole = Math.round(performance.now() - began);
  at("latency").textContent = found.mask ? `${whole} ms from click to mask (network: ${Math.round(found.milliseconds)} ms)` : "";
}

async function begin(found) {
  session = found.session;
  picture = await loaded("data:image/png;base64," + found.image);
  canvas.width = found.width;
  canvas.height = found.height;
  mask = null;
  clicks = [];
  at("latency").textContent = `the network read the image in ${Math.round(found.milliseconds)} ms`;
  say(HELP);
  draw();
}

function open(file) {
  say("The network reads the image …");
  queue(async () => begin(await ask("image", file, "application/octet-stream")));
}

function clicked(event, positive) {
  event.preventDefault();
  if (!session) return;
  const began = performance.now(), box = canvas.getBoundingClientRect(), meant = session;
  const inside = (value, size) => Math.min(Math.max(Math.floor(value), 0), size - 1);
  const row = inside(((event.clientY - box.top - canvas.clientTop) * canvas.height) / canvas.clientHeight, canvas.height);
  const column = inside(((event.clientX - box.left - canvas.clientLeft) * canvas.width) / canvas.clientWidth, canvas.width);
  queue(async () => {
    if (session !== meant) return; // another image has come while this click waited
    await show(await askJson("click", { session, row, column, positive }), began);
    say(HELP);
  });
}

function change(path) {
  const began = performance.now();
  queue(async () => show(await askJson(path, { session }), began));
}

canvas.addEventListener("click", (event) => clicked(event, true));
canvas.addEventListener("contextmenu", (event) => clicked(event, false));
at("undo").addEventListener("click", () => change("undo"));
at("clear").addEventListener("click", () => change("clear"));
at("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = "mask.png?session=" + session;
  link.download = "mask.png";
  link.click();
});
at("file").addEventListener("change", (event) => {
  if (event.target.files.length) open(event.target.files[0]);
  event.target.value = "";
});
at("scene").addEventListener("click", () => queue(async () => begin(await askJson("scene", {}))));
document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && clicks.length) change("undo");
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
});
// The image of the command line, if there was one.
queue(async () => {
  const found = await askJson("start", {});
  if (found.session) await begin(found);
});
