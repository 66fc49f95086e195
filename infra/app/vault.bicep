// Key Vault: the encryption certificate and the client state.

import { Tags } from './types.bicep'

param name string
param location string
param tags Tags
param closed bool
param deployerIpAddress string
param purgeProtection bool
param workspaceId string

resource vault 'Microsoft.KeyVault/vaults@2026-02-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    tenantId: tenant().tenantId
    sku: {
      family: 'A'
      name: 'standard'
    }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 90
    enablePurgeProtection: purgeProtection ? true : null // Key Vault takes no `false`
    publicNetworkAccess: closed && empty(deployerIpAddress) ? 'Disabled' : 'Enabled'
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: closed ? 'Deny' : 'Allow'
      ipRules: closed && !empty(deployerIpAddress) ? [
        {
          value: deployerIpAddress
        }
      ] : []
    }
  }
}

// The newest stable version has no logAnalyticsDestinationType.
// Key Vault logs by itself that a certificate is near its end; an alert reads it there.
resource audit 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  scope: vault
  name: 'audit'
  properties: {
    workspaceId: workspaceId
    logAnalyticsDestinationType: 'Dedicated'
    logs: [
      {
        category: 'AuditEvent'
        enabled: true
      }
    ]
  }
}
