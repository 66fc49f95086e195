// What an operator looks at, in the portal under Monitor, Workbooks.

import { Tags } from './types.bicep'

param location string
param tags Tags
param workspaceId string
param storageName string
param runbookUrl string

// A row is either a heading or a chart. A chart has a query of the workspace, or is a metric of the storage account.
var rows = [
  {
    name: 'traffic-and-latency'
    heading: '## Traffic and latency'
  }
  {
    name: 'traffic'
    title: 'Notifications received and decrypted, events written'
    query: loadTextContent('../queries/traffic.kql')
    visualization: 'timechart'
  }
  {
    name: 'written-by-type'
    title: 'Events by type'
    query: loadTextContent('../queries/written-by-type.kql')
    visualization: 'timechart'
  }
  {
    name: 'latency'
    title: 'Seconds until the event is written'
    query: loadTextContent('../queries/latency.kql')
    visualization: 'timechart'
  }
  {
    name: 'receiving'
    title: 'Milliseconds in the function until Graph is answered (it slows an endpoint at 3,000)'
    query: loadTextContent('../queries/receiving.kql')
    visualization: 'timechart'
  }
  {
    name: 'answers'
    title: 'Answers of the functions by HTTP status'
    query: loadTextContent('../queries/answers.kql')
    visualization: 'timechart'
  }
  {
    name: 'emergencies'
    title: 'Emergencies by what became of them where they were received'
    query: loadTextContent('../queries/emergencies.kql')
    visualization: 'table'
  }
  {
    name: 'refusals-heading'
    heading: '## Refusals'
  }
  {
    name: 'refusals'
    title: 'Refused notifications by reason'
    query: loadTextContent('../queries/refusals.kql')
    visualization: 'table'
  }
  {
    name: 'subscriptions-heading'
    heading: '## Subscriptions'
  }
  {
    name: 'subscriptions'
    title: 'Life left of the subscription nearest to its end'
    query: loadTextContent('../queries/subscriptions.kql')
    visualization: 'table'
  }
  {
    name: 'renewals'
    title: 'Renewals by outcome'
    query: loadTextContent('../queries/renewals.kql')
    visualization: 'timechart'
  }
  {
    name: 'unconfirmed'
    title: 'Subscriptions that nobody desires and that wait for a confirmation'
    query: loadTextContent('../queries/unconfirmed.kql')
    visualization: 'timechart'
  }
  {
    name: 'runs'
    title: 'Renewal runs and self-tests'
    query: loadTextContent('../queries/runs.kql')
    visualization: 'timechart'
  }
  {
    name: 'call-records'
    title: 'Call records without a notification, found by an audit'
    query: loadTextContent('../queries/call-records.kql')
    visualization: 'timechart'
  }
  {
    name: 'queues-heading'
    heading: '## Queues and quarantine'
  }
  {
    name: 'queued'
    title: 'Messages in all queues (measured hourly by storage)'
    service: 'queueservices'
    metric: 'Capacity-QueueMessageCount'
    aggregation: 4
  }
  {
    name: 'waiting'
    title: 'Seconds that the slowest raw message waited, by queue'
    query: loadTextContent('../queries/waiting.kql')
    visualization: 'timechart'
  }
  {
    name: 'consumers'
    title: 'Events that wait for consumers, and what consumers gave up (queues that end in -poison)'
    query: loadTextContent('../queries/consumers.kql')
    visualization: 'table'
  }
  {
    name: 'quarantined'
    title: 'Sent to quarantine, by reason'
    query: loadTextContent('../queries/quarantined.kql')
    visualization: 'table'
  }
  {
    name: 'errors-heading'
    heading: '## Errors'
  }
  {
    name: 'errors'
    title: 'Errors of Switchboard, each once, with its reason'
    query: loadTextContent('../queries/errors.kql')
    visualization: 'table'
  }
  {
    name: 'failures'
    title: 'Failed invocations, as the host saw them'
    query: loadTextContent('../queries/failures.kql')
    visualization: 'table'
  }
  {
    name: 'warnings'
    title: 'Warnings, and what the host and libraries log'
    query: loadTextContent('../queries/warnings.kql')
    visualization: 'table'
  }
  {
    name: 'cost-heading'
    heading: '## What drives the cost'
  }
  {
    name: 'executions'
    title: 'Executions and their time, by function'
    query: loadTextContent('../queries/executions.kql')
    visualization: 'table'
  }
  {
    name: 'queue-operations'
    title: 'Operations on queues'
    service: 'queueservices'
    metric: 'Transaction-Transactions'
    aggregation: 1
  }
  {
    name: 'blob-operations'
    title: 'Operations on blobs'
    service: 'blobservices'
    metric: 'Transaction-Transactions'
    aggregation: 1
  }
  {
    name: 'ingestion'
    title: 'Records and megabytes of logs and metrics, by table and sender'
    query: loadTextContent('../queries/ingestion.kql')
    visualization: 'table'
  }
]

var items = [for row in rows: contains(row, 'heading') ? {
  type: 1
  name: row.name
  content: {
    json: any(row).heading
  }
} : contains(row, 'query') ? {
  type: 3
  name: row.name
  content: {
    version: 'KqlItem/1.0'
    title: any(row).title
    query: any(row).query
    size: 0
    timeContextFromParameter: 'range'
    queryType: 0
    resourceType: 'microsoft.operationalinsights/workspaces'
    crossComponentResources: [
      workspaceId
    ]
    visualization: any(row).visualization
  }
} : {
  type: 10
  name: row.name
  content: {
    version: 'MetricsItem/2.0'
    chartId: guid(row.name)
    title: any(row).title
    size: 0
    chartType: 2
    timeContextFromParameter: 'range'
    metricScope: 0
    resourceType: 'microsoft.storage/storageaccounts'
    resourceIds: [
      storage.id
    ]
    metrics: [
      {
        namespace: 'microsoft.storage/storageaccounts/${any(row).service}'
        metric: 'microsoft.storage/storageaccounts/${any(row).service}-${any(row).metric}'
        aggregation: any(row).aggregation
      }
    ]
  }
}]

var introduction = [
  {
    type: 1
    name: 'introduction'
    content: {
      json: '# Switchboard\nWhat the alerts mean and what to do: ${runbookUrl}'
    }
  }
  {
    type: 9
    name: 'parameters'
    content: {
      version: 'KqlParameterItem/1.0'
      style: 'pills'
      queryType: 0
      resourceType: 'microsoft.operationalinsights/workspaces'
      parameters: [
        {
          id: guid('range')
          version: 'KqlParameterItem/1.0'
          name: 'range'
          label: 'Time'
          type: 4
          isRequired: true
          value: {
            durationMs: 14400000
          }
          typeSettings: {
            allowCustom: true
            selectableValues: [
              {
                durationMs: 3600000
              }
              {
                durationMs: 14400000
              }
              {
                durationMs: 86400000
              }
              {
                durationMs: 604800000
              }
              {
                durationMs: 2592000000
              }
            ]
          }
        }
      ]
    }
  }
]

resource storage 'Microsoft.Storage/storageAccounts@2025-08-01' existing = {
  name: storageName
}

resource workbook 'Microsoft.Insights/workbooks@2023-06-01' = {
  name: guid(resourceGroup().id, 'switchboard')
  location: location
  tags: tags
  kind: 'shared'
  properties: {
    displayName: 'Switchboard'
    category: 'workbook'
    sourceId: workspaceId
    version: '1.0'
    serializedData: string({
      version: 'Notebook/1.0'
      items: concat(introduction, items)
      fallbackResourceIds: [
        workspaceId
      ]
    })
  }
}
