"use strict";
// Draws what the page says of one pixel. All data are in the page; nothing is fetched.
(function () {
  const data = JSON.parse(document.getElementById("explain-data").textContent);
  const $ = (id) => document.getElementById(id);
  let shown = -1, background = Object.keys(data.images)[0];

  function bytes(text) {
    const raw = atob(text), out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  }
  // Numbers as 16-bit integers times a scale.
  function numbers(packed) {
    const whole = new Int16Array(bytes(packed.data).buffer);
    return Float64Array.from(whole, (value) => value * packed.scale);
  }
  const colours = {};
  for (const [name, text] of Object.entries(data.colours)) colours[name] = bytes(text);

  // values (rows x columns) as squares; NaN is grey.
  function heat(canvas, values, columns, low, high, map, size) {
    const rows = values.length / columns, table = colours[map];
    const cell = Math.max(1, Math.floor(size / Math.max(rows, columns)));
    canvas.width = columns * cell; canvas.height = rows * cell;
    const context = canvas.getContext("2d");
    for (let i = 0; i < values.length; i++) {
      const share = Math.min(1, Math.max(0, (values[i] - low) / (high - low || 1)));
      const at = 3 * Math.round(share * 255);
      context.fillStyle = Number.isNaN(values[i]) ? "#888" : `rgb(${table[at]},${table[at + 1]},${table[at + 2]})`;
      context.fillRect((i % columns) * cell, Math.floor(i / columns) * cell, cell, cell);
    }
  }
  // Planes of a window of three axes side by side, one column of NaN between them.
  function tiles(values, kernel) {
    if (kernel.length === 1) return [values, kernel[0]];
    if (kernel.length === 2) return [values, kernel[1]];
    const [depth, height, width] = kernel, columns = depth * (width + 1) - 1;
    const out = new Array(height * columns).fill(NaN);
    for (let z = 0; z < depth; z++) for (let y = 0; y < height; y++) for (let x = 0; x < width; x++)
      out[y * columns + z * (width + 1) + x] = values[(z * height + y) * width + x];
    return [out, columns];
  }
  const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const text = (value, digits = 4) => value.toFixed(digits).replace("-", "−");
  const complex = (z) => `${text(z[0])} ${z[1] < 0 ? "−" : "+"} ${text(Math.abs(z[1]))} i`;
  const size = (z) => Math.hypot(z[0], z[1]);

  function element(parent, tag, content, title) {
    const made = document.createElement(tag);
    if (content !== undefined) made.textContent = content;
    if (title) made.title = title;
    parent.appendChild(made);
    return made;
  }
  function table(parent, headings, rows) {
    const made = element(parent, "table"), head = element(element(made, "thead"), "tr");
    headings.forEach((heading) => element(head, "th", heading));
    const body = element(made, "tbody");
    rows.forEach((row) => {
      const line = element(body, "tr");
      row.forEach((cell, index) => element(line, index ? "td" : "th", cell));
    });
    return made;
  }

  // Gain of the filter with its skip, as the part a of z -> a * z + b * conj(z), over the frequencies of a plane.
  function response(taps, kernel, count) {
    const window = kernel.reduce((product, extent) => product * extent, 1);
    const width = kernel[kernel.length - 1], height = kernel.length > 1 ? kernel[kernel.length - 2] : 1;
    const inputs = taps.length / 2 / window, real = [], imaginary = [];
    const at = (output, input, o) => taps[(output * inputs + input) * window + o];
    for (let o = 0; o < window; o++) {
      real.push((at(0, 0, o) + at(1, 1, o)) / 2 + (o === (window - 1) / 2 ? 1 : 0));
      imaginary.push((at(1, 0, o) - at(0, 1, o)) / 2);
    }
    const out = [];
    for (let v = 0; v < count; v++) for (let u = 0; u < count; u++) {
      let re = 0, im = 0;
      for (let o = 0; o < window; o++) {
        const y = Math.floor(o / width) % height - (height - 1) / 2, x = o % width - (width - 1) / 2;
        const angle = 2 * Math.PI * ((v / count - 0.5) * y + (u / count - 0.5) * x);
        re += real[o] * Math.cos(angle) - imaginary[o] * Math.sin(angle);
        im += real[o] * Math.sin(angle) + imaginary[o] * Math.cos(angle);
      }
      out.push(Math.hypot(re, im));
    }
    return out;
  }

  function drawGates(parent, open, norms) {
    const canvas = element(parent, "canvas"), width = Math.max(3, Math.min(14, Math.floor(560 / open.length)));
    canvas.width = width * open.length; canvas.height = 70;
    const context = canvas.getContext("2d"), most = largest(norms) || 1;
    [...open].forEach((fires, gate) => {
      const height = Math.max(2, 66 * norms[gate] / most);
      context.fillStyle = fires === "1" ? "#0072B2" : "#fff";
      context.fillRect(gate * width + 0.5, 69.5 - height, width - 2, height);
      context.strokeStyle = "#777";
      context.strokeRect(gate * width + 0.5, 69.5 - height, width - 2, height);
    });
  }

  function drawGrid(parent, name, values, inputs, kernel) {
    const window = values.length / 2 / inputs, limit = largest(values) || 1;
    const row = element(parent, "div"); row.className = "strip";
    element(row, "span", `${name}, ±${limit.toPrecision(2)}`).className = "label";
    for (let output = 0; output < 2; output++) for (let input = 0; input < inputs; input++) {
      const start = (output * inputs + input) * window;
      const [picture, columns] = tiles(Array.from(values.slice(start, start + window)), kernel);
      const box = element(row, "figure"), canvas = element(box, "canvas");
      heat(canvas, picture, columns, -limit, limit, "signed", kernel.length > 2 ? 220 : 88);
      element(box, "figcaption", `${data.channels[input]} → ${output ? "imaginary" : "real"}`);
    }
  }

  function drawBlock(parent, block, number) {
    const about = data.blocks[number], inputs = about.inputs, taps = numbers(block.taps);
    const around = numbers(block.neighbourhood), window = around.length / inputs;
    element(parent, "h3", `Block ${number + 1}`);
    if (block.gates !== null) {
      const fires = [...block.gates].filter((gate) => gate === "1").length;
      element(parent, "p", `${fires} of ${block.gates.length} ${about.unit} fire (filled; as high as the norm of the filter that each switches on).`);
      drawGates(parent, block.gates, about.norms);
    } else element(parent, "p", "A network of more than two layers: its exact local filter, all ReLUs held as they are.");
    const contributions = taps.map((tap, i) => tap * around[(Math.floor(i / window) % inputs) * window + i % window]);
    drawGrid(parent, "taps", taps, inputs, about.window);
    drawGrid(parent, "contributions", contributions, inputs, about.window);
    const row = element(parent, "div"); row.className = "strip";
    const gain = response(taps, about.window, 33), most = largest(gain);
    element(row, "span", `gain |H| with the skip, 0 to ${most.toFixed(2)}; zero frequency in the middle`).className = "label";
    const box = element(row, "figure");
    heat(element(box, "canvas"), gain, 33, 0, most, "gain", 132);
    element(box, "figcaption", "±½ cycle a pixel");
    table(row, ["output", "skip", "window", "constant", "sum"], [0, 1].map((k) =>
      [k ? "imaginary" : "real", ...["skip", "sum", "constant", "output"].map((name) => text(block[name][k]))]));
  }

  function drawImage() {
    const image = new Image(), canvas = $("explain-image"), [rows, columns] = data.shape;
    image.onload = () => {
      const zoom = Math.max(1, Math.floor(520 / Math.max(rows, columns)));
      const spacing = data.spacing || [1, 1], zoomY = zoom * spacing[0] / spacing[1];
      canvas.width = columns * zoom; canvas.height = rows * zoomY;
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.drawImage(image, 0, 0, canvas.width, canvas.height);
      const middle = ([y, x]) => [(x + 0.5) * zoom, (y + 0.5) * zoomY];
      context.fillStyle = "#56B4E9";
      data.pixels.forEach((pixel) => { const [x, y] = middle(pixel.at); context.fillRect(x - 2, y - 2, 4, 4); });
      const [x, y] = middle(data.pixels[shown].at);
      [["#000", 4], ["#F0E442", 2]].forEach(([colour, width]) => {
        context.strokeStyle = colour; context.lineWidth = width;
        context.beginPath(); context.arc(x, y, 7, 0, 2 * Math.PI); context.stroke();
      });
      if (data.spacing) scaleBar(context, canvas, zoom / spacing[1]);
    };
    image.src = data.images[background];
  }

  // A bar of a round length, at most 30 % of the picture's width.
  function scaleBar(context, canvas, perMm) {
    const length = [200, 100, 50, 20, 10, 5, 2, 1].find((mm) => mm * perMm <= 0.3 * canvas.width);
    if (!length) return;
    context.fillStyle = "#fff";
    context.fillRect(12, canvas.height - 12, length * perMm, 3);
    context.font = "12px sans-serif";
    context.fillText(length >= 10 ? `${length / 10} cm` : `${length} mm`, 12, canvas.height - 17);
  }

  function drawNumbers(pixel) {
    const rows = [], peak = data.peak;
    data.steps.forEach((step, index) => {
      const z = pixel.values[index], row = [step, complex(z), text(size(z))];
      if (pixel.reference) {
        const e = [z[0] - pixel.reference[0], z[1] - pixel.reference[1]];
        row.push((100 * size(e) / peak).toFixed(2));
      }
      rows.push(row);
    });
    if (pixel.reference) rows.push(["reference", complex(pixel.reference), text(size(pixel.reference)), "–"]);
    $("explain-numbers").replaceChildren();
    table($("explain-numbers"), ["after", "value", "magnitude", ...(pixel.reference ? ["error, % of max|x*|"] : [])], rows);
  }

  function choose(index) {
    if (index === shown) return;
    shown = index;
    const pixel = data.pixels[index];
    document.body.dataset.pixel = pixel.at.join(",");
    $("explain-pixel").textContent = `pixel y = ${pixel.at[0]}, x = ${pixel.at[1]}`;
    drawImage();
    drawNumbers(pixel);
    heat($("explain-row"), Array.from(bytes(pixel.row), (value) => value), data.row_columns, 0, 255, "row", 420);
    $("explain-near").textContent = `${(100 * pixel.near).toFixed(1)} % of the row's energy lies within ${data.near} pixels.`;
    const blocks = $("explain-blocks");
    blocks.replaceChildren();
    pixel.blocks.forEach((block, number) => drawBlock(blocks, block, number));
  }

  function nearest(y, x) {
    let best = 0, distance = Infinity;
    data.pixels.forEach((pixel, index) => {
      const here = (pixel.at[0] - y) ** 2 + (pixel.at[1] - x) ** 2;
      if (here < distance) { best = index; distance = here; }
    });
    return best;
  }
  function fromAddress() {
    const found = /pixel=(\d+),(\d+)/.exec(location.hash);
    choose(found ? nearest(+found[1], +found[2]) : 0);
  }
  $("explain-image").addEventListener("click", (event) => {
    const box = $("explain-image").getBoundingClientRect();
    const y = (event.clientY - box.top) / box.height * data.shape[0], x = (event.clientX - box.left) / box.width * data.shape[1];
    const at = data.pixels[nearest(y - 0.5, x - 0.5)].at;
    location.hash = `pixel=${at[0]},${at[1]}`;
  });
  const choices = $("explain-choices");
  Object.keys(data.images).forEach((name) => {
    const button = element(choices, "button", name);
    button.addEventListener("click", () => { background = name; drawImage(); });
  });
  window.addEventListener("hashchange", fromAddress);
  fromAddress();
})();
