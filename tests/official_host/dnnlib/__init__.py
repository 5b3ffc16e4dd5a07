"""Stand-in for the official package of this name, written for a test."""

from .util import EasyDict
