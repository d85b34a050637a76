"""`python -m nullface_pipeline` is the `nullface` command."""

from nullface_pipeline.cli import main


main()
