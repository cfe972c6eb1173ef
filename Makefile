# For people who work on Holdfast. Everything runs in .venv, which run.py makes.
.PHONY: check test fmt lock bench

UV_VERSION := 0.13.9
LOCK := uv pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url --no-header \
	--no-annotate --upgrade --python-version 3.11 --quiet --extra server --extra embedded --extra build

check:  ## The whole gate: format, lint, types, tests.
	bash .ci/run

test:
	python3 run.py test

fmt:
	python3 run.py test --version
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench:  ## Figures, not assertions; nothing else should be running.
	python3 run.py test -n 0 -m bench -s tests/bench

lock:  ## Newest versions that pyproject.toml allows, for every Python and platform it allows.
	tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT \
	&& python3 -m venv "$$tools" && "$$tools/bin/pip" install --quiet uv==$(UV_VERSION) \
	&& PATH="$$tools/bin:$$PATH" \
	&& $(LOCK) --output-file requirements.lock \
	&& $(LOCK) --extra test --extra dev --constraint requirements.lock --output-file requirements-test.lock
