import type { Event } from "./events.js";

export type * from "./events.js";

/** A message is no event. */
export class EventError extends Error {
  override readonly name = "EventError";
}

/**
 * Reads a queue message: one event, or several in the JSON batch format.
 *
 * A later version of Switchboard may send a `type` that `Event` does not name: whoever switches by it needs a
 * default. An event has `data`, or `dataref`: the URL of a blob that holds the data.
 *
 * @param message - the message's text. Base64, which is how a Functions queue trigger expects it, is recognised by itself.
 * @returns the events, in the message's order.
 * @throws EventError if it is neither.
 */
export function parse(message: string): Event[] {
  const found = read(message);
  const events: unknown[] = Array.isArray(found) ? found : [found];
  if (!events.every(isEvent)) throw new EventError("the message is not a CloudEvent");
  return events;
}

function read(message: string): unknown {
  try {
    return JSON.parse(/^\s*[{[]/.test(message) ? message : fromBase64(message));
  } catch (cause) {
    throw new EventError("the message is not a CloudEvent", { cause });
  }
}

function fromBase64(text: string): string {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
}

function isEvent(value: unknown): value is Event {
  if (typeof value !== "object" || value === null) return false;
  const { specversion, id, source, type, time } = value as Record<string, unknown>;
  const complete = [id, source, type, time].every((attribute) => typeof attribute === "string");
  return specversion === "1.0" && complete && !Number.isNaN(Date.parse(time as string));
}
