# One word per act. `just` alone lists them.
set shell := ["bash", "-euo", "pipefail", "-c"]

[private]
default:
    @just --list --unsorted

# start everything locally, for example: just up --demo
up *args:
    uv run neuronetz-gateway up {{ args }}

# the whole suite, or the given tests: just test tests/domain
test *args:
    uv run pytest {{ args }}

# style and formatting
lint:
    uv run ruff check .
    uv run ruff format --check .

# types, strictly
types:
    uv run mypy

# every check that runs no product code
check: lint types
    uv run lint-imports
    uv run bandit --quiet --configfile pyproject.toml --recursive app worker db domain

# tables and migrations agree, upgrades and downgrades work
migrate-check:
    uv run pytest -n0 tests/db/test_migrate.py

# the same tests with their full counts; takes long
soak *args:
    NNG_SOAK=1 uv run pytest --timeout=3600 {{ args }}

# whether tests notice a change of the code that reads, names and authorises: just mutation 'domain.keep_alive*'
mutation *args:
    uv run --group mutation python -m bench.mutation {{ args }}

# what a request costs, compared on this machine; docs/evidence lists the other benchmarks
bench *args:
    uv run python -m bench {{ args }}

# SDKs of the admin API for Python and TypeScript: just sdk, or just sdk FOLDER python
sdk folder="dist/sdk" *languages:
    uv run docs/sdk/generate {{ folder }} {{ languages }}

# fetch what the pages at /docs are made of again, and check it
vendor-docs:
    docs/pages/vendor

# the documentation as a site in dist/site; a broken link fails
site *args:
    NO_MKDOCS_2_WARNING=1 uv run --group site mkdocs build --strict {{ args }}

# what production is made of, as CycloneDX in dist/sbom.json
sbom:
    mkdir -p dist
    uv run --group supply cyclonedx-py requirements requirements.lock --of JSON --output-file dist/sbom.json

# write docs/configuration.md anew after a change of a setting or of .env.sample
docs-settings:
    uv run python -m tests.support.configuration_page

# write requirements.lock anew after a change of pyproject.toml
lock:
    uv pip compile pyproject.toml --upgrade --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-annotate --custom-compile-command "just lock" --output-file requirements.lock

# what the build server runs, in the same order
ci:
    .ci/run
