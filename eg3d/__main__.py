"""`python -m eg3d` is the `eg3d` command."""

from eg3d.cli.main import main

if __name__ == "__main__":
    main()
