targetScope = 'subscription'

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

@description('Object id of whoever deploys: may create the certificate and the secret, and upload the desired state. Empty for none.')
param principalId string = ''

@description('Microsoft Entra tenants whose notifications are accepted, comma-separated. Empty for the tenant deployed to.')
param graphTenantIds string = ''

@description('For presence: the id of the application that somebody signs in to. Empty where presence is not wanted.')
param signInAppId string = ''

@description('For several tenants: the id of the multi-tenant application that trusts the managed identity. Empty for one tenant.')
param federatedAppId string = ''

@description('Put storage and Key Vault behind private endpoints. The notification endpoint stays public: Graph has to reach it.')
param vnetEnabled bool = false

@description('With vnetEnabled: a public IPv4 address that still reaches storage and Key Vault, for the deployment hook. Empty for none.')
param deployerIpAddress string = ''

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

@description('Largest request body taken, in bytes.')
param maxBodyBytes int = 4194304

@description('Days after which the data of events too large for a queue message is deleted.')
@minValue(1)
param eventDataDays int = 30

@description('Days that logs and metrics are kept.')
@minValue(30)
@maxValue(730)
param logRetentionDays int = 30

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
var token = toLower(uniqueString(subscription().id, environmentName, location))
var tenantIds = empty(graphTenantIds) ? tenant().tenantId : graphTenantIds

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module identity './app/identity.bicep' = {
  name: 'identity'
  scope: group
  params: {
    name: 'id-${token}'
    location: location
    tags: tags
  }
}

module network './app/network.bicep' = if (vnetEnabled) {
  name: 'network'
  scope: group
  params: {
    name: 'vnet-${token}'
    location: location
    tags: tags
  }
}

module storage './app/storage.bicep' = {
  name: 'storage'
  scope: group
  params: {
    name: 'st${token}'
    location: location
    tags: tags
    private: vnetEnabled
    deployerIpAddress: deployerIpAddress
    eventDataDays: eventDataDays
  }
}

module monitoring './app/monitoring.bicep' = {
  name: 'monitoring'
  scope: group
  params: {
    workspaceName: 'log-${token}'
    insightsName: 'appi-${token}'
    location: location
    tags: tags
    retentionDays: logRetentionDays
  }
}

module vault './app/vault.bicep' = {
  name: 'vault'
  scope: group
  params: {
    name: 'kv-${token}'
    location: location
    tags: tags
    private: vnetEnabled
    deployerIpAddress: deployerIpAddress
    workspaceId: monitoring.outputs.workspaceId
  }
}

module endpoints './app/endpoints.bicep' = if (vnetEnabled) {
  name: 'endpoints'
  scope: group
  params: {
    location: location
    tags: tags
    networkId: vnetEnabled ? network.outputs.id : ''
    subnetId: vnetEnabled ? network.outputs.endpointSubnetId : ''
    storageName: storage.outputs.name
    vaultName: vault.outputs.name
  }
}

module access './app/access.bicep' = {
  name: 'access'
  scope: group
  params: {
    identityPrincipalId: identity.outputs.principalId
    deployerPrincipalId: principalId
    storageName: storage.outputs.name
    vaultName: vault.outputs.name
    insightsName: monitoring.outputs.insightsName
    signInAppId: signInAppId
    tenantIds: tenantIds
  }
}

module app './app/function.bicep' = {
  name: 'app'
  scope: group
  params: {
    name: 'func-${token}'
    planName: 'plan-${token}'
    location: location
    tags: tags
    identityId: identity.outputs.id
    identityClientId: identity.outputs.clientId
    storageName: storage.outputs.name
    packageContainer: storage.outputs.packageContainer
    insightsConnectionString: monitoring.outputs.connectionString
    vaultUri: vault.outputs.uri
    subnetId: vnetEnabled ? network.outputs.appSubnetId : ''
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
    maxBodyBytes: maxBodyBytes
  }
  dependsOn: [
    access
    endpoints
  ]
}

module workbook './app/workbook.bicep' = {
  name: 'workbook'
  scope: group
  params: {
    location: location
    tags: tags
    workspaceId: monitoring.outputs.workspaceId
    storageName: storage.outputs.name
    runbookUrl: runbookUrl
  }
}

module alerts './app/alerts.bicep' = {
  name: 'alerts'
  scope: group
  params: {
    location: location
    tags: tags
    workspaceId: monitoring.outputs.workspaceId
    insightsId: monitoring.outputs.insightsId
    notificationUrl: app.outputs.notificationUrl
    email: alertEmail
    runbookUrl: runbookUrl
    renewalAlertMinutes: renewalAlertMinutes
    silenceMinutes: silenceMinutes
    selfTest: !empty(selfTestSchedule)
  }
}

output AZURE_LOCATION string = location
output AZURE_TENANT_ID string = tenant().tenantId
output AZURE_RESOURCE_GROUP string = group.name
output AZURE_FUNCTION_NAME string = app.outputs.name
output AZURE_FUNCTION_ID string = app.outputs.id
output AZURE_IDENTITY_PRINCIPAL_ID string = identity.outputs.principalId
output AZURE_KEY_VAULT_NAME string = vault.outputs.name
output AZURE_STORAGE_ACCOUNT string = storage.outputs.name
output CERTIFICATE_NAME string = certificateName
output NOTIFICATION_URL string = app.outputs.notificationUrl
