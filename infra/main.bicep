targetScope = 'subscription'

import { Consumer, ConsumerIdentity, Operator } from './app/types.bicep'

@description('Name of the azd environment. Resource names are derived from it.')
@minLength(1)
@maxLength(64)
param environmentName string

@description('Azure region. It must offer the Flex Consumption plan.')
@minLength(1)
@metadata({
  azd: {
    type: 'location'
  }
})
param location string

@description('Object id of whoever deploys; azd knows it.')
param principalId string = ''

@description('What whoever deploys is; azd knows it.')
@allowed([
  'User'
  'ServicePrincipal'
])
param principalType string = 'User'

@description('Let whoever deploys create the certificate and the secrets, and upload the desired state, as the deployment hook does.')
param deployerRights bool = true

@description('Microsoft Entra tenants whose notifications are accepted, comma-separated. Empty for the tenant deployed to.')
param graphTenantIds string = ''

@description('For presence: the id of the application that somebody signs in to. Empty where presence is not wanted.')
param signInAppId string = ''

@description('For several tenants: the id of the multi-tenant application that trusts the managed identity. Empty for one tenant.')
param federatedAppId string = ''

@description('Put storage and Key Vault behind private endpoints. The notification endpoint stays public: Graph has to reach it.')
param vnetEnabled bool = false

@description('With vnetEnabled: leave storage and Key Vault open to the public for now. A live app joins the network first and is closed by the next provision.')
param keepPublicAccess bool = false

@description('With vnetEnabled: a public IPv4 address that still reaches storage and Key Vault, for the deployment hook. Empty for none.')
param deployerIpAddress string = ''

@description('With vnetEnabled: address range of the network.')
param networkPrefix string = '10.0.0.0/16'

@description('With vnetEnabled: address range of the subnet that the app joins, /27 at least.')
param appSubnetPrefix string = '10.0.0.0/24'

@description('With vnetEnabled: address range of the subnet of the private endpoints.')
param endpointSubnetPrefix string = '10.0.1.0/27'

@description('With vnetEnabled: id of an existing subnet that the app joins, delegated to Microsoft.App/environments. Empty to make a network.')
param appSubnetId string = ''

@description('With appSubnetId: id of an existing subnet for the private endpoints.')
param endpointSubnetId string = ''

@description('With vnetEnabled: id of the resource group that has the private DNS zones already, as of a hub. Empty to make them.')
param dnsZoneGroupId string = ''

@description('Addresses and ranges that may call the app, such as those from which Graph sends. Empty for everybody.')
param allowedSenders string[] = []

@description('Addresses and ranges that may deploy code. Empty for everybody who has the right to.')
param allowedDeployers string[] = []

@description('Instances kept warm for the HTTP functions. Without one, a cold start can outlast the 3 seconds that Graph waits.')
@minValue(0)
@maxValue(20)
param alwaysReadyInstances int = 1

@description('Instances kept warm for emergency calls. Without one, the first call after a quiet time waits for a cold start.')
@minValue(0)
@maxValue(20)
param alwaysReadyEmergencyInstances int = 0

@description('Requests that one instance handles at a time. The default of the platform for Python is 1.')
@minValue(1)
@maxValue(1000)
param httpConcurrency int = 100

@description('Memory of an instance in MB.')
@allowed([
  512
  2048
  4096
])
param instanceMemoryMB int = 2048

@description('Instances at most, for each of the functions that scale on their own.')
@minValue(1)
@maxValue(1000)
param maximumInstanceCount int = 100

@description('Name of the encryption certificate in Key Vault.')
@maxLength(95)
param certificateName string = 'graph-notifications'

@description('When subscriptions are renewed (NCRONTAB).')
param renewalSchedule string = '0 */5 * * * *'

@description('When Switchboard tests itself (NCRONTAB); empty: never.')
param selfTestSchedule string = ''

@description('Encoding of event messages: base64, as a Functions queue trigger expects it, or none.')
@allowed([
  'base64'
  'none'
])
param eventEncoding string = 'base64'

@description('One event in a queue message, or as many as fit.')
@allowed([
  'single'
  'batch'
])
param eventFormat string = 'single'

@description('Whether an event of a call record only names it (notify) or carries it (fetch).')
@allowed([
  'notify'
  'fetch'
])
param callRecords string = 'notify'

@description('Whether an emergency is opened where it is received (on), or never in the process that faces the internet (off). Off costs each emergency a poll of up to a second, and up to two minutes after a quiet time unless alwaysReadyEmergencyInstances is 1.')
@allowed([
  'on'
  'off'
])
param emergencyExpress string = 'on'

@description('Whether the renewal timer ends subscriptions that nobody desires any more (unwanted), or never does (never).')
@allowed([
  'unwanted'
  'never'
])
param unsubscribe string = 'unwanted'

