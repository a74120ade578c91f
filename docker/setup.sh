#!/bin/sh
# What the demo needs before its first request: a master key, a tenant, a credential for each provider, an API key. Run again it
# makes nothing twice. Elsewhere the master key comes from you, and is kept where this machine's disk is not.
#   CONFIG    the gateway file
#   KEY_FILE  where the API key is kept, as `extauthz key create --json` prints it
set -eu
umask 077
if [ ! -s "$EXTAUTHZ_MASTER_KEY_FILE" ]; then
    python -c 'import secrets; print(secrets.token_hex(32))' >"$EXTAUTHZ_MASTER_KEY_FILE.new"
    mv "$EXTAUTHZ_MASTER_KEY_FILE.new" "$EXTAUTHZ_MASTER_KEY_FILE"
fi
extauthz tenant show demo >/dev/null 2>&1 || extauthz tenant create demo --config "$CONFIG"
for provider in alpha beta; do
    printf 'demo-credential-of-%s' "$provider" | extauthz secret set demo "$provider" --config "$CONFIG"
done
if [ ! -s "$KEY_FILE" ]; then
    extauthz key create demo --scope chat --config "$CONFIG" --json >"$KEY_FILE.new"
    mv "$KEY_FILE.new" "$KEY_FILE"
fi
