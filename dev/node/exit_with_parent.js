// Preloaded into Azurite: its standard input is a pipe that its parent holds open and never writes to. The pipe ends
// when the parent does, however that happens, and Azurite ends with it.
"use strict";

const exit = () => process.exit(0);
process.stdin.on("end", exit).on("error", exit).resume().unref();
