// The JavaScript example with a handler that fails for ever at one record, and ends the process once at another.

import { existsSync, writeFileSync } from "node:fs";
import { clients, EventQueue, Handled } from "./consume.mjs";

function handle(event, { id: record }) {
  if (record === "fails") throw new Error();
  if (record === "ends" && !existsSync("ended")) {
    writeFileSync("ended", "");
    process.exit(7);
  }
  console.log(record);
}

const timing = { leaseSeconds: 2, retrySeconds: 0, pollSeconds: 0.1 };
await new EventQueue(...clients(), process.argv[2], new Handled("handled.txt"), handle, timing).run();
