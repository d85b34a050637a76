"""The command as a process that can be killed, with painted pictures in place of a model."""

import sys

from nullface_pipeline.cli import main
from nullface_pipeline.dataset import engines

from .samples import SlowPainter


if __name__ == "__main__":
    if "--with-the-model" in sys.argv:
        sys.argv.remove("--with-the-model")
    else:
        engines.ShardWorker = SlowPainter  # type: ignore[misc]
    sys.argv.insert(1, "dataset")
    main()
