// The page without a network, in a stranger's page, and what it may load.

import { expect, needs, open, problems, screen, site, test } from "./steps.mjs";

test.describe("with its service worker", () => {
  test.use({ serviceWorkers: "allow" });

  test("the page starts a machine without a network", async ({ page, context }) => {
    await open(page);
    await page.evaluate(() => navigator.serviceWorker.ready);
    await expect.poll(() => page.evaluate(async () => (await caches.keys()).length)).toBe(1);
    await page.reload();
    await context.setOffline(true);
    await page.goto(`${site.url}?args=${encodeURIComponent("-m 32")}&resume=no`);
    await screen(page, "ready", 90);
    await context.setOffline(false);
    const manifest = await page.evaluate(async () => (await fetch("manifest.webmanifest")).json());
    expect(manifest).toMatchObject({ name: "Orrery", display: "standalone" });
  });
});

test("scripts of other sites and text as script are refused", async ({ page }) => {
  await open(page);
  const ran = await page.evaluate(async () => {
    const script = document.createElement("script");
    script.textContent = "globalThis.strange = 1";
    document.body.append(script);
    return globalThis.strange;
  });
  expect(ran).toBeUndefined();
  expect(problems().join()).toContain("Content Security Policy");
});

test("<orrery-machine> is a machine in any page, with the package's calls", async ({ page }) => {
  needs("freedos.img");
  site.extra["stranger.html"] = Buffer.from(`<!doctype html><title>A course</title><link rel="icon" href="data:,">
    <script type="module" src="orrery.js"></script>
    <p>Try it:</p><orrery-machine args="-m 16" src="freedos.img" style="width: 600px"></orrery-machine>`);
  await open(page, "stranger.html");
  const machine = page.locator("orrery-machine");
  await machine.getByRole("button", { name: "Start" }).click();
  const text = () => machine.evaluate((e) => (e.machine?.running ? e.machine.text() : ""));
  await expect.poll(text, { timeout: 60_000 }).toContain("A:\\>");
  await machine.evaluate((e) => e.machine.type("echo from-the-course\n"));
  await expect.poll(text).toContain("\nfrom-the-course");
  expect(await machine.evaluate((e) => e.machine.qmp("query-status"))).toMatchObject({ status: "running" });
  expect(problems()).toEqual([]);
});
