"""Stand-in for the official module of this name, written for a test: the two names that embedded sources use."""

import importlib


class EasyDict(dict):
    """Items as attributes."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name, value):
        self[name] = value


def construct_class_by_name(*args, class_name, **kwargs):
    module, _, name = class_name.rpartition(".")
    return getattr(importlib.import_module(module), name)(*args, **kwargs)
