"""The triggers of Switchboard, and nothing else."""

import os

import azure.functions as func

from shared import triggers
from shared.app import App
from shared.triggers import noted, reported

STORAGE = "AzureWebJobsStorage"
# The setting has a default, which a bare %RENEWAL_SCHEDULE% would not: the host disables a function, and that function
# alone, whose setting is missing or whose schedule it cannot read.
RENEWAL_SCHEDULE = "%RENEWAL_SCHEDULE%" if os.environ.get("RENEWAL_SCHEDULE") else "0 */5 * * * *"

parts = App()
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)  # Graph proves itself by clientState and tokens


@app.function_name("receive_notifications")
@app.route("notifications", methods=["GET", "POST"])
@reported
async def receive_notifications(req: func.HttpRequest) -> func.HttpResponse:
    return await triggers.receive(parts, req)


@app.function_name("receive_lifecycle_notifications")
@app.route("lifecycleNotifications", methods=["GET", "POST"])
@reported
async def receive_lifecycle_notifications(req: func.HttpRequest) -> func.HttpResponse:
    return await triggers.receive(parts, req)


@app.function_name("decrypt_notifications")
@app.queue_trigger("msg", queue_name="raw-notifications", connection=STORAGE)
@reported
@noted(parts)
async def decrypt_notifications(msg: func.QueueMessage) -> None:
    await triggers.decrypt(parts, msg, "raw-notifications")


@app.function_name("decrypt_emergency")
@app.queue_trigger("msg", queue_name="raw-emergency", connection=STORAGE)
@reported
@noted(parts)
async def decrypt_emergency(msg: func.QueueMessage) -> None:
    await triggers.decrypt(parts, msg, "raw-emergency")


@app.function_name("decrypt_call_records")
@app.queue_trigger("msg", queue_name="raw-call-records", connection=STORAGE)
@reported
@noted(parts)
async def decrypt_call_records(msg: func.QueueMessage) -> None:
    await triggers.decrypt(parts, msg, "raw-call-records")


@app.function_name("handle_lifecycle")
@app.queue_trigger("msg", queue_name="lifecycle-notifications", connection=STORAGE)
@reported
@noted(parts)
async def handle_lifecycle(msg: func.QueueMessage) -> None:
    await triggers.handle_lifecycle(parts, msg, "lifecycle-notifications")


@app.function_name("renew_subscriptions")
@app.timer_trigger("timer", schedule=RENEWAL_SCHEDULE, run_on_startup=False, use_monitor=True)
@reported
@noted(parts)
async def renew_subscriptions(timer: func.TimerRequest) -> None:
    await triggers.renew(parts)


@app.function_name("sweep_claim_checks")
@app.timer_trigger("timer", schedule="0 20 3 * * *", run_on_startup=False, use_monitor=True)
@reported
@noted(parts)
async def sweep_claim_checks(timer: func.TimerRequest) -> None:
    await triggers.sweep_claim_checks(parts)


if os.environ.get("SELFTEST_SCHEDULE"):

    @app.function_name("self_test")
    @app.timer_trigger("timer", schedule="%SELFTEST_SCHEDULE%", run_on_startup=False, use_monitor=True)
    @reported
    @noted(parts)
    async def self_test(timer: func.TimerRequest) -> None:
        await triggers.self_test(parts)


# What a run has missed, the next one does: no monitor needs to write down each of them.
@app.function_name("drain_poison")
@app.timer_trigger("timer", schedule="0 * * * * *", run_on_startup=False, use_monitor=False)
@reported
@noted(parts)
async def drain_poison(timer: func.TimerRequest) -> None:
    await triggers.drain_poison(parts)


@app.function_name("health")
@app.route("health", methods=["GET"])
@reported
async def health(req: func.HttpRequest) -> func.HttpResponse:
    return await triggers.health(parts, req)


@app.function_name("status")
@app.route("status", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
@reported
async def status(req: func.HttpRequest) -> func.HttpResponse:
    return await triggers.status(parts, req)
