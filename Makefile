# For people who work on Holdfast. Everything runs in .venv, which run.py makes.
.PHONY: check test fmt lock bench schemas

UV_VERSION := 0.13.9
LOCK := uv pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url --no-header \
	--no-annotate --python-version 3.11 --quiet
SAME := --constraint requirements.lock --upgrade

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

schemas:  ## The JSON Schemas of what is on the wire, after a change in wire/.
	python3 run.py test --version
	.venv/bin/python -m holdfast.wire.schemas schemas/wire

lock:  ## Newest versions that pyproject.toml allows, for every Python and platform it allows.
	tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT \
	&& python3 -m venv "$$tools" && "$$tools/bin/pip" install --quiet uv==$(UV_VERSION) \
	&& PATH="$$tools/bin:$$PATH" \
	&& $(LOCK) --upgrade --extra server --extra embedded --extra build --output-file requirements.lock \
	&& $(LOCK) $(SAME) --extra server --extra embedded --extra build --extra test --extra dev --output-file requirements-test.lock \
	&& $(LOCK) $(SAME) --extra server --output-file deploy/requirements.lock \
	&& $(LOCK) $(SAME) --extra build --output-file deploy/requirements-build.lock
