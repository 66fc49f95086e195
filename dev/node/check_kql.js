// Reads {"tables": {table: {column: type}}, "queries": {name: text}} from standard input, has Microsoft's own parser of
// the Kusto Query Language look at each query, and writes [{"query", "line", "column", "message"}] of all it minds.
"use strict";

require("@kusto/language-service-next/bridge.js");
require("@kusto/language-service-next/Kusto.Language.Bridge.js");

const { Kusto } = globalThis;
const { Symbols } = Kusto.Language;

function schema(tables) {
  const symbols = Object.entries(tables).map(([table, columns]) => {
    const described = Object.entries(columns).map(([column, type]) => `${column}: ${type}`);
    return new Symbols.TableSymbol.$ctor7(table, `(${described.join(", ")})`, null);
  });
  const database = new Symbols.DatabaseSymbol.$ctor3("workspace", null, symbols, false);
  return Kusto.Language.GlobalState.Default.WithDatabase(database);
}

function place(text, offset) {
  const before = text.slice(0, offset).split("\n");
  return { line: before.length, column: before.at(-1).length + 1 };
}

function check(query, text, globals) {
  const found = Kusto.Language.KustoCode.ParseAndAnalyze(text, globals).GetDiagnostics();
  return Array.from({ length: found.Count }, (_, index) => {
    const { Start, Message } = found.getItem(index);
    return { query, ...place(text, Start), message: Message };
  });
}

const { tables, queries } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const globals = schema(tables);
process.stdout.write(JSON.stringify(Object.entries(queries).flatMap(([name, text]) => check(name, text, globals))));
