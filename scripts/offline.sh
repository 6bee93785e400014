#!/usr/bin/env bash
# Runs a command in a network namespace of its own, in which only loopback is up. Fails if the command fails, and also if
# anything in it tried to reach another address: the kernel counts what it had no route for. Needs root and iproute2.
set -euo pipefail
if [[ ${1:-} != --inside ]]; then
    exec unshare --net --mount "$0" --inside "$@"
fi
shift
ip link set lo up
# By a UDP socket to this address, to which it sends nothing, Chromium learns whether there is IPv6. That is no attempt.
ip -6 route add unreachable 2001:4860:4860::8888
hosts=$(mktemp)
# torch's sockets ask for the name of loopback in this form, which would otherwise be looked up at a name server. For a
# new work pool Prefect's server asks GitHub for the types there are, and takes its own list where nothing answers.
cat /etc/hosts - > "$hosts" << END
::ffff:127.0.0.1 localhost
127.0.0.1 raw.githubusercontent.com
END
mount --bind "$hosts" /etc/hosts
# uv, npm and pip take what an earlier run or docs/tools.md has kept, and ask no index.
export UV_OFFLINE=1 npm_config_offline=true PIP_NO_INDEX=1 PIP_FIND_LINKS="$PWD/.work/test-cache/packages"
status=0
"$@" || status=$?
# A name that is looked up counts too, unless its server is on loopback.
attempts=$(awk '$1 == "Ip:" { if (!column) { for (i = 2; i <= NF; i++) if ($i == "OutNoRoutes") column = i }
                              else sum += $column }
                $1 == "Ip6OutNoRoutes" { sum += $2 } END { print sum + 0 }' /proc/net/snmp /proc/net/snmp6)
echo "attempts to reach another address: $attempts"
((attempts == 0)) || status=1
exit "$status"
