# Sourced by demo.sh and test.sh: makes a virtual environment and installs the package into it.

# prepare_environment DIRECTORY REQUIREMENT
prepare_environment() {
  local python=${PYTHON:-python3}
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "python: found $("$python" --version 2>&1), expected Python >= 3.11 (set PYTHON=/path/to/python3.11)" >&2
    return 2
  fi
  [ -x "$1/bin/python" ] || "$python" -m venv "$1"
  # shellcheck disable=SC1091
  source "$1/bin/activate"
  python -m pip install --quiet --disable-pip-version-check --editable "$2"
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu} TF_CPP_MIN_LOG_LEVEL=2 PYTHONUNBUFFERED=1
  # XLA asks for its scratch memory anew in every step; in huge pages that costs a fifth less of a CPU step.
  export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
}
