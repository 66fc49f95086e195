// Preloaded into Azurite: it loads its telemetry client and its client of SQL databases at every start, whether it is to
// use them or not, and that is three quarters of what a start costs. These stand in their place: they hold what Azurite's
// modules touch while they are loaded.
"use strict";

const standIn = (name, exports) => {
  const id = require.resolve(name);
  require.cache[id] = { id, filename: id, loaded: true, children: [], paths: [], exports };
};

standIn("applicationinsights", {}); // it is started with --disableTelemetry
if (!process.env.AZURITE_DB) standIn("sequelize", { Model: class {} });