@description('Who operates the app: they may read its queues, blobs and secrets, and change nothing.')
param operators Operator[] = []

@description('Further consumers of events, each with queues of its own.')
param consumers Consumer[] = []

@description('Identities that read the queues of a consumer, and the data of its large events.')
param consumerIdentities ConsumerIdentity[] = []

@description('Largest request body taken, in bytes.')
param maxBodyBytes int = 4194304

@description('Days after which the data of events too large for a queue message is deleted.')
@minValue(1)
param eventDataDays int = 30

@description('Days that a deleted or overwritten blob can still be read.')
@minValue(1)
@maxValue(365)
param deletedBlobDays int = 7

@description('Keep Key Vault from being purged before 90 days are over. It cannot be taken back, and azd up after azd down fails until then.')
param purgeProtection bool = false

@description('Log who reads queues, those of events included. Each poll of an empty queue is a line too.')
param logQueueReads bool = false

@description('Days that logs are kept but for those of Application Insights (tables App…), which Azure keeps for 90.')
@minValue(30)
@maxValue(730)
param logRetentionDays int = 30

@description('GB of logs and metrics a day after which the workspace takes no more until the next day; alerts are blind then. 0 for no limit.')
@minValue(0)
param dailyCapGB int = 0

@description('Where alerts are sent. Empty: they only show in the portal.')
param alertEmail string = ''

@description('Address of the runbook, which alerts link to.')
param runbookUrl string = 'docs/operations.md'

@description('Minutes without a finished renewal run after which an alert fires: three intervals of renewalSchedule, at least 30.')
@allowed([
  30
  45
  60
  120
  180
  240
  300
  360
  1440
  2880
])
param renewalAlertMinutes int = 30

@description('Minutes without a single event after which an alert fires. 0 for never, as for a tenant with quiet nights.')
@allowed([
  0
  30
  60
  120
  180
  240
  360
  1440
])
param silenceMinutes int = 0

var tags = {
  'azd-env-name': environmentName
}
var tenantIds = empty(graphTenantIds) ? tenant().tenantId : graphTenantIds

// Names are computed here and handed on: `azd provision --preview` cannot show what depends on the output of a module.
// What depends on a module by its name alone says so itself (dependsOn).
var token = toLower(uniqueString(subscription().id, environmentName, location))
var identityName = 'id-${token}'
var networkName = 'vnet-${token}'
var storageName = 'st${token}'
var vaultName = 'kv-${token}'
var workspaceName = 'log-${token}'
var insightsName = 'appi-${token}'
var functionName = 'func-${token}'

var ownNetwork = vnetEnabled && empty(appSubnetId)
var subnetIds = ownNetwork ? {
  app: resourceId(subscription().subscriptionId, group.name, 'Microsoft.Network/virtualNetworks/subnets', networkName, 'app')
  endpoints: resourceId(subscription().subscriptionId, group.name, 'Microsoft.Network/virtualNetworks/subnets', networkName, 'endpoints')
} : {
  app: appSubnetId
  endpoints: endpointSubnetId
}
var workspaceId = resourceId(subscription().subscriptionId, group.name, 'Microsoft.OperationalInsights/workspaces', workspaceName)

resource group 'Microsoft.Resources/resourceGroups@2025-04-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module identity './app/identity.bicep' = {
  scope: group
  params: {
    name: identityName
    location: location
    tags: tags
  }
}

module network './app/network.bicep' = if (ownNetwork) {
  scope: group
  params: {
    name: networkName
    location: location
    tags: tags
    prefix: networkPrefix
    appSubnetPrefix: appSubnetPrefix
    endpointSubnetPrefix: endpointSubnetPrefix
  }
}

module storage './app/storage.bicep' = {
  scope: group
  params: {
    name: storageName
    location: location
    tags: tags
    closed: vnetEnabled && !keepPublicAccess
    deployerIpAddress: deployerIpAddress
    eventDataDays: eventDataDays
    deletedBlobDays: deletedBlobDays
    consumers: consumers
  }
}

module monitoring './app/monitoring.bicep' = {
  scope: group
  params: {
    workspaceName: workspaceName
    insightsName: insightsName
    location: location
    tags: tags
    retentionDays: logRetentionDays
    dailyCapGB: dailyCapGB
  }
}

module vault './app/vault.bicep' = {
  scope: group
  params: {
    name: vaultName
    location: location
    tags: tags
    closed: vnetEnabled && !keepPublicAccess
    deployerIpAddress: deployerIpAddress
    purgeProtection: purgeProtection
    workspaceId: workspaceId
  }
  dependsOn: [
    monitoring
  ]
}

