// What has to be seen by a person. Each alert leads to its section of the runbook.

param location string
param tags object
param workspaceId string
param email string
param runbookUrl string
param silenceMinutes int

// Each query answers with one row and one number, `Value`. What does not resolve by itself stays until a person closes it.
var alerts = [
  {
    name: 'subscription-near-its-end'
    title: 'A subscription has under a quarter of its life left'
    query: loadTextContent('../queries/alert-subscription-near-its-end.kql')
    severity: 1
    frequency: 'PT5M'
    window: 'P1D'
    operator: 'LessThan'
    threshold: '0.25'
    enabled: true
    resolves: true
    queues: []
  }
  {
    name: 'renewal-failures'
    title: 'Subscriptions could not be renewed'
    query: loadTextContent('../queries/alert-renewal-failures.kql')
    severity: 2
    frequency: 'PT5M'
    window: 'PT15M'
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
    frequency: 'PT5M'
    window: 'PT15M'
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
    window: 'PT15M'
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
    frequency: 'PT5M'
    window: 'PT5M'
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
    frequency: 'PT1M'
    window: 'PT10M'
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
    frequency: 'PT1M'
    window: 'PT10M'
    operator: 'GreaterThan'
    threshold: '10'
    enabled: true
    resolves: true
    queues: [
      'raw-emergency'
    ]
  }
  {
    name: 'receiving-slow'
    title: 'Answers to Graph take over 2 seconds'
    query: loadTextContent('../queries/alert-receive-slow.kql')
    severity: 1
    frequency: 'PT5M'
    window: 'PT10M'
    operator: 'GreaterThan'
    threshold: '2000'
    enabled: true
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
    operator: 'GreaterThan'
    threshold: '0'
    enabled: true
    resolves: true
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

resource rules 'Microsoft.Insights/scheduledQueryRules@2022-06-15' = [for alert in alerts: {
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
    // The tables come into being with the first row in them; until then the queries would not compile.
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
