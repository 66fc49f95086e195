# What a template cannot make: the encryption certificate, the client state, and the desired state in its container.
# azd runs this after each `azd provision`. What exists is left as it is, except for the desired state, which is
# uploaded anew. Needs the Azure CLI, logged in.
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
$PSNativeCommandUseErrorActionPreference = $false

$root = Split-Path -Parent (Split-Path -Parent $PSScriptRoot)

foreach ($name in 'AZURE_KEY_VAULT_NAME', 'AZURE_STORAGE_ACCOUNT', 'AZURE_FUNCTION_ID', 'AZURE_IDENTITY_PRINCIPAL_ID', 'CERTIFICATE_NAME') {
    if (-not [Environment]::GetEnvironmentVariable($name)) {
        [Console]::Error.WriteLine("$name is not set: run this through azd (azd hooks run postprovision)")
        exit 2
    }
}

$vault = $env:AZURE_KEY_VAULT_NAME
$scratch = Join-Path ([IO.Path]::GetTempPath()) ([Guid]::NewGuid())
New-Item -ItemType Directory -Path $scratch | Out-Null

# Runs the Azure CLI, again and again for ten minutes while it is refused: a role takes some time to be known everywhere.
function Invoke-Patiently {
    for ($tries = 1; ; $tries++) {
        $output = & az @args 2> (Join-Path $scratch 'error')
        if ($LASTEXITCODE -eq 0) {
            return $output
        }
        $message = Get-Content -Raw (Join-Path $scratch 'error')
        if ($tries -ge 40 -or $message -notmatch 'forbidden|not authorized|permission') {
            throw $message
        }
        if ($tries -eq 1) {
            Write-Host 'Waiting until the new roles are in effect ...'
        }
        Start-Sleep -Seconds 15
    }
}

try {
    $found = Invoke-Patiently keyvault certificate list --vault-name $vault `
        --query "[?name=='$env:CERTIFICATE_NAME'].name" --output tsv
    if (-not $found) {
        Write-Host "Creating the certificate $env:CERTIFICATE_NAME"
        $policy = Join-Path $PSScriptRoot 'certificate-policy.json'
        Invoke-Patiently keyvault certificate create --vault-name $vault --name $env:CERTIFICATE_NAME `
            --policy "@$policy" --output none
    }

    $found = Invoke-Patiently keyvault secret list --vault-name $vault `
        --query "[?name=='client-state'].name" --output tsv
    if (-not $found) {
        Write-Host 'Creating the client state'
        $file = Join-Path $scratch 'client-state'
        $bytes = [Security.Cryptography.RandomNumberGenerator]::GetBytes(32)
        [IO.File]::WriteAllText($file, [Convert]::ToHexString($bytes).ToLowerInvariant())
        # The current one comes last: as long as it is missing, the next run makes both.
        foreach ($secret in 'client-state-previous', 'client-state') {
            Invoke-Patiently keyvault secret set --vault-name $vault --name $secret `
                --file $file --encoding utf-8 --output none
        }
    }

    # The platform looks up references to Key Vault once a day by itself.
    Invoke-Patiently rest --method post --output none `
        --url "$env:AZURE_FUNCTION_ID/config/configreferences/appsettings/refresh?api-version=2022-03-01"

    $desired = Join-Path $root 'subscriptions.toml'
    if (Test-Path $desired) {
        Write-Host 'Uploading subscriptions.toml'
        Invoke-Patiently storage blob upload --auth-mode login --account-name $env:AZURE_STORAGE_ACCOUNT --container-name config `
            --name subscriptions.toml --file $desired --overwrite --output none
    }
    else {
        Write-Host 'There is no subscriptions.toml yet: copy subscriptions.sample.toml, then azd hooks run postprovision'
    }

    Write-Host 'To grant the Graph permissions that subscriptions.toml needs, as an administrator of the tenant:'
    Write-Host "  .venv\Scripts\python -m infra.graph_permissions --identity $env:AZURE_IDENTITY_PRINCIPAL_ID"
}
finally {
    Remove-Item -Recurse -Force $scratch
}
