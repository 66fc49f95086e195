// The plan, the function app and its settings.

import { Consumer, Tags } from './types.bicep'

param name string
param planName string
param location string
param tags Tags
param identityId string
param identityClientId string
param storageName string
param insightsConnectionString string
param logWorkspaceId string
param vaultUri string
param subnetId string
param allowedSenders string[]
param allowedDeployers string[]
param alwaysReadyInstances int
param alwaysReadyEmergencyInstances int
param httpConcurrency int
param instanceMemoryMB int
param maximumInstanceCount int
param tenantIds string
param signInAppId string
param federatedAppId string
param certificateName string
param renewalSchedule string
param selfTestSchedule string
param eventEncoding string
param eventFormat string
param callRecords string
param emergencyExpress string
param unsubscribe string
param maxBodyBytes int
param consumers Consumer[]

var httpInstances = alwaysReadyInstances > 0 ? [
  {
    name: 'http'
    instanceCount: alwaysReadyInstances
  }
] : []
var emergencyInstances = alwaysReadyEmergencyInstances > 0 ? [
  {
    name: 'function:decrypt_emergency'
    instanceCount: alwaysReadyEmergencyInstances
  }
] : []

var namedSenders = [for (sender, i) in allowedSenders: {
  name: 'sender-${i}'
  priority: 100 + i
  action: 'Allow'
  ipAddress: contains(sender, '/') ? sender : '${sender}/32'
}]
// The availability test of alerts.bicep comes from there.
var availabilityTest = {
  name: 'availability-test'
  priority: 90
  action: 'Allow'
  tag: 'ServiceTag'
  ipAddress: 'ApplicationInsightsAvailability'
}
var senderRules = empty(allowedSenders) ? [] : concat([availabilityTest], namedSenders)
var deployerRules = [for (deployer, i) in allowedDeployers: {
  name: 'deployer-${i}'
  priority: 100 + i
  action: 'Allow'
  ipAddress: contains(deployer, '/') ? deployer : '${deployer}/32'
}]

resource storage 'Microsoft.Storage/storageAccounts@2025-08-01' existing = {
  name: storageName
}

resource plan 'Microsoft.Web/serverfarms@2025-03-01' = {
  name: planName
  location: location
  tags: tags
  kind: 'functionapp'
  sku: {
    name: 'FC1'
    tier: 'FlexConsumption'
  }
  properties: {
    reserved: true
  }
}

resource app 'Microsoft.Web/sites@2025-03-01' = {
  name: name
  location: location
  tags: union(tags, {
    'azd-service-name': 'app'
  })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    keyVaultReferenceIdentity: identityId
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    siteConfig: {
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      http20Enabled: true
      remoteDebuggingEnabled: false
      ipSecurityRestrictions: senderRules
      ipSecurityRestrictionsDefaultAction: empty(allowedSenders) ? 'Allow' : 'Deny'
      scmIpSecurityRestrictions: deployerRules
      scmIpSecurityRestrictionsDefaultAction: empty(allowedDeployers) ? 'Allow' : 'Deny'
      scmIpSecurityRestrictionsUseMain: false
    }
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${storage.properties.primaryEndpoints.blob}app-package'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identityId
          }
        }
      }
      runtime: {
        name: 'python'
        version: '3.13'
      }
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemoryMB
        maximumInstanceCount: maximumInstanceCount
        alwaysReady: concat(httpInstances, emergencyInstances)
        triggers: {
          http: {
            perInstanceConcurrency: httpConcurrency
          }
        }
      }
    }
  }
}

resource ftp 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2025-03-01' = {
  parent: app
  name: 'ftp'
  properties: {
    allow: false
  }
}

resource scm 'Microsoft.Web/sites/basicPublishingCredentialsPolicies@2025-03-01' = {
  parent: app
  name: 'scm'
  properties: {
    allow: false
  }
}

resource settings 'Microsoft.Web/sites/config@2025-03-01' = {
  parent: app
  name: 'appsettings'
  properties: {
    AzureWebJobsStorage__blobServiceUri: storage.properties.primaryEndpoints.blob
    AzureWebJobsStorage__queueServiceUri: storage.properties.primaryEndpoints.queue
    AzureWebJobsStorage__credential: 'managedidentity'
    AzureWebJobsStorage__clientId: identityClientId
    AZURE_CLIENT_ID: identityClientId
    AZURE_TOKEN_CREDENTIALS: 'ManagedIdentityCredential'
    APPLICATIONINSIGHTS_CONNECTION_STRING: insightsConnectionString
    APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identityClientId};Authorization=AAD'
    PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY: 'true'
    PYTHON_APPLICATIONINSIGHTS_LOGGER_NAME: 'shared'
    OTEL_METRIC_EXPORT_INTERVAL: '300000' // milliseconds; what is measured is sent without waiting for it
    OTEL_TRACES_SAMPLER: 'microsoft.rate_limited'
    OTEL_TRACES_SAMPLER_ARG: '1'
    OTEL_PYTHON_DISABLED_INSTRUMENTATIONS: 'azure_sdk,django,fastapi,flask,httpx,psycopg2,requests,urllib,urllib3' // docs/telemetry.md
    LOG_WORKSPACE_ID: logWorkspaceId // for `manage.py doctor`
    CLIENT_STATE: '@Microsoft.KeyVault(SecretUri=${vaultUri}secrets/client-state)'
    CLIENT_STATE_PREVIOUS: '@Microsoft.KeyVault(SecretUri=${vaultUri}secrets/client-state-previous)'
    GRAPH_TENANT_IDS: tenantIds
    GRAPH_APP_IDS: join(union([identityClientId], empty(signInAppId) ? [] : [signInAppId], empty(federatedAppId) ? [] : [federatedAppId]), ',')
    SIGN_IN_APP_ID: signInAppId
    FEDERATED_APP_ID: federatedAppId
    KEY_VAULT_URL: vaultUri
    CERTIFICATE_NAME: certificateName
    NOTIFICATION_URL: 'https://${app.properties.defaultHostName}/api/notifications'
    LIFECYCLE_NOTIFICATION_URL: 'https://${app.properties.defaultHostName}/api/lifecycleNotifications'
    SUBSCRIPTIONS: 'blob:config/subscriptions.toml'
    RENEWAL_SCHEDULE: renewalSchedule
    SELFTEST_SCHEDULE: selfTestSchedule
    EVENT_ENCODING: eventEncoding
    EVENT_FORMAT: eventFormat
    CALL_RECORDS: callRecords
    EMERGENCY_EXPRESS: emergencyExpress
    UNSUBSCRIBE: unsubscribe
    CONSUMERS: string(consumers)
    MAX_BODY_BYTES: string(maxBodyBytes)
    // The host answers 500 to what is larger still, before it has read it into memory; a little over is ours to answer, by 413.
    FUNCTIONS_REQUEST_BODY_SIZE_LIMIT: string(2 * maxBodyBytes)
  }
}

output notificationUrl string = 'https://${app.properties.defaultHostName}/api/notifications'
