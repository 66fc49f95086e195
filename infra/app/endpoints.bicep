// Private endpoints of storage and Key Vault, and the names that lead to them inside the network.

import { Tags } from './types.bicep'

param location string
param tags Tags
param networkId string
param subnetId string
param zoneGroupId string
param storageName string
param vaultName string

var services = [
  {
    name: 'blob'
    zone: 'privatelink.blob.${environment().suffixes.storage}'
  }
  {
    name: 'queue'
    zone: 'privatelink.queue.${environment().suffixes.storage}'
  }
  {
    name: 'vault'
    zone: 'privatelink.vaultcore.azure.net'
  }
]
// A resource group has one zone of a name, and a network one link to it: those of a hub are used where they are.
var ownServices = empty(zoneGroupId) ? services : []
var zoneGroup = empty(zoneGroupId) ? split(resourceGroup().id, '/') : split(zoneGroupId, '/')

resource zones 'Microsoft.Network/privateDnsZones@2024-06-01' = [for service in ownServices: {
  name: service.zone
  location: 'global'
  tags: tags
}]

resource links 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2024-06-01' = [for (service, i) in ownServices: {
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

resource endpoints 'Microsoft.Network/privateEndpoints@2025-07-01' = [for service in services: {
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
          privateLinkServiceId: service.name == 'vault' ? resourceId('Microsoft.KeyVault/vaults', vaultName) : resourceId('Microsoft.Storage/storageAccounts', storageName)
          groupIds: [
            service.name
          ]
        }
      }
    ]
  }
}]

resource records 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2025-07-01' = [for (service, i) in services: {
  parent: endpoints[i]
  name: 'default'
  properties: {
    privateDnsZoneConfigs: [
      {
        name: service.name
        properties: {
          privateDnsZoneId: resourceId(zoneGroup[2], zoneGroup[4], 'Microsoft.Network/privateDnsZones', service.zone)
        }
      }
    ]
  }
  dependsOn: [
    zones
  ]
}]
