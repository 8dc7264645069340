# Every target sets up what it needs, in .venv: Python ≥ 3.11 and make are enough. Written for GNU make 3.81.

SEED ?= 1

.PHONY: help demo serve test check audit bench chaos soak lock clean

help:
	@echo 'make demo  [ARGS=…]   upload a file, kill -9 both sides half way, resume, compare'
	@echo 'make serve [ARGS=…]   run the service on http://127.0.0.1:8484'
	@echo 'make test  [ARGS=…]   every behaviour at small scale; ARGS go to pytest'
	@echo 'make check            lint, format, types, layers'
	@echo 'make audit            known vulnerabilities of what is locked, and its bill of materials'
	@echo 'make bench [ARGS=…]   measure against boto3, sendfile and curl'
	@echo 'make chaos [SEED=1]   what fails in production, made to fail (needs haproxy and libfaketime from Debian)'
	@echo 'make soak  [SEED=1]   every figure at full scale'
	@echo 'make lock             renew requirements/*.txt'
	@echo 'make clean            remove what these made'

demo: .venv/demo/.done
	.venv/demo/bin/uploadcore demo $(ARGS)

serve: .venv/demo/.done
	.venv/demo/bin/uploadcore serve $(ARGS)

test: .venv/test/.done
ifeq ($(strip $(ARGS)),)
	scripts/test .venv/test/bin/python
else
	.venv/test/bin/python -m pytest $(ARGS)
endif

check: .venv/check/.done
	.venv/check/bin/ruff check
	.venv/check/bin/ruff format --check
	.venv/check/bin/mypy
	.venv/check/bin/lint-imports

bench: .venv/test/.done
	.venv/test/bin/python tests/bench/run.py $(ARGS)

audit:
	scripts/audit $(ARGS)

chaos: .venv/test/.done
	.venv/test/bin/python -m tests.chaos --seed $(SEED) $(ARGS)

soak: .venv/test/.done
	.venv/test/bin/python tests/soak/run.py --seed $(SEED) $(ARGS)

lock:
	scripts/lock

clean:
	rm -rf .venv .uploadcore-demo .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache dist

# Two steps, because uv refuses --require-hashes together with -e. The lock holds hatchling, so nothing unlocked is fetched to build.
.venv/%/.done: requirements/%.txt pyproject.toml scripts/venv
	scripts/venv .venv/$* '--require-hashes -r requirements/$*.txt' '--no-deps --no-build-isolation -e .'
	@touch $@
