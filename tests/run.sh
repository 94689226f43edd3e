#!/usr/bin/env bash
# Sets up what the tests need, then runs ruff, mypy and pytest.
#
#   tests/run.sh                     everything
#   tests/run.sh tests/test_fsdd.py  arguments go to pytest
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../path.sh"
cd -- "$adakd_root"

status=0
"$python" -m ruff check . || status=1
"$python" -m mypy adakd || status=1
((status == 0)) || say "tests/run.sh will fail: ruff or mypy complains above"
"$python" -m pytest -q "$@" || status=$?
exit "$status"
