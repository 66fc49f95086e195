// What has to be seen by a person. Each alert leads to its section of the runbook.

import { Tags } from './types.bicep'

param location string
param tags Tags
param workspaceId string
param insightsId string
param notificationUrl string
param email string
param runbookUrl string
param renewalAlertMinutes int
param silenceMinutes int
param selfTest bool
param dailyCapGB int

// Each query answers with one row and one number, `Value`. Rows arrive three to six minutes after what they tell of, so
// each looks back further than to its last evaluation. `lookBack` goes beyond what a window may be.
// What does not resolve is an event that is over: it is told once a day.
var alerts = [
  {
    name: 'subscription-near-its-end'
    title: 'A subscription comes to a quarter of its life'
    query: loadTextContent('../queries/alert-subscription-near-its-end.kql')
    severity: 1
    frequency: 'PT5M'
    window: 'PT5M'
    lookBack: 'P2D'
    operator: 'LessThan'
    threshold: '0.25'
    enabled: true
    resolves: true
    queues: []
  }
  {
    name: 'renewal-stopped'
    title: 'No renewal run has come to its end'
    query: loadTextContent('../queries/alert-renewal-stopped.kql')
    severity: 1
    frequency: 'PT15M'
    window: 'PT${renewalAlertMinutes}M'
    lookBack: ''
    operator: 'LessThan'
    threshold: '1'
    enabled: true
    resolves: true
    queues: []
  }
  {
    name: 'renewal-failures'
    title: 'Subscriptions could not be renewed'
    query: loadTextContent('../queries/alert-renewal-failures.kql')
    severity: 2
    frequency: 'PT15M'
    window: 'PT30M'
    lookBack: ''
    operator: 'GreaterThan'
    threshold: '0'
    enabled: true
    resolves: true
    queues: []
  }
  {
    name: 'refusals'
    title: 'Many notifications are refused'
    query: loadTextContent('../queries/alert-refusals.kql')
    severity: 2
    frequency: 'PT15M'
    window: 'PT30M'
    lookBack: ''
    operator: 'GreaterThan'
    threshold: '0.05'
    enabled: true
    resolves: true
    queues: []
  }
  {
    name: 'emergency-delayed'
    title: 'An emergency could not be opened where it was received'
    query: loadTextContent('../queries/alert-emergency-delayed.kql')
    severity: 2
    frequency: 'PT15M'
    window: 'PT30M'
    lookBack: ''
    operator: 'GreaterThan'
    threshold: '0'
    enabled: true
    resolves: true
    queues: []
  }
  {
    name: 'quarantine-not-empty'
    title: 'Notifications went to quarantine'
    query: loadTextContent('../queries/alert-quarantine.kql')
    severity: 1
    frequency: 'PT15M'
    window: 'PT30M'
    lookBack: ''
    operator: 'GreaterThan'
    threshold: '0'
    enabled: true
    resolves: false
    queues: []
  }
  {
    name: 'raw-messages-wait'
    title: 'Raw messages wait for over a minute'
    query: loadTextContent('../queries/alert-raw-messages-wait.kql')
    severity: 2
    frequency: 'PT5M'
    window: 'PT30M'
    lookBack: ''
    operator: 'GreaterThan'
    threshold: '60'
    enabled: true
    resolves: true
    queues: [
      'raw-notifications'
    ]
  }
  {
    name: 'emergency-messages-wait'
    title: 'Emergency calls wait for over 10 seconds'
    query: loadTextContent('../queries/alert-raw-messages-wait.kql')
    severity: 0
    frequency: 'PT5M'
    window: 'PT30M'
    lookBack: ''
    operator: 'GreaterThan'
    threshold: '10'
    enabled: true
    resolves: true
    queues: [
      'raw-emergency'
    ]
  }
  {
    name: 'events-wait'
    title: 'Events wait for their consumer for over an hour'
    query: loadTextContent('../queries/alert-events-wait.kql')
    severity: 2
    frequency: 'PT15M'
    window: 'PT30M'
    lookBack: ''
    operator: 'GreaterThan'
    threshold: '3600'
    enabled: true
    resolves: true
    queues: []
  }
  {
    name: 'events-given-up'
    title: 'A consumer has given events up'
    query: loadTextContent('../queries/alert-events-given-up.kql')
    severity: 1
    frequency: 'PT15M'
    window: 'PT30M'
    lookBack: ''
    operator: 'GreaterThan'
    threshold: '0'
    enabled: true
    resolves: true
    queues: []
  }
  {
    name: 'receiving-slow'
    title: 'Answers to Graph take over 2.25 seconds'
    query: loadTextContent('../queries/alert-receive-slow.kql')
    severity: 1
    frequency: 'PT5M'
    window: 'PT15M'
    lookBack: ''
    operator: 'GreaterThan'
    threshold: '2250'
    enabled: true
    resolves: true
    queues: []
  }
  {
    name: 'self-test-failed'
    title: 'The self-test failed'
    query: loadTextContent('../queries/alert-self-test.kql')
    severity: 1
    frequency: 'PT15M'
    window: 'P1D'
    lookBack: ''
    operator: 'GreaterThan'
    threshold: '0'
    enabled: selfTest
    resolves: true
    queues: []
  }
  {
    name: 'daily-cap-near'
    title: 'Logs and metrics are near their daily cap'
    query: loadTextContent('../queries/alert-daily-cap.kql')
    severity: 2
    frequency: 'PT1H'
    window: 'P1D'
    lookBack: ''
    operator: 'GreaterThan'
    threshold: string(800 * dailyCapGB) // MB, four fifths of it
    enabled: dailyCapGB > 0
    resolves: true
    queues: []
  }
  {
    name: 'no-events'
    title: 'No events have been written for a while'
    query: loadTextContent('../queries/alert-silence.kql')
    severity: 2
    frequency: 'PT15M'
    window: 'PT${silenceMinutes > 0 ? silenceMinutes : 60}M'
    lookBack: ''
    operator: 'LessThan'
    threshold: '1'
    enabled: silenceMinutes > 0
    resolves: true
    queues: []
  }
  {
    name: 'certificate-near-its-end'
    title: 'The encryption certificate was not renewed'
    query: loadTextContent('../queries/alert-certificate.kql')
    severity: 1
    frequency: 'PT6H'
    window: 'P1D'
    lookBack: ''
    operator: 'GreaterThan'
    threshold: '0'
    enabled: true
    resolves: false
    queues: []
  }
]

