// @ts-check
// Read Switchboard's events from queues, as a service of its own: each is handled once, and none is lost.
//
//   node consume.mjs call-events
//
// AZURE_STORAGE_CONNECTION_STRING says where the queues are. Without it, AZURE_STORAGE_ACCOUNT names the account, which is
// reached with the identity that DefaultAzureCredential finds. README.md says what that may have to be given.

import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { DefaultAzureCredential } from "@azure/identity";
import { BlobClient, BlobServiceClient } from "@azure/storage-blob";
import { QueueServiceClient } from "@azure/storage-queue";
import { parse } from "switchboard-events";

/**
 * @typedef {import("switchboard-events").Event} Event
 * @typedef {import("@azure/storage-queue").QueueClient} QueueClient
 * @typedef {import("@azure/storage-queue").DequeuedMessageItem} Message
 * @typedef {(event: Event, data: unknown) => void | Promise<void>} Handler
 */

const MAX_TRIES = 5;
const AT_ONCE = 4; // messages of a queue that are handled at the same time
const NEVER = -1;

/**
 * Do your work here. Events hold personal data: this shows ids alone, and so should a log.
 * @type {Handler}
 */
function handle(event, data) {
  const fields = data !== null && typeof data === "object" ? Object.keys(data).sort().join() : typeof data;
  console.log(event.time, event.type, event.source, event.id, fields);
}

/** Keeps what has been handled in a file. One file serves one process: use your own database for several. */
export class Handled {
  /** @param {string} path */
  constructor(path) {
    this.path = path;
    this.keys = new Set(existsSync(path) ? readFileSync(path, "utf8").split("\n") : []);
    /** @type {Map<string, Promise<void>>} */
    this.busy = new Map();
  }

  /**
   * Do what is to be done for an event, unless that was done. Two deliveries of it take turns.
   * @param {Event} event
   * @param {() => Promise<void>} work
   */
  async once({ source, id }, work) {
    const key = JSON.stringify([source, id]);
    while (this.busy.has(key)) await this.busy.get(key)?.catch(() => {});
    if (this.keys.has(key)) return;
    const working = work();
    this.busy.set(key, working);
    try {
      await working;
    } finally {
      this.busy.delete(key);
    }
    this.keys.add(key);
    appendFileSync(this.path, `${key}\n`, { flush: true });
  }
}

/** One queue, and how its messages are handled. */
export class EventQueue {
  /**
   * @param {QueueServiceClient} queues
   * @param {BlobServiceClient} blobs
   * @param {string} name
   * @param {Handled} handled
   * @param {Handler} handler
   * @param {{ leaseSeconds?: number, retrySeconds?: number, pollSeconds?: number }} [timing]
   */
  constructor(queues, blobs, name, handled, handler, { leaseSeconds = 60, retrySeconds = 4, pollSeconds = 1 } = {}) {
    this.queue = queues.getQueueClient(name);
    this.poison = queues.getQueueClient(`${name}-poison`);
    this.blobs = blobs;
    this.handled = handled;
    this.handler = handler;
    this.leaseSeconds = leaseSeconds; // how long a message stays hidden after this process has ended
    this.retrySeconds = retrySeconds; // after the first failure; each of the next takes four times as long
    this.pollSeconds = pollSeconds;
  }

  /** Handle what is there and what comes, without end. A slow event holds up none but its own worker. */
  async run() {
    await Promise.all(Array.from({ length: AT_ONCE }, () => this.#work()));
  }

  async #work() {
    for (;;) {
      try {
        const message = await this.#receive();
        if (message) await this.#take(message);
        else await sleep(this.pollSeconds * 1000);
      } catch (error) {
        if (!isTransient(error)) throw error;
        console.error(`storage did not answer: ${nameOf(error)}`);
        await sleep(this.pollSeconds * 1000);
      }
    }
  }

  async #receive() {
    try {
      const { receivedMessageItems } = await this.queue.receiveMessages({ visibilityTimeout: this.leaseSeconds });
      return receivedMessageItems[0];
    } catch (error) {
      if (codeOf(error) === "QueueNotFound") return undefined; // the first event of the kind makes the queue
      throw error;
    }
  }

