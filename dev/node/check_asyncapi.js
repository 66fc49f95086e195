// Reads an AsyncAPI document from standard input, has the AsyncAPI project's own parser validate it, and writes what that
// minds as [{"code", "message", "path"}]; hints on what might be there besides are left out.
"use strict";

const { Parser, DiagnosticSeverity } = require("@asyncapi/parser");

const text = require("node:fs").readFileSync(0, "utf8");
new Parser().validate(text).then((diagnostics) => {
  const minded = diagnostics.filter(({ severity }) => severity <= DiagnosticSeverity.Warning);
  const found = minded.map(({ code, message, path }) => ({ code, message, path: path.join(".") }));
  process.stdout.write(JSON.stringify(found));
});
