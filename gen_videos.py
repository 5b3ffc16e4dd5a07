"""Films from a network: `python gen_videos.py --help`."""

from eg3d.cli.videos import main

if __name__ == "__main__":
    main()
