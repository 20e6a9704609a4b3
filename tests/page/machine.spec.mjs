// A running machine: screen, keys, pointer, consoles, monitor, sound, what is inside.

import { download, expect, needs, press, problems, screen, serial, start, test, type } from "./steps.mjs";

const DOS = "-m 16 -fda freedos.img -boot a";

test("the screen can be sharp, whole, smooth or as it is, and fills the window", async ({ page }) => {
  await start(page, "-m 32");
  await screen(page, "ready", 90);
  const box = () => page.locator("#screen").evaluate((c) => ({ css: c.getBoundingClientRect().width, guest: globalThis.orrery.frame.width, own: c.width, rendering: c.style.imageRendering }));
  await page.getByLabel("Size").selectOption("one");
  let b = await box();
  expect(b.css).toBe(b.guest);
  await page.getByLabel("Size").selectOption("whole");
  b = await box();
  expect(b.css % b.guest).toBe(0);
  expect(b.rendering).toBe("pixelated");
  await page.getByLabel("Size").selectOption("sharp");
  b = await box();
  expect(b.own % b.guest).toBe(0);
  expect(b.own).toBeGreaterThanOrEqual(b.css);
  await page.getByLabel("Size").selectOption("smooth");
  b = await box();
  expect(b.own).toBe(b.guest);
  await press(page, "Full screen");
  await expect.poll(() => page.evaluate(() => document.fullscreenElement?.id)).toBe("stage");
  await page.evaluate(() => document.exitFullscreen());
  expect(problems()).toEqual([]);
});

test("text is pasted as typing, and keys of the page's own keyboard arrive", async ({ page, context }) => {
  needs("freedos.img");
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await start(page, DOS);
  await screen(page, "A:\\>");
  await page.evaluate(() => navigator.clipboard.writeText('echo Hello, (World) #1!\r'));
  await press(page, "Paste…");
  await screen(page, "\nHello, (World) #1!");
  await press(page, "Keyboard");
  for (const key of ["v", "e", "r"]) await page.locator("#keys").getByText(key, { exact: true }).click();
  await page.locator("#keys").getByText("Shift").first().click();
  await page.locator("#keys").getByText("a", { exact: true }).click();
  await page.locator("#keys").getByText("b", { exact: true }).click();
  await screen(page, ">verAb");
  expect(problems()).toEqual([]);
});

test("a finger moves the pointer and taps", async ({ browser }) => {
  const context = await browser.newContext({ viewport: { width: 390, height: 800 }, hasTouch: true, isMobile: true });
  const page = await context.newPage();
  await start(page, "-m 32");
  await screen(page, "ready", 90);
  // What the page sends to the machine.
  await page.evaluate(() => {
    globalThis.sent = [];
    const send = globalThis.orrery.send.bind(globalThis.orrery);
    globalThis.orrery.send = (type, data) => (globalThis.sent.push([type, data]), send(type, data));
  });
  const box = await page.locator("#screen").boundingBox();
  const client = await context.newCDPSession(page);
  const touch = (type, x, y) => client.send("Input.dispatchTouchEvent", { type, touchPoints: type === "touchEnd" ? [] : [{ x: box.x + x, y: box.y + y }] });
  await touch("touchStart", 50, 50);
  await touch("touchMove", 80, 60);
  await touch("touchMove", 110, 70);
  await touch("touchEnd");
  await page.touchscreen.tap(box.x + 60, box.y + 60);
  await page.waitForTimeout(300);
  const sent = await page.evaluate(() => globalThis.sent);
  expect(sent.filter(([t]) => t === "motion").reduce((n, [, d]) => n + d.dx, 0)).toBeGreaterThan(40);
  expect(sent.filter(([t]) => t === "button").map(([, d]) => [d.index, d.down])).toEqual([[0, true], [0, false]]);
  await context.close();
});

test("screenshots and films of the screen are files", async ({ page }) => {
  await start(page, "-m 32");
  await screen(page, "ready", 90);
  const shot = await download(page, () => press(page, "Screenshot"));
  expect(shot.bytes.subarray(1, 4).toString()).toBe("PNG");
  await press(page, "Record");
  await page.waitForTimeout(1500);
  const film = await download(page, () => press(page, "Stop recording"));
  expect(film.name).toMatch(/^orrery\.(webm|mp4)$/);
  expect(film.bytes.length).toBeGreaterThan(2000);
});

