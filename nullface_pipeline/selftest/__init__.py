"""Whether a model set does what it should on this machine, and which part is wrong if it does not."""

from nullface_pipeline.selftest.run import Selftest, run_selftest
