"use strict";
// Lists all questions and rationales of the page, finds them by text or id, and opens one of them. Texts of models and
// users only ever become text nodes and attribute values, never markup.
(() => {
  const PAGE_SIZE = { question: 25, rationale: 10 };
  const facts = JSON.parse(document.getElementById("facts").textContent);

  /** An element with attributes (null or false: none) and children. */
  function element(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children);
    return node;
  }

  const count = (number) => number.toLocaleString("en");
  const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / Math.max(1, numbers.length);
  const hundredths = (number) => (number / 100).toFixed(2);
  const told = (text) => element("span", { class: "told" }, text);
  const fact = (name, value) => element("div", null, element("dt", null, name), element("dd", { dir: "auto" }, value));

  // -- what the page holds ------------------------------------------------------------------------------

  /** The rows of a kind, one script element after the other. */
  async function unpacked(kind) {
    const rows = [];
    for (const part of document.querySelectorAll(`script[data-rows="${kind}"]`)) {
      const bytes = Uint8Array.from(atob(part.textContent), (char) => char.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
      for (const row of JSON.parse(await new Response(stream).text())) rows.push(row);
    }
    return rows;
  }

  function question([test, id, text, gold, choices, sides]) {
    const said = sides.map((side) => side && { text: side[0], answer: side[1], right: side[2], ended: side[3], votes: side[4] });
    const texts = said.flatMap((side) => (side ? [side.text, side.answer ?? ""] : []));
    const words = choices.flat().join(" ");
    return { kind: "question", test, id, text, gold, choices, said, haystack: [id, text, gold, words, ...texts].join("\n").toLowerCase() };
  }

  function rationale([id, text, gold, sides]) {
    const weighed = sides.map((side) => side && {
      text: side[0], lengths: side[1], weights: side[2], steps: side[3], difficulties: side[4], stages: side[5],
    });
    const texts = new Set(weighed.flatMap((side) => (side ? [side.text] : [])));
    return { kind: "rationale", id, text, gold, weighed, haystack: [id, text, gold, ...texts].join("\n").toLowerCase() };
  }

  const last = (one) => one.said.at(-1);
  const two = (one) => one.said.length > 1 && one.said[0] && one.said[1];
  const FILTERS = {
    all: () => true,
    right: (one) => last(one) && last(one).right,
    wrong: (one) => last(one) && !last(one).right,
    changed: (one) => two(one) && one.said[0].right !== one.said[1].right,
    gained: (one) => two(one) && !one.said[0].right && one.said[1].right,
    lost: (one) => two(one) && one.said[0].right && !one.said[1].right,
    both: (one) => two(one) && one.said[0].right && one.said[1].right,
    neither: (one) => two(one) && !one.said[0].right && !one.said[1].right,
    unread: (one) => last(one) && last(one).answer === null,
  };

  // -- a row, and what opens below it -------------------------------------------------------------------

  function verdict(side, named) {
    if (!side) return told("not asked");
    const mark = side.right ? "✓" : "✗";
    const word = element("span", { class: named ? null : "heard" }, side.right ? "right" : "wrong");
    const read = side.answer === null ? told(named ? "no answer found" : "no answer") : element("b", { dir: "auto" }, side.answer);
    return element("span", { class: side.right ? "verdict right" : "verdict wrong" },
      element("span", { "aria-hidden": "true" }, mark), " ", word, named ? ", read: " : " ", read);
  }

  function cells(one) {
    const short = [element("span", { class: "clamp", dir: "auto" }, one.text)];
    if (one.kind === "question") {
      return [["Question", short], ["Gold answer", [element("span", { dir: "auto" }, one.gold)]],
        ...one.said.map((side, index) => [facts.question[index], [verdict(side, false)]])];
    }
    const known = one.weighed.find((side) => side);
    const stages = one.weighed.find((side) => side && side.stages.length);
    const numbers = [["Steps", count(known.steps.length)], ["Tokens", count(known.lengths.length)],
      ...one.weighed.map((side, index) => [
        one.weighed.length > 1 ? `Mean weight, ${facts.rationale[index]}` : "Mean weight", side ? hundredths(mean(side.weights)) : "–"]),
      ...(facts.stages ? [["Whole from stage", stages ? String(Math.max(...stages.stages)) : "–"]] : [])];
    return [["Question", short], ...numbers.map(([name, value]) => [name, [value], "num"])];
  }

  function answered(one) {
    const choices = one.choices.length
      ? [element("ul", { class: "choices" }, ...one.choices.map(([name, text]) => element("li", { dir: "auto" }, `${name}: ${text}`)))] : [];
    const sides = one.said.map((side, index) => element("div", null,
      element("h3", null, facts.question[index]), element("p", { class: "judged" }, verdict(side, true)),
      ...(side ? [element("pre", { class: "output", dir: "auto" }, side.text || "(an empty text)")] : []),
      ...(side && !side.ended ? [element("p", { class: "small" }, "Stopped by the length limit.")] : []),
      ...(side && side.votes !== null ? [element("p", { class: "small" }, `Texts that reach this answer: ${side.votes}.`)] : [])));
    return [element("p", { class: "question", dir: "auto" }, one.text), ...choices,
      element("dl", { class: "facts" }, fact("Gold answer", one.gold), ...(facts.tests > 1 ? [fact("Test set", one.test)] : [])),
      element("div", { class: "pair" }, ...sides)];
  }

  /** The tokens of a step, coloured unless plain; white space around a token stays uncoloured, and lone line breaks show an arrow. */
  function heat(texts, weights, plain) {
    return texts.flatMap((text, index) => {
      const body = text.trim() || "↵".repeat(text.split("\n").length - 1) || text;
      const start = text.trim() ? text.indexOf(body) : 0;
      const after = text.trim() ? text.slice(start + body.length) : text.includes("\n") ? "\n" : "";
      const weight = hundredths(weights[index]);
      const token = element("span", { class: "t", title: `weight ${weight}`, "data-w": weight }, body);
      token.style.setProperty("--w", plain ? 0 : weight);
      return [text.slice(0, start), token, after];
    });
  }

  function steps(side) {
    const plain = new Set(side.weights).size === 1; // a colour that all tokens share says nothing
    let [at, token] = [0, 0];
    return side.steps.map((size, index) => {
      const range = [token, token + size];
      const texts = side.lengths.slice(...range).map((length) => side.text.slice(at, (at += length)));
      const weights = side.weights.slice(...range);
      token += size;
      const numbers = [["Mean weight", hundredths(mean(weights))]];
      if (side.difficulties.length) numbers.push(["Difficulty", side.difficulties[index]?.toFixed(3) ?? "–"]);
      if (side.stages.length) numbers.push(["From stage", String(side.stages[index])]);
      return element("tr", { role: "row" }, element("th", { scope: "row", role: "rowheader" }, String(index + 1)),
        element("td", { role: "cell", class: "tokens", dir: "auto" }, ...heat(texts, weights, plain)),
        ...numbers.map(([name, value]) => element("td", { role: "cell", class: "num", "data-label": name }, value)));
    });
  }

  function stepTable(side, name) {
    if (!side) return element("p", { class: "small" }, `${name} does not train this rationale.`);
    const names = ["Mean weight", ...(side.difficulties.length ? ["Difficulty, nats per token"] : []),
      ...(side.stages.length ? ["First generated in stage"] : [])];
    return element("table", { class: "steps", role: "table" },
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" },
        element("th", { scope: "col", role: "columnheader" }, "Step"),
        element("th", { scope: "col", role: "columnheader" }, "Text, coloured by weight"),
        ...names.map((text) => element("th", { scope: "col", role: "columnheader", class: "num" }, text)))),
      element("tbody", { role: "rowgroup" }, ...steps(side)));
  }

  function explained(one) {
    const tables = one.weighed.map((side, index) => element("div", null,
      ...(one.weighed.length > 1 ? [element("h3", null, facts.rationale[index])] : []), stepTable(side, facts.rationale[index])));
    return [element("p", { class: "question", dir: "auto" }, one.text),
      ...(one.gold ? [element("dl", { class: "facts" }, fact("Gold answer", one.gold))] : []),
      element("div", { class: "sides" }, ...tables)];
  }

  // -- the lists ------------------------------------------------------------------------------------------

  class Browser {
    constructor(root, rows) {
      Object.assign(this, { root, rows, kind: root.dataset.kind, page: 0, opened: new Set(), shown: rows });
      this.search = root.querySelector(".search");
      this.test = root.querySelector(".test");
      this.radios = [...root.querySelectorAll("input[type=radio]")];
      this.search.addEventListener("input", () => this.find());
      this.test?.addEventListener("change", () => this.find());
      for (const radio of this.radios) radio.addEventListener("change", () => this.find());
      root.querySelector(".back").addEventListener("click", () => this.turn(-1));
      root.querySelector(".on").addEventListener("click", () => this.turn(1));
      root.querySelector("input.numbers")?.addEventListener("change", (event) => root.classList.toggle("numbers", event.target.checked));
      for (const name of ["table", "thead", "tbody"]) root.querySelector(name).setAttribute("role", name === "table" ? name : "rowgroup");
      root.querySelector("thead tr").setAttribute("role", "row");
      for (const head of root.querySelectorAll("thead th")) head.setAttribute("role", "columnheader");
    }

    /** Rows that the search, the filter and the test set leave; one whose id is searched comes first. */
    find() {
      const words = this.search.value.toLowerCase().split(/\s+/).filter((word) => word);
      const filter = this.radios.find((radio) => radio.checked)?.value ?? "all";
      const asked = this.test?.value ? this.rows.filter((one) => one.test === this.test.value) : this.rows;
      for (const radio of this.radios) {
        radio.parentElement.querySelector(".count").textContent = `(${count(asked.filter(FILTERS[radio.value]).length)})`;
      }
      const exact = this.search.value.trim();
      this.shown = asked.filter((one) => FILTERS[filter](one) && words.every((word) => one.haystack.includes(word)));
      if (exact) this.shown.sort((one, other) => (other.id === exact) - (one.id === exact));
      this.page = 0;
      this.render();
    }

    get pages() {
      return Math.max(1, Math.ceil(this.shown.length / PAGE_SIZE[this.kind]));
    }

    turn(by) {
      this.page = Math.min(Math.max(this.page + by, 0), this.pages - 1);
      this.render();
      this.root.querySelector(".found").scrollIntoView({ block: "start" });
    }

    render() {
      const size = PAGE_SIZE[this.kind];
      const start = this.page * size;
      const some = this.shown.slice(start, start + size);
      const number = this.shown.length;
      this.root.querySelector(".found").textContent = number
        ? `${count(start + 1)} to ${count(start + some.length)} of ${count(number)} ${this.kind}${number > 1 ? "s" : ""}`
        : `No ${this.kind} fits.`;
      this.root.querySelector("tbody").replaceChildren(...some.flatMap((one) => this.row(one)));
      this.root.querySelector(".pages span").textContent = `Page ${count(this.page + 1)} of ${count(this.pages)}`;
      this.root.querySelector(".pages").hidden = this.pages === 1;
      this.root.querySelector(".back").disabled = this.page === 0;
      this.root.querySelector(".on").disabled = this.page === this.pages - 1;
    }

    row(one) {
      const button = element("button", { type: "button", class: "mono", "aria-expanded": "false" }, one.id);
      const line = element("tr", { role: "row", class: "line" }, element("th", { scope: "row", role: "rowheader" }, button),
        ...cells(one).map(([name, content, kind]) => element("td", { role: "cell", class: kind ?? null, "data-label": name }, ...content)));
      one.button = button;
      button.addEventListener("click", () => {
        one.unasked = false;
        if (this.opened.has(one)) this.close(one, line);
        else {
          this.open(one, line);
          history.replaceState(null, "", address(one));
        }
      });
      if (!this.opened.has(one)) return [line];
      button.setAttribute("aria-expanded", "true");
      return [line, this.details(one, line)];
    }

    details(one, line) {
      const content = one.kind === "question" ? answered(one) : explained(one);
      const link = element("p", { class: "small" }, element("a", { href: address(one) }, `Link to this ${one.kind}`));
      return element("tr", { role: "row", class: one.unasked ? "details unasked" : "details" },
        element("td", { role: "cell", colspan: String(line.children.length) }, ...content, link));
    }

    open(one, line) {
      this.opened.add(one);
      one.button.setAttribute("aria-expanded", "true");
      line.after(this.details(one, line));
    }

    close(one, line) {
      this.opened.delete(one);
      one.button.setAttribute("aria-expanded", "false");
      line.nextElementSibling.remove();
    }

    /** Bring a row into view, opened, whatever is searched for now. */
    show(id, test) {
      const one = this.rows.find((row) => row.id === id && (test === null || row.test === test));
      if (!one) {
        this.root.querySelector(".found").textContent = `No ${this.kind} has the id ${id}.`;
        this.root.scrollIntoView();
        return;
      }
      if (!this.shown.includes(one)) {
        this.search.value = "";
        if (this.test) this.test.value = "";
        for (const radio of this.radios) radio.checked = radio.value === "all";
        this.find();
      }
      this.page = Math.floor(this.shown.indexOf(one) / PAGE_SIZE[this.kind]);
      this.opened.add(one);
      this.render();
      one.button.focus({ preventScroll: true });
      one.button.scrollIntoView({ block: "start" });
    }
  }

  // -- deep links -----------------------------------------------------------------------------------------

  function address(one) {
    const test = one.kind === "question" && facts.tests > 1 ? `&test=${encodeURIComponent(one.test)}` : "";
    return `#${one.kind}=${encodeURIComponent(one.id)}${test}`;
  }

  function decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return text; // a percent sign that was typed as it is
    }
  }

  function follow(browsers) {
    const found = /^#(question|rationale)=([^&]*)(?:&test=(.*))?$/.exec(location.hash);
    if (found) browsers[found[1]]?.show(decoded(found[2]), found[3] === undefined ? null : decoded(found[3]));
  }

  async function start() {
    const browsers = {};
    for (const root of document.querySelectorAll(".browser")) {
      const kind = root.dataset.kind;
      const rows = (await unpacked(kind)).map(kind === "question" ? question : rationale);
      browsers[kind] = new Browser(root, rows);
      if (kind === "rationale" && rows.length) { // a heat-map at first sight, which is not printed
        rows[0].unasked = true;
        browsers[kind].opened.add(rows[0]);
      }
      browsers[kind].find();
      root.hidden = false;
      document.querySelector(`.samples[data-kind="${kind}"]`)?.classList.add("replaced");
    }
    follow(browsers);
    window.addEventListener("hashchange", () => follow(browsers));
  }

  function complain(why) {
    const problem = document.querySelector(".problem");
    problem.textContent = `The lists of all questions and rationales cannot be shown: ${why}. The tables and examples of this page are complete.`;
    problem.hidden = false;
  }

  if (typeof DecompressionStream === "undefined") {
    complain("this browser cannot read compressed data; use Chrome 92, Firefox 113, Safari 16.4 or later");
  } else {
    start().catch((error) => complain(error.message));
  }
})();
