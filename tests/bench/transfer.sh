#!/usr/bin/env bash
# Delivery measured against curl from nginx, rsync over ssh, and a bare TLS pump, all on loopback in one run:
#   bash tests/bench/transfer.sh [--quick] [--only NAME[,NAME]]
# Installs nginx, curl, rsync, openssh, b3sum and iproute2 from Debian where they are absent and may be installed, and says what it skips.
# HUITONG_BENCH_DIR is where the files lie; without it they lie in memory (/dev/shm).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

missing=()
PATH="$PATH:/usr/sbin"
for pair in nginx:nginx-light curl:curl rsync:rsync sshd:openssh-server ssh-keygen:openssh-client openssl:openssl b3sum:b3sum ip:iproute2; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
if [ "${#missing[@]}" -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1 ||
      echo "SKIPPED: could not install ${missing[*]}" >&2
    # Debian starts what it installs; the bench runs its own.
    { service nginx stop && service ssh stop; } >/dev/null 2>&1 || true
  else
    echo "SKIPPED where they are needed, not installed: ${missing[*]}" >&2
  fi
fi

cargo build --release --locked --bin huitong
exec cargo bench --locked -p huitong-tests --bench transfer -- "$@"
