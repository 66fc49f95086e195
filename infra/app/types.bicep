@description('Every resource carries it: azd finds by it what belongs to an environment.')
@export()
type Tags = {
  'azd-env-name': string
}

@description('Who gets events of some kinds on queues of its own; the name default, without kinds, ends the queues of the kinds.')
@export()
@sealed()
type Consumer = {
  @description('Lower-case letters and digits in parts joined by hyphens, no part poison.')
  @minLength(1)
  @maxLength(34)
  name: string
  @description('Keys of the catalogue, and unrecognized.')
  kinds: string[]
}

@description('An identity that reads the queues of a consumer.')
@export()
@sealed()
type ConsumerIdentity = {
  @description('The name of a consumer, or default for the queues that all kinds have.')
  consumer: string
  @description('Which of its kinds. Absent for all of them.')
  kinds: string[]?
  @description('Object id.')
  principalId: string
  @description('What it is. Absent for a managed identity or an application.')
  principalType: ('Group' | 'ServicePrincipal' | 'User')?
}

@description('Who looks after the app.')
@export()
@sealed()
type Operator = {
  @description('Object id.')
  principalId: string
  @description('What it is. Absent for a person.')
  principalType: ('Group' | 'ServicePrincipal' | 'User')?
}
