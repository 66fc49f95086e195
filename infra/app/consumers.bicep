// Rights of those who read events: on their queues, and on what is too large for a queue message.

import { Consumer, ConsumerIdentity } from './types.bicep'

param storageName string
param consumers Consumer[]
param identities ConsumerIdentity[]

// Ids of built-in roles ("Azure built-in roles").
var storageQueueDataContributor = '974c5e8b-45b9-4653-ba55-5f855dd0fb88'
var storageBlobDataReader = '2a2b9908-6ea1-4ae2-8e65-a410df84e7d1'

// Written from the code's catalogue: python -m dev.catalogue
var kindQueues = loadJsonContent('../catalogue.json').kindQueues
var kindsOfAll = union(toObject(consumers, consumer => consumer.name, consumer => consumer.kinds), {
  default: map(items(kindQueues), kind => kind.key)
})
var readers = map(identities, identity => {
  principalId: identity.principalId
  principalType: identity.?principalType ?? 'ServicePrincipal'
  ending: identity.consumer == 'default' ? '' : '-${identity.consumer}'
  queues: map(identity.?kinds ?? kindsOfAll[identity.consumer], kind => kindQueues[kind])
})
var queueGrants = flatten(map(readers, reader => flatten(map(reader.queues, queue => map(['', '-poison'], poison => {
  principalId: reader.principalId
  principalType: reader.principalType
  queue: '${queue}${reader.ending}${poison}'
})))))

// One to each identity, whatever it reads: Azure takes no second assignment of a role at the same scope.
var principalIds = union(map(readers, reader => reader.principalId), [])
var blobs = 'Microsoft.Storage/storageAccounts/blobServices/containers/blobs'
var blobGrants = map(principalIds, principalId => {
  principalId: principalId
  principalType: filter(readers, reader => reader.principalId == principalId)[0].principalType
  queues: union(flatten(map(filter(readers, reader => reader.principalId == principalId), reader => reader.queues)), [])
})

resource storage 'Microsoft.Storage/storageAccounts@2025-08-01' existing = {
  name: storageName
}

resource queueService 'Microsoft.Storage/storageAccounts/queueServices@2025-08-01' existing = {
  parent: storage
  name: 'default'
}

resource queues 'Microsoft.Storage/storageAccounts/queueServices/queues@2025-08-01' existing = [for grant in queueGrants: {
  parent: queueService
  name: grant.queue
}]

resource blobService 'Microsoft.Storage/storageAccounts/blobServices@2025-08-01' existing = {
  parent: storage
  name: 'default'
}

resource eventData 'Microsoft.Storage/storageAccounts/blobServices/containers@2025-08-01' existing = {
  parent: blobService
  name: 'event-data'
}

// To keep a message while it is handled is a write, and so is to park one: the role for processors of messages lacks it.
resource onQueues 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for (grant, i) in queueGrants: {
  scope: queues[i]
  name: guid(queues[i].id, grant.principalId, storageQueueDataContributor)
  properties: {
    principalId: grant.principalId
    principalType: grant.principalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', storageQueueDataContributor)
  }
}]

// Blobs are named after the queue of their kind: who reads presence reads no emergencies, nor their names ("Example
// Azure role assignment conditions for Blob Storage", read or list blobs in named containers with a path).
resource onEventData 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for grant in blobGrants: {
  scope: eventData
  name: guid(eventData.id, grant.principalId, storageBlobDataReader)
  properties: {
    principalId: grant.principalId
    principalType: grant.principalType
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', storageBlobDataReader)
    conditionVersion: '2.0'
    condition: '((!(ActionMatches{\'${blobs}/read\'} AND NOT SubOperationMatches{\'Blob.List\'})) OR (${join(map(grant.queues, queue => '@Resource[${blobs}:path] StringStartsWith \'${queue}/\''), ' OR ')})) AND ((!(ActionMatches{\'${blobs}/read\'} AND SubOperationMatches{\'Blob.List\'})) OR (${join(map(grant.queues, queue => '@Request[${blobs}:prefix] StringStartsWith \'${queue}/\''), ' OR ')}))'
  }
}]
