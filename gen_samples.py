"""Pictures from a network: `python gen_samples.py --help`."""

from eg3d.cli.samples import main

if __name__ == "__main__":
    main()
