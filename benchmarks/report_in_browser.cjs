// Open a report in headless Chromium as its readers do: pictures, an accessibility check (axe-core), the time to open.
//
//   npm install --prefix FOLDER playwright-core axe-core
//   NODE_PATH=FOLDER/node_modules node benchmarks/report_in_browser.cjs PAGE.html [PICTURES]
//
// Widths of 1280 and 390 px, light and dark, in several states: as opened, filtered with a question open, a rationale
// open with its weights as numbers, a search without a result, without JavaScript, in a browser without
// DecompressionStream, and as printed. It exits with 1 where axe finds a violation, a page is wider than the window, or
// the page reports an error. CHROMIUM names the browser, by default chromium on the PATH.
"use strict";
const { execFileSync } = require("node:child_process");
const { mkdirSync, statSync } = require("node:fs");
const { join, resolve } = require("node:path");
const { pathToFileURL } = require("node:url");

function needed(name) {
  try {
    return require(name);
  } catch {
    console.error(`${name} is not installed: npm install --prefix FOLDER playwright-core axe-core, and set NODE_PATH=FOLDER/node_modules`);
    process.exit(2);
  }
}

function chromium() {
  try {
    return process.env.CHROMIUM ?? execFileSync("which", ["chromium"], { encoding: "utf8" }).trim();
  } catch {
    console.error("there is no chromium on the PATH; install one, or set CHROMIUM to its file");
    process.exit(2);
  }
}

const loaded = (page) => page.waitForFunction(() =>
  [...document.querySelectorAll(".browser")].every((root) => !root.hidden) && document.querySelector(".browser"));

async function first(page, kind) {
  const button = page.locator(`.browser[data-kind=${kind}] tbody button`).first();
  if (await button.count()) await button.press("Enter"); // as from the keyboard
}

const STATES = {
  opened: async (page) => loaded(page),
  question: async (page) => {
    await loaded(page);
    const changed = page.locator("input[value=changed]");
    if (await changed.count()) await changed.check();
    await first(page, "question");
    await page.locator(".browser[data-kind=question]").scrollIntoViewIfNeeded();
  },
  rationale: async (page) => {
    await loaded(page);
    if (!(await page.locator(".browser[data-kind=rationale]").count())) return;
    await page.locator("input.numbers").check();
    if (!(await page.locator(".browser[data-kind=rationale] .details").count())) await first(page, "rationale");
  },
  nothing: async (page) => {
    await loaded(page);
    for (const search of await page.locator(".search").all()) await search.fill("no such text");
  },
  old: async (page) => page.locator(".problem:not([hidden])").waitFor(),
  plain: async () => {},
};

const PICTURED = { question: "#predictions", rationale: "#weights", nothing: "#predictions", plain: "#predictions" };

/** What a reader does from the keyboard: search by id, filter, open, turn pages, follow a link. Returns what failed. */
async function acted(page, url) {
  const failed = [];
  const holds = (is, what) => is || failed.push(what);
  page.on("dialog", (dialog) => {
    failed.push(`a text of the page ran as a script: ${dialog.message()}`);
    dialog.dismiss();
  });
  await page.goto(url);
  await loaded(page);
  for (const kind of ["question", "rationale"]) {
    const root = page.locator(`.browser[data-kind=${kind}]`);
    if (!(await root.count())) continue;
    const [ids, found] = [root.locator("tr.line button"), root.locator(".found")];
    for (const value of ["all", "changed"]) {
      const radio = root.locator(`input[value=${value}]`);
      if (await radio.count()) await radio.focus(), await radio.press("Space");
      const [, number] = /\(([\d,]+)\)/.exec((await radio.count()) ? await radio.locator("xpath=..").innerText() : "(0)");
      if (await radio.count()) holds(number === "0" || (await found.innerText()).includes(` of ${number} `), `${kind}: ${number} are counted, ${await found.innerText()}`);
    }
    const all = root.locator("input[value=all]");
    if (await all.count()) await all.check();
    const on = root.locator(".pages .on");
    if (await on.isVisible()) await on.press("Enter");
    const id = await ids.last().innerText();
    await root.locator(".search").fill(id.trim());
    holds((await ids.first().innerText()) === id, `${kind}: ${id} is not the first that a search for it finds`);
    await ids.first().press("Enter");
    holds((await ids.first().getAttribute("aria-expanded")) === "true", `${kind}: ${id} does not open`);
    const link = await root.locator(".details a").first().getAttribute("href");
    holds(page.url().endsWith(link), `${kind}: the address ${page.url()} is not the link ${link}`);
    await ids.first().press("Enter");
    holds(!(await root.locator(".details").count()), `${kind}: ${id} does not close`);
    await page.goto("about:blank");
    await page.goto(url + link);
    await loaded(page);
    const focused = await page.evaluate(() => [document.activeElement.textContent, document.activeElement.getAttribute("aria-expanded")]);
    holds(focused[0] === id && focused[1] === "true", `${kind}: the link ${link} opens ${focused}`);
    for (const odd of ["%", "no-such-id"]) {
      await page.goto(`${url}#${kind}=${odd}`);
      await page.waitForFunction((root) => root.textContent.includes("has the id"), await found.elementHandle());
    }
  }
  return failed;
}

