using '../../infra/main.bicep'

param environmentName = 'production'
param location = 'westeurope'
param principalId = '22222222-2222-2222-2222-222222222222'
param principalType = 'ServicePrincipal'
param deployerRights = true
param graphTenantIds = '99999999-9999-9999-9999-999999999999'
param signInAppId = '33333333-3333-3333-3333-333333333333'
param federatedAppId = '44444444-4444-4444-4444-444444444444'
param vnetEnabled = true
param keepPublicAccess = true
param deployerIpAddress = '203.0.113.7'
param networkPrefix = '10.1.0.0/24'
param appSubnetPrefix = '10.1.0.0/26'
param endpointSubnetPrefix = '10.1.0.64/28'
param appSubnetId = '/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/rg-hub/providers/Microsoft.Network/virtualNetworks/vnet-hub/subnets/switchboard'
param endpointSubnetId = '/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/rg-hub/providers/Microsoft.Network/virtualNetworks/vnet-hub/subnets/endpoints'
param dnsZoneGroupId = '/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/rg-dns'
param allowedSenders = ['198.51.100.0/24', '203.0.113.8']
param allowedDeployers = ['203.0.113.7']
param alwaysReadyInstances = 2
param alwaysReadyEmergencyInstances = 1
param httpConcurrency = 50
param instanceMemoryMB = 4096
param maximumInstanceCount = 200
param certificateName = 'graph'
param renewalSchedule = '0 */10 * * * *'
param selfTestSchedule = '0 */15 * * * *'
param eventEncoding = 'none'
param eventFormat = 'batch'
param callRecords = 'fetch'
param emergencyExpress = 'off'
param unsubscribe = 'never'
param operators = [
  {
    principalId: '77777777-7777-7777-7777-777777777777'
  }
  {
    principalId: '88888888-8888-8888-8888-888888888888'
    principalType: 'Group'
  }
]
param consumers = [
  {
    name: 'billing'
    kinds: [
      'callRecords'
      'unrecognized'
    ]
  }
  {
    name: 'wall-board'
    kinds: [
      'callRecords'
      'callEvents'
      'meetingCallEvents'
      'emergencyCallEvents'
      'presence'
      'onlineMeeting'
      'unrecognized'
    ]
  }
]
param consumerIdentities = [
  {
    consumer: 'billing'
    principalId: '55555555-5555-5555-5555-555555555555'
  }
  {
    consumer: 'default'
    kinds: [
      'presence'
    ]
    principalId: '55555555-5555-5555-5555-555555555555'
  }
  {
    consumer: 'wall-board'
    kinds: [
      'callEvents'
      'meetingCallEvents'
    ]
    principalId: '66666666-6666-6666-6666-666666666666'
    principalType: 'Group'
  }
]
param maxBodyBytes = 2097152
param eventDataDays = 7
param deletedBlobDays = 14
param purgeProtection = true
param logQueueReads = true
param logRetentionDays = 90
param dailyCapGB = 2
param alertEmail = 'operators@contoso.com'
param runbookUrl = 'https://example.net/operations.md'
param renewalAlertMinutes = 45
param silenceMinutes = 60
