#!/usr/bin/env bash
# install.sh PYTHON REQUIREMENT...: pip install with the pinned versions, shown as one line of progress.
# pip's own output, warnings included, is shown only if it fails.
set -uo pipefail
python=$1
shift
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if [ -t 1 ]; then replace='\r\033[K' end=''; else replace='' end='\n'; fi # on a terminal each line replaces the last

progress() {
  while IFS= read -r line; do
    printf '%s\n' "$line" >>"$log"
    case $line in
      Processing* | *Downloading* | *'Using cached'*)
        line=${line##*/} line=${line##*ing } line=${line##*cached } # torch-2.14.1-cp311-….whl (530.1 MB)
        [ -z "$replace" ] || printf "$replace  fetching %s" "${line%%-*}"
        ;;
      'Installing collected packages:'*)
        commas=${line//[!,]/}
        printf "$replace  installing %s packages$end" $((${#commas} + 1))
        ;;
    esac
  done
}

if "$python" -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt "$@" 2>&1 | progress; then
  printf "$replace  installed in %s s\n" $SECONDS
else
  printf "$replace"
  cat "$log" >&2
  exit 1
fi