resource people 'Microsoft.Insights/actionGroups@2023-01-01' = if (!empty(email)) {
  name: 'switchboard'
  location: 'global'
  tags: tags
  properties: {
    enabled: true
    groupShortName: 'switchboard'
    emailReceivers: [
      {
        name: 'operators'
        emailAddress: email
        useCommonAlertSchema: true
      }
    ]
  }
}

resource rules 'Microsoft.Insights/scheduledQueryRules@2026-03-01' = [for alert in alerts: {
  name: 'switchboard-${alert.name}'
  location: location
  tags: tags
  kind: 'LogAlert'
  properties: {
    displayName: alert.title
    description: '${runbookUrl}#${alert.name}'
    severity: alert.severity
    enabled: alert.enabled
    scopes: [
      workspaceId
    ]
    evaluationFrequency: alert.frequency
    windowSize: alert.window
    overrideQueryTimeRange: empty(alert.lookBack) ? null : alert.lookBack
    criteria: {
      allOf: [
        {
          query: alert.query
          metricMeasureColumn: 'Value'
          timeAggregation: alert.operator == 'LessThan' ? 'Minimum' : 'Maximum'
          dimensions: empty(alert.queues) ? [] : [
            {
              name: 'Queue'
              operator: 'Include'
              values: alert.queues
            }
          ]
          operator: alert.operator
          threshold: json(alert.threshold)
          failingPeriods: {
            numberOfEvaluationPeriods: 1
            minFailingPeriodsToAlert: 1
          }
        }
      ]
    }
    autoMitigate: alert.resolves
    muteActionsDuration: alert.resolves ? null : 'P1D'
    // A table comes into being with its first row; until then Azure would refuse the query (SEM0100). `run.py lint` has
    // Microsoft's parser look at each.
    skipQueryValidation: true
    actions: {
      actionGroups: empty(email) ? [] : [
        people.id
      ]
      customProperties: {
        runbook: '${runbookUrl}#${alert.name}'
      }
    }
  }
}]

// Graph's handshake, asked for from outside: it needs nothing but the HTTP functions, whose failure nothing else tells.
resource endpointTest 'Microsoft.Insights/webtests@2022-06-15' = {
  name: 'switchboard-endpoint'
  location: location
  tags: union(tags, {
    'hidden-link:${insightsId}': 'Resource'
  })
  kind: 'standard'
  properties: {
    SyntheticMonitorId: 'switchboard-endpoint'
    Name: 'Switchboard: the handshake'
    Enabled: true
    Kind: 'standard'
    Frequency: 900
    Timeout: 30
    RetryEnabled: true
    Locations: [
      {
        Id: 'emea-nl-ams-azr'
      }
    ]
    Request: {
      RequestUrl: '${notificationUrl}?validationToken=availability'
      HttpVerb: 'GET'
      ParseDependentRequests: false
    }
    ValidationRules: {
      ExpectedHttpStatusCode: 200
      SSLCheck: true
      ContentValidation: {
        ContentMatch: 'availability'
        IgnoreCase: false
        PassIfTextFound: true
      }
    }
  }
}

resource endpointDown 'Microsoft.Insights/metricAlerts@2018-03-01' = {
  name: 'switchboard-endpoint-down'
  location: 'global'
  tags: union(tags, {
    'hidden-link:${insightsId}': 'Resource'
    'hidden-link:${endpointTest.id}': 'Resource'
  })
  properties: {
    description: '${runbookUrl}#endpoint-down'
    severity: 0
    enabled: true
    scopes: [
      endpointTest.id
      insightsId
    ]
    evaluationFrequency: 'PT5M'
    windowSize: 'PT15M'
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.WebtestLocationAvailabilityCriteria'
      webTestId: endpointTest.id
      componentId: insightsId
      failedLocationCount: 1
    }
    autoMitigate: true
    actions: empty(email) ? [] : [
      {
        actionGroupId: people.id
      }
    ]
  }
}
