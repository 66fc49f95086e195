// The JavaScript example with a handler that fails for ever at one record, ends the process once at another, and
// takes its time at a third.

import { existsSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { clients, EventQueue, Handled } from "./consume.mjs";

async function handle(event, { id: record }) {
  if (record === "fails") throw new Error();
  if (record === "ends" && !existsSync("ended")) {
    writeFileSync("ended", "");
    process.exit(7);
  }
  if (record === "slow") {
    console.log("begun");
    while (!existsSync("go-on")) await sleep(50);
  }
  console.log(record);
}

const timing = { leaseSeconds: 2, retrySeconds: 0, pollSeconds: 0.1 };
await new EventQueue(...clients(), process.argv[2], new Handled("handled.txt"), handle, timing).run();
