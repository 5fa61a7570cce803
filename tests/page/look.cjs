// Opens one page in Debian's Chromium as several readers would, and writes what they see as JSON: node look.cjs URL DIRECTORY.
// It judges nothing, unless the page's policy lets something happen: tests/page.rs does. NODE_PATH leads to what `build` prints.
'use strict';
const fs = require('node:fs');
const path = require('node:path');
const { chromium } = require('playwright-core');
const axe = require('axe-core');

const [url, directory] = process.argv.slice(2);
const READERS = {
  light: { colorScheme: 'light', viewport: { width: 1280, height: 800 } },
  dark: { colorScheme: 'dark', viewport: { width: 1280, height: 800 } },
  phone: { colorScheme: 'light', viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
};

/** What a hostile text would try if it got into the document as HTML; the policy must stop each. */
const ATTEMPTS = { 'img-src': 'img', 'frame-src': 'iframe', 'style-src-attr': 'p', 'script-src-elem': 'script' };

/** Makes the attempts, and collects what the policy stops. */
function attempt(elements) {
  globalThis.stopped = [];
  document.addEventListener('securitypolicyviolation', (event) => globalThis.stopped.push(event.effectiveDirective));
  for (const name of elements) {
    const element = document.createElement(name);
    if (name === 'script') element.textContent = 'globalThis.taken = true';
    else if (name === 'p') element.setAttribute('style', 'color: red');
    else element.src = 'https://example.org/';
    document.body.append(element);
  }
}

/** What is in the document, as text. */
function read() {
  const text = (element) => element.innerText.replace(/\s+/g, ' ').trim();
  const rows = (section) => [...section.querySelectorAll('tbody tr')].map((row) => [...row.cells].map(text));
  return {
    title: document.title,
    text: text(document.body),
    tables: Object.fromEntries([...document.querySelectorAll('section[id]')].map((section) => [section.id, rows(section)])),
    times: [...document.querySelectorAll('time')].map((time) => [time.dateTime, time.title, text(time)]),
    elements: [...new Set([...document.querySelectorAll('*')].map((element) => element.localName))].sort(),
    background: getComputedStyle(document.body).backgroundColor,
    sideways: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
}

async function look(browser, name, options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const seen = { console: [], requests: [], dialogs: [] };
  page.on('console', (message) => seen.console.push(message.text()));
  page.on('pageerror', (error) => seen.console.push(String(error)));
  page.on('request', (request) => seen.requests.push(request.url()));
  page.on('dialog', (dialog) => { seen.dialogs.push(dialog.message()); return dialog.dismiss(); });
  const response = await page.goto(url);
  Object.assign(seen, { status: response.status(), headers: response.headers() }, await page.evaluate(read));
  // The page lets nobody add a script; an expression of the debugger is none.
  await page.evaluate(axe.source);
  const { violations, passes } = await page.evaluate(() => globalThis.axe.run());
  seen.violations = violations.map((rule) => ({ rule: rule.id, help: rule.help, nodes: rule.nodes.map((node) => node.html) }));
  seen.passes = passes.map((rule) => rule.id);
  await page.screenshot({ path: path.join(directory, `${name}.png`), fullPage: true });
  await page.click('header a');
  seen.refreshing = await page.evaluate(() => [document.querySelector('header a').innerText, document.querySelector('meta[http-equiv]')?.content]);
  const calm = { ...seen, console: [...seen.console], requests: [...seen.requests] };
  await page.evaluate(attempt, Object.values(ATTEMPTS));
  await page.waitForFunction((wanted) => wanted.every((one) => globalThis.stopped.includes(one)), Object.keys(ATTEMPTS));
  calm.taken = await page.evaluate(() => globalThis.taken ?? false);
  await context.close();
  return calm;
}

async function main() {
  fs.mkdirSync(directory, { recursive: true });
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || '/usr/bin/chromium' });
  const all = { version: browser.version() };
  for (const [name, options] of Object.entries(READERS)) all[name] = await look(browser, name, options);
  await browser.close();
  fs.writeFileSync(path.join(directory, 'seen.json'), JSON.stringify(all, null, 1));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
