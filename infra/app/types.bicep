@description('Every resource carries it: azd finds by it what belongs to an environment.')
@export()
type Tags = {
  'azd-env-name': string
}
