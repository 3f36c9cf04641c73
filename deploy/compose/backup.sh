#!/bin/sh
# Dumps the database every day, and keeps the dumps for some days. A dump has its name only once it is whole.
set -eu
umask 077
if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
  PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
  export PGPASSWORD
fi
while :; do
  file=/backups/nxt_mirror-$(date -u +%Y%m%dT%H%M%SZ).dump
  if pg_dump --format=custom --file="$file.part"; then
    mv "$file.part" "$file"
    echo "dumped $file"
    find /backups -name 'nxt_mirror-*.dump' -mtime "+${NXT_BACKUP_DAYS:-14}" -delete
  else
    rm -f "$file.part"
    echo 'the dump failed, it is tried again in an hour' >&2
    sleep 3600
    continue
  fi
  sleep 86400
done
