// Read Switchboard's events from a queue, without Azure Functions.
//
//   dotnet run call-events
//
// Packages: Azure.Identity, Azure.Storage.Blobs, Azure.Storage.Queues.
//
// AZURE_STORAGE_ACCOUNT names the account; the identity that DefaultAzureCredential finds needs two roles there:
// Storage Queue Data Contributor, Storage Blob Data Reader.

using Azure.Identity;
using Azure.Messaging;
using Azure.Storage.Blobs;
using Azure.Storage.Queues;
using Azure.Storage.Queues.Models;

const int MaxTries = 5;
var visibility = TimeSpan.FromMinutes(5); // the time to handle the messages of one request

var name = args[0];
var account = Environment.GetEnvironmentVariable("AZURE_STORAGE_ACCOUNT")
    ?? throw new InvalidOperationException("AZURE_STORAGE_ACCOUNT is not set");
var credential = new DefaultAzureCredential();
var queues = new QueueServiceClient(new Uri($"https://{account}.queue.core.windows.net"), credential);
var blobs = new BlobServiceClient(new Uri($"https://{account}.blob.core.windows.net"), credential);
var queue = queues.GetQueueClient(name);

while (true)
{
    QueueMessage[] messages = await queue.ReceiveMessagesAsync(maxMessages: 16, visibility);
    foreach (var message in messages)
    {
        if (message.DequeueCount > MaxTries)
        {
            await ParkAsync(message);
        }
        else
        {
            foreach (var one in CloudEvent.ParseMany(Decoded(message))) // one event, or a batch
            {
                await HandleAsync(one, await DataOfAsync(one));
            }
        }
        await queue.DeleteMessageAsync(message.MessageId, message.PopReceipt); // last: a crash before this brings it back
    }
    if (messages.Length == 0)
    {
        await Task.Delay(TimeSpan.FromSeconds(2));
    }
}

// Do your work here. An event can come more than once: write what comes of it under (Source, Id), so that a second time
// changes nothing. Events hold personal data: log ids alone.
Task HandleAsync(CloudEvent one, BinaryData data)
{
    Console.WriteLine($"{one.Time:O} {one.Type} {one.Source} {one.Id}: {data.ToMemory().Length} bytes");
    return Task.CompletedTask;
}

// The JSON of a message: base64 or plain.
BinaryData Decoded(QueueMessage message)
{
    var text = message.Body.ToString();
    return text[0] is '{' or '[' ? message.Body : BinaryData.FromBytes(Convert.FromBase64String(text));
}

// An event's data, from the blob that dataref names where it was too large for a queue.
async Task<BinaryData> DataOfAsync(CloudEvent one)
{
    if (!one.ExtensionAttributes.TryGetValue("dataref", out var url))
    {
        return one.Data ?? throw new InvalidDataException($"event {one.Id} has neither data nor dataref");
    }
    var named = new BlobClient(new Uri((string)url));
    // Only our own account is asked, so that no credential goes anywhere else.
    var blob = blobs.GetBlobContainerClient(named.BlobContainerName).GetBlobClient(named.Name);
    return (await blob.DownloadContentAsync()).Value.Content;
}

// Put a message that fails again and again aside, as a Functions queue trigger does.
async Task ParkAsync(QueueMessage message)
{
    var poison = queues.GetQueueClient($"{name}-poison");
    await poison.CreateIfNotExistsAsync();
    await poison.SendMessageAsync(message.Body, timeToLive: TimeSpan.FromSeconds(-1)); // never expires
    Console.WriteLine($"message {message.MessageId} failed {MaxTries} times; it is now on {name}-poison");
}
