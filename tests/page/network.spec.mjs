// Networks of the page: through fetch, through relays, between tabs.

import { expect, needs, screen, site, start, test } from "./steps.mjs";

/** Brings iPXE to its prompt and runs lines there. */
async function ipxe(page, network) {
  await start(page, `-m 64 -cdrom ipxe.iso -nic ${network},model=e1000`);
  await screen(page, "Ctrl-B", 60);
  await page.locator("#screen").focus();
  await expect
    .poll(
      async () => {
        await page.keyboard.press("Control+b", { delay: 30 });
        return page.evaluate(() => globalThis.orrery.ask("text"));
      },
      { timeout: 30_000, intervals: [200] },
    )
    .toContain("iPXE>");
}

/** Waits until DHCP has given an address. */
const addressed = (page) => expect.poll(() => page.evaluate(() => globalThis.orrery.ask("text")), { timeout: 40_000 }).toMatch(/Configuring.*\.+ ok\s+iPXE>/);

const line = (page, text) => page.evaluate((t) => globalThis.orrery.type(t, 25), `${text}\n`);

test("a guest gets an address and fetches a page through the browser", async ({ page }) => {
  needs("ipxe.iso");
  await ipxe(page, "fetch");
  await line(page, "dhcp");
  await addressed(page);
  await line(page, "imgfetch http://10.0.2.2/hello.txt");
  await screen(page, "hello.txt... ok", 40);
  await line(page, "imgstat");
  await screen(page, "hello.txt : 31 bytes", 20);
});

test("a guest fetches a page through a Wisp relay", async ({ page }) => {
  needs("ipxe.iso");
  await ipxe(page, `wisp,url=${site.url.replace("http", "ws")}wisp/`);
  await line(page, "dhcp");
  await addressed(page);
  await line(page, "imgfetch http://example.test/hello.txt");
  await screen(page, "hello.txt... ok", 40);
  expect(site.wisped).toBe("example.test");
});

for (const [what, network] of [
  ["a switch between tabs", () => "switch,name=lab"],
  ["an ethernet relay", () => `relay,url=${site.url.replace("http", "ws")}frames`],
]) {
  test(`two machines reach each other over ${what}`, async ({ page, context }) => {
    needs("ipxe.iso");
    test.slow();
    const other = await context.newPage();
    await ipxe(page, `${network()},mac=52:54:00:00:00:01`);
    await page.waitForTimeout(100);
    await line(page, "ifopen net0");
    await line(page, "set net0/ip 10.1.0.1");
    await line(page, "set net0/netmask 255.0.0.0");
    await ipxe(other, `${network()},mac=52:54:00:00:00:02`);
    await line(other, "ifopen net0");
    await line(other, "set net0/ip 10.1.0.2");
    await line(other, "set net0/netmask 255.0.0.0");
    // A connection is asked for only when the other one has said where it is: frames go both ways.
    await line(other, "imgfetch http://10.1.0.1/x");
    await expect
      .poll(
        async () => {
          await line(page, "ifstat");
          return page.evaluate(() => globalThis.orrery.text());
        },
        { timeout: 40_000, intervals: [2000] },
      )
      .toContain("The socket is not connected");
  });
}


