"""Stand-in for the official package of this name, written for a test."""
