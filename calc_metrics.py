"""How good a network is: `python calc_metrics.py --help`."""

from eg3d.cli.metrics import main

if __name__ == "__main__":
    main()
