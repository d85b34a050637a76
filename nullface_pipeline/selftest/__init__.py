"""Self-test of a model set on this machine, part by part."""

from nullface_pipeline.selftest.run import Selftest, run_selftest
