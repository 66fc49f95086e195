// Read Switchboard's events from a queue.
//
//   npm install @azure/identity @azure/storage-blob @azure/storage-queue
//   node consume.mjs call-events
//
// AZURE_STORAGE_CONNECTION_STRING says where the queue is. Without it, AZURE_STORAGE_ACCOUNT names the account, and the
// identity that DefaultAzureCredential finds needs two roles: Storage Queue Data Contributor, Storage Blob Data Reader.

import { setTimeout as sleep } from "node:timers/promises";
import { DefaultAzureCredential } from "@azure/identity";
import { BlobClient, BlobServiceClient } from "@azure/storage-blob";
import { QueueServiceClient } from "@azure/storage-queue";

const VISIBILITY_SECONDS = 300; // the time to handle the messages of one request
const MAX_TRIES = 5;

// Do your work here. An event can come more than once: write what comes of it under its key, so that a second time
// changes nothing (INSERT … ON CONFLICT (source, id) DO NOTHING). Events hold personal data: log ids alone.
async function handle(event, data) {
  const known = data !== null && typeof data === "object" ? Object.keys(data).sort().join() : typeof data;
  console.log(event.time, event.type, event.source, event.id, known);
}

// The events of a message: base64 or plain, one or a batch.
function eventsIn(text) {
  const json = /^[{[]/.test(text) ? text : Buffer.from(text, "base64").toString("utf8");
  const found = JSON.parse(json);
  return Array.isArray(found) ? found : [found];
}

// An event's data, from the blob that dataref names where it was too large for a queue.
async function dataOf(event, blobs) {
  if (!("dataref" in event)) return event.data;
  const { containerName, name } = new BlobClient(event.dataref);
  // Only our own account is asked, so that no credential goes anywhere else.
  const blob = blobs.getContainerClient(containerName).getBlobClient(name);
  return JSON.parse((await blob.downloadToBuffer()).toString("utf8"));
}

// Put a message that fails again and again aside, as a Functions queue trigger does.
async function park(queues, name, message) {
  const poison = queues.getQueueClient(`${name}-poison`);
  await poison.createIfNotExists();
  await poison.sendMessage(message.messageText, { messageTimeToLive: -1 });
  console.log(`message ${message.messageId} failed ${MAX_TRIES} times; it is now on ${name}-poison`);
}

function clients() {
  const text = process.env.AZURE_STORAGE_CONNECTION_STRING;
  if (text) return [QueueServiceClient.fromConnectionString(text), BlobServiceClient.fromConnectionString(text)];
  const account = process.env.AZURE_STORAGE_ACCOUNT;
  const credential = new DefaultAzureCredential();
  return [
    new QueueServiceClient(`https://${account}.queue.core.windows.net`, credential),
    new BlobServiceClient(`https://${account}.blob.core.windows.net`, credential),
  ];
}

const [queues, blobs] = clients();
const name = process.argv[2];
const queue = queues.getQueueClient(name);
for (;;) {
  const { receivedMessageItems: messages } = await queue.receiveMessages({
    numberOfMessages: 16,
    visibilityTimeout: VISIBILITY_SECONDS,
  });
  for (const message of messages) {
    if (message.dequeueCount > MAX_TRIES) {
      await park(queues, name, message);
    } else {
      for (const event of eventsIn(message.messageText)) await handle(event, await dataOf(event, blobs));
    }
    await queue.deleteMessage(message.messageId, message.popReceipt); // last: a crash before this brings it back
  }
  if (messages.length === 0) await sleep(2000);
}
