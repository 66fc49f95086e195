// Read Switchboard's events from queues, as a service of its own: one that fails holds up no other, and none is lost.
//
//   dotnet run -- call-events
//
// AZURE_STORAGE_CONNECTION_STRING says where the queues are. Without it, AZURE_STORAGE_ACCOUNT names the account, which is
// reached with the identity that DefaultAzureCredential finds. README.md says what that may have to be given.

using System.Text.Json;
using Azure;
using Azure.Identity;
using Azure.Messaging;
using Azure.Storage.Blobs;
using Azure.Storage.Queues;
using Azure.Storage.Queues.Models;

var (queues, blobs) = Clients();
await Task.WhenAll(args.Select(name => new EventQueue(queues, blobs, name, HandleAsync).RunAsync()));

// Do your work here. An event can come more than once: write what comes of it under (Source, Id), so that a second time
// changes nothing. Events hold personal data: log ids alone.
static Task HandleAsync(CloudEvent one, BinaryData data)
{
    // The other types have their classes in Events.cs, too.
    var call = one.Type == "Microsoft.Graph.CallStarted" ? data.ToObjectFromJson<Switchboard.CallEventData>(Switchboard.Converter.Settings) : null;
    Console.WriteLine($"{one.Time:O} {one.Type} {one.Source} {one.Id} {call?.CallId}");
    return Task.CompletedTask;
}

static (QueueServiceClient, BlobServiceClient) Clients()
{
    if (Environment.GetEnvironmentVariable("AZURE_STORAGE_CONNECTION_STRING") is { Length: > 0 } text)
    {
        return (new QueueServiceClient(text), new BlobServiceClient(text));
    }
    var account = Environment.GetEnvironmentVariable("AZURE_STORAGE_ACCOUNT")
        ?? throw new InvalidOperationException("neither AZURE_STORAGE_CONNECTION_STRING nor AZURE_STORAGE_ACCOUNT is set");
    var credential = new DefaultAzureCredential();
    return (
        new QueueServiceClient(new Uri($"https://{account}.queue.core.windows.net"), credential),
        new BlobServiceClient(new Uri($"https://{account}.blob.core.windows.net"), credential));
}

