// Everything that Switchboard stores. It is reached by identity alone: account keys are off.

import { Consumer, Tags } from './types.bicep'

param name string
param location string
param tags Tags
param closed bool
param deployerIpAddress string
param eventDataDays int
param deletedBlobDays int
param consumers Consumer[]

// Written from the code's catalogue: python -m dev.catalogue
var catalogue = loadJsonContent('../catalogue.json')
// The queues of the kinds, whoever else gets the same, and each consumer's own. A consumer parks in its poison queue,
// which is not its to make. What the app would refuse is refused here, before its settings are touched; other names
// that it would refuse storage refuses, too.
var refused = filter(consumers, consumer => consumer.name == 'default' ? !empty(consumer.kinds) : contains(split(consumer.name, '-'), 'poison'))
var accepted = empty(refused) ? consumers : fail('CONSUMERS: no consumer can be called ${refused[0].name} (docs/events.md, Several consumers)')
var ownQueueNames = flatten(map(accepted, consumer => map(consumer.kinds, kind => '${catalogue.kindQueues[kind]}-${consumer.name}')))
var usedQueueNames = concat(catalogue.rawQueues, map(items(catalogue.kindQueues), kind => kind.value), ownQueueNames)
var queueNames = concat(usedQueueNames, map(usedQueueNames, queue => '${queue}-poison'))
var containerNames = [
  'raw-claims'
  'handled-claims'
  'event-data'
  'deliveries'
  'quarantine'
  'state'
  'config'
]
var packageContainerName = 'app-package'
// Long after the last try of a raw message: what is left of its claim check was left by a crash.
var rawClaimsDays = 14
// Longer than an audit of call records looks back (NOTES_KEPT in shared/call_records/missing.py).
var deliveriesDays = 8
// The account keeps every blob that was overwritten or deleted as an old version. What is written often or holds what
// Graph sent goes soon; of the desired state and the package the versions of a month may be wanted back.
var oldVersionDays = {
  soon: 3
  late: 30
}

resource account 'Microsoft.Storage/storageAccounts@2025-08-01' = {
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
    publicNetworkAccess: closed && empty(deployerIpAddress) ? 'Disabled' : 'Enabled'
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: closed ? 'Deny' : 'Allow'
      ipRules: closed && !empty(deployerIpAddress) ? [
        {
          value: deployerIpAddress
          action: 'Allow'
        }
      ] : []
    }
  }
}

resource queueService 'Microsoft.Storage/storageAccounts/queueServices@2025-08-01' = {
  parent: account
  name: 'default'
}

resource queues 'Microsoft.Storage/storageAccounts/queueServices/queues@2025-08-01' = [for queueName in queueNames: {
  parent: queueService
  name: queueName
}]

// For the sake of `state`, `config` and `quarantine`; both settings are the whole account's.
resource blobService 'Microsoft.Storage/storageAccounts/blobServices@2025-08-01' = {
  parent: account
  name: 'default'
  properties: {
    isVersioningEnabled: true
    deleteRetentionPolicy: {
      enabled: true
      days: deletedBlobDays
    }
    containerDeleteRetentionPolicy: {
      enabled: true
      days: deletedBlobDays
    }
  }
}

resource containers 'Microsoft.Storage/storageAccounts/blobServices/containers@2025-08-01' = [for containerName in containerNames: {
  parent: blobService
  name: containerName
}]

resource packageContainer 'Microsoft.Storage/storageAccounts/blobServices/containers@2025-08-01' = {
  parent: blobService
  name: packageContainerName
}

resource lifecycle 'Microsoft.Storage/storageAccounts/managementPolicies@2025-08-01' = {
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
        {
          name: 'forget-deliveries'
          enabled: true
          type: 'Lifecycle'
          definition: {
            filters: {
              blobTypes: [
                'appendBlob'
              ]
              prefixMatch: [
                'deliveries/'
              ]
            }
            actions: {
              baseBlob: {
                delete: {
                  daysAfterModificationGreaterThan: deliveriesDays
                }
              }
            }
          }
        }
        {
          name: 'forget-old-versions-soon'
          enabled: true
          type: 'Lifecycle'
          definition: {
            filters: {
              blobTypes: [
                'blockBlob'
                'appendBlob'
              ]
              prefixMatch: [
                'deliveries/'
                'raw-claims/'
                'handled-claims/'
                'event-data/'
                'quarantine/'
                'state/'
                'azure-webjobs-hosts/'
              ]
            }
            actions: {
              version: {
                delete: {
                  daysAfterCreationGreaterThan: oldVersionDays.soon
                }
              }
            }
          }
        }
        {
          name: 'forget-old-versions-late'
          enabled: true
          type: 'Lifecycle'
          definition: {
            filters: {
              blobTypes: [
                'blockBlob'
              ]
              prefixMatch: [
                'config/'
                'app-package/'
                'azure-webjobs-secrets/'
              ]
            }
            actions: {
              version: {
                delete: {
                  daysAfterCreationGreaterThan: oldVersionDays.late
                }
              }
            }
          }
        }
      ]
    }
  }
}
