# Every task of the workspace. `uv run just` lists them; `just` comes with the development group.

set positional-arguments

# List the tasks
default:
    @just --list

# Install everything, and the hooks of git
setup:
    uv sync --all-packages
    uv run pre-commit install

# Run the tests, or some of them: just test packages/ssm-smr -k gate
test *args:
    uv run pytest "$@"

# Run one package's tests in a fresh environment that holds nothing else: just test-alone ssm-core
test-alone package *args:
    uv run python scripts/fresh_env.py alone "$@"

# Run the core's tests on the oldest torch and Triton that are promised to work
test-oldest *args:
    uv run python scripts/fresh_env.py oldest ssm-core "$@"

# Look for mistakes and spelling
lint:
    uv run ruff check
    uv run ruff format --check
    uv run codespell

# Put the code into its form
fmt:
    uv run ruff check --fix
    uv run ruff format

# Check the types
types:
    uv run basedpyright

# Check who may import whom, and that each package declares what it imports
contracts:
    uv run lint-imports
    uv run pytest -q tests/house/test_dependencies.py

# Build the documentation into docs/_build/html
docs:
    uv run sphinx-build -W --keep-going -b html -d docs/_build/trees docs docs/_build/html

# Time something, after checking that it is right: just bench NAME
bench name *args:
    uv run ssm bench "$@"

# Prove, measure or train on a GPU; for a machine without network, first: just gpu wheels
gpu slice *args:
    uv run python scripts/gpu.py "$@"

# What .ci/run runs
ci:
    uv run pytest

# All that and the long ones: grids, fresh environments, real data
ci-full: ci
    HYPOTHESIS_PROFILE=thorough uv run pytest -m "slow and not gpu" --timeout 7200

# Resolve anew, and write the committed twin of the result
lock *args:
    uv lock "$@"
    uv run python scripts/lock.py

# Take the public names as they are now for the frozen ones
freeze-api:
    uv run python scripts/public_api.py

# Build a wheel and a source distribution of every package into dist/
build:
    uv build --all-packages

# Start a plug-in package of your own: just new backbone NAME
new kind name *args:
    uv run ssm new "$@"
