// Who reads the queues, each call with the caller's object id (table StorageQueueLogs).

param storageName string
param workspaceId string

resource queueService 'Microsoft.Storage/storageAccounts/queueServices@2025-08-01' existing = {
  name: '${storageName}/default'
}

resource reads 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  scope: queueService
  name: 'reads'
  properties: {
    workspaceId: workspaceId
    logAnalyticsDestinationType: 'Dedicated'
    logs: [
      {
        category: 'StorageRead'
        enabled: true
      }
      {
        category: 'StorageDelete'
        enabled: true
      }
    ]
  }
}
