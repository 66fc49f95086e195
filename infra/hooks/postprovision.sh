#!/bin/sh
# What a template cannot make: the encryption certificate, the client state, and the desired state in its container.
# azd runs this after each `azd provision`. What exists is left as it is, except for the desired state, which is
# uploaded anew. Needs the Azure CLI, logged in.
set -eu

hooks=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$hooks/../.." && pwd)

for name in AZURE_KEY_VAULT_NAME AZURE_STORAGE_ACCOUNT AZURE_FUNCTION_ID AZURE_IDENTITY_PRINCIPAL_ID CERTIFICATE_NAME; do
    if ! printenv "$name" >/dev/null; then
        echo "$name is not set: run this through azd (azd hooks run postprovision)" >&2
        exit 2
    fi
done

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Runs the Azure CLI, again and again for ten minutes while it is refused: a role takes some time to be known everywhere.
patiently() {
    tries=0
    until az "$@" 2>"$scratch/error"; do
        tries=$((tries + 1))
        if [ "$tries" -ge 40 ] || ! grep -qiE 'forbidden|not authorized|permission' "$scratch/error"; then
            cat "$scratch/error" >&2
            return 1
        fi
        [ "$tries" -gt 1 ] || echo "Waiting until the new roles are in effect ..." >&2
        sleep 15
    done
}

found=$(patiently keyvault certificate list --vault-name "$AZURE_KEY_VAULT_NAME" \
    --query "[?name=='$CERTIFICATE_NAME'].name" --output tsv)
if [ -z "$found" ]; then
    echo "Creating the certificate $CERTIFICATE_NAME"
    patiently keyvault certificate create --vault-name "$AZURE_KEY_VAULT_NAME" --name "$CERTIFICATE_NAME" \
        --policy "@$hooks/certificate-policy.json" --output none
fi

found=$(patiently keyvault secret list --vault-name "$AZURE_KEY_VAULT_NAME" \
    --query "[?name=='client-state'].name" --output tsv)
if [ -z "$found" ]; then
    echo "Creating the client state"
    umask 077
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$scratch/client-state"
    # The current one comes last: as long as it is missing, the next run makes both.
    for secret in client-state-previous client-state; do
        patiently keyvault secret set --vault-name "$AZURE_KEY_VAULT_NAME" --name "$secret" \
            --file "$scratch/client-state" --encoding utf-8 --output none
    done
fi

# The platform looks up references to Key Vault once a day by itself.
patiently rest --method post --output none \
    --url "$AZURE_FUNCTION_ID/config/configreferences/appsettings/refresh?api-version=2022-03-01"

if [ -f "$root/subscriptions.toml" ]; then
    echo "Uploading subscriptions.toml"
    patiently storage blob upload --auth-mode login --account-name "$AZURE_STORAGE_ACCOUNT" --container-name config \
        --name subscriptions.toml --file "$root/subscriptions.toml" --overwrite --output none
else
    echo "There is no subscriptions.toml yet: copy subscriptions.sample.toml, then azd hooks run postprovision"
fi

echo "To grant the Graph permissions that subscriptions.toml needs, as an administrator of the tenant:"
echo "  .venv/bin/python -m infra.graph_permissions --identity $AZURE_IDENTITY_PRINCIPAL_ID"
