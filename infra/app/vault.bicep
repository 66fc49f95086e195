// Key Vault: the encryption certificate and the client state.

param name string
param location string
param tags object
param private bool
param deployerIpAddress string
param workspaceId string

resource vault 'Microsoft.KeyVault/vaults@2023-07-01' = {
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
    publicNetworkAccess: private && empty(deployerIpAddress) ? 'Disabled' : 'Enabled'
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: private ? 'Deny' : 'Allow'
      ipRules: private && !empty(deployerIpAddress) ? [
        {
          value: deployerIpAddress
        }
      ] : []
    }
  }
}

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

output name string = vault.name
output uri string = vault.properties.vaultUri
