"""Handle Switchboard's events in an Azure Functions app.

The trigger decodes base64, deletes a message once the function has returned, gives it again when that raises, and puts
it on call-events-poison after the fifth time.
"""

import logging
import os
from functools import cache

import azure.functions as func
from azure.identity.aio import DefaultAzureCredential
from azure.storage.blob.aio import BlobServiceClient
from switchboard_events import CloudEvent, Deduplicator, MemoryStore, parse
from switchboard_events.storage import read_data

app = func.FunctionApp()
logger = logging.getLogger(__name__)

# Of this process alone: what must not be done twice needs a store that all instances share.
deduplicator = Deduplicator(MemoryStore())


@app.function_name("handle_call_events")
@app.queue_trigger(arg_name="message", queue_name="call-events", connection="Switchboard")
async def handle_call_events(message: func.QueueMessage) -> None:
    """Handle the event of a message, or its events if it is a batch."""
    for event in parse(message.get_body()):
        async with deduplicator.once(event) as new:
            if new:
                await handle(event, await read_data(event, blob_service()))


async def handle(event: CloudEvent, data: bytes) -> None:
    """Do your work here. Events hold personal data: this logs ids and the name of a type alone."""
    logger.info("%s %s %s %s", event.type, event.source, event.id, type(event.typed(data)).__name__)


@cache
def blob_service() -> BlobServiceClient:
    """A client of the account that the trigger reads, by the same app settings; one for the whole process."""
    if text := os.environ.get("Switchboard"):
        return BlobServiceClient.from_connection_string(text)
    return BlobServiceClient(os.environ["Switchboard__blobServiceUri"], DefaultAzureCredential())
