# `make demo` and `make test` work on a fresh machine that has Python; the second run is quick.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench gpu-check clean

demo: .venv/ready
	$(BIN)/python gen_videos.py --seeds=0-3 --grid=2x2 --trunc=0.7 --outdir=out
	$(BIN)/python gen_samples.py --seeds=3 --trunc=0.7 --outdir=out --shapes --shape-format=.ply --shape-res=192 \
		--shape-level=4 --shape-part=largest
	@echo "out/interpolation.mp4 and out/seed0003.ply: four heads of the network that ships, and the last one's shape."
	@echo "It learnt synthetic heads of 64 x 64 pixels on two CPU cores. For photographs: $(BIN)/python gen_videos.py --outdir=out \\"
	@echo "    --trunc=0.7 --seeds=0-3 --grid=2x2 --network=/path/to/ffhq512-128.pkl"

test: .venv/ready
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8

lint: .venv/ready
	$(BIN)/ruff check .

# Prints how much faster than the original's way this project works, and how exactly; twenty minutes on two cores.
bench: .venv/ready
	$(BIN)/python benchmarks/pictures.py
	$(BIN)/python benchmarks/training.py

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
