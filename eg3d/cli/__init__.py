"""Commands: thin layers over the functions of eg3d, one file each."""
