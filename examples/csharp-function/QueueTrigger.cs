// Handle Switchboard's events in an Azure Functions app (.NET isolated worker).
//
// The trigger decodes base64, deletes a message once Run has returned, gives it again when Run throws, and puts it on
// call-events-poison after the fifth time.

using Azure.Identity;
using Azure.Messaging;
using Azure.Storage.Blobs;
using Microsoft.Azure.Functions.Worker;
using Microsoft.Azure.Functions.Worker.Builder;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;

var builder = FunctionsApplication.CreateBuilder(args);
builder.Services.AddSingleton(BlobService());
builder.Build().Run();

// A client of the account that the trigger reads, by the same app settings.
static BlobServiceClient BlobService()
{
    if (Environment.GetEnvironmentVariable("Switchboard") is { Length: > 0 } text)
    {
        return new BlobServiceClient(text);
    }
    var account = Environment.GetEnvironmentVariable("Switchboard__blobServiceUri")
        ?? throw new InvalidOperationException("neither Switchboard nor Switchboard__blobServiceUri is set");
    return new BlobServiceClient(new Uri(account), new DefaultAzureCredential());
}

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
            return one.Data ?? throw new InvalidDataException("the event has neither data nor dataref");
        }
        var named = new BlobUriBuilder(new Uri((string)url));
        // Only our own account is asked, so that no credential goes anywhere else.
        var blob = blobs.GetBlobContainerClient(named.BlobContainerName).GetBlobClient(named.BlobName);
        return (await blob.DownloadContentAsync(stop)).Value.Content;
    }
}
