// Handle Switchboard's events in an Azure Functions app (.NET isolated worker).
//
// Packages: Azure.Identity, Azure.Storage.Blobs, Microsoft.Azure.Functions.Worker, Microsoft.Azure.Functions.Worker.Sdk,
// Microsoft.Azure.Functions.Worker.Extensions.Storage.Queues.
//
// App settings: Switchboard__queueServiceUri and Switchboard__blobServiceUri. The app's identity needs two roles there:
// Storage Queue Data Contributor, Storage Blob Data Reader.
//
// The trigger decodes base64, deletes a message once Run has returned, gives it again when Run throws, and puts it on
// call-events-poison after the fifth time. With EVENT_ENCODING=none, set "messageEncoding": "none" in this app's host.json.

using Azure.Identity;
using Azure.Messaging;
using Azure.Storage.Blobs;
using Microsoft.Azure.Functions.Worker;
using Microsoft.Azure.Functions.Worker.Builder;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;

var account = Environment.GetEnvironmentVariable("Switchboard__blobServiceUri")
    ?? throw new InvalidOperationException("Switchboard__blobServiceUri is not set");
var builder = FunctionsApplication.CreateBuilder(args);
builder.Services.AddSingleton(new BlobServiceClient(new Uri(account), new DefaultAzureCredential()));
builder.Build().Run();

public sealed class CallEvents(BlobServiceClient blobs, ILogger<CallEvents> logger)
{
    [Function("HandleCallEvents")]
    public async Task Run([QueueTrigger("call-events", Connection = "Switchboard")] string message, CancellationToken stop)
    {
        foreach (var one in CloudEvent.ParseMany(BinaryData.FromString(message))) // one event, or a batch
        {
            await HandleAsync(one, await DataOfAsync(one, stop));
        }
    }

    // Do your work here. An event can come more than once: write what comes of it under (Source, Id), so that a second
    // time changes nothing. Events hold personal data: log ids alone.
    private Task HandleAsync(CloudEvent one, BinaryData data)
    {
        logger.LogInformation("{Type} {Source} {Id}: {Bytes} bytes", one.Type, one.Source, one.Id, data.ToMemory().Length);
        return Task.CompletedTask;
    }

    // An event's data, from the blob that dataref names where it was too large for a queue.
    private async Task<BinaryData> DataOfAsync(CloudEvent one, CancellationToken stop)
    {
        if (!one.ExtensionAttributes.TryGetValue("dataref", out var url))
        {
            return one.Data ?? throw new InvalidDataException($"event {one.Id} has neither data nor dataref");
        }
        var named = new BlobClient(new Uri((string)url));
        // Only our own account is asked, so that no credential goes anywhere else.
        var blob = blobs.GetBlobContainerClient(named.BlobContainerName).GetBlobClient(named.Name);
        return (await blob.DownloadContentAsync(stop)).Value.Content;
    }
}
