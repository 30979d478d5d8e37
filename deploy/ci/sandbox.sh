#!/bin/sh
# Installs bubblewrap, in which the review runs a branch's code, on Debian and Ubuntu. If this fails, the job goes on: the
# review says that there is no sandbox.
restricted=kernel.apparmor_restrict_unprivileged_userns # Ubuntu's, of the namespaces that bubblewrap needs
root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

command -v bwrap || { root apt-get update -q && root apt-get install -q -y --no-install-recommends bubblewrap; }
if [ "$(sysctl -n "$restricted" 2>/dev/null)" = 1 ]; then root sysctl -q -w "$restricted=0"; fi
exit 0
