"""Trains a generator on posed pictures: `python train.py --help`."""

from eg3d.cli.train import main

if __name__ == "__main__":
    main()
