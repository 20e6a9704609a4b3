// Keeps the page itself, so that it starts without a network. Guests and images are cached by the machine's thread.

const NAME = "orrery-page-VERSION";
const FILES = "LIST".split(" ");

self.addEventListener("install", (e) => {
  e.waitUntil(caches.open(NAME).then((cache) => cache.addAll(FILES)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (e) => {
  const old = async () => {
    for (const name of await caches.keys()) if (name.startsWith("orrery-page-") && name !== NAME) await caches.delete(name);
    await self.clients.claim();
  };
  e.waitUntil(old());
});

self.addEventListener("fetch", (e) => {
  const { request } = e;
  const url = new URL(request.url);
  const page = new URL("./", self.registration.scope);
  if (request.method !== "GET" || url.origin !== page.origin || request.headers.has("range")) return;
  const name = url.pathname.slice(page.pathname.length) || "./";
  if (!FILES.includes(name)) return;
  e.respondWith(
    caches.open(NAME).then(async (cache) => (await cache.match(name, { ignoreSearch: true })) ?? fetch(request)),
  );
});
