// The package: `import { Machine } from "orrery"`, and the element <orrery-machine>.
export { Machine, whyStopped, withTools } from "./machine.js";
export { OrreryMachine } from "./element.js";
export { Screen, onScreenKeyboard } from "./screen.js";
export { Sound } from "./sound.js";
export { scanCodes } from "./keys.js";
