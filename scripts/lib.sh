# Sourced by the other scripts: where things are kept, and how packages are installed.
set -euo pipefail
export TRIERARCH_CACHE=${TRIERARCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trierarch}
TOOLS=$TRIERARCH_CACHE/tools
say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# apt_install PACKAGE...: installs what dpkg does not know as installed, and says so.
apt_install() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  say "installing ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null 2>&1 ||
    { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null; } ||
    die "cannot install ${missing[*]}: apt-get install ${missing[*]}"
}
