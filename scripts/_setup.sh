# Sourced by the other scripts: makes .venv from pinned versions when it is missing or out of date. Seconds otherwise.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stamp=.venv/installed-from
wanted="$(cat requirements.txt pyproject.toml | cksum) $(pwd)"
if [ ! -x .venv/bin/python ] || [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  python=""
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python="$candidate"
      break
    fi
  done
  if [ -z "$python" ]; then
    echo "raykv needs Python 3.11 or newer (with venv and pip); none was found. Set PYTHON=/path/to/python" >&2
    exit 2
  fi
  echo "Installing into .venv (about two minutes the first time) ..."
  rm -rf .venv
  "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
  echo "$wanted" > "$stamp"
fi
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 # Ray's new default; silences its notice about it
export RAY_USAGE_STATS_ENABLED=0