test("serial console and monitor are terminals", async ({ page }) => {
  await start(page, "-m 32 -serial vc -serial vc");
  await screen(page, "ready", 90);
  await expect(page.getByRole("tab")).toHaveText(["Serial 1", "Serial 2", "Monitor", "Inside", "Drives", "Snapshots"]);
  await expect(page.locator("#panel-0 .xterm-rows")).toContainText("ram 32 MiB, 0 errors");
  await page.getByRole("tab", { name: "Monitor" }).click();
  await page.locator("#panel-2 textarea").focus();
  await page.keyboard.type("info status\n");
  await expect(page.locator("#panel-2 .xterm-rows")).toContainText("VM status: running");
  await page.keyboard.type("stop\n");
  await expect(page.locator("#status")).toContainText("paused");
  await page.keyboard.type("cont\n");
  await expect(page.locator("#status")).toContainText("Running");
  expect(problems()).toEqual([]);
});

test("QMP is a call, with answers, errors and events", async ({ page }) => {
  await start(page, "-m 32 -serial vc");
  await screen(page, "ready", 90);
  const told = await page.evaluate(async () => {
    const m = globalThis.orrery;
    const events = [];
    m.on("event", ({ event }) => events.push(event.event));
    const status = await m.qmp("query-status");
    const error = await m.qmp("no-such-command").catch((e) => e.message);
    await m.qmp("stop");
    await m.qmp("cont");
    return { status, error, events, text: await m.monitor("info version") };
  });
  expect(told.status).toMatchObject({ running: true });
  expect(told.error).toContain("no-such-command");
  expect(told.events).toEqual(["STOP", "RESUME"]);
  expect(told.text).toMatch(/\d+\.\d+\.\d+/);
  await serial(page, "orrery-diag");
});

test("inside the machine: devices, their details, disks, and what happens", async ({ page }) => {
  needs("freedos.img");
  await start(page, DOS);
  await screen(page, "A:\\>");
  await page.getByRole("tab", { name: "Inside" }).click();
  await page.locator(".device", { hasText: "isa-pit" }).click();
  await expect(page.locator(".registers")).toContainText("/machine/unattached/");
  await page.locator(".device", { hasText: "x86_64-cpu" }).click();
  await expect(page.locator(".registers")).toContainText("EIP=");
  await expect(page.locator(".board svg").first()).toBeVisible();
  await expect(page.locator(".meters")).toContainText("instructions a second");
  await page.getByRole("tab", { name: "Drives" }).click();
  await expect(page.locator("#panels")).toContainText("freedos.img");
  expect(problems()).toEqual([]);
});

test("sound comes through, without a gap once it plays, and can be turned off", async ({ page }) => {
  test.slow();
  await start(page, "-m 32");
  await screen(page, "ready", 90);
  await press(page, "Sound off");
  await expect(page.locator("#mute")).toHaveText("Sound on");
  // The diagnostic ROM beeps at B.
  await type(page, "b");
  const state = () => page.evaluate(() => globalThis.orrerySound.state);
  await expect.poll(async () => (await state()).played, { timeout: 20_000 }).toBeGreaterThan(48_000);
  await press(page, "Sound on");
  await expect(page.locator("#mute")).toHaveText("Sound off");
});

test("everything of a running machine can be reached by keys alone", async ({ page }) => {
  await start(page, "-m 32");
  await screen(page, "ready", 90);
  // The screen takes every key but this one.
  await page.keyboard.press("Shift+Escape");
  const reached = [];
  for (let i = 0; i < 40; i++) {
    await page.keyboard.press("Tab");
    reached.push(await page.evaluate(() => document.activeElement?.id || document.activeElement?.textContent || ""));
    if (reached.at(-1) === "screen") break;
  }
  const all = await page.evaluate(() => [...document.querySelectorAll("button, input, select, canvas")].filter((e) => e.offsetParent && !e.getAttribute("aria-label") && !e.labels?.length && !e.textContent.trim()).map((e) => e.outerHTML));
  expect(all).toEqual([]);
  expect(reached.length).toBeGreaterThan(5);
});
