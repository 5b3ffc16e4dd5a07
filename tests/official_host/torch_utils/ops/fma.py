"""Stand-in for the official module of this name, written for a test."""


def fma(a, b, c):
    return a * b + c
