#!/usr/bin/env bash
# Checks what is in deploy/ as far as that goes without a container engine or a running systemd.
#   deploy/check.sh BINARY [CI_FILE...]
# BINARY   an existing program for the unit to start; if it is named `huitong`, its options are compared too
# CI_FILE  where CI's commands stand; default: .github/workflows/*.y*ml .gitlab-ci.yml ci.sh ci/*.sh, those that exist
# Exit codes: 0 nothing is wrong (read the lines that say SKIPPED), 1 something is wrong, 2 wrong usage.
set -uo pipefail
shopt -s nullglob

if [ $# -lt 1 ] || [ ! -x "$1" ] || [ -d "$1" ]; then
  echo "usage: deploy/check.sh BINARY [CI_FILE...]; BINARY must be an executable file" >&2
  exit 2
fi
binary=$(realpath "$1")
shift
ci_files=()
for file in "$@"; do ci_files+=("$(realpath -m "$file")"); done
cd "$(dirname "$(realpath "$0")")/.." || exit 2
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT

failures=0
skips=0
ok() { echo "ok       $*"; }
fail() { echo "FAIL     $*"; failures=$((failures + 1)); }
skipped() { echo "SKIPPED  $*"; skips=$((skips + 1)); }

# check WHAT CONDITION...: one line about WHAT, good or bad.
check() {
  local what=$1
  shift
  if "$@"; then ok "$what"; else fail "$what"; fi
}

# --- systemd -----------------------------------------------------------------------------------------------------

unit_starts=$(sed -n 's/^ExecStart=//p' deploy/huitong.service)

check_unit() {
  check "unit: starts /usr/bin/huitong serve --config /etc/huitong/node.toml" \
    [ "$unit_starts" = "/usr/bin/huitong serve --config /etc/huitong/node.toml" ]
  if ! command -v systemd-analyze >/dev/null; then
    skipped "unit: systemd-analyze is not installed, so the unit file was not verified"
    return
  fi
  local copy=$scratch/huitong.service report status
  sed "s|^ExecStart=/usr/bin/huitong |ExecStart=$binary |" deploy/huitong.service >"$copy"
  # An unknown key is only a warning there, with status 0: whatever it prints about our unit counts.
  report=$(systemd-analyze verify --man=no --recursive-errors=no "$copy" 2>&1)
  status=$?
  [ -z "$report" ] || echo "$report"
  check "unit: systemd-analyze verify has nothing to say" [ "$status$report" = 0 ]
  if ! systemd-analyze --help 2>/dev/null | grep -q -- --threshold; then
    skipped "unit: this systemd-analyze cannot rate a unit file offline"
    return
  fi
  # Tenths of a point out of 100; lower is tighter.
  report=$(systemd-analyze security --no-pager --offline=true --threshold=25 "$copy" 2>&1)
  status=$?
  [ "$status" -eq 0 ] || grep -v '✓' <<<"$report"
  check "unit: exposure is at most 2.5 of 10 (systemd-analyze security)" [ "$status" -eq 0 ]
}

check_user() {
  if ! command -v systemd-sysusers >/dev/null; then
    skipped "user: systemd-sysusers is not installed, so huitong.sysusers was not tried"
    return
  fi
  mkdir -p "$scratch/root/etc"
  local report
  report=$(systemd-sysusers --root="$scratch/root" "$PWD/deploy/huitong.sysusers" 2>&1)
  local user
  user=$(sed -n 's/^User=//p' deploy/huitong.service)
  if ! grep -qs "^$user:" "$scratch/root/etc/passwd"; then echo "$report"; fi
  check "user: huitong.sysusers makes the unit's user, $user" grep -qs "^$user:" "$scratch/root/etc/passwd"
}

# --- Dockerfile --------------------------------------------------------------------------------------------------

# The instructions, one to a line, without comments.
instructions=$(grep -v '^[[:space:]]*#' deploy/Dockerfile | sed -e ':a' -e '/\\$/{N;s/\\\n[[:space:]]*//;ba}')

# instruction NAME: the arguments of every such instruction, a line each.
instruction() { sed -n "s/^$1[[:space:]]\{1,\}//p" <<<"$instructions"; }

image_binary=$(instruction ENTRYPOINT | tr -d '[]" ')

# The paths that COPY takes from the repository, one to a line.
copied_sources() { instruction COPY | grep -v -e '--from=' | awk '{for (i = 1; i < NF; i++) print $i}'; }

is_copied() {
  local source
  while read -r source; do
    case $1/ in "$source"/*) return 0 ;; esac
  done < <(copied_sources)
  return 1
}

check_dockerfile() {
  local source
  while read -r source; do
    check "Dockerfile: COPY source $source exists" [ -e "$source" ]
  done < <(copied_sources)

  local member
  while read -r member; do
    check "Dockerfile: workspace member $member is copied" is_copied "$member"
  done < <(sed -n '/^members = \[/,/^\]/p' Cargo.toml | grep -o '"[^"]*"' | tr -d '"')

  local rust_version tags
  rust_version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  check "Dockerfile: builds with the workspace's Rust, $rust_version" \
    grep -q "^rust:$rust_version-" <<<"$(instruction FROM)"
  tags=$(instruction FROM | grep -o -E 'bookworm|trixie|forky' | sort -u | wc -l)
  check "Dockerfile: both stages use one Debian release" [ "$tags" -eq 1 ]

  local step
  while read -r step; do
    check "Dockerfile: RUN step is valid shell: ${step:0:60}" sh -n -c "$step"
  done < <(instruction RUN)

  local built=target/release/${build_command##*--bin }
  check "Dockerfile: what the build step makes, $built, becomes $image_binary" \
    grep -q -- "^--from=build .*/$built $image_binary\$" <<<"$(instruction COPY)"
  check "Dockerfile: does not run as root" grep -q -E '^[a-z]' <<<"$(instruction USER | tail -n 1 | grep -v -w root)"
  check "Dockerfile: starts what the unit starts" \
    [ "$image_binary $(instruction CMD | tr -d '[]",')" = "$unit_starts" ]
}

build_command=$(instruction RUN | grep '^cargo ')

check_build_command() {
  check "Dockerfile: builds with cargo, in one step" [ "$(grep -c . <<<"$build_command")" -eq 1 ]
  # The brackets make a pattern of each plain name, so that a file that is not there drops out.
  [ ${#ci_files[@]} -gt 0 ] || ci_files=(.github/workflows/*.y*ml .gitlab-ci.ym[l] ci.s[h] ci/*.sh)
  if [ ${#ci_files[@]} -eq 0 ]; then
    skipped "build command: found no CI file to compare with; name it after BINARY"
    return
  fi
  # Outside comments; the command may be followed by a separator, not by more options.
  if cat -- "${ci_files[@]}" | grep -v '^[[:space:]]*#' | grep -q -E -- "${build_command//./\\.}[[:space:]]*([;&|\"')]|\$)"; then
    ok "build command: CI runs it too: $build_command"
  else
    fail "build command: CI (${ci_files[*]}) does not run the Dockerfile's: $build_command"
  fi
}

# --- compose.yaml ------------------------------------------------------------------------------------------------

check_compose() {
  if ! python3 -c 'import yaml' 2>/dev/null; then
    skipped "compose: python3 with the yaml module is not installed, so compose.yaml was not read"
    return
  fi
  local line
  while IFS= read -r line; do
    case $line in
    "ok "*) ok "compose: ${line#ok }" ;;
    *) fail "compose: ${line#fail }" ;;
    esac
  done < <(python3 deploy/check_compose.py "$scratch/commands" "$image_binary" <<<"$instructions" 2>&1)
}

# --- the binary's own options ------------------------------------------------------------------------------------

# Each line of the file names a command and the options it is given.
check_options() {
  if [ "$(basename "$binary")" != huitong ]; then
    skipped "options: BINARY is not huitong, so the commands used in deploy/ were not compared with its help"
    return
  fi
  echo "${unit_starts#* }" >>"$scratch/commands"
  local words word option help
  while read -r -a words; do
    local command=() options=()
    for word in "${words[@]}"; do
      case $word in
      --*) options+=("$word") ;;
      *) [ ${#options[@]} -gt 0 ] || command+=("$word") ;;
      esac
    done
    if ! help=$("$binary" "${command[@]}" --help 2>&1); then
      fail "options: there is no command: huitong ${command[*]}"
      continue
    fi
    for option in "${options[@]}"; do
      check "options: huitong ${command[*]} knows $option" grep -q -E -- "(^|[ ,])$option([ =,]|\$)" <<<"$help"
    done
  done < <(sort -u "$scratch/commands")
}

check_unit
check_user
check_dockerfile
check_build_command
check_compose
check_options
echo "deploy: $failures wrong, $skips skipped"
[ "$failures" -eq 0 ]
