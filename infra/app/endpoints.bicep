// Private endpoints of storage and Key Vault, and the names that lead to them inside the network.

param location string
param tags object
param networkId string
param subnetId string
param storageName string
param vaultName string

var services = [
  {
    name: 'blob'
    zone: 'privatelink.blob.${environment().suffixes.storage}'
    targetId: storage.id
  }
  {
    name: 'queue'
    zone: 'privatelink.queue.${environment().suffixes.storage}'
    targetId: storage.id
  }
  {
    name: 'vault'
    zone: 'privatelink.vaultcore.azure.net'
    targetId: vault.id
  }
]

resource storage 'Microsoft.Storage/storageAccounts@2023-05-01' existing = {
  name: storageName
}

resource vault 'Microsoft.KeyVault/vaults@2023-07-01' existing = {
  name: vaultName
}

resource zones 'Microsoft.Network/privateDnsZones@2020-06-01' = [for service in services: {
  name: service.zone
  location: 'global'
  tags: tags
}]

resource links 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2020-06-01' = [for (service, i) in services: {
  parent: zones[i]
  name: 'app'
  location: 'global'
  tags: tags
  properties: {
    registrationEnabled: false
    virtualNetwork: {
      id: networkId
    }
  }
}]

resource endpoints 'Microsoft.Network/privateEndpoints@2024-05-01' = [for service in services: {
  name: 'pe-${service.name}'
  location: location
  tags: tags
  properties: {
    subnet: {
      id: subnetId
    }
    privateLinkServiceConnections: [
      {
        name: service.name
        properties: {
          privateLinkServiceId: service.targetId
          groupIds: [
            service.name
          ]
        }
      }
    ]
  }
}]

resource records 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2024-05-01' = [for (service, i) in services: {
  parent: endpoints[i]
  name: 'default'
  properties: {
    privateDnsZoneConfigs: [
      {
        name: service.name
        properties: {
          privateDnsZoneId: zones[i].id
        }
      }
    ]
  }
}]