  /** @param {Message} message */
  async #take(message) {
    let events;
    try {
      events = parse(message.messageText);
    } catch {
      return this.#park(message, "it is no event");
    }
    if (message.dequeueCount > MAX_TRIES) return this.#park(message, "the process ended at each try");
    const stopRenewing = this.#renew(message);
    const outcomes = [];
    for (const event of events) outcomes.push(await this.#try(event));
    await stopRenewing();
    if (outcomes.every(Boolean)) await this.#delete(message);
    else if (message.dequeueCount === MAX_TRIES) await this.#park(message, `it failed ${MAX_TRIES} times`);
    else await this.#hide(message, this.retrySeconds * 4 ** (message.dequeueCount - 1));
  }

  /**
   * Whether an event is handled, by now or before.
   * @param {Event} event
   */
  async #try(event) {
    try {
      await this.handled.once(event, async () => {
        await this.handler(event, await this.#dataOf(event));
      });
      return true;
    } catch (error) {
      console.error(`failed with ${nameOf(error)}: source=${event.source} id=${event.id}`);
      return false;
    }
  }

  /**
   * An event's data, from the blob that dataref names where it is too large for a queue.
   * @param {Event} event
   * @returns {Promise<unknown>}
   */
  async #dataOf(event) {
    if (event.dataref === undefined) return event.data;
    const { containerName, name } = new BlobClient(event.dataref);
    // Only our own account is asked, so that no credential goes anywhere else.
    const blob = this.blobs.getContainerClient(containerName).getBlobClient(name);
    return JSON.parse((await blob.downloadToBuffer()).toString("utf8"));
  }

  /**
   * Keep a message hidden, until the function that this returns is called.
   * @param {Message} message
   */
  #renew(message) {
    let renewal = Promise.resolve();
    const timer = setInterval(() => {
      const renewed = renewal.then(() => this.#hide(message, this.leaseSeconds));
      renewal = renewed.catch((error) => console.error(`a lease was not renewed: ${nameOf(error)}`));
    }, (this.leaseSeconds * 1000) / 3);
    return async () => {
      clearInterval(timer);
      await renewal; // it has the receipt that deletes the message
    };
  }

  /**
   * @param {Message} message
   * @param {number} seconds
   */
  async #hide(message, seconds) {
    await ifOurs(async () => {
      const { popReceipt } = await this.queue.updateMessage(message.messageId, message.popReceipt, undefined, seconds);
      message.popReceipt = popReceipt ?? message.popReceipt;
    });
  }

  /** @param {Message} message */
  async #delete(message) {
    await ifOurs(() => this.queue.deleteMessage(message.messageId, message.popReceipt));
  }

  /**
   * @param {Message} message
   * @param {string} why
   */
  async #park(message, why) {
    const put = () => this.poison.sendMessage(message.messageText, { messageTimeToLive: NEVER });
    try {
      await put();
    } catch (error) {
      if (codeOf(error) !== "QueueNotFound") throw error;
      await this.poison.createIfNotExists();
      await put();
    }
    await this.#delete(message);
    console.error(`now on ${this.poison.name}, since ${why}: message=${message.messageId}`);
  }
}

/**
 * Change a message, unless its lease has ended and another consumer has it, or is done with it.
 * @param {() => Promise<unknown>} request
 */
async function ifOurs(request) {
  try {
    await request();
  } catch (error) {
    if (!["MessageNotFound", "PopReceiptMismatch", "QueueNotFound"].includes(codeOf(error) ?? "")) throw error;
  }
}

/** @param {unknown} error */
function isTransient(error) {
  const status = /** @type {{ statusCode?: number, name?: string }} */ (error).statusCode;
  return status === undefined ? nameOf(error) === "RestError" : status >= 500 || status === 408 || status === 429;
}

/**
 * @param {unknown} error
 * @returns {string | undefined}
 */
function codeOf(error) {
  return /** @type {{ code?: string }} */ (error).code;
}

/** @param {unknown} error */
function nameOf(error) {
  return error instanceof Error ? error.name : typeof error;
}

/** @returns {[QueueServiceClient, BlobServiceClient]} */
export function clients() {
  const text = process.env.AZURE_STORAGE_CONNECTION_STRING;
  if (text) return [QueueServiceClient.fromConnectionString(text), BlobServiceClient.fromConnectionString(text)];
  const account = process.env.AZURE_STORAGE_ACCOUNT;
  const credential = new DefaultAzureCredential();
  return [
    new QueueServiceClient(`https://${account}.queue.core.windows.net`, credential),
    new BlobServiceClient(`https://${account}.blob.core.windows.net`, credential),
  ];
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const [queues, blobs] = clients();
  const handled = new Handled("handled.txt");
  const names = process.argv.slice(2);
  await Promise.all(names.map((name) => new EventQueue(queues, blobs, name, handled, handle).run()));
}