// One queue, and how its messages are handled.
internal sealed class EventQueue(
    QueueServiceClient queues, BlobServiceClient blobs, string name, Func<CloudEvent, BinaryData, Task> handle)
{
    private const int MaxTries = 5;
    private const int AtOnce = 4; // messages that are handled at the same time
    private static readonly TimeSpan Lease = TimeSpan.FromSeconds(60); // a message stays hidden so long after a crash
    private static readonly TimeSpan Poll = TimeSpan.FromSeconds(1);

    private readonly QueueClient queue = queues.GetQueueClient(name);
    private readonly QueueClient poison = queues.GetQueueClient($"{name}-poison");

    // Handle what is there and what comes, without end. A slow event holds up none but its own worker.
    public Task RunAsync() => Task.WhenAll(Enumerable.Range(0, AtOnce).Select(_ => WorkAsync()));

    private async Task WorkAsync()
    {
        while (true)
        {
            try
            {
                if (await ReceiveAsync() is { } message)
                {
                    await TakeAsync(message);
                    continue;
                }
            }
            catch (Exception error) when (IsTransient(error))
            {
                Console.Error.WriteLine($"storage did not answer: {error.GetType().Name}");
            }
            await Task.Delay(Poll);
        }
    }

    private async Task<QueueMessage?> ReceiveAsync()
    {
        try
        {
            return (await queue.ReceiveMessageAsync(Lease)).Value;
        }
        catch (RequestFailedException error) when (error.ErrorCode == QueueErrorCode.QueueNotFound)
        {
            return null; // the first event of the kind makes the queue
        }
    }

    private async Task TakeAsync(QueueMessage message)
    {
        CloudEvent[] events;
        try
        {
            events = CloudEvent.ParseMany(Decoded(message)); // one event, or a batch
        }
        catch (Exception error) when (error is JsonException or FormatException or ArgumentException or InvalidOperationException)
        {
            await ParkAsync(message, message.PopReceipt, "it is no event");
            return;
        }
        if (message.DequeueCount > MaxTries)
        {
            await ParkAsync(message, message.PopReceipt, "the process ended at each try");
            return;
        }
        using var renewals = new PeriodicTimer(Lease / 3);
        var renewing = RenewAsync(message, renewals);
        var failed = 0;
        foreach (var one in events)
        {
            failed += await IsHandledAsync(one) ? 0 : 1;
        }
        renewals.Dispose(); // which ends RenewAsync
        var receipt = await renewing;
        if (failed == 0)
        {
            await IfOursAsync(() => queue.DeleteMessageAsync(message.MessageId, receipt));
        }
        else if (message.DequeueCount == MaxTries)
        {
            await ParkAsync(message, receipt, $"it failed {MaxTries} times");
        }
        else
        {
            var pause = TimeSpan.FromSeconds(Math.Pow(4, message.DequeueCount));
            await IfOursAsync(() => queue.UpdateMessageAsync(message.MessageId, receipt, message.Body, pause));
        }
    }

    private async Task<bool> IsHandledAsync(CloudEvent one)
    {
        try
        {
            await handle(one, await DataOfAsync(one));
            return true;
        }
        catch (Exception error) // whatever it is, it must end neither the consumer nor its neighbours
        {
            Console.Error.WriteLine($"failed with {error.GetType().Name}: source={one.Source} id={one.Id}");
            return false;
        }
    }

    // Keep a message hidden until the timer is disposed of; the receipt that deletes it then.
    private async Task<string> RenewAsync(QueueMessage message, PeriodicTimer renewals)
    {
        var receipt = message.PopReceipt;
        while (await renewals.WaitForNextTickAsync())
        {
            await IfOursAsync(async () =>
                receipt = (await queue.UpdateMessageAsync(message.MessageId, receipt, message.Body, Lease)).Value.PopReceipt);
        }
        return receipt;
    }

    // The JSON of a message: base64 or plain.
    private static BinaryData Decoded(QueueMessage message)
    {
        var text = message.Body.ToString().TrimStart();
        return text.StartsWith('{') || text.StartsWith('[') ? message.Body : BinaryData.FromBytes(Convert.FromBase64String(text));
    }

    // An event's data, from the blob that dataref names where it is too large for a queue.
    private async Task<BinaryData> DataOfAsync(CloudEvent one)
    {
        if (!one.ExtensionAttributes.TryGetValue("dataref", out var url))
        {
            return one.Data ?? throw new InvalidDataException("the event has neither data nor dataref");
        }
        var named = new BlobUriBuilder(new Uri((string)url));
        // Only our own account is asked, so that no credential goes anywhere else.
        var blob = blobs.GetBlobContainerClient(named.BlobContainerName).GetBlobClient(named.BlobName);
        return (await blob.DownloadContentAsync()).Value.Content;
    }

    private async Task ParkAsync(QueueMessage message, string receipt, string why)
    {
        await poison.CreateIfNotExistsAsync();
        await poison.SendMessageAsync(message.Body, timeToLive: TimeSpan.FromSeconds(-1)); // never expires
        await IfOursAsync(() => queue.DeleteMessageAsync(message.MessageId, receipt));
        Console.Error.WriteLine($"now on {poison.Name}, since {why}: message={message.MessageId}");
    }

    // Change a message, unless its lease has ended and another consumer has it, or is done with it.
    private static async Task IfOursAsync(Func<Task> request)
    {
        try
        {
            await request();
        }
        catch (RequestFailedException error)
            when (error.Status == 404 || error.ErrorCode == QueueErrorCode.PopReceiptMismatch)
        {
            return;
        }
    }

    // Azure's clients try again by themselves; this is what they say when that has not helped.
    private static bool IsTransient(Exception error) =>
        error is AggregateException || error is RequestFailedException { Status: 0 or 408 or 429 or >= 500 };
}
