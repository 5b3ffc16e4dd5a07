# `make demo` and `make test` work on a fresh machine that has Python; the second run is quick.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint gpu-check clean

demo: .venv/ready
	$(BIN)/python gen_videos.py --network=tiny-random --seeds=0-3 --grid=2x2 --trunc=0.7 --outdir=out \
		--image_mode=image_depth --depth-colors=viridis --nrr=64 --sample_mult=0.5
	@echo "out/interpolation.mp4: depth of a network with RANDOM weights: clouds and grain, seen from a moving camera."
	@echo "It proves the path from an official file to a film. For faces: $(BIN)/python gen_videos.py --outdir=out \\"
	@echo "    --trunc=0.7 --seeds=0-3 --grid=2x2 --network=/path/to/ffhq512-128.pkl"

test: .venv/ready
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8

lint: .venv/ready
	$(BIN)/ruff check .

# On a machine with a GPU: builds the plugins, compares kernels with references, measures them, writes a dated report.
gpu-check: .venv/ready
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python benchmarks/operators.py --report

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,dev]'
	touch $@

clean:
	rm -rf .venv out
