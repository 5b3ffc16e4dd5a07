# `make demo` and `make test` work on a fresh machine that has Python; the second run is quick.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/ready
	$(BIN)/python gen_videos.py --network=tiny-random --seeds=0-3 --grid=2x2 --trunc=0.7 --outdir=out \
		--image_mode=image_depth --depth-colors=viridis --nrr=64 --sample_mult=0.5
	@echo "out/interpolation.mp4: depth of a network with RANDOM weights: clouds and grain, seen from a moving camera."
	@echo "It proves the path from an official file to a film. For faces: $(BIN)/python gen_videos.py --outdir=out \\"
	@echo "    --trunc=0.7 --seeds=0-3 --grid=2x2 --network=/path/to/ffhq512-128.pkl"

test: .venv/ready
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,dev]'
	touch $@

clean:
	rm -rf .venv out
