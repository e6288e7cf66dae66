"""The tests mirror the package: tests/data, tests/model, ... and what holds for all of it stands here."""
