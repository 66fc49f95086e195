"""The app of the replays: what its functions do is said by the test that plays."""

import azure.functions as func

from tests.replay import stage

app = func.FunctionApp()


@app.queue_trigger("msg", queue_name="work", connection="AzureWebJobsStorage")
async def plain(msg: func.QueueMessage) -> None:
    await stage.play(msg)
