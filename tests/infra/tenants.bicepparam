using '../../infra/main.bicep'

param environmentName = 'production'
param location = 'westeurope'
param principalId = '22222222-2222-2222-2222-222222222222'
param graphTenantIds = '99999999-9999-9999-9999-999999999999, 88888888-8888-8888-8888-888888888888'
param signInAppId = '33333333-3333-3333-3333-333333333333'
param federatedAppId = '44444444-4444-4444-4444-444444444444'
