"use strict";
(function () {
  var table = document.getElementById("results");
  var controls = document.getElementById("controls");
  if (!table) { return; }
  var body = table.tBodies[0];
  var rows = Array.prototype.slice.call(body.rows);
  var search = document.getElementById("search");
  var chapter = document.getElementById("chapter");
  var significant = document.getElementById("significant");
  var found = document.getElementById("found");
  var entries = rows.map(function (row) {
    return {
      row: row,
      words: (row.cells[0].textContent + " " + row.cells[1].textContent).toLowerCase(),
      chapter: row.cells[2].textContent.trim(),
      significant: row.dataset.significant === "1"
    };
  });

  function filter() {
    var wanted = search.value.trim().toLowerCase();
    var shown = 0;
    entries.forEach(function (entry) {
      var keep = (!wanted || entry.words.indexOf(wanted) >= 0) &&
        (!chapter.value || entry.chapter === chapter.value) &&
        (!significant.checked || entry.significant);
      entry.row.hidden = !keep;
      if (keep) { shown += 1; }
    });
    found.textContent = shown.toLocaleString("en") + " of " + rows.length.toLocaleString("en") + " shown";
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
    var button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    header.textContent = "";
    header.appendChild(button);
    button.addEventListener("click", function () { sort(header, place); });
  });
  [search, chapter, significant].forEach(function (control) { control.addEventListener("input", filter); });
  controls.hidden = false;
  filter();
}());