async function main() {
  const [file, folder] = process.argv.slice(2);
  if (!file) {
    console.error("usage: node report_in_browser.cjs PAGE.html [PICTURES]");
    process.exit(2);
  }
  const { chromium: engine } = needed("playwright-core");
  const axe = needed("axe-core").source;
  if (folder) mkdirSync(folder, { recursive: true });
  const url = pathToFileURL(resolve(file)).href;
  const browser = await engine.launch({ executablePath: chromium(), args: ["--no-sandbox"] });
  let wrong = 0;
  const complain = (where, what) => {
    wrong += 1;
    console.log(`${where}: ${what}`);
  };

  for (const width of [1280, 390]) {
    for (const colorScheme of ["light", "dark"]) {
      for (const [state, enter] of Object.entries(STATES)) {
        if (colorScheme === "dark" && !["opened", "question", "rationale"].includes(state)) continue;
        const where = `${state}-${width}-${colorScheme}`;
        const context = await browser.newContext({
          viewport: { width, height: width > 600 ? 900 : 844 }, colorScheme, reducedMotion: "reduce", bypassCSP: true,
          javaScriptEnabled: state !== "plain",
        });
        const page = await context.newPage();
        page.on("pageerror", (error) => complain(where, error.message));
        if (state === "old") await page.addInitScript(() => delete window.DecompressionStream);
        await page.goto(url);
        await enter(page);
        if (state !== "plain") {
          const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
          if (wide > 0) complain(where, `${wide} px wider than the window`);
          await page.evaluate(axe);
          const found = await page.evaluate(() => window.axe.run(document));
          for (const one of found.violations) {
            complain(where, `${one.impact} ${one.id}, ${one.nodes.length} times: ${one.nodes[0].html.slice(0, 160)} ${one.nodes[0].failureSummary.replace(/\s+/g, " ").slice(0, 240)}`);
          }
        }
        if (folder) {
          const part = page.locator(PICTURED[state] ?? "main").first();
          await (PICTURED[state] ? part : page).screenshot({ path: join(folder, `${where}.png`) });
        }
        await context.close();
      }
    }
  }
  if (folder) {
    const page = await browser.newPage();
    await page.goto(url);
    await loaded(page);
    await page.pdf({ path: join(folder, "printed.pdf"), format: "A4" });
    await page.close();
  }

  // Under the page's own content security policy, which the checks above had to leave out.
  const times = [];
  for (let time = 0; time < 5; time += 1) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
    const page = await context.newPage();
    page.on("pageerror", (error) => complain("opening", error.message));
    page.on("console", (line) => line.type() === "error" && complain("opening", line.text()));
    const start = performance.now();
    await page.goto(url);
    await loaded(page);
    times.push(performance.now() - start);
    await context.close();
  }
  const page = await browser.newPage();
  page.on("pageerror", (error) => complain("keyboard", error.message));
  for (const what of await acted(page, url)) complain("keyboard", what);
  times.sort((one, other) => one - other);
  const rounded = times.map((time) => Math.round(time));
  console.log(`${(statSync(file).size / 1e6).toFixed(2)} MB; opened with all rows in ${rounded[2]} ms (median of 5; ${rounded[0]} to ${rounded[4]})`);
  console.log(wrong ? `${wrong} findings` : "nothing found");
  await browser.close();
  process.exit(wrong ? 1 : 0);
}

main().catch((error) => {
  console.error(error.message);
  process.exit(2);
});
