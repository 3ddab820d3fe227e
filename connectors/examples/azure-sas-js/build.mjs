// Makes the component: node build.mjs [OUT]. The manifest is added by `raic connector build`.

import { componentize } from '@bytecodealliance/componentize-js';
import { writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

const here = (name) => fileURLToPath(new URL(name, import.meta.url));
const out = process.argv[2] ?? here('component.wasm');

const { component } = await componentize({
  sourcePath: here('app.js'),
  // The contract as it lies in the repository, or the folder or file that $RAIC_WIT names.
  witPath: process.env.RAIC_WIT ?? here('../../../wit'),
  worldName: 'connector',
  // Every feature is disabled, so that the component imports nothing of WASI.
  disableFeatures: ['stdio', 'random', 'clocks', 'http', 'fetch-event'],
});
await writeFile(out, component);
console.log(`${out}: ${component.length} bytes`);
