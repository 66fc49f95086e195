// Rights of those who operate the app with manage.py, for looking: docs/operations.md. They change nothing.

import { Operator } from './types.bicep'

param storageName string
param vaultName string
param operators Operator[]

// Ids of built-in roles ("Azure built-in roles").
var storageBlobDataReader = '2a2b9908-6ea1-4ae2-8e65-a410df84e7d1'
var storageQueueDataReader = '19e7f393-937e-4f77-808e-94535e297925'
var keyVaultSecretsUser = '4633458b-17de-408a-b874-0445c86b69e6'

resource storage 'Microsoft.Storage/storageAccounts@2025-08-01' existing = {
  name: storageName
}

resource vault 'Microsoft.KeyVault/vaults@2026-02-01' existing = {
  name: vaultName
}

resource blobs 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for operator in operators: {
  scope: storage
  name: guid(storage.id, operator.principalId, storageBlobDataReader)
  properties: {
    principalId: operator.principalId
    principalType: operator.?principalType ?? 'User'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', storageBlobDataReader)
  }
}]

resource queues 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for operator in operators: {
  scope: storage
  name: guid(storage.id, operator.principalId, storageQueueDataReader)
  properties: {
    principalId: operator.principalId
    principalType: operator.?principalType ?? 'User'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', storageQueueDataReader)
  }
}]

resource secrets 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for operator in operators: {
  scope: vault
  name: guid(vault.id, operator.principalId, keyVaultSecretsUser)
  properties: {
    principalId: operator.principalId
    principalType: operator.?principalType ?? 'User'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', keyVaultSecretsUser)
  }
}]
