"""The command line's entry point: `neuronetz-gateway`, or `python -m app`."""

from app.cli import main

if __name__ == "__main__":
    main()
