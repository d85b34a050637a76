"""`python -m nullface_pipeline.cli`, as `accelerate launch -m` starts it."""

from nullface_pipeline.cli import main


if __name__ == "__main__":
    main()
