// What all views share: elements, what is said to the person, questions, sizes and times in words.

export const $ = (id) => document.getElementById(id);

/** An element with properties and children. */
export function element(tag, props = {}, ...children) {
  const e = Object.assign(document.createElement(tag), props);
  e.append(...children.filter((c) => c !== undefined && c !== null));
  return e;
}

/** 1500000 as `1.5 MB`. */
export function bytes(n) {
  if (!(n > 0)) return "0 B";
  const unit = Math.min(4, Math.floor(Math.log10(n) / 3));
  const value = n / 1000 ** unit;
  return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${["B", "kB", "MB", "GB", "TB"][unit]}`;
}

export const seconds = (s) => (s < 90 ? `${Math.max(1, Math.round(s))} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`);

/** A time as people say it. */
export function when(time) {
  const ago = (Date.now() - time) / 1000;
  return ago < 60 ? "just now" : ago < 86_400 ? `${seconds(ago)} ago` : new Date(time).toLocaleDateString();
}

let working;

/** Tells the person something; `bad` is what went wrong. */
export function say(text, bad = false) {
  const status = $("status");
  status.replaceChildren(text);
  status.classList.toggle("bad", bad);
  working = undefined;
}

export const fail = (e) => say(e.message, true);

/** Tells how far a long operation is: sizes, and the time that is left. */
export function progress(what, done, total) {
  const now = performance.now();
  if (working?.what !== what) {
    const bar = element("progress", { ariaLabel: what });
    const text = element("span");
    $("status").replaceChildren(bar, text);
    $("status").classList.remove("bad");
    working = { what, bar, text, began: now, told: 0 };
  }
  if (now - working.told < 100 && done < total) return;
  working.told = now;
  const spent = (now - working.began) / 1000;
  const left = spent > 1 && total > done ? `, ${seconds((spent / done) * (total - done))} left` : "";
  if (total) Object.assign(working.bar, { max: total, value: done });
  working.text.textContent = `${what}: ${bytes(done)}${total ? ` of ${bytes(total)}` : ""}${left}`;
}

/** Gives the person a file. */
export function save(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function dialog(title, body, yes) {
  return new Promise((resolve) => {
    const form = element("form", { method: "dialog" }, element("h2", {}, title), ...body);
    const no = element("button", { type: "button", value: "no" }, "Cancel");
    form.append(element("div", { className: "row end" }, no, element("button", { className: "primary", value: "yes" }, yes)));
    const box = element("dialog", { ariaLabel: title }, form);
    no.addEventListener("click", () => box.close("no"));
    box.addEventListener("close", () => {
      box.remove();
      resolve(box.returnValue === "yes" ? new FormData(form) : undefined);
    });
    document.body.append(box);
    box.showModal();
    form.querySelector("input, select")?.select?.();
  });
}

/** Asks for a few values: `{name, label, value, options, hint, ...}` each. Nothing if the person does not want to. */
export async function ask(title, fields, yes) {
  const body = fields.map(({ label, options, hint, name, ...rest }) => {
    const input = options
      ? element("select", { name }, ...options.map((o) => element("option", { value: o.value ?? o }, o.label ?? o)))
      : element("input", { name, autocomplete: "off", ...rest });
    if (options && rest.value) input.value = rest.value;
    return element("label", { className: "field" }, label, input, hint ? element("small", {}, hint) : undefined);
  });
  const data = await dialog(title, body, yes);
  return data && Object.fromEntries(data);
}

/** Asks whether to do something. */
export const choose = async (title, text, yes) => Boolean(await dialog(title, [element("p", {}, text)], yes));
