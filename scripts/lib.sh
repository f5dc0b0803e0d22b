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

KUBERNETES=1.37.2
KUBERNETES_VERSION=k8s.io/component-base/version
# The linker's flags that have a program of Kubernetes say its version.
KUBERNETES_LDFLAGS="-X $KUBERNETES_VERSION.gitVersion=v$KUBERNETES -X $KUBERNETES_VERSION.gitMajor=1 -X $KUBERNETES_VERSION.gitMinor=${KUBERNETES:2:2}"

# kubernetes_module FOLDER PACKAGE: makes FOLDER, and goes there, a Go module in which PACKAGE of Kubernetes can be built: it
# takes the repository's own modules from where they are published. Go 1.26 or newer; GOFLAGS=-p=1 makes builds gentler.
kubernetes_module() {
  local module; module=$(go mod download -json "k8s.io/kubernetes@v$KUBERNETES" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
  [ -n "$module" ] || die "cannot download k8s.io/kubernetes@v$KUBERNETES"
  mkdir -p "$1"; cd "$1"
  { printf 'module built\n\n%s\n\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$(grep '^go ' "$module")" "$KUBERNETES"
    sed -n "s#^[[:space:]]*\([^ ]*\) => \./staging/.*#\t\1 => \1 v0${KUBERNETES#1}#p" "$module"; echo ')'; } > go.mod
  printf '//go:build tools\n\npackage tools\n\nimport _ "%s"\n' "$2" > tools.go
  export GOFLAGS="${GOFLAGS:-} -mod=mod"
  go mod tidy -e >tidy.log 2>&1 || die "go mod tidy: see $1/tidy.log"
}
