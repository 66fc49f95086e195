using '../../infra/main.bicep'

param environmentName = 'production'
param location = 'westeurope'
param principalId = '22222222-2222-2222-2222-222222222222'