module audit './app/audit.bicep' = if (logQueueReads) {
  scope: group
  params: {
    storageName: storageName
    workspaceId: workspaceId
  }
  dependsOn: [
    monitoring
    storage
  ]
}

module endpoints './app/endpoints.bicep' = if (vnetEnabled) {
  scope: group
  params: {
    location: location
    tags: tags
    networkId: join(take(split(subnetIds.endpoints, '/'), 9), '/') // a subnet's id begins with its network's
    subnetId: subnetIds.endpoints
    zoneGroupId: dnsZoneGroupId
    storageName: storageName
    vaultName: vaultName
  }
  dependsOn: [
    network
    storage
    vault
  ]
}

module access './app/access.bicep' = {
  scope: group
  params: {
    // The name of a role assignment is made of the identity's id, which only Azure knows; another name for the same
    // three would be refused (RoleAssignmentExists), so a preview cannot show these.
    #disable-next-line what-if-short-circuiting
    identityPrincipalId: identity.outputs.principalId
    deployerPrincipalId: deployerRights ? principalId : ''
    deployerPrincipalType: principalType
    storageName: storageName
    vaultName: vaultName
    insightsName: insightsName
    signInAppId: signInAppId
    tenantIds: tenantIds
  }
  dependsOn: [
    monitoring
    storage
    vault
  ]
}

module readers './app/consumers.bicep' = if (!empty(consumerIdentities)) {
  scope: group
  params: {
    storageName: storageName
    consumers: consumers
    identities: consumerIdentities
  }
  dependsOn: [
    storage
  ]
}

module operatorAccess './app/operators.bicep' = if (!empty(operators)) {
  scope: group
  params: {
    storageName: storageName
    vaultName: vaultName
    operators: operators
  }
  dependsOn: [
    storage
    vault
  ]
}

module app './app/function.bicep' = {
  scope: group
  params: {
    name: functionName
    planName: 'plan-${token}'
    location: location
    tags: tags
    identityId: resourceId(subscription().subscriptionId, group.name, 'Microsoft.ManagedIdentity/userAssignedIdentities', identityName)
    identityClientId: identity.outputs.clientId
    storageName: storageName
    insightsConnectionString: monitoring.outputs.connectionString
    logWorkspaceId: monitoring.outputs.workspaceCustomerId
    vaultUri: 'https://${vaultName}${environment().suffixes.keyvaultDns}/'
    subnetId: vnetEnabled ? subnetIds.app : ''
    allowedSenders: allowedSenders
    allowedDeployers: allowedDeployers
    alwaysReadyInstances: alwaysReadyInstances
    alwaysReadyEmergencyInstances: alwaysReadyEmergencyInstances
    httpConcurrency: httpConcurrency
    instanceMemoryMB: instanceMemoryMB
    maximumInstanceCount: maximumInstanceCount
    tenantIds: tenantIds
    signInAppId: signInAppId
    federatedAppId: federatedAppId
    certificateName: certificateName
    renewalSchedule: renewalSchedule
    selfTestSchedule: selfTestSchedule
    eventEncoding: eventEncoding
    eventFormat: eventFormat
    callRecords: callRecords
    emergencyExpress: emergencyExpress
    unsubscribe: unsubscribe
    maxBodyBytes: maxBodyBytes
    consumers: consumers
  }
  dependsOn: [
    access
    endpoints
    network
    storage
    vault
  ]
}

module workbook './app/workbook.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    workspaceId: workspaceId
    storageName: storageName
    runbookUrl: runbookUrl
  }
  dependsOn: [
    monitoring
    storage
  ]
}

module alerts './app/alerts.bicep' = {
  scope: group
  params: {
    location: location
    tags: tags
    workspaceId: workspaceId
    insightsId: resourceId(subscription().subscriptionId, group.name, 'Microsoft.Insights/components', insightsName)
    notificationUrl: app.outputs.notificationUrl
    email: alertEmail
    runbookUrl: runbookUrl
    renewalAlertMinutes: renewalAlertMinutes
    silenceMinutes: silenceMinutes
    selfTest: !empty(selfTestSchedule)
    dailyCapGB: dailyCapGB
  }
}

output AZURE_LOCATION string = location
output AZURE_TENANT_ID string = tenant().tenantId
output AZURE_RESOURCE_GROUP string = group.name
output AZURE_FUNCTION_NAME string = functionName
output AZURE_FUNCTION_ID string = resourceId(subscription().subscriptionId, group.name, 'Microsoft.Web/sites', functionName)
output AZURE_IDENTITY_PRINCIPAL_ID string = identity.outputs.principalId
output AZURE_KEY_VAULT_NAME string = vaultName
output AZURE_STORAGE_ACCOUNT string = storageName
output CERTIFICATE_NAME string = certificateName
output NOTIFICATION_URL string = app.outputs.notificationUrl
