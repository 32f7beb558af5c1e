# The virtual environment is made once; `make clean-venv` removes it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# More workers than cores: while one waits for a program that it started, another works. The slowest tests are named at the end.
PARALLEL := --numprocesses 4 --dist loadfile --durations 30
# JAX compiles nearly every operation of these tests anew, so they run without the compiler's optimisations: a quarter faster.
JAX_TESTS := $(wildcard tests/test_layers_*.py tests/test_models_*.py tests/test_decode.py \
	tests/test_generation_beam.py tests/test_generation_forced.py tests/test_generation_logits.py tests/test_generation_sampling.py)

.PHONY: demo test test-jax lint format bench clean-venv

$(VENV)/.installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python scripts/demo.py

test: $(VENV)/.installed
	$(BIN)/python -m pytest $(PARALLEL)

test-jax: $(VENV)/.installed
	KERAS_BACKEND=jax XLA_FLAGS=--xla_backend_optimization_level=0 $(BIN)/python -m pytest $(PARALLEL) $(JAX_TESTS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	$(BIN)/python benchmarks/training_speed.py --output docs/results/training_speed.json
	$(BIN)/python benchmarks/decoding_speed.py --output docs/results/decoding_speed.json

clean-venv:
	rm -rf $(VENV)
