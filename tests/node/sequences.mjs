// Random sequences of instructions, interpreted and in compiled WebAssembly.
// Usage: node sequences.mjs PKG_FOLDER [COUNT [SEED]]: so many of each kind.

import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [pkg, count = "800", seed = "1"] = process.argv.slice(2);
const tests = await import(pathToFileURL(path.resolve(pkg, "orrery_node_test.js")));
tests.initSync({ module: fs.readFileSync(path.join(pkg, "orrery_node_test_bg.wasm")) });
// In parts: what was compiled is let go of between them.
const part = 500;
for (let kind = 0; kind < 5; kind++) {
  for (let first = 0; first < Number(count); first += part) {
    const end = Math.min(first + part, Number(count));
    let said;
    try {
      said = tests.compare(kind, Number(seed), first, end);
    } catch (e) {
      console.error(`sequences.mjs: ${e?.message ?? e}`);
      process.exit(1);
    }
    if (first === 0) console.log(said);
    await new Promise((resolve) => setImmediate(resolve));
  }
}
