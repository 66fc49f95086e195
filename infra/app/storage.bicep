// Everything that Switchboard stores. It is reached by identity alone: account keys are off.

param name string
param location string
param tags object
param private bool
param deployerIpAddress string
param eventDataDays int

var queueNames = [
  'raw-notifications'
  'raw-notifications-poison'
  'raw-emergency'
  'raw-emergency-poison'
  'raw-call-records'
  'raw-call-records-poison'
  'lifecycle-notifications'
  'lifecycle-notifications-poison'
  'call-events'
  'meeting-events'
  'emergency-call-events'
  'call-record-events'
  'presence-events'
  'online-meeting-events'
  'unrecognized-events'
]
var containerNames = [
  'raw-claims'
  'handled-claims'
  'event-data'
  'quarantine'
  'state'
  'config'
]
var packageContainerName = 'app-package'
// Long after the last try of a raw message: what is left of its claim check was left by a crash.
var rawClaimsDays = 14

resource account 'Microsoft.Storage/storageAccounts@2023-05-01' = {
  name: name
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: {
    name: 'Standard_LRS'
  }
  properties: {
    accessTier: 'Hot'
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    allowSharedKeyAccess: false
    defaultToOAuthAuthentication: true
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    publicNetworkAccess: private && empty(deployerIpAddress) ? 'Disabled' : 'Enabled'
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: private ? 'Deny' : 'Allow'
      ipRules: private && !empty(deployerIpAddress) ? [
        {
          value: deployerIpAddress
          action: 'Allow'
        }
      ] : []
    }
  }
}

resource queueService 'Microsoft.Storage/storageAccounts/queueServices@2023-05-01' = {
  parent: account
  name: 'default'
}

resource queues 'Microsoft.Storage/storageAccounts/queueServices/queues@2023-05-01' = [for queueName in queueNames: {
  parent: queueService
  name: queueName
}]

resource blobService 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' = {
  parent: account
  name: 'default'
}

resource containers 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = [for containerName in containerNames: {
  parent: blobService
  name: containerName
}]

resource packageContainer 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = {
  parent: blobService
  name: packageContainerName
}

resource lifecycle 'Microsoft.Storage/storageAccounts/managementPolicies@2023-05-01' = {
  parent: account
  name: 'default'
  properties: {
    policy: {
      rules: [
        {
          name: 'forget-raw-claims'
          enabled: true
          type: 'Lifecycle'
          definition: {
            filters: {
              blobTypes: [
                'blockBlob'
              ]
              prefixMatch: [
                'raw-claims/'
                'handled-claims/'
              ]
            }
            actions: {
              baseBlob: {
                delete: {
                  daysAfterModificationGreaterThan: rawClaimsDays
                }
              }
            }
          }
        }
        {
          name: 'forget-event-data'
          enabled: true
          type: 'Lifecycle'
          definition: {
            filters: {
              blobTypes: [
                'blockBlob'
              ]
              prefixMatch: [
                'event-data/'
              ]
            }
            actions: {
              baseBlob: {
                delete: {
                  daysAfterModificationGreaterThan: eventDataDays
                }
              }
            }
          }
        }
      ]
    }
  }
}

output name string = account.name
output packageContainer string = packageContainer.name
