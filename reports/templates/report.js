"use strict";
(function () {
  var byId = function (name) { return document.getElementById(name); };
  var data = JSON.parse(byId("figure-data").textContent);
  var table = byId("results");
  var cardsRead = null;

  /* What is carried packed: plotly.js, and the cards, unpacked when the first one is opened. */
  function unpack(name) {
    var text = atob(byId(name).textContent.trim());
    var bytes = new Uint8Array(text.length);
    for (var i = 0; i < text.length; i += 1) { bytes[i] = text.charCodeAt(i); }
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
  }
  function readCards() {
    if (!cardsRead) { cardsRead = unpack("card-data").json(); }
    return cardsRead;
  }

  function make(name, text, kind) {
    var element = document.createElement(name);
    if (text !== undefined) { element.textContent = text; }
    if (kind) { element.className = kind; }
    return element;
  }

  /* A curve in the unit square, in thousandths: the ROC by straight lines, precision by steps. */
  function drawCurve(place, xy, how) {
    place.textContent = "";
    if (!xy.length) {
      if (how.empty) { place.appendChild(make("p", how.empty, "empty")); }
      return;
    }
    var space = "http://www.w3.org/2000/svg";
    var svg = document.createElementNS(space, "svg");
    svg.setAttribute("viewBox", "-90 -80 1120 1200");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", how.name + " curve; " + how.told);
    function add(name, values, text) {
      var element = document.createElementNS(space, name);
      Object.keys(values).forEach(function (key) { element.setAttribute(key, values[key]); });
      if (text) { element.textContent = text; }
      svg.appendChild(element);
    }
    add("path", { d: "M0 0V1000H1000", "class": "axis" });
    if (how.chance) { add("path", { d: how.chance, "class": "chance" }); }
    var path = how.steps ? "M0 " + (1000 - xy[1]) : "";
    for (var i = 0; i < xy.length; i += 2) {
      var down = 1000 - xy[i + 1];
      path += how.steps ? "V" + down + "H" + xy[i] : (i ? "L" : "M") + xy[i] + " " + down;
    }
    add("path", { d: path, "class": "curve" });
    add("text", { x: 500, y: -30, "text-anchor": "middle" }, how.name);
    add("text", { x: 500, y: 1085, "text-anchor": "middle" }, how.x);
    add("text", { x: -40, y: 500, "text-anchor": "middle", transform: "rotate(-90 -40 500)" }, how.y);
    place.appendChild(svg);
  }
  function drawCurves(card) {
    drawCurve(byId("card-roc"), card.r, {
      name: "ROC", x: "1 − specificity", y: "sensitivity", chance: "M0 1000L1000 0", told: "dashed: chance",
      empty: "No curves: fewer than 20 case patients."
    });
    drawCurve(byId("card-pr"), card.a, {
      name: "Precision-recall", x: "recall", y: "precision", steps: true,
      chance: card.b === null ? "" : "M0 " + (1000 - card.b) + "H1000", told: "dashed: prevalence"
    });
  }

  function open(name) {
    readCards().then(function (cards) {
      var card = cards[name];
      if (!card) { return; }
      byId("card-title").textContent = card.d + " (" + name + ")";
      byId("card-chapter").textContent = card.c;
      var facts = byId("card-facts");
      facts.textContent = "";
      card.n.forEach(function (pair) {
        var row = make("div");
        row.appendChild(make("dt", pair[0]));
        row.appendChild(make("dd", pair[1]));
        facts.appendChild(row);
      });
      drawCurves(card);
      var groups = byId("card-groups");
      groups.textContent = "";
      if (card.s.length) {
        groups.appendChild(make("h3", "Within groups of patients"));
        var box = make("div", undefined, "scroll");
        var list = make("table");
        var head = list.createTHead().insertRow();
        ["Variable", "Group", "AUC (95 % interval)", "Case patients"].forEach(function (word) {
          head.appendChild(make("th", word));
        });
        var body = list.createTBody();
        card.s.forEach(function (cells) {
          var row = body.insertRow();
          cells.forEach(function (cell) { row.appendChild(make("td", cell)); });
          if (!cells[1]) { row.cells[1].textContent = "equal in all groups?"; }
        });
        box.appendChild(list);
        groups.appendChild(box);
      }
      var codes = byId("card-codes");
      codes.textContent = "";
      codes.appendChild(make("h3", "Definition"));
      var systems = Object.keys(card.k);
      codes.appendChild(make("p", systems.length ?
        "Any of these codes, or of the phenotypes that roll up to it:" : "The list of codes is in the workbook."));
      systems.forEach(function (system) {
        var listed = card.k[system];
        var shown = listed[0] ? listed[0].split(" ").length : 0;
        var more = listed[1] > shown ? " (the first " + shown + "; all are in the workbook)" : "";
        codes.appendChild(make("h4", system + ": " + listed[1] + " codes" + more));
        codes.appendChild(make("p", listed[0], "codes"));
      });
      var dialog = byId("cards");
      if (!dialog.open) { dialog.showModal(); }
      dialog.scrollTop = 0;
    }).catch(function () {
      byId("card-title").textContent = name;
      byId("card-chapter").textContent = "This browser cannot unpack the cards; the workbook has all that they say.";
      if (!byId("cards").open) { byId("cards").showModal(); }
    });
  }
  byId("cards").addEventListener("click", function (event) {
    if (event.target === byId("cards")) { byId("cards").close(); }
  });

  /* The figure. */
  var MEASURES = {
    auc: { title: "AUC", place: 4, low: 5, high: 6, q: 7, line: 0.5 },
    delta: { title: "AUC minus age + sex", place: 8, low: 9, high: 10, q: 11, line: 0 },
    p: { title: "−log₁₀ p against AUC 0.5", place: 12, low: null, high: null, q: 7, line: null }
  };
  function three(value) { return value === null ? "–" : value.toFixed(3); }
  function escaped(text) { return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); }
  function sizeOf(cases) {
    var step = Math.min(Math.max((Math.log10(Math.max(cases, 10)) - 1) / 4, 0), 1);
    return 4.5 + 15 * Math.pow(step, 1.1);
  }
  function traces(measure, wanted) {
    var how = MEASURES[measure];
    var drawn = data.points.filter(function (point) { return point[how.place] !== null; });
    var found = drawn.map(function (point) {
      return !wanted || (point[0] + " " + point[1]).toLowerCase().indexOf(wanted) >= 0;
    });
    var seen = drawn.map(function (point) { return point[how.q] !== null && point[how.q] < 0.05; });
    return [{
      type: "scatter", mode: "markers", hoverinfo: "text", cliponaxis: false,
      x: drawn.map(function (point) { return point[2]; }),
      y: drawn.map(function (point) { return point[how.place]; }),
      customdata: drawn.map(function (point) { return point[0]; }),
      text: drawn.map(function (point) {
        return "<b>" + escaped(point[1]) + "</b> (" + escaped(point[0]) + ")<br>AUC " + three(point[4]) + " (" +
          three(point[5]) + " to " + three(point[6]) + ")<br>difference " + three(point[8]) + "<br>" +
          escaped(point[14]) + " case patients";
      }),
      marker: {
        color: drawn.map(function (point, i) { return seen[i] ? point[3] : "#ffffff"; }),
        size: drawn.map(function (point) { return sizeOf(point[13]); }),
        opacity: found.map(function (hit) { return hit ? 0.9 : 0.08; }),
        line: { width: 1.2, color: drawn.map(function (point) { return point[3]; }) }
      },
      hits: found.filter(Boolean).length
    }];
  }
  function draw() {
    var measure = byId("measure").value;
    var wanted = byId("find").value.trim().toLowerCase();
    var how = MEASURES[measure];
    var drawn = traces(measure, wanted);
    var narrow = window.innerWidth < 700;
    byId("hits").textContent = wanted ? drawn[0].hits.toLocaleString("en") + " found" : "";
    delete drawn[0].hits;
    var lines = how.line === null ? [] : [how.line].concat(measure === "auc" ? [0.6, 0.7] : []);
    Plotly.react("plot", drawn, {
      height: narrow ? 380 : 560, margin: { l: narrow ? 44 : 60, r: 10, t: 10, b: narrow ? 16 : 150 },
      paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff", hovermode: "closest", dragmode: narrow ? false : "zoom",
      font: { family: "system-ui, -apple-system, Segoe UI, Roboto, Arial, sans-serif", size: 12, color: "#1c2126" },
      hoverlabel: { bgcolor: "#ffffff", align: "left" }, showlegend: false,
      xaxis: {
        tickvals: data.chapters.map(function (chapter) { return chapter[1]; }),
        ticktext: data.chapters.map(function (chapter) { return narrow ? "" : escaped(chapter[0]); }),
        tickangle: -45, showgrid: false, zeroline: false, range: [-0.12, data.length + 0.12]
      },
      yaxis: { title: { text: how.title }, gridcolor: "#eef1f4", zeroline: false },
      shapes: lines.map(function (value, i) {
        return {
          type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value, layer: "below",
          line: { width: 1, color: i ? "#b9c0c6" : "#555555", dash: i ? "dash" : "solid" }
        };
      })
    }, {
      responsive: true, displaylogo: false, doubleClick: "reset",
      displayModeBar: narrow ? false : "hover", showTips: false,
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
      toImageButtonOptions: { format: "svg", filename: "phewas_" + measure }
    });
  }
  /* plotly.js is unpacked and run once the page has been painted: it takes a second on a telephone. */
  function start(source) {
    var script = make("script");
    script.textContent = source; // the page's policy knows its hash
    document.body.appendChild(script);
    if (!window.Plotly) { return; }
    byId("live").hidden = false;
    byId("still").classList.add("paper-only");
    var names = make("datalist");
    names.id = "phenotype-names";
    data.points.forEach(function (point) {
      var option = make("option");
      option.value = point[1];
      option.label = point[0];
      names.appendChild(option);
    });
    byId("live").appendChild(names);
    byId("measure").addEventListener("input", draw);
    byId("find").addEventListener("input", draw);
    byId("find").addEventListener("keydown", function (event) {
      if (event.key !== "Enter") { return; }
      var wanted = byId("find").value.trim().toLowerCase();
      var hit = data.points.filter(function (point) {
        return wanted && (point[1].toLowerCase() === wanted || point[0].toLowerCase() === wanted);
      })[0];
      if (hit) { event.preventDefault(); open(hit[0]); }
    });
    setTimeout(function () {
      draw();
      byId("plot").on("plotly_click", function (event) { open(event.points[0].customdata); });
    }, 0);
    var width = window.innerWidth;
    window.addEventListener("resize", function () {
      if ((width < 700) !== (window.innerWidth < 700)) { draw(); }
      width = window.innerWidth;
    });
  }
  if (data.points.length) {
    requestAnimationFrame(function () {
      setTimeout(function () {
        // A browser that cannot unpack it keeps the still figure.
        if (window.DecompressionStream) { unpack("plotly").text().then(start); }
      }, 0);
    });
  }

  /* On paper the checklist is open, since nobody can open it there. */
  window.addEventListener("beforeprint", function () {
    var items = document.querySelector("#checklist details");
    if (items) { items.open = true; }
  });

  /* Copying the methods. */
  if (navigator.clipboard) {
    byId("copy").hidden = false;
    byId("copy").addEventListener("click", function () {
      navigator.clipboard.writeText(byId("methods-text").innerText).then(function () {
        byId("copied").textContent = "Copied.";
      }, function () { byId("copied").textContent = "The browser did not allow it; select the text instead."; });
    });
  }

  /* The table. */
  if (!table) { return; }
  var body = table.tBodies[0];
  var rows = Array.prototype.slice.call(body.rows);
  var controls = ["search", "chapter", "sex", "q"].map(byId);
  var search = controls[0], chapter = controls[1], sex = controls[2], q = controls[3];
  var entries = rows.map(function (row) {
    var told = row.cells[5].getAttribute("data-v");
    return {
      row: row,
      words: (row.cells[0].textContent + " " + row.cells[1].textContent).toLowerCase(),
      chapter: row.cells[2].textContent.trim(), sex: row.dataset.sex, q: told ? Number(told) : 2
    };
  });
  rows.forEach(function (row) {
    var words = row.querySelector(".open");
    var button = make("button", words.textContent, "open");
    button.type = "button";
    button.addEventListener("click", function () { open(row.cells[0].textContent); });
    words.replaceWith(button);
  });

  function filter() {
    var wanted = search.value.trim().toLowerCase();
    var most = q.value ? Number(q.value) : 3;
    var shown = 0;
    entries.forEach(function (entry) {
      var keep = (!wanted || entry.words.indexOf(wanted) >= 0) && entry.q < most &&
        (!chapter.value || entry.chapter === chapter.value) && (!sex.value || entry.sex === sex.value);
      entry.row.hidden = !keep;
      if (keep) { shown += 1; }
    });
    byId("found").textContent = shown.toLocaleString("en") + " of " + rows.length.toLocaleString("en") + " shown";
  }

  function key(row, place, kind) {
    var cell = row.cells[place];
    if (kind !== "number") { return cell.textContent.trim().toLowerCase(); }
    var text = cell.getAttribute("data-v");
    return text === "" || text === null ? null : Number(text);
  }

  function sort(header, place) {
    var kind = header.dataset.sort;
    var down = header.getAttribute("aria-sort") === "descending" ||
      (!header.hasAttribute("aria-sort") && kind === "text") ? 1 : -1;
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (cell) { cell.removeAttribute("aria-sort"); });
    header.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
    var keyed = rows.map(function (row, i) { return { row: row, key: key(row, place, kind), i: i }; });
    keyed.sort(function (a, b) {
      // Blanks last, whichever way; ties keep the page's first order.
      if (a.key === null || b.key === null) { return (a.key === null) - (b.key === null) || a.i - b.i; }
      var order = kind === "number" ? a.key - b.key : a.key.localeCompare(b.key, "en", { numeric: place === 0 });
      return order * down || a.i - b.i;
    });
    var pile = document.createDocumentFragment();
    keyed.forEach(function (item) { pile.appendChild(item.row); });
    body.appendChild(pile);
  }

  Array.prototype.forEach.call(table.tHead.rows[0].cells, function (header, place) {
    var button = make("button", header.textContent);
    button.type = "button";
    header.textContent = "";
    header.appendChild(button);
    button.addEventListener("click", function () { sort(header, place); });
  });
  controls.forEach(function (control) { control.addEventListener("input", filter); });
  byId("controls").hidden = false;
  filter();
}());
