"""Posed pictures into a data set for training: `python dataset_tool.py --help`."""

from eg3d.cli.dataset import main

if __name__ == "__main__":
    main()
