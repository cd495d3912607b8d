# make demo: two assistants against five user simulators, with the real 135M model.   make test: everything CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo

.PHONY: demo test lint clean

demo: $(VENV)/demo.stamp
	@$(BIN)/simgym matrix \
	  --assistant plain=smollm2-135m-instruct --assistant clarify=smollm2-135m-instruct+clarify \
	  --env UserSim-RolePlay-v0 --env UserSim-RolePlayOpening-v0 --env UserSim-Persona-v0 \
	  --env UserSim-FineTuned-v0 --env UserSim-Replay-v0 \
	  --scenarios chitchat -n 8 --max-turns 2 --max-new-tokens 48 --temperature 0.7 --user-max-new-tokens 112 --seed 7 -o $(RUN)

test: $(VENV)/test.stamp lint
	$(BIN)/python -m pytest

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(BIN)/python pyproject.toml constraints.txt
	@echo 'Installing into $(VENV): one to three minutes, once.'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[chitchat]'
	@touch $@

$(VENV)/test.stamp: $(BIN)/python pyproject.toml constraints.txt
	@echo 'Installing into $(VENV): one to three minutes, once.'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) runs build dist *.egg-info
